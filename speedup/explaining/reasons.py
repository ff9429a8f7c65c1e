"""Why each part of a layer goes or stays, and which constraints hold most work back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from attrs import evolve, frozen
from torch import Tensor

from speedup.analyses.analysis import Analysis
from speedup.engine.lattice import any_along
from speedup.explaining.axes import Axis, axes_of
from speedup.explaining.folds import ConstantFold, Folds
from speedup.explaining.freed import Freed
from speedup.explaining.holds import Hold, Holds
from speedup.ir.report import Blocked, Portion, Step
from speedup.rules.weights import READS, UNITS

# A constant that many layers read is listed with the first of them.
_FOLDS, _FOLLOWED = 3, 32
_NEEDS = 3
_ALIGNED = Step("they fill up a width that align= asks for")


@frozen(eq=False)
class Withheld:
    """Indices of an axis that nothing needs but that are kept, with each reason."""

    axis: Axis
    holds: tuple[Hold, ...]
    # Whether the call that it was found in is the example's.
    is_counted: bool = True


def find_withheld(analysis: Analysis, outside: str) -> tuple[Withheld, ...]:
    """Per axis of every layer, what could go but stays. `outside` says who reads the graph's outputs."""
    holds = Holds.of(analysis, outside)
    found = []
    for op in analysis.graph.ops:
        for axis in axes_of(op, analysis):
            left = analysis.kept[axis.dim] & ~axis.needed()
            if bool(left.any()):
                held = holds.of_indices(axis.dim, left)
                found.append(Withheld(axis, held, analysis.graph.is_counted(op)))
    return tuple(found)


def blocked_channels(found: Iterable[Withheld]) -> tuple[Blocked, ...]:
    """Per layer with a weight, the result channels or units that could go but stay, by constraint."""
    blocked: list[Blocked] = []
    for one in found:
        alike: dict[Step, list[Hold]] = {}
        for hold in one.holds if one.axis.is_blockable else ():
            alike.setdefault(evolve(constraint_of(hold.steps), indices=()), []).append(hold)
        for holds in alike.values():
            count = sum(int(hold.indices.sum()) for hold in holds)
            reason = chains_in_words([hold.steps for hold in holds])
            told = Blocked(one.axis.path, count, holds[0].indices.numel(), reason)
            # Another call of a layer tells the same again.
            if one.is_counted or told not in blocked:
                blocked.append(told)
    return tuple(blocked)


def constraint_of(steps: Sequence[Step]) -> Step:
    """What of a chain is the constraint: the root, or what first ties something else to a need there."""
    root, *rest = steps
    if not root.is_need or not rest:
        return root
    others = (step for step in rest if (step.operator, step.path) != (root.operator, root.path))
    return next(others, rest[-1])


def chains_in_words(chains: Sequence[tuple[Step, ...]]) -> str:
    """Chains with one constraint in one line: the constraint, and who has the need or what passes it on."""
    constraint, (root, *rest) = constraint_of(chains[0]), chains[0]
    if not root.is_need:
        return "; ".join(_in_words(step) for step in (root, *rest[-1:]))
    needs = dict.fromkeys(
        f"{short_operator(one[0].operator)} of {one[0].path or 'the forward'}" for one in chains
    )
    more = f" and {len(needs) - _NEEDS} more" if len(needs) > _NEEDS else ""
    verb = "needs" if len(needs) == 1 else "need"
    coupled = f"coupled with {', '.join(list(needs)[:_NEEDS])}{more}, which {verb} them"
    return coupled if constraint is root else f"{_in_words(constraint)}; {coupled}"


def short_operator(operator: str) -> str:
    """`conv2d` for `aten.conv2d.default`, `relu` for `aten.relu_.default`."""
    parts = operator.split(".")
    return parts[1].rstrip("_") if len(parts) > 1 else operator


def _in_words(step: Step) -> str:
    return f"{step.words} ({step.path or 'in the forward'})" if step.operator else step.words


def portions(analysis: Analysis, found: Iterable[Withheld], masked: Iterable[str]) -> tuple[Portion, ...]:
    """What goes and what stays though it could go, by layer and axis in the order of the graph.

    `masked` names the parameters that have masks.
    """
    stays = {(one.axis.op.index, one.axis.dim): one for one in found}
    freed, folds = Freed.of(analysis, masked), Folds.of(analysis)
    listed: list[list[Portion]] = []
    told: set[tuple[str, str, int]] = set()
    # From the last layer to the first: what is dead further on is known when it is asked for.
    for op in reversed(analysis.graph.ops):
        here: list[Portion] = []
        for axis in axes_of(op, analysis):
            # Of a layer that is called again, the same indices have been told about.
            key = (axis.path, axis.label, analysis.kept.class_of(axis.dim))
            if key not in told:
                told.add(key)
                gone = ~analysis.kept[axis.dim]
                if bool(gone.any()):
                    here.extend(_portions_gone(axis, gone, analysis, freed, folds))
                here.extend(_portions_kept(axis, stays.get((op.index, axis.dim)), analysis))
        listed.append(here)
    return tuple(portion for here in reversed(listed) for portion in here)


