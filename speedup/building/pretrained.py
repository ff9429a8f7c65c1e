"""Small models of transformers save themselves as what they are.

Their own `save_pretrained` would write a config with the sizes of the planned model beside smaller tensors.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import attrs
from torch import nn

from speedup.modules.copying import HeldAsIs
from speedup.plan import Plan
from speedup.writing import StrPath

# The room that knows transformers lies above this one, so that it is looked up when a model is saved.
_SAVING = "speedup.hf.saving"


class SavesSmall:
    """In the place of the method `save_pretrained` of one model; copies of the model have their own."""

    def __init__(self, small: nn.Module, plan: Plan) -> None:
        self.small = small
        self.plan = HeldAsIs(plan)

    def __call__(self, save_directory: StrPath, is_main_process: bool = True, **options: Any) -> None:
        """As `speedup.hf.save_pretrained` does; the options are those of transformers.

        Raises:
            SavedModelError: the model is no longer what its plan makes, or came out of several plans.
            InputError: `push_to_hub` is among the options.
            FileWriteError: the folder cannot be written to.
        """
        if is_main_process:
            import_module(_SAVING).save_pretrained(self.small, self.plan.value, save_directory, **options)


def let_save(small: nn.Module, plan: Plan) -> None:
    """Let `small`, which the plan made, write what it is; nothing is done to models that are none of
    transformers, or that no plan changed.
    """
    config = getattr(small, "config", None)
    if plan.edits and hasattr(small, "save_pretrained") and hasattr(config, "to_json_string"):
        subject = attrs.evolve(plan.subject, model=None, islands=None, rules=None)
        vars(small)["save_pretrained"] = SavesSmall(small, attrs.evolve(plan, subject=subject))
