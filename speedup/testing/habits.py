"""The strategies `masks_for(model)` and `masks(network)`: what pruning tools do, module by module.

Each parameter-owning module draws one of a few habits of pruning tools (rows, rows with the bias,
columns, heads, single weights, whole layers, ...). Masks that conflict at a residual add, or that cut
through a group, come about by themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from hypothesis import strategies as st
from torch import nn

from speedup.testing.grammar.site import pick
from speedup.testing.masks import Cut, MaskSpec, Scattered, Slices, Whole
from speedup.testing.networks import Network, skeleton
from speedup.testing.owners import MaskedModule, Parameters, first_dim, owners_of

# Of more rows than this a regular part is masked: a counter-example has to stay readable.
_MOST_LISTED = 24

Style = Literal["by name", "by module", "baked"]


Indices = tuple[int, ...] | range
Habit = Callable[[st.DrawFn, MaskedModule, int], list[Cut]]


def masks_for(model: nn.Module) -> st.SearchStrategy[MaskSpec]:
    """Masks for the parameters of a model: from none at all to all of them, in any form.

    Rows, columns, heads, single weights and whole layers are masked; along residual streams they agree
    or conflict. What is drawn goes to `assert_equivalent` as it is; `mask_argument` makes the argument
    of `plan_speedup` of it. The model is only read.

    Raises:
        ValueError: the model has no parameters.
    """
    owners = owners_of(model)
    if not owners:
        raise ValueError(f"this {type(model).__name__} has no parameters that could be masked")
    return _masks(owners, ("by name", "by module", "baked"))


def masks(network: Network) -> st.SearchStrategy[MaskSpec]:
    """Masks for the parameters of a drawn network."""
    return masks_for(skeleton(network))


@st.composite
def _masks(draw: st.DrawFn, owners: tuple[MaskedModule, ...], styles: tuple[Style, ...]) -> MaskSpec:
    # Cuts that follow one pattern agree along residual streams, so that much can go; others do not.
    pattern = draw(st.integers(1, 254))
    habits = pick(draw, _EAGER, _EAGER, _EAGER, _CAREFUL, _HARSH)
    cuts: list[Cut] = []
    for owner in owners:
        cuts.extend(pick(draw, *habits)(draw, owner, pattern))
    return MaskSpec(
        tuple(cuts),
        style=pick(draw, *styles),
        dtype=pick(draw, "float32", "bool"),
        compact=pick(draw, False, False, True),
    )


def _nothing(draw: st.DrawFn, owner: MaskedModule, pattern: int) -> list[Cut]:
    return []


def _rows(draw: st.DrawFn, owner: MaskedModule, pattern: int) -> list[Cut]:
    """Random rows of the module's first parameter; a bias keeps its values."""
    return _everywhere(owner.parameters[:1], owner.rows, _choose(draw, owner.rows))


def _rows_and_bias(draw: st.DrawFn, owner: MaskedModule, pattern: int) -> list[Cut]:
    """The same random rows of every parameter of the module that has so many."""
    return _everywhere(owner.parameters, owner.rows, _choose(draw, owner.rows))


def _units(draw: st.DrawFn, owner: MaskedModule, pattern: int) -> list[Cut]:
    """The same random units of every gate, in a recurrent layer; else rows and bias."""
    hidden = next((sizes[1] for name, sizes in owner.parameters if "weight_hh" in name), None)
    if hidden is None:
        return _rows_and_bias(draw, owner, pattern)
    chosen = _choose(draw, hidden)
    cuts: list[Cut] = []
    for name, sizes in owner.parameters:
        cuts += _slices(name, 0, tuple(row for row in range(sizes[0]) if row % hidden in chosen))
    return cuts


def _patterned(draw: st.DrawFn, owner: MaskedModule, pattern: int) -> list[Cut]:
    """The rows that the network's common pattern names, of all parameters or the first alone."""
    size = owner.rows
    indices: Indices = range(pattern % 8, size, 1 + pattern % 3)
    if size <= _MOST_LISTED:
        indices = tuple(index for index in range(size) if pattern >> (index % 8) & 1)
    return _everywhere(pick(draw, owner.parameters, owner.parameters[:1]), size, indices)


