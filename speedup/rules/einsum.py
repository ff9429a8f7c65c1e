"""Sums of products whose dimensions are named by letters: einsum, and what is a case of it.

Every operator here computes `result = sum over the letters it lacks of the product of its
factors`, plus operands that are only added. Two dimensions of one letter correspond.
"""

from __future__ import annotations

import string
from collections.abc import Iterable, Sequence
from math import prod
from types import MappingProxyType

import torch
from attrs import evolve, frozen
from torch import Tensor, nn

from speedup.engine.constraints import Constraint, Pinned
from speedup.engine.lattice import Fact, any_along, broadcast, fact
from speedup.ir.graph import Op, Value
from speedup.rules.rule import (
    Facts,
    Lives,
    Rule,
    Sizes,
    equal,
    everything_read,
    nothing_known,
    pinned,
    reason_for,
)
from speedup.rules.site import Site
from speedup.rules.weights import Attributes, KernelDim, Product, WeightRule, is_weight

# Operands after a "+" are added. Capitals in front stand for leading dimensions, as many as there are.
_EQUATIONS = {
    "dot": "i,i->",
    "vdot": "i,i->",
    "mv": "ij,j->i",
    "outer": "i,j->ij",
    "ger": "i,j->ij",
    "addmv": "+i,ij,j->i",
    "addr": "+ij,i,j->ij",
    "addmm": "+ij,ik,kj->ij",
    "baddbmm": "+bij,bik,bkj->bij",
    "addbmm": "+ij,bik,bkj->ij",
}


@frozen
class Terms:
    """The letters of each operand's dimensions, "" for one that is broadcast, and of the result's.

    `factors` are the positions of the operands that are multiplied; the others are added.
    """

    operands: tuple[tuple[str, ...], ...]
    result: tuple[str, ...]
    factors: tuple[int, ...]


def terms_of(op: Op) -> Terms | None:
    """The letters of `op`; None when it is no plain sum of products."""
    found = _lettered(op)
    if found is None:
        return None
    inputs, result, factors = found
    if len(inputs) != len(op.operands):
        return None
    values = (*op.operands, op.result)
    extents: dict[str, int] = {}
    terms: list[tuple[str, ...]] = []
    for letters, value in zip((*inputs, result), values, strict=True):
        # What is added may have fewer dimensions than the result.
        own = letters[len(letters) - value.ndim :] if len(terms) not in factors else letters
        if len(own) != value.ndim or len(set(own)) != len(own):
            return None
        terms.append(tuple(own))
        for letter, extent in zip(own, value.shape, strict=True):
            extents[letter] = max(extent, extents.get(letter, 1))
    return _checked(terms, values, extents, factors)


def _checked(
    terms: Sequence[tuple[str, ...]],
    values: Sequence[Value],
    extents: dict[str, int],
    factors: tuple[int, ...],
) -> Terms | None:
    broadcast: list[tuple[str, ...]] = []
    for term, value in zip(terms, values, strict=True):
        pairs = list(zip(term, value.shape, strict=True))
        if any(extent not in (1, extents[letter]) for letter, extent in pairs):
            return None
        broadcast.append(tuple(letter if extent == extents[letter] else "" for letter, extent in pairs))
    return Terms(tuple(broadcast[:-1]), broadcast[-1], factors)


def _lettered(op: Op) -> tuple[list[str], str, tuple[int, ...]] | None:
    """Letters of the operands and of the result, and the positions of the factors."""
    shapes = [v.shape for v in op.operands]
    name = op.name
    if name == "einsum":
        return _written(str(op["equation"]).replace(" ", ""), shapes)
    if name == "bilinear":
        lead = string.ascii_uppercase[: len(shapes[0]) - 1]
        return [lead + "i", lead + "j", "oij", "o"][: len(shapes)], lead + "o", (0, 1, 2)
    if name == "inner":
        first, second = (string.ascii_letters[26 * n : 26 * n + len(s) - 1] for n, s in enumerate(shapes))
        return [first + "z", second + "z"], first + second, (0, 1)
    if name == "tensordot":
        return _tensordot(op, shapes)
    if name == "matmul":
        a, b = shapes
        lead = string.ascii_uppercase[: max(len(a), len(b)) - 2]
        left, right = (lead + "ik" if len(a) > 1 else "k"), (lead + "kj" if len(b) > 1 else "k")
        return [left, right], lead + left[-2:-1] * (len(a) > 1) + right[-1] * (len(b) > 1), (0, 1)
    if name not in _EQUATIONS:
        return None
    inputs, result = _EQUATIONS[name].split("->")
    terms = inputs.split(",")
    factors = tuple(n for n, t in enumerate(terms) if not t.startswith("+"))
    return [t.removeprefix("+") for t in terms], result, factors


