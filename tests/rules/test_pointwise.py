"""Elementwise rules against the operators they speak for."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from speedup.engine.lattice import Fact, constant, fact, unknown
from speedup.rules import STANDARD, rule_for
from tests.support.soundness import (
    Case,
    Tensors,
    case,
    dead_claims,
    direct_case,
    flags,
    known_claims,
    made_once,
    op_of,
    positive,
    weight,
)

FULL = (2, 3, 4)
CASES: dict[str, Callable[[], Case]] = {
    "relu": lambda: case(F.relu, FULL),
    "gelu": lambda: case(F.gelu, FULL),
    "sigmoid": lambda: case(torch.sigmoid, FULL),
    "hardtanh": lambda: case(lambda x: F.hardtanh(x, -0.5, 0.5), FULL),
    "clamp": lambda: case(lambda x: x.clamp(-0.5, 0.5), FULL),
    "clamp_tensor": lambda: case(lambda x, low: x.clamp(min=low), FULL, (3, 1)),
    "cast": lambda: direct_case(torch.ops.aten.to.dtype, Tensors(FULL), torch.float32),
    "add": lambda: case(torch.add, FULL, FULL),
    "add_broadcast": lambda: case(lambda x, y: torch.add(x, y, alpha=2), FULL, (3, 1)),
    "add_scalar": lambda: case(lambda x: x + 3, FULL),
    "sub": lambda: case(torch.sub, FULL, (4,)),
    "rsub": lambda: case(lambda x: torch.rsub(x, 1), FULL),
    "div": lambda: case(torch.div, FULL, Tensors((3, 1), positive)),
    "floor_divide": lambda: case(
        lambda x, y: torch.div(x, y, rounding_mode="floor"), FULL, Tensors(FULL, positive)
    ),
    "pow_scalar": lambda: case(lambda x: x**2, FULL),
    "pow_tensor": lambda: case(torch.pow, Tensors(FULL, positive), (2, 1, 4)),
    "pow_base": lambda: case(lambda x: 2.0**x, FULL),
    "maximum": lambda: case(torch.maximum, FULL, (1, 3, 4)),
    "max_other": lambda: case(torch.max, FULL, FULL),
    "greater": lambda: case(torch.gt, FULL, FULL),
    "logical_and": lambda: case(torch.logical_and, Tensors(FULL, flags), Tensors(FULL, flags)),
    "lerp": lambda: case(torch.lerp, FULL, FULL, FULL),
    "addcmul": lambda: case(torch.addcmul, FULL, FULL, FULL),
    "mul_scalar": lambda: case(lambda x: x * 3, FULL),
    "where": lambda: case(torch.where, Tensors(FULL, flags), FULL, FULL),
    "where_broadcast": lambda: case(torch.where, Tensors((3, 1), flags), FULL, (4,)),
    "where_scalar_other": lambda: case(lambda c, x: torch.where(c, x, 0.0), Tensors(FULL, flags), FULL),
    "where_scalar_self": lambda: case(lambda c, x: torch.where(c, 2.0, x), Tensors(FULL, flags), FULL),
    "masked_fill": lambda: case(lambda x, m: x.masked_fill(m, -1.0), FULL, Tensors((3, 1), flags)),
    "masked_fill_tensor": lambda: case(torch.masked_fill, FULL, Tensors(FULL, flags), ()),
    "prelu": lambda: case(F.prelu, FULL, weight(3)),
    "prelu_single": lambda: case(F.prelu, FULL, weight(1)),
    "prelu_of_inputs": lambda: case(F.prelu, FULL, (3,)),
    "dropout": lambda: case(lambda x: F.dropout(x, 0.5, training=False), FULL),
    "zeros_like": lambda: case(torch.zeros_like, FULL),
    "full_like": lambda: case(lambda x: torch.full_like(x, 2.5), FULL),
    "ones_like": lambda: case(torch.ones_like, FULL),
    "type_as": lambda: case(
        lambda x, y: x.type_as(y), FULL, Tensors((5,), lambda s, g: torch.randn(s, generator=g))
    ),
}

built = made_once(CASES)


@pytest.mark.parametrize("name", CASES)
def test_what_is_called_known_is_that_constant_for_every_input(name: str) -> None:
    assert known_claims(built(name)) > 0


@pytest.mark.parametrize("name", CASES)
def test_what_is_called_dead_does_not_change_live_results(name: str) -> None:
    assert dead_claims(built(name)) > 0


def test_a_product_with_a_known_zero_is_known_and_does_not_read_its_other_factor() -> None:
    one = case(torch.mul, FULL, (3, 1))
    assert known_claims(one) > 0
    assert dead_claims(one, together=False) > 0


def _known_of(one: Case, *facts: Fact) -> Fact:
    (found,) = rule_for(one.op.target, STANDARD).known(one.op, facts)
    return found


def test_a_product_with_zero_is_known_whatever_the_other_factor_is() -> None:
    zero = torch.tensor([0.0, 2.0, 0.0], dtype=torch.float64).reshape(1, 3, 1)
    found = _known_of(case(torch.mul, FULL, FULL), unknown(3, torch.float64), constant(zero))
    assert found.known.tolist() == [[[True], [False], [True]]]
    assert not found.value.any()


def test_a_pointwise_result_stays_as_compressed_as_its_operands() -> None:
    channels = fact(torch.tensor([[[True], [False], [True]]]), torch.ones(1, 3, 1, dtype=torch.float64))
    assert tuple(_known_of(case(F.relu, FULL), channels).known.shape) == (1, 3, 1)


def test_dropout_in_training_mode_makes_even_constants_random() -> None:
    op = op_of(lambda x: F.dropout(x, 0.5, training=True), torch.ones(4))
    (found,) = rule_for(op.target, STANDARD).known(op, [constant(torch.ones(1))])
    assert found.is_unknown


def test_a_branch_of_where_that_is_never_taken_is_dead() -> None:
    one = case(torch.where, Tensors((3,), flags), (3,), (3,))
    chosen = fact(torch.tensor([True, True, False]), torch.tensor([True, False, False]))
    facts = [chosen, unknown(1, torch.float64), unknown(1, torch.float64)]
    reads = rule_for(one.op.target, STANDARD).live(one.op, facts, [torch.ones(3, dtype=torch.bool)])
    assert [r.expand(3).tolist() for r in reads[1:]] == [[True, False, True], [False, True, True]]
