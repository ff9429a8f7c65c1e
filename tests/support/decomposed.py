"""What the analyses tell of an operator, and what they tell of the operators that torch writes it out as."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from operator import getitem
from types import MappingProxyType
from typing import Any

import torch
from attrs import frozen
from torch import Tensor, fx, nn
from torch._decomp import decomposition_table
from torch.fx.experimental.proxy_tensor import make_fx

from speedup.analyses.constants import find_constants
from speedup.analyses.liveness import find_liveness
from speedup.ir.graph import Graph, Op, Origin, Owner, Value
from speedup.rules import STANDARD
from tests.support.example_calls import Overload
from tests.support.soundness import Case, some_extents

_OWNER = Owner("", nn.Module)
_ATEN = torch.ops.aten


def decomposition_of(target: Overload) -> Callable[..., Any] | None:
    """What torch writes the operator out as; None where it does not."""
    found = decomposition_table.get(target)
    if found is not None:
        return found
    return target.decompose if target._can_decompose() else None


class _Builder:
    """Collects values and ops of one graph; what its state holds, by name, and which of it is unknown."""

    def __init__(self) -> None:
        self.values: list[Value] = []
        self.ops: list[Op] = []
        self.tensors: dict[str, Tensor] = {}

    def state(self, tensor: Tensor) -> Value:
        name = f"state{len(self.tensors)}"
        self.values.append(Value(len(self.values), tuple(tensor.shape), tensor.dtype, Origin.BUFFER, name))
        self.tensors[name] = tensor
        return self.values[-1]

    def call(self, target: Overload, given: Mapping[str, Any], results: Sequence[Tensor]) -> list[Value]:
        made = [
            Value(len(self.values) + n, tuple(r.shape), r.dtype, Origin.RESULT) for n, r in enumerate(results)
        ]
        self.values.extend(made)
        arguments = {p.name: _held(given.get(p.name, p.default_value)) for p in target._schema.arguments}
        self.ops.append(Op(len(self.ops), target, MappingProxyType(arguments), tuple(made), _OWNER))
        return made

    def finish(self, outputs: Sequence[Value]) -> Graph:
        return Graph(tuple(self.values), tuple(self.ops), (), tuple(outputs))


def _held(argument: Any) -> Any:
    return tuple(_held(a) for a in argument) if isinstance(argument, list | tuple) else argument


@frozen(eq=False)
class Told:
    """What is known of the results of a call, and what is read of its operands, in full shape."""

    values: tuple[Tensor, ...]
    known: tuple[Tensor, ...]
    read: tuple[Tensor, ...]


@frozen(eq=False)
class Situation:
    """What is known of the operands of a case, and what anything reads of its results."""

    tensors: tuple[Tensor, ...]
    known: tuple[Tensor, ...]
    read: tuple[Tensor, ...]


def situation(one: Case, seed: int) -> Situation:
    """A random one."""
    generator = torch.Generator().manual_seed(seed)
    tensors, known = [], []
    for operand in one.operands:
        share = torch.rand((), generator=generator)
        extents = some_extents(operand.shape, generator)
        if len(operand.shape) > 1 and torch.rand((), generator=generator) < 0.5:
            extents = tuple(n if d == 1 else 1 for d, n in enumerate(operand.shape))
        tensors.append(operand.sampler(extents, generator))
        whole = operand.state or not operand.shape or not tensors[-1].is_floating_point()
        known.append(torch.rand(extents, generator=generator) < (1 if whole else share))
    results = [torch.rand(some_extents(r.shape, generator), generator=generator) for r in one.op.results]
    share = torch.rand((), generator=generator) + 0.2
    return Situation(tuple(tensors), tuple(known), tuple(r < share for r in results))


def told_of(one: Case, given: Situation, program: fx.GraphModule | None) -> Told:
    """What the analyses tell of the case's operator, or of the `program` that it is written out as."""
    builder = _Builder()
    operands = []
    for operand, tensor, known in zip(one.operands, given.tensors, given.known, strict=True):
        unknown = builder.state(torch.empty(operand.shape, dtype=tensor.dtype, device="meta"))
        mixed = {"condition": builder.state(known), "self": builder.state(tensor), "other": unknown}
        shown = torch.empty(operand.shape, dtype=tensor.dtype, device="meta")
        operands += builder.call(_ATEN.where.self, mixed, [shown])
    if program is None:
        results = _call(one, builder, [operands[n] for n in one.order])
    else:
        results = _run(program, builder, operands)
    outputs = []
    for result, read in zip(results, given.read, strict=True):
        shown = torch.empty(result.shape, dtype=result.dtype, device="meta")
        other = builder.state(torch.zeros((1,) * len(result.shape), dtype=result.dtype))
        chosen = {"condition": builder.state(read), "self": result, "other": other}
        outputs += builder.call(_ATEN.where.self, chosen, [shown])
    graph = builder.finish(outputs)
    facts = find_constants(graph, builder.tensors, {}, STANDARD)
    lives = find_liveness(graph, facts, STANDARD)
    return Told(
        tuple(facts[r.index].value.expand(r.shape) for r in results),
        tuple(facts[r.index].known.expand(r.shape) for r in results),
        tuple(lives[o.index].expand(o.shape) for o in operands),
    )


def _call(one: Case, builder: _Builder, operands: Sequence[Value]) -> list[Value]:
    supply = iter(operands)

    def fill(argument: Any) -> Any:
        if isinstance(argument, Value):
            return next(supply)
        return tuple(fill(a) for a in argument) if isinstance(argument, tuple) else argument

    shown = [torch.empty(r.shape, dtype=r.dtype, device="meta") for r in one.op.results]
    return builder.call(one.op.target, {n: fill(a) for n, a in one.op.arguments.items()}, shown)


def written_out(one: Case) -> fx.GraphModule | None:
    """The program that torch writes the case's operator out as; None where there is none that can be read."""
    decomposition = decomposition_of(one.op.target)
    if decomposition is None:
        return None
    generator = torch.Generator().manual_seed(1)
    tensors = [t.sampler(t.shape, generator) for t in one.operands]
    try:
        program = make_fx(lambda *given: one.run(given), decomposition_table={one.op.target: decomposition})(
            *tensors
        )
    except (RuntimeError, TypeError, ValueError, NotImplementedError):
        return None
    calls = [
        node for node in program.graph.nodes if node.op == "call_function" and node.target is not getitem
    ]
    is_plain = all(
        isinstance(node.target, Overload)
        and not node.target._schema.is_mutable
        and node.target.namespace == "aten"
        and node.target is not one.op.target
        for node in calls
    )
    return program if is_plain and calls else None


def _run(program: fx.GraphModule, builder: _Builder, operands: Sequence[Value]) -> list[Value]:
    supply = iter(operands)
    held: dict[fx.Node, Any] = {}
    for node in program.graph.nodes:
        match node.op:
            case "placeholder":
                held[node] = next(supply)
            case "get_attr":
                held[node] = builder.state(getattr(program, str(node.target)))
            case "output":
                found = fx.map_arg(node.args[0], held.__getitem__)
                return [v for v in found if isinstance(v, Value)]
            case _ if node.target is getitem:
                held[node] = held[node.args[0]][node.args[1]]
            case _:
                args, kwargs = fx.map_arg((node.args, node.kwargs), held.__getitem__)
                names = [p.name for p in node.target._schema.arguments]
                shown = node.meta["val"]
                several = isinstance(shown, list | tuple)
                made = builder.call(
                    node.target, dict(zip(names, args, strict=False)) | kwargs, shown if several else [shown]
                )
                held[node] = made if several else made[0]
    return []
