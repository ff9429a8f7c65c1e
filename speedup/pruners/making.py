"""Masks made from scores: filters of little importance go, with all that has to go with them."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cache, partial
from typing import Any, Literal

import torch
from attrs import frozen
from torch import Tensor, nn

from speedup.errors import PruningError, UnknownModuleError
from speedup.ir.paths import is_within
from speedup.masks.fitting import mask_along
from speedup.measuring.forwards import measure_forward
from speedup.modules.copying import copy_module
from speedup.modules.isolation import isolated
from speedup.planning.planner import plan_speedup
from speedup.pruners.channels import Channels, Gone, ScoredLayer, channels_of
from speedup.pruners.goals import RUNGS, Goal, Ladder, goal_of, masks_that_meet
from speedup.pruners.grouping import groups_alone, groups_of
from speedup.pruners.scoring import Scores
from speedup.pruners.selection import Group, dropped_units, losses_by_group, losses_over_all
from speedup.rules import STANDARD, Rules


def make_masks(
    model: nn.Module,
    x: Any,
    scores: Scores,
    sparsity: float | Mapping[str, float] | None = None,
    *,
    macs: float | None = None,
    parameters: float | None = None,
    latency_ms: float | None = None,
    others: Sequence[Any] = (),
    scope: Literal["layer", "global"] = "layer",
    dependent: bool = True,
    skip: Collection[str] = (),
    round_to: int = 1,
    rules: Rules = STANDARD,
) -> dict[str, Tensor]:
    """Masks of the output channels that `scores` finds least important.

    Channels that must go together are scored by the sum over their layers and masked together: those that a
    residual connection adds up, those of a depthwise convolution and of the layer before. Masked are the
    rows, their biases, and what else is computed from parameters in those channels (norms, layer scales,
    position embeddings), so that the channels are zero. Left alone are channels that the model returns,
    those that an operator needs whole, and those that a reshape interleaves: rows of attention heads (see
    `masks_from_heads`), channels that are shuffled between groups.

    Args:
        model: any module that `plan_speedup` takes, only read; scores work on a copy.
        x, others: example input and further calls, as for `plan_speedup`.
        scores: importance per output channel, such as `Norm()`.
        sparsity: the share of channels to mask, from 0 to 1; of all layers, or by the path of a layer or of
            a module around layers, where the longest path counts and other layers stay. Layers that go
            together lose the least of the shares that are given for them.
        macs, parameters: instead of `sparsity`, the share of the model's that the small model may have, above
            0: of overall shares in steps of a thousandth the least that `plan_speedup` gets there with, or
            one that comes within a hundredth of the model's below it. The model is planned once for each
            share that is tried, mostly one to three.
        latency_ms: instead of `sparsity`, how long a forward of the small model on `x` may take here, as
            measured, or up to 5% less. The small model of each share that is tried is made and run.
        scope: "layer": each group of layers loses its share, rounded down. "global": the channels of least
            score over all groups go, so that the share is that of all channels.
        dependent: False masks rows and biases of each layer on its own, whatever goes with them.
        skip: paths of layers, or of modules around layers, whose channels stay.
        round_to: as many channels as are left of each group are a multiple of this, where they were.
        rules: operator rules, as for `plan_speedup`.

    Returns:
        Parameter name -> bool keep-mask on the parameter's device, full along channels and of size 1
        elsewhere, for what loses any. Every layer keeps one channel at least.

    Raises:
        PruningError: sparsity, scope, a goal or `round_to` is out of range, several of sparsity and goals are
            given, or scores are not what was promised.
        GoalError: a goal cannot be met; says how far it gets.
        UnknownModuleError: `skip` or `sparsity` names a path with no layer.
        InputError, ModelError, ExportError: as for `plan_speedup`.
    """
    goal = goal_of(sparsity, {"macs": macs, "parameters": parameters, "latency_ms": latency_ms})
    _require_settings(sparsity, scope, round_to)
    channels = channels_of(model, x, rules, others)
    for path in (*skip, *(sparsity if isinstance(sparsity, Mapping) else ())):
        _require_layer(path, channels.layers)
    found = _score(model, channels.layers, scores)
    groups = (groups_of if dependent else groups_alone)(channels, found, skip)
    maker = _Maker(model, channels, groups, scope, dependent, round_to)
    if sparsity is not None:
        return maker.masks(maker.dropped(sparsity))
    assert goal is not None
    plan = partial(plan_speedup, model, x, others=others, rules=rules)
    return masks_that_meet(goal, maker.ladder(goal, lambda masks: goal.reached(plan(masks), measure_forward)))


@frozen(eq=False)
class _Maker:
    """Makes masks of groups of channels, of which more and more go."""

    model: nn.Module
    channels: Channels
    groups: tuple[Group, ...]
    scope: str
    dependent: bool
    round_to: int

    def dropped(self, sparsity: float | Mapping[str, float]) -> tuple[Tensor, ...]:
        """Bool, for each group: which units go."""
        if isinstance(sparsity, Mapping):
            losses = losses_by_group(self.groups, partial(_share_of, sparsity))
        elif self.scope == "layer":
            losses = losses_by_group(self.groups, lambda _: sparsity)
        else:
            losses = losses_over_all(self.groups, sparsity)
        pairs = zip(self.groups, losses, strict=True)
        return tuple(dropped_units(group, loss, self.round_to) for group, loss in pairs)

    def masks(self, dropped: Sequence[Tensor]) -> dict[str, Tensor]:
        if self.dependent:
            return masks_along(self.model, self.channels.gone_with(self._numbers(dropped)))
        return masks_along(self.model, _gone_alone(self.groups, dropped))

    def ladder(self, goal: Goal, measure: Callable[[dict[str, Tensor]], float]) -> Ladder:
        """The masks of all overall shares, and what is left without planning."""
        dropped = cache(lambda rung: self.dropped(rung / RUNGS))
        whole = self._left(goal, dropped(0))
        return Ladder(
            masks=lambda rung: self.masks(dropped(rung)),
            key=lambda rung: tuple(int(flags.sum()) for flags in dropped(rung)),
            estimate=cache(lambda rung: self._left(goal, dropped(rung)) / max(whole, 1)),
            measure=measure,
            is_share=not goal.is_time,
        )

    def _left(self, goal: Goal, dropped: Sequence[Tensor]) -> float:
        if self.dependent:
            parameters, macs = self.channels.left_without(self._numbers(dropped))
            return parameters if goal.what == "parameters" else macs
        # What goes with rows that are masked alone only a plan tells; of most layers their columns do.
        return sum(int((~flags).sum()) for flags in dropped) ** 2

    def _numbers(self, dropped: Sequence[Tensor]) -> Tensor:
        numbers = [group.units[flags] for group, flags in zip(self.groups, dropped, strict=True)]
        return torch.cat(numbers) if numbers else torch.zeros(0, dtype=torch.long)


def _gone_alone(groups: Sequence[Group], dropped: Sequence[Tensor]) -> Gone:
    """The rows of each layer, and their biases."""
    gone: dict[tuple[str, int], Tensor] = {}
    for group, flags in zip(groups, dropped, strict=True):
        for layer in group.layers:
            gone[layer.weight, layer.dim] = flags
            if layer.bias:
                gone[layer.bias, 0] = flags
    return gone


def masks_along(model: nn.Module, gone: Gone) -> dict[str, Tensor]:
    """Masks of the parameters of which some indices of a dimension are gone."""
    masks: dict[str, Tensor] = {}
    for (name, dim), indices in gone.items():
        mask = mask_along(model.get_parameter(name), dim, indices)
        masks[name] = masks[name] & mask if name in masks else mask
    return {name: mask for name, mask in masks.items() if not bool(mask.all())}


def _require_settings(sparsity: float | Mapping[str, float] | None, scope: str, round_to: int) -> None:
    shares = sparsity.values() if isinstance(sparsity, Mapping) else [0.0 if sparsity is None else sparsity]
    for share in shares:
        if not 0 <= share <= 1:
            raise PruningError(f"a sparsity of {share} is no share; pass a number from 0 to 1.")
    if scope not in ("layer", "global"):
        raise PruningError(f"scope {scope!r} is not known; pass 'layer' or 'global'.")
    if scope == "global" and isinstance(sparsity, Mapping):
        raise PruningError("over all layers there is one sparsity; pass a number, or scope='layer'.")
    if round_to < 1:
        raise PruningError(f"round_to is {round_to}; pass 1 or more.")


def _require_layer(path: str, layers: Collection[ScoredLayer]) -> None:
    if any(is_within(layer.path, path) for layer in layers):
        return
    near = difflib.get_close_matches(path, [layer.path for layer in layers], 3)
    raise UnknownModuleError(
        f"there is no layer at or in {path!r} whose channels could be masked"
        + (f"; did you mean {', '.join(map(repr, near))}?" if near else ".")
    )


def _share_of(shares: Mapping[str, float], group: Group) -> float:
    """The least of the shares that are given for layers of the group."""
    found = []
    for layer in group.layers:
        paths = [path for path in shares if is_within(layer.path, path)]
        found += [shares[max(paths, key=len)]] if paths else []
    return min(found, default=0.0)


def _score(model: nn.Module, layers: tuple[ScoredLayer, ...], scores: Scores) -> dict[str, Tensor]:
    """What `scores` says of a copy of `model`, in float64 on the CPU."""
    with torch.inference_mode(mode=False), isolated():
        copy = copy_module(model, {}).eval()
        for parameter in copy.parameters():
            # Layers may be frozen; what they contribute to the loss is to be known all the same.
            parameter.requires_grad_(parameter.is_floating_point() or parameter.is_complex())
        found = scores(copy, layers)
    channels = {layer.weight: layer.channels for layer in layers}
    for name, one in found.items():
        if name not in channels:
            raise PruningError(f"the scores name {name!r}, which is the weight of no layer.")
        if tuple(one.shape) != (channels[name],) or not bool(torch.isfinite(one).all()):
            raise PruningError(
                f"the scores of {name!r} have shape {tuple(one.shape)} or are not finite; its layer has"
                f" {channels[name]} output channels, each of which needs a finite number."
            )
    return {name: one.detach().cpu().double() for name, one in found.items()}
