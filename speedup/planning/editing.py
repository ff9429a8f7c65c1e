"""What a plan changes: the edits that an analysis amounts to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import chain

from torch import nn

from speedup.analyses.analysis import Analysis
from speedup.forwards.rewriting import SourceRewriter, rewritten_functions
from speedup.ir.edits import AdoptAttention, Edit, RewriteForward, SetAttribute, Slice, SliceGroups
from speedup.ir.graph import Origin
from speedup.modules.attention import MultiheadAttention
from speedup.rules import rule_of


def edits_of(analysis: Analysis, rewriter: SourceRewriter) -> Iterable[Edit]:
    """Payments, then slices, attributes and rewritten forwards, each in the order of the graph."""
    compensations = tuple(compensations_of(analysis))
    yield from (e for e in compensations if not isinstance(e, SetAttribute))
    grouped = {edit.name for edit in compensations if isinstance(edit, SliceGroups)}
    for value in analysis.graph.state:
        if value.origin is Origin.CONSTANT:
            continue
        for dim in range(value.ndim):
            if value.name in grouped and dim < 2:
                continue
            kept = analysis.kept[(value.index, dim)]
            if not analysis.kept.is_full((value.index, dim)):
                yield Slice(value.name, dim, tuple(kept.nonzero().reshape(-1).tolist()))
    attributes = tuple(dict.fromkeys(_attributes(analysis)))
    # Calls that share their source share what it needs.
    needed = (r.biases(analysis.graph.ops[n].owner.path) for n, r in analysis.restated.items())
    yield from dict.fromkeys(chain.from_iterable(needed))
    yield from dict.fromkeys(_adoptions(analysis, rewriter.modules))
    yield from (e for e in compensations if isinstance(e, SetAttribute))
    yield from attributes
    for path, (functions, why) in rewritten_functions(rewriter, analysis).items():
        yield RewriteForward(path, functions, why)


def compensations_of(analysis: Analysis) -> Iterable[Edit]:
    """What makes up for dropped constants, and the slices of grouped weights."""
    for site in analysis.sites:
        yield from rule_of(site.op, analysis.rules).compensate(site, analysis.kept)


def _adoptions(analysis: Analysis, modules: Mapping[str, nn.Module]) -> Iterable[Edit]:
    """Attention modules of torch's own class that get tensors of sizes which that class refuses."""
    changed = {v.name for v in analysis.graph.state if analysis.sizes(v) != v.shape}
    for path, module in modules.items():
        if not MultiheadAttention.can_adopt(module):
            continue
        if any(f"{path}.{name}".lstrip(".") in changed for name, _ in module.named_parameters()):
            yield AdoptAttention(path)
            yield from _without_nested(path, modules)


def _without_nested(path: str, modules: Mapping[str, nn.Module]) -> Iterable[SetAttribute]:
    """Encoders around it must not hand it nested tensors, which only torch's fused path takes."""
    for outer, module in modules.items():
        if isinstance(module, nn.TransformerEncoder) and path.startswith(f"{outer}." if outer else ""):
            yield SetAttribute(outer, "use_nested_tensor", module.use_nested_tensor, False)


def _attributes(analysis: Analysis) -> Iterable[SetAttribute]:
    """What torch's own layers are described by, then what other forwards read."""
    for op in analysis.graph.ops:
        layer = rule_of(op, analysis.rules).weight
        before = layer.attributes_of(op, lambda value: value.shape)
        after = layer.attributes_of(op, analysis.sizes) if before else {}
        for name, value in before.items():
            if after[name] != value:
                yield SetAttribute(op.owner.path, name, value, after[name])
    yield from solved_attributes(analysis)


def solved_attributes(analysis: Analysis) -> Iterable[SetAttribute]:
    """Attributes that get new numbers because a forward reads them, not because they describe a layer."""
    described: set[tuple[str, str]] = set()
    if analysis.attributes:
        for op in analysis.graph.ops:
            layer = rule_of(op, analysis.rules).weight
            described.update((op.owner.path, n) for n in layer.attributes_of(op, lambda value: value.shape))
    for attribute, number in analysis.attributes.items():
        if (attribute.path, attribute.name.partition("[")[0]) not in described:
            yield SetAttribute(attribute.path, attribute.name, attribute.number, number)
