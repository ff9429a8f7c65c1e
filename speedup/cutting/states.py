"""State dicts of the planned model become those of the small one."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from speedup.cutting.blocks import changed_tensor
from speedup.cutting.boxes import changed_where_it_lies, is_sharded, placed_like, whole_of
from speedup.cutting.planned import PlannedTensors
from speedup.cutting.tensors import TensorChange
from speedup.errors import InputError, OtherWeightsError
from speedup.modules.fingerprints import checksum
from speedup.modules.plannable import require_plain_tensor
from speedup.parts import PlanParts
from speedup.torch_api import STATE_METADATA

# Of what is read piece by piece, at most so many bytes are in memory at once besides the result.
_BLOCK = 1 << 24
# What `nn.Module.get_extra_state` returns stands in a state dict under this name; no plan changes it.
_EXTRA = "_extra_state"


@runtime_checkable
class SliceOfFile(Protocol):
    """A tensor in a file, of which rows can be read: what `safe_open(...).get_slice(name)` returns."""

    def get_shape(self) -> list[int]: ...

    def __getitem__(self, rows: Any) -> Tensor: ...


def apply_to_state(plan: PlanParts, state: Mapping[str, Any]) -> dict[str, Any]:
    """See `Plan.apply`."""
    planned = PlannedTensors(plan)
    result: OrderedDict[str, Any] = OrderedDict()
    met: set[str] = set()
    with torch.no_grad():
        for name in state:
            if name.rpartition(".")[2] == _EXTRA:
                result[name] = state[name]
                continue
            canonical = planned.canonical(name)
            result[name] = small = changed_value(planned, name, state[name])
            for edit in () if canonical in met else planned.new_biases(canonical):
                value = edit.value.tensor.to(device=small.device, dtype=small.dtype, copy=True)
                result[edit.name] = placed_like(small, value)
            met.add(canonical)
    metadata = getattr(state, STATE_METADATA, None)
    if metadata is not None:
        vars(result)[STATE_METADATA] = metadata
    return result


def require_planned_numbers(planned: PlannedTensors, name: str, found: int) -> None:
    """Raise unless tensor `name`, whose checksum is `found`, holds the numbers that were planned.

    Raises:
        OtherWeightsError: it holds others.
    """
    if found != planned.fingerprints[planned.canonical(name)].checksum:
        raise OtherWeightsError(
            f"the plan depends on weights that this state does not have: {name!r} holds other numbers than "
            "planned. Constants were computed from it, or it held zeros. Pass the state that was planned, or "
            "plan a model with this one; for averaged weights (EMA) that is the averaged model."
        )


def changed_value(planned: PlannedTensors, name: str, value: Any) -> Tensor:
    """What becomes of `value`, the planned model's tensor `name`; raises what `Plan.apply` does."""
    if isinstance(value, Tensor):
        if not is_sharded(value):
            require_plain_tensor(name, value)
        source: _InMemory | _InFile = _InMemory(value.detach())
    elif isinstance(value, SliceOfFile):
        source = _InFile(value)
    else:
        raise InputError(
            f"{name!r} is {type(value).__name__}; pass tensors by name, as model.state_dict() returns them, "
            "or slices of a safetensors file"
        )
    change = planned.change(name, source.shape, source.dtype)
    if planned.depends_on(name):
        require_planned_numbers(planned, name, checksum(source.whole()))
    return source.changed(change)


class _InMemory:
    """A tensor. Where it is mapped from a file, no more of that is read than what is looked at."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor, self.shape, self.dtype = tensor, tuple(tensor.shape), tensor.dtype

    def whole(self) -> Tensor:
        return whole_of(self.tensor)

    def changed(self, change: TensorChange) -> Tensor:
        return changed_where_it_lies(self.tensor, change.whole)


class _InFile:
    """A tensor of which rows are read as they are needed."""

    def __init__(self, source: SliceOfFile) -> None:
        self.source, self.shape = source, tuple(source.get_shape())
        self.dtype = source[:0].dtype if self.shape else source[...].dtype

    def whole(self) -> Tensor:
        return self.source[...]

    def read(self, start: int, stop: int) -> Tensor:
        return self.source[start:stop] if self.shape else self.source[...]

    def changed(self, change: TensorChange) -> Tensor:
        return changed_tensor(change, self, _BLOCK)
