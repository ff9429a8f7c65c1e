"""The overloads that the standard table of rules decides about, and those of which little can be tried."""

from __future__ import annotations

from speedup.rules import STANDARD, Operator, Rules, rule_for
from tests.support.example_calls import Overload, overloads_of

_GPU = "has a kernel for GPUs only"
_NUMBER = "returns a number of Python's; see test_numbers_from_tensors"
_FOREIGN = "its library's operators need not be there"
UNCALLABLE: dict[str, str] = {
    "aten.mm.dtype": _GPU,
    "aten.bmm.dtype": _GPU,
    "aten.addmm.dtype": _GPU,
    "aten.baddbmm.dtype": _GPU,
    "aten.item.default": _NUMBER,
    "aten._local_scalar_dense.default": _NUMBER,
    "torchvision::roi_align": _FOREIGN,
    "torchvision::roi_pool": _FOREIGN,
}
# Nobody may rely on what they return, so there is nothing to compare.
UNDEFINED = frozenset({"aten.empty.memory_format", "aten.empty_like.default", "aten.new_empty.default"})


def extended(rules: Rules) -> Rules:
    """The standard rules and others, joined as the README says."""
    return STANDARD | rules


def own_overloads(key: Operator | str) -> list[Overload]:
    """The overloads that the entry `key` decides about."""
    return [o for o in overloads_of(key) if rule_for(o, STANDARD) is STANDARD[key]]
