"""Rules of sums of products against einsum and the operators that are a case of it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from speedup.engine.lattice import constant, unknown
from speedup.rules import STANDARD, rule_for
from speedup.rules.einsum import terms_of
from tests.support.soundness import Case, case, dead_claims, known_claims, made_once, weight

CASES: dict[str, Callable[[], Case]] = {
    "weight": lambda: case(lambda x, w: torch.einsum("bnd,hd->bhn", x, w), (2, 3, 4), weight(5, 4)),
    "outer": lambda: case(lambda x, y: torch.einsum("a,b->ba", x, y), (3,), (4,)),
    "sum": lambda: case(lambda x: torch.einsum("abc->b", x), (2, 3, 4)),
    "three_factors": lambda: case(
        lambda x, y, z: torch.einsum("ab,bc,cd->ad", x, y, z), (2, 3), (3, 2), (2, 4)
    ),
    "ellipsis": lambda: case(lambda x, w: torch.einsum("...c,oc->...o", x, w), (2, 3, 4), weight(5, 4)),
    "ellipses_of_two_ranks": lambda: case(
        lambda x, y: torch.einsum("...ij,...jk", x, y), (2, 2, 3, 4), (2, 4, 3)
    ),
    "broadcast": lambda: case(lambda x, y: torch.einsum("ab,ab->a", x, y), (3, 4), (3, 1)),
    "implicit": lambda: case(lambda x, y: torch.einsum("ba,ac", x, y), (3, 4), (4, 2)),
    "sublists": lambda: case(lambda x, w: torch.einsum(x, [0, 1], w, [2, 1], [2, 0]), (3, 4), weight(5, 4)),
    "dot": lambda: case(torch.dot, (4,), (4,)),
    "vdot": lambda: case(torch.vdot, (4,), (4,)),
    "mv": lambda: case(torch.mv, (3, 4), (4,)),
    "addmv": lambda: case(lambda b, m, v: torch.addmv(b, m, v, beta=2, alpha=0.5), (3,), (3, 2), (2,)),
    "torch_outer": lambda: case(torch.outer, (3,), (4,)),
    "addr": lambda: case(torch.addr, (3, 4), (3,), (4,)),
    "inner": lambda: case(torch.inner, (2, 3, 4), (5, 4)),
    "tensordot": lambda: case(lambda x, y: torch.tensordot(x, y, ([1, -1], [0, 1])), (2, 3, 4), (3, 4, 2)),
    "matmul_by_a_vector": lambda: case(torch.matmul, (2, 3, 4), (4,)),
    "matmul_of_a_vector": lambda: case(torch.matmul, (3,), (2, 3, 4)),
    "matmul_of_vectors": lambda: case(torch.matmul, (3,), (3,)),
    "baddbmm": lambda: case(torch.baddbmm, (2, 3, 3), (2, 3, 4), (2, 4, 3)),
    "baddbmm_broadcast": lambda: case(torch.baddbmm, (3, 1), (2, 3, 4), (2, 4, 3)),
    "addbmm": lambda: case(torch.addbmm, (3, 3), (2, 3, 4), (2, 4, 3)),
    "bilinear": lambda: case(F.bilinear, (2, 3), (2, 4), weight(5, 3, 4), weight(5)),
    "bilinear_of_sequences": lambda: case(F.bilinear, (2, 3, 3), (2, 3, 4), weight(5, 3, 4)),
}

built = made_once(CASES)


@pytest.mark.parametrize("name", CASES)
def test_what_is_called_known_is_that_constant_for_every_input(name: str) -> None:
    claims = known_claims(built(name))
    assert claims > 0


@pytest.mark.parametrize("name", CASES)
def test_what_is_called_dead_does_not_change_live_results(name: str) -> None:
    assert dead_claims(built(name)) > 0
    assert dead_claims(built(name), together=False) > 0


@pytest.mark.parametrize("name", CASES)
def test_letters_name_every_dimension(name: str) -> None:
    op = built(name).op
    terms = terms_of(op)
    assert terms is not None
    extents: dict[str, int] = {}
    for term, value in zip((*terms.operands, terms.result), (*op.operands, op.result), strict=True):
        for letter, extent in zip(term, value.shape, strict=True):
            assert extents.setdefault(letter, extent) == extent


def test_a_letter_that_stands_twice_in_a_term_is_left_alone() -> None:
    one = case(lambda x: torch.einsum("bii->b", x), (2, 3, 3))
    assert terms_of(one.op) is None
    assert known_claims(one) == 0


@pytest.mark.parametrize(
    "function",
    [lambda x, y: torch.einsum("bi,bj->ij", x, y), lambda x, y: torch.matmul(x.mT, y)],
    ids=["einsum", "matmul"],
)
def test_how_often_a_constant_adds_up_over_the_batch_is_not_known(
    function: Callable[..., torch.Tensor],
) -> None:
    from tests.support.soundness import graph_of

    op = graph_of(function, torch.ones(2, 3), torch.ones(2, 4)).ops[-1]
    shapes = [(1,) * v.ndim for v in op.operands]
    rule = rule_for(op.target, STANDARD)
    (ones,) = rule.known(op, [constant(torch.ones(s)) for s in shapes])
    (zeros,) = rule.known(op, [constant(torch.zeros(shapes[0])), unknown(2, torch.float32)])
    assert ones.is_unknown
    assert zeros.is_all_known()
