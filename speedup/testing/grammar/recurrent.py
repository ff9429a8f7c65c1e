"""Recurrent layers over tokens, and what reads their outputs or their last states."""

from __future__ import annotations

from hypothesis import strategies as st

from speedup.testing.grammar.site import BlockSite, Production, Shape, channel_counts, pick
from speedup.testing.modules import LastState, Recurrent, Stepped, Translator
from speedup.testing.spec import Spec


def _kind(draw: st.DrawFn) -> dict[str, object]:
    kind = pick(draw, "gru", "lstm", "tanh", "gru", "lstm", "relu")
    return {} if kind == "gru" else {"kind": kind}


def _options(draw: st.DrawFn) -> dict[str, object]:
    options = _kind(draw)
    if draw(st.booleans()):
        options["layers"] = 2
    if draw(st.booleans()):
        options["bidirectional"] = True
    if pick(draw, False, False, True):
        options["bias"] = False
    if pick(draw, False, False, True):
        options["batch_first"] = False
    return options


def _outputs(draw: st.DrawFn, site: BlockSite) -> Spec:
    return Spec.of(Recurrent, site.shape.channels, draw(channel_counts()), **_options(draw))


def _translator(draw: st.DrawFn, site: BlockSite) -> Spec:
    layers: dict[str, object] = {"layers": 2} if draw(st.booleans()) else {}
    return Spec.of(Translator, site.shape.channels, draw(channel_counts()), **_kind(draw), **layers)


def _stepped(draw: st.DrawFn, site: BlockSite) -> Spec:
    bias: dict[str, object] = {} if draw(st.booleans()) else {"bias": False}
    return Spec.of(Stepped, site.shape.channels, draw(channel_counts()), **_kind(draw), **bias)


def last_state(draw: st.DrawFn, shape: Shape) -> Spec:
    """The last states of a recurrent layer, which are a vector."""
    return Spec.of(LastState, shape.channels, draw(channel_counts()), **_options(draw))


RECURRENTS = (
    Production(_outputs),
    Production(_outputs),
    Production(_translator),
    Production(_stepped),
)
