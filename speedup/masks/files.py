"""Reading mask files. Nothing in a file is executed."""

from __future__ import annotations

import importlib
import pickle
import re
from collections import OrderedDict
from collections.abc import Mapping

import torch

from speedup.errors import MaskFileError
from speedup.masks.problems import RefusedError

_HOW_TO_SAVE = "Save masks as plain tensors: torch.save({parameter_name: mask_tensor}, path)."


def read_masks(path: str) -> Mapping[str, object]:
    """What a mask file holds, on the CPU: a `.safetensors` file or one that `torch.save` wrote.

    A dict in it may also be a `defaultdict`, as NNI 3 makes them.

    Raises:
        RefusedError: missing, damaged, refused because it holds more than tensors, or no dict.
    """
    loaded: object
    try:
        if path.endswith(".safetensors"):
            loaded = importlib.import_module("safetensors.torch").load_file(path)
        else:
            # The unpickler fills no dict but plain and ordered ones: it makes those of defaultdicts.
            with torch.serialization.safe_globals([(_plain_dict, "collections.defaultdict"), dict]):
                loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file makes torch.load raise nearly anything
        what, advice = _file_problem(error)
        raise RefusedError(path, f"mask file {path!r} {what}", advice, MaskFileError) from error
    if not isinstance(loaded, Mapping):
        what = f"mask file {path!r} holds {type(loaded).__name__}, no dict"
        raise RefusedError(path, what, _HOW_TO_SAVE, MaskFileError)
    return {str(name): mask for name, mask in loaded.items()}


def _plain_dict(*_: object) -> OrderedDict[object, object]:
    """What stands for a defaultdict, whatever it would fill itself with."""
    return OrderedDict()


def _file_problem(error: Exception) -> tuple[str, str]:
    """What is wrong with a file that could not be read, and what to do."""
    match error:
        case ImportError():
            return "cannot be read without safetensors", "Run `pip install safetensors`."
        case OSError():
            return f"cannot be opened: {error.strerror or error}", "Check the path."
        case pickle.UnpicklingError():
            # The rest of torch's message says how to lift the refusal, which would be bad advice here.
            found = re.search(r"GLOBAL (\S+)", str(error))
            what = found[1] if found else "something other than tensors"
            return f"was refused, and nothing in it was executed: it holds {what}", _HOW_TO_SAVE
        case _:
            return f"is damaged, truncated or of another kind ({type(error).__name__})", _HOW_TO_SAVE
