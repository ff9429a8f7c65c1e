"""What came out of measuring: the times of each layer with each kernel, and what was chosen."""

from __future__ import annotations

from math import prod
from typing import Final

from attrs import field, frozen

from speedup.sparse.machine import Machine

DENSE: Final = "dense"


@frozen
class Measured:
    """Seconds of one call of a layer, or of the model: the median, and quartiles."""

    median: float
    low: float
    high: float


@frozen
class Candidate:
    """A kernel for a layer: the extent of its blocks, whether rows and columns are put in order, its time."""

    kernel: str
    side: int
    is_ordered: bool
    seconds: Measured

    def __str__(self) -> str:
        """In a few words."""
        order = ", ordered" if self.is_ordered else ""
        return f"{self.kernel} {self.side} x {self.side}{order}" if self.side > 1 else self.kernel


@frozen
class LayerChoice:
    """One layer of the small model with zeros in its weight: what was measured, and what was chosen.

    `layer` describes it, `zeros` is the share of its weight that is zero, `pattern` follows from where.
    `calls` is how often one forward calls it. `dense` is its time as it is, `taken` the number of the
    candidate that is taken, None where it stays dense; `why` says why then.
    """

    path: str
    layer: str
    shape: tuple[int, ...]
    zeros: float
    pattern: int
    calls: int = 0
    dense: Measured | None = None
    candidates: tuple[Candidate, ...] = ()
    taken: int | None = None
    why: str = ""

    @property
    def chosen(self) -> Candidate | None:
        """What is taken in place of the dense product."""
        return None if self.taken is None else self.candidates[self.taken]

    @property
    def best(self) -> Candidate | None:
        """The fastest that was measured, taken or not."""
        return min(self.candidates, key=lambda one: one.seconds.median, default=None)

    @property
    def kernel(self) -> str:
        """The name of what is taken."""
        return DENSE if self.chosen is None else str(self.chosen)

    @property
    def seconds(self) -> float:
        """Of all its calls in one forward, as it is."""
        return 0.0 if self.dense is None else self.dense.median * self.calls


@frozen
class Errors:
    """Largest errors of outputs against the same computed in float64, relative to the largest output."""

    chosen: float
    dense: float


@frozen
class Measurements:
    """What `Choices` consist of.

    `model` is the class of the planned model, `machine` where it was measured, `inputs` the shapes of the
    tensors that it was measured with. `whole` are the times of a forward of the small model with no sparse
    kernel and with those chosen, `errors` those of its outputs; None where they were not measured.
    """

    model: str
    machine: Machine
    threads: int
    dtype: str
    inputs: tuple[tuple[int, ...], ...]
    rounds: int
    layers: tuple[LayerChoice, ...]
    whole: tuple[Measured, Measured] | None = None
    errors: Errors | None = None
    notes: tuple[str, ...] = ()
    is_checked: bool = field(default=True, eq=False)

    @property
    def chosen(self) -> tuple[LayerChoice, ...]:
        """The layers that get a sparse kernel."""
        return tuple(layer for layer in self.layers if layer.chosen is not None)

    @property
    def verdict(self) -> str:
        """How much of the weights is zero, and how many layers gain, in one line."""
        if not self.layers:
            return "measured: no layer has a weight with single zeros that a sparse kernel could take"
        sizes = [prod(layer.shape) for layer in self.layers]
        zero = sum(n * layer.zeros for n, layer in zip(sizes, self.layers, strict=True)) / max(1, sum(sizes))
        measured = sum(bool(layer.candidates) for layer in self.layers)
        gain = f"measured: {len(self.chosen)} of {_layers(measured)} gain{'s' * (measured == 1)}"
        if self.whole is not None:
            before, after = self.whole
            gain += f", the model {before.median / after.median:.2f} times as fast"
        return f"unstructured: {zero:.0%} of the weights of {_layers(len(self.layers))} are zero; {gain}"


def _layers(count: int) -> str:
    return f"{count} layer{'' if count == 1 else 's'}"
