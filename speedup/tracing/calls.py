"""What the modules of a model are called with in one real forward, and what the code between them reads."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from attrs import define, field, frozen
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from speedup.ir.graph import Shape
from speedup.ir.inputs import Example, leaves_of
from speedup.modules.copying import copy_module, named_tensors
from speedup.modules.isolation import isolated, quiet, uncompiled, unfused
from speedup.modules.surroundings import is_tensor, surroundings_kept
from speedup.torch_api import DisableTorchFunction, TreeSpec, tree_flatten, tree_leaves
from speedup.tracing.trace import export_error

_SEED = 0
# An argument of another kind may hold tensors, or change during the call.
_PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.memory_format)
_ATTRIBUTES = ("dtype", "device", "layout", "requires_grad", "is_cuda", "is_meta", "ndim")
# What these read of a parameter is the same when it is smaller.
_SIZELESS: frozenset[Any] = frozenset(
    {*(getattr(Tensor, n).__get__ for n in _ATTRIBUTES), Tensor.dim, Tensor.is_floating_point}
)
LEAK = "tensors that it makes are read elsewhere although it does not return them"

CallKind = tuple[str, str, tuple[Shape, ...]]


@frozen(eq=False)
class ModuleCall:
    """One call of the module `path`, and the calls that it made in turn.

    Calls of equal `structure` have arguments that are equal up to the values and the `shapes` of
    tensors. `example` repeats the call; it is None where an earlier call is equal in both, or where
    `objection` says why the call cannot be repeated on its own. `reads` names the state that the
    module's own code reads, outside of the calls that it makes.
    """

    path: str
    structure: str
    shapes: tuple[Shape, ...]
    example: Example | None
    objection: str
    calls: tuple[ModuleCall, ...]
    reads: frozenset[str]

    @property
    def kind(self) -> CallKind:
        """Equal for calls that differ in values only."""
        return self.path, self.structure, self.shapes

    def all_calls(self) -> Iterator[ModuleCall]:
        """This call and all that were made during it."""
        yield self
        for call in self.calls:
            yield from call.all_calls()


def record_calls(model: nn.Module, example: Example) -> ModuleCall:
    """The call tree of one forward of `model` in eval mode; neither it nor the example is written.

    Raises:
        ExportError: the forward fails; names the module.
    """
    clone = copy_to_run(model)
    recorder = _Recorder(clone)
    run_copy(clone, example, recorder)
    return recorder.finish()


def copy_to_run(model: nn.Module) -> nn.Module:
    """A copy of `model` in eval mode. Buffers are its own, as a forward may write to them."""
    return copy_module(model, {id(p): p.detach() for p in model.parameters()}).eval()


def run_copy(clone: nn.Module, example: Example, watching: AbstractContextManager[Any] | None = None) -> None:
    """Run one forward of `clone`, in which `watching` is entered; the example is not written.

    Raises:
        ExportError: the forward fails; names the module.
    """
    args, kwargs = example.with_fresh_objects().call([t.clone() for t in example.tensors])
    try:
        kept = surroundings_kept(clone, is_tensor)
        with isolated(), kept, quiet(), unfused(), uncompiled(), torch.no_grad(), watching or nullcontext():
            torch.manual_seed(_SEED)
            clone(*args, **kwargs)
    except Exception as error:
        raise export_error(error, clone, "the model does not run on its example input") from error


@define(eq=False)
class _Frame:
    """A call under way."""

    path: str
    structure: str
    shapes: tuple[Shape, ...]
    example: Example | None
    objection: str
    caller: _Frame | None
    calls: list[_Frame] = field(factory=list)
    reads: set[str] = field(factory=set)
    is_open: bool = True

    def finish(self) -> ModuleCall:
        calls = tuple(call.finish() for call in self.calls)
        reads = frozenset(self.reads)
        return ModuleCall(self.path, self.structure, self.shapes, self.example, self.objection, calls, reads)


@define(eq=False)
class _Made:
    """A tensor made during a call, and the calls that returned it."""

    tensor: weakref.ref[Tensor]
    frame: _Frame
    returned_by: list[_Frame] = field(factory=list)


class _Recorder(TorchFunctionMode):
    """Watches one forward of `model`, which it hangs hooks on; of no use after that."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._names: dict[int, str] = {}
        for name, tensor in named_tensors(model):
            self._names.setdefault(id(tensor), name)
        self._root: _Frame | None = None
        self._frame: _Frame | None = None
        self._made: dict[int, _Made] = {}
        self._seen: set[CallKind] = set()
        for path, module in model.named_modules():
            module.register_forward_pre_hook(self._entering(path), prepend=True, with_kwargs=True)
            module.register_forward_hook(self._leaving, always_call=True)

    def finish(self) -> ModuleCall:
        assert self._root is not None
        return self._root.finish()

    def _entering(self, path: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            with DisableTorchFunction():
                leaves, spec = tree_flatten((args, kwargs))
                self._note_reads(leaves)
                frame = self._opened(path, leaves, spec)
            if self._frame is None:
                self._root = frame
            else:
                self._frame.calls.append(frame)
            self._frame = frame

        return hook

    def _opened(self, path: str, leaves: list[Any], spec: TreeSpec) -> _Frame:
        structure = f"{spec} {[_describe(leaf) for leaf in leaves]}"
        shapes = tuple(tuple(leaf.shape) for leaf in leaves if isinstance(leaf, Tensor))
        objection = _objection(leaves)
        example = None
        if not objection and (path, structure, shapes) not in self._seen:
            self._seen.add((path, structure, shapes))
            copies = [leaf.detach().clone() if isinstance(leaf, Tensor) else leaf for leaf in leaves]
            tensors = tuple(copy for copy in copies if isinstance(copy, Tensor))
            example = Example(tensors, tuple(copies), spec)
        return _Frame(path, structure, shapes, example, objection, self._frame)

    def _leaving(self, module: nn.Module, args: Any, output: Any) -> None:
        frame = self._frame
        assert frame is not None
        for _, leaf in leaves_of(output):
            made = self._origin(leaf)
            if made is not None:
                made.returned_by.append(frame)
        frame.is_open = False
        self._frame = frame.caller

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run `func`; note the state it reads, and where tensors come from that it reads and makes."""
        kwargs = kwargs or {}
        frame = self._frame
        if frame is None or func in _SIZELESS:
            return func(*args, **kwargs)
        leaves = tree_leaves((args, kwargs))
        self._note_reads(leaves)
        for leaf in leaves:
            self._note_leak(leaf)
        result = func(*args, **kwargs)
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and self._origin(leaf) is None and id(leaf) not in self._names:
                self._made[id(leaf)] = _Made(weakref.ref(leaf), frame)
        return result

    def _note_reads(self, leaves: list[Any]) -> None:
        """Arguments of a call count as read by its caller."""
        if self._frame is not None:
            self._frame.reads.update(self._names[id(leaf)] for leaf in leaves if id(leaf) in self._names)

    def _origin(self, leaf: Any) -> _Made | None:
        made = self._made.get(id(leaf))
        return made if made is not None and made.tensor() is leaf else None

    def _note_leak(self, leaf: Any) -> None:
        made = self._origin(leaf)
        frame = None if made is None else made.frame
        # Calls that are over by now must have returned the tensor for it to be read here.
        while made is not None and frame is not None and not frame.is_open:
            if frame not in made.returned_by:
                frame.objection = LEAK
            frame = frame.caller


def _describe(leaf: Any) -> Any:
    """A leaf without values and extents."""
    return (leaf.ndim, leaf.dtype, leaf.device) if isinstance(leaf, Tensor) else leaf


def _objection(leaves: list[Any]) -> str:
    """Why a call with these arguments cannot be repeated later; empty when it can."""
    for leaf in leaves:
        if isinstance(leaf, Tensor):
            if type(leaf) not in (Tensor, nn.Parameter, nn.Buffer):
                return f"it is called with a {type(leaf).__name__}"
        elif not isinstance(leaf, _PLAIN):
            return f"it is called with an object of class {type(leaf).__name__}"
    return "" if any(isinstance(leaf, Tensor) for leaf in leaves) else "it is called without a tensor"
