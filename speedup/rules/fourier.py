"""Fourier transforms, which mix the dimensions they run along, and complex numbers as pairs of real ones."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from attrs import evolve
from torch import Tensor

from speedup.engine.constraints import Constraint
from speedup.engine.lattice import Fact, all_over, any_over, fact, spread
from speedup.ir.evaluation import evaluate
from speedup.ir.graph import Op
from speedup.rules.rule import Facts, Lives, Rule, matched, nothing_known, pinned, reason_for
from speedup.rules.site import Site


def _dims(op: Op) -> tuple[int, ...]:
    """The dimensions that are transformed."""
    ndim = op.operands[0].ndim
    given, sizes = op.get("dim"), op.get("s")
    if given is None:
        return tuple(range(0 if sizes is None else ndim - len(sizes), ndim))
    return tuple(d % ndim for d in (given if isinstance(given, tuple) else (given,)))


def transform_couple(site: Site) -> Iterable[Constraint]:
    op, mixed = site.op, _dims(site.op)
    values = (op.operands[0], op.result)
    reason = site.because(reason_for(op, "runs along the whole dimension"))
    yield from matched(reason, values, (d for d in range(op.result.ndim) if d not in mixed))
    for value in values:
        yield from pinned(value, mixed, reason)


def transform_known(op: Op, facts: Facts) -> tuple[Fact, ...]:
    """Known where all along the transformed dimensions is; 0 where it is uniform, whatever the extent."""
    data, mixed = facts[0], _dims(op)
    if data.is_unknown:
        return nothing_known(op, facts)
    known = all_over(data.known, mixed)
    if op.follows_sizes() or any(data.value.shape[d] == 1 for d in mixed):
        known = known & ~any_over(data.maybe_nonzero, mixed)
    if not bool(known.any()):
        return nothing_known(op, facts)
    return (fact(known, evaluate(op, [spread(data.value, op.operands[0].shape, mixed)])[0]),)


def transform_live(op: Op, facts: Facts, live: Lives) -> tuple[Tensor, ...]:
    return (any_over(live[0], _dims(op)),)


def _shifts(op: Op, dims: tuple[int, ...], back: bool) -> list[int]:
    """How far a shift rolls each of `dims`; back: the way from the result to the operand."""
    is_forward = op.name == "fft_fftshift"
    halves = [(n // 2 if is_forward else (n + 1) // 2) for n in (op.operands[0].shape[d] for d in dims)]
    return [-half if back else half for half in halves]


def shift_known(op: Op, facts: Facts) -> tuple[Fact, ...]:
    """What moves, by half of each extent, is known where it comes to lie."""
    dims = _dims(op)
    known, value = (torch.roll(t, _shifts(op, dims, False), dims) for t in (facts[0].known, facts[0].value))
    return (fact(known, value),)


def shift_live(op: Op, facts: Facts, live: Lives) -> tuple[Tensor, ...]:
    dims = _dims(op)
    return (torch.roll(live[0], _shifts(op, dims, True), dims),)


def pairs_couple(site: Site) -> Iterable[Constraint]:
    """Real and imaginary part lie along one more dimension, the last, of the side that is real."""
    source, target = site.op.operands[0], site.op.result
    reason = site.because(reason_for(site.op, "pairs real and imaginary parts"))
    shared = min(source.ndim, target.ndim)
    yield from matched(reason, (source, target), range(shared)) if shared else ()
    for value in (source, target):
        yield from pinned(value, range(shared, value.ndim), reason)


def as_real_known(op: Op, facts: Facts) -> tuple[Fact, ...]:
    return (fact(facts[0].known[..., None], torch.view_as_real(facts[0].value)),)


def as_real_live(op: Op, facts: Facts, live: Lives) -> tuple[Tensor, ...]:
    return (live[0].any(-1),)


def as_complex_known(op: Op, facts: Facts) -> tuple[Fact, ...]:
    data = facts[0]
    value = spread(data.value, op.operands[0].shape, [data.ndim - 1]).contiguous()
    return (fact(data.known.all(-1), torch.view_as_complex(value)),)


def as_complex_live(op: Op, facts: Facts, live: Lives) -> tuple[Tensor, ...]:
    return (live[0][..., None],)


TRANSFORM = Rule(couple=transform_couple, known=transform_known, live=transform_live, reads_sizes=True)

_TRANSFORMS = """
    fft ifft rfft irfft hfft ihfft fft2 ifft2 rfft2 irfft2 hfft2 ihfft2 fftn ifftn rfftn irfftn hfftn ihfftn
""".split()

RULES: dict[str, Rule] = {
    **{f"fft_{name}": TRANSFORM for name in _TRANSFORMS},
    **dict.fromkeys(("fft_fftshift", "fft_ifftshift"), evolve(TRANSFORM, known=shift_known, live=shift_live)),
    "view_as_real": Rule(couple=pairs_couple, known=as_real_known, live=as_real_live),
    "view_as_complex": Rule(couple=pairs_couple, known=as_complex_known, live=as_complex_live),
}
