"""Which kinds of models can be planned at all."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx, nn

from speedup.errors import ModelError


def require_plannable(model: Any) -> None:
    """Raise unless `model` is a module in Python whose parameters exist.

    Raises:
        ModelError: says what to pass instead, or what to do first.
    """
    if isinstance(model, type):
        raise ModelError(f"the model is the class {model.__name__}; pass an instance, {model.__name__}(...)")
    if not isinstance(model, nn.Module):
        raise ModelError(f"the model is {type(model).__name__}; pass a torch.nn.Module")
    if isinstance(model, torch.jit.ScriptModule):
        raise ModelError("a TorchScript model has no Python forward; plan the module it was made from")
    if isinstance(model, fx.GraphModule) and _is_exported(model):
        raise ModelError("a program of torch.export is fixed to its sizes; plan the module it was made from")
    lazy = [name for name, p in model.named_parameters() if nn.parameter.is_lazy(p)]
    lazy += [name for name, b in model.named_buffers() if nn.parameter.is_lazy(b)]
    if lazy:
        raise ModelError(f"parameter {lazy[0]!r} is uninitialised; run the model once before planning it")


def _is_exported(model: fx.GraphModule) -> bool:
    """Whether `eval()` was replaced by an error, as on the modules that torch.export returns."""
    return "eval" in vars(model)
