"""Latency against work saved: the masked, small and hand-built models, in several ways of running them.

Section `latency`: batch 1 and a large batch, channels-last, `torch.compile`, one thread and several. Where
fewer MACs do not make a model as much faster, the row says what holds it up; where the planner can align
widths, a small model with aligned widths runs beside the others.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.architectures import BERT, SEED, VISION
from benchmarks.clock import interleaved, repeats_within
from benchmarks.limit import hand_built
from benchmarks.settings import Settings
from benchmarks.store import Row
from benchmarks.subjects import Subject, subject
from speedup import Plan, apply_masks, materialize, plan_speedup

LARGE = 8
ALIGN = 8
_SECONDS = 6.0
# Compiling takes minutes for a large model, so these stand for the others.
COMPILED = ("fpgm_mnist", "resnet18", "mobilenet_v2")
CHANNELS_LAST = ("resnet18", "resnet50", "mobilenet_v2", "efficientnet_b0", "convnext_tiny")


def run(settings: Settings) -> None:
    """Measure every model in every way; one row per model and way."""
    for name in settings.chosen((*SEED, *VISION, BERT), ["fpgm_mnist"]):
        settings.measure("latency", name, partial(_row, name, settings))


def _row(name: str, settings: Settings) -> Row:
    one = subject(name)
    plans = {"small": plan_speedup(one.model, one.inputs(1, 0), one.masks)}
    if "align" in inspect.signature(plan_speedup).parameters:
        options: Any = {"align": ALIGN}
        plans["aligned"] = plan_speedup(one.model, one.inputs(1, 0), one.masks, **options)
    models = {"masked": apply_masks(one.model, one.masks)}
    models |= {kind: materialize(plan) for kind, plan in plans.items()}
    models["by_hand"] = hand_built(models["small"])
    ways = {way: run_it() for way, run_it in _ways(one, models, settings).items()}
    return {
        "macs_kept": {kind: plan.macs_after / plan.macs_before for kind, plan in plans.items()},
        "ways": ways,
        "holds_up": _holds_up(models["small"], plans["small"]),
    }


def _ways(
    one: Subject, models: Mapping[str, nn.Module], settings: Settings
) -> dict[str, Callable[[], dict[str, Any]]]:
    """By name: how the models are run, each returning their latencies."""
    large = SEED[one.name][0] if one.name in SEED else LARGE

    def plain(batch: int, threads: int) -> Callable[[], dict[str, Any]]:
        return lambda: _taken(one, models, one.inputs(batch, 0), threads, settings)

    ways = {
        "batch 1, 1 thread": plain(1, 1),
        f"batch 1, {settings.threads} threads": plain(1, settings.threads),
        f"batch {large}, {settings.threads} threads": plain(large, settings.threads),
    }
    if one.name in CHANNELS_LAST and not settings.smoke:
        ways[f"batch {large}, channels last"] = lambda: _channels_last(one, models, large, settings)
    if one.name in COMPILED and not settings.smoke:
        ways["batch 1, torch.compile"] = lambda: _compiled(one, models, settings)
    return dict(list(ways.items())[:1]) if settings.smoke else ways


def _taken(
    one: Subject, models: Mapping[str, nn.Module], x: Any, threads: int, settings: Settings
) -> dict[str, Any]:
    torch.set_num_threads(threads)
    calls = {name: (lambda model=model: one.call(model, x)) for name, model in models.items()}
    seconds = 0.05 if settings.smoke else _SECONDS / len(models)
    return interleaved(calls, repeats_within(seconds, calls["masked"]), threads=threads)


def _channels_last(
    one: Subject, models: Mapping[str, nn.Module], batch: int, settings: Settings
) -> dict[str, Any]:
    x: Tensor = one.inputs(batch, 0).to(memory_format=torch.channels_last)
    try:
        for model in models.values():
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return _taken(one, models, x, settings.threads, settings)
    finally:
        for model in models.values():
            model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]


def _compiled(one: Subject, models: Mapping[str, nn.Module], settings: Settings) -> dict[str, Any]:
    torch.set_num_threads(settings.threads)
    compiled: dict[str, Any] = {name: torch.compile(models[name]) for name in ("masked", "small")}
    try:
        return _taken(one, compiled, one.inputs(1, 0), settings.threads, settings)
    finally:
        torch.compiler.reset()


def _holds_up(small: nn.Module, plan: Plan) -> dict[str, float]:
    """Shares of the small model's MACs in layers that run below their arithmetic's speed.

    `unaligned`: a width is no multiple of eight, which vector units and blocked layouts want.
    `memory_bound`: fewer than ten MACs per element read or written (depthwise and 1 x 1 on few channels).
    """
    unaligned = bound = 0
    for layer in plan.layers:
        module = small.get_submodule(layer.path) if layer.path else small
        if not isinstance(module, nn.Conv2d | nn.Linear) or not layer.macs_after:
            continue
        rows, columns = module.weight.shape[:2]
        groups = module.groups if isinstance(module, nn.Conv2d) else 1
        unaligned += layer.macs_after * bool(rows % 8 or (columns * groups) % 8)
        positions = layer.macs_after / module.weight.numel()
        moved = module.weight.numel() + positions * (rows + columns * groups)
        bound += layer.macs_after * (layer.macs_after < 10 * moved)
    total = max(plan.macs_after, 1)
    return {"unaligned": unaligned / total, "memory_bound": bound / total}
