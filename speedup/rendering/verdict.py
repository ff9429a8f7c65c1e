"""What a plan comes to, in one line; and where nothing goes, what is the case and what to do next."""

from __future__ import annotations

from speedup.ir.report import Asked, Report
from speedup.rendering.causes import causes_of
from speedup.rendering.counts import part_of_whole, share_removed

_MAKE = "make_masks(model, x, Norm(), 0.5) masks half of all channels"


def verdict(report: Report) -> str:
    """How much goes; or that nothing does, how much is zero, and how much of that in whole slices."""
    if not is_nothing(report):
        gone = (share_removed(*report.parameters), share_removed(*report.macs))
        return f"{gone[0]} of the parameters and {gone[1]} of the MACs go"
    asked = report.asked
    if asked is None:
        return "Nothing shrinks"
    if not asked.zero:
        masks = "no weight is masked" if asked.masks else "there are no masks"
        return f"Nothing shrinks: {masks} and no weight is zero"
    return f"Nothing shrinks: {zeros(asked)}"


def advice(report: Report) -> str:
    """What to do next where nothing shrinks, or where most zeros are of no use; else empty."""
    asked = report.asked
    if asked is None or not (is_nothing(report) or asked.zero > 2 * asked.sliced):
        return ""
    if not asked.zero:
        return (
            f"Pass masks=; {_MAKE}. A model that was made small before needs all that is left: mask it anew."
        )
    if not asked.sliced or not is_nothing(report):
        return (
            f"Mask whole channels: {_MAKE}. Zeros between others cannot go, but "
            "tune(plan, x) measures which layers are faster with sparse kernels."
        )
    causes = causes_of(report)
    if not causes:
        return "plan.explain(path) says of each layer what needs them."
    most = f"Most is held back by {causes[0].told}."
    return f"{most} What would help: {causes[0].help}." if causes[0].help else most


def zeros(asked: Asked) -> str:
    """How much is zero, and how much of that in whole slices."""
    slices = "whole rows or columns, which alone can go"
    part = "all" if asked.sliced == asked.zero else part_of_whole(asked.sliced, asked.zero)
    share = f"{part if asked.sliced else 'none'} of that"
    return f"{part_of_whole(asked.zero, asked.weights)} of the weights are zero, {share} in {slices}"


def is_nothing(report: Report) -> bool:
    """Whether the small model is as large as the model."""
    return report.parameters[0] == report.parameters[1] and report.macs[0] == report.macs[1]
