"""Products of two activations, and attention."""

from __future__ import annotations

from collections.abc import Iterable
from math import prod

import torch
from torch import Tensor

from speedup.engine.constraints import Balanced, Constraint, Dim, Pinned
from speedup.engine.keepsets import KeepSets
from speedup.engine.lattice import (
    Fact,
    all_over,
    any_along,
    any_over,
    fact,
    fold_to,
    split_runs,
    spread,
    uniform_along,
)
from speedup.ir.edits import Edit
from speedup.ir.graph import Op, Value
from speedup.rules.absorption import absorbing_compensate, absorbing_couple, absorbing_destinations
from speedup.rules.contraction import (
    contraction_known,
    contraction_live,
    contraction_macs,
    contraction_product,
)
from speedup.rules.einsum import einsum_couple, einsum_known, einsum_live, einsum_macs, einsum_product
from speedup.rules.rule import Facts, Lives, Rule, Sizes, equal, nothing_known, pinned, reason_for
from speedup.rules.site import Site
from speedup.rules.weights import HEADS, LayerAxis, Product, WeightRule, is_weight


def _is_weight(value: Value, fact_: Fact | None = None) -> bool:
    return value.is_state and value.ndim == 2


def is_contraction(op: Op) -> bool:
    """Whether a matmul is a product with a parameter matrix, whose constants can be absorbed."""
    name = op.name
    if name == "addmm":
        return (
            _is_weight(op.operands[2]) and op["beta"] == 1 and op["alpha"] == 1 and op.operands[0].ndim == 1
        )
    return _is_weight(op.operands[1]) and not op.operands[0].is_state and op.operands[0].ndim >= 2


def _has_letters(op: Op) -> bool:
    """Whether `op` is not a (batched) product of two matrices; its letters then describe it."""
    return op.name == "addmm" or any(v.ndim < 2 for v in op.operands)


def _any_product(a: Tensor, b: Tensor, inner: int) -> Tensor:
    """Bool matrix product of compressed indicators, `inner` being the extent that is summed."""
    left = a.expand(*a.shape[:-1], inner) if a.shape[-1] != b.shape[-2] else a
    right = b.expand(*b.shape[:-2], inner, b.shape[-1]) if a.shape[-1] != b.shape[-2] else b
    return (left.float() @ right.float()) > 0


def product_known(op: Op, facts: Facts) -> tuple[Fact, ...]:
    """Known where every term is: both factors known, or one of them 0."""
    if is_contraction(op):
        return contraction_known(op, facts)
    if _has_letters(op):
        return einsum_known(op, facts)
    a, b = facts
    if a.is_unknown and b.is_unknown:
        return nothing_known(op, facts)
    inner = op.operands[0].shape[-1]
    open_ = _any_product(~a.known, b.maybe_nonzero, inner) | _any_product(a.maybe_nonzero, ~b.known, inner)
    if a.value.shape[-1] == b.value.shape[-2] == 1:
        # How often a constant adds up depends on the extent, such as the batch.
        open_ = open_ | _any_product(a.maybe_nonzero, b.maybe_nonzero, inner)
    value = spread(a.value, op.operands[0].shape, [a.ndim - 1]) @ spread(
        b.value, op.operands[1].shape, [b.ndim - 2]
    )
    return (fact(~open_, value),)


def product_live(op: Op, facts: Facts, live: Lives) -> tuple[Tensor, ...]:
    if is_contraction(op):
        return contraction_live(op, facts, live)
    if _has_letters(op):
        return einsum_live(op, facts, live)
    a, b = op.operands
    right, left = facts[1].maybe_nonzero, facts[0].maybe_nonzero
    # Where both factors of a term are 0, one of the zeros has to hold: the first.
    reads_a = _any_product(live[0], right.transpose(-1, -2), b.shape[-1]) | (
        any_over(live[0], [live[0].ndim - 1]) & ~left
    )
    reads_b = _any_product(left.transpose(-1, -2), live[0], a.shape[-2])
    return fold_to(reads_a, a.shape), fold_to(reads_b, b.shape)


