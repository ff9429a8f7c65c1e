"""Calls of operators written down as a forward makes them, on tensors without data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from operator import getitem
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.fx import Graph, Node

from speedup.ir.graph import Origin
from speedup.torch_api import (
    DEVICE_OF,
    PROFILING,
    TYPE_CHECK,
    DependsOnDataError,
    FakeTensorMode,
    Overload,
    ProxyTorchDispatchMode,
    WeakTensorKeyDictionary,
    fake_like,
    get_proxy_mode,
    get_proxy_slot,
    is_fake,
)
from speedup.tracing.forms import Forms
from speedup.tracing.program import Shaped

_ATEN = torch.ops.aten
# Copies of what is written down for nobody, and what a profiler is told.
_IDLE = frozenset({_ATEN.detach.default, *PROFILING})
_PLAIN = (Tensor, nn.Parameter, nn.Buffer)
_LIFTS = (_ATEN.lift_fresh.default, _ATEN.lift_fresh_copy.default)
_DETACHES = (_ATEN.detach.default, _ATEN.detach_.default)
_TO = (_ATEN.to.device, _ATEN.to.dtype, _ATEN.to.dtype_layout)


class GaveUpError(Exception):
    """The forward does what only torch.export follows."""


def node_of(tensor: Tensor) -> Node | None:
    """Which node of the trace under way made a tensor; None for one that it has not seen."""
    mode = get_proxy_mode()
    if mode is None:
        return None
    if isinstance(mode, Recorder):
        return mode.tape.found(tensor)
    slot = get_proxy_slot(tensor, mode.tracer, None)
    return None if slot is None else slot.proxy.node


def _write_checks(graph: Graph) -> None:
    """Write down, as torch.export does, of what type a tensor is that is turned into another type."""
    for node in graph.nodes:
        operand = node.args[0] if node.target in _TO else None
        if operand is None or (node.prev.target is TYPE_CHECK and node.prev.args[0] is operand):
            continue
        with graph.inserting_before(node):
            found = operand.meta["val"]
            named = {"dtype": found.dtype, "device": found.device, "layout": torch.strided}
            made = graph.call_function(TYPE_CHECK, (operand,), named)
        made.meta.update(val=None, nn_module_stack=node.meta["nn_module_stack"])


class Tape:
    """The graph that is written, the node that made each tensor, and which modules are running."""

    def __init__(self, flat: nn.Module) -> None:
        self.graph = Graph()
        self.fakes = FakeTensorMode(allow_non_fake_inputs=True)
        self.forms = Forms(self.fakes)
        # Weak, since torch copies what it has just made where somebody else holds it too.
        self._nodes: MutableMapping[Tensor, Node] = WeakTensorKeyDictionary()
        self._paths = {id(module): path for path, module in flat.named_modules()}
        self._running: list[str] = []
        self._state: dict[str, tuple[Origin, str]] = {}
        # In front of it stand the constants that the forward meets.
        self._first_input: Node | None = None
        self._constants: list[tuple[Node, Tensor, str]] = []
        self._attributes = _attributes(flat)

    def take(self, name: str, tensor: Tensor) -> Tensor:
        """A tensor without data in the place of a parameter or buffer of the model."""
        origin = Origin.PARAMETER if isinstance(tensor, nn.Parameter) else Origin.BUFFER
        fake, node = self._placeholder(name, tensor)
        self._state[node.name] = origin, name.removeprefix("model.")
        return fake

    def give(self, name: str, tensor: Tensor) -> Tensor:
        """A tensor without data in the place of an input."""
        fake, node = self._placeholder(name, tensor)
        self._first_input = self._first_input or node
        return fake

    def _placeholder(self, name: str, tensor: Tensor) -> tuple[Tensor, Node]:
        fake = fake_like(tensor, self.fakes)
        node = self.graph.placeholder(name.replace(".", "_"))
        self._bind(fake, node)
        return fake, node

    def found(self, tensor: Tensor) -> Node | None:
        """The node that made a tensor; None for one that comes from elsewhere."""
        return self._nodes.get(tensor)

    def node(self, tensor: Tensor) -> Node:
        """The node that made a tensor; a constant becomes state of the model."""
        node = self.found(tensor)
        if node is not None:
            return node
        if is_fake(tensor) or not is_plain(tensor):
            raise GaveUpError
        with self.graph.inserting_before(self._first_input):
            node = self.graph.placeholder("constant")
        self._bind(tensor, node)
        self._constants.append((node, tensor, self._running[-1] if self._running else ""))
        return node

    def call(self, target: Overload, args: Any, kwargs: Any, result: Any) -> None:
        """Write down a call and what it returned."""
        node = self.graph.call_function(target, args, kwargs)
        node.meta["nn_module_stack"] = {"": (self._running[-1] if self._running else "", "")}
        self._bind(result, node)

    def _bind(self, result: Any, node: Node) -> None:
        if isinstance(result, Tensor):
            node.meta["val"] = Shaped(tuple(result.shape), result.dtype, result.device)
            self._nodes[result] = node
        elif isinstance(result, list | tuple):
            node.meta["val"] = [None] * len(result)
            for position, part in enumerate(result):
                item = self.graph.call_function(getitem, (node, position))
                item.meta["nn_module_stack"] = node.meta["nn_module_stack"]
                self._bind(part, item)
                node.meta["val"][position] = item.meta["val"]
        else:
            node.meta["val"] = result

    def end(self, returned: Sequence[Tensor]) -> None:
        """Write down what the forward returns, and leave out what nobody reads."""
        self.graph.output(tuple(map(self.node, returned)))
        _write_checks(self.graph)
        self.graph.eliminate_dead_code(lambda node: node.target not in _IDLE)

    def state(self) -> tuple[Mapping[str, tuple[Origin, str]], Mapping[str, Tensor]]:
        """What each placeholder stands for, and the constants by their names."""
        state, constants, made = dict(self._state), {}, 0
        for node, tensor, path in self._constants:
            unread = _made_in_vain(node)
            for one in unread:
                self.graph.erase_node(one)
            if unread:
                continue
            name = self._attributes.get(id(tensor))
            if name is None:
                name = f"{path}.lifted_tensor_{made}".removeprefix(".")
                made += 1
            name = name.removeprefix("model.")
            state[node.name] = Origin.CONSTANT, name
            constants[name] = tensor
        return state, constants

    @contextmanager
    def following(self) -> Iterator[None]:
        """Know which module runs, while the forward does."""

        def call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            path = self._paths.get(id(module))
            if path is None:
                return plain(module, *args, **kwargs)
            self._running.append(path)
            try:
                return plain(module, *args, **kwargs)
            finally:
                self._running.pop()

        plain = nn.Module.__call__
        nn.Module.__call__ = call  # type: ignore[method-assign]
        try:
            yield
        finally:
            nn.Module.__call__ = plain  # type: ignore[method-assign]


class Recorder(ProxyTorchDispatchMode):  # type: ignore[no-untyped-call]
    """Writes the calls of operators that a forward makes onto a tape, before anything takes them apart."""

    def __init__(self, tape: Tape) -> None:
        super().__init__(cast(Any, tape), "real", pre_dispatch=True)
        self.tape = tape
        self.gave_up = False

    def __torch_dispatch__(
        self, func: Overload, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run `func` and write it down."""
        kwargs = kwargs or {}
        if func is DEVICE_OF:
            return func(*args, **kwargs)
        if func is _ATEN.lift_fresh.default:
            func = _ATEN.lift_fresh_copy.default
        if func is _ATEN.detach_.default and args[0].is_meta and self.tape.found(args[0]) is None:
            # `torch.tensor` lifts what it makes, but on the meta device it leaves that out.
            self.tape.call(_ATEN.lift_fresh_copy.default, (self.tape.node(args[0]),), {}, args[0])
        try:
            given, named = self._nodes_in(args), {name: self._nodes_in(one) for name, one in kwargs.items()}
            result = self.tape.forms.call(func, args, kwargs)
        except (GaveUpError, *DependsOnDataError) as error:
            self.gave_up = True
            raise GaveUpError from error
        # What is read from a constant is a plain number.
        if not isinstance(result, bool | int | float):
            self.tape.call(func, given, named, result)
        return result

    def _nodes_in(self, argument: Any) -> Any:
        if isinstance(argument, Tensor):
            return self.tape.node(argument)
        if isinstance(argument, list | tuple):
            return type(argument)(map(self._nodes_in, argument))
        if isinstance(argument, torch.SymInt | torch.SymFloat | torch.SymBool):
            raise GaveUpError
        return argument


def is_plain(tensor: Tensor) -> bool:
    """Whether a tensor is of no class of its own, and has its elements in memory."""
    return type(tensor) in _PLAIN and tensor.layout is torch.strided


def _attributes(flat: nn.Module) -> Mapping[int, str]:
    """By identity, tensors that modules keep under a name that is neither a parameter's nor a buffer's."""
    state = {id(t) for t in (*flat.parameters(), *flat.buffers())}
    found: dict[int, str] = {}
    for path, module in flat.named_modules():
        for name, value in vars(module).items():
            if isinstance(value, Tensor) and id(value) not in state:
                found.setdefault(id(value), f"{path}.{name}".removeprefix("."))
    return found


def _made_in_vain(constant: Node) -> list[Node]:
    """A constant that the forward makes and does not use, and the copies of it, readers first."""
    chain = [constant]
    for copies in (_LIFTS, _DETACHES):
        readers = list(chain[0].users)
        if not readers and chain[0] is not constant:
            return chain
        if len(readers) != 1 or readers[0].target not in copies:
            return []
        chain.insert(0, readers[0])
    return [] if chain[0].users else chain
