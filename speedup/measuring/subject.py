"""What is measured of a plan: its analysis with an input among the calls, and numbers for its ops."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from attrs import evolve, frozen

from speedup.analyses.analysis import Analysis
from speedup.ir.inputs import Example, example_from
from speedup.measuring.conditions import first_real, layout_of, moved_call, require_device
from speedup.measuring.layer_calls import Blank, random_like
from speedup.plan import Plan
from speedup.planning.planner import find_solution, request_of


@frozen(eq=False)
class MeasuredCall:
    """A call as it is measured, the analysis whose first call it is, and what fills tensors for its ops."""

    example: Example
    analysis: Analysis
    fill: Callable[[Blank], Any]


def analysed_call(
    plan: Plan, x: Any, device: torch.device | str | None, dtype: torch.dtype | None
) -> MeasuredCall:
    """The call with `x`, None for the planned example, on that device and in that type, without alignment.

    Raises:
        InputError: `x` is no input, or `device` is not there.
        UnboundPlanError: the plan was read back, and so does not say how it was made.
    """
    require_device(device)
    request = request_of(plan)
    example = request.calls[0] if x is None else example_from(x)
    if x is not None:
        # It is planned beside the planned calls, where and in the type that the model is.
        first = first_real(request.calls[0])
        request = evolve(request, calls=(moved_call(example, first.device, first.dtype), *request.calls))
    with torch.inference_mode(mode=False), torch.no_grad():
        analysis = find_solution(request).analysis
    example = moved_call(example, device, dtype)
    fill = partial(random_like, device=first_real(example).device, dtype=dtype, layout=layout_of(example))
    return MeasuredCall(example, analysis, fill)
