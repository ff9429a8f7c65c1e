"""The table of operator rules: `STANDARD`, one family per file. Tables join with `|`."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import torch

from speedup.rules import (
    absorption,
    indexing,
    layer_norm,
    layout,
    normalization,
    pointwise,
    product,
    recurrent,
    reduction,
    reparametrized,
    weaving,
)
from speedup.rules.rule import UNKNOWN_OPERATOR, Rule, functional

Operator = torch._ops.OpOverload | torch._ops.OpOverloadPacket
Rules = Mapping[Operator, Rule]

_FAMILIES = (
    pointwise.RULES,
    layout.RULES,
    weaving.RULES,
    normalization.RULES,
    layer_norm.RULES,
    reduction.RULES,
    absorption.RULES,
    product.RULES,
    indexing.RULES,
    recurrent.RULES,
    reparametrized.RULES,
)


def _operator(name: str) -> Operator | None:
    packet, _, overload = name.partition(".")
    found = getattr(torch.ops.aten, packet, None)
    return getattr(found, overload, None) if overload and found is not None else found


def _table() -> dict[Operator, Rule]:
    named = ((name, rule) for family in _FAMILIES for name, rule in family.items())
    return {operator: rule for name, rule in named if (operator := _operator(name)) is not None}


STANDARD: Rules = MappingProxyType(_table())
"""Rules of the ATen operators, by overload or by all overloads of a name."""


def rule_for(target: torch._ops.OpOverload, rules: Rules) -> Rule:
    """The rule of an operator: of the overload, of its name, or of what it does without writing.

    An operator without any rule gets the one that keeps everything it touches.
    """
    pure = functional(target)
    for key in (target, target.overloadpacket, pure, pure.overloadpacket):
        if key in rules:
            return rules[key]
    return UNKNOWN_OPERATOR