def _tensordot(op: Op, shapes: Sequence[tuple[int, ...]]) -> tuple[list[str], str, tuple[int, ...]]:
    first, second = (
        list(string.ascii_lowercase[: len(shapes[0])]),
        list(string.ascii_uppercase[: len(shapes[1])]),
    )
    for own, other in zip(op["dims_self"], op["dims_other"], strict=True):
        second[other % len(second)] = first[own % len(first)]
    rest = [c for c in first if c not in second] + [c for c in second if c not in first]
    return ["".join(first), "".join(second)], "".join(rest), (0, 1)


def _written(
    equation: str, shapes: Sequence[tuple[int, ...]]
) -> tuple[list[str], str, tuple[int, ...]] | None:
    """An equation with its ellipsis, if any, replaced by letters that it does not use."""
    left, arrow, result = equation.partition("->")
    inputs = left.split(",")
    if not arrow:
        counts = {c: left.count(c) for c in left if c.isalpha()}
        result = "..." * ("..." in left) + "".join(sorted(c for c, n in counts.items() if n == 1))
    spare = [c for c in string.ascii_letters if c not in equation]
    widths = [len(s) - len(t.replace("...", "")) for t, s in zip(inputs, shapes, strict=False) if "..." in t]
    widest = max(widths, default=0)
    if widest > len(spare) or min(widths, default=0) < 0 or len(inputs) != len(shapes):
        return None
    dots = "".join(spare[:widest])
    supply = iter(widths)
    terms = [t.replace("...", dots[widest - next(supply) :]) if "..." in t else t for t in inputs]
    return terms, result.replace("...", dots), tuple(range(len(inputs)))


def _product(tensors: Sequence[Tensor], terms: Sequence[tuple[str, ...]], result: Sequence[str]) -> Tensor:
    """einsum of compressed tensors; letters without a dimension of their own are dropped or get extent 1."""
    named = [
        t.reshape([n for n, c in zip(t.shape, term, strict=True) if c])
        for t, term in zip(tensors, terms, strict=True)
    ]
    inputs = ["".join(term) for term in terms]
    present = [c for c in result if c and any(c in i for i in inputs)]
    found = torch.einsum(",".join(inputs) + "->" + "".join(present), *named)
    sizes = dict(zip(present, found.shape, strict=True))
    return found.reshape([sizes.get(c, 1) for c in result])


def _count(indicators: Sequence[Tensor], terms: Sequence[tuple[str, ...]], result: Sequence[str]) -> Tensor:
    return _product([i.double() for i in indicators], terms, result)


def einsum_known(op: Op, facts: Facts) -> tuple[Fact, ...]:
    """Known where every product is: all its factors known, or one of them 0."""
    terms = terms_of(op)
    if terms is None or all(f.is_unknown for f in facts):
        return nothing_known(op, facts)
    if op.name == "vdot" and op.result.dtype.is_complex:
        return nothing_known(op, facts)
    known, value = _product_known([facts[n] for n in terms.factors], terms)
    value = value * op.get("alpha", 1)
    for number in set(range(len(facts))) - set(terms.factors):
        added, own = facts[number], [terms.operands[number]]
        known = known & (_count([~added.known], own, terms.result) == 0)
        value = value + _product([added.value], own, terms.result) * op.get("beta", 1)
    return (fact(*broadcast(known, value.to(op.result.dtype))),)


def _product_known(facts: Sequence[Fact], terms: Terms) -> tuple[Tensor, Tensor]:
    """Where the product of the factors is Known, and its value there."""
    operands = [terms.operands[n] for n in terms.factors]
    # Both counts are of the same extents, so that they can be compared.
    nonzero = [broadcast(f.maybe_nonzero, f.known_nonzero) for f in facts]
    maybe, sure = (_count(chosen, operands, terms.result) for chosen in zip(*nonzero, strict=True))
    known = maybe == sure
    for letter in {c for term in operands for c in term if c and c not in terms.result}:
        dims = [(f, term.index(letter)) for f, term in zip(facts, operands, strict=True) if letter in term]
        if all(f.value.shape[d] == 1 for f, d in dims):
            # How often a constant adds up depends on the extent, such as the batch.
            known = known & (maybe == 0)
    return known, _product([f.value for f in facts], operands, terms.result)


def einsum_live(op: Op, facts: Facts, live: Lives) -> tuple[Tensor, ...]:
    terms = terms_of(op)
    if terms is None:
        return everything_read(op, facts, live)
    return tuple(
        _factor_live(n, terms, facts, live[0])
        if n in terms.factors
        else _addend_live(terms.operands[n], terms, live[0])
        for n in range(len(facts))
    )


