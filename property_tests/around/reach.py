"""Which operators a network can hold: all overloads of the table of rules but a few, each with its reason."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from speedup.rules import STANDARD
from tests.support.ruled import UNCALLABLE, own_overloads

_DATA = "the size of its result depends on the data, so that no trace has it"
_ASKS = "asks for values while it is traced"
_NARROW = "works on numbers of 16 or 8 bits only"
_SYMBOL = "checks a size that no trace knows, and traces here know them all"
_QUANTIZED = "reads or makes quantised tensors, which torch.export does not trace"

UNREACHED: Mapping[str, str] = {
    **UNCALLABLE,
    **dict.fromkeys(
        (
            *("aten.nonzero.default", "aten.nonzero_numpy.default", "aten.argwhere.default"),
            *("aten.where.default", "aten.masked_select.default", "aten.bincount.default"),
            *("aten.unique_dim.default", "aten.unique_consecutive.default", "aten._unique2.default"),
            *("aten.repeat_interleave.self_Tensor", "aten.linalg_lstsq.default"),
            *("aten.ctc_loss.IntList", "aten.ctc_loss.Tensor"),
            *("aten._ctc_loss.default", "aten._ctc_loss.Tensor"),
        ),
        _DATA,
    ),
    **dict.fromkeys(
        (
            *("aten.narrow.Tensor", "aten.cov.default", "aten.corrcoef.default"),
            *("aten.randint_like.Tensor_generator", "aten.random_.from"),
        ),
        _ASKS,
    ),
    **dict.fromkeys(("aten._assert_scalar.default", "aten.sym_constrain_range_for_size.default"), _SYMBOL),
    **dict.fromkeys(
        (
            *("aten.quantize_per_tensor.default", "aten.quantize_per_tensor.tensor_qparams"),
            *("aten.quantize_per_tensor.tensors", "aten.quantize_per_channel.default"),
            "aten.dequantize.tensors",
        ),
        _QUANTIZED,
    ),
    **dict.fromkeys(("aten._grouped_mm.default", "aten._scaled_grouped_mm.default"), _NARROW),
    "torchvision::nms": "its library's operators need not be there",
    "aten.lift_fresh.default": "torch.export lowers it to lift_fresh_copy",
}
"""Overloads, or operators of other libraries, of which there is no network, and why."""


@cache
def overloads_by_key() -> Mapping[str, tuple[str, ...]]:
    """For each entry of the table the overloads that it decides about, as they are printed."""
    return {str(key): tuple(str(o) for o in own_overloads(key)) for key in STANDARD}


@cache
def operators() -> tuple[str, ...]:
    """Every overload that the table of rules decides about and that is not on the list, once."""
    every = (name for names in overloads_by_key().values() for name in names)
    return tuple(dict.fromkeys(name for name in every if not is_unreached(name)))


def is_unreached(name: str) -> bool:
    """Whether an overload is on the list, by itself or as one of another library's operators."""
    namespace, packet, _ = name.split(".")
    return name in UNREACHED or f"{namespace}::{packet}" in UNREACHED
