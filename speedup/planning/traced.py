"""What tracing shows of a model, held to plan with masks after masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

import torch
from attrs import evolve, frozen
from torch import nn

from speedup.errors import StaleModelError
from speedup.ir.inputs import Example, example_from, further_calls
from speedup.modules.copying import held_tensors
from speedup.modules.fingerprints import Fingerprint, fingerprints_of, other_architecture
from speedup.modules.plannable import require_plannable
from speedup.tracing.islands import Survey, survey
from speedup.tracing.trace import Trace


@frozen(eq=False)
class Traced:
    """A model, and what `trace` has found out about its forward. `plan_speedup` takes it in a model's place.

    `calls` are those that plans will be made for. `survey` is what planning goes by; None where that depends
    on masks too, so that each plan traces by itself.
    """

    model: nn.Module
    calls: tuple[Example, ...]
    survey: Survey | None
    fingerprints: tuple[Fingerprint, ...]

    def survey_now(self, found: Sequence[Fingerprint]) -> Survey | None:
        """What planning goes by, with the tensors that the model, of the fingerprints `found`, holds now.

        Raises:
            StaleModelError: the model is of another architecture than when it was traced.
        """
        changed = tuple(islice(other_architecture(self.fingerprints, tuple(found)), 3))
        if changed:
            raise StaleModelError(
                f"the model changed since it was traced: {'; '.join(changed)}. Trace it anew."
            )
        if self.survey is None:
            return None
        before, held = self.survey.trace, held_tensors(self.model)
        tensors = {name: held[name].detach() if name in held else t for name, t in before.tensors.items()}
        return evolve(self.survey, trace=Trace(before.graph, tensors))


def trace(
    model: nn.Module, x: Any, *, others: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
) -> Traced:
    """Trace `model` once, to plan with masks after masks: `plan_speedup(trace(model, x), masks=masks)`.

    Such plans are those that `plan_speedup(model, x, masks)` gives. The model's numbers may change in
    between, its architecture may not. Where Python code of the forward reads numbers of the model's own
    tensors, which masks may change, and where weights are computed before each forward, each plan traces the
    model again.

    Args:
        model, x, others, kwargs: as in `plan_speedup`. The model is not changed.

    Raises:
        InputError, ModelError: bad arguments.
        ExportError: no part of the model can be traced.
    """
    with torch.inference_mode(mode=False), torch.no_grad():
        require_plannable(model)
        calls = (example_from(x, kwargs), *further_calls(others))
        found = survey(model, calls)
        lasting = None if found.trace.graph.consulted else found
        return Traced(model, calls, lasting, fingerprints_of(model))
