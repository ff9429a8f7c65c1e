"""Every entry of the table of rules against its operator, on calls that are made from its schema.

A rule is tested here by being registered. An operator whose calls cannot be made fails by its name,
unless it stands in `UNCALLABLE`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from types import MappingProxyType

import pytest
import torch
from torch import nn

from speedup.engine.constraints import Pinned
from speedup.engine.lattice import indicator, unknown
from speedup.ir.graph import Graph, Op, Origin, Owner, Value
from speedup.rules import STANDARD, Operator
from speedup.rules.kept import RULES as KEPT
from speedup.rules.rule import everything_read, nothing_known
from speedup.rules.site import Site
from tests.support.example_calls import Overload, calls_of
from tests.support.op_laws import check_monotone, check_sliced, sliced
from tests.support.ruled import UNCALLABLE, UNDEFINED, own_overloads
from tests.support.soundness import Case, check_known, check_live

SEEDS = 6
NIGHTLY_SEEDS = 150
DRAWS = 5

# What they state about their operand's memory cannot follow its sizes.
PINNED = frozenset({"aten._reshape_alias", "aten.affine_grid_generator"})
# Seeds beyond the first few at which rules once failed.
FOUND: tuple[tuple[str, Callable[[Case, int], object], int], ...] = (
    ("msort.default", check_known, 7),
    ("rnn_tanh.input", check_sliced, 11),
    ("lstm.input", check_sliced, 25),
    ("index_select.default", check_monotone, 28),
)

_KEPT = {id(rule) for rule in KEPT.values()}
RULED = [key for key, rule in STANDARD.items() if id(rule) not in _KEPT]
LEFT = [key for key, rule in STANDARD.items() if id(rule) in _KEPT]


@cache
def examples(key: Operator | str) -> tuple[Case, ...]:
    """Calls of each overload that returns something definite."""
    callable_ = [o for o in own_overloads(key) if str(o) not in UNCALLABLE and str(o) not in UNDEFINED]
    return tuple(one for overload in callable_ for one in calls_of(overload))


@pytest.mark.parametrize("key", RULED, ids=str)
def test_example_calls_are_made_of_every_ruled_operator(key: Operator | str) -> None:
    overloads = own_overloads(key)
    assert overloads or key in UNCALLABLE
    assert [str(o._schema) for o in overloads if str(o) not in UNCALLABLE and not calls_of(o)] == []


@pytest.mark.parametrize("key", RULED, ids=str)
def test_what_is_called_known_never_changes(key: Operator | str) -> None:
    _hold(key, lambda one, seed: check_known(one, seed, DRAWS))


@pytest.mark.parametrize("key", RULED, ids=str)
def test_what_is_called_dead_never_matters(key: Operator | str) -> None:
    _hold(key, check_live)


@pytest.mark.parametrize("key", RULED, ids=str)
def test_less_knowledge_never_tells_more_and_less_liveness_never_reads_more(key: Operator | str) -> None:
    _hold(key, check_monotone)


@pytest.mark.parametrize("key", RULED, ids=str)
def test_what_is_kept_comes_out_the_same_of_what_is_kept(key: Operator | str) -> None:
    _hold(key, check_sliced)


@pytest.mark.parametrize("key", [k for k in RULED if str(k) not in PINNED], ids=str)
def test_the_slices_tell_something_as_some_of_them_go(key: Operator | str) -> None:
    with_dims = [
        one
        for one in examples(key)
        if any(v.ndim for v in one.op.operands) and any(r.ndim for r in one.op.results)
    ]
    assert not with_dims or any(sliced(one, seed).dropped for seed in range(SEEDS) for one in with_dims)


@pytest.mark.parametrize(("name", "law", "seed"), FOUND)
def test_what_a_long_search_once_found_stays_right(
    name: str, law: Callable[[Case, int], object], seed: int
) -> None:
    packet, overload = name.split(".")
    for one in calls_of(getattr(getattr(torch.ops.aten, packet), overload)):
        law(one, seed)


@pytest.mark.nightly
@pytest.mark.parametrize("key", RULED, ids=str)
@pytest.mark.parametrize("law", [check_known, check_live, check_monotone, check_sliced])
def test_a_long_search_finds_nothing_either(key: Operator | str, law: Callable[[Case, int], object]) -> None:
    _hold(key, law, NIGHTLY_SEEDS)


@pytest.mark.parametrize("name", sorted(UNDEFINED))
def test_nothing_is_known_of_what_nobody_wrote(name: str) -> None:
    _, packet, overload = name.split(".")
    for one in calls_of(getattr(getattr(torch.ops.aten, packet), overload)):
        assert check_known(one, 0) == 0


@pytest.mark.parametrize("key", LEFT, ids=str)
def test_kept_operators_pin_everything_and_claim_nothing(key: Operator | str) -> None:
    rule = STANDARD[key]
    assert (rule.known, rule.live) == (nothing_known, everything_read)
    for overload in own_overloads(key) or [torch.ops.aten.add.Tensor]:
        site = _site(overload)
        (*constraints,) = rule.couple(site)
        assert all(isinstance(c, Pinned) and c.indices is None for c in constraints)
        wanted = {(v.index, d) for v in site.graph.values for d in range(v.ndim)}
        assert {d for c in constraints for d in c.dims} == wanted


def _hold(key: Operator | str, law: Callable[[Case, int], object], seeds: int = SEEDS) -> None:
    for one in examples(key):
        for seed in range(seeds):
            try:
                law(one, seed)
            except Exception as error:
                shapes = [v.shape for v in one.op.operands]
                plain = {n: a for n, a in one.op.arguments.items() if not isinstance(a, Value)}
                raise AssertionError(
                    f"{one.op.target} on {shapes} with {plain}, seed {seed}: {error}"
                ) from error


def _site(overload: Overload) -> Site:
    """An op of `overload` on matrices, in a graph of its own; nobody runs it."""
    values: list[Value] = []

    def value(origin: Origin) -> Value:
        values.append(Value(len(values), (2, 3), torch.float64, origin))
        return values[-1]

    kinds = {p.name: str(p.type) for p in overload._schema.arguments}
    arguments = {
        name: value(Origin.INPUT)
        if kind == "Tensor"
        else (value(Origin.INPUT),)
        if "Tensor" in kind
        else None
        for name, kind in kinds.items()
    }
    results = tuple(value(Origin.RESULT) for _ in overload._schema.returns)
    op = Op(0, overload, MappingProxyType(arguments), results, Owner("", nn.Module))
    graph = Graph(tuple(values), (op,), (), ())
    facts = [unknown(v.ndim, v.dtype) for v in values]
    return Site(graph, op, facts, [indicator(True, v.ndim) for v in values])
