"""The whole contract of a small model, in one call: exact, native, pure, and able to be planned again."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from speedup import Plan, apply_masks, load, load_plan, materialize, plan_speedup, save
from speedup.ir.inputs import tensors_of
from tests.support.masking import rows as masked_rows
from tests.support.measure import relative_error
from tests.support.untouched import differences, snapshot

Make = Callable[[int], Tensor]
Masks = Mapping[str, Mapping[str, Tensor]]


def dropped(model: nn.Module, rows: Mapping[str, Sequence[int]]) -> dict[str, dict[str, Tensor]]:
    """Masks of whole rows of layers, biases included, by path."""
    return {path: masked_rows(model.get_submodule(path), *indices) for path, indices in rows.items()}


def require_exact(masked: nn.Module, small: nn.Module, make: Make) -> None:
    """The two agree, in eval mode, at batch sizes that were traced and that were not."""
    for batch in (1, 3, 7):
        assert relative_error(masked, small, [(make(batch),) for _ in range(3)]) < 1e-10


def require_as_masked(model: nn.Module, small: nn.Module, masks: Masks | None, make: Make) -> None:
    """The small model agrees with the model under its masks, both in eval mode, where it is left."""
    require_exact(apply_masks(model, masks).eval(), small.eval(), make)


def require_same_when_saved(plan: Plan, small: nn.Module, model: nn.Module, example: Tensor) -> None:
    """Plan and small model come back from a file as they were; the plan takes another model like its own."""
    with TemporaryDirectory() as folder:
        path = Path(folder, "small.safetensors")
        save(small, plan, path)
        assert load_plan(path) == plan
        loaded = load(path, lambda: copy.deepcopy(model))
    again = materialize(Plan.from_json(plan.to_json()), model, verify="none").eval()
    with torch.no_grad():
        torch.manual_seed(0)
        want = tensors_of(small(example))
        for found in (loaded, again):
            torch.manual_seed(0)
            have = tensors_of(found(example))
            assert all(torch.equal(a, b) for a, b in zip(want, have, strict=True))


def shrunk(
    model: nn.Module,
    make: Make,
    rows: Mapping[str, Sequence[int]] | None = None,
    *,
    masks: Masks | None = None,
    importable: bool = True,
) -> tuple[Plan, Any]:
    """The plan and the small model of a float64 `model`, after everything it promises was checked."""
    model = model.double().eval()
    own = {**dropped(model, rows or {}), **(masks or {})}
    masked = apply_masks(model, own).eval()
    twin = copy.deepcopy(model)
    example = make(2)
    before = snapshot(model)
    plan = plan_speedup(model, example, own)
    small = materialize(plan)
    assert differences(before, snapshot(model)) == ()
    require_exact(masked, small.eval(), make)
    small.train().eval()
    require_exact(masked, small, make)
    require_exact(masked, copy.deepcopy(small), make)
    require_same_when_saved(plan, small, twin, example)
    if importable:
        require_exact(masked, pickle.loads(pickle.dumps(small)), make)
    other = materialize(plan, verify="none").eval()
    other.load_state_dict(small.state_dict())
    require_exact(masked, other, make)
    again = materialize(plan_speedup(small, make(2)))
    require_exact(masked, again.eval(), make)
    require_exact(model, twin, make)
    return plan, small
