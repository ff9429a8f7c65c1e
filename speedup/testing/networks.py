"""The strategy `networks()` and what turns a drawn network into a model and inputs for it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Literal

import attrs
import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from speedup.testing.grammar.chain import draw_blocks, draw_opening
from speedup.testing.grammar.compositions import adapter
from speedup.testing.grammar.site import Layout, Shape, Site, pick, result_sizes
from speedup.testing.grammar.transitions import TRANSITIONS
from speedup.testing.modules import (
    CrossAttention,
    EncoderDecoder,
    Film,
    Merge,
    Net,
    Siamese,
    TiedLanguageModel,
    TwoInputNet,
)
from speedup.testing.spec import Spec, sequential
from speedup.testing.state import enliven

MOST_BLOCKS = 8
VOCABULARY = 7

Family = Literal["image", "sequence", "other", "pair"]
FAMILIES: tuple[Family, ...] = ("image", "sequence", "other", "pair")


@attrs.frozen
class Input:
    """One input: its sizes without the batch; with a vocabulary, integers below it."""

    sizes: tuple[int, ...]
    vocabulary: int | None = None


@attrs.frozen(cache_hash=True)
class Network:
    """A whole network as a value: what goes in, and the constructor call that makes the module."""

    inputs: tuple[Input, ...]
    module: Spec


def build(network: Network, seed: int) -> nn.Module:
    """The network in float64 and eval mode, with lively weights; equal arguments give equal models."""
    with torch.random.fork_rng(devices=[]):
        model = network.module.build()
    return lively(model, network.inputs, seed)


def lively(model: nn.Module, inputs: tuple[Input, ...], seed: int) -> nn.Module:
    """Turn `model` in place into float64 and eval mode, its state made from `seed`, parts of it frozen."""
    generator = torch.Generator().manual_seed(seed)
    model = model.double().eval()
    enliven(model, sample_inputs(inputs, 4, seed + 1), generator)
    for index, parameter in enumerate(model.parameters()):
        parameter.requires_grad_((seed >> index % 8) & 1 == 0)
    return model


def sample_inputs(inputs: tuple[Input, ...], batch: int, seed: int = 0) -> tuple[Tensor, ...]:
    """Random inputs of that batch size; equal arguments give equal inputs."""
    generator = torch.Generator().manual_seed(seed)
    return tuple(_sample(given, batch, generator) for given in inputs)


def _sample(given: Input, batch: int, generator: torch.Generator) -> Tensor:
    if given.vocabulary is not None:
        return torch.randint(given.vocabulary, (batch, *given.sizes), generator=generator)
    return torch.randn((batch, *given.sizes), dtype=torch.float64, generator=generator)


@functools.lru_cache(maxsize=1 << 7)
def skeleton(network: Network) -> nn.Module:
    """A module of the network's names and shapes, to be read only."""
    with torch.random.fork_rng(devices=[]):
        return network.module.build()


@st.composite
def networks(draw: st.DrawFn, family: Family | None = None, longest: int = MOST_BLOCKS) -> Network:
    """Networks of one family, or of any, with at most `longest` blocks between opening and head.

    Families exist because Hypothesis likes to vary an example that it has; a test that asks for
    each family in turn sees more kinds of network in the same number of examples.
    """
    chosen: Family = pick(draw, *FAMILIES) if family is None else family
    inputs, opening, shape = pick(draw, *_FRONTS[chosen])(draw)
    blocks, shape = draw_blocks(draw, Site(shape), longest)
    head = _draw_head(draw, shape) if draw(st.booleans()) else ()
    if len(inputs) == 1:
        return Network(inputs, _draw_net(draw, (opening, *blocks, *head)))
    return Network(inputs, Spec.of(TwoInputNet, opening, _draw_net(draw, (*blocks, *head))))


def _draw_net(draw: st.DrawFn, stages: tuple[Spec, ...]) -> Spec:
    outputs = pick(draw, "tensor", "tensor", "tensor", "tuple", "dict", "named tuple", "dataclass")
    if outputs == "tensor":
        return Spec.of(Net, *stages)
    taps = draw(st.lists(st.integers(0, len(stages) - 1), max_size=2, unique=True))
    return Spec.of(Net, *stages, taps=tuple(sorted(taps)), outputs=outputs)


