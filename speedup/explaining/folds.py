"""What the constants that were dropped from a layer's result were folded into, and where."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping

import torch
from attrs import frozen
from torch import Tensor

from speedup.analyses.analysis import Analysis
from speedup.analyses.crossings import crossings
from speedup.engine.constraints import Dim, Mapped, Subset
from speedup.ir.graph import Op
from speedup.ir.report import Step
from speedup.rules import rule_of

# Past this many dimensions what becomes of a constant is no longer followed.
_FARTHEST = 16


@frozen(eq=False)
class ConstantFold:
    """The constants of `indices` (bool vector) went where `step` says."""

    indices: Tensor
    step: Step


@frozen(eq=False)
class Folds:
    """By class of dimensions: what its readers took over, and what leads on."""

    analysis: Analysis
    taken: Mapping[int, tuple[ConstantFold, ...]]
    onward: Mapping[int, tuple[tuple[Mapped | Subset, Dim], ...]]

    @classmethod
    def of(cls, analysis: Analysis) -> Folds:
        """Collect what every call of the graph takes over."""
        class_of = analysis.kept.class_of
        taken: dict[int, list[ConstantFold]] = {}
        for op, dim, indices, words in _destinations(analysis):
            if bool(indices.any()):
                step = Step(f"folded into {words}", str(op.target), op.owner.path)
                taken.setdefault(class_of(dim), []).append(ConstantFold(indices, step))
        onward: dict[int, list[tuple[Mapped | Subset, Dim]]] = {}
        for constraint in analysis.constraints if taken else ():
            if isinstance(constraint, Mapped | Subset):
                for dim in constraint.sources if isinstance(constraint, Mapped) else (constraint.part,):
                    onward.setdefault(class_of(dim), []).append((constraint, dim))
        return cls(
            analysis, {c: tuple(f) for c, f in taken.items()}, {c: tuple(m) for c, m in onward.items()}
        )

    def of_indices(self, dim: Dim, dropped: Tensor) -> Iterator[ConstantFold]:
        """Where the constants at the `dropped` indices of `dim` went; zeros went nowhere."""
        class_of = self.analysis.kept.class_of
        # By index of a class, the index of `dim` that it comes from.
        names = torch.where(dropped, torch.arange(len(dropped)), -1)
        pending, seen = deque([(class_of(dim), names)]), {class_of(dim)}
        while pending:
            known, names = pending.popleft()
            for fold in self.taken.get(known, ()):
                met = names[fold.indices]
                if bool((met >= 0).any()):
                    indices = torch.zeros_like(dropped)
                    indices[met[met >= 0]] = True
                    yield ConstantFold(indices, fold.step)
            for constraint, source in self.onward.get(known, ()):
                for crossing in crossings(constraint, source):
                    beyond = class_of(crossing.other)
                    if beyond not in seen and len(seen) < _FARTHEST:
                        seen.add(beyond)
                        named = torch.full((self.analysis.kept[crossing.other].numel(),), -1)
                        named[crossing.indices] = names[crossing.own]
                        pending.append((beyond, named))


def _destinations(analysis: Analysis) -> Iterator[tuple[Op, Dim, Tensor, str]]:
    """By op, where dropped constants go: as the rules say, then as calls that are stated otherwise do."""
    for site in analysis.sites:
        for found in rule_of(site.op, analysis.rules).destinations(site, analysis.kept):
            yield site.op, *found
    for number, lowering in analysis.restated.items():
        op = analysis.graph.ops[number]
        for found in lowering.destinations(op, analysis.kept):
            yield op, *found
