"""What a lowering is, and the alternatives that a rule offers."""

from __future__ import annotations

import ast
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar

from attrs import frozen
from torch import Tensor

from speedup.engine.constraints import Constraint, Dim
from speedup.engine.keepsets import KeepSets
from speedup.ir.edits import NewBias
from speedup.ir.graph import Op, Shape, Value
from speedup.lowerings.syntax import Change, WrittenCall

Agrees = Callable[[Any, Any, bool], bool]
"""Whether one piece of syntax is another but for numbers; the last argument: as an argument of a call."""


@frozen(eq=False)
class Written:
    """How the source states an op.

    Attributes:
        op: the op.
        node: the call or subscript, or the operation if it is one.
        call: its parts, if it is a call.
        own: how the source names the module whose forward it is; None where it does not.
        given: the arguments that the op gets on smaller operands, by name, as the source stands.
        may_be_literal: whether a number may stand in the source as it is: that of an argument, by its name,
            or of a list among them, by the place in it too.
    """

    op: Op
    node: ast.Call | ast.Subscript | ast.BinOp | ast.AugAssign
    call: WrittenCall | None
    own: str | None
    given: Mapping[str, Any]
    may_be_literal: Callable[[str, int | None], bool]


class Lowering(ABC):
    """Another way to state one call, as a value: what a rule says of it."""

    helpers: ClassVar[Mapping[str, Any]] = MappingProxyType({})
    """Names that the source may borrow for it, and what they stand for."""

    takes_operations: ClassVar[bool] = False
    """Whether it can stand for `a + b` and the like, too, and not only for calls and subscripts."""

    def biases(self, path: str) -> Iterable[NewBias]:
        """What the module at `path`, whose source states it, has to hold for it."""
        return ()

    def macs(self, op: Op, sizes: Callable[[Value], Shape]) -> int:
        """Multiply-accumulates at given sizes beyond those of `op` itself."""
        return 0

    def destinations(self, op: Op, kept: KeepSets) -> Iterable[tuple[Dim, Tensor, str]]:
        """Where dropped constants of the operands of `op` go, as of `Rule.destinations`."""
        return ()

    @abstractmethod
    def compute(self, op: Op, arguments: Mapping[str, Any], operands: Sequence[Tensor]) -> Sequence[Tensor]:
        """What the new call gives for smaller operands: the laws of rules compare it with the whole op."""

    @abstractmethod
    def rewrite(self, written: Written) -> tuple[Change, ...] | None:
        """Changes that make the source state it; None where it is written in a way that is too unusual."""

    def borrow(self, call: WrittenCall | None) -> tuple[str, ...]:
        """The helpers that the new source of `call` names: `torch` where the call's own name stands alone."""
        stands_alone = call is not None and not isinstance(call.node.func, ast.Attribute)
        return tuple(name for name in self.helpers if name != "torch" or stands_alone)

    @staticmethod
    def may_replace(old: ast.Call, new: ast.AST, agrees: Agrees) -> bool:
        """Whether source from a file may hold `new` where the model's own holds `old`, numbers aside."""
        return False

    @staticmethod
    def may_replace_operation(old: ast.BinOp | ast.AugAssign, new: ast.AST, agrees: Agrees) -> bool:
        """The same, where the model's own source holds an operation."""
        return False


@frozen
class Alternative:
    """One way to carry an op on smaller operands, beside its call with other numbers.

    Attributes:
        lowering: what the source states in place of the call; None: the call as it stands.
        constraints: what keep-sets have to satisfy for it.
        cost: elements that it reads and writes in one forward beyond what the call does.
    """

    lowering: Lowering | None = None
    constraints: tuple[Constraint, ...] = ()
    cost: int = 0
