"""A small model made of a checkpoint on disk is the one that is made in memory, and nothing more is read."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from speedup import (
    ArchitectureError,
    CheckpointError,
    InputError,
    ModelError,
    OtherWeightsError,
    Plan,
    StructureError,
    UnboundPlanError,
    materialize,
    plan_speedup,
)
from speedup.modules.copying import copy_module
from speedup.stored.reading import StoredTensor
from tests.support.cut_cases import CASES, Net, Tied, each_case, planned_once, without
from tests.support.folders import content, write_source


def hollow(case: str) -> nn.Module:
    """The case's model without numbers; buffers that no checkpoint has are there."""
    model: nn.Module = CASES[case]()[0].eval()
    held = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    saved = [tensor for name, tensor in held.items() if name in model.state_dict()]
    return copy_module(model, {id(tensor): tensor.to("meta") for tensor in saved})


def require_equal(found: nn.Module, wanted: nn.Module) -> None:
    assert type(found) is type(wanted) and str(found) == str(wanted)
    for kind in ("named_parameters", "named_buffers"):
        one, other = (dict(getattr(m, kind)(remove_duplicate=False)) for m in (found, wanted))
        assert list(one) == list(other)
        for name, tensor in other.items():
            assert one[name].dtype is tensor.dtype and torch.equal(one[name], tensor), name
            assert one[name].requires_grad is tensor.requires_grad
    assert [m.training for m in found.modules()] == [m.training for m in wanted.modules()]


@each_case
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_it_is_what_is_made_of_the_model_in_memory(case: str, dtype: torch.dtype, tmp_path: Path) -> None:
    model, plan = planned_once(case, dtype)
    folder = write_source(tmp_path / "large", model.state_dict())
    before = content(folder)
    small = materialize(Plan.from_json(plan.to_json()), hollow(case).to(dtype), checkpoint=folder)
    require_equal(small, materialize(plan, verify="none"))
    assert content(folder) == before and os.listdir(tmp_path) == ["large"]


def test_the_plan_has_a_model_of_its_own(tmp_path: Path) -> None:
    model, plan = planned_once("folded")
    folder = write_source(tmp_path / "large", model.state_dict())
    require_equal(materialize(plan, checkpoint=folder), materialize(plan))
    with pytest.raises(UnboundPlanError, match="has no model"):
        materialize(Plan.from_json(plan.to_json()), checkpoint=folder)


def test_one_file_is_a_checkpoint_too(tmp_path: Path) -> None:
    model, plan = planned_once("merged_rows")
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    small = materialize(plan, hollow("merged_rows"), checkpoint=tmp_path / "weights.safetensors")
    require_equal(small, materialize(plan))
    with pytest.raises(CheckpointError, match=r"no folder .* or a safetensors file"):
        materialize(plan, checkpoint=tmp_path / "others.safetensors")


def test_a_plan_made_without_numbers_takes_any(tmp_path: Path) -> None:
    model, x, masks = CASES["with_bias_masks"]()
    plan = plan_speedup(hollow("with_bias_masks"), x.to("meta"), masks)
    small = materialize(plan, checkpoint=write_source(tmp_path / "large", model.bfloat16().state_dict()))
    assert {p.dtype for p in small.parameters()} == {torch.bfloat16}
    wanted = materialize(plan_speedup(model, x.bfloat16(), masks))
    assert all(torch.equal(p, q) for p, q in zip(small.parameters(), wanted.parameters(), strict=True))


def test_tied_weights_stay_tied(tmp_path: Path) -> None:
    model, plan = planned_once("tied")
    state = model.state_dict()
    del state["embedding.weight"]
    small: Any = materialize(plan, hollow("tied"), checkpoint=write_source(tmp_path / "large", state))
    assert small.last.weight is small.embedding.weight
    require_equal(small, materialize(plan))


def test_rows_that_go_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(nn.Linear(512, 512, bias=False), nn.ReLU(), nn.Linear(512, 4, bias=False)).eval()
    plan = plan_speedup(model, torch.ones(1, 512), {"0.weight": without((512, 512), 0, *range(100, 400))})
    folder = write_source(tmp_path / "large", model.state_dict())
    counts: list[int] = []
    read = StoredTensor.bytes

    def counted(stored: StoredTensor, start: int, stop: int) -> Tensor:
        counts.append(stop - start)
        return read(stored, start, stop)

    monkeypatch.setattr(StoredTensor, "bytes", counted)
    materialize(plan, checkpoint=folder)
    assert sum(counts) == (212 * 512 + 4 * 512) * 4


def test_numbers_that_are_nowhere_are_asked_for(tmp_path: Path) -> None:
    model, plan = planned_once("tied")
    folder = write_source(tmp_path / "large", model.state_dict())
    with torch.device("meta"):
        without_buffers = Tied()
    with pytest.raises(ModelError, match=r"buffer 'scale' is in no checkpoint.*init_empty_weights"):
        materialize(plan, without_buffers.eval(), checkpoint=folder)


