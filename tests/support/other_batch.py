"""A plan is made from one batch size for all: what a rule claims of constants, held against another one."""

from __future__ import annotations

import torch
from torch import Tensor

from speedup.engine.lattice import fact
from speedup.rules import STANDARD, rule_for
from tests.support.soundness import Abstract, Case, abstract, assert_compressed


def check_known_at_another_batch(one: Case, seed: int) -> None:
    """Hold what the rule says of operands that are uniform along dimension 0 against a run with more of it.

    Raises:
        AssertionError: a claim does not hold there, or has the example's batch size in its shape.
    """
    generator = torch.Generator().manual_seed(seed)
    operands = [_alike_in_batch(abstract(operand, generator), generator) for operand in one.operands]
    claimed = rule_for(one.op.target, STANDARD).known(one.op, [operands[n].fact for n in one.order])
    concrete = [_longer(o).draw(t.sampler, generator) for o, t in zip(operands, one.operands, strict=True)]
    for got, found in zip(one.run(concrete), claimed, strict=True):
        assert_compressed(found.known, tuple(got.shape))
        assert_compressed(found.value, tuple(got.shape))
        known = found.known.expand(got.shape)
        torch.testing.assert_close(
            got[known], found.value.expand(got.shape)[known], rtol=1e-9, atol=1e-12, equal_nan=True
        )


def _alike_in_batch(operand: Abstract, generator: torch.Generator) -> Abstract:
    """`operand` as it is at its first index of dimension 0; half of the time all of it is one constant."""
    shape = operand.known.shape
    known, tensor = operand.known.narrow(0, 0, 1), operand.tensor.narrow(0, 0, 1)
    if torch.rand((), generator=generator) < 0.5:
        known = torch.ones((1,) * len(shape), dtype=torch.bool)
        tensor = operand.tensor[(slice(0, 1),) * len(shape)]
    return Abstract(fact(known, tensor), known.expand(shape), tensor.expand(shape))


def _longer(operand: Abstract) -> Abstract:
    """The same with one more index along dimension 0, along which it repeats."""
    return Abstract(operand.fact, _one_more(operand.known), _one_more(operand.tensor))


def _one_more(tensor: Tensor) -> Tensor:
    return tensor.narrow(0, 0, 1).expand(tensor.shape[0] + 1, *tensor.shape[1:])
