"""Small models of transformers save themselves as what they are, and those of its kin refuse to.

Their own `save_pretrained` would write a config with the sizes of the planned model beside smaller tensors.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import attrs
from torch import nn

from speedup.errors import SavedModelError
from speedup.modules.copying import HeldAsIs
from speedup.plan import Plan
from speedup.writing import StrPath

# The room that knows transformers lies above this one, so that it is looked up when a model is saved.
_SAVING = "speedup.hf.saving"
# Packages whose models write what their constructor was given, from which the planned model is made again.
_KIN = ("diffusers", "huggingface_hub")


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


class RefusesToSave:
    """In the place of the method `save_pretrained` of models whose config cannot hold the small sizes."""

    def __init__(self, name: str, package: str) -> None:
        self.name, self.package = name, package

    def __call__(self, *args: Any, **options: Any) -> None:
        """Raises `SavedModelError`: nothing would load what is written."""
        raise SavedModelError(
            f"save_pretrained of {self.package} writes the sizes of the planned {self.name}, beside smaller "
            "tensors, which nothing loads. Write it by speedup.save(small, plan, path), and load it by "
            f"speedup.load(path, ...), which is given what makes the planned {self.name}."
        )


def let_save(small: nn.Module, plan: Plan) -> None:
    """Let `small`, which the plan made, write what it is, or nothing that is wrong.

    Nothing is done to models that no plan changed, or that are none of transformers or its kin.
    """
    if not plan.edits or not hasattr(small, "save_pretrained"):
        return
    if hasattr(getattr(small, "config", None), "to_json_string"):
        subject = attrs.evolve(plan.subject, model=None, islands=None, rules=None)
        vars(small)["save_pretrained"] = SavesSmall(small, attrs.evolve(plan, subject=subject))
    elif (package := _package_of(small)) is not None:
        vars(small)["save_pretrained"] = RefusesToSave(type(small).__name__, package)


def _package_of(small: nn.Module) -> str | None:
    """The package whose `save_pretrained` the model has, if that is known to write its config."""
    owner = next((base for base in type(small).__mro__ if "save_pretrained" in vars(base)), None)
    package = "" if owner is None else owner.__module__.partition(".")[0]
    return package if package in _KIN else None
