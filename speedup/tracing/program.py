"""What a trace writes down, before it is frozen: calls of operators, and what they read and write."""

from __future__ import annotations

from collections.abc import Mapping
from types import FunctionType

import torch
from attrs import frozen
from torch import Tensor
from torch.fx import Graph, Node

from speedup.ir.graph import Origin
from speedup.ir.operators import operator_of
from speedup.torch_api import schema_of
from speedup.tracing.numbers import is_arithmetic


@frozen
class Shaped:
    """What is known of a tensor of a trace."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device


@frozen(eq=False)
class Program:
    """Calls of operators in the order in which the forward made them.

    `state` tells of placeholders what they stand for, by their names: where a tensor comes from, and its
    name in the model. `constants` are tensors that the model holds under no name of its own, or that the
    forward makes from numbers, by their names. `written` are the placeholders of state that ends up with
    other contents. `writes` is from `tracing.aliasing.written_back`.
    """

    graph: Graph
    state: Mapping[str, tuple[Origin, str]]
    constants: Mapping[str, Tensor]
    written: frozenset[str]
    writes: Mapping[Node, tuple[Node, ...]]


def has_calls_to_lower(graph: Graph) -> bool:
    """Whether the trace holds calls that only its decomposition turns into plain operators.

    These are the brackets that `torch.func.vmap` leaves, and operators that write to an `out=`.
    """
    return any(node.op == "call_function" and _needs_lowering(node) for node in graph.nodes)


def _needs_lowering(node: Node) -> bool:
    target = operator_of(node)
    if target is None:
        return isinstance(node.target, FunctionType) and not is_arithmetic(node)
    keywords = (p.alias_info for p in schema_of(target).arguments if p.kwarg_only)
    return any(alias is not None and alias.is_write for alias in keywords)
