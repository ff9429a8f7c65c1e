"""Every error a user can meet, typed: what was wrong, where, and what to do next.

All derive from `SpeedupError`; those caused by an argument also derive from the
builtin that Python users expect (`ValueError`, `TypeError`, `KeyError`).
"""

from __future__ import annotations


class SpeedupError(Exception):
    """Base of all errors raised on purpose by this package."""

    def __str__(self) -> str:
        # KeyError would print its argument quoted.
        return str(self.args[0]) if self.args else ""


class InputError(SpeedupError, TypeError):
    """The example input is missing or is not something a forward can be called with."""


class ModelError(SpeedupError, TypeError):
    """The model is of a kind that cannot be planned, or not yet."""


class ModelReferenceError(ModelError):
    """A name on the command line leads to no model."""


class WeightsError(SpeedupError, ValueError):
    """A file of weights is missing, damaged, or does not fit the model."""


class MaskError(SpeedupError, ValueError):
    """A mask does not fit the model; base of the more precise kinds below."""


class UnknownNameError(MaskError, KeyError):
    """A mask names a module or parameter that the model does not have."""


class MaskTargetError(MaskError):
    """A mask is aimed at something that cannot be masked, such as a buffer."""


class MaskShapeError(MaskError):
    """A mask is neither of its parameter's shape nor broadcastable to it."""


class MaskValueError(MaskError):
    """A mask holds something other than zeros and ones."""


class MaskDeviceError(MaskError):
    """A mask lives on another device than its parameter."""


class MaskFileError(MaskError):
    """A mask file is missing, damaged, or holds something other than masks."""


class PruningError(SpeedupError, ValueError):
    """What was asked of a mask maker makes no sense, or its scores are not what they should be."""


class GoalError(PruningError):
    """No masks make the small model as small or as fast as was asked; says how far they get."""


class FileWriteError(SpeedupError, OSError):
    """A file cannot be written; the one that was there is as it was."""


class NonFiniteWeightError(SpeedupError, ValueError):
    """A parameter holds inf or NaN; equivalence is only promised for finite weights."""


class ExportError(SpeedupError):
    """`torch.export` could not trace the model; says in which module and why.

    `module` is the path of the innermost module that raised, where that is known.
    """

    def __init__(self, message: str, module: str | None = None) -> None:
        super().__init__(message)
        self.module = module


class UnknownModuleError(SpeedupError, KeyError):
    """A module path handed to the planner does not exist in the model."""


class MissingPackageError(SpeedupError, ImportError):
    """Something was asked for that needs a package which is not installed; says which and how to get it."""


class ReportFormatError(SpeedupError, ValueError):
    """A plan is to be written for people to a file of a kind that it cannot be written to."""


class RuleError(SpeedupError):
    """An operator's rule broke its contract (wrong number or shape of results)."""


class GraphError(SpeedupError):
    """A traced graph contradicts itself: a fault of the library, not of the model."""


class FixpointError(SpeedupError):
    """The coupling constraints did not settle within their bound."""


class StaleModelError(SpeedupError):
    """The model changed between planning and materializing."""


class ArchitectureError(StaleModelError):
    """A plan meets a model of another architecture than it was made for."""


class OtherWeightsError(StaleModelError):
    """A plan that depends on its model's weights meets a model with others."""


class OptimizerStateError(SpeedupError, ValueError):
    """The state of an optimizer does not fit the plan, or is of a kind that cannot be cut; says why."""


class AdapterError(SpeedupError, ValueError):
    """An adapter is not of the planned model, or is of a kind that cannot be cut; says why."""


class CheckpointError(SpeedupError, ValueError):
    """A folder of weights is missing a part, damaged, packed, or not of the planned model; says which."""


class UnboundPlanError(SpeedupError, ValueError):
    """A plan that was read back has no model of its own; one has to be passed."""


class PlanFormatError(SpeedupError, ValueError):
    """A text is no plan, or none that this version can read; or a plan cannot be written as text."""


class ForeignSourceError(SpeedupError, ValueError):
    """A plan that was read back holds source that is not the model's own with other numbers."""


class SavedModelError(SpeedupError, ValueError):
    """A file of a small model is missing, damaged, or does not hold what its plan says."""


class SparseTrainingError(SpeedupError, RuntimeError):
    """A layer with a sparse weight was asked for gradients; its `dense()` has them."""


class ChoicesFormatError(SpeedupError, ValueError):
    """A text holds no choices, or none that this version can read."""


class ForeignChoicesError(SpeedupError, ValueError):
    """Choices were measured on another machine, or for another model; says in what it differs."""


class EquivalenceError(SpeedupError):
    """The small model is not equivalent to the masked one; it was not handed out."""


class StructureError(EquivalenceError):
    """The small model does not trace to the operations that the plan expects."""


class OutputError(EquivalenceError):
    """The small model's outputs differ from the masked model's."""
