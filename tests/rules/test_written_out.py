"""As much is known of an operator, and as little read of its operands, as of what torch writes it out as.

Every operator of the table that torch can write out in plain operators is held against that. To know more and
to read less is fine.
"""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import fx

from speedup.rules import Operator
from tests.rules.test_every_operator import RULED, examples
from tests.support.decomposed import situation, told_of, written_out
from tests.support.example_calls import calls_of
from tests.support.soundness import Case

SEEDS = 3
NIGHTLY_SEEDS = 40

_POSITIONS = "of its data channels are followed, and not single positions, of which other sizes have others"
_LETTERS = "a letter that stands twice in an operand, and three operands at once, are not taken apart"
_SIZES = "computes coordinates from the size of its result, which is kept"
# Where what it is written out as tells more. What may go by it, channels, is told as well.
EXCEPTIONS = {
    "aten.linear.default": _POSITIONS,
    "aten.scaled_dot_product_attention.default": _POSITIONS,
    "aten.pixel_shuffle.default": _POSITIONS,
    "aten.pixel_unshuffle.default": _POSITIONS,
    "aten.einsum.default": _LETTERS,
    "aten._weight_norm_interface.default": "of weights, which are known as a whole",
    "aten.affine_grid_generator.default": _SIZES,
}

# Seeds beyond the first few at which less was once told.
FOUND = (
    ("take_along_dim.default", 6),
    ("norm.ScalarOpt_dim", 5),
    ("diff.default", 5),
    ("embedding_bag.default", 6),
)


@cache
def programs(key: Operator | str) -> tuple[tuple[Case, fx.GraphModule], ...]:
    """The example calls of an operator that torch can write out, with what it writes."""
    found = ((one, written_out(one)) for one in examples(key))
    return tuple((one, program) for one, program in found if program is not None)


def lag_of(one: Case, program: fx.GraphModule, seed: int) -> str:
    """What is told less of a call than of its program, in words; empty when nothing is."""
    given = situation(one, seed)
    call, parts = told_of(one, given, None), told_of(one, given, program)
    unknown = [
        int((other & ~own).sum()) for own, other in zip(call.known, parts.known, strict=True) if own.numel()
    ]
    read = [
        int((own & ~other).sum()) for own, other in zip(call.read, parts.read, strict=True) if own.numel()
    ]
    both_known = (own & other for own, other in zip(call.known, parts.known, strict=True))
    for where, own, other in zip(both_known, call.values, parts.values, strict=True):
        torch.testing.assert_close(own[where], other[where], rtol=1e-6, atol=1e-9, equal_nan=True)
    return f"{unknown} elements are unknown, {read} are read" if any((*unknown, *read)) else ""


def _hold(key: Operator | str, seeds: int) -> None:
    for one, program in programs(key):
        if str(one.op.target) not in EXCEPTIONS:
            lags = {seed: lag for seed in range(seeds) if (lag := lag_of(one, program, seed))}
            assert not lags, f"{one.op.target} beside\n{program.code}"


@pytest.mark.parametrize("key", RULED, ids=str)
def test_as_much_is_told_as_of_what_it_is_written_out_as(key: Operator | str) -> None:
    _hold(key, SEEDS)


@pytest.mark.parametrize(("name", "seed"), FOUND)
def test_what_a_long_search_found_is_told(name: str, seed: int) -> None:
    packet, overload = name.split(".")
    for one in calls_of(getattr(getattr(torch.ops.aten, packet), overload)):
        program = written_out(one)
        assert program is None or not lag_of(one, program, seed)


@pytest.mark.nightly
@pytest.mark.parametrize("key", RULED, ids=str)
def test_a_long_search_finds_nothing_that_is_told_less(key: Operator | str) -> None:
    _hold(key, NIGHTLY_SEEDS)


@pytest.mark.parametrize("name", EXCEPTIONS)
def test_exceptions_are_needed(name: str) -> None:
    _, packet, overload = name.split(".")
    target = getattr(getattr(torch.ops.aten, packet), overload)
    cases = [(one, program) for key in RULED for one, program in _of(key, packet) if one.op.target == target]
    assert any(lag_of(one, program, seed) for one, program in cases for seed in range(NIGHTLY_SEEDS))


def _of(key: Operator | str, packet: str) -> tuple[tuple[Case, fx.GraphModule], ...]:
    return programs(key) if packet in str(key) else ()


@pytest.mark.parametrize(
    "name", "addcmul lerp glu where masked_fill prelu batch_norm layer_norm diff".split()
)
def test_operators_that_fuse_others_are_compared(name: str) -> None:
    assert any(programs(key) for key in RULED if str(key).split(".")[-1].split("::")[-1] == name)
