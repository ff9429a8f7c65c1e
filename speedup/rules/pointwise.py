"""Elementwise operators: every result element reads the operand elements it is aligned with."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from types import MappingProxyType

import torch
from attrs import evolve
from torch import Tensor, nn

from speedup.engine.bounds import OPEN, Bounds, spanned
from speedup.engine.constraints import Constraint
from speedup.engine.keepsets import KeepSets
from speedup.engine.lattice import Fact, any_along, broadcast, constant, fact, fold_to, indicator, vector
from speedup.ir.evaluation import evaluate
from speedup.ir.graph import Op, Value
from speedup.ir.operators import functional_form
from speedup.lowerings import Alternative, OutOfPlace, OwnShape
from speedup.rules.borders import channel_by_channel, element_by_element
from speedup.rules.bounded import always, argument, as_given, at_ends, either, in_type_of_result
from speedup.rules.kept import keeping
from speedup.rules.rule import (
    BoundsOf,
    Facts,
    Known,
    Live,
    Lives,
    Rule,
    Sizes,
    any_of,
    equal,
    keep_instead,
    no_bounds,
    nothing_known,
    reason_for,
)
from speedup.rules.site import Site
from speedup.rules.weights import Attributes, WeightRule

_UNARY = """
    relu relu6 sigmoid silu gelu hardswish hardsigmoid hardtanh leaky_relu elu selu celu softplus
    mish tanh exp exp2 expm1 log log2 log10 log1p sqrt rsqrt abs neg sin cos tan asin acos atan sinh
    cosh asinh acosh atanh square reciprocal sign floor ceil round trunc frac erf erfc logit
    log_sigmoid hardshrink softshrink threshold bitwise_not logical_not isnan isinf isfinite
    nan_to_num clamp clamp_min clamp_max positive sgn deg2rad rad2deg sinc lgamma digamma erfinv
    zeros_like ones_like full_like fill zero to _to_copy clone contiguous alias detach lift_fresh
    lift_fresh_copy _conj conj_physical resolve_conj resolve_neg _neg_view real imag angle signbit
    isposinf isneginf i0 negative absolute clip fix arccos arccosh arcsin arcsinh arctan arctanh
""".split()
_SPECIAL = """
    digamma entr erf erfc erfcx erfinv exp2 expit expm1 gammaln i0 i0e i1 i1e log1p log_ndtr logit ndtr
    ndtri psi round sinc xlog1py xlogy zeta
""".split()
_BINARY = """
    add sub rsub div true_divide floor_divide remainder fmod pow float_power eq ne lt le gt ge
    maximum minimum fmax fmin bitwise_and bitwise_or bitwise_xor logical_and logical_or logical_xor
    __and__ __or__ __xor__ atan2 hypot lerp xlogy addcdiv copysign heaviside logaddexp logaddexp2
    isclose nextafter ldexp bitwise_left_shift bitwise_right_shift __lshift__ __rshift__ complex polar
    subtract divide arctan2 not_equal greater greater_equal less less_equal
""".split()
# Monotone in each number among their arguments, on either side of 0.
_MONOTONE = """
    add sub rsub subtract mul multiply div divide true_divide floor_divide lerp addcmul addcdiv
    clamp clamp_min clamp_max clip hardtanh threshold leaky_relu elu celu hardshrink softshrink
    lt le gt ge less less_equal greater greater_equal where masked_fill
""".split()
# Monotone in each operand, on either side of 0.
_MONOTONE_IN_OPERANDS = """
    add sub rsub subtract div divide true_divide floor_divide maximum minimum fmax fmin max.other min.other
    relu relu6 sigmoid hardsigmoid hardtanh leaky_relu elu selu celu softplus tanh exp exp2 expm1
    log log2 log10 log1p sqrt rsqrt abs absolute neg negative square reciprocal sign floor ceil round trunc
    erf erfc atan arctan sinh cosh asinh arcsinh clamp clamp_min clamp_max clip log_sigmoid threshold
    hypot addcmul addcdiv lerp special_exp2 special_expit special_expm1 special_log1p special_erf
