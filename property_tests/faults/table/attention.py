"""Ties of attention: heads, positions, and the scale that counts the width of a head."""

from __future__ import annotations

from property_tests.faults.fault import Fault
from property_tests.faults.killers import ATTENTION, WIDTHS, exact_around, sliced

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
        "yield from equal(reason, (query, last), (key, last))",
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
        (f"{WIDTHS}::test_groups_that_would_lose_different_numbers_of_query_heads_are_filled_up",),
    ),
    Fault(
        "attention: result and query keep different heads",
        "rules.product",
        "yield from equal(reason, *((v, dim) for v in (query, key, value, result)))",
        "yield from equal(reason, *((v, dim) for v in (key, value, result)))",
        sliced("scaled_dot_product_attention"),
    ),
    Fault(
        "attention: a module of torch's own class is not replaced",
        "planning.editing",
        "        if not MultiheadAttention.can_adopt(module):",
        "        if MultiheadAttention.can_adopt(module):",
        (ATTENTION,),
    ),
    Fault(
        "attention: a replaced module scales by the width and not by its root",
        "modules.attention",
        'state["scale"] = state["head_dim"] ** -0.5',
        'state["scale"] = state["head_dim"] ** -1.0',
        (ATTENTION,),
    ),
    Fault(
        "attention: a replaced module takes values for keys where their widths differ",
        "modules.attention",
        "return torch.split(packed, [inner, inner, wide], -1)",
        "return torch.split(packed, [inner, wide, inner], -1)",
        (f"{ATTENTION}::test_values_of_a_replaced_module_get_narrower_than_its_keys",),
    ),
    Fault(
        "attention: a replaced module attends to what is padded",
        "modules.attention",
        'masked_fill(mask, float("-inf"))',
        "masked_fill(mask, 0.0)",
        (ATTENTION,),
    ),
    Fault(
        "attention: torch's fused layer runs with a replaced module",
        "modules.attention",
        "state[QKV_SAME_EMBED_DIM] = False",
        "state[QKV_SAME_EMBED_DIM] = True",
        (f"{ATTENTION}::test_encoder_with_an_even_number_of_heads_left_stays_exact",),
    ),
    Fault(
        "attention: a replaced module returns the sum of its heads' weights",
        "modules.attention",
        "weights = weights.mean(1) if average_attn_weights",
        "weights = weights.sum(1) if average_attn_weights",
        (ATTENTION,),
    ),
)
