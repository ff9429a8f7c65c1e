"""What a recipe hands back: the plan, and what the masked model and the end of the recipe compute."""

from __future__ import annotations

from attrs import frozen
from torch import Tensor

from speedup import Plan


@frozen(eq=False)
class Made:
    """`expected` is the masked model's output, `outputs` that of what the recipe ends with, on one input.

    `megabytes` are files before and after, in 10^6 bytes, where the recipe writes any; else the size of the
    parameters tells them. `tolerance` is the error that is due to the recipe's last step, relative to the
    largest output: 1e-4 is float32, more where weights lose bits.
    """

    plan: Plan
    expected: Tensor
    outputs: Tensor
    megabytes: tuple[float, float] | None = None
    tolerance: float = 1e-4

    @property
    def error(self) -> float:
        """The largest difference of the outputs, relative to the largest one expected."""
        difference = (self.outputs.double() - self.expected.double()).abs().max()
        return float(difference / self.expected.double().abs().max())
