"""Models whose `save_pretrained` writes what their constructor was given do not save what is wrong."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from speedup import SavedModelError, apply_masks, load, materialize, plan_speedup, save

hub = pytest.importorskip("huggingface_hub")
X = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))


class Mixed(nn.Module, hub.PyTorchModelHubMixin):  # type: ignore[misc,name-defined]
    def __init__(self, hidden: int = 8) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(6, hidden), nn.Linear(hidden, 2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.leave(torch.relu(self.enter(x)))
        return out


class Own(nn.Module):
    """Has a method of that name which is its own."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(6, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.leave(torch.relu(self.enter(x)))
        return out

    def save_pretrained(self, folder: Path) -> None:
        torch.save(self.state_dict(), folder / "own.pt")


def _masks(rows: Tensor) -> dict[str, Tensor]:
    return {"enter.weight": rows[:, None].expand(8, 6), "enter.bias": rows}


@pytest.mark.parametrize("change", [lambda m: m, copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_a_small_model_of_the_hub_refuses_to_write_the_old_sizes(change: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model: Any = Mixed(hidden=8).eval()
    plan = plan_speedup(model, X, _masks(torch.arange(8) > 3))
    small = change(materialize(plan))
    with pytest.raises(SavedModelError, match=r"the planned Mixed, .* Write it by speedup\.save"):
        small.save_pretrained(tmp_path / "folder")
    assert not (tmp_path / "folder").exists()
    save(small, plan, tmp_path / "small.safetensors")
    again: Any = load(tmp_path / "small.safetensors", Mixed)
    torch.testing.assert_close(again(X), apply_masks(model, _masks(torch.arange(8) > 3))(X))
    with pytest.raises(SavedModelError, match=r"speedup\.save"):
        again.save_pretrained(tmp_path / "folder")


def test_models_that_are_not_smaller_save_themselves_as_before(tmp_path: Path) -> None:
    model: Any = Mixed(hidden=8).eval()
    small: Any = materialize(plan_speedup(model, X, _masks(torch.ones(8, dtype=torch.bool))))
    small.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").is_file()
    model.save_pretrained(tmp_path / "again")


def test_a_method_of_that_name_that_is_the_users_stays(tmp_path: Path) -> None:
    small: Any = materialize(plan_speedup(Own().eval(), X, _masks(torch.arange(8) > 3)))
    small.save_pretrained(tmp_path)
    assert torch.load(tmp_path / "own.pt", weights_only=True)["enter.weight"].shape == (4, 6)
