"""Every layout operator's index maps against the operator itself, run on its own indices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from types import MappingProxyType
from typing import Any

import pytest
import torch
from attrs import frozen
from torch import Tensor

from speedup.engine.lattice import constant, fact, unknown
from speedup.engine.layout import IndexMap, pull, push
from speedup.rules import STANDARD, layout, rearrangement, rule_for
from tests.support.soundness import (
    Case,
    Tensors,
    case,
    check_known,
    check_live,
    dead_claims,
    direct_case,
    some_extents,
)

OVERLOADS = {
    "flatten": "using_ints",
    "unflatten": "int",
    "transpose": "int",
    "repeat_interleave": "self_int",
    "split": "Tensor",
    "unsafe_split": "Tensor",
    "unbind": "int",
    "select": "int",
    "slice": "Tensor",
    "movedim": "int",
    "moveaxis": "int",
    "tensor_split": "sections",
    "hsplit": "int",
    "vsplit": "int",
    "dsplit": "int",
    "meshgrid": "indexing",
}


@frozen(eq=False)
class Call:
    """Arguments of one call of an operator; a `Tensors` among them stands for an operand."""

    args: tuple[Any, ...]
    overload: str = ""
    keywords: Mapping[str, Any] = MappingProxyType({})


def of(shape: Sequence[int], *args: Any, overload: str = "") -> Call:
    """A call whose first argument is an operand of `shape`."""
    return Call((Tensors(tuple(shape)), *args), overload)


def joining(dim: int, *shapes: Sequence[int]) -> Call:
    """A call that joins operands of `shapes` along `dim`."""
    return Call(([Tensors(tuple(shape)) for shape in shapes], dim))


def stacked(*shapes: Sequence[int]) -> Call:
    """A call that takes a list of operands of `shapes` and nothing else."""
    return Call(([Tensors(tuple(shape)) for shape in shapes],))


def grid(indexing: str, *extents: int) -> Call:
    """A mesh of vectors."""
    return Call(([Tensors((n,)) for n in extents],), keywords={"indexing": indexing})


RESHAPES = [
    of((0, 3), (3, 0)),
    of((2, 6, 5), (12, 5)),
    of((2, 6, 5), (2, 2, 3, 5)),
    of((2, 6, 5), (-1,)),
    of((4, 6), (3, 8)),
    of((1, 6, 1), (1, 1, 2, 3)),
    of((2, 3, 4), (2, 4, 3)),
    of((1,), ()),
]
CONSTANT_PADS = [
    of((3, 4), (1, 2)),
    of((3, 4), (0, 0, 2, 0)),
    of((3, 4), (-1, 2, 1, -2)),
    of((3, 4), (-1, -1)),
    of((2, 3, 4), (1, -1, 0, 2, -1, 1)),
    of((3, 1), (1, 1)),
]
CHUNKS = [of((5, 6), 2), of((5, 6), 4, 1), of((5, 7), 3, -1), of((5,), 5), of((3, 4), 1, 1)]
SPLITS = [of((5, 6), 2), of((5, 6), 4, 1), of((5, 7), 3, -1)]
SIZES = [of((5, 6), [2, 3]), of((5, 6), [1, 4, 1], -1), of((5, 6), [6], 1)]
CATS = [
    joining(0, (2, 3), (4, 3)),
    joining(-1, (2, 3), (2, 1), (2, 5)),
    joining(1, (2, 3, 2), (2, 3, 2)),
    joining(0, (0,), (2, 3), (1, 3)),
    joining(-2, (1, 3), (1, 3)),
]
SWAPS = [of((2, 3, 4), 0, 2), of((2, 3, 4), -1, 1), of((2, 3), 1, 1), of((1, 3, 2), -3, -2)]
EXPANDS = [
    of((3, 1), (3, 4)),
    of((3, 1), (2, -1, 4)),
    of((1, 3), (2, 1, 5, 3)),
    of((2, 3), (2, 3)),
    of((), (2, 2)),
]
VIEWS_AS = [of((2, 6), Tensors((3, 4))), of((2, 6), Tensors((4, 3, 1)))]
SHUFFLES = [of((2, 6, 2, 2), 2), of((1, 6, 1, 3), 3)]
REPEATS = [of((2, 3), (2, 2)), of((2, 3), (3, 1, 2)), of((1, 3), (4, 1)), of((2,), (2, 1, 3))]

MOVED = [
    of((2, 3, 4), 0, -1),
    of((2, 3, 4), -1, 1),
    of((2, 3, 4), (0, 1), (2, 0), overload="intlist"),
    of((2, 3, 4, 5), (-1, 0), (0, 1), overload="intlist"),
]
MATRICES = [of((3, 4)), of((2, 3, 4))]
ROWS = [stacked((2, 3), (1, 3)), stacked((3,), (3,)), stacked((3,), (2, 3))]

CALLS: dict[str, list[Call]] = {
    **dict.fromkeys(("view.default", "reshape", "_unsafe_view"), RESHAPES),
    "flatten": [of((2, 3, 4)), of((2, 3, 4), 1), of((2, 3, 4, 2), -3, -2), of((), 0, 0), of((3,), 0)],
    "unflatten": [of((2, 6, 3), 1, (2, 3)), of((2, 6), -1, (3, -1)), of((8,), 0, (2, 2, 2))],
    "squeeze": [
        of((2, 1, 3, 1)),
        of((2, 1, 3, 1), 1, overload="dim"),
        of((2, 1, 3, 1), -2, overload="dim"),
        of((1, 2, 1), (0, -1), overload="dims"),
    ],
    "unsqueeze": [of((2, 3), 0), of((2, 3), -1), of((2, 3), 1), of((), 0)],
    **dict.fromkeys(("view_as", "reshape_as"), VIEWS_AS),
    "atleast_1d.default": [of(()), of((2, 3))],
    "_reshape_alias": [of((2, 6), (3, 4), (4, 1)), of((2, 6), (2, 2, 3), (6, 3, 1))],
    "ravel": [of((2, 3)), of((2, 1, 2))],
    "permute": [of((2, 3, 4), (2, 0, 1)), of((2, 3, 4), (-1, -3, -2)), of((2, 3), (0, 1))],
    **dict.fromkeys(("transpose", "swapaxes", "swapdims"), SWAPS),
    "t": [of((2, 3)), of((4,)), of(())],
    "numpy_T": [of((2, 3)), of((4,))],
    **dict.fromkeys(("expand", "broadcast_to"), EXPANDS),
    "expand_as": [of((3, 1), Tensors((3, 4))), of((1, 3), Tensors((2, 5, 3)))],
    "repeat": REPEATS,
    "tile": [*REPEATS, of((2, 3), (2,)), of((2, 3, 2), (1, 2))],
    "repeat_interleave.self_int": [of((2, 3), 2), of((2, 3), 2, 0), of((2, 3), 3, -1), of((4,), 1, 0)],
    **dict.fromkeys(("cat", "concat", "concatenate"), CATS),
    "stack": [
        joining(0, (2, 3), (2, 3)),
        joining(1, (2, 3), (2, 3), (2, 3)),
        joining(-1, (2, 3), (2, 3)),
        joining(0, (), ()),
    ],
    "split": SPLITS,
    "split.sizes": [Call(c.args, "sizes") for c in SIZES],
    "split_with_sizes": SIZES,
    "unsafe_split": SPLITS,
    **dict.fromkeys(("chunk", "unsafe_chunk"), CHUNKS),
    "unbind": [of((3, 2)), of((3, 2), 1), of((2, 3, 2), -2), of((3,))],
    "select.int": [of((3, 4), 0, 1), of((3, 4), -1, -2), of((2, 3, 4), 1, 2), of((3,), 0, 0)],
    "slice": [
        of((5, 6), 0, 1, 4),
        of((5, 6), 1, -4, -1),
        of((5, 6), -1, None, None, 2),
        of((5, 6), 1, 1, 2**63 - 1, 3),
        of((5, 6), 0, 3),
        of((5, 6), 0, 0, 100),
        of((5, 6), 1, -100, 4, 3),
        of((5, 6), 0, -3, 0),
    ],
    "slice_scatter": [
        of((5, 6), Tensors((2, 6)), 0, 1, 3),
        of((5, 6), Tensors((5, 3)), -1, None, None, 2),
        of((5, 6), Tensors((5, 3)), 1, -4, -1),
        of((5, 6), Tensors((0, 6)), 0, -3, 0),
    ],
    "select_scatter": [of((3, 4), Tensors((4,)), 0, 1), of((3, 4), Tensors((3,)), -1, -2)],
    "copy": [of((3, 4), Tensors((3, 4))), of((2, 3, 4), Tensors((3, 1))), of((2, 3), Tensors(()))],
    "narrow": [of((5, 6), 0, 1, 3), of((5, 6), -1, -4, 2), of((5, 6), 1, 0, 6)],
    "roll": [
        of((3, 4), [1], [0]),
        of((3, 4), [-2], [-1]),
        of((3, 4), [1, 2], [0, 1]),
        of((3, 4), [1, 6], [1, 1]),
        of((3, 4), [5]),
        of((2, 3, 2), [-4]),
    ],
    "flip": [of((3, 4), [0]), of((3, 4), [-1, 0]), of((2, 3, 4), [1]), of((3, 4), [])],
    "pad": [
        *CONSTANT_PADS,
        of((2, 3, 4), (2, 1), "reflect"),
        of((2, 3, 4, 5), (2, 0, 1, 3), "reflect"),
        of((2, 3, 4), (3, 5), "replicate"),
        of((2, 3, 4, 5), (0, 2, 3, 0), "replicate"),
        of((2, 3, 4), (2, 4), "circular"),
        of((2, 3, 4, 5), (1, 0, 4, 2), "circular"),
        of((2, 3, 4), (-1, 0), "reflect"),
        of((2, 3, 4), (-1, -2), "replicate"),
        of((2, 3, 4), (-1, -1), "circular"),
        of((2, 3, 4), (-1, 2), "circular"),
        of((2, 3, 4), (2, -1), "circular"),
    ],
    "constant_pad_nd": CONSTANT_PADS,
    "reflection_pad1d": [of((2, 3, 4), (2, 3)), of((3, 4), (0, 1))],
    "reflection_pad2d": [of((1, 2, 3, 4), (3, 1, 2, 0)), of((2, 3, 4), (1, 0, 1, 2))],
    "reflection_pad3d": [of((1, 2, 3, 3, 3), (1, 2, 0, 1, 2, 0))],
    "replication_pad1d": [of((2, 3, 4), (5, 1))],
    "replication_pad2d": [of((1, 2, 3, 4), (3, 1, 2, 0)), of((2, 3, 4), (1, 0, 1, 4))],
    "replication_pad3d": [of((1, 2, 3, 2, 3), (1, 2, 0, 1, 4, 0))],
    "unfold": [of((2, 7), 1, 3, 2), of((5, 2), 0, 2, 1), of((2, 6), -1, 2, 3), of((2, 3, 4), 1, 3, 1)],
    **dict.fromkeys(("channel_shuffle", "native_channel_shuffle"), SHUFFLES),
    **dict.fromkeys(("movedim", "moveaxis"), MOVED),
    **dict.fromkeys(("mT", "mH", "adjoint"), MATRICES),
    "fliplr": [of((3, 4)), of((2, 3, 2))],
    "flipud": [of((4,)), of((2, 3, 2))],
    "rot90": [of((3, 4), k, [0, 1]) for k in range(-1, 4)]
    + [of((2, 3, 4), 1, [2, 0]), of((2, 3, 4), 3, [0, -1])],
    "tensor_split.sections": [of((7, 2), 3), of((2, 6), 2, -1), of((2, 3), 4, 1)],
    "tensor_split.indices": [
        of((7, 2), [2, 5], overload="indices"),
        of((2, 4), [1, 1, 4], -1, overload="indices"),
        of((2, 4), [3, 9], 1, overload="indices"),
    ],
    "unsafe_split_with_sizes": SIZES,
    "hsplit": [of((2, 6), 3), of((6,), 2), of((2, 6), [1, 3], overload="array")],
    "vsplit": [of((6, 2), 3), of((6, 2), [1, 3], overload="array")],
    "dsplit": [of((2, 3, 4), 2), of((2, 3, 4), [1], overload="array")],
    "hstack": [stacked((2, 3), (2, 1)), stacked((3,), (2,)), stacked((2, 1, 2), (2, 3, 2))],
    **dict.fromkeys(("vstack", "row_stack"), ROWS),
    "dstack": [stacked((2, 3), (2, 3)), stacked((3,), (3,)), stacked((2, 3, 1), (2, 3, 4))],
    "column_stack": [stacked((3,), (3,)), stacked((3, 2), (3,)), stacked((2, 3, 2), (2, 1, 2))],
    "atleast_2d.default": [of(()), of((3,)), of((2, 3))],
    "atleast_3d.default": [of(()), of((3,)), of((2, 3)), of((2, 3, 4))],
    "diagonal": [of((3, 4)), of((2, 3, 4), 1, 2, 0), of((3, 4, 2), -1), of((2, 3, 3), 0, -2, -1)],
    "diag_embed": [of((3,)), of((2, 3), 1), of((2, 3), -1, 0, 2), of((2, 3), 0, 2, 1)],
    "diag": [of((3,)), of((3,), 1), of((3, 4)), of((3, 4), -1)],
    "broadcast_tensors": [stacked((2, 3), (3,)), stacked((2, 1), (1, 3), ())],
    "meshgrid": [grid("ij", 2, 3, 4), grid("xy", 2, 3, 4), grid("xy", 2, 3), grid("ij", 3)],
}
every_operator = pytest.mark.parametrize("name", CALLS)


@cache
def built(name: str) -> tuple[Case, ...]:
    """The calls of one operator as cases."""
    packet = name.partition(".")[0]
    overloads = [call.overload or OVERLOADS.get(packet, "default") for call in CALLS[name]]
    return tuple(
        direct_case(getattr(getattr(torch.ops.aten, packet), overload), *call.args, **call.keywords)
        for overload, call in zip(overloads, CALLS[name], strict=True)
    )


def moves_of(one: Case) -> tuple[IndexMap, ...]:
    """The moves that the rule of the case's operator gives."""
    moves = rule_for(one.op.target, STANDARD).moves
    assert moves is not None
    arguments = {name: one.op[name] for name in one.op.arguments}
    return moves(arguments, [v.shape for v in one.op.operands], [v.shape for v in one.op.results])


