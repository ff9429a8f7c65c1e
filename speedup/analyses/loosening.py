"""What ops leave open of their rules' demands where extents are the same for every input.

An operand whose elements are all the same along a dimension may have one of them, which the operator
broadcasts: of a branch that is one constant, as one that is masked whole, a single channel is left. The
border that a pad puts around channels may go like these. And what is made like another tensor need not have
as many.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from attrs import evolve

from speedup.engine.constraints import Broadcast, Constraint, Dim, Equal, Mapped
from speedup.ir.graph import Value
from speedup.rules import rule_of
from speedup.rules.extents import Extents
from speedup.rules.site import Site


def couple_loosely(site: Site, extents: Extents) -> Iterable[Constraint]:
    """What the op's rule demands, but for what may be left open."""
    rule = rule_of(site.op, extents.rules)
    found = rule.couple(site)
    if site.op.is_rigid:
        return found
    if rule.arrangement == "pads":
        return _without_borders(found, site.op.result, extents)
    if rule.takes_shape:
        return _of_own_shape(found, site.op.result, extents)
    if not rule.broadcasts or len(site.op.operands) < 2:
        return found
    parts = frozenset(_parts(site, extents))
    return _relaxed(found, parts, site.op.result) if parts else found


def _without_borders(found: Iterable[Constraint], result: Value, extents: Extents) -> Iterator[Constraint]:
    for constraint in found:
        if isinstance(constraint, Mapped) and not any(
            extents.may_vary(result, dim) for _, dim in constraint.targets
        ):
            yield evolve(constraint, fixed=False)
        else:
            yield constraint


def _of_own_shape(found: Iterable[Constraint], result: Value, extents: Extents) -> Iterator[Constraint]:
    for constraint in found:
        dims = constraint.dims if isinstance(constraint, Equal) else ()
        if not any(value == result.index and not extents.may_vary(result, dim) for value, dim in dims):
            yield constraint


def _parts(site: Site, extents: Extents) -> Iterator[Dim]:
    """Dimensions of operands along which all elements that are read are the same constant."""
    for value in site.op.operands:
        # State that was masked may be trained again.
        if site.graph.is_fixed(value) or not (site.fact(value).is_all_known() or _is_dead(site, value)):
            continue
        for dim, extent in enumerate(value.shape):
            if extent > 1 and _is_uniform(site, value, dim) and not extents.may_vary(value, dim):
                yield value.index, dim


def _is_uniform(site: Site, value: Value, dim: int) -> bool:
    if _is_dead(site, value):
        return True
    constants = site.fact(value).value
    return bool((constants == constants.narrow(dim, 0, 1)).all())


def _is_dead(site: Site, value: Value) -> bool:
    return not bool(site.live(value).any())


def _relaxed(found: Iterable[Constraint], parts: frozenset[Dim], result: Value) -> Iterator[Constraint]:
    """`found`, where equalities leave out `parts`, unless no other operand has all that the result keeps."""
    for constraint in found:
        if not isinstance(constraint, Equal):
            yield constraint
            continue
        operands = [dim for dim in constraint.dims if dim[0] != result.index]
        carriers = [dim for dim in operands if dim not in parts] or operands[:1]
        results = (dim for dim in constraint.dims if dim[0] == result.index)
        yield Equal((*results, *carriers), constraint.reason)
        yield from (Broadcast(dim, carriers[0], constraint.reason) for dim in operands if dim not in carriers)
