"""Deep copies of a module in which some tensors are replaced, or in which all are shared.

`copy.deepcopy` already makes a complete native copy: ties, hooks, parametrizations and the flat weights of
recurrent layers survive. It takes its tensors from a memo where that has them, which is all that is needed
to swap or share them. What it refuses or forgets (cached non-leaf tensors, attributes set on parameters,
hooks of `torch.fx.GraphModule`, closures) is put right here.
"""

from __future__ import annotations

import contextlib
import copy
from collections import OrderedDict, deque
from collections.abc import Iterator, Mapping
from functools import partial
from types import BuiltinFunctionType, FunctionType, MemberDescriptorType, ModuleType
from typing import Any, TypeVar, cast

import torch
from attrs import frozen
from torch import fx, nn

from speedup.errors import SpeedupError
from speedup.modules.closures import renew_weak_references, twins_of, walk
from speedup.torch_api import make_subclass

ModuleT = TypeVar("ModuleT", bound=nn.Module)
_Slots = dict[type, tuple[MemberDescriptorType, ...]]


@frozen(eq=False)
class HeldAsIs:
    """Something about a module that holds none of its tensors, and that its copies keep, the very same."""

    value: Any

    def __deepcopy__(self, memo: dict[int, Any]) -> HeldAsIs:
        return self


# What a deep copy hands over as it is, and what therefore cannot hide a tensor from it.
_ATOMIC = (
    *(str, bytes, int, float, complex, type(None), type),
    *(ModuleType, FunctionType, BuiltinFunctionType, HeldAsIs),
)
# Most of what is met is of these types, which are looked up faster than classes are gone through.
_PLAIN = frozenset((str, bytes, int, float, complex, bool, type(None)))


def copy_module(model: ModuleT, replacements: Mapping[int, torch.Tensor]) -> ModuleT:
    """Return a deep copy of `model` that holds other tensors in place of some of its own.

    Classes, names, hooks, flags, `requires_grad` and ties are those of `model`. The copy shares no storage
    with it, has no gradients, and takes over the storage of the replacements. Cached tensors that are
    results of a computation (`weight` under `torch.nn.utils.prune`) become detached copies; the hooks that
    own them compute them anew. `model` is not written.

    Args:
        model: any module.
        replacements: `id` of a tensor of `model` -> the tensor that stands for it in the copy, of any
            shape, dtype and device. Where the old one is a `Parameter`, the new one becomes a `Parameter` of
            the same class and `requires_grad`.

    Raises:
        SpeedupError: a replacement is for no tensor of `model`, or some part of `model` cannot be copied.
    """
    reached = _reach(model)
    tensors = reached.tensors
    unknown = [shown for key, shown in replacements.items() if key not in tensors]
    if unknown:
        raise SpeedupError(
            f"{len(unknown)} of {len(replacements)} replacements are for no tensor of this"
            f" {type(model).__name__}; the first is of shape {tuple(unknown[0].shape)}."
            " Key each by the id() of a tensor that the model holds now."
        )
    replaced = {key: _dress(tensors[key], new) for key, new in replacements.items()}
    cleaned = {
        key: _clean_copy(tensor)
        for key, tensor in tensors.items()
        if key not in replaced and _needs_cleaning(tensor)
    }
    return _copy(model, reached, {**cleaned, **replaced}, required=replaced)


def share_module(model: ModuleT) -> ModuleT:
    """Return a structural copy of `model` that holds the very tensors of `model`.

    Its flags (`eval()`), hooks and attributes can be changed without `model` noticing. What writes to a
    tensor in place writes to that of `model`: a BatchNorm's forward in train mode, the first forward of an
    uninitialised module.

    Raises:
        SpeedupError: some part of `model` cannot be copied, or copies its tensors in a way of its own.
    """
    reached = _reach(model)
    return _copy(model, reached, reached.tensors, required=reached.tensors)


