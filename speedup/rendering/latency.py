"""An estimate of how long forwards take, as reports show it beside their counts."""

from __future__ import annotations

from attrs import frozen

from speedup.rendering.counts import change


@frozen
class LayerTime:
    """Seconds that the calls of one module take in one forward, in the model and in the small one."""

    path: str
    before: float
    after: float


@frozen
class LatencyEstimate:
    """How long a forward takes before and after, put together from its calls; `estimate_latency` makes it.

    Attributes:
        layers: each module with calls of its own, in the order of first use.
        conditions: where and how it was measured, in words.
        left_out: operators that cannot be called by themselves; they count as nothing.
    """

    layers: tuple[LayerTime, ...]
    conditions: str
    left_out: tuple[str, ...] = ()

    @property
    def before(self) -> float:
        """Seconds of a forward of the model."""
        return sum(layer.before for layer in self.layers)

    @property
    def after(self) -> float:
        """Seconds of a forward of the small model."""
        return sum(layer.after for layer in self.layers)

    @property
    def microseconds(self) -> tuple[int, int]:
        """Of a forward, before and after."""
        return round(1e6 * self.before), round(1e6 * self.after)

    def __str__(self) -> str:
        """What a forward takes, and the ten layers that take most of the small one's."""
        total = f"{change(*self.microseconds, milliseconds)} ms per forward, estimated from its calls"
        most = sorted(self.layers, key=lambda layer: -layer.after)[:10]
        width = max((len(layer.path) for layer in most), default=0)
        lines = [f"  {layer.path:<{width}}  {_layer(layer)}" for layer in most]
        without = [f"without {', '.join(self.left_out)}"] if self.left_out else []
        return "\n".join([total, *lines, *without, self.conditions])


def milliseconds(microseconds: int) -> str:
    """Three digits of them."""
    value = microseconds / 1e3
    return f"{value:,.0f}" if value >= 99.95 else f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"


def _layer(layer: LayerTime) -> str:
    return change(round(1e6 * layer.before), round(1e6 * layer.after), milliseconds)