def indices(one: Case) -> list[Tensor]:
    """One operand tensor each, holding numbers that tell every element of every operand apart."""
    found, start = [], 1
    for operand in one.op.operands:
        size = torch.Size(operand.shape).numel()
        found.append(torch.arange(start, start + size).reshape(operand.shape))
        start += size
    return found


def moved(one: Case, operands: list[Tensor]) -> list[Tensor]:
    """The results that the moves make of (compressed) `operands`, 0 where they read nothing."""
    results = [torch.zeros(r.shape, dtype=torch.int64) for r in one.op.results]
    for move in moves_of(one):
        source, target = one.op.operands[move.operand].shape, one.op.results[move.result].shape
        pulled = pull(move, operands[move.operand], source, target, torch.tensor(0)).expand(target)
        assert not bool(((results[move.result] != 0) & (pulled != 0)).any()), "two moves fill one element"
        results[move.result] = results[move.result] + pulled
    return results


def pushed(one: Case, lives: list[Tensor]) -> list[Tensor]:
    """Which operand elements the moves read for the marked (compressed) result elements."""
    found = [torch.zeros(v.shape, dtype=torch.bool) for v in one.op.operands]
    for move in moves_of(one):
        source, target = one.op.operands[move.operand].shape, one.op.results[move.result].shape
        found[move.operand] |= push(move, lives[move.result], source, target)
    return found


