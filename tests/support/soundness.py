"""The brute-force oracle of operator rules: what a rule claims is held against the operator itself.

An operator is a Python function of tensors. It is traced once; after that, `check_known` and
`check_live` ask its rule for claims on random abstract operands and look for a counterexample
among random concrete ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from types import MappingProxyType
from typing import Any

import torch
from attrs import evolve, frozen
from torch import Tensor, nn

from speedup.engine.lattice import Fact, constant, fact
from speedup.ir.graph import Graph, Op, Origin, Owner, Value
from speedup.ir.inputs import example_from
from speedup.rules import STANDARD, rule_for
from speedup.tracing.trace import trace_call

Shape = tuple[int, ...]
Sampler = Callable[[Shape, torch.Generator], Tensor]

SEEDS = 20
DRAWS = 20
CHANGES = 5


class Calling(nn.Module):
    """A model whose forward is `function(*inputs, *state)`, the state being parameters or buffers."""

    def __init__(self, function: Callable[..., Any], state: Sequence[Tensor] = ()) -> None:
        super().__init__()
        self.function = function
        self.count = len(state)
        for number, tensor in enumerate(state):
            if tensor.is_floating_point():
                self.register_parameter(f"state{number}", nn.Parameter(tensor.clone()))
            else:
                self.register_buffer(f"state{number}", tensor.clone())

    def forward(self, *inputs: Any) -> Any:
        return self.function(*inputs, *(getattr(self, f"state{n}") for n in range(self.count)))


def graph_of(function: Callable[..., Any], *inputs: Tensor, state: Sequence[Tensor] = ()) -> Graph:
    """The traced graph of `function(*inputs, *state)`."""
    return trace_call(Calling(function, state), example_from(inputs)).graph


def op_of(function: Callable[..., Any], *inputs: Tensor, state: Sequence[Tensor] = ()) -> Op:
    """The only op of `function(*inputs, *state)`."""
    (op,) = graph_of(function, *inputs, state=state).ops
    return op


def sparse(shape: Shape, generator: torch.Generator) -> Tensor:
    """Normal numbers, two in five of which are 0."""
    drawn = torch.randn(shape, generator=generator, dtype=torch.float64)
    return drawn * (torch.rand(shape, generator=generator) > 0.4)


def rows(shape: Shape, generator: torch.Generator) -> Tensor:
    """Like `sparse`, with whole rows and columns that are 0, as pruning leaves them."""
    drawn = sparse(shape, generator)
    for dim in range(min(2, len(shape))):
        kept = torch.rand(shape[dim], generator=generator) > 0.3
        drawn = drawn * kept.reshape([-1 if d == dim else 1 for d in range(len(shape))])
    return drawn


def blank(shape: Shape, generator: torch.Generator) -> Tensor:
    """Zeros only, half of the time; else like `sparse`. Constants that are uniform while Unknowns are not."""
    return sparse(shape, generator) * (torch.rand((), generator=generator) > 0.5)


def positive(shape: Shape, generator: torch.Generator) -> Tensor:
    """Numbers between 1/2 and 3/2."""
    return torch.rand(shape, generator=generator, dtype=torch.float64) + 0.5


def flags(shape: Shape, generator: torch.Generator) -> Tensor:
    """Booleans."""
    return torch.rand(shape, generator=generator) > 0.5


@frozen
class Below:
    """A sampler of integers from 0 to `limit` - 1."""

    limit: int

    def __call__(self, shape: Shape, generator: torch.Generator) -> Tensor:
        return torch.randint(self.limit, shape, generator=generator)


def below(limit: int) -> Sampler:
    """Integers from 0 to `limit` - 1."""
    return Below(limit)


@frozen(eq=False)
class Tensors:
    """What one operand of a case looks like. A `state` operand is a weight: all of it is Known."""

    shape: Shape
    sampler: Sampler = sparse
    state: bool = False


@frozen(eq=False)
class Case:
    """A function that runs one operator, and its operands in the order of the call."""

    function: Callable[..., Any]
    operands: tuple[Tensors, ...]
    op: Op
    # Where the op's own operands stand among `operands`.
    order: tuple[int, ...]

    def run(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The results on `tensors`, given in the order of the call."""
        with torch.no_grad():
            results = self.function(*tensors)
        if results is None:
            return []
        return list(results) if isinstance(results, tuple | list) else [results]


