"""Operators of a trace: which one a node calls, and what it computes without writing."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch.fx import Node

from speedup.torch_api import Overload, schema_of


def operator_of(node: Node) -> Overload | None:
    """The operator that `node` calls, if it calls one."""
    return node.target if isinstance(node.target, Overload) else None


@lru_cache(maxsize=4096)
def functional_form(target: Overload) -> Overload:
    """The operator that computes what the in-place `target` computes, without writing."""
    schema = schema_of(target)
    if not schema.is_mutable:
        return target
    namespace, name = schema.name.split("::")
    packet = getattr(getattr(torch.ops, namespace), name.rstrip("_"), None)
    overload = getattr(packet, schema.overload_name or "default", None)
    return overload if isinstance(overload, Overload) else target