def test_every_layout_operator_is_held_against_torch() -> None:
    rules = layout.RULES | rearrangement.RULES
    assert set(CALLS) == {name for name, rule in rules.items() if rule.moves is not None}


@every_operator
def test_moves_read_the_elements_that_the_operator_reads(name: str) -> None:
    for one in built(name):
        operands = indices(one)
        for got, expected in zip(moved(one, operands), one.run(operands), strict=True):
            assert torch.equal(got, expected), one.op.arguments


@every_operator
def test_pulling_a_compressed_operand_equals_pulling_all_of_it(name: str) -> None:
    generator = torch.Generator().manual_seed(1)
    for one in built(name):
        shapes = [v.shape for v in one.op.operands]
        for _ in range(5):
            extents = [some_extents(shape, generator) for shape in shapes]
            compressed = [torch.randint(1, 9, e, generator=generator) for e in extents]
            whole = [c.expand(shape).contiguous() for c, shape in zip(compressed, shapes, strict=True)]
            for got, expected in zip(moved(one, compressed), one.run(whole), strict=True):
                assert torch.equal(got, expected), (one.op.arguments, extents)


@every_operator
def test_an_operand_element_is_pushed_to_iff_a_marked_result_element_reads_it(name: str) -> None:
    generator = torch.Generator().manual_seed(1)
    for one in built(name):
        operands = indices(one)
        results = one.run(operands)
        for draw in range(6):
            extents = [some_extents(r.shape, generator) if draw else tuple(r.shape) for r in one.op.results]
            lives = [torch.rand(e, generator=generator) < 0.4 for e in extents]
            marked = torch.cat([r[live.expand(r.shape)] for r, live in zip(results, lives, strict=True)])
            for got, own in zip(pushed(one, lives), operands, strict=True):
                assert torch.equal(got, torch.isin(own, marked)), (one.op.arguments, extents)


