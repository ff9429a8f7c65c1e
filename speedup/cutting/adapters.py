"""Low-rank adapters (LoRA) of the planned model become those of the small one."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from attrs import frozen
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from speedup.cutting.planned import PlannedTensors
from speedup.cutting.states import changed_value
from speedup.cutting.tensors import NO_CHANGE, TensorChange
from speedup.errors import AdapterError, ArchitectureError
from speedup.ir.edits import Slice
from speedup.parts import PlanParts
from speedup.writing import StrPath, new_folder

CONFIG: Final = "adapter_config.json"
WEIGHTS: Final = "adapter_model.safetensors"
_PREFIX = "base_model.model."
# The kind of a factor, and the name of the adapter in the state of a model that holds several.
_FACTOR = re.compile(r"(.*)\.(lora_(?:embedding_)?[AB])(?:\.(?!weight$)[^.]+)?(?:\.weight)?")
_SAVED = re.compile(r"\.modules_to_save\.[^.]+|\.base_layer")
_FOREIGN = re.compile(r"lora_|ada_?lora|ia3_|hada_|oft_|boft_|vera_|lokr_|prompt|ranknum")


@frozen
class _Target:
    """The weight that a pair of factors is added to, and its dimensions of rows and columns."""

    name: str
    row_dim: int
    column_dim: int


def apply_to_adapter(
    plan: PlanParts, adapter: Mapping[str, Any] | StrPath, dst: StrPath | None, is_transposed: bool
) -> dict[str, Tensor]:
    """See `Plan.apply_adapter`."""
    if isinstance(adapter, Mapping):
        found = _changed_adapter(PlannedTensors(plan), adapter, is_transposed)
    else:
        config = _read_config(Path(adapter))
        is_transposed = is_transposed or config.get("fan_in_fan_out") is True
        found = _changed_adapter(PlannedTensors(plan), _read_weights(Path(adapter)), is_transposed)
    if dst is not None:
        with new_folder(dst) as folder:
            if not isinstance(adapter, Mapping):
                shutil.copyfile(Path(adapter) / CONFIG, folder / CONFIG)
            save_file({name: t.contiguous() for name, t in found.items()}, folder / WEIGHTS, {"format": "pt"})
    return found


def _read_config(folder: Path) -> Mapping[str, Any]:
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        kind, has_norms = config.get("peft_type"), config.get("use_dora")
    except (OSError, ValueError, AttributeError) as error:
        raise AdapterError(
            f"{str(folder / CONFIG)!r} cannot be read ({type(error).__name__}: {error}). Name a folder that "
            "peft's save_pretrained wrote."
        ) from error
    if kind != "LORA":
        raise AdapterError(f"the adapter is of the kind {kind}; what can be cut is LORA. Merge it before.")
    if has_norms:
        raise AdapterError(_DORA)
    return config  # type: ignore[no-any-return]


_DORA = (
    "the adapter has lora_magnitude_vector (DoRA): it scales rows by norms over all columns, which the small "
    "model's rows do not have. Merge the adapter into the model before it is planned."
)


def _read_weights(folder: Path) -> Mapping[str, Tensor]:
    try:
        return load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise AdapterError(
            f"{str(folder / WEIGHTS)!r} is missing or damaged ({type(error).__name__}: {error}). Save the "
            "adapter as safetensors, as peft's save_pretrained does."
        ) from error


def _changed_adapter(
    planned: PlannedTensors, adapter: Mapping[str, Any], is_transposed: bool
) -> dict[str, Tensor]:
    result: dict[str, Tensor] = {}
    with torch.no_grad():
        for key, value in adapter.items():
            name = key.removeprefix(_PREFIX)
            factor = _FACTOR.fullmatch(name)
            if factor is not None:
                result[key] = _changed_factor(planned, key, factor[1], factor[2], value, is_transposed)
            elif "lora_magnitude_vector" in name:
                raise AdapterError(_DORA)
            elif _FOREIGN.search(name):
                raise AdapterError(
                    f"{key!r} is no factor of a LoRA, and it is not known how its entries belong to those of "
                    "the model. Merge the adapter into the model before it is planned."
                )
            else:
                result[key] = changed_value(planned, _SAVED.sub("", name), value)
    return result


def _changed_factor(
    planned: PlannedTensors, key: str, path: str, kind: str, value: Tensor, is_transposed: bool
) -> Tensor:
    """`A`, of shape (rank, columns, ...), loses columns of the weight, and `B`, (rows, rank, ...), rows."""
    is_table = "embedding" in kind
    row_dim, column_dim = (1, 0) if is_table or is_transposed else (0, 1)
    target = _Target(f"{path}.weight", row_dim, column_dim)
    change = _change_of(planned, target)
    shape = planned.fingerprints[planned.canonical(target.name)].shape
    own, dim = (1, target.column_dim) if kind.endswith("A") else (0, target.row_dim)
    if value.ndim < 2 or value.shape[own] != shape[dim]:
        raise AdapterError(
            f"{key!r} is of shape {tuple(value.shape)}, which does not fit {target.name!r} of shape {shape}. "
            "Pass an adapter of the planned model; fan_in_fan_out=True where weights list inputs first."
        )
    kept = change.kept(dim, shape[dim])
    new = value.index_select(own, kept.to(value.device))
    if change.mask is None:
        return new
    alive = _alive_of(change.mask, change, target, shape)[own]
    alive = alive.reshape([-1 if d == own else 1 for d in range(new.ndim)]).to(new.device)
    return torch.where(alive, new, torch.zeros((), dtype=new.dtype, device=new.device))


def _change_of(planned: PlannedTensors, target: _Target) -> TensorChange:
    """What becomes of the weight, if the plan holds for any numbers in it and cuts it along dimensions."""
    try:
        canonical = planned.canonical(target.name)
    except ArchitectureError as error:
        raise AdapterError(f"the adapter is for another model: {error}") from error
    if planned.depends_on(target.name):
        raise AdapterError(
            f"the plan holds for the planned numbers of {target.name!r} only, and an adapter changes them: "
            "constants were computed from it, or it held zeros. Mask biases along with their weights, so "
            "that the plan follows from masks alone; or merge the adapter into the model before."
        )
    change = planned.changes.get(canonical, NO_CHANGE)
    if not all(isinstance(edit, Slice) for edit in change.edits):
        raise AdapterError(
            f"of {target.name!r} each group keeps other columns, which one factor for all groups cannot "
            "follow. Merge the adapter into the model before it is planned."
        )
    return change


def _alive_of(
    mask: Tensor, change: TensorChange, target: _Target, shape: tuple[int, ...]
) -> tuple[Tensor, Tensor]:
    """Of the rows and columns that stay, those that the mask does not zero.

    Raises:
        AdapterError: it zeroes single entries, which no product of two factors does.
    """
    kept = mask.expand(shape)
    for dim in range(len(shape)):
        kept = kept.index_select(dim, change.kept(dim, shape[dim]))
    kept = kept.movedim((target.row_dim, target.column_dim), (0, 1)).bool()
    flat = kept.flatten(2) if kept.ndim > 2 else kept[..., None]
    rows, columns = flat.any(2).any(1), flat.any(2).any(0)
    if not torch.equal(flat, (rows[:, None, None] & columns[None, :, None]).expand(flat.shape)):
        raise AdapterError(
            f"the mask of {target.name!r} zeroes single entries of what stays, where a product of two "
            "factors is not zero. Mask whole rows and columns, or merge the adapter into the model before."
        )
    return rows, columns
