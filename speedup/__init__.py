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
    PruningError,
    RuleError,
    SpeedupError,
    StaleModelError,
    StructureError,
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
from speedup.pruners import make_masks, masks_from_torch_pruning
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
    "PruningError",
    "Rule",
    "RuleError",
    "SpeedupError",
    "StaleModelError",
    "StructureError",
    "UnknownModuleError",
    "UnknownNameError",
    "Verification",
    "apply_masks",
    "check_masks",
    "make_masks",
    "masks_from_file",
    "masks_from_heads",
    "masks_from_prune",
    "masks_from_torch_pruning",
    "masks_from_zeros",
    "materialize",
    "plan_speedup",
    "verify",
]