""".split()
_SAME = "clone contiguous alias detach lift_fresh lift_fresh_copy positive".split()
_DROPOUT = ("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout", "rrelu")


def couple_elements(op: Op, result: Value, operands: Iterable[Value], site: Site) -> Iterable[Constraint]:
    """Equal keep-sets along each dimension that is not broadcast."""
    reason = site.because(reason_for(op, "works element by element"))
    operands = tuple(operands)
    for dim in range(result.ndim):
        members = [(result, dim)]
        for value in operands:
            own = dim - (result.ndim - value.ndim)
            if own >= 0 and value.shape[own] == result.shape[dim]:
                members.append((value, own))
        yield from equal(reason, *members)


def elementwise_couple(site: Site) -> Iterable[Constraint]:
    return couple_elements(site.op, site.op.result, site.op.operands, site)


def _writes_in_place(op: Op) -> bool:
    return functional_form(op.target) is not op.target


def holds_in_place(site: Site, sizes: Sizes, kept: KeepSets) -> bool:
    """What is written in place has the result's shape."""
    return not _writes_in_place(site.op) or sizes(site.op.operands[0]) == sizes(site.op.result)


def tied_in_place(site: Site) -> Iterable[Constraint]:
    """Equal keep-sets of what is written in place and the result."""
    return couple_elements(site.op, site.op.result, site.op.operands[:1], site)


def out_of_place(site: Site, sizes: Sizes, kept: KeepSets) -> Iterable[Alternative]:
    """An operation that is not in place broadcasts all of its operands."""
    yield Alternative(OutOfPlace())


def elementwise_known(op: Op, facts: Facts) -> tuple[Fact, ...]:
    if any(f.is_unknown for f in facts):
        return nothing_known(op, facts)
    (value,) = evaluate(op, [f.value for f in facts])
    together = facts[0].known
    for other in facts[1:]:
        together = together & other.known
    return (fact(_fit(together, op.result), _fit(value, op.result)),)


def _fit(tensor: Tensor, value: Value) -> Tensor:
    return tensor.reshape((1,) * (value.ndim - tensor.ndim) + tuple(tensor.shape))


def elementwise_live(op: Op, facts: Facts, live: Lives) -> tuple[Tensor, ...]:
    return tuple(fold_to(live[0], v.shape) for v in op.operands)


def multiply_known(op: Op, facts: Facts) -> tuple[Fact, ...]:
    if len(facts) == 1:
        return elementwise_known(op, facts)
    a, b = facts
    if a.is_unknown and b.is_unknown:
        return nothing_known(op, facts)
    together = (a.known & b.known) | (a.known & (a.value == 0)) | (b.known & (b.value == 0))
    (value,) = evaluate(op, [a.value, b.value])
    return (fact(_fit(together, op.result), _fit(value, op.result)),)


def multiply_bounds(op: Op, facts: Facts) -> Sequence[Bounds]:
    """The square of a number is none of the products of two numbers that lie where it does."""
    is_square = len(op.operands) == 2 and op.operands[0] is op.operands[1]
    found = at_ends(op, facts)
    return (Bounds(0, found[0].high),) if is_square and op.result.dtype.is_floating_point else found


def power_bounds(op: Op, facts: Facts) -> Sequence[Bounds]:
    """A power is monotone in its base."""
    is_number = isinstance(op.get("exponent"), int | float) and len(op.operands) == 1
    return at_ends(op, facts) if is_number else (OPEN,)


def dropout_bounds(op: Op, facts: Facts) -> Sequence[Bounds]:
    """Dropout passes its input on in eval mode."""
    return (OPEN,) if _is_random(op) else as_given(op, facts)


def divide_known(op: Op, facts: Facts) -> tuple[Fact, ...]:
    """0 divided by a number that cannot be 0 is 0, whatever that is."""
    (found,) = elementwise_known(op, facts)
    return (found if len(facts) == 1 else _zero_over(op, facts, found),)


def _zero_over(op: Op, facts: Facts, found: Fact) -> Fact:
    """`found`, and 0 where the first operand is, if the second cannot be."""
    data, other = facts
    if data.is_unknown or not other.bounds.is_nonzero:
        return found
    zero = _fit(data.known & (data.value == 0), op.result)
    nothing = torch.zeros((), dtype=op.result.dtype)
    return fact(*broadcast(found.known | zero, torch.where(zero, nothing, found.value)))