def product_couple(site: Site) -> Iterable[Constraint]:
    op, result = site.op, site.op.result
    if is_contraction(op):
        yield from absorbing_couple(site)
        return
    if _has_letters(op):
        yield from einsum_couple(site)
        return
    a, b = op.operands
    reason = site.because(reason_for(op, "ties the dimensions of its factors"))
    yield from equal(reason, (a, a.ndim - 2), (result, result.ndim - 2))
    yield from equal(reason, (b, b.ndim - 1), (result, result.ndim - 1))
    yield from equal(reason, (a, a.ndim - 1), (b, b.ndim - 2))
    for dim in range(result.ndim - 2):
        members = [(result, dim)]
        for value in (a, b):
            own = dim - (result.ndim - value.ndim)
            if own >= 0 and value.shape[own] == result.shape[dim]:
                members.append((value, own))
        yield from equal(reason, *members)
    sums = site.because("adds up products of constants")
    left = any_along(site.fact(a).known_nonzero & site.live(a), a.ndim - 1, a.shape[-1])
    right = any_along(site.fact(b).known_nonzero & site.live(b), b.ndim - 2, b.shape[-2])
    if a.shape[-1] != 1:
        yield Pinned((a.index, a.ndim - 1), sums, left & right)


def product_compensate(site: Site, kept: KeepSets) -> Iterable[Edit]:
    return absorbing_compensate(site, kept) if is_contraction(site.op) else ()


def product_destinations(site: Site, kept: KeepSets) -> Iterable[tuple[Dim, Tensor, str]]:
    """Where a product with a weight has its dropped constants go."""
    return absorbing_destinations(site, kept) if is_contraction(site.op) else ()


def product_macs(op: Op, sizes: Sizes) -> int:
    if is_contraction(op):
        return contraction_macs(op, sizes)
    if _has_letters(op):
        return einsum_macs(op, sizes)
    return prod(sizes(op.result)) * sizes(op.operands[0])[-1]


def attention_known(op: Op, facts: Facts) -> tuple[Fact, ...]:
    """Attention weights add up to 1: a value channel that is the same at every key stays itself.

    Where a mask leaves no key at all they add up to 0, which makes no difference to zeros.
    """
    value, shape = facts[2], op.operands[2].shape
    heads, keys = len(shape) - 3, len(shape) - 2
    shared = bool(op.get("enable_gqa")) and shape[:heads] == op.result.shape[:heads]
    if value.is_unknown or not (shared or shape[:keys] == op.result.shape[:keys]):
        return nothing_known(op, facts)
    if len(op.operands) > 3 or op.get("dropout_p") or not uniform_along(value.value, [keys]):
        known = all_over(value.known & (value.value == 0), [keys])
        found = torch.zeros_like(known, dtype=op.result.dtype)
    else:
        known, found = all_over(value.known, [keys]), value.value.narrow(keys, 0, 1)
    if shared:
        known, found = (_per_query_head(op, one, heads) for one in (known, found))
    return (fact(known, found),)


