"""Masks that remove whole attention heads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from speedup.errors import MaskTargetError, MaskValueError
from speedup.masks.attention import AttentionModule, HeadRun, attention_in
from speedup.masks.fitting import mask_along
from speedup.masks.names import Names
from speedup.masks.problems import RefusedError, error_of
from speedup.modules.plannable import require_shapes


def masks_from_heads(
    model: nn.Module, drop: Mapping[str, Iterable[int]], *, heads: int | Mapping[str, int] | None = None
) -> dict[str, Tensor]:
    """Masks of attention heads: their rows and biases of query, key and value, their columns of the output.

    Read are separate projections (`q_proj`, `query`, `to_q`, ...), packed ones (`qkv`, `c_attn`, ...),
    `nn.MultiheadAttention`, linear layers, 1x1 convolutions and transformers' `Conv1D`, by the names that
    timm, torchvision, transformers and diffusers give them. Where query heads share key and value heads,
    these go when all their query heads do.

    Args:
        model: the model, only read.
        drop: path of an attention module, or of one that holds a single one -> the query heads to remove.
        heads: the number of query heads, of all modules or by the paths in `drop`, where modules do not
            state it (`num_heads`, `num_attention_heads`, `n_head`, ..., also in their `config`).

    Returns:
        Parameter name -> bool keep-mask on the parameter's device, full along heads and of size 1 elsewhere.

    Raises:
        UnknownNameError: a path is not that of a module.
        MaskTargetError: there is no attention module at a path, or several; its heads are not stated; or
            they do not divide its projections.
        MaskValueError: there is no head of that number.
        ModelError: parameters are partitioned, so that their shapes are unknown.
    """
    require_shapes(model)
    names = Names.of(model)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    masks: dict[str, Tensor] = {}
    for path, numbers in drop.items():
        try:
            names.require_module(path)
        except RefusedError as refusal:
            raise error_of([refusal.problem]) from None
        attention = _only_attention(model, path)
        counted = _counted(attention, heads.get(path) if isinstance(heads, Mapping) else heads)
        chosen = _chosen(path, numbers, counted)
        for run in _runs(attention, counted):
            _mask(masks, run, run.indices(chosen, counted), parameters)
    return {name: mask for name, mask in masks.items() if not bool(mask.all())}


def _only_attention(model: nn.Module, path: str) -> AttentionModule:
    found = attention_in(model, path)
    if len(found) == 1:
        return found[0]
    kind = type(model.get_submodule(path)).__name__
    if found:
        listed = ", ".join(repr(one.path) for one in found[:8])
        raise MaskTargetError(
            f"heads of {path!r}: this {kind} holds {len(found)} attention modules. Name one of {listed}."
        )
    raise MaskTargetError(
        f"heads of {path!r}: this {kind} has no projections under names that are known. Mask the rows of its"
        " query, key and value projections that the heads stand in."
    )


def _counted(attention: AttentionModule, given: int | None) -> int:
    counted = attention.heads if given is None else given
    if counted is None or counted < 1:
        raise MaskTargetError(
            f"heads of {attention.path!r}: the module does not state how many it has."
            f" Pass heads={{{attention.path!r}: number}}."
        )
    return counted


def _chosen(path: str, numbers: Iterable[int], counted: int) -> frozenset[int]:
    chosen = frozenset(numbers)
    wrong = sorted(number for number in chosen if not 0 <= number < counted)
    if wrong:
        raise MaskValueError(
            f"heads of {path!r}: there is no head {wrong[0]}. It has {counted}, counted from 0."
        )
    return chosen


def _runs(attention: AttentionModule, counted: int) -> tuple[HeadRun, ...]:
    runs = attention.runs(counted)
    if runs is None:
        sizes = ", ".join(f"{one.parameter} has {one.size}" for one in attention.inward)
        raise MaskTargetError(
            f"heads of {attention.path!r}: {counted} heads do not divide its projections ({sizes})."
            " Pass the right number as heads=."
        )
    return runs


def _mask(
    masks: dict[str, Tensor], run: HeadRun, indices: tuple[int, ...], parameters: Mapping[str, nn.Parameter]
) -> None:
    """Take `indices` out of the mask of the run's parameter."""
    parameter = parameters.get(run.parameter, parameters.get(f"{run.parameter}_orig"))
    if parameter is None:
        raise MaskTargetError(f"heads: {run.parameter!r} is computed. Remove its parametrization first.")
    gone = torch.zeros(parameter.shape[run.dim], dtype=torch.bool)
    gone[list(indices)] = True
    mask = mask_along(parameter, run.dim, gone)
    masks[run.parameter] = masks[run.parameter] & mask if run.parameter in masks else mask