def divide_live(op: Op, facts: Facts, live: Lives) -> tuple[Tensor, ...]:
    """What 0 is divided by is not read if it cannot be 0 even where nobody computes it rightly."""
    reads = elementwise_live(op, facts, live)
    if len(facts) == 1 or not facts[1].bounds.is_nonzero:
        return reads
    return reads[0], fold_to(live[0] & _fit(facts[0].maybe_nonzero, op.result), op.operands[1].shape)


def multiply_live(op: Op, facts: Facts, live: Lives) -> tuple[Tensor, ...]:
    if len(facts) == 1:
        return (fold_to(live[0], op.operands[0].shape),)
    a, b = op.operands
    first, second = (f.maybe_nonzero for f in facts)
    # Where both are 0, one of the zeros has to hold: the first.
    return fold_to(live[0] & (second | ~first), a.shape), fold_to(live[0] & first, b.shape)


def _factor(op: Op, facts: Facts) -> Fact:
    """What the first operand is multiplied by; where the second is not Known it may be anything."""
    other = facts[1].value
    match op.name.removeprefix("special_"):
        case "xlogy":
            found = other.double().log()
        case "xlog1py":
            found = other.double().log1p()
        case _:
            # A power of 2, which is not 0.
            return Fact(facts[1].known, torch.ones_like(other))
    return Fact(facts[1].known, torch.where(facts[1].known, found, torch.zeros_like(found)))


def scaled_known(op: Op, facts: Facts) -> tuple[Fact, ...]:
    """0 times a logarithm or a power is 0 whatever that is, and so is anything times a logarithm of 0."""
    if len(facts) == 1:
        return elementwise_known(op, facts)
    data, factor = facts[0], _factor(op, facts)
    zero = (data.known & (data.value == 0)) | (factor.known & (factor.value == 0))
    (value,) = evaluate(op, [f.value for f in facts])
    known, zero = (_fit(t, op.result) for t in (data.known & factor.known, zero))
    nothing = torch.zeros((), dtype=value.dtype)
    return (fact(*broadcast(known | zero, torch.where(zero, nothing, _fit(value, op.result)))),)


def scaled_live(op: Op, facts: Facts, live: Lives) -> tuple[Tensor, ...]:
    """As in a product, a factor of 0 reads nothing of the other one."""
    if len(facts) == 1:
        return elementwise_live(op, facts, live)
    first, second = facts[0].maybe_nonzero, _factor(op, facts).maybe_nonzero
    reads = live[0] & _fit(second | ~first, op.result), live[0] & _fit(first, op.result)
    return tuple(fold_to(r, v.shape) for r, v in zip(reads, op.operands, strict=True))


def step_known(op: Op, facts: Facts) -> tuple[Fact, ...]:
    """`heaviside` gives the second operand where the first is 0, else what follows from the first alone."""
    data, at_zero = facts
    (value,) = evaluate(op, [f.value for f in facts])
    known = data.known & (at_zero.known | (data.value != 0))
    return (fact(*(_fit(t, op.result) for t in broadcast(known, value))),)


def step_live(op: Op, facts: Facts, live: Lives) -> tuple[Tensor, ...]:
    at_zero = live[0] & _fit(~(facts[0].known & (facts[0].value != 0)), op.result)
    return fold_to(live[0], op.operands[0].shape), fold_to(at_zero, op.operands[1].shape)


def _maybe(condition: Fact, outcome: bool) -> Tensor:
    return ~condition.known | (condition.value if outcome else ~condition.value.bool())


def _given(op: Op, facts: Facts, name: str) -> Fact:
    """What is known of an argument that may be a tensor or a number, in the rank and type of the result."""
    dtype, position = op.result.dtype, op.position(name)
    if position is None:
        return Fact(indicator(True, op.result.ndim), _fit(torch.tensor(op[name], dtype=dtype), op.result))
    found = facts[position]
    return Fact(_fit(found.known, op.result), _fit(found.value.to(dtype), op.result))


def _agree(one: Fact, other: Fact) -> Tensor:
    """Bool, compressed: where both are Known to be one and the same number."""
    return one.known & other.known & (one.value == other.value)


def _either_known(op: Op, condition: Fact, taken: Fact, other: Fact) -> tuple[Fact, ...]:
    """What is `taken` where the condition holds, else `other`."""
    known, holds = (_fit(t, op.result) for t in (condition.known, condition.value.bool()))
    settled = known & torch.where(holds, taken.known, other.known)
    return (fact(settled | _agree(taken, other), torch.where(holds, taken.value, other.value)),)


