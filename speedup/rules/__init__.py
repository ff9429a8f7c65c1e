"""The table of operator rules: `STANDARD`, one family per file. Tables join with `|`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType

import torch

from speedup.engine.layout import IndexMap
from speedup.ir.graph import Op, values_in
from speedup.ir.operators import functional_form
from speedup.rules import (
    absorption,
    distance,
    einsum,
    fourier,
    gating,
    indexing,
    kept,
    layer_norm,
    layout,
    normalization,
    pointwise,
    product,
    rearrangement,
    recurrent,
    reduction,
    reparametrized,
    sampling,
    scatter,
    weaving,
)
from speedup.rules.moves import moves_at
from speedup.rules.rule import OPEN_NUMBER, UNKNOWN_OPERATOR, Rule
from speedup.rules.site import Site
from speedup.rules.weights import Product
from speedup.torch_api import Overload, Packet, schema_of

Operator = Overload | Packet
Rules = Mapping[Operator | str, Rule]

FAMILIES = (
    pointwise.RULES,
    layout.RULES,
    rearrangement.RULES,
    weaving.RULES,
    normalization.RULES,
    layer_norm.RULES,
    reduction.RULES,
    gating.RULES,
    absorption.RULES,
    product.RULES,
    einsum.RULES,
    distance.RULES,
    indexing.RULES,
    recurrent.RULES,
    reparametrized.RULES,
    scatter.RULES,
    sampling.RULES,
    fourier.RULES,
    kept.RULES,
)


def _key(name: str) -> Operator | str | None:
    """The key for what a family calls `op`, `op.overload` or `namespace::op`; None if torch lacks it.

    Operators of other libraries stay names, since those may be loaded later.
    """
    if "::" in name:
        return name
    packet, _, overload = name.partition(".")
    found = getattr(torch.ops.aten, packet, None)
    return getattr(found, overload, None) if overload and found is not None else found


def _table() -> dict[Operator | str, Rule]:
    named = ((name, rule) for family in FAMILIES for name, rule in family.items())
    return {key: rule for name, rule in named if (key := _key(name)) is not None}


STANDARD: MappingProxyType[Operator | str, Rule] = MappingProxyType(_table())
"""Rules by overload, by all overloads of a name, or by a name as `"torchvision::roi_align"`."""


def rule_for(target: Overload, rules: Rules) -> Rule:
    """The rule of an operator: of the overload, of its name, or of what it does without writing.

    An operator without any rule gets the one that keeps everything it touches.
    """
    key = next((key for key in _keys_of(target) if key in rules), None)
    return UNKNOWN_OPERATOR if key is None else rules[key]


@lru_cache(maxsize=4096)
def _keys_of(target: Overload) -> tuple[Operator | str, ...]:
    """What tables may call an operator, the closest name first."""
    pure = functional_form(target)
    return target, target.overloadpacket, pure, pure.overloadpacket, schema_of(target).name


def rule_of(op: Op, rules: Rules) -> Rule:
    """The rule of the operator that `op` calls, if that can read the op's arguments.

    A rule looks at numbers among them as they are. Where the forward reads one from a tensor, it differs
    from input to input, and only rules that take it for an operand apply.
    """
    # What is found keeps the table alive, so that no other one gets its id.
    found: tuple[Rules, Rule] = op.once(f"rule {id(rules)}", lambda: (rules, _rule_of(op, rules)))
    return found[1]


def _rule_of(op: Op, rules: Rules) -> Rule:
    rule = rule_for(op.target, rules)
    return rule if rule.reads_numbers or not has_open_number(op) else OPEN_NUMBER


def product_of(site: Site, rules: Rules) -> Product | None:
    """The product with a weight that the op at `site` computes; None if it computes none."""
    return site.once("product", lambda: rule_of(site.op, rules).weight.product(site))


def moves_of(op: Op, rules: Rules) -> tuple[IndexMap, ...]:
    """How the op moves elements; empty where its rule does not say that it only does that."""
    moves = rule_of(op, rules).moves
    return () if moves is None else moves_at(op, moves)


def has_open_number(op: Op) -> bool:
    """Whether a value stands where the operator takes a number and not a tensor."""
    if not any(v.is_number for v in op.operands):
        return False
    return any(
        "Tensor" not in str(parameter.type)
        and any(v.is_number for v in values_in(op.arguments.get(parameter.name)))
        for parameter in schema_of(op.target).arguments
    )
