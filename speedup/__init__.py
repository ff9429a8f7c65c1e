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
    PruningError,
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
from speedup.page import write_report
from speedup.plan import Plan
from speedup.plan_diff import PlanDiff
from speedup.planner import plan_speedup
from speedup.pruners import make_masks, masks_from_torch_pruning
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
    "MaskProblem",
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
    "PruningError",
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
    "Width",
    "apply_masks",
    "check_masks",
    "load",
    "load_plan",
    "make_masks",
    "masks_from_file",
    "masks_from_heads",
    "masks_from_prune",
    "masks_from_torch_pruning",
    "masks_from_zeros",
    "materialize",
    "plan_speedup",
    "save",
    "verify",
    "write_report",
]
