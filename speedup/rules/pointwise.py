"""Elementwise operators: every result element reads the operand elements it is aligned with."""

from __future__ import annotations

from collections.abc import Iterable
from types import MappingProxyType

import torch
from attrs import evolve
from torch import Tensor, nn

from speedup.engine.constraints import Constraint
from speedup.engine.lattice import Fact, constant, fact, fold_to, indicator, vector
from speedup.ir.evaluation import evaluate
from speedup.ir.graph import Op, Value
from speedup.rules.borders import channel_by_channel, element_by_element
from speedup.rules.kept import keeping
from speedup.rules.rule import Facts, Known, Live, Lives, Rule, Sizes, equal, nothing_known, reason_for
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


def multiply_live(op: Op, facts: Facts, live: Lives) -> tuple[Tensor, ...]:
    if len(facts) == 1:
        return (fold_to(live[0], op.operands[0].shape),)
    a, b = op.operands
    first, second = (f.maybe_nonzero for f in facts)
    # Where both are 0, one of the zeros has to hold: the first.
    return fold_to(live[0] & (second | ~first), a.shape), fold_to(live[0] & first, b.shape)


def _maybe(condition: Fact, outcome: bool) -> Tensor:
    return ~condition.known | (condition.value if outcome else ~condition.value.bool())


def where_live(op: Op, facts: Facts, live: Lives) -> tuple[Tensor, ...]:
    """`where(condition, self, other)`: a branch that is never taken is not read."""
    reads = [live[0], live[0] & _maybe(facts[0], True)]
    if len(facts) > 2:
        reads.append(live[0] & _maybe(facts[0], False))
    if not isinstance(op.arguments["self"], Value):
        reads = [live[0], live[0] & _maybe(facts[0], False)][: len(facts)]
    return tuple(fold_to(r, v.shape) for r, v in zip(reads, op.operands, strict=True))


def masked_fill_known(op: Op, facts: Facts) -> tuple[Fact, ...]:
    """Elements under a known True mask are the fill value whatever the input."""
    data, mask, *fill = facts
    if mask.is_unknown or any(f.is_unknown for f in fill):
        return nothing_known(op, facts)
    (value,) = evaluate(op, [f.value for f in facts])
    together = mask.known & (mask.value | data.known)
    return (fact(_fit(together, op.result), _fit(value, op.result)),)


def masked_fill_live(op: Op, facts: Facts, live: Lives) -> tuple[Tensor, ...]:
    reads = [live[0] & _maybe(facts[1], False), live[0], live[0]]
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
    data, weight = facts[0], _slope(facts[1], op.operands[0])
    if data.is_unknown or weight.is_unknown:
        return nothing_known(op, facts)
    value = torch.where(data.value > 0, data.value, data.value * weight.value)
    return (fact(data.known & weight.known, value),)


def prelu_live(op: Op, facts: Facts, live: Lives) -> tuple[Tensor, ...]:
    weight = op.operands[1]
    return (live[0], indicator(True, weight.ndim))


def like_known(op: Op, facts: Facts) -> tuple[Fact, ...]:
    """`zeros_like`, `fill` and the like read no value of their first operand."""
    if any(f.is_unknown for f in facts[1:]):
        return nothing_known(op, facts)
    (value,) = evaluate(op, [facts[0].value[(slice(0, 1),) * facts[0].ndim], *(f.value for f in facts[1:])])
    return (constant(value),)


def like_live(op: Op, facts: Facts, live: Lives) -> tuple[Tensor, ...]:
    rest = tuple(fold_to(live[0], v.shape) for v in op.operands[1:])
    return (indicator(False, op.operands[0].ndim), *rest)


def type_as_couple(site: Site) -> Iterable[Constraint]:
    return couple_elements(site.op, site.op.result, site.op.operands[:1], site)


def type_as_known(op: Op, facts: Facts) -> tuple[Fact, ...]:
    return (Fact(facts[0].known, facts[0].value.to(op.result.dtype)),)


def type_as_live(op: Op, facts: Facts, live: Lives) -> tuple[Tensor, ...]:
    return (live[0], indicator(False, op.operands[1].ndim))


def _by_element(known: Known, live: Live = elementwise_live) -> Rule:
    """An operator that works element by element, near borders too."""
    return Rule(
        is_local=True,
        couple=elementwise_couple,
        known=known,
        live=live,
        at_borders=element_by_element(known),
        reads_numbers=True,
    )


ELEMENTWISE = _by_element(elementwise_known)
_RANDOM = keeping("draws a random number for each element")
PRODUCT = evolve(_by_element(multiply_known, multiply_live), is_product=True)


def _slopes(op: Op, sizes: Sizes) -> Attributes:
    return {"num_parameters": sizes(op.operands[1])[0]}


_SLOPES = WeightRule(attributes=MappingProxyType({nn.PReLU: _slopes}))

RULES: dict[str, Rule] = {
    **dict.fromkeys((*_UNARY, *_BINARY, "addcmul", "min.other", "max.other"), ELEMENTWISE),
    **{f"special_{name}": ELEMENTWISE for name in _SPECIAL},
    "add": evolve(ELEMENTWISE, is_sum=True),
    "mul": PRODUCT,
    "multiply": PRODUCT,
    "where": _by_element(elementwise_known, where_live),
    "masked_fill": _by_element(masked_fill_known, masked_fill_live),
    **{
        name: evolve(_by_element(dropout_known), couple=dropout_couple, reads_numbers=False)
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
    "_prelu_kernel": ELEMENTWISE,
    **{
        n: Rule(
            is_local=True, couple=elementwise_couple, known=like_known, live=like_live, reads_numbers=True
        )
        for n in ("zeros_like", "ones_like", "full_like", "fill", "zero")
    },
    "empty_like": Rule(is_local=True, couple=elementwise_couple, live=like_live),
    **dict.fromkeys(
        ("type_as", "to.other"),
        Rule(is_local=True, couple=type_as_couple, known=type_as_known, live=type_as_live),
    ),
}
