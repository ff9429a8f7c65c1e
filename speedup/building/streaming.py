"""The small model made of a checkpoint on disk: nothing larger than itself is ever in memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import attrs
import torch
from torch import Tensor, nn

from speedup.building.applying import change_modules, hollow_copy
from speedup.building.binding import calls_on, plain_model, require_architecture
from speedup.building.verifying import check_structure
from speedup.cutting.blocks import changed_tensor
from speedup.cutting.planned import PlannedTensors
from speedup.errors import ModelError
from speedup.modules.copying import copy_module, every_tensor, held_tensors
from speedup.modules.fingerprints import fingerprints_of
from speedup.modules.plannable import require_weights
from speedup.plan import Plan
from speedup.stored.changes import stored_changes
from speedup.stored.reading import read_checkpoint
from speedup.writing import StrPath

_BLOCK = 1 << 24
_ADVICE = (
    "it has no numbers in the model, which is on the meta device. Pass as model= one whose tensors other "
    "than parameters are there, such as one made under accelerate.init_empty_weights()."
)


def build_from_checkpoint(
    plan: Plan,
    model: nn.Module | None,
    checkpoint: StrPath,
    device: torch.device | str | None,
    *,
    checked: bool,
) -> nn.Module:
    """See `materialize`; `checked` says whether the small model's trace is compared with the plan.

    All that can be found out is, before the first tensor is read.
    """
    given = plan.subject.planned_model() if model is None else model
    require_weights(given)
    plain = plain_model(plan, given).model
    require_architecture(plan, plain, fingerprints_of(plain), dtypes=False)
    held = held_tensors(plain)
    _require_numbers(plain, held)
    if checked and not plan.subject.is_rehearsed:
        # The model's parameters may be on the meta device and its buffers on another one.
        placed = attrs.evolve(plan, subject=calls_on(plan.subject, torch.device("cpu")))
        check_structure(placed, hollow_copy(plain, plan.edits, "cpu"))
    with torch.no_grad():
        read = dict(_tensors(plan, held, checkpoint, device))
        small = copy_module(plain, {id(held[name]): tensor for name, tensor in read.items()})
    change_modules(small, plan.edits)
    return small


def _tensors(
    plan: Plan, held: Mapping[str, Tensor], checkpoint: StrPath, device: torch.device | str | None
) -> Iterator[tuple[str, Tensor]]:
    """The small model's tensors by canonical name, of the checkpoint or, where it has none, of `held`."""
    planned, stored = PlannedTensors(plan), read_checkpoint(checkpoint)
    changes = stored_changes(planned, stored)
    places: dict[str, str] = {}
    for name in changes:
        places.setdefault(planned.canonical(name), name)
    without = next((name for name, tensor in held.items() if name not in places and tensor.is_meta), None)
    if without is not None:
        raise ModelError(f"buffer {without!r} is in no checkpoint, and {_ADVICE}")
    for name, tensor in held.items():
        place = places.get(name)
        if place is None:
            yield name, planned.change(name, tensor.shape, tensor.dtype).whole(tensor).to(device)
        else:
            yield name, changed_tensor(changes[place], stored.tensors[place], _BLOCK, device)


def _require_numbers(model: nn.Module, held: Mapping[str, Tensor]) -> None:
    """Raise if tensors that are neither parameters nor buffers are on the meta device."""
    known = {id(tensor) for tensor in held.values()}
    if any(tensor.is_meta and id(tensor) not in known for tensor in every_tensor(model)):
        raise ModelError(
            f"{type(model).__name__} holds a tensor that is neither a parameter nor a buffer, and {_ADVICE}"
        )
