"""What can be wrong with a mask, as values, so that all that is wrong can be told at once."""

from __future__ import annotations

from collections.abc import Sequence

from attrs import frozen

from speedup.errors import MaskDeviceError, MaskError, MaskShapeError, MaskValueError, UnknownNameError

# As many problems are told one by one.
_FEW = 5


@frozen
class MaskProblem:
    """One thing that is wrong with masks.

    Attributes:
        name: the parameter or module that the mask was given for, or the path of the mask file.
        what: what is wrong, a sentence without its full stop.
        advice: what to do about it, in full sentences.
        kind: the error that `plan_speedup` raises for it.
    """

    name: str
    what: str
    advice: str
    kind: type[MaskError]

    def __str__(self) -> str:
        return f"{self.what}. {self.advice}"


class RefusedError(Exception):
    """Carries a problem from where it is found to where problems are collected."""

    def __init__(self, name: str, what: str, advice: str, kind: type[MaskError] = MaskError) -> None:
        super().__init__(what)
        self.problem = MaskProblem(name, what, advice, kind)


def error_of(problems: Sequence[MaskProblem]) -> MaskError:
    """The error that tells `problems`, of which there is one at least, of their kind if they share it."""
    first, *others = problems
    if not others:
        return first.kind(str(first))
    kind = first.kind if all(problem.kind is first.kind for problem in others) else MaskError
    listed = "".join(f"\n- {problem}" for problem in problems[:_FEW])
    more = len(problems) - _FEW
    rest = f"\n- and {more} more, which check_masks(model, masks) lists" if more > 0 else ""
    return kind(f"there are {len(problems)} problems with the masks{_in_common(problems)}:{listed}{rest}")


def _in_common(problems: Sequence[MaskProblem]) -> str:
    """What all problems have in common, as the rest of a clause; empty if nothing."""
    kinds = {problem.kind for problem in problems}
    if kinds == {UnknownNameError}:
        return "; all are names that the model does not have, as if they were of another one"
    if kinds == {MaskShapeError}:
        return "; none has its parameter's shape, as if they were for a model of other widths"
    if kinds == {MaskValueError}:
        return "; all hold other numbers than 0 and 1, as scores and weights do"
    if kinds == {MaskDeviceError}:
        return "; all are on another device than their parameters"
    return ""