def _condition_read(op: Op, live: Tensor, condition: Fact, one: Fact, other: Fact) -> Tensor:
    """Where a condition is read: not where it does not matter, unless it settles what else is read."""
    return live & ~(_agree(one, other) & ~_fit(condition.known, op.result))


def where_known(op: Op, facts: Facts) -> tuple[Fact, ...]:
    """Of two branches that are the same number it does not matter which is taken."""
    return _either_known(op, facts[0], _given(op, facts, "self"), _given(op, facts, "other"))


def where_live(op: Op, facts: Facts, live: Lives) -> tuple[Tensor, ...]:
    """`where(condition, self, other)`: a branch that is never taken is not read."""
    branches = _given(op, facts, "self"), _given(op, facts, "other")
    reads = [_condition_read(op, live[0], facts[0], *branches)]
    for name, outcome in (("self", True), ("other", False)):
        if op.position(name) is not None:
            reads.append(live[0] & _maybe(facts[0], outcome))
    return tuple(fold_to(r, v.shape) for r, v in zip(reads, op.operands, strict=True))


def masked_fill_known(op: Op, facts: Facts) -> tuple[Fact, ...]:
    """Elements under a known True mask are the fill value whatever the input, as are those that are it."""
    return _either_known(op, facts[1], _given(op, facts, "value"), _given(op, facts, "self"))


def masked_fill_live(op: Op, facts: Facts, live: Lives) -> tuple[Tensor, ...]:
    branches = _given(op, facts, "value"), _given(op, facts, "self")
    mask = _condition_read(op, live[0], facts[1], *branches)
    reads = [live[0] & _maybe(facts[1], False), mask, live[0] & _maybe(facts[1], True)]
    return tuple(fold_to(r, v.shape) for r, v in zip(reads, op.operands, strict=False))


def addcmul_known(op: Op, facts: Facts) -> tuple[Fact, ...]:
    """What 0 times anything is added to stays what it is."""
    added, one, other = facts
    (value,) = evaluate(op, [f.value for f in facts])
    product = (one.known & other.known) | (one.known & (one.value == 0)) | (other.known & (other.value == 0))
    return (fact(*(_fit(t, op.result) for t in broadcast(added.known & product, value))),)


def addcmul_live(op: Op, facts: Facts, live: Lives) -> tuple[Tensor, ...]:
    first, second = (f.maybe_nonzero for f in facts[1:])
    # Where both are 0, one of the zeros has to hold: the first.
    reads = (live[0], live[0] & (second | ~first), live[0] & first)
    return tuple(fold_to(r, v.shape) for r, v in zip(reads, op.operands, strict=True))


def lerp_known(op: Op, facts: Facts) -> tuple[Fact, ...]:
    """Between two equal numbers lies nothing else, and at either end the other one does not count."""
    start, end, weight = (_given(op, facts, name) for name in ("self", "end", "weight"))
    (value,) = elementwise_known(op, facts)
    settled = torch.where(weight.value == 1, end.known, start.known & ((weight.value == 0) | end.known))
    same = _agree(start, end)
    at_end = torch.where(weight.value == 1, end.value, start.value)
    mixed = torch.where(value.known & ~same, value.value, at_end)
    return (fact(*broadcast((weight.known & settled) | same, mixed)),)


def lerp_live(op: Op, facts: Facts, live: Lives) -> tuple[Tensor, ...]:
    start, end, weight = (_given(op, facts, name) for name in ("self", "end", "weight"))
    reads = (
        live[0] & ~(weight.known & (weight.value == 1)),
        live[0] & weight.maybe_nonzero,
        _condition_read(op, live[0], weight, start, end),
    )
    return tuple(fold_to(r, v.shape) for r, v in zip(reads, op.operands, strict=False))


def _is_random(op: Op) -> bool:
    return bool(op.get("train", op.get("training")))


def dropout_known(op: Op, facts: Facts) -> tuple[Fact, ...]:
    """Dropout passes its input on in eval mode, and makes it random otherwise."""
    return nothing_known(op, facts) if _is_random(op) else elementwise_known(op, facts)


