"""What a trace writes down, before it is frozen: calls of operators, and what they read and write."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from attrs import frozen
from torch import Tensor
from torch.fx import Graph, Node

from speedup.ir.graph import Origin


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
