"""Weights that a library for quantisation has packed: no row or column of them is one of the tensor."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from types import MappingProxyType

from speedup.errors import CheckpointError

CONFIG = "config.json"

# By the last part of a tensor's name, what it is a part of.
_PARTS = MappingProxyType(
    {
        "qweight": "GPTQ or AWQ",
        "qzeros": "GPTQ or AWQ",
        "g_idx": "GPTQ",
        "weight_scale_inv": "fp8 in blocks",
        "weight_scale": "fp8 or int8 with scales",
        "input_scale": "fp8 with scales",
        "weight_packed": "compressed-tensors",
        "weight_zero_point": "compressed-tensors",
        "SCB": "bitsandbytes in 8 bits",
        "absmax": "bitsandbytes in 4 bits",
        "quant_map": "bitsandbytes in 4 bits",
        "weight_blocks": "mxfp4",
        "gate_up_proj_blocks": "mxfp4",
        "down_proj_blocks": "mxfp4",
    }
)


def require_unpacked(folder: Path, names: Iterable[str]) -> None:
    """Raise if the tensors in `folder`, of these `names`, are packed.

    Raises:
        CheckpointError: says how they are packed, and what to do.
    """
    method = _method(folder)
    how = None if method is None else f"quantization_config of its {CONFIG} says {method!r}"
    for name in names:
        kind = _PARTS.get(name.rpartition(".")[2])
        if how is None and kind is not None:
            how = f"tensor {name!r} is of {kind}"
    if how is not None:
        raise CheckpointError(
            f"the weights in {str(folder)!r} are packed: {how}. Rows and columns of such weights cannot be "
            "taken out. Make the checkpoint smaller as it was before, and quantise the smaller one."
        )


def _method(folder: Path) -> str | None:
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    found = config.get("quantization_config") if isinstance(config, dict) else None
    return str(found.get("quant_method", "quantised")) if isinstance(found, dict) else None
