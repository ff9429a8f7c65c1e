"""Turn a masked PyTorch model into a smaller one that computes exactly the same function.

Importing this module loads nothing else, neither torch: each name is fetched when it is first asked for.
"""

from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from speedup import _stable as _stable  # Pickles of earlier releases name addresses that it knows.

if TYPE_CHECKING:
    from speedup.analyses.alignment import Width
    from speedup.building.materializing import materialize
    from speedup.building.verifying import Drawn, Verification, verify
    from speedup.checkpoints.compacting import Progress, compact_checkpoint
    from speedup.errors import (
        AdapterError,
        ArchitectureError,
        CheckpointError,
        ChoicesFormatError,
        EquivalenceError,
        ExportError,
        FileWriteError,
        FixpointError,
        ForeignChoicesError,
        ForeignSourceError,
        GoalError,
        GraphError,
        InputError,
        MaskDeviceError,
        MaskError,
        MaskFileError,
        MaskShapeError,
        MaskTargetError,
        MaskValueError,
        MissingPackageError,
        ModelError,
        NonFiniteWeightError,
        OptimizerStateError,
        OtherWeightsError,
        OutputError,
        PlanFormatError,
        PruningError,
        ReportFormatError,
        RuleError,
        SavedModelError,
        SparseTrainingError,
        SpeedupError,
        StaleModelError,
        StructureError,
        UnboundPlanError,
        UnknownModuleError,
        UnknownNameError,
    )
    from speedup.files.saving import load, load_plan, save
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
    from speedup.measuring.estimating import estimate_latency
    from speedup.measuring.tuning import tune
    from speedup.plan import Plan, plan_figure
    from speedup.planning.planner import plan_speedup
    from speedup.planning.traced import Traced, trace
    from speedup.pruners import make_masks, masks_from_torch_pruning
    from speedup.rules import STANDARD
    from speedup.rules.rule import Rule
    from speedup.sparse.choices import Choices
    from speedup.text.plan_diff import PlanDiff
    from speedup.uniform import plan_uniform

__all__ = [
    "STANDARD",
    "AdapterError",
    "ArchitectureError",
    "CheckpointError",
    "Choices",
    "ChoicesFormatError",
    "Drawn",
    "EquivalenceError",
    "ExportError",
    "FileWriteError",
    "FixpointError",
    "ForeignChoicesError",
    "ForeignSourceError",
    "GoalError",
    "GraphError",
    "InputError",
    "MaskDeviceError",
    "MaskError",
    "MaskFileError",
    "MaskProblem",
    "MaskShapeError",
    "MaskTargetError",
    "MaskValueError",
    "Masks",
    "MissingPackageError",
    "ModelError",
    "NonFiniteWeightError",
    "OptimizerStateError",
    "OtherWeightsError",
    "OutputError",
    "Plan",
    "PlanDiff",
    "PlanFormatError",
    "Progress",
    "PruningError",
    "ReportFormatError",
    "Rule",
    "RuleError",
    "SavedModelError",
    "SparseTrainingError",
    "SpeedupError",
    "StaleModelError",
    "StructureError",
    "Traced",
    "UnboundPlanError",
    "UnknownModuleError",
    "UnknownNameError",
    "Verification",
    "Width",
    "apply_masks",
    "check_masks",
    "compact_checkpoint",
    "estimate_latency",
    "load",
    "load_plan",
    "make_masks",
    "masks_from_file",
    "masks_from_heads",
    "masks_from_prune",
    "masks_from_torch_pruning",
    "masks_from_zeros",
    "materialize",
    "plan_figure",
    "plan_speedup",
    "plan_uniform",
    "save",
    "trace",
    "tune",
    "verify",
]

# All others are errors.
_HOMES = MappingProxyType(
    {
        "speedup.analyses.alignment": ("Width",),
        "speedup.building.materializing": ("materialize",),
        "speedup.building.verifying": ("Drawn", "Verification", "verify"),
        "speedup.checkpoints.compacting": ("Progress", "compact_checkpoint"),
        "speedup.files.saving": ("load", "load_plan", "save"),
        "speedup.masks": (
            "MaskProblem",
            "Masks",
            "apply_masks",
            "check_masks",
            "masks_from_file",
            "masks_from_heads",
            "masks_from_prune",
            "masks_from_zeros",
        ),
        "speedup.measuring.tuning": ("tune",),
        "speedup.measuring.estimating": ("estimate_latency",),
        "speedup.plan": ("Plan", "plan_figure"),
        "speedup.planning.planner": ("plan_speedup",),
        "speedup.planning.traced": ("Traced", "trace"),
        "speedup.pruners": ("make_masks", "masks_from_torch_pruning"),
        "speedup.rules": ("STANDARD",),
        "speedup.rules.rule": ("Rule",),
        "speedup.sparse.choices": ("Choices",),
        "speedup.text.plan_diff": ("PlanDiff",),
        "speedup.uniform": ("plan_uniform",),
    }
)
_HOME_OF = MappingProxyType({name: home for home, names in _HOMES.items() for name in names})


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOME_OF.get(name, "speedup.errors")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, *(name for name in globals() if name.startswith("__"))]