def _heads(draw: st.DrawFn, owner: MaskedModule, pattern: int) -> list[Cut]:
    """The heads that the common pattern names: rows, three times as many if packed, or columns."""
    if owner.heads is None:
        return _patterned(draw, owner, pattern)
    dim = pick(draw, 0, 0, 1)
    cuts: list[Cut] = []
    for name, sizes in owner.parameters:
        if dim >= len(sizes) or sizes[dim] % owner.heads:
            continue
        parts = pick(draw, 1, 3) if sizes[dim] % (3 * owner.heads) == 0 else 1
        width = sizes[dim] // (parts * owner.heads)
        of_head = (index // width % owner.heads for index in range(sizes[dim]))
        cuts += _slices(name, dim, tuple(i for i, head in enumerate(of_head) if pattern >> (head % 8) & 1))
    return cuts


def _columns(draw: st.DrawFn, owner: MaskedModule, pattern: int) -> list[Cut]:
    name, sizes = owner.parameters[0]
    if len(sizes) < 2:
        return []
    return _slices(name, 1, _choose(draw, sizes[1]))


def _slab(draw: st.DrawFn, owner: MaskedModule, pattern: int) -> list[Cut]:
    """A run of neighbouring rows of every parameter, such as a group."""
    size, parts = owner.rows, pick(draw, 2, 3, 4)
    width = max(1, size // parts)
    start = width * draw(st.integers(0, parts - 1))
    return _everywhere(
        owner.parameters, size, _list_indices(range(min(start, size), min(start + width, size)))
    )


def _all_but_one(draw: st.DrawFn, owner: MaskedModule, pattern: int) -> list[Cut]:
    survivor = draw(st.integers(0, owner.rows - 1))
    indices = tuple(index for index in range(owner.rows) if index != survivor)
    return _everywhere(owner.parameters, owner.rows, indices)


def _scattered(draw: st.DrawFn, owner: MaskedModule, pattern: int) -> list[Cut]:
    name, _ = draw(st.sampled_from(owner.parameters))
    return [Scattered(name, pick(draw, 50, 90), draw(st.integers(0, 99)))]


def _whole(draw: st.DrawFn, owner: MaskedModule, pattern: int) -> list[Cut]:
    hit = pick(draw, owner.parameters[:1], owner.parameters, owner.parameters[-1:])
    return [Whole(name) for name, _ in hit]


def _choose(draw: st.DrawFn, size: int) -> Indices:
    """A random subset of range(size), but not all of it: that is what `_whole` is for."""
    if size > _MOST_LISTED:
        start, step = draw(st.integers(1, size)), draw(st.integers(1, 4))
        return range(start, draw(st.integers(start, size)), step)
    bits = draw(st.integers(0, max(0, 2**size - 2)))
    return tuple(index for index in range(size) if bits >> index & 1)


def _list_indices(indices: range) -> Indices:
    """A range as a tuple where that reads better."""
    return indices if len(indices) > _MOST_LISTED else tuple(indices)


def _everywhere(parameters: Parameters, size: int, indices: Indices) -> list[Cut]:
    """The cut of every parameter that has `size` rows."""
    cuts: list[Cut] = []
    for name, sizes in parameters:
        dim = first_dim(sizes)
        if sizes[dim] == size:
            cuts += _slices(name, dim, indices)
    return cuts


def _slices(name: str, dim: int, indices: Indices) -> list[Cut]:
    return [Slices(name, dim, indices)] if indices else []


_EAGER: tuple[Habit, ...] = (
    _nothing,
    _nothing,
    _rows,
    _rows,
    _rows_and_bias,
    _rows_and_bias,
    _units,
    _patterned,
    _patterned,
    _patterned,
    _columns,
    _slab,
    _heads,
    _heads,
    _scattered,
)
_CAREFUL: tuple[Habit, ...] = (_nothing,) * 8 + _EAGER
# A few of these in a row leave a network that does not depend on its input any more.
_HARSH: tuple[Habit, ...] = (*_EAGER, _all_but_one, _whole)
