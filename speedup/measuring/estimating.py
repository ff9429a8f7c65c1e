"""How long a forward takes, estimated from its calls, without a small model being made."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

from speedup.analyses.analysis import Analysis
from speedup.ir.graph import Op
from speedup.measuring.conditions import (
    conditions_of,
)
from speedup.measuring.layer_calls import Blank, LayerCall, call_after, call_before
from speedup.measuring.subject import analysed_call
from speedup.measuring.timing import take_turns
from speedup.modules.isolation import isolated
from speedup.plan import Plan
from speedup.rendering.latency import LatencyEstimate, LayerTime

# What an operator raises that cannot do with random numbers, or with indices that are all zero.
_REFUSALS = (RuntimeError, IndexError, ValueError, TypeError, NotImplementedError)


def estimate_latency(
    plan: Plan,
    x: Any = None,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    threads: int | None = None,
    rounds: int = 5,
    seconds: float = 0.005,
) -> LatencyEstimate:
    """Measure each call of a forward by itself, as the model makes it and as the small one will; add them up.

    No small model is made, and no more of it is in memory than one layer. Calls of the same sizes are
    measured once, on random numbers. What Python does between calls is not in it, and a call by itself finds
    its numbers near; `latency_table` measures whole models. A call that the small model states otherwise
    counts as in the model.

    Args:
        plan: a plan that was made here.
        x: the input to estimate for, as in `plan_speedup`; None: the example that was planned with.
        device, dtype: where and in which type the calls are made; None: those of `x`.
        threads: threads that torch may use on the CPU; None: as many as now.
        rounds: measurements of each call, at least two.
        seconds: how long a measurement takes at least; short calls are repeated in it.

    Raises:
        InputError: `x` is no input, or `device` is not there.
        UnboundPlanError: the plan was read back, and so does not say how it was made.
    """
    call = analysed_call(plan, x, device, dtype)
    known: dict[tuple[LayerCall, LayerCall], tuple[float, float] | None] = {}
    layers: dict[str, LayerTime] = {}
    left_out: dict[str, None] = {}
    with isolated():
        for op, pair in _calls(call.analysis):
            if pair not in known:
                known[pair] = _measure(pair, call.fill, rounds, threads, seconds)
            found = known[pair]
            if found is None:
                left_out[str(op.target)] = None
                continue
            path = op.owner.path
            so_far = layers.get(path, LayerTime(path, 0.0, 0.0))
            layers[path] = LayerTime(path, so_far.before + found[0], so_far.after + found[1])
    conditions = conditions_of(call.example, threads, rounds)
    return LatencyEstimate(tuple(layers.values()), str(conditions), tuple(left_out))


def _calls(analysis: Analysis) -> Iterator[tuple[Op, tuple[LayerCall, LayerCall]]]:
    """The calls of the example's forward, before and after."""
    for op in filter(analysis.graph.is_counted, analysis.graph.ops):
        yield op, (call_before(op), call_after(op, analysis))


def _measure(
    pair: tuple[LayerCall, LayerCall],
    fill: Callable[[Blank], Any],
    rounds: int,
    threads: int | None,
    seconds: float,
) -> tuple[float, float] | None:
    """Seconds of both calls, which take turns; None where they cannot be made by themselves."""
    calls = tuple(dict.fromkeys(pair))
    try:
        runs = [call.runnable(fill) for call in calls]
        timings = take_turns(runs, rounds=rounds, threads=threads, seconds=seconds)
    except _REFUSALS:
        return None
    return timings[0].median, timings[-1].median
