"""An operation whose result has a place of its own, and so may be larger than the tensor it is written to."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from typing import Any

from attrs import frozen
from torch import Tensor

from speedup.ir.evaluation import evaluate
from speedup.ir.graph import Op
from speedup.lowerings.lowering import Agrees, Lowering, Written
from speedup.lowerings.syntax import Change, end_of, start_of


@frozen
class OutOfPlace(Lowering):
    """The operation without its assignment, `a = a + b` for `a += b`."""

    takes_operations = True

    def compute(self, op: Op, arguments: Mapping[str, Any], operands: Sequence[Tensor]) -> Sequence[Tensor]:
        """The operation."""
        return evaluate(op, operands)

    def rewrite(self, written: Written) -> tuple[Change, ...] | None:
        """The name is given what the operation makes of it; nothing where it is no assignment to a name."""
        match written.node:
            case ast.AugAssign(target=ast.Name(id=name) as target, op=operator, value=value):
                operation = ast.unparse(ast.BinOp(ast.Name(name), operator, ast.Name("_")))
                return (
                    Change(end_of(target), start_of(value), f" = {operation[:-1]}("),
                    Change(end_of(value), end_of(written.node), ")"),
                )
        return None

    @staticmethod
    def may_replace_operation(old: ast.BinOp | ast.AugAssign, new: ast.AST, agrees: Agrees) -> bool:
        """The same operation of the same name and value, which the name is then given."""
        match old, new:
            case (
                ast.AugAssign(target=ast.Name(id=name)),
                ast.Assign(
                    targets=[ast.Name(id=given)],
                    value=ast.BinOp(left=ast.Name(id=left), right=right) as value,
                ),
            ):
                same = name == given == left and type(old.op) is type(value.op)
                return same and agrees(old.value, right, False)
        return False
