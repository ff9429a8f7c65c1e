"""Short programs to copy from, one file each: from what people have to a small model, and where it goes then.

`python -m speedup.recipes` lists them, `python -m speedup.recipes NAME` runs one. A test runs each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from types import MappingProxyType

from speedup.recipes.made import Made

__all__ = ["RECIPES", "Made", "load_recipe"]

RECIPES: Mapping[str, tuple[str, tuple[str, ...]]] = MappingProxyType(
    {
        "prune_hooks": ("prune_with_torch", ()),
        "pruning_history": ("prune_with_torch_pruning", ("torch_pruning",)),
        "nni_file": ("read_nni_masks", ()),
        "timm_model": ("shrink_timm", ("timm",)),
        "bert": ("shrink_bert", ("transformers",)),
        "llama": ("shrink_llama", ("transformers",)),
        "yolo": ("shrink_yolo", ("ultralytics",)),
        "lightning_module": ("train_with_lightning", ("lightning",)),
        "onnx_file": ("run_in_onnxruntime", ("onnx", "onnxruntime", "onnxscript")),
        "ahead_of_time": ("compile_ahead", ()),
        "quantised": ("quantise_after", ()),
    }
)
"""Name of a file here -> its function, and the packages that it needs beside this one."""


def load_recipe(name: str) -> Callable[[], Made]:
    """The function of a recipe, with nothing run yet.

    Raises:
        KeyError: there is no recipe of that name.
    """
    function, _ = RECIPES[name]
    recipe: Callable[[], Made] = getattr(import_module(f"speedup.recipes.{name}"), function)
    return recipe
