"""The names of torch that are not public, each with what it is for: the library has them from here alone.

All were seen in torch 2.13.0 and 2.14.1. Where a name has gone, or does something else, in another release,
`tests/test_torch_api.py` fails by that name; this module is then the one to change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from operator import attrgetter
from types import MappingProxyType
from typing import Any, Final

import torch
from torch import nn
from torch._dispatch.python import enable_python_dispatcher
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
    is_fake,
)
from torch.fx import config as fx_config
from torch.fx._lazy_graph_module import _use_lazy_graph_module as use_lazy_graph_module
from torch.fx.experimental.proxy_tensor import ProxyTorchDispatchMode, get_proxy_mode, get_proxy_slot
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm
from torch.nn.modules.batchnorm import _NormBase as NormBase
from torch.nn.modules.conv import _ConvNd as ConvNd
from torch.nn.modules.conv import _ConvTransposeNd as ConvTransposeNd
from torch.nn.modules.instancenorm import _InstanceNorm as InstanceNorm
from torch.utils._python_dispatch import _disable_current_modes as disable_current_modes
from torch.utils._pytree import TreeSpec, tree_flatten, tree_leaves, tree_map, tree_structure, tree_unflatten
from torch.utils.weak import WeakTensorKeyDictionary

__all__ = [  # noqa: RUF022  by what they are for
    # Operators: what a graph calls, and how its arguments are named.
    "Overload",  # `aten.add.Tensor`, which a node of an exported graph calls
    "Packet",  # `aten.add`: all overloads of a name, for which a table may have one rule
    "Schema",  # an operator's name, its arguments with their defaults, and which of them it writes
    "schema_of",
    "COPY",  # a tensor as it is, under another name
    "TO_COPY",  # a tensor in another type: what stands for Python's casts of numbers
    "TYPE_CHECK",  # what torch.export writes before a tensor is turned into another type
    "SYMBOLIC_MATH",  # by name: what torch.export writes for a function of the math module
    # What a call is given and returns, as a flat list of tensors, numbers and objects.
    "TreeSpec",
    "tree_flatten",
    "tree_unflatten",
    "tree_leaves",
    "tree_map",
    "tree_structure",
    # Tracing.
    "ProxyTorchDispatchMode",  # the only mode that sees operators before autograd takes them apart
    "FakeTensorMode",  # runs operators on tensors without data
    "fake_like",  # such a tensor in the place of one with data, made seven times faster than by its mode
    "hollow_tensor",  # any such tensor, made in the middle of a run under modes
    "is_alias_of",  # whether two tensors share storage, of tensors without data too
    "DependsOnDataError",  # what such a run raises where a number or an extent follows from the data
    "enable_python_dispatcher",  # lets such runs use what is written in Python for an operator
    "exporting_state",  # torch.compiler.is_exporting() and is_compiling() are true in it
    "WeakTensorKeyDictionary",  # of tensors by identity, which it does not keep alive
    "PROFILING",  # what a profiler is told: operators that compute nothing
    "DEVICE_OF",  # what asks for a tensor's device: no operator that computes
    "get_proxy_mode",  # the trace under way, whose last nodes are those that a call created
    "get_proxy_slot",  # the node that made a tensor
    "CUSTOM",  # key of `Node.meta` for what others note, which torch.export keeps through its passes
    "has_known_numbers",  # of a tensor of a trace, such as torch.tensor(3) makes
    "is_fake",  # whether a tensor is one of a trace, without data
    "disable_current_modes",  # to compute with numbers in the middle of a trace
    "DisableTorchFunction",  # to look at a call's arguments without that being taken for a call
    "use_lazy_graph_module",  # makes no source of graph modules, which nobody here reads
    "fx_config",  # `do_not_emit_stack_traces` does the same for the stack traces of nodes
    # Layers by what they have in common: the attributes that say how many channels there are.
    "ConvNd",
    "ConvTransposeNd",
    "NormBase",
    "BatchNorm",
    "InstanceNorm",
    # Inside modules and tensors.
    "modules_of",  # those that a module holds itself, under all of their names; None for one left out
    "parameters_of",  # those that a module holds itself; None for one that it was made without
    "unsaved_buffers_of",  # the names of those that state dicts leave out
    "STATE_METADATA",  # of a state dict: the versions of modules, by which these read their own state
    "pre_hooks_of",  # what runs before a forward: torch.nn.utils computes weights there
    "load_pre_hooks_of",  # what runs before a state dict is loaded; each may be wrapped, as `hook` of another
    "pruned_name_of",  # which attribute of its module a hook of torch.nn.utils.prune computes
    "CALL_IMPL",  # the code between `module(x)` and the forward, where a module's own frames end
    "WRAPPED_CALL_IMPL",  # the same, the outer one
    "QKV_SAME_EMBED_DIM",  # without this flag of its attention a transformer layer takes no fused path
    "make_subclass",  # a parameter of any class without its constructor, and no view
    "version_of",  # how often a tensor was written to
    "is_transformed",  # whether torch.func is at work on a tensor, as `vmap` and `grad` are
    # Where small models go; only recipes use these.
    "compile_package",  # AOTInductor: an exported program compiled into a file
    "load_package",  # such a file, to be called
]

Overload = torch._ops.OpOverload
Packet = torch._ops.OpOverloadPacket
Schema = torch._C.FunctionSchema
schema_of: Callable[[Overload], Schema] = attrgetter("_schema")
COPY: Final[Overload] = torch.ops.aten.alias.default
TO_COPY: Final[Overload] = torch.ops.aten._to_copy.default
TYPE_CHECK: Final[Overload] = torch.ops.aten._assert_tensor_metadata.default
_MATH = ("sqrt", "cos", "cosh", "sin", "sinh", "tan", "tanh", "asin", "acos", "atan", "log2")
SYMBOLIC_MATH: Final[Mapping[str, Callable[..., Any]]] = MappingProxyType(
    {name: getattr(torch, f"_sym_{name}") for name in _MATH}
)

DependsOnDataError = (DataDependentOutputException, DynamicOutputShapeException)
PROFILING: Final = (
    torch.ops.profiler._record_function_enter.default,
    torch.ops.profiler._record_function_enter_new.default,
    torch.ops.profiler._record_function_exit._RecordFunction,
)
DEVICE_OF: Final[Overload] = torch.ops.prim.device.default
CUSTOM: Final = "custom"
DisableTorchFunction = torch._C.DisableTorchFunction

modules_of: Callable[[nn.Module], dict[str, nn.Module | None]] = attrgetter("_modules")
parameters_of: Callable[[nn.Module], dict[str, nn.Parameter | None]] = attrgetter("_parameters")
unsaved_buffers_of: Callable[[nn.Module], set[str]] = attrgetter("_non_persistent_buffers_set")
STATE_METADATA: Final = "_metadata"
pre_hooks_of: Callable[[nn.Module], dict[int, Callable[..., Any]]] = attrgetter("_forward_pre_hooks")
load_pre_hooks_of: Callable[[nn.Module], dict[int, Any]] = attrgetter("_load_state_dict_pre_hooks")
pruned_name_of: Callable[[Callable[..., Any]], str] = attrgetter("_tensor_name")
CALL_IMPL: Final = nn.Module._call_impl.__code__
WRAPPED_CALL_IMPL: Final = nn.Module._wrapped_call_impl.__code__
QKV_SAME_EMBED_DIM: Final = "_qkv_same_embed_dim"
make_subclass = torch.Tensor._make_subclass
is_alias_of: Callable[[torch.Tensor, torch.Tensor], bool] = vars(torch._C)["_is_alias_of"]
is_transformed: Callable[[torch.Tensor], bool] = torch._C._functorch.is_functorch_wrapped_tensor
version_of: Callable[[torch.Tensor], int] = attrgetter("_version")


def fake_like(tensor: torch.Tensor, mode: FakeTensorMode) -> torch.Tensor:
    """A tensor without data of the shape, strides, type, device and class (parameter or not) of `tensor`."""
    shape, strides = tensor.shape, tensor.stride()
    hollow = torch.empty_strided(shape, strides, dtype=tensor.dtype, device="meta")
    fake = FakeTensor(mode, hollow, tensor.device)
    if isinstance(tensor, nn.Parameter):
        fake._is_param = True
    return fake.requires_grad_(tensor.requires_grad)


def hollow_tensor(
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    dtype: torch.dtype,
    device: torch.device,
    mode: FakeTensorMode,
) -> torch.Tensor:
    """A tensor without data, in storage of its own; modes under way do not see that it is made."""
    with torch._C._DisableTorchDispatch():
        hollow = torch.empty_strided(shape, strides, dtype=dtype, device="meta")
        return FakeTensor(mode, hollow, device)


def has_known_numbers(fake: torch.Tensor) -> bool:
    """Whether a tensor without data remembers its numbers, so that Python may read them."""
    return getattr(fake, "constant", None) is not None


@contextmanager
def exporting_state() -> Iterator[None]:
    """Run forwards under the settings of `torch.export`: they see that they are traced, no backend takes
    an operator apart, and autocast keeps no copies of parameters.
    """
    flags = "_is_compiling_flag", "_is_exporting_flag"
    before = [getattr(torch.compiler, flag) for flag in flags]
    caches = torch.is_autocast_cache_enabled()
    backends = [getattr(torch.backends, name) for name in ("cudnn", "mkldnn", "nnpack")]
    enabled = [backend.set_flags(False) for backend in backends]
    try:
        torch.set_autocast_cache_enabled(False)
        for flag in flags:
            setattr(torch.compiler, flag, True)
        yield
    finally:
        torch.set_autocast_cache_enabled(caches)
        for flag, value in zip(flags, before, strict=True):
            setattr(torch.compiler, flag, value)
        for backend, state in zip(backends, enabled, strict=True):
            backend.set_flags(*state)


def compile_package(exported: torch.export.ExportedProgram, package_path: str) -> str:
    """`torch._inductor.aoti_compile_and_package`, which imports the compiler; the path of the package."""
    from torch._inductor import aoti_compile_and_package

    return aoti_compile_and_package(exported, package_path=package_path)


def load_package(path: str) -> Callable[..., Any]:
    """`torch._inductor.aoti_load_package`: what the package computes, called like the model."""
    from torch._inductor import aoti_load_package

    return aoti_load_package(path)