def dropout_couple(site: Site) -> Iterable[Constraint]:
    """Which numbers are drawn depends on how many are: the shape stays."""
    return _RANDOM.couple(site) if _is_random(site.op) else elementwise_couple(site)


def prelu_couple(site: Site) -> Iterable[Constraint]:
    """The slope has one entry, or one per channel (dimension 1)."""
    data, weight = site.op.operands
    yield from couple_elements(site.op, site.op.result, [data], site)
    if weight.ndim == 1 and weight.shape[0] > 1:
        yield from equal(
            site.because("prelu has a slope per channel"), (weight, 0), (data, min(1, data.ndim - 1))
        )


def _slope(weight: Fact, data: Value) -> Fact:
    if weight.ndim != 1:
        return weight
    axis = min(1, data.ndim - 1)
    return Fact(vector(weight.known, axis, data.ndim), vector(weight.value, axis, data.ndim))


def prelu_known(op: Op, facts: Facts) -> tuple[Fact, ...]:
    """Numbers that are not negative do not count with the slope."""
    data, weight = facts[0], _slope(facts[1], op.operands[0])
    if data.is_unknown:
        return nothing_known(op, facts)
    value = torch.where(data.value >= 0, data.value, data.value * weight.value)
    return (fact(*broadcast(data.known & (weight.known | (data.value >= 0)), value)),)


def _reads_slope(op: Op, facts: Facts, live: Tensor) -> Tensor:
    return live & _fit(~(facts[0].known & (facts[0].value >= 0)), op.result)


def prelu_live(op: Op, facts: Facts, live: Lives) -> tuple[Tensor, ...]:
    data, weight = op.operands
    reads = _reads_slope(op, facts, live[0])
    if weight.ndim != 1:
        return live[0], fold_to(reads, weight.shape)
    axis = min(1, data.ndim - 1)
    return live[0], any_along(reads, axis, weight.shape[0]) if weight.shape[0] > 1 else reads.any().view(1)


def prelu_kernel_known(op: Op, facts: Facts) -> tuple[Fact, ...]:
    """The same with a slope for each element."""
    data, weight = (Fact(_fit(f.known, op.result), _fit(f.value, op.result)) for f in facts)
    value = torch.where(data.value >= 0, data.value, data.value * weight.value)
    return (fact(*broadcast(data.known & (weight.known | (data.value >= 0)), value)),)


def prelu_kernel_live(op: Op, facts: Facts, live: Lives) -> tuple[Tensor, ...]:
    reads = live[0], _reads_slope(op, facts, live[0])
    return tuple(fold_to(r, v.shape) for r, v in zip(reads, op.operands, strict=True))


def like_known(op: Op, facts: Facts) -> tuple[Fact, ...]:
    """`zeros_like`, `fill` and the like read no value of their first operand."""
    if any(f.is_unknown for f in facts[1:]):
        return nothing_known(op, facts)
    (value,) = evaluate(op, [facts[0].value[(slice(0, 1),) * facts[0].ndim], *(f.value for f in facts[1:])])
    return (constant(value),)


def holds_shape(site: Site, sizes: Sizes, kept: KeepSets) -> bool:
    """What is made like another tensor has its shape."""
    return sizes(site.op.operands[0]) == sizes(site.op.result)


def own_shape(site: Site, sizes: Sizes, kept: KeepSets) -> Iterable[Alternative]:
    """The same number in a shape of its own."""
    before, after = sizes(site.op.operands[0]), sizes(site.op.result)
    yield Alternative(OwnShape({d: n for d, n in enumerate(after) if n != before[d]}))


def like_live(op: Op, facts: Facts, live: Lives) -> tuple[Tensor, ...]:
    rest = tuple(fold_to(live[0], v.shape) for v in op.operands[1:])
    return (indicator(False, op.operands[0].ndim), *rest)


def type_as_couple(site: Site) -> Iterable[Constraint]:
    return couple_elements(site.op, site.op.result, site.op.operands[:1], site)


def type_as_known(op: Op, facts: Facts) -> tuple[Fact, ...]:
    return (Fact(facts[0].known, facts[0].value.to(op.result.dtype)),)


def type_as_live(op: Op, facts: Facts, live: Lives) -> tuple[Tensor, ...]:
    return (live[0], indicator(False, op.operands[1].ndim))