def case(function: Callable[..., Any], *operands: Tensors | Shape) -> Case:
    """A traced case; a bare shape is an input of `sparse` numbers. State operands come last."""
    every = [o if isinstance(o, Tensors) else Tensors(o) for o in operands]
    generator = torch.Generator().manual_seed(1)
    inputs = [t.sampler(t.shape, generator) for t in every if not t.state]
    state = [t.sampler(t.shape, generator) for t in every if t.state]
    graph = graph_of(function, *inputs, state=state)
    (op,) = graph.ops
    order = tuple(_place(v, graph, len(inputs)) for v in op.operands)
    return Case(function, (*(t for t in every if not t.state), *(t for t in every if t.state)), op, order)


def made_once(cases: Mapping[str, Callable[[], Case]]) -> Callable[[str], Case]:
    """From the name of a case to the case, which is traced the first time only."""
    return cache(lambda name: cases[name]())


def _place(value: Value, graph: Graph, inputs: int) -> int:
    if value in graph.inputs:
        return graph.inputs.index(value)
    return inputs + int(value.name.removeprefix("state"))


def direct_case(target: torch._ops.OpOverload, *args: Any, **keywords: Any) -> Case:
    """The call `target(*args, **keywords)` as a case, without a trace; `Tensors` stand for its operands."""
    parameters = target._schema.arguments
    given = dict(zip((p.name for p in parameters), args, strict=False)) | keywords
    found: list[Tensors] = []

    def value(argument: Any) -> Any:
        if isinstance(argument, Tensors):
            found.append(argument)
            dtype = argument.sampler((1,), torch.Generator()).dtype
            number = len(found) - 1
            origin, name = (Origin.PARAMETER, f"state{number}") if argument.state else (Origin.INPUT, "")
            return Value(number, argument.shape, dtype, origin, name)
        return tuple(value(a) for a in argument) if isinstance(argument, list | tuple) else argument

    arguments = {p.name: value(given.get(p.name, p.default_value)) for p in parameters}

    def function(*tensors: Tensor) -> Any:
        supply = iter(tensors)

        def fill(argument: Any) -> Any:
            if isinstance(argument, Tensors):
                return next(supply)
            return [fill(a) for a in argument] if isinstance(argument, list | tuple) else argument

        # A list: a generator would be run after the keywords.
        return target(*[fill(a) for a in args], **{k: fill(v) for k, v in keywords.items()})

    generator = torch.Generator().manual_seed(1)
    one = Case(function, tuple(found), _EMPTY, tuple(range(len(found))))
    shown = one.run([t.sampler(t.shape, generator) for t in found])
    if not all(isinstance(r, Tensor) for r in shown):
        raise TypeError(f"{target} returns a number")
    results = tuple(
        Value(len(found) + n, tuple(r.shape), r.dtype, Origin.RESULT) for n, r in enumerate(shown)
    )
    return evolve(one, op=Op(0, target, MappingProxyType(arguments), results, Owner("", nn.Module)))


_EMPTY = Op(0, torch.ops.aten.relu.default, MappingProxyType({}), (), Owner("", nn.Module))


def weight(*shape: int, sampler: Sampler = rows) -> Tensors:
    """A state operand."""
    return Tensors(shape, sampler, state=True)


def some_extents(shape: Shape, generator: torch.Generator) -> Shape:
    """`shape` with about half of its extents replaced by 1."""
    full = torch.rand(len(shape), generator=generator) > 0.5
    return tuple(n if keep else 1 for n, keep in zip(shape, full.tolist(), strict=True))


@frozen(eq=False)
class Abstract:
    """A fact, and a concrete tensor that has the right values wherever the fact is Known."""

    fact: Fact
    known: Tensor
    tensor: Tensor

    def draw(self, sampler: Sampler, generator: torch.Generator) -> Tensor:
        """Another concrete tensor that the fact describes."""
        return torch.where(self.known, self.tensor, sampler(tuple(self.tensor.shape), generator))


def abstract(operand: Tensors, generator: torch.Generator) -> Abstract:
    """A random fact for `operand`, in random compression."""
    everything = torch.ones(operand.shape, dtype=torch.bool)
    if operand.state:
        return _weight(operand, everything, generator)
    share = torch.rand((), generator=generator)
    extents = [some_extents(operand.shape, generator) for _ in range(2)]
    if len(operand.shape) > 1 and torch.rand((), generator=generator) < 0.4:
        extents = [_channels(operand.shape)] * 2
    known = torch.rand(extents[0], generator=generator) < share
    value = operand.sampler(extents[1], generator)
    return Abstract(fact(known, value), known.expand(operand.shape), value.expand(operand.shape))


def _channels(shape: Shape) -> Shape:
    """The extents of what varies along the dimension of channels only, as most activations' facts do."""
    return tuple(n if d == 1 else 1 for d, n in enumerate(shape))


