"""Trials of a model outside plain Python: compiled, traced and exported, always for more than one batch."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from speedup.modules.copying import copy_module
from tests.support.calling import arguments, cast, outputs, require_close
from tests.support.lively import Inputs
from tests.support.measure import MakeInputs

_TRACED_BATCH = 3
_BATCH_SIZES = (3, 7)
_TOLERANCE = 1e-9
_SINGLE_PRECISION = 1e-3
# torch.jit.trace computes numbers that derive from sizes, such as head_dim ** -0.5, in single precision.
_JIT_TOLERANCE = 1e-6


def compiled(
    model: nn.Module, original: nn.Module, make_inputs: MakeInputs, *, backend: str, whole: bool
) -> None:
    """`torch.compile`, as one graph where `whole`; the second batch size makes it compile for any."""
    torch._dynamo.reset()
    try:
        run = torch.compile(model, backend=backend, fullgraph=whole)
        _require_same_function(model, run, make_inputs)
    finally:
        torch._dynamo.reset()


def exported(model: nn.Module, original: nn.Module, make_inputs: MakeInputs) -> None:
    """`torch.export` with a dynamic batch."""
    inputs = make_inputs(_TRACED_BATCH, 1)
    args, kwargs = arguments(inputs)
    program = torch.export.export(model, args, kwargs, dynamic_shapes=_dynamic_batch(inputs), strict=False)
    _require_same_function(model, program.module(), make_inputs)


def jit_traced(model: nn.Module, original: nn.Module, make_inputs: MakeInputs) -> None:
    """`torch.jit.trace`."""
    inputs = make_inputs(_TRACED_BATCH, 1)
    example = (
        {"example_kwarg_inputs": dict(inputs)}
        if isinstance(inputs, dict)
        else {"example_inputs": arguments(inputs)[0]}
    )
    with torch.no_grad():
        traced = torch.jit.trace(model, **example, check_trace=False, strict=False)
    _require_same_function(model, traced, make_inputs, _JIT_TOLERANCE)


def fx_traced(model: nn.Module, original: nn.Module, make_inputs: MakeInputs) -> None:
    """`torch.fx.symbolic_trace`."""
    _require_same_function(model, fx.symbolic_trace(model), make_inputs)


def onnx_exported(model: nn.Module, original: nn.Module, make_inputs: MakeInputs) -> None:
    """`torch.onnx.export` with a dynamic batch, run by onnxruntime.

    In single precision: onnxruntime's CPU kernels for convolutions know no other.
    """
    single = copy_module(model, {}).to(torch.float32)
    inputs = cast(make_inputs(_TRACED_BATCH, 1), torch.float32)
    args, kwargs = arguments(inputs)
    program = torch.onnx.export(
        single, args, kwargs=kwargs, dynamic_shapes=_dynamic_batch(inputs), dynamo=True, verbose=False
    )
    assert program is not None
    for batch in _BATCH_SIZES:
        inputs = cast(make_inputs(batch, batch), torch.float32)
        require_close(outputs(single, inputs), outputs(program, inputs), _SINGLE_PRECISION)


EXPORT_TRIALS: dict[str, Callable[[nn.Module, nn.Module, MakeInputs], None]] = {
    "compile": partial(compiled, backend="aot_eager", whole=False),
    "fullgraph": partial(compiled, backend="aot_eager", whole=True),
    "inductor": partial(compiled, backend="inductor", whole=False),
    "export": exported,
    "jit": jit_traced,
    "fx": fx_traced,
    "ONNX": onnx_exported,
}


def _require_same_function(
    model: nn.Module, other: Any, make_inputs: MakeInputs, tolerance: float = _TOLERANCE
) -> None:
    for batch in _BATCH_SIZES:
        inputs = make_inputs(batch, batch)
        require_close(outputs(model, inputs), outputs(other, inputs), tolerance)


def _dynamic_batch(inputs: Inputs) -> Any:
    args, kwargs = arguments(inputs)
    dynamic = partial(pytree.tree_map, lambda leaf: {0: torch.export.Dim.AUTO} if _batched(leaf) else None)
    return dynamic(kwargs) if kwargs else dynamic(args)


def _batched(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.ndim > 0