@frozen(eq=False)
class _Reached:
    """What a deep copy of a model comes across: every tensor by its id, and the functions."""

    tensors: Mapping[int, torch.Tensor]
    functions: tuple[FunctionType, ...]


def _reach(model: nn.Module) -> _Reached:
    """Tensors hide in plain attributes, containers, hooks and their owners, so all of these are walked."""
    # The values keep the objects alive, so that no id is used twice.
    seen: dict[int, object] = {}
    functions: dict[int, FunctionType] = {}
    slots: _Slots = {}
    pending: list[object] = [model]
    while pending:
        value = pending.pop()
        if type(value) in _PLAIN or id(value) in seen:
            continue
        if isinstance(value, FunctionType):
            functions[id(value)] = value
        elif not isinstance(value, _ATOMIC):
            seen[id(value)] = value
            pending.extend(_parts(value, slots))
    tensors = {key: value for key, value in seen.items() if isinstance(value, torch.Tensor)}
    return _Reached(tensors, tuple(functions.values()))


def held_tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and buffers, each parameter and each buffer under its first name."""
    return dict([*model.named_parameters(), *model.named_buffers()])


def every_tensor(model: nn.Module) -> Iterator[torch.Tensor]:
    """Every tensor that `model` holds: in attributes, containers, hooks, closures, and as its parameters."""
    held = walk([model], partial(_parts_of_whole, {}))
    return (value for value in held if isinstance(value, torch.Tensor))


def _parts_of_whole(slots: _Slots, value: object) -> Iterator[object]:
    return iter(()) if isinstance(value, _ATOMIC) else _parts(value, slots)


def _parts(value: object, slots: _Slots) -> Iterator[object]:
    """What `value` holds directly; `slots` caches the slots of each class."""
    if isinstance(value, dict):
        yield from value
        yield from value.values()
    elif isinstance(value, list | tuple | set | frozenset | deque):
        yield from value
    attributes = getattr(value, "__dict__", None)
    if isinstance(attributes, dict):
        yield from attributes.values()
    cls = type(value)
    if cls not in slots:
        members = (member for base in cls.__mro__ for member in vars(base).values())
        slots[cls] = tuple(member for member in members if isinstance(member, MemberDescriptorType))
    # Besides `__slots__` these are the `__self__` of a bound method and the arguments of a partial.
    for slot in slots[cls]:
        with contextlib.suppress(AttributeError):
            yield slot.__get__(value)


def _needs_cleaning(tensor: torch.Tensor) -> bool:
    """Whether deepcopy would copy a gradient along with `tensor`, or refuse it, as most sparse ones."""
    if nn.parameter.is_lazy(tensor):
        return not isinstance(tensor, nn.Parameter)
    return not tensor.is_leaf or tensor.grad is not None or tensor.layout is not torch.strided


def _clean_copy(tensor: torch.Tensor) -> torch.Tensor:
    """A copy of `tensor` without gradient and history."""
    if nn.parameter.is_lazy(tensor):
        buffer: Any = nn.parameter.UninitializedBuffer
        return cast(torch.Tensor, buffer(device=tensor.device, dtype=tensor.dtype))
    return _dress(tensor, tensor.detach().clone())


def _dress(old: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
    """The data of `new` with the `requires_grad` and, if that is a parameter, the class of `old`."""
    data = new.detach()
    is_parameter = isinstance(old, nn.Parameter)
    if issubclass(type(old), nn.Parameter):
        # The constructor of a subclass may want arguments that nobody here knows. Nor is this a view, as
        # `as_subclass` makes: how torch multiplies by a matrix depends on whether it is one.
        data = make_subclass(type(old), data, False)
    elif is_parameter:
        data = nn.Parameter(data, requires_grad=False)
    return data.requires_grad_(old.requires_grad and (is_parameter or old.is_leaf))


def _copy(
    model: ModuleT,
    reached: _Reached,
    chosen: Mapping[int, torch.Tensor],
    required: Mapping[int, torch.Tensor],
) -> ModuleT:
    """A deep copy of `model` with the `chosen` tensors, of which the `required` ones must have arrived."""
    before = [(vars(module), dict(vars(module))) for module in model.modules()]
    memo: dict[int, Any] = {**dict(_empty_tables(model)), **chosen}
    twins = twins_of(model, reached.functions, partial(_parts_of_whole, {}))
    memo.update({id(twin.old): twin.new for twin in twins})
    try:
        copied = copy.deepcopy(model, memo)
        for twin in twins:
            twin.fill(memo)
        renew_weak_references(model, memo)
        _restore_graph_modules(model, memo)
        _copy_attributes(reached.tensors, memo)
    except Exception as error:
        raise SpeedupError(
            f"cannot copy this {type(model).__name__}{_uncopiable(model, reached.tensors)}:"
            f" {type(error).__name__}: {error}. Remove that attribute or hook, or let it be deep-copied."
        ) from error
    finally:
        # Recurrent layers refresh their cached weight lists when they are asked for their state.
        for state, saved in before:
            if state.keys() != saved.keys() or any(state[name] is not saved[name] for name in saved):
                state.clear()
                state.update(saved)
    _check_arrived(model, copied, required)
    return copied


def _empty_tables(model: nn.Module) -> Iterator[tuple[int, Any]]:
    """Copies, by id, of the tables without entries that modules hold: a dozen each, for hooks above all.

    A deep copy goes a long way around to make these.
    """
    for module in model.modules():
        for value in vars(module).values():
            if type(value) in (dict, OrderedDict) and not value and not getattr(value, "__dict__", None):
                yield id(value), type(value)()


def _restore_graph_modules(model: nn.Module, memo: dict[int, Any]) -> None:
    """Give copied graph modules back the hooks, attributes and tensors that their own copying drops."""
    of_any_module = vars(nn.Module())
    for module in model.modules():
        twin = memo.get(id(module))
        if isinstance(module, fx.GraphModule) and twin is not None:
            for name, value in vars(module).items():
                if name in of_any_module or name not in vars(twin):
                    vars(twin)[name] = copy.deepcopy(value, memo)


def _copy_attributes(tensors: Mapping[int, torch.Tensor], memo: dict[int, Any]) -> None:
    """Copy what users set on tensors (`weight.no_weight_decay = True`): parameters lose it in a deep copy."""
    for key, tensor in tensors.items():
        twin = memo.get(key)
        if twin is not None and twin is not tensor and vars(tensor):
            vars(twin).update(copy.deepcopy(vars(tensor), memo))


def _uncopiable(model: nn.Module, tensors: Mapping[int, torch.Tensor]) -> str:
    """Where the first attribute is that deepcopy refuses, as a phrase; empty if it cannot be told."""
    # Sharing every tensor keeps this search from copying the weights again.
    memo: dict[int, Any] = dict(tensors)
    # Children come first, so that the innermost owner is blamed.
    for path, module in reversed(list(model.named_modules())):
        for name, value in vars(module).items():
            try:
                copy.deepcopy(value, memo)
            except Exception:
                return f", because of attribute {name!r} of module {path!r} ({type(module).__name__})"
    return ""


def _check_arrived(model: nn.Module, copied: nn.Module, required: Mapping[int, torch.Tensor]) -> None:
    """Raise unless `copied` holds the required tensors where `model` holds those they stand for."""
    arrived = dict(named_tensors(copied))
    for name, tensor in named_tensors(model):
        if id(tensor) in required and arrived.get(name) is not required[id(tensor)]:
            owner = model.get_submodule(name.rpartition(".")[0])
            raise SpeedupError(
                f"the copy of {name!r} is not the tensor that was asked for: {type(owner).__name__}, or a"
                " module around it, copies itself in its own way (__deepcopy__, or TorchScript)."
                " Let its __deepcopy__ honour the memo, or pass the plain Python module."
            )


def named_tensors(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Parameters and buffers by all their names."""
    yield from model.named_parameters(remove_duplicate=False)
    yield from model.named_buffers(remove_duplicate=False)