class Hidden(nn.Module):
    """Holds a tensor that is no buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.last = nn.Linear(5, 8, bias=False), nn.Linear(8, 3)
        self.factors = [torch.ones(3) * 2]

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.last(torch.relu(self.layer(x))) * self.factors[0]
        return result


def test_a_tensor_that_is_no_buffer_needs_a_model_with_numbers(tmp_path: Path) -> None:
    model = Hidden().eval()
    plan = plan_speedup(model, torch.ones(1, 5), {"layer.weight": without((8, 5), 0, 1, 2)})
    folder = write_source(tmp_path / "large", model.state_dict())
    with torch.device("meta"):
        empty = Hidden().eval()
    with pytest.raises(ModelError, match="neither a parameter nor a buffer"):
        materialize(plan, empty, checkpoint=folder)
    x = torch.randn(2, 5)
    assert torch.equal(materialize(plan, checkpoint=folder)(x), materialize(plan)(x))


class Scaled(nn.Module):
    """A buffer that no state dict has lies along what goes; `twice` changes the forward and no tensor."""

    factors: Tensor

    def __init__(self, twice: bool = False) -> None:
        super().__init__()
        self.layer, self.last, self.twice = nn.Linear(5, 8, bias=False), nn.Linear(8, 3), twice
        self.register_buffer("factors", torch.arange(8.0) + 1, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.layer(x)) * self.factors
        result: Tensor = self.last(torch.relu(y) if self.twice else y)
        return result


def test_buffers_that_state_dicts_leave_out_are_cut(tmp_path: Path) -> None:
    model = Scaled().eval()
    plan = plan_speedup(model, torch.ones(1, 5), {"layer.weight": without((8, 5), 0, 1, 2)})
    small: Any = materialize(plan, checkpoint=write_source(tmp_path / "large", model.state_dict()))
    assert small.factors.tolist() == [1, 4, 5, 6, 7, 8]
    require_equal(small, materialize(plan))


def test_a_model_that_computes_something_else_is_refused(tmp_path: Path) -> None:
    model = Scaled().eval()
    plan = plan_speedup(model, torch.ones(1, 5), {"layer.weight": without((8, 5), 0, 1, 2)})
    plan, folder = Plan.from_json(plan.to_json()), write_source(tmp_path / "large", model.state_dict())
    with pytest.raises(StructureError, match="does not compute what was planned"):
        materialize(plan, Scaled(twice=True).eval(), checkpoint=folder)
    materialize(plan, Scaled(twice=True).eval(), checkpoint=folder, verify="none")
    materialize(plan, Scaled().eval(), checkpoint=folder)


def lengthen(folder: Path) -> None:
    index = folder / "model.safetensors.index.json"
    body = json.loads(index.read_text())
    body["weight_map"]["9.weight"] = body["weight_map"]["0.weight"]
    index.write_text(json.dumps(body))


def shorten(folder: Path) -> None:
    file = folder / "model-00001-of-00002.safetensors"
    os.truncate(file, file.stat().st_size - 1)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (shorten, "is truncated, damaged"),
        (lengthen, "lists other tensors .* does not hold '9.weight'"),
        (lambda folder: os.remove(folder / "model-00002-of-00002.safetensors"), "there is no file"),
        (lambda folder: os.remove(folder / "model.safetensors.index.json"), "holds neither"),
    ],
)
def test_a_damaged_source_is_refused_and_left_as_it_was(
    damage: Callable[[Path], Any], words: str, tmp_path: Path
) -> None:
    model, plan = planned_once("sliced")
    folder = write_source(tmp_path / "large", model.state_dict())
    damage(folder)
    before = content(folder)
    with pytest.raises(CheckpointError, match=words):
        materialize(plan, checkpoint=folder)
    assert content(folder) == before


def test_another_models_checkpoint_is_refused(tmp_path: Path) -> None:
    plan = planned_once("folded")[1]
    other = Net(nn.Linear(5, 9), nn.ReLU(), nn.Linear(9, 3)).state_dict()
    with pytest.raises(ArchitectureError, match=r"shape \(9, 5\), planned was \(8, 5\)"):
        materialize(plan, checkpoint=write_source(tmp_path / "of other shapes", other))
    state = planned_once("folded")[0].state_dict()
    less = {name: tensor for name, tensor in state.items() if name != "2.bias"}
    with pytest.raises(CheckpointError, match=r"it has no tensor '2\.bias'"):
        materialize(plan, checkpoint=write_source(tmp_path / "a part", less))
    numbers = {name: tensor + 1 for name, tensor in state.items()}
    with pytest.raises(OtherWeightsError, match=r"'0\.weight' holds other numbers"):
        materialize(plan, checkpoint=write_source(tmp_path / "of other numbers", numbers))


def test_another_model_is_refused(tmp_path: Path) -> None:
    model, plan = planned_once("folded")
    folder = write_source(tmp_path / "large", model.state_dict())
    with pytest.raises(ArchitectureError, match="not of the planned architecture"):
        materialize(plan, hollow("sliced"), checkpoint=folder)


def test_a_device_is_for_a_checkpoint() -> None:
    with pytest.raises(InputError, match="device= is for checkpoint="):
        materialize(planned_once("sliced")[1], device="cpu")
