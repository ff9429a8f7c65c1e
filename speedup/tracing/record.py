"""What one trace saw: comparisons of sizes, uses out of sight, and where calls were made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import reduce
from types import FrameType
from typing import Any

from torch import Tensor, nn

from speedup.ir.callsites import Running
from speedup.ir.expressions import Arithmetic, Attempt, Expression, Guard, Root, Use, sizes_in
from speedup.tracing.frames import place
from speedup.tracing.hidden import hints_of

ARGUMENT = "an argument of"
"""How operators use numbers that cannot be found in what came of a call."""


class Record:
    """What one trace saw of numbers and calls; filled during that trace only.

    `assigned` names buffers that the forward puts another tensor in the place of, `consulted` state whose
    numbers Python got; `reads_state` says whether it asked for some that it did not get. `checked` are
    tensors that were taken to be as the forward insists on. `looked_up` is where a number was last asked for
    its hash; `is_noting` says whether calls are noted now, as they are outside of calls that are.
    `hands_out_ints` says that the forward gets ints for sizes, each of which it may use out of sight.
    """

    def __init__(self, hands_out_ints: bool = False) -> None:
        self.hands_out_ints = hands_out_ints
        self._paths: Mapping[int, str] = {}
        self.guards: list[Guard] = []
        self.uses: list[Use] = []
        self.opaque_roots: list[Root] = []
        self.assigned: dict[str, None] = {}
        self.consulted: dict[str, None] = {}
        self.reads_state = False
        self.checked: list[Tensor] = []
        self.calls: dict[tuple[Running, ...], int] = {}
        self.looked_up: tuple[FrameType, int] | None = None
        self.is_noting = True
        self._seen: Counter[Any] = Counter()

    def watch(self, model: nn.Module) -> None:
        """Tell places apart by the paths of the modules of `model`."""
        self._paths = {id(vars(module)): path for path, module in model.named_modules()}

    def frozen_guards(self) -> tuple[Guard, ...]:
        """The guards without repetitions."""
        return tuple(dict.fromkeys(self.guards))

    def frozen_uses(self) -> tuple[Use, ...]:
        """The uses without repetitions."""
        return tuple(dict.fromkeys(self.uses))

    def guard(self, expression: Arithmetic, outcome: bool, frame: FrameType | None) -> None:
        """Note a comparison that the user's code in `frame` made."""
        where, key = self._place(frame)
        self.guards.append(Guard(expression, outcome, where, key))

    def attempt(self, sizes: Sequence[Expression], succeeded: bool, frame: FrameType | None) -> None:
        """Note a call of which the forward catches what it may raise: it made something of these sizes.

        Of one that failed they are sizes and numbers that it was given.
        """
        where, key = self._place(frame)
        total = reduce(lambda one, other: Arithmetic("add", (one, other)), sizes)
        self.guards.append(Attempt(Arithmetic("eq", (total, total)), succeeded, where, key))

    def use(
        self,
        expression: Expression,
        number: Any,
        how: str,
        frame: FrameType | None,
        *,
        may_repeat: bool = False,
        hints: tuple[int, ...] | None = (),
    ) -> None:
        """Note that the user's code in `frame` used a number out of sight.

        `hints` are numbers that may matter; None: those that stand in the code.
        """
        if next(sizes_in(expression), None) is not None and frame is not None:
            where, key = self._place(frame)
            told = hints_of(frame) if hints is None else hints
            self.uses.append(Use(expression, number, how, may_repeat, told, where, key))

    def _place(self, frame: FrameType | None) -> tuple[str, Any]:
        where, key = place(frame, self._paths)
        self._seen[key] += 1
        return where, (key, self._seen[key])
