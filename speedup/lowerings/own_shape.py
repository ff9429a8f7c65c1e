"""A tensor of one number that has its own extents where it was made like another one."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from attrs import frozen
from torch import Tensor

from speedup.ir.graph import Op
from speedup.lowerings.lowering import Agrees, Lowering, Written
from speedup.lowerings.spreading import are_spread, is_steady, with_numbers
from speedup.lowerings.syntax import Change, end_of, last_name, start_of

_LIKE = "_like"


@frozen
class OwnShape(Lowering):
    """`sizes` by dimension; the others are those of the tensor that it is made like."""

    sizes: Mapping[int, int]

    def compute(self, op: Op, arguments: Mapping[str, Any], operands: Sequence[Tensor]) -> Sequence[Tensor]:
        """The tensor."""
        shape = [self.sizes.get(dim, extent) for dim, extent in enumerate(operands[0].shape)]
        rest = [op["fill_value"]] if "fill_value" in op.arguments else []
        return [getattr(torch, op.name.removesuffix(_LIKE))(shape, *rest, dtype=op.result.dtype)]

    def rewrite(self, written: Written) -> tuple[Change, ...] | None:
        """`a.new_zeros((*a.shape[:1], 6))` for `torch.zeros_like(a)`; None where `a` is more than a name."""
        call = written.call
        if call is None or not is_steady(call.tensor) or call.keyword("memory_format") is not None:
            return None
        tensor = ast.unparse(call.tensor)
        shape = ast.Attribute(call.tensor, "shape")
        sizes = with_numbers(shape, self.sizes, written.op.result.ndim)
        head = f"{tensor}.new_{call.name.removesuffix(_LIKE)}(({sizes},)"
        return (Change(start_of(call.node), end_of(call.tensor), head),)

    @staticmethod
    def may_replace(old: ast.Call, new: ast.AST, agrees: Agrees) -> bool:
        """A tensor of the same kind, with numbers among its sizes."""
        match old, new:
            case (
                ast.Call(args=[tensor, *rest], keywords=named),
                ast.Call(
                    func=ast.Attribute(own, name), args=[ast.Tuple(elts=sizes), *others], keywords=given
                ),
            ):
                called = last_name(old.func)
                same = called.endswith(_LIKE) and name == f"new_{called.removesuffix(_LIKE)}"
                shape = ast.Attribute(tensor, "shape", ast.Load())
                return (
                    same
                    and is_steady(tensor)
                    and agrees(tensor, own, False)
                    and are_spread(shape, sizes)
                    and agrees([*rest, *named], [*others, *given], False)
                )
        return False
