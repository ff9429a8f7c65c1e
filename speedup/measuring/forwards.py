"""The forward of a small model, timed by itself."""

from __future__ import annotations

from speedup.building.materializing import materialize
from speedup.measuring.timing import take_turns
from speedup.modules.isolation import isolated
from speedup.plan import Plan

# Enough for a median that others' work on the machine moves little.
_ROUNDS, _SECONDS = 9, 0.02


def measure_forward(plan: Plan) -> float:
    """Milliseconds of a forward of the small model on the planned example, where the model is: a median."""
    small = materialize(plan, verify="none").eval()
    example = plan.subject.example
    args, kwargs = example.call(example.tensors)
    with isolated():
        (timing,) = take_turns([lambda: small(*args, **kwargs)], rounds=_ROUNDS, seconds=_SECONDS)
    return 1e3 * timing.median