def _by_element(known: Known, live: Live = elementwise_live, bounds: BoundsOf = no_bounds) -> Rule:
    """An operator that works element by element, near borders too."""
    return Rule(
        is_local=True,
        broadcasts=True,
        couple=elementwise_couple,
        holds=holds_in_place,
        alternatives=any_of(out_of_place, keep_instead(tied_in_place)),
        known=known,
        live=live,
        bounds=bounds,
        at_borders=element_by_element(known),
        reads_numbers=True,
    )


ELEMENTWISE = _by_element(elementwise_known)
_RANDOM = keeping("draws a random number for each element")
PRODUCT = evolve(_by_element(multiply_known, multiply_live, multiply_bounds), is_product=True)
QUOTIENT = _by_element(divide_known, divide_live, at_ends)


def _slopes(op: Op, sizes: Sizes) -> Attributes:
    return {"num_parameters": sizes(op.operands[1])[0]}


_LIKE = Rule(is_local=True, couple=elementwise_couple, known=like_known, live=like_live, reads_numbers=True)
_OWN_SHAPE = any_of(own_shape, keep_instead(elementwise_couple))
_SLOPES = WeightRule(attributes=MappingProxyType({nn.PReLU: _slopes}))

_RULES: dict[str, Rule] = {
    **dict.fromkeys((*_UNARY, *_BINARY, "min.other", "max.other"), ELEMENTWISE),
    **{f"special_{name}": ELEMENTWISE for name in _SPECIAL},
    "add": evolve(ELEMENTWISE, is_sum=True),
    "mul": PRODUCT,
    "multiply": PRODUCT,
    **dict.fromkeys(("div", "divide", "true_divide", "floor_divide"), QUOTIENT),
    **dict.fromkeys(("remainder", "fmod"), evolve(QUOTIENT, bounds=no_bounds)),
    "pow": _by_element(elementwise_known, bounds=power_bounds),
    **dict.fromkeys(
        ("ldexp", "xlogy", "special_xlogy", "special_xlog1py"), _by_element(scaled_known, scaled_live)
    ),
    "heaviside": _by_element(step_known, step_live),
    "addcmul": _by_element(addcmul_known, addcmul_live),
    "lerp": _by_element(lerp_known, lerp_live),
    "where": _by_element(where_known, where_live, either(argument("self"), argument("other"))),
    "masked_fill": _by_element(
        masked_fill_known, masked_fill_live, either(argument("self"), argument("value"))
    ),
    **{
        name: evolve(
            _by_element(dropout_known, bounds=no_bounds if name == "rrelu" else dropout_bounds),
            couple=dropout_couple,
            reads_numbers=False,
        )
        for name in _DROPOUT
    },
    "prelu": Rule(
        is_local=True,
        couple=prelu_couple,
        known=prelu_known,
        live=prelu_live,
        at_borders=channel_by_channel(prelu_known),
        weight=_SLOPES,
    ),
    "_prelu_kernel": _by_element(prelu_kernel_known, prelu_kernel_live),
    **{
        n: evolve(_LIKE, bounds=bounds)
        for n, bounds in (("zero", always(spanned([0]))), ("fill", either(argument("value"))))
    },
    **{
        n: evolve(_LIKE, bounds=bounds, takes_shape=True, holds=holds_shape, alternatives=_OWN_SHAPE)
        for n, bounds in (
            ("zeros_like", always(spanned([0]))),
            ("ones_like", always(spanned([1]))),
            ("full_like", either(argument("fill_value"))),
        )
    },
    "empty_like": Rule(is_local=True, couple=elementwise_couple, live=like_live),
    **dict.fromkeys(
        ("type_as", "to.other"),
        Rule(
            is_local=True,
            couple=type_as_couple,
            known=type_as_known,
            live=type_as_live,
            bounds=in_type_of_result,
        ),
    ),
}

_BOUNDED = (
    {name: evolve(_RULES[name], bounds=at_ends) for name in _MONOTONE_IN_OPERANDS}
    | {name: evolve(_RULES[name], bounds=as_given) for name in _SAME}
    | {name: evolve(_RULES[name], bounds=in_type_of_result) for name in ("to", "_to_copy")}
)
_TOLD = _RULES | _BOUNDED

RULES: dict[str, Rule] = _TOLD | {
    name: evolve(_TOLD[name], is_monotone=True) for name in (*_MONOTONE, *_DROPOUT)
}