@every_operator
def test_claims_of_the_rule_hold_for_the_operator(name: str) -> None:
    for one in built(name):
        for seed in range(2):
            check_known(one, seed)
            check_live(one, seed)


@pytest.mark.parametrize("fill", [None, 0.0, 2.5])
def test_what_a_pad_adds_is_known(fill: float | None) -> None:
    one = direct_case(torch.ops.aten.pad.default, Tensors((2, 3)), (1, 0), "constant", fill)
    (found,) = rule_for(one.op.target, STANDARD).known(one.op, [unknown(2, torch.float64)])
    assert found.known.expand(2, 4).tolist() == [[True, False, False, False]] * 2
    assert found.value.expand(2, 4)[0, 0] == (fill or 0.0)


def test_a_slice_that_moves_with_the_input_knows_nothing_of_a_table_that_varies() -> None:
    def forward(x: Tensor, table: Tensor) -> Tensor:
        return table[: x.shape[0]]

    one = case(forward, (3, 2), Tensors((5,), state=True))
    rule = rule_for(one.op.target, STANDARD)
    (varied,) = rule.known(one.op, [constant(torch.arange(5.0, dtype=torch.float64))])
    (uniform,) = rule.known(one.op, [constant(torch.ones(1, dtype=torch.float64))])
    assert varied.is_unknown
    assert uniform.is_all_known()


def test_pixel_shuffle_claims_hold_for_the_operator() -> None:
    def same(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        return (
            torch.randint(2, (shape[0], *[1] * (len(shape) - 1)), generator=generator).double().expand(shape)
        )

    one = direct_case(torch.ops.aten.pixel_shuffle.default, Tensors((2, 8, 2, 2), same), 2)
    assert sum(check_known(one, seed) for seed in range(40)) > 0
    assert dead_claims(one) > 0


def test_pixel_shuffle_of_differing_constants_is_not_one_constant() -> None:
    one = direct_case(torch.ops.aten.pixel_shuffle.default, Tensors((1, 8, 2, 2)), 2)
    value = torch.tensor([1.0, 1, 1, 1, 1, 1, 1, 2], dtype=torch.float64).reshape(1, 8, 1, 1)
    facts = [fact(torch.ones(1, 8, 1, 1, dtype=torch.bool), value)]
    (found,) = rule_for(one.op.target, STANDARD).known(one.op, facts)
    assert found.known.reshape(-1).tolist() == [True, False]
