"""What planning finds on its way, for measurements that the plan itself has no answer to."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from speedup import STANDARD
from speedup.analyses import constants, liveness
from speedup.analyses.analysis import Analysis
from speedup.engine.lattice import any_along
from speedup.forwards.rewriting import SourceRewriter
from speedup.ir.graph import Op, Origin
from speedup.ir.inputs import example_from
from speedup.masks import MaskSource, resolve_masks
from speedup.planning.coupling import solve_coupling
from speedup.rules import rule_for
from speedup.rules.contraction import describe_contraction, pattern
from speedup.tracing.islands import survey

_PRODUCTS = ("linear", "conv", "addmm")


def analysis_of(model: nn.Module, x: Any, masks: MaskSource | None) -> Analysis:
    """The analysis that a plan of `model` is made from."""
    with torch.no_grad():
        traced = survey(model, [example_from(x, None)], explores=False).trace
        facts = constants.find_constants(traced.graph, traced.tensors, resolve_masks(model, masks), STANDARD)
        lives = liveness.find_liveness(traced.graph, facts, STANDARD)
        rewriter = SourceRewriter(dict(model.named_modules(remove_duplicate=False)), ())
        return solve_coupling(traced.graph, facts, lives, STANDARD, rewriter)


def macs(analysis: Analysis) -> tuple[int, int, int]:
    """Multiply-accumulates before, after, and what the layers need, each on its own.

    A linear layer or convolution alone needs the rows of its weight whose results are read and not
    constant, and of these rows the columns that meet data which is not constant. Other operators (products of
    activations in attention) count as planned.
    """
    before = after = alone = 0
    for op in analysis.graph.ops:
        count = rule_for(op.target, analysis.rules).macs
        was, becomes = count(op, lambda v: v.shape), count(op, analysis.sizes)
        before, after = before + was, after + becomes
        alone += round(was * _needed(op, analysis)) if op.name.startswith(_PRODUCTS) and was else becomes
    return before, after, alone


def _needed(op: Op, analysis: Analysis) -> float:
    """The share of the kernels of a layer that its results need."""
    shape, site = describe_contraction(op), analysis.sites[op.index]
    result, data = site.fact(op.result), site.fact(shape.data)
    rows = any_along(site.live(op.result) & ~result.known, shape.result_axis, shape.rows)
    columns = any_along(~data.known, shape.axis, shape.data.shape[shape.axis])
    reads = pattern(shape, site.fact(shape.weight))
    rows, columns = rows.reshape(shape.groups, -1, 1), columns.reshape(shape.groups, 1, -1)
    kernels = (reads & rows & columns).expand(shape.groups, rows.shape[1], columns.shape[2])
    needed = kernels.any(2).sum(1) * kernels.any(1).sum(1)
    return float(needed.sum()) / kernels.numel()


def dropped_parameters(model: nn.Module, x: Any, masks: MaskSource) -> Iterator[tuple[str, int, Tensor]]:
    """(parameter, dimension, indices that go) under `masks`, for all that become smaller."""
    analysis = analysis_of(model, x, masks)
    for value in analysis.graph.state:
        if value.origin is Origin.PARAMETER:
            for dim in range(value.ndim):
                if not analysis.kept.is_full((value.index, dim)):
                    gone = ~analysis.kept[(value.index, dim)]
                    yield value.name, dim, gone.nonzero().reshape(-1)
