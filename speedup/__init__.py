"""Turn a masked PyTorch model into a smaller one that computes exactly the same function."""

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
from speedup.masks import Masks, apply_masks
from speedup.materialize import materialize
from speedup.plan import Plan
from speedup.plan_diff import PlanDiff
from speedup.planner import plan_speedup
from speedup.rules import STANDARD
from speedup.rules.rule import Rule
from speedup.saving import load, load_plan, save
from speedup.verify import Verification, verify

__all__ = [
    "STANDARD",
    "ArchitectureError",
    "EquivalenceError",
    "ExportError",
    "FixpointError",
    "ForeignSourceError",
    "InputError",
    "MaskDeviceError",
    "MaskError",
    "MaskFileError",
    "MaskShapeError",
    "MaskTargetError",
    "MaskValueError",
    "Masks",
    "ModelError",
    "NonFiniteWeightError",
    "OtherWeightsError",
    "OutputError",
    "Plan",
    "PlanDiff",
    "PlanFormatError",
    "Rule",
    "RuleError",
    "SavedModelError",
    "SpeedupError",
    "StaleModelError",
    "StructureError",
    "UnboundPlanError",
    "UnknownModuleError",
    "UnknownNameError",
    "Verification",
    "apply_masks",
    "load",
    "load_plan",
    "materialize",
    "plan_speedup",
    "save",
    "verify",
]
