"""What the README says of masks of single weights runs as it stands."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from speedup import Choices, apply_masks
from tests.support.repository import example_run_by


def test_measuring_runs_as_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model, x = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 16)).eval(), torch.randn(4, 64)
    masks = {"0.weight": torch.rand(128, 64) > 0.9, "2.weight": torch.rand(16, 128) > 0.8}
    names: dict[str, object] = {"model": model, "x": x, "masks": masks}
    exec(example_run_by(__file__), names)
    small, choices = names["small"], names["choices"]
    assert isinstance(small, nn.Module) and Choices.load(tmp_path / "choices.json") == choices
    torch.testing.assert_close(small(x), apply_masks(model, masks)(x))
