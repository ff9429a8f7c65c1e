"""Ties of attention: heads, positions, and the scale that counts the width of a head."""

from __future__ import annotations

from property_tests.faults.fault import Fault
from property_tests.faults.killers import (
    ATTENTION,
    WIDTHS,
    exact_around,
    sliced,
)

FAULTS = (
    Fault(
        "attention: the default scale lets heads get narrower",
        "rules.product",
        "yield from pinned(query, [last], scale)",
        "yield from ()",
        sliced("scaled_dot_product_attention"),
    ),
    Fault(
        "attention: queries and keys get different widths",
        "rules.product",
        "yield from equal(cause, (query, last), (key, last))",
        "yield from ()",
        sliced("scaled_dot_product_attention"),
    ),
    Fault(
        "attention: keys may go from under the softmax",
        "rules.product",
        'yield from pinned(key, [last - 1], site.because("softmax runs over all keys"))',
        "yield from ()",
        (*sliced("scaled_dot_product_attention"), WIDTHS),
    ),
    Fault(
        "attention: constants in queries and keys are dropped under a stated scale",
        "rules.product",
        'yield from pinned(query, [last], site.because("adds up products of constants"), counts)',
        "yield from ()",
        (exact_around("attention_scaled", "constants"),),
    ),
    Fault(
        "attention: groups of query heads lose different numbers",
        "rules.product",
        "yield Balanced(((key.index, dim), (query.index, dim)), key.shape[dim], shared)",
        "yield from ()",
        (exact_around("attention_grouped"),),
    ),
    Fault(
        "attention: result and query keep different heads",
        "rules.product",
        "yield from equal(cause, *((v, dim) for v in (query, key, value, result)))",
        "yield from equal(cause, *((v, dim) for v in (key, value, result)))",
        sliced("scaled_dot_product_attention"),
    ),
    Fault(
        "attention: a module of torch's own class is not replaced",
        "planning.editing",
        "        if not MultiheadAttention.can_adopt(module):",
        "        if MultiheadAttention.can_adopt(module):",
        (ATTENTION,),
    ),
)