def _draw_head(draw: st.DrawFn, shape: Shape) -> tuple[Spec, ...]:
    """A classifier, by way of a vector if `shape` is not one yet."""
    classes = draw(st.integers(2, 5))
    if shape.layout in ("vector", "tokens"):
        return (Spec.of(nn.Linear, shape.channels, classes),)
    to_vector = [
        transition
        for transition in TRANSITIONS[shape.layout]
        if transition.target == "vector" and transition.fits(shape)
    ]
    if not to_vector:
        return ()
    block = pick(draw, *to_vector).draw(draw, shape)
    (features,) = result_sizes(block, shape.sizes)
    return block, Spec.of(nn.Linear, features, classes)


Front = tuple[tuple[Input, ...], Spec, Shape]


def _draw_shape(draw: st.DrawFn, layout: Layout) -> Shape:
    sizes: tuple[int, ...]
    match layout:
        case "image":
            # Even sizes can be halved and folded, so they are drawn more often.
            lengths = st.one_of(st.sampled_from((4, 6, 8)), st.integers(4, 9))
            sizes = (draw(st.integers(1, 4)), draw(lengths), draw(lengths))
        case "signal":
            sizes = (draw(st.integers(1, 4)), draw(st.integers(4, 9)))
        case "volume":
            sizes = (draw(st.integers(1, 3)), 4, pick(draw, 4, 5), 4)
        case "tokens":
            sizes = (draw(st.integers(2, 6)), draw(st.integers(2, 8)))
        case "vector":
            sizes = (draw(st.integers(2, 8)),)
    return Shape(layout, sizes)


def _one_input(layout: Layout) -> Callable[[st.DrawFn], Front]:
    """The front of a network that is given one value of that layout."""

    def front(draw: st.DrawFn) -> Front:
        shape = _draw_shape(draw, layout)
        opening, made = draw_opening(draw, shape)
        return (Input(shape.sizes),), opening, made

    return front


def _token_ids(draw: st.DrawFn) -> Front:
    length, features = draw(st.integers(2, 6)), draw(st.integers(2, 8))
    given, shape = Input((length,), VOCABULARY), Shape("tokens", (length, features))
    if draw(st.booleans()):
        return (given,), Spec.of(nn.Embedding, VOCABULARY, features), shape
    blocks, made = draw_blocks(draw, Site(shape, depth=1, keep_space=True), 3)
    body = sequential(*blocks, adapter(made, features))
    model = Spec.of(TiedLanguageModel, VOCABULARY, features, body)
    return (given,), model, Shape("tokens", (length, VOCABULARY))


def _two_alike(draw: st.DrawFn) -> Front:
    shape = _draw_shape(draw, pick(draw, "image", "tokens", "vector"))
    inputs = (Input(shape.sizes), Input(shape.sizes))
    left, made = draw_opening(draw, shape)
    how = pick(draw, "add", "mul", "cat", "siamese")
    if how == "siamese":
        return inputs, Spec.of(Siamese, left), made
    right = adapter(shape, made.channels)
    merge = Spec.of(Merge, left, right, how, shape.channel_dim)
    if how != "cat":
        return inputs, merge, made
    doubled = 2 * made.channels
    sizes = (*made.space, doubled) if shape.layout == "tokens" else (doubled, *made.space)
    return inputs, merge, attrs.evolve(made, sizes=sizes)


def _conditioned_image(draw: st.DrawFn) -> Front:
    image, vector = _draw_shape(draw, "image"), _draw_shape(draw, "vector")
    hidden = draw(st.integers(2, 8))
    merge = Spec.of(Film, image.channels, hidden, vector.channels)
    return (Input(image.sizes), Input(vector.sizes)), merge, Shape("image", (hidden, *image.space))


def _cross_attended(draw: st.DrawFn) -> Front:
    tokens, memory = _draw_shape(draw, "tokens"), _draw_shape(draw, "tokens")
    merge = Spec.of(CrossAttention, tokens.channels, memory.channels, pick(draw, 2, 1), pick(draw, 2, 3))
    return (Input(tokens.sizes), Input(memory.sizes)), merge, tokens


def _encoded_and_decoded(draw: st.DrawFn) -> Front:
    tokens, memory = _draw_shape(draw, "tokens"), _draw_shape(draw, "tokens")
    merge = Spec.of(EncoderDecoder, tokens.channels, memory.channels, pick(draw, 2, 3))
    return (Input(tokens.sizes), Input(memory.sizes)), merge, tokens


_FRONTS: Mapping[Family, tuple[Callable[[st.DrawFn], Front], ...]] = {
    "image": (_one_input("image"),),
    "sequence": (_one_input("tokens"), _one_input("tokens"), _token_ids, _one_input("signal")),
    "other": (_one_input("vector"), _one_input("vector"), _one_input("volume")),
    "pair": (_two_alike, _two_alike, _conditioned_image, _cross_attended, _encoded_and_decoded),
}
