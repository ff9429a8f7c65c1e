"""Ways to state a call so that it works on smaller operands, one file each.

An op whose operands have become smaller may go on as it stands (`forwards/native.py`), read numbers of its
module that are set anew (`forwards/attributes.py`), or be called otherwise: by one of the lowerings here.
A rule offers these as `Alternative` values; planning takes the cheapest that the model's source can state.

A new lowering is one file with a class, and one line in `LOWERINGS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from speedup.lowerings.add_rows import AddRows
from speedup.lowerings.arguments import Arguments
from speedup.lowerings.fill_rows import FillRows
from speedup.lowerings.gate_rows import GateRows
from speedup.lowerings.lowering import Alternative, Lowering
from speedup.lowerings.mean_of_total import MeanOfTotal
from speedup.lowerings.out_of_place import OutOfPlace
from speedup.lowerings.own_shape import OwnShape
from speedup.lowerings.partial_layer_norm import PartialLayerNorm
from speedup.lowerings.permutation import PassOn, SelectIndices
from speedup.lowerings.split_sizes import SplitSizes
from speedup.lowerings.take_indices import TakeIndices

__all__ = [
    "HELPERS",
    "LOWERINGS",
    "AddRows",
    "Alternative",
    "Arguments",
    "FillRows",
    "GateRows",
    "Lowering",
    "MeanOfTotal",
    "OutOfPlace",
    "OwnShape",
    "PartialLayerNorm",
    "PassOn",
    "SelectIndices",
    "SplitSizes",
    "TakeIndices",
]

LOWERINGS: tuple[type[Lowering], ...] = (
    Arguments,
    SplitSizes,
    TakeIndices,
    MeanOfTotal,
    PartialLayerNorm,
    PassOn,
    SelectIndices,
    AddRows,
    FillRows,
    GateRows,
    OutOfPlace,
    OwnShape,
)

HELPERS: Mapping[str, Any] = MappingProxyType(
    {name: helper for one in LOWERINGS for name, helper in one.helpers.items()}
)
"""What rewritten source may name beside its own names."""