def _weight(operand: Tensors, everything: Tensor, generator: torch.Generator) -> Abstract:
    raw = operand.sampler(operand.shape, generator)
    if torch.rand((), generator=generator) < 0.5:
        return Abstract(constant(raw), everything, raw)
    mask = torch.rand(some_extents(operand.shape, generator), generator=generator) > 0.4
    masked = torch.where(mask, raw, torch.zeros((), dtype=raw.dtype))
    return Abstract(constant(raw, mask), everything, masked)


def _operands(one: Case, generator: torch.Generator) -> list[Abstract]:
    return [abstract(operand, generator) for operand in one.operands]


def check_known(one: Case, seed: int, draws: int = DRAWS) -> int:
    """Compare what the rule calls Known with `draws` concrete runs; returns how many elements it called so.

    Raises:
        AssertionError: some element is not the claimed constant, or the fact is not well formed.
    """
    generator = torch.Generator().manual_seed(seed)
    operands = _operands(one, generator)
    claimed = rule_for(one.op.target, STANDARD).known(one.op, [operands[n].fact for n in one.order])
    assert len(claimed) == len(one.op.results)
    for result, found in zip(one.op.results, claimed, strict=True):
        for tensor in (found.known, found.value):
            assert_compressed(tensor, result.shape)
        unknown = ~found.known & (found.value != 0)
        assert not bool(unknown.any()), "the value of an Unknown element is not 0"
    for _ in range(draws):
        concrete = [o.draw(t.sampler, generator) for o, t in zip(operands, one.operands, strict=True)]
        for got, found in zip(one.run(concrete), claimed, strict=True):
            known = found.known.expand(got.shape)
            assert found.value.dtype == got.dtype
            torch.testing.assert_close(
                got[known], found.value.expand(got.shape)[known], rtol=1e-9, atol=1e-12, equal_nan=True
            )
    return sum(int(f.known.expand(r.shape).sum()) for f, r in zip(claimed, one.op.results, strict=True))


def check_live(one: Case, seed: int, together: bool = True) -> int:
    """Change what the rule calls dead `CHANGES` times; returns how many elements it called dead.

    All operands change at once if `together`, else one operand, another one each time.

    Raises:
        AssertionError: some live result element changed, or the claims are not well formed.
    """
    generator = torch.Generator().manual_seed(seed)
    operands = _operands(one, generator)
    share = torch.rand((), generator=generator)
    lives = [
        torch.rand(some_extents(r.shape, generator), generator=generator) < share for r in one.op.results
    ]
    facts = [operands[n].fact for n in one.order]
    reads = rule_for(one.op.target, STANDARD).live(one.op, facts, lives)
    assert len(reads) == len(one.op.operands)
    for operand, read in zip(one.op.operands, reads, strict=True):
        assert read.dtype == torch.bool
        assert_compressed(read, operand.shape)
    read_of = {n: torch.zeros(t.shape, dtype=torch.bool) for n, t in enumerate(one.operands)}
    for place, read in zip(one.order, reads, strict=True):
        read_of[place] = read_of[place] | read
    for draw in range(CHANGES * (1 if together else len(one.operands))):
        concrete = [o.draw(t.sampler, generator) for o, t in zip(operands, one.operands, strict=True)]
        changed = [
            torch.where(read_of[n], tensor, one.operands[n].sampler(tuple(tensor.shape), generator))
            if together or draw % len(concrete) == n
            else tensor
            for n, tensor in enumerate(concrete)
        ]
        for before, after, live in zip(one.run(concrete), one.run(changed), lives, strict=True):
            chosen = live.expand(before.shape)
            torch.testing.assert_close(after[chosen], before[chosen], rtol=1e-9, atol=1e-12, equal_nan=True)
    return sum(int((~read).sum()) for read in read_of.values())


def assert_compressed(tensor: Tensor, shape: Shape) -> None:
    """Fail unless `tensor` has the rank of `shape`, and each extent is that of `shape` or 1."""
    assert tensor.ndim == len(shape)
    assert all(have in (1, want) for have, want in zip(tensor.shape, shape, strict=True))


def known_claims(one: Case) -> int:
    """How many elements the rule called Known over `SEEDS` random facts, all of them rightly."""
    return sum(check_known(one, seed) for seed in range(SEEDS))


def dead_claims(one: Case, together: bool = True) -> int:
    """How many elements the rule called dead over `SEEDS` random facts, all of them rightly."""
    return sum(check_live(one, seed, together) for seed in range(SEEDS))
