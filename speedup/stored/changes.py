"""A checkpoint on disk meets a plan: is it the planned model's, and what becomes of each of its tensors?"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from speedup.cutting.planned import PlannedTensors
from speedup.cutting.states import require_planned_numbers
from speedup.cutting.tensors import TensorChange
from speedup.errors import CheckpointError
from speedup.modules.fingerprints import checksum_of_bytes
from speedup.stored.reading import StoredCheckpoint


def stored_changes(planned: PlannedTensors, stored: StoredCheckpoint) -> Mapping[str, TensorChange]:
    """What becomes of each tensor, by its name in the checkpoint and in its order.

    All is checked that can be; of the tensors whose numbers the plan depends on, these are read.

    Raises:
        CheckpointError: a tensor of the planned model is missing.
        ArchitectureError: a tensor is not known to the plan, or of another shape or kind.
        OtherWeightsError: the plan does not hold for these numbers.
    """
    found: dict[str, TensorChange] = {}
    for name, tensor in stored.tensors.items():
        found[name] = planned.change(name, tensor.shape, tensor.dtype)
        if planned.depends_on(name):
            require_planned_numbers(planned, name, checksum_of_bytes(tensor.bytes, tensor.size))
    met = {planned.canonical(name) for name in found}
    missing = next((name for name in planned.saved_names() if name not in met), None)
    if missing is not None:
        raise CheckpointError(
            f"{str(stored.path)!r} is not the planned model's: it has no tensor {missing!r}. Name the "
            "checkpoint of the model that was planned."
        )
    return MappingProxyType(found)
