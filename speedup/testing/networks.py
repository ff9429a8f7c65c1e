"""The strategy `networks()` and what turns a drawn network into a model and inputs for it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from itertools import zip_longest
from typing import Any, Literal, cast

import attrs
import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from speedup.testing.grammar.chain import draw_blocks, draw_opening, draw_sized
from speedup.testing.grammar.compositions import adapter
from speedup.testing.grammar.site import BlockSite, Layout, Shape, pick, result_sizes
from speedup.testing.grammar.sized import LONGEST, looks_at_sizes
from speedup.testing.grammar.transitions import TRANSITIONS
from speedup.testing.modules import (
    CrossAttention,
    EncoderDecoder,
    Film,
    Matched,
    Merge,
    Net,
    OptionalInput,
    Siamese,
    Tasks,
    TiedLanguageModel,
    TwoInputNet,
)
from speedup.testing.spec import Spec, sequential
from speedup.testing.state import enliven
from speedup.torch_api import tree_leaves

MOST_BLOCKS = 8
VOCABULARY = 7

Family = Literal["image", "sequence", "other", "pair"]
FAMILIES: tuple[Family, ...] = ("image", "sequence", "other", "pair")


@attrs.frozen
class Input:
    """One input: its sizes without the batch; with a vocabulary, integers below it."""

    sizes: tuple[int, ...]
    vocabulary: int | None = None


Call = tuple[Input | str, ...]
"""The arguments of a call, in order: inputs, or what is no tensor as it is."""


@attrs.frozen(cache_hash=True)
class Network:
    """A whole network as a value: what goes in, and the constructor call that makes the module.

    `calls` are further ways in which it is called, which one plan is to hold for besides `inputs`;
    `elsewhere` are calls at other sizes, which no plan is made from but which it holds for too.
    """

    inputs: tuple[Input, ...]
    module: Spec
    calls: tuple[Call, ...] = ()
    elsewhere: tuple[Call, ...] = ()


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
    return sample_call(inputs, batch, seed)


def sample_call(call: Call, batch: int, seed: int = 0) -> tuple[Any, ...]:
    """The same for a call some of whose arguments are no tensors."""
    generator = torch.Generator().manual_seed(seed)
    return tuple(_sample(given, batch, generator) if isinstance(given, Input) else given for given in call)


def _sample(given: Input, batch: int, generator: torch.Generator) -> Tensor:
    if given.vocabulary is not None:
        return torch.randint(given.vocabulary, (batch, *given.sizes), generator=generator)
    return torch.randn((batch, *given.sizes), dtype=torch.float64, generator=generator)


@functools.lru_cache(maxsize=1 << 7)
def skeleton(network: Network) -> nn.Module:
    """A module of the network's names and shapes, to be read and to be called.

    It is in float64, in which convolutions take all sizes: in float32, oneDNN crashes at some.
    """
    with torch.random.fork_rng(devices=[]):
        return network.module.build().double().eval()


@st.composite
def networks(
    draw: st.DrawFn, family: Family | None = None, longest: int = MOST_BLOCKS, *, sized: bool = False
) -> Network:
    """Networks of one family, or of any, with at most `longest` blocks between opening and head.

    Families exist because Hypothesis likes to vary an example that it has; a test that asks for
    each family in turn sees more kinds of network in the same number of examples. With `sized`, a block
    that looks at sizes, or at numbers in tensors, comes first wherever there are sizes to look at.
    """
    chosen: Family = pick(draw, *FAMILIES) if family is None else family
    front = pick(draw, *_FRONTS[chosen])(draw)
    opening, site = front.opening, BlockSite(front.shape)
    first: tuple[Spec, ...] = ()
    if sized and front.shape.space:
        block, shape = draw_sized(draw, site)
        first, site = (block,), BlockSite(shape)
    blocks, shape = draw_blocks(draw, site, longest)
    head = _draw_head(draw, shape) if draw(st.booleans()) else ()
    if front.is_merged:
        net = _draw_net(draw, (*first, *blocks, *head))
        made = Network(front.inputs, Spec.of(TwoInputNet, opening, net), front.calls)
    else:
        made = Network(front.inputs, _draw_net(draw, (opening, *first, *blocks, *head)))
    return attrs.evolve(made, elsewhere=other_sizes(made))


def other_sizes(network: Network) -> tuple[Call, ...]:
    """Calls at other sizes that the network takes: many where it looks at sizes, else a few."""
    few = 1000 if looks_at_sizes(network.module) else 3
    found: list[Call] = []
    for call in (network.inputs, *network.calls):
        tried = _alike(network, call) or zip_longest(*(_variants(given) for given in call))
        nearby = [_fill(one, call) for one in tried if any(v is not None for v in one)]
        found += [one for one in nearby if one != call and _takes(network, one)][:few]
    return tuple(found)


def _alike(network: Network, call: Call) -> list[tuple[Input, ...]]:
    """The two inputs at other sizes that fit together; none where they go with each other as they are."""
    merge = next((spec for spec in network.module.walk() if spec.make is Matched), None)
    if merge is None:
        return []
    how, dims = cast("tuple[str, tuple[int, ...]]", merge.arguments[2:])
    first, second = (given for given in call if isinstance(given, Input))
    return [(one, _beside(one, second, how, dims)) for one in _variants(first)]


def _beside(first: Input, second: Input, how: str, dims: tuple[int, ...]) -> Input:
    """The second input of `Matched` at the sizes that go with those of the first; `dims` count the batch."""
    sizes = list(second.sizes)
    for dim in dims:
        sizes[dim - 1] = _SECOND[how](first.sizes[dim - 1])
    return attrs.evolve(second, sizes=tuple(sizes))


# How long the second input of `Matched` is where the first is so long.
_SECOND: Mapping[str, Callable[[int], int]] = {
    "repeated": lambda n: n // 2,
    "averaged": lambda n: 2 * n,
    "cut": lambda n: n + 2,
}


def _variants(given: Input | str) -> tuple[Input, ...]:
    """The input at other sizes, the same number of them for all inputs of one layout."""
    if not isinstance(given, Input) or (given.vocabulary is None and len(given.sizes) < 2):
        return ()
    sizes = given.sizes
    match len(sizes):
        case 1 | 2:
            # Tokens (L, C), token ids (L), or a signal (C, L), which is told from tokens by what runs.
            new = [(n, *sizes[1:]) for n in _LENGTHS] + (
                [(sizes[0], n) for n in _LENGTHS] if sizes[1:] else []
            )
        case 3:
            new = [(sizes[0], height, width) for height, width in _RESOLUTIONS]
        case _:
            new = [(sizes[0], *space) for space in _VOLUMES]
    return tuple(attrs.evolve(given, sizes=one) for one in new)


def _fill(one: tuple[Input | None, ...], call: Call) -> Call:
    """A call with those arguments that have no other sizes as they were."""
    return tuple(given if new is None else new for new, given in zip(one, call, strict=True))


def _takes(network: Network, call: Call) -> bool:
    """Whether the network runs in that call and something comes out, for each in the batch."""
    return all(_makes_one_each(network, call, batch) for batch in (2, 1, 3))


def _makes_one_each(network: Network, call: Call, batch: int) -> bool:
    try:
        with torch.no_grad():
            output = skeleton(network)(*sample_call(call, batch))
    except Exception:
        return False
    leaves = [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]
    return all(leaf.numel() > 0 and len(leaf) == batch for leaf in leaves)


# Those at which the questions of the grammar have all their answers.
_LENGTHS = (3, 7, 4, 1, 8, 5, 2, 6, 12, 9)
_RESOLUTIONS = ((5, 7), (8, 4), (9, 3), (6, 6), (7, 12), (3, 1), (4, 5), (12, 2), (4, 8), (5, 9))
_VOLUMES = ((3, 5, 7), (5, 4, 2), (4, 6, 3), (6, 2, 6), (3, 3, 8), (2, 4, 1))
assert 2 * max(_LENGTHS) < LONGEST


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


@attrs.frozen
class Front:
    """What goes in, the block that takes it, and the shape that this makes; `is_merged` of two inputs."""

    inputs: tuple[Input, ...]
    opening: Spec
    shape: Shape
    is_merged: bool = False
    calls: tuple[Call, ...] = ()


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
        return Front((Input(shape.sizes),), opening, made)

    return front


def _token_ids(draw: st.DrawFn) -> Front:
    length, features = draw(st.integers(2, 6)), draw(st.integers(2, 8))
    given, shape = Input((length,), VOCABULARY), Shape("tokens", (length, features))
    if draw(st.booleans()):
        return Front((given,), Spec.of(nn.Embedding, VOCABULARY, features), shape)
    blocks, made = draw_blocks(draw, BlockSite(shape, depth=1, keep_space=True), 3)
    body = sequential(*blocks, adapter(made, features))
    model = Spec.of(TiedLanguageModel, VOCABULARY, features, body)
    return Front((given,), model, Shape("tokens", (length, VOCABULARY)))


def _two_alike(draw: st.DrawFn) -> Front:
    shape = _draw_shape(draw, pick(draw, "image", "tokens", "vector"))
    inputs = (Input(shape.sizes), Input(shape.sizes))
    left, made = draw_opening(draw, shape)
    how = pick(draw, "add", "mul", "cat", "siamese")
    if how == "siamese":
        return Front(inputs, Spec.of(Siamese, left), made, is_merged=True)
    right = adapter(shape, made.channels)
    merge = Spec.of(Merge, left, right, how, shape.channel_dim)
    if how != "cat":
        return Front(inputs, merge, made, is_merged=True)
    doubled = 2 * made.channels
    sizes = (*made.space, doubled) if shape.layout == "tokens" else (doubled, *made.space)
    return Front(inputs, merge, attrs.evolve(made, sizes=sizes), is_merged=True)


def _of_two_sizes(draw: st.DrawFn) -> Front:
    layout: Layout = pick(draw, "image", "tokens")
    shape, other = _draw_shape(draw, layout), _draw_shape(draw, layout)
    how, dims = pick(draw, *_SECOND), (1,) if layout == "tokens" else (2, 3)
    if how == "repeated":
        even = tuple(n if place + 1 not in dims else n - n % 2 for place, n in enumerate(shape.sizes))
        shape = attrs.evolve(shape, sizes=even)
    hidden = draw(st.integers(2, 8))
    sizes = (*shape.space, hidden) if layout == "tokens" else (hidden, *shape.space)
    first = Input(shape.sizes)
    second = _beside(first, Input(other.sizes), how, dims)
    merge = Spec.of(Matched, adapter(shape, hidden), adapter(other, hidden), how, dims)
    return Front((first, second), merge, Shape(layout, sizes), is_merged=True)


def _conditioned_image(draw: st.DrawFn) -> Front:
    image, vector = _draw_shape(draw, "image"), _draw_shape(draw, "vector")
    hidden = draw(st.integers(2, 8))
    merge = Spec.of(Film, image.channels, hidden, vector.channels)
    made = Shape("image", (hidden, *image.space))
    return Front((Input(image.sizes), Input(vector.sizes)), merge, made, is_merged=True)


def _cross_attended(draw: st.DrawFn) -> Front:
    tokens, memory = _draw_shape(draw, "tokens"), _draw_shape(draw, "tokens")
    merge = Spec.of(CrossAttention, tokens.channels, memory.channels, pick(draw, 2, 1), pick(draw, 2, 3))
    return Front((Input(tokens.sizes), Input(memory.sizes)), merge, tokens, is_merged=True)


def _encoded_and_decoded(draw: st.DrawFn) -> Front:
    tokens, memory = _draw_shape(draw, "tokens"), _draw_shape(draw, "tokens")
    merge = Spec.of(EncoderDecoder, tokens.channels, memory.channels, pick(draw, 2, 3))
    return Front((Input(tokens.sizes), Input(memory.sizes)), merge, tokens, is_merged=True)


def _maybe_two(draw: st.DrawFn) -> Front:
    """A second input that may be there or not; the first call is either."""
    shape = _draw_shape(draw, pick(draw, "tokens", "image", "vector"))
    left, made = draw_opening(draw, shape)
    gate: dict[str, object] = {"gate": True} if draw(st.booleans()) else {}
    merge = Spec.of(OptionalInput, left, adapter(shape, made.channels), **gate)
    one, both = (Input(shape.sizes),), (Input(shape.sizes), Input(shape.sizes))
    first, second = (one, both) if draw(st.booleans()) else (both, one)
    return Front(first, merge, made, is_merged=True, calls=(second,))


def _for_tasks(draw: st.DrawFn) -> Front:
    """A module for each of two tasks behind one trunk."""
    shape = _draw_shape(draw, pick(draw, "tokens", "image", "vector"))
    trunk, made = draw_opening(draw, shape)
    tasks, width = {}, draw(st.integers(2, 6))
    for name in ("first", "second"):
        blocks, reached = draw_blocks(draw, BlockSite(made, depth=1, keep_space=True), 2)
        tasks[name] = sequential(*blocks, adapter(reached, width))
    sizes = (*made.space, width) if shape.layout == "tokens" else (width, *made.space)
    given = Input(shape.sizes)
    merged = Spec.of(Tasks, trunk, **tasks)
    return Front(
        (given,), merged, attrs.evolve(made, sizes=sizes), is_merged=True, calls=((given, "second"),)
    )


_FRONTS: Mapping[Family, tuple[Callable[[st.DrawFn], Front], ...]] = {
    "image": (_one_input("image"),),
    "sequence": (_one_input("tokens"), _one_input("tokens"), _token_ids, _one_input("signal")),
    "other": (_one_input("vector"), _one_input("vector"), _one_input("volume")),
    "pair": (
        _two_alike,
        _two_alike,
        _of_two_sizes,
        _of_two_sizes,
        _conditioned_image,
        _cross_attended,
        _encoded_and_decoded,
        _maybe_two,
        _for_tasks,
    ),
}
