"""Ties of attention: heads, positions, and the scale that counts the width of a head."""

from __future__ import annotations

from property_tests.faults.fault import Fault
from property_tests.faults.killers import ATTENTION, EXACT_AROUND, HEADS, SEQUENCES, WIDTHS

FAULTS = (
    Fault(
        "attention: the default scale lets heads get narrower",
        "rules.product",
        "yield from pinned(query, [last], scale)",
        "yield from ()",
        (SEQUENCES, WIDTHS),
    ),
    Fault(
        "attention: queries and keys get different widths",
        "rules.product",
        "yield from equal(cause, (query, last), (key, last))",
        "yield from ()",
        (SEQUENCES, WIDTHS),
    ),
    Fault(
        "attention: constants in queries and keys are dropped under a stated scale",
        "rules.product",
        'yield from pinned(query, [last], site.because("adds up products of constants"), counts)',
        "yield from ()",
        (f"{EXACT_AROUND}[attention_scaled-constants]",),
    ),
    Fault(
        "attention: groups of query heads lose different numbers",
        "rules.product",
        "yield Balanced(((key.index, dim), (query.index, dim)), key.shape[dim], shared)",
        "yield from ()",
        (f"{EXACT_AROUND}[attention_grouped-zeros]",),
    ),
    Fault(
        "attention: result and query keep different heads",
        "rules.product",
        "yield from equal(cause, *((v, dim) for v in (query, key, value, result)))",
        "yield from equal(cause, *((v, dim) for v in (key, value, result)))",
        (SEQUENCES, HEADS),
    ),
    Fault(
        "attention: a module of torch's own class is not replaced",
        "planning.editing",
        "        if not MultiheadAttention.can_adopt(module):",
        "        if MultiheadAttention.can_adopt(module):",
        (ATTENTION,),
    ),
)
