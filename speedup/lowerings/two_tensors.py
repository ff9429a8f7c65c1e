"""Operations of two tensors as source writes them, and calls of helpers that stand in their place."""

from __future__ import annotations

import ast
from collections.abc import Sequence

from attrs import frozen

from speedup.lowerings.lowering import Agrees, Written
from speedup.lowerings.own_parameters import is_own_parameter
from speedup.lowerings.syntax import Change, end_of, is_literal, last_name, start_of

Operands = tuple[ast.expr, ast.expr]


@frozen
class Replacement:
    """A helper that is called in the place of an operation of two tensors, which are its first two arguments.

    Attributes:
        operator: the operation, if it is written as one.
        name: the function or method, if it is written as a call.
        helper: the function that is called instead.
        keywords: the names of its arguments, for tensors that have to be evaluated in the other order: two
            tensors, numbers or lists of them, and a parameter of the module, which may be left out.
    """

    operator: type[ast.operator]
    name: str
    helper: str
    keywords: tuple[str, ...]

    def rewrite(
        self, written: Written, is_turned: bool, arguments: Sequence[str]
    ) -> tuple[Change, ...] | None:
        """A call of the helper with the two tensors, which are evaluated in the order in which they stand.

        `is_turned` says that the second one is the helper's first argument; `arguments` are the others. None
        where the operation says more than its tensors.
        """
        operands = self._operands_of(written)
        if operands is None:
            return None
        first, second = operands
        node = written.node
        target = f"{first.id} = " if isinstance(node, ast.AugAssign) and isinstance(first, ast.Name) else ""
        start, rest = f"{target}{self.helper}(", "".join(f", {one}" for one in arguments)
        if not is_turned:
            return _around(written, operands, (start, ", ", f"{rest})"))
        if isinstance(first, ast.Name) and isinstance(second, ast.Name):
            # Names may be read in any order.
            text = f"{start}{second.id}, {first.id}{rest})"
            return (Change(start_of(node), end_of(node), text),)
        one, other, *names = self.keywords
        given = zip(names, arguments, strict=False)
        rest = "".join(f", {name}={argument}" for name, argument in given)
        return _around(written, operands, (f"{start}{other}=", f", {one}=", f"{rest})"))

    def may_replace(self, old: ast.Call, new: ast.AST, agrees: Agrees) -> bool:
        """Whether `new` is such a call in the place of the call `old`; see `Lowering.may_replace`."""
        if last_name(old.func) != self.name or old.keywords:
            return False
        tensors = old.args
        if len(tensors) == 1 and isinstance(old.func, ast.Attribute):
            tensors = [old.func.value, *tensors]
        return len(tensors) == 2 and self._is_called(tensors, new, agrees)

    def may_replace_operation(self, old: ast.BinOp | ast.AugAssign, new: ast.AST, agrees: Agrees) -> bool:
        """The same, also where the result is then called what the first tensor was."""
        if not isinstance(old.op, self.operator):
            return False
        if isinstance(old, ast.BinOp):
            return self._is_called([old.left, old.right], new, agrees)
        match old.target, new:
            case ast.Name(id=name), ast.Assign(targets=[ast.Name(id=other)], value=value) if name == other:
                return self._is_called([ast.Name(name, ast.Load()), old.value], value, agrees)
        return False

    def _operands_of(self, written: Written) -> Operands | None:
        """The two tensors, as they stand; None where the operation says more than them."""
        match written.node:
            case ast.BinOp(left=left, op=operator, right=right) if isinstance(operator, self.operator):
                return left, right
            case ast.AugAssign(target=ast.Name() as target, op=operator, value=value):
                return (target, value) if isinstance(operator, self.operator) else None
            case ast.Call(keywords=[]):
                call = written.call
                if call is not None and call.name == self.name and len(call.arguments) == 1:
                    (other,) = call.arguments
                    return None if isinstance(other, ast.Starred) else (call.tensor, other)
        return None

    def _is_called(self, tensors: Sequence[ast.expr], new: ast.AST, agrees: Agrees) -> bool:
        """Whether `new` calls the helper with the two tensors, numbers, and a parameter of the module."""
        if not isinstance(new, ast.Call) or not isinstance(new.func, ast.Name) or new.func.id != self.helper:
            return False
        names = tuple(keyword.arg for keyword in new.keywords)
        given = [*new.args, *(keyword.value for keyword in new.keywords)]
        one, other, *rest = self.keywords
        turned = (other, one, *rest)
        if names not in ((), turned[:-1], turned) or (names and new.args):
            return False
        if len(given) not in (len(turned) - 1, len(turned)):
            return False
        orders = [tensors]
        if not names and all(isinstance(tensor, ast.Name) for tensor in tensors):
            orders.append(tensors[::-1])
        last = len(turned) - 1
        return (
            any(all(agrees(a, b, False) for a, b in zip(own, given[:2], strict=True)) for own in orders)
            and all(is_literal(number) for number in given[2:last])
            and all(is_own_parameter(one) for one in given[last:])
        )


def _around(written: Written, operands: Operands, words: tuple[str, str, str]) -> tuple[Change, ...]:
    """The operands as they stand, with words before, between and behind them."""
    first, second = operands
    return (
        Change(start_of(written.node), start_of(first), words[0]),
        Change(end_of(first), start_of(second), words[1]),
        Change(end_of(second), end_of(written.node), words[2]),
    )
