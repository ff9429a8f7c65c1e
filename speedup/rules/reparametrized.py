"""Weights that a module computes from others before it uses them: weight_norm, spectral_norm.

`weight_norm` gives each slice v along `dim` the length g: `w = g v / |v|` (Salimans & Kingma
2016). Where columns of v go, g becomes `g |v_kept| / |v|`, so that those that stay are the same.
`spectral_norm` divides by `u . (W v)` with fixed u and v in eval mode (Miyato et al. 2018): what
adds nothing to that number can go.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from attrs import frozen
from torch import Tensor

from speedup.engine.constraints import Constraint, Pinned
from speedup.engine.keepsets import KeepSets
from speedup.engine.lattice import any_along, any_over, fold_to, indicator
from speedup.engine.layout import box
from speedup.ir.edits import AddToParameter, ConstantTensor, Edit
from speedup.ir.graph import Op, Origin, Value
from speedup.rules.rule import Facts, Lives, Rule, all_pinned, equal, everything_read, reason_for
from speedup.rules.site import Site


@frozen(eq=False)
class Normed:
    """Direction `v`, length `g`, results (weight, and norm where the op returns it).

    `axis` is the dimension along which slices are normed; None where the tensor as a whole is.
    """

    v: Value
    g: Value
    axis: int | None

    @property
    def others(self) -> tuple[int, ...]:
        """The dimensions that a norm is taken over."""
        return tuple(d for d in range(self.v.ndim) if d != self.axis)


def describe_normed(op: Op) -> Normed:
    v, g = op.operands
    return Normed(v, g, None if op["dim"] == -1 else op["dim"])


def _is_plain(shape: Normed) -> bool:
    """Whether `g` is laid out as `torch.nn.utils` does it."""
    if shape.axis is None:
        return all(n == 1 for n in shape.g.shape)
    wanted = tuple(n if d == shape.axis else 1 for d, n in enumerate(shape.v.shape))
    return 0 <= shape.axis < shape.v.ndim and shape.g.shape == wanted


def normed_live(op: Op, facts: Facts, live: Lives) -> tuple[Tensor, ...]:
    """A live element reads its whole slice, and its length."""
    shape = describe_normed(op)
    if not _is_plain(shape):
        return everything_read(op, facts, live)
    slices = any_over(live[0], shape.others)
    if len(live) > 1:
        norm = live[1] if live[1].ndim == slices.ndim else indicator(bool(live[1].any()), slices.ndim)
        slices = slices | norm
    return slices, fold_to(slices, shape.g.shape) if shape.g.ndim else slices.any().reshape(())


def _can_compensate(site: Site, shape: Normed) -> bool:
    """Whether the lengths may change: nothing but such ops, on the same operands, reads v and g."""
    readers = site.graph.readers[shape.g.index]
    state = all(
        value.origin in (Origin.PARAMETER, Origin.BUFFER)
        and value not in site.graph.outputs
        and site.graph.readers[value.index] == readers
        for value in (shape.v, shape.g)
    )
    alike = all(_same(site.graph.ops[r], site.op) for r in readers)
    norms = [r for reader in readers for r in site.graph.ops[reader].results[1:]]
    unread = not any(site.graph.readers[n.index] or n in site.graph.outputs for n in norms)
    return (
        state and alike and unread and site.fact(shape.v).is_all_known() and site.fact(shape.g).is_all_known()
    )


def _same(op: Op, other: Op) -> bool:
    return op.target == other.target and op.operands == other.operands and op["dim"] == other["dim"]


def normed_couple(site: Site) -> Iterable[Constraint]:
    """The weight keeps what v keeps; what counts in a norm goes only where g can make up for it."""
    shape = describe_normed(site.op)
    if not _is_plain(shape):
        yield from all_pinned(site)
        return
    reason = site.because(reason_for(site.op, "ties the weight to what it is computed from"))
    for dim in range(shape.v.ndim):
        yield from equal(reason, (site.op.results[0], dim), (shape.v, dim))
    if shape.axis is not None:
        lengths = [(r, shape.axis) for r in site.op.results[1:] if r.ndim == shape.v.ndim]
        yield from equal(reason, (shape.v, shape.axis), (shape.g, shape.axis), *lengths)
    if not _can_compensate(site, shape):
        reason = site.because(reason_for(site.op, "takes norms that something else reads too"))
        counts = site.fact(shape.v).maybe_nonzero & site.live(shape.v)
        for dim in shape.others:
            yield Pinned((shape.v.index, dim), reason, any_along(counts, dim, shape.v.shape[dim]))


def normed_compensate(site: Site, kept: KeepSets) -> Iterable[Edit]:
    """Lengths that make up for the dropped part of each norm."""
    shape = describe_normed(site.op)
    dims = [(shape.v.index, d) for d in shape.others]
    first = site.graph.readers[shape.g.index][0] == site.op.index
    if not first or not _is_plain(shape) or all(kept.is_full(d) for d in dims):
        return
    if not _can_compensate(site, shape):
        return
    every = [kept[(shape.v.index, d)] if d in shape.others else _all(n) for d, n in enumerate(shape.v.shape)]
    inside = box(every).reshape(shape.v.shape)
    v = site.fact(shape.v).value.expand(shape.v.shape).double()
    whole, part = _norm(v, shape), _norm(v * inside, shape)
    if bool((whole == part).all()):
        return
    lost = (part == 0) & (whole != 0)
    if bool(lost.any()):
        # A slice of zeros has no direction; any will do for the length 0.
        corner = torch.zeros_like(inside)
        corner[
            tuple(slice(None) if d == shape.axis else int(k.nonzero()[0]) for d, k in enumerate(every))
        ] = True
        yield AddToParameter(
            shape.v.name, ConstantTensor((lost & corner).double()), "a direction for what is now 0"
        )
    ratio = torch.where(whole == 0, 1.0, part / whole)
    g = site.fact(shape.g).value.expand(shape.g.shape).double()
    delta = g * (ratio.reshape(shape.g.shape) - 1)
    yield AddToParameter(shape.g.name, ConstantTensor(delta), f"length of what is kept of {shape.v.name}")


def _all(extent: int) -> Tensor:
    return torch.ones(extent, dtype=torch.bool)


def _norm(v: Tensor, shape: Normed) -> Tensor:
    return v.square().sum(shape.others, keepdim=True).sqrt()


NORMED = Rule(couple=normed_couple, live=normed_live, compensate=normed_compensate)

RULES: dict[str, Rule] = {
    **dict.fromkeys(("_weight_norm", "_weight_norm_interface"), NORMED),
}
