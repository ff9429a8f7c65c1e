"""Writes in place, and the names under which the written storage is read later.

Freezing puts a trace into SSA form by renaming: what is read after an in-place op reads its result. Where
the op writes through a view (`x[:2] = 1`), what the view was taken from gets a new value as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from operator import getitem
from types import MappingProxyType

import torch
from torch.fx import Graph, Node

from speedup.ir.operators import functional_form, operator_of
from speedup.torch_api import Overload, schema_of

# Operators whose schema does not say that they may return their input.
_MAY_ALIAS = frozenset({"aten::dropout", "aten::feature_dropout", "aten::alpha_dropout"})
# A view, and the operator that puts it back into what it was taken from.
_SCATTERS: Mapping[Overload, Overload] = MappingProxyType(
    {
        torch.ops.aten.slice.Tensor: torch.ops.aten.slice_scatter.default,
        torch.ops.aten.select.int: torch.ops.aten.select_scatter.default,
    }
)


def written_by(node: Node) -> Node | None:
    """The node whose tensor `node` overwrites, if any."""
    target = operator_of(node)
    if target is None or not schema_of(target).is_mutable:
        return None
    for position, parameter in enumerate(schema_of(target).arguments):
        if parameter.alias_info is not None and parameter.alias_info.is_write:
            operand = node.args[position] if position < len(node.args) else node.kwargs.get(parameter.name)
            return operand if isinstance(operand, Node) else None
    return None


def viewed_by(node: Node) -> Node | None:
    """The node whose storage `node`'s result may share."""
    if node.target is getitem:
        return node.args[0] if isinstance(node.args[0], Node) else None
    target = operator_of(node)
    if target is None or not node.args or not isinstance(node.args[0], Node):
        return None
    schema = schema_of(target)
    returns = schema.returns
    shares = schema.name in _MAY_ALIAS or (returns and returns[0].alias_info is not None)
    return node.args[0] if shares else None


def storage_of(node: Node) -> Node:
    """The node whose result owns the storage that `node`'s result lies in."""
    viewed = viewed_by(node)
    return node if viewed is None else storage_of(viewed)


def scatter_of(view: Node) -> Overload | None:
    """The operator that puts a slice or selection back; None for the result of an in-place op."""
    target = operator_of(view)
    return None if target is None else _SCATTERS.get(target)


def written_back(graph: Graph) -> Mapping[Node, tuple[Node, ...]] | None:
    """By in-place op: the views, innermost first, through which it writes what is read under another name.

    None when that cannot be said with slices and selections alone; such a graph has to be functionalized.
    """
    root: dict[Node, Node] = {}
    group: dict[Node, list[Node]] = {}
    order = {node: position for position, node in enumerate(graph.nodes)}
    last_use = {operand: order[node] for node in graph.nodes for operand in node.all_input_nodes}
    found: dict[Node, tuple[Node, ...]] = {}
    for node in graph.nodes:
        viewed = viewed_by(node)
        root[node] = root[viewed] if viewed is not None else node
        group.setdefault(root[node], []).append(node)
        written = written_by(node)
        if written is None:
            continue
        if written.op == "placeholder":
            return None
        others = (n for n in group[root[written]] if n is not written and n is not node)
        late = {n for n in others if last_use.get(n, -1) > order[node]}
        if not late:
            continue
        views = _views(written)
        if views is None or late - {viewed_by(view) for view in views}:
            return None
        if root[written].op == "placeholder" or not _has_functional(node):
            return None
        found[node] = views
    return MappingProxyType(found)


def _has_functional(node: Node) -> bool:
    target = operator_of(node)
    return target is not None and not schema_of(functional_form(target)).is_mutable


def _views(written: Node) -> tuple[Node, ...] | None:
    """The views from `written` up to the tensor that owns the storage; None if one cannot be put back."""
    views: list[Node] = []
    node, base = written, viewed_by(written)
    while base is not None:
        if scatter_of(node) is None and written_by(node) is not base:
            return None
        views.append(node)
        node, base = base, viewed_by(base)
    return tuple(views)
