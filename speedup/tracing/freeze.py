"""Turn an exported FX graph into the immutable `Graph`: SSA form, named arguments, size expressions."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from operator import getitem
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from attrs import frozen
from torch import nn
from torch.fx import Graph as FxGraph
from torch.fx import GraphModule, Node

from speedup.errors import ExportError
from speedup.ir.callsites import frame_of
from speedup.ir.checking import require_well_formed
from speedup.ir.graph import Frame, Graph, Op, Origin, Owner, Value
from speedup.ir.operators import functional_form, operator_of
from speedup.modules.copying import named_tensors
from speedup.torch_api import TO_COPY, TYPE_CHECK, Overload, schema_of
from speedup.tracing.adapting import adapt_op
from speedup.tracing.aliasing import scatter_of, storage_of, viewed_by, written_by
from speedup.tracing.numbers import ARITHMETIC, as_type, computing_type, is_arithmetic, is_check, number_type
from speedup.tracing.program import Program, Shaped
from speedup.tracing.provenance import notes_of
from speedup.tracing.record import Record
from speedup.tracing.sizes import NumberedCall, attach_sizes

# Operators that state sizes, and the functions of Python that pass on those that they are given.
_SHAPING = frozenset({"aten::view", "aten::_unsafe_view", "aten::reshape", "aten::expand"})
_SHAPING_CALLS = frozenset(
    """
    view reshape view_as reshape_as flatten unflatten ravel expand expand_as broadcast_to squeeze unsqueeze
    """.split()
)
# Regions that run their subgraph as it is, under another mode.
_MODE_REGIONS = (
    torch.ops.higher_order.wrap_with_set_grad_enabled,
    torch.ops.higher_order.wrap_with_autocast,
)


@frozen
class _Untold:
    """What a node returns where that is nothing a graph can hold, and which node it is, in words."""

    words: str


class _Freezer:
    """Walks one FX graph, in order, collecting values and ops; lives for one `freeze` call."""

    def __init__(
        self,
        program: Program,
        model: nn.Module,
        record: Record,
    ) -> None:
        self.state = program.state
        self.written_back = program.writes
        self.running = tuple(record.calls)
        self.frames: dict[int, tuple[Frame, ...]] = {}
        self.values: list[Value] = []
        self.ops: list[Op] = []
        self.inputs: list[Value] = []
        self.outputs: list[Value] = []
        self.current: dict[Node, Any] = {}
        self.roots: dict[int, int] = {}
        self.calls: list[NumberedCall] = []
        self.by_tensor: dict[int, Value] = {}
        self.placed: dict[Node, Value] = {}
        self.written: list[tuple[Value, Value]] = []
        self.modules = dict(model.named_modules(remove_duplicate=False))
        self.paths = {id(module): path for path, module in reversed(self.modules.items())}
        self.tensors = dict(named_tensors(model))
        self.canonical: dict[int, str] = {}
        for name, tensor in self.tensors.items():
            self.canonical.setdefault(id(tensor), name)

    def value(self, fake: Any, origin: Origin, name: str = "") -> Value:
        if any(not isinstance(extent, int) for extent in fake.shape):
            raise ExportError(
                f"a tensor of shape {tuple(fake.shape)} depends on the data; it cannot be planned"
            )
        made = Value(len(self.values), tuple(int(n) for n in fake.shape), fake.dtype, origin, name)
        self.values.append(made)
        return made

    def number(self, dtype: torch.dtype) -> Value:
        made = Value(len(self.values), (), dtype, Origin.RESULT, is_number=True)
        self.values.append(made)
        return made

    def result(self, fake: Any, node: Node) -> Any:
        """What an op returns: a value for a tensor and for a number that is only known at run time."""
        dtype = number_type(fake)
        if dtype is not None:
            return self.number(dtype)
        if isinstance(fake, torch.Tensor | Shaped):
            return self.value(fake, Origin.RESULT)
        if fake is None and isinstance(node.meta.get("val"), list | tuple):
            # A result that the operator leaves out.
            return None
        return fake if isinstance(fake, int | float) else _Untold(self.words(node))

    def words(self, node: Node) -> str:
        where = next((f"{Path(f.file).name}:{f.span[0]}" for f in self.calls_of(node)), "")
        place = self.owner(node).path or "the model's forward"
        return f"{node.target} in {place}" + (f" ({where})" if where else "")

    def placeholder(self, node: Node) -> None:
        fake = node.meta.get("val")
        if not isinstance(fake, torch.Tensor | Shaped):
            self.current[node] = fake
            return
        if node.name not in self.state:
            self.current[node] = self.value(fake, Origin.INPUT, node.name)
            self.inputs.append(self.current[node])
            return
        origin, name = self.state[node.name]
        tensor = self.tensors.get(name)
        known = self.by_tensor.get(id(tensor)) if tensor is not None else None
        if known is None:
            known = self.value(fake, origin, self.canonical.get(id(tensor), name))
            if tensor is not None:
                self.by_tensor[id(tensor)] = known
        self.current[node] = self.placed[node] = known

    def argument(self, item: Any) -> Any:
        if isinstance(item, Node):
            found = self.current[item]
            if isinstance(found, _Untold):
                raise ExportError(
                    f"the forward uses what {found.words} returns, which is neither a tensor nor a number; "
                    "it cannot be planned"
                )
            return found
        if isinstance(item, list | tuple):
            return tuple(self.argument(i) for i in item)
        return item

    def written_by(self, program: Program, assigned: Iterable[str]) -> tuple[Value, ...]:
        """The state of the model that the program writes, or whose place it gives to another tensor."""
        found = [value for node, value in self.placed.items() if node.name in program.written]
        found += [state for state, _ in self.written]
        return tuple(dict.fromkeys((*found, *self.named(assigned))))

    def named(self, names: Iterable[str]) -> tuple[Value, ...]:
        """The state of these names."""
        found = (self.by_tensor.get(id(self.tensors[name])) for name in names)
        return tuple(dict.fromkeys(value for value in found if value is not None))

    def owner(self, node: Node) -> Owner:
        """The module that ran `node`, under the first of its names, as its tensors go by that too."""
        stack = node.meta.get("nn_module_stack") or {}
        path = ""
        for entry in stack.values():
            path = re.sub(r"@\d+$", "", entry[0])
        path = re.sub(r"^model\.?", "", path)
        module = self.modules.get(path)
        return Owner(path, nn.Module) if module is None else Owner(self.paths[id(module)], type(module))

    def calls_of(self, node: Node) -> tuple[Frame, ...]:
        number = notes_of(node).get("call")
        if number is None:
            return ()
        if number not in self.frames:
            found = [frame_of(running) for running in self.running[number]]
            self.frames[number] = tuple(f for f in found if f is not None) if all(found) else ()
        return self.frames[number]

    def call(self, node: Node) -> None:
        target = operator_of(node)
        if target is None:
            self.higher_order(node)
            return
        arguments: dict[str, Any] = {}
        for position, parameter in enumerate(schema_of(target).arguments):
            if position < len(node.args) and not parameter.kwarg_only:
                arguments[parameter.name] = self.argument(node.args[position])
            else:
                given = node.kwargs.get(parameter.name, parameter.default_value)
                arguments[parameter.name] = self.argument(given)
        fakes = node.meta.get("val")
        if fakes is None and schema_of(target).returns:
            # It raised an error, which the forward has caught.
            return
        several = isinstance(fakes, list | tuple)
        found: list[Any] = list(fakes) if isinstance(fakes, list | tuple) else [fakes]
        held = tuple(self.result(f, node) for f in found)
        results = tuple(value for value in held if isinstance(value, Value))
        views = self.written_back.get(node, ())
        op = self.op(node, functional_form(target) if views else target, arguments, results)
        if "adapting" in notes_of(node):
            op = adapt_op(op, *notes_of(node)["adapting"])
        self.ops.append(op)
        self.current[node] = held if several else held[0]
        written = written_by(node)
        if written is not None and results:
            self.current[written] = results[0]
            state = self.placed.get(storage_of(written))
            if state is not None:
                self.written.append((state, results[0]))
        for view in views:
            self.write_back(view, node)

    def arithmetic(self, node: Node) -> None:
        """Python arithmetic on numbers that were read from tensors."""
        dtype = number_type(node.meta.get("val"))
        operands = [self.argument(a) for a in node.args if a is not None]
        target = ARITHMETIC[node.target]
        parameters = schema_of(target).arguments
        names = [p.name for p in parameters if not p.kwarg_only and not p.has_default_value()]
        is_plain = all(isinstance(o, Value | int | float) for o in operands) and not node.kwargs
        if dtype is None or not is_plain or len(operands) != len(names):
            self.current[node] = _Untold(self.words(node))
            return
        computing = computing_type(operands, dtype)
        given = dict(zip(names, (self.cast(o, computing, node) for o in operands), strict=True))
        # Whatever gives a truth value compares, or computes with nothing else.
        found = self.compute(node, target, given, dtype if dtype is torch.bool else computing)
        self.current[node] = self.cast(found, dtype, node)

    def cast(self, operand: Any, dtype: torch.dtype, node: Node) -> Any:
        if not isinstance(operand, Value):
            return as_type(operand, dtype)
        if operand.dtype == dtype:
            return operand
        given = {"self": operand, "dtype": dtype}
        return self.compute(node, TO_COPY, given, dtype)

    def compute(self, node: Node, target: Overload, given: Mapping[str, Any], dtype: torch.dtype) -> Value:
        arguments = {p.name: given.get(p.name, p.default_value) for p in schema_of(target).arguments}
        result = self.number(dtype)
        self.ops.append(self.op(node, target, arguments, (result,)))
        return result

    def op(
        self,
        node: Node,
        target: Overload,
        arguments: dict[str, Any],
        results: tuple[Value, ...],
    ) -> Op:
        owner, calls = self.owner(node), self.calls_of(node)
        is_rigid = bool(notes_of(node).get("rigid"))
        is_inner = schema_of(target).name in _SHAPING and notes_of(node).get("function") not in _SHAPING_CALLS
        return Op(
            len(self.ops), target, MappingProxyType(arguments), results, owner, calls, is_rigid, is_inner
        )

    def write_back(self, view: Node, node: Node) -> None:
        """Give what `view` was taken from a new value, into which `node` has written through the view."""
        base, scatter = viewed_by(view), scatter_of(view)
        assert base is not None
        if scatter is None:
            self.current[base] = self.current[view]
            return
        taken = operator_of(view)
        assert taken is not None
        arguments: dict[str, Any] = {"self": self.current[base], "src": self.current[view]}
        for position, parameter in enumerate(schema_of(taken).arguments[1:], start=1):
            default = view.kwargs.get(parameter.name, parameter.default_value)
            given = view.args[position] if position < len(view.args) else default
            arguments[parameter.name] = self.argument(given)
        result = self.value(base.meta["val"], Origin.RESULT)
        self.ops.append(self.op(node, scatter, arguments, (result,)))
        self.current[base] = result

    def higher_order(self, node: Node) -> None:
        """Inline a region that only sets a mode (`no_grad`, autocast) around a subgraph."""
        if node.target is getitem:
            self.current[node] = self.argument(node.args[0])[node.args[1]]
            return
        if is_arithmetic(node):
            self.arithmetic(node)
            return
        regions = [
            a for a in node.args if isinstance(a, Node) and isinstance(self.current.get(a), GraphModule)
        ]
        if len(regions) != 1 or node.target not in _MODE_REGIONS:
            raise ExportError(
                f"the forward uses {node.target}, whose inner computation cannot be read; keep the module "
                f"{self.owner(node).path or 'that calls it'} out of the planned model"
            )
        region = regions[0]
        operands = [self.current[a] for a in node.args[node.args.index(region) + 1 :]]  # type: ignore[index]
        self.current[node] = self.inline(self.current[region].graph, operands)

    def inline(self, graph: FxGraph, operands: list[Any]) -> Any:
        supply = iter(operands)
        for node in graph.nodes:
            if node.op == "placeholder":
                self.current[node] = next(supply)
            elif node.op == "output":
                return self.argument(node.args[0])
            else:
                self.step(node)
        return None

    def step(self, node: Node) -> None:
        before = len(self.ops)
        if node.op == "placeholder":
            self.placeholder(node)
        elif node.op == "get_attr":
            owner = node.graph.owning_module
            self.current[node] = getattr(owner, str(node.target))
        elif node.op == "call_function" and not is_check(node):
            self.call(node)
        elif node.op == "output":
            self.outputs.extend(v for v in _flat(self.argument(node.args[0])) if isinstance(v, Value))
        notes = notes_of(node)
        held = self.current.get(node)
        if "root" in notes and isinstance(held, Value):
            self.roots[notes["root"]] = held.index
        if "numbers" in notes and node.op == "call_function" and operator_of(node) not in (None, TYPE_CHECK):
            self.calls.extend(
                NumberedCall(number, notes["numbers"]) for number in range(before, len(self.ops))
            )


def _flat(item: Any) -> Iterator[Any]:
    if isinstance(item, tuple):
        for part in item:
            yield from _flat(part)
    else:
        yield item


def freeze(program: Program, model: nn.Module, record: Record) -> Graph:
    """The immutable graph of `program`, traced from `model` while `record` watched its sizes.

    Raises:
        ExportError: the program holds something that no static graph can express.
    """
    freezer = _Freezer(program, model, record)
    for node in program.graph.nodes:
        freezer.step(node)
    attached = attach_sizes(tuple(freezer.ops), tuple(freezer.calls), freezer.roots, record)
    ops, guards, opaque, uses = attached
    consulted = freezer.named(record.consulted)
    # What is written into state is as good as returned, the next call reads it; so is what Python reads.
    outputs = (*freezer.outputs, *(result for _, result in freezer.written), *consulted)
    written = freezer.written_by(program, record.assigned)
    ends = tuple(freezer.inputs), outputs
    return require_well_formed(
        Graph(tuple(freezer.values), ops, *ends, guards, opaque, uses, written, consulted=consulted)
    )
