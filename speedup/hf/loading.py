"""Folders of small models, loaded by transformers into the planned model's class, cut while it is empty."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from speedup.building.binding import plain_model, require_architecture
from speedup.building.materializing import cut_model
from speedup.checkpoints.compacting import SPEEDUP_KEY
from speedup.checkpoints.stock import architecture_of, stock_class
from speedup.errors import CheckpointError, InputError, MissingPackageError
from speedup.hf.saving import save_small
from speedup.modules.fingerprints import TensorFingerprint, fingerprints_of
from speedup.plan import Plan
from speedup.stored.packed import CONFIG
from speedup.writing import StrPath


def from_pretrained(folder: StrPath, **options: Any) -> Any:
    """The small model in a folder that `compact_checkpoint` or `save_pretrained` wrote.

    It is loaded by transformers' own `from_pretrained`, into a subclass of the planned model's class whose
    constructor makes the small model of the large one, before there are any weights. Where some sizes in the
    config make the small model, the class is transformers' own. It computes what the masked model does, and
    its `save_pretrained` writes a folder of the same kind.

    Args:
        folder: on this machine.
        options: of transformers' `from_pretrained`, such as `device_map`, `dtype` or `attn_implementation`.

    Returns:
        A `transformers.PreTrainedModel`, in eval mode.

    Raises:
        CheckpointError: the folder has no `config.json` of a class of transformers, or no plan.
        PlanFormatError: its plan is damaged, or of another version.
        ArchitectureError: the installed transformers makes another model than was planned.
        ForeignSourceError: the plan's source is not that of the model's classes.
        InputError: `config` is among the options.
        MissingPackageError: transformers is not installed.
    """
    path = Path(folder)
    if "config" in options:
        raise InputError("config= is the folder's own: the plan is for that. Leave it out.")
    said = _read(path)
    kind = _class_of(path, said)
    own = said.get(SPEEDUP_KEY)
    if own is None:
        return kind.from_pretrained(path, **options)
    plan = _plan_in(path, own)
    config = kind.config_class.from_dict(dict(own["config"]))
    return _small_class(kind, plan, said).from_pretrained(path, config=config, **options)


def _read(folder: Path) -> Mapping[str, Any]:
    try:
        found = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{str(folder / CONFIG)!r} cannot be read ({type(error).__name__}: {error}). Name a folder that "
            "compact_checkpoint wrote."
        ) from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{str(folder / CONFIG)!r} is no config of transformers")
    return found


def _class_of(folder: Path, said: Mapping[str, Any]) -> Any:
    try:
        kind = stock_class(said)
    except ImportError as error:
        raise MissingPackageError(
            "speedup.hf needs transformers, which is not installed: pip install 'torch-speedup[hf]'"
        ) from error
    if kind is None:
        raise CheckpointError(
            f"{str(folder / CONFIG)!r} names {architecture_of(said)!r}, which is no model of the installed "
            "transformers"
        )
    return kind


def _plan_in(folder: Path, own: Any) -> Plan:
    name = own.get("plan") if isinstance(own, dict) and isinstance(own.get("config"), dict) else None
    if not isinstance(name, str) or Path(name).name != name:
        raise CheckpointError(f"{str(folder / CONFIG)!r} does not say where the plan is")
    try:
        text = (folder / name).read_bytes()
    except OSError as error:
        raise CheckpointError(
            f"the plan {str(folder / name)!r} cannot be read: {error.strerror}. It belongs to the weights; "
            "fetch it again."
        ) from error
    return Plan.from_json(text)


def _small_class(kind: Any, plan: Plan, said: Mapping[str, Any]) -> Any:
    """A subclass of `kind`, of its name, that makes small models; `said` is what their `config.json` says."""

    def construct(self: Any, config: Any, *args: Any, **kwargs: Any) -> None:
        kind.__init__(self, config, *args, **kwargs)
        _become_small(self, plan)

    def save(self: Any, save_directory: StrPath, **options: Any) -> None:
        save_small(self, plan, kind, said, save_directory, options)

    members = {
        "__module__": kind.__module__,
        "__qualname__": kind.__qualname__,
        "__doc__": kind.__doc__,
        "__init__": construct,
        "save_pretrained": save,
    }
    return type(kind.__name__, (kind,), members)


def _become_small(model: nn.Module, plan: Plan) -> None:
    # transformers makes models on the meta device, where no index could be looked up.
    with torch.device("cpu"), torch.no_grad():
        apart = _tied(model, plan)
        require_architecture(plan, model, fingerprints_of(model), dtypes=False)
        small = cut_model(plan, plain_model(plan, model).model)
        for name in apart:
            tied = small.get_parameter(name)
            _put(small, name, nn.Parameter(torch.empty_like(tied), tied.requires_grad))
    vars(model).clear()
    vars(model).update(vars(small))
    model.__class__ = type(small)


def _tied(model: nn.Module, plan: Plan) -> list[str]:
    """Tie the weights of `model` that are in the plan; the names of those that were not.

    transformers ties weights once they are loaded, and until then wants each to be by itself.
    """
    held = dict(model.named_parameters(remove_duplicate=False))
    known = (f for f in plan.subject.fingerprints if isinstance(f, TensorFingerprint))
    ties = {f.name: f.same_as for f in known if f.name in held and f.same_as in held}
    apart = [name for name, first in ties.items() if first and held[name] is not held[first]]
    for name in apart:
        _put(model, name, held[str(ties[name])])
    return apart


def _put(model: nn.Module, name: str, parameter: nn.Parameter) -> None:
    path, _, own = name.rpartition(".")
    setattr(model.get_submodule(path), own, parameter)
