"""Against the limit: MACs that the layers need, latency of a model built by hand, time of one export.

Section `limit`. A model built by hand has the small one's widths, with every layer of torch constructed
anew; `torch.export` of the model is the least that anything which looks at its graph has to do.
"""

from __future__ import annotations

import copy
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from benchmarks.architectures import BERT, DIFFUSERS, SEED, VISION, WHOLE
from benchmarks.clock import best_of, forget_peak, interleaved, peak, repeats_within, timed
from benchmarks.insight import analysis_of, macs
from benchmarks.settings import Settings
from benchmarks.store import Row
from benchmarks.subjects import Subject, exactness, subject
from speedup import apply_masks, materialize, plan_speedup

_SECONDS = 9.0


def run(settings: Settings) -> None:
    """Measure every model with half of each layer masked, each layer on its own."""
    for name in settings.chosen((*SEED, *VISION, BERT, *WHOLE, *DIFFUSERS), ["fpgm_mnist"]):
        if name in DIFFUSERS and find_spec("diffusers") is None:
            print(f"limit: {name}: needs diffusers (pip install --no-deps diffusers, and requests, Pillow)")
            continue
        settings.measure("limit", name, partial(_row, name, settings))


def hand_built(small: nn.Module) -> nn.Module:
    """A copy of `small` in which each convolution, linear layer and BatchNorm is made by its constructor."""
    model = copy.deepcopy(small)
    for path, module in list(model.named_modules()):
        fresh = _constructed(module)
        if fresh is not None:
            fresh.load_state_dict(module.state_dict())
            parent, _, name = path.rpartition(".")
            setattr(model.get_submodule(parent), name, fresh.to(next(module.parameters()).dtype))
    return model.eval()


def _constructed(module: nn.Module) -> nn.Module | None:
    match module:
        case nn.Conv2d() if type(module) is nn.Conv2d:
            return nn.Conv2d(
                module.in_channels,
                module.out_channels,
                module.kernel_size,  # type: ignore[arg-type]
                module.stride,  # type: ignore[arg-type]
                module.padding,  # type: ignore[arg-type]
                module.dilation,  # type: ignore[arg-type]
                module.groups,
                module.bias is not None,
            )
        case nn.Linear() if type(module) is nn.Linear:
            return nn.Linear(module.in_features, module.out_features, module.bias is not None)
        case nn.BatchNorm2d() if type(module) is nn.BatchNorm2d and module.affine:
            return nn.BatchNorm2d(module.num_features, module.eps, module.momentum)
        case _:
            return None


def _row(name: str, settings: Settings) -> Row:
    torch.set_num_threads(settings.threads)
    one = subject(name)
    x = one.inputs(1, 0)
    # The first call in a process imports what torch.export needs.
    _export(one, x)
    times = 1 if settings.smoke else 3
    export = best_of(lambda: _export(one, x), times)
    before = forget_peak()
    plan, planned = timed(lambda: plan_speedup(one.model, x, one.masks))
    planned_peak = peak() - before
    planned = _least(
        planned, *(timed(lambda: plan_speedup(one.model, x, one.masks))[1] for _ in range(times - 1))
    )
    before = forget_peak()
    small, made = timed(lambda: materialize(plan, verify="none"))
    made_peak = peak() - before
    made = _least(made, *(timed(lambda: materialize(plan, verify="none"))[1] for _ in range(times - 1)))
    verified = timed(lambda: materialize(plan))[1]
    before_macs, _, alone = macs(analysis_of(one.model, x, one.masks))
    return {
        "parameters": [plan.parameters_before, plan.parameters_after],
        "macs": [before_macs, plan.macs_after, alone],
        "seconds": {"export": export, "plan": planned, "materialize": made, "verified": verified},
        "peak_bytes": {"plan": planned_peak, "materialize": made_peak},
        "latency": _latencies(one, small, x, settings),
        "error": _error(one),
    }


def _least(*runs: dict[str, float]) -> dict[str, float]:
    return {kind: min(run[kind] for run in runs) for kind in runs[0]}


def _export(one: Subject, x: Any) -> object:
    args, kwargs = ((), x) if isinstance(x, dict) else ((x,), {})
    with torch.no_grad():
        return torch.export.export(one.model, args, kwargs, strict=False)


def _latencies(one: Subject, small: nn.Module, x: Any, settings: Settings) -> dict[str, Any]:
    models = {"masked": apply_masks(one.model, one.masks), "small": small, "by_hand": hand_built(small)}
    calls = {name: (lambda model=model: one.call(model, x)) for name, model in models.items()}
    seconds = 0.1 if settings.smoke else _SECONDS / len(calls)
    return interleaved(calls, repeats_within(seconds, calls["masked"]), threads=settings.threads)


def _error(one: Subject) -> float:
    wide = one.double()
    small = materialize(plan_speedup(wide.model, wide.inputs(1, 0), wide.masks), verify="none")
    return exactness(wide, small, apply_masks(wide.model, wide.masks))