def _addend_live(own: tuple[str, ...], terms: Terms, live: Tensor) -> Tensor:
    return _product([live.double()], [terms.result], own) > 0


def _factor_live(number: int, terms: Terms, facts: Facts, live: Tensor) -> Tensor:
    """Read where no other factor is 0. Of several zeros one has to hold: the first."""
    own = terms.operands[number]
    others = [n for n in terms.factors if n != number]
    before = [n for n in others if n < number]

    def reads(chosen: Sequence[int]) -> Tensor:
        indicators = [live, *(facts[n].maybe_nonzero for n in chosen)]
        return _count(indicators, [terms.result, *(terms.operands[n] for n in chosen)], own) > 0

    return reads(others) | (reads(before) & ~facts[number].maybe_nonzero)


def einsum_couple(site: Site) -> Iterable[Constraint]:
    """Dimensions of one letter correspond; constants that add up stay."""
    op, terms = site.op, terms_of(site.op)
    if terms is None:
        reason = site.because(reason_for(op, "is no plain sum of products here"))
        for value in (*op.operands, *op.results):
            yield from pinned(value, range(value.ndim), reason)
        return
    reason = site.because(reason_for(op, "ties dimensions of one letter"))
    named = [*zip(terms.operands, op.operands, strict=True), (terms.result, op.result)]
    for letter in dict.fromkeys(c for term, _ in named for c in term if c):
        members = [(v, t.index(letter)) for t, v in named if letter in t]
        yield from equal(reason, *members)
        if letter not in terms.result:
            yield from _constants_stay(site, members)


def _constants_stay(site: Site, members: Sequence[tuple[Value, int]]) -> Iterable[Constraint]:
    """Where all factors along a summed dimension may be constants other than 0, they count."""
    value, dim = members[0]
    counts = torch.ones(value.shape[dim], dtype=torch.bool)
    for other, own in members:
        counts = counts & any_along(site.fact(other).known_nonzero & site.live(other), own, other.shape[own])
    if value.shape[dim] != 1:
        yield Pinned(
            (value.index, dim), site.because(reason_for(site.op, "adds up products of constants")), counts
        )


def einsum_widths(site: Site) -> Iterable[KernelDim]:
    """Of more than two factors, which make no `Product`: what a weight alone gives to the result."""
    op, terms = site.op, terms_of(site.op)
    if terms is None or len(terms.factors) < 3:
        return
    for number in terms.factors:
        elsewhere = {c for n in terms.factors if n != number for c in terms.operands[n]}
        rows = [c for c in terms.operands[number] if c and c in terms.result and c not in elsewhere]
        if op.operands[number].is_state and len(rows) == 1:
            yield KernelDim((op.result.index, terms.result.index(rows[0])), "out")


def einsum_product(site: Site) -> Product | None:
    """Of two factors of which one is a weight: the letters that it alone gives, and those that are summed."""
    op, terms = site.op, terms_of(site.op)
    if terms is None or len(terms.factors) != 2:
        return None
    one, other = terms.factors
    weights = [is_weight(site, op.operands[number]) for number in terms.factors]
    if weights[0] == weights[1]:
        return None
    own, data = (one, other) if weights[0] else (other, one)
    letters, others = terms.operands[own], terms.operands[data]
    given = terms.result
    makes = [(given.index(c), n) for n, c in enumerate(letters) if c in given and c not in others]
    reads = [(others.index(c), n) for n, c in enumerate(letters) if c in others and c not in given]
    if (not makes and not reads) or "" in letters:
        return None
    return Product(op.operands[data], op.operands[own], None, tuple(makes), tuple(reads))


def _bilinear_attributes(op: Op, sizes: Sizes) -> Attributes:
    rows, first, second = sizes(op.operands[2])
    return {"in1_features": first, "in2_features": second, "out_features": rows}


def einsum_macs(op: Op, sizes: Sizes) -> int:
    """One per combination of letters."""
    terms = terms_of(op)
    if terms is None:
        return 0
    named = [*zip(terms.operands, op.operands, strict=True), (terms.result, op.result)]
    return prod({c: n for term, v in named for c, n in zip(term, sizes(v), strict=True) if c}.values())


EINSUM = Rule(
    couple=einsum_couple,
    known=einsum_known,
    live=einsum_live,
    weight=WeightRule(einsum_product),
    is_monotone=True,
    widths=einsum_widths,
    macs=einsum_macs,
)
_BILINEAR = WeightRule(attributes=MappingProxyType({nn.Bilinear: _bilinear_attributes}))

RULES: dict[str, Rule] = {
    **dict.fromkeys(("einsum", "inner", "tensordot", *(n for n in _EQUATIONS if n != "addmm")), EINSUM),
    "bilinear": evolve(EINSUM, weight=_BILINEAR),
}