def _portions_kept(axis: Axis, found: Withheld | None, analysis: Analysis) -> Iterator[Portion]:
    """What stays of an axis though it could go, and what stays beside it to align."""
    for hold in found.holds if found else ():
        yield _staying(axis, hold.indices, hold.steps)
    if analysis.unaligned is not None:
        added = analysis.kept[axis.dim] & ~analysis.unaligned.kept[axis.dim]
        if bool(added.any()):
            yield _staying(axis, added, (_ALIGNED,))


def _staying(axis: Axis, indices: Tensor, why: tuple[Step, ...]) -> Portion:
    listed = tuple(indices.nonzero().reshape(-1).tolist())
    return Portion(axis.path, axis.label, indices.numel(), listed, True, why)


def _portions_gone(
    axis: Axis, gone: Tensor, analysis: Analysis, freed: Freed, folds: Folds
) -> Iterator[Portion]:
    """What goes of an axis, by what freed it and by where its constants went."""
    causes = list(_causes(axis, gone, analysis, freed))
    paid = list(_folds_of(axis, gone, folds))[:_FOLLOWED]
    # Index by index, the number of its cause, then a bit for each fold that it takes part in.
    codes = torch.zeros(gone.shape, dtype=torch.int64)
    for number, (_, indices) in enumerate(causes):
        codes[indices] = number << len(paid)
    for number, fold in enumerate(paid):
        codes += fold.indices.to(torch.int64) << number
    groups: dict[int, list[int]] = {}
    listed = gone.nonzero().reshape(-1)
    for index, code in zip(listed.tolist(), codes[listed].tolist(), strict=True):
        groups.setdefault(code, []).append(index)
    for code, members in groups.items():
        folded = [fold.step for number, fold in enumerate(paid) if code >> number & 1]
        why = (causes[code >> len(paid)][0], *folded[:_FOLDS])
        yield Portion(axis.path, axis.label, gone.numel(), tuple(members), False, why)


def _folds_of(axis: Axis, gone: Tensor, folds: Folds) -> Iterator[ConstantFold]:
    for fold in folds.of_indices(axis.dim, gone):
        # What a layer reads is told about that layer alone.
        if axis.name != READS or fold.step.path == axis.path:
            yield fold


def _causes(axis: Axis, gone: Tensor, analysis: Analysis, freed: Freed) -> Iterator[tuple[Step, Tensor]]:
    left = gone
    for step, indices in _possible(axis, analysis, freed):
        share = left & indices
        if bool(share.any()):
            yield step, share
            left = left & ~share
    if bool(left.any()):
        yield Step("constant or read by nobody"), left


def _possible(axis: Axis, analysis: Analysis, freed: Freed) -> Iterator[tuple[Step, Tensor]]:
    if axis.name == UNITS:
        yield from _units(axis, analysis, freed)
        return
    if axis.name == READS:
        # The layer's own zeros come first: what it reads may be needed by others.
        yield from _own_columns(axis, analysis, freed)
    yield from freed.constants(axis.dim).items()
    yield from freed.droppers(axis.dim).items()


def _own_columns(axis: Axis, analysis: Analysis, freed: Freed) -> Iterator[tuple[Step, Tensor]]:
    value, extent = analysis.graph.values[axis.dim[0]], analysis.kept[axis.dim].numel()
    known = ~any_along(~analysis.known(value), axis.dim[1], extent)
    for step, indices in freed.dropped_by(axis.op, axis.dim):
        yield step, indices & ~known


def _units(axis: Axis, analysis: Analysis, freed: Freed) -> Iterator[tuple[Step, Tensor]]:
    op = axis.op
    names = [v.name for v in axis.weights if v.name in freed.masked]
    by = f"masked in {names[0]}" if names else "zeros in the weights"
    if axis.idle is not None:
        yield Step(f"{by}: nothing ever enters them", str(op.target), op.owner.path), axis.idle()
    ones = torch.ones(analysis.kept[axis.dim].numel(), dtype=torch.bool)
    yield Step("no live result reads them", str(op.target), op.owner.path), ones
