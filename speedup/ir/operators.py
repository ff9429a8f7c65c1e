"""Operators of a trace: which one a node calls, and what it computes without writing."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch.fx import Node


def operator_of(node: Node) -> torch._ops.OpOverload | None:
    """The operator that `node` calls, if it calls one."""
    return node.target if isinstance(node.target, torch._ops.OpOverload) else None


@lru_cache(maxsize=4096)
def functional(target: torch._ops.OpOverload) -> torch._ops.OpOverload:
    """The operator that computes what the in-place `target` computes, without writing."""
    if not target._schema.is_mutable:
        return target
    namespace, name = target._schema.name.split("::")
    packet = getattr(getattr(torch.ops, namespace), name.rstrip("_"), None)
    overload = getattr(packet, target._overloadname, None)
    return overload if isinstance(overload, torch._ops.OpOverload) else target
