"""Turn a masked PyTorch model into a smaller one that computes exactly the same function."""

from speedup.errors import (
    EquivalenceError,
    ExportError,
    FixpointError,
    InputError,
    MaskDeviceError,
    MaskError,
    MaskFileError,
    MaskShapeError,
    MaskTargetError,
    MaskValueError,
    ModelError,
    NonFiniteWeightError,
    OutputError,
    RuleError,
    SpeedupError,
    StaleModelError,
    StructureError,
    UnknownModuleError,
    UnknownNameError,
)
from speedup.masks import Masks, apply_masks
from speedup.materialize import materialize
from speedup.page import write_report
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
    "apply_masks",
    "materialize",
    "plan_speedup",
    "verify",
    "write_report",
]
