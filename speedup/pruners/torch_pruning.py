"""Masks of what Torch-Pruning removed, read from the history that it keeps."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from speedup.engine.constraints import Dim
from speedup.errors import MaskTargetError, MaskValueError, PruningError, UnknownNameError
from speedup.ir.paths import join_path
from speedup.pruners.channels import Channels, channels_of
from speedup.pruners.making import masks_along
from speedup.rules import STANDARD, Rules

Pruned = tuple[str, bool, Sequence[int]] | Sequence[Any]
"""Module, whether its output channels were pruned (else its input channels), and their indices."""


def masks_from_torch_pruning(
    model: nn.Module,
    x: Any,
    history: Iterable[Pruned] | Any,
    *,
    others: Sequence[Any] = (),
    rules: Rules = STANDARD,
) -> dict[str, Tensor]:
    """Masks of the channels in a pruning history of Torch-Pruning (`tp`, Fang et al., CVPR 2023).

    `DependencyGraph.pruning_history()`, or that of a pruner, names one layer of each group that was pruned,
    and indices that count what was left of it at that moment. What went with them is found from the graph
    of `model`, so that a small model made with these masks has the layers that Torch-Pruning left.

    Args:
        model: the model as it was before pruning, only read.
        x, others: example input and further calls, as for `plan_speedup`.
        history: its entries in order, or the pruner or graph that keeps them.
        rules: operator rules, as for `plan_speedup`.

    Returns:
        Parameter name -> bool keep-mask on the parameter's device, full along channels and of size 1
        elsewhere.

    Raises:
        UnknownNameError: an entry names no module or parameter of the model.
        MaskTargetError: an entry is for a module without channels, or for channels that have to stay here:
            those that the model returns, and rows of attention heads, for which see `masks_from_heads`.
        MaskValueError: an index is out of range.
        PruningError: `history` is none, nor keeps one.
        InputError, ModelError, ExportError: as for `plan_speedup`.
    """
    channels = channels_of(model, x, rules, others)
    units = channels.units
    dropped = torch.zeros(len(units.unit_of), dtype=torch.bool)
    for name, is_output, indices in _entries(history):
        own = units.elements(_dimension(model, channels, name, is_output))
        left = (~dropped[own]).nonzero().reshape(-1)
        wrong = [int(index) for index in indices if not 0 <= int(index) < len(left)]
        if wrong:
            raise MaskValueError(
                f"the history prunes channel {wrong[0]} of {name!r}, of which {len(left)} are left by then."
                " Pass the whole history, and the model as it was before."
            )
        chosen = left[torch.tensor([int(index) for index in indices], dtype=torch.long)]
        if bool(units.stays[own][chosen].any()):
            raise MaskTargetError(
                f"the history prunes channels of {name!r} that have to stay: the model returns them, or an"
                " operator needs them whole. For attention heads, use masks_from_heads."
            )
        dropped |= torch.isin(units.unit_of, units.unit_of[own][chosen])
    return masks_along(model, channels.gone_with(units.unit_of[dropped]))


def _entries(history: Any) -> Iterable[Pruned]:
    """The entries of a history, or of what keeps one.

    Raises:
        PruningError: it is neither.
    """
    kept = getattr(history, "pruning_history", None)
    entries = kept() if callable(kept) else history
    if not isinstance(entries, Iterable):
        raise PruningError(
            f"the history is {type(history).__name__}; pass pruner.pruning_history(), or the pruner itself."
        )
    return entries


def _dimension(model: nn.Module, channels: Channels, name: str, is_output: bool) -> Dim:
    """The dimension that counts the pruned channels."""
    weight = join_path(name, "weight")
    layers = channels.rows if is_output else channels.columns
    if weight in layers:
        return layers[weight]
    known = {*dict(model.named_modules(remove_duplicate=False)), *dict(model.named_parameters())}
    if name not in known:
        raise UnknownNameError(f"the history prunes {name!r}, which the model does not have.")
    # A norm, or a parameter of the model's own.
    for own in (weight, name):
        dims = [dim for parameter, dim in channels.masked if parameter == own]
        if len(dims) == 1:
            return dims[0]
    raise MaskTargetError(f"the history prunes {name!r}, which has no channels that are known here.")
