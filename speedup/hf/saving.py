"""Small models saved by transformers, with a config that tells what they are."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from speedup.checkpoints.compacting import PLAN_FILE, new_config
from speedup.checkpoints.stock import OwnForm, StockForm, find_form
from speedup.cutting.planned import shapes_fault
from speedup.errors import FileWriteError, InputError, ModelError, SavedModelError
from speedup.ir.edits import SetAttribute
from speedup.modules.copying import held_tensors
from speedup.modules.rewritten import rewritten_functions_of
from speedup.plan import Plan
from speedup.stored.packed import CONFIG
from speedup.writing import StrPath

_CONFIG_PREFIX = "config."


def save_pretrained(small: nn.Module, plan: Plan, folder: StrPath, **options: Any) -> None:
    """Save what `materialize(plan)` made of a model of transformers, trained since or not.

    The model's own `save_pretrained` comes here too. The stock one would write the sizes of the planned model
    beside tensors of other shapes. The folder is one that `speedup.hf.from_pretrained` loads; where some
    sizes in a config make the small model without scaling any weight, the class's own `from_pretrained` does
    too.

    Args:
        small: the small model, a `transformers.PreTrainedModel`.
        plan: its plan.
        folder: made where it is not there; weights in it that are not written anew are removed.
        options: of transformers' `save_pretrained`, such as `max_shard_size`.

    Raises:
        ModelError: the model is none of transformers.
        SavedModelError: it is not what this plan makes, or was planned when it was small already.
        InputError: `push_to_hub` is among the options.
        FileWriteError: the folder cannot be written to.
    """
    config: Any = getattr(small, "config", None)
    if not hasattr(small, "save_pretrained") or config is None:
        raise ModelError(f"{type(small).__name__} is no model of transformers; write it with speedup.save")
    fault = shapes_fault({name: tuple(tensor.shape) for name, tensor in held_tensors(small).items()}, plan)
    if fault is not None:
        raise SavedModelError(
            f"the model is not what this plan makes: {fault}. Pass the plan's own small model."
        )
    kind = next(k for k in type(small).__mro__ if not rewritten_functions_of(k))
    config = {**json.loads(config.to_json_string()), "architectures": [kind.__name__], **_sizes_before(plan)}
    form = find_form(plan, config)
    if isinstance(form, OwnForm) and form.is_foreign:
        raise SavedModelError(
            f"the config of {kind.__name__} does not make the model that was planned: {form.reason} Of "
            "several plans, one after the other, no folder of transformers tells; write the model with "
            "speedup.save."
        )
    said = new_config(config, form if not isinstance(form, StockForm) or not form.factors else form.unscaled)
    save_small(small, plan, kind, said, folder, options)


def save_small(
    small: Any, plan: Plan, kind: Any, said: Mapping[str, Any], folder: StrPath, options: Mapping[str, Any]
) -> None:
    """Write `small` as `kind` does, but with the config that is `said`, and its plan.

    All is written beside the folder first; the config, without which nothing loads it, goes there last.
    """
    if options.get("push_to_hub"):
        raise InputError("push_to_hub= would upload the planned model's sizes; upload the folder afterwards")
    target, text = Path(folder), plan.to_json()
    try:
        target.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as name:
            written = Path(name)
            kind.save_pretrained(small, written, **options)
            (written / PLAN_FILE).write_text(text, encoding="utf-8")
            (written / CONFIG).write_text(json.dumps(said, indent=2) + "\n", encoding="utf-8")
            (target / CONFIG).unlink(missing_ok=True)
            new = sorted(written.iterdir(), key=lambda file: file.name == CONFIG)
            for stale in target.glob("model*.safetensors*"):
                if stale.name not in {file.name for file in new}:
                    stale.unlink()
            for file in new:
                os.replace(file, target / file.name)
    except OSError as error:
        raise FileWriteError(f"{os.fspath(folder)!r} cannot be written: {error}") from error


def _sizes_before(plan: Plan) -> dict[str, Any]:
    """Entries of the config that the plan changes, as they were: the plan is for a model made from these."""
    edits = (edit for edit in plan.edits if isinstance(edit, SetAttribute))
    return {
        edit.attribute.removeprefix(_CONFIG_PREFIX): edit.before
        for edit in edits
        if edit.attribute.startswith(_CONFIG_PREFIX)
    }