def _per_query_head(op: Op, tensor: Tensor, heads: int) -> Tensor:
    """What grouped queries find at their key heads, the dimension `heads` of the compressed `tensor`."""
    if tensor.shape[heads] == 1:
        return tensor
    return tensor.repeat_interleave(op.result.shape[heads] // tensor.shape[heads], heads)


def attention_live(op: Op, facts: Facts, live: Lives) -> tuple[Tensor, ...]:
    query, key, value = op.operands[:3]
    (result,) = attention_known(op, facts)
    weights = any_over(live[0] & ~result.known, [op.result.ndim - 1])
    by_key = any_over(weights, [op.result.ndim - 2])
    reads = [
        fold_to(weights, query.shape),
        _heads(by_key, key),
        _heads(any_over(live[0], [op.result.ndim - 2]), value),
    ]
    return (*reads, *(fold_to(weights, v.shape) for v in op.operands[3:]))


def _heads(live: Tensor, value: Value) -> Tensor:
    """Grouped-query attention has fewer key heads than query heads: read if any of them is."""
    if live.ndim > 2 and live.shape[-3] not in (1, value.shape[-3]):
        live = split_runs(live, live.ndim - 3, value.shape[-3]).any(-3)
    return fold_to(live, value.shape)


def attention_couple(site: Site) -> Iterable[Constraint]:
    op, result = site.op, site.op.result
    query, key, value = op.operands[:3]
    reason = site.because("attention ties heads and positions of query, key and value")
    last = query.ndim - 1
    if any(v.ndim != result.ndim for v in (query, key, value)):
        for one in (query, key, value, result):
            yield from pinned(one, range(one.ndim), reason)
        return
    for dim in range(last - 1):
        if query.shape[dim] == key.shape[dim]:
            yield from equal(reason, *((v, dim) for v in (query, key, value, result)))
        elif op.get("enable_gqa") and dim == last - 2:
            shared = site.because("query heads share key heads in groups of one size")
            yield from equal(reason, (query, dim), (result, dim))
            yield from equal(reason, (key, dim), (value, dim))
            yield Balanced(((key.index, dim), (query.index, dim)), key.shape[dim], shared)
        else:
            for one in (query, key, value, result):
                yield from pinned(one, [dim], reason)
    yield from equal(reason, (query, last - 1), (result, last - 1))
    yield from equal(reason, (key, last - 1), (value, last - 1))
    yield from pinned(key, [last - 1], site.because("softmax runs over all keys"))
    if op["is_causal"]:
        yield from pinned(query, [last - 1], site.because("a causal mask counts positions"))
    yield from equal(reason, (value, last), (result, last))
    yield from equal(reason, (query, last), (key, last))
    scale = site.because("the default attention scale depends on the head's extent")
    if op["scale"] is None:
        yield from pinned(query, [last], scale)
    else:
        counts = any_along(site.fact(query).known_nonzero & site.live(query), last, query.shape[last])
        counts = counts & any_along(site.fact(key).known_nonzero & site.live(key), last, key.shape[last])
        yield from pinned(query, [last], site.because("adds up products of constants"), counts)
    for mask in op.operands[3:]:
        for dim in range(mask.ndim):
            own = dim + result.ndim - mask.ndim
            if mask.shape[dim] == 1:
                continue
            whole = query if own < last else key
            other = own if own < last else last - 1
            yield from equal(reason, (mask, dim), (whole, other))


def _heads_of(site: Site) -> Iterable[LayerAxis]:
    result = site.op.result
    if result.ndim == 4:
        yield LayerAxis(HEADS, (result.index, 1), (), share=0.0)


def attention_macs(op: Op, sizes: Sizes) -> int:
    query, key = sizes(op.operands[0]), sizes(op.operands[1])
    return prod(query[:-1]) * key[-2] * (query[-1] + sizes(op.operands[2])[-1])


def matmul_product(site: Site) -> Product | None:
    """The product with a weight on either side; none of two weights or of two activations."""
    op, result = site.op, site.op.result
    if op.name == "addmm":
        left, right = (is_weight(site, v) for v in op.operands[1:])
        return contraction_product(site) if right and not left else einsum_product(site)
    a, b = op.operands
    left, right = is_weight(site, a), is_weight(site, b)
    if left == right or (a if left else b).ndim < 2:
        return None
    if right:
        return Product(a, b, None, ((result.ndim - 1, b.ndim - 1),), ((a.ndim - 1, b.ndim - 2),))
    made, read = (result.ndim - 1, 0) if b.ndim == 1 else (result.ndim - 2, b.ndim - 2)
    return Product(b, a, None, ((made, a.ndim - 2),), ((read, a.ndim - 1),))


PRODUCT = Rule(
    couple=product_couple,
    known=product_known,
    live=product_live,
    compensate=product_compensate,
    destinations=product_destinations,
    weight=WeightRule(matmul_product),
    macs=product_macs,
    is_monotone=True,
)

RULES: dict[str, Rule] = {
    **dict.fromkeys(("matmul", "mm", "bmm", "addmm"), PRODUCT),
    "scaled_dot_product_attention": Rule(
        couple=attention_couple,
        known=attention_known,
        live=attention_live,
        weight=WeightRule(axes=_heads_of),
        macs=attention_macs,
        reads_sizes=True,
    ),
}
