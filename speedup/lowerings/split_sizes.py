"""A split into parts of given sizes in place of equal chunks."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from attrs import frozen
from torch import Tensor

from speedup.ir.graph import Op
from speedup.lowerings.comparing import calls_instead
from speedup.lowerings.lowering import Agrees, Lowering, Written
from speedup.lowerings.syntax import Change, end_of, last_name, start_of

_PARTING = frozenset({"chunk", "unsafe_chunk", "tensor_split", "split", "unsafe_split"})


@frozen
class SplitSizes(Lowering):
    """Parts of `sizes` along `dim`."""

    helpers = MappingProxyType({"torch": torch})

    sizes: tuple[int, ...]
    dim: int

    def compute(self, op: Op, arguments: Mapping[str, Any], operands: Sequence[Tensor]) -> Sequence[Tensor]:
        """The parts."""
        return torch.split(operands[0], list(self.sizes), self.dim)

    def rewrite(self, written: Written) -> tuple[Change, ...] | None:
        """`split` with sizes, a method or function as the call was."""
        call = written.call
        if call is None:
            return None
        end, told = end_of(call.node), f"{list(self.sizes)}, dim={self.dim}"
        if call.is_method:
            name = call.renamed("split")
            return (Change(name.start, end, f"{name.text}({told})"),)
        function = call.node.func
        prefix = ast.unparse(function.value) if isinstance(function, ast.Attribute) else "torch"
        head = Change(start_of(call.node), start_of(call.tensor), f"{prefix}.split(")
        return head, Change(end_of(call.tensor), end, f", {told})")

    @staticmethod
    def may_replace(old: ast.Call, new: ast.AST, agrees: Agrees) -> bool:
        """A `split` of the same tensor."""
        return last_name(old.func).rstrip("_") in _PARTING and calls_instead("split", old, new, agrees)
