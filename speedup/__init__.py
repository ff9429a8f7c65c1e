"""Turn a masked PyTorch model into a smaller one that computes exactly the same function."""

from speedup.alignment import Width
from speedup.errors import (
    ArchitectureError,
    EquivalenceError,
    ExportError,
    FixpointError,
    ForeignSourceError,
    InputError,
    MaskDeviceError,
    MaskError,
    MaskFileError,
    MaskShapeError,
    MaskTargetError,
    MaskValueError,
    ModelError,
    NonFiniteWeightError,
    OtherWeightsError,
    OutputError,
    PlanFormatError,
    RuleError,
    SavedModelError,
    SpeedupError,
    StaleModelError,
    StructureError,
    UnboundPlanError,
    UnknownModuleError,
    UnknownNameError,
)
from speedup.masks import (
    MaskProblem,
    Masks,
    apply_masks,
    check_masks,
    masks_from_file,
    masks_from_heads,
    masks_from_prune,
    masks_from_zeros,
)
from speedup.materialize import materialize
from speedup.plan import Plan
from speedup.planner import plan_speedup
from speedup.rules import STANDARD
from speedup.rules.rule import Rule
from speedup.verify import Verification, verify

__all__ = [
    "STANDARD",
    "EquivalenceError",
    "ExportError",
    "FixpointError",
    "InputError",
    "MaskDeviceError",
    "MaskError",
    "MaskFileError",
    "MaskProblem",
    "MaskShapeError",
    "MaskTargetError",
    "MaskValueError",
    "Masks",
    "ModelError",
    "NonFiniteWeightError",
    "OutputError",
    "Plan",
    "Rule",
    "RuleError",
    "SpeedupError",
    "StaleModelError",
    "StructureError",
    "UnknownModuleError",
    "UnknownNameError",
    "Verification",
    "Width",
    "apply_masks",
    "check_masks",
    "masks_from_file",
    "masks_from_heads",
    "masks_from_prune",
    "masks_from_zeros",
    "materialize",
    "plan_speedup",
    "verify",
]
