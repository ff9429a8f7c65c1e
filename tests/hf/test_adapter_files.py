"""Folders of adapters as peft 0.21.2 wrote them, for two tiny models, are cut for the small ones."""

from __future__ import annotations

import json
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from speedup import apply_masks, materialize
from tests.support.attention_models import missing
from tests.support.small_transformers import CASES, IDS, uneven_plan

pytestmark = pytest.mark.skipif(bool(missing(("transformers",))), reason="transformers is not installed")

_FOLDERS = Path(__file__).parents[1] / "data" / "adapters"
_PREFIX = "base_model.model."
_SAVED = "lm_head.weight"


def merged(model: nn.Module, adapter: Mapping[str, Tensor], config: Mapping[str, Any]) -> nn.Module:
    """A copy of `model` with the adapter in its weights, as peft adds it to them."""
    result = deepcopy(model)
    scale = config["lora_alpha"] / config["r"]
    with torch.no_grad():
        for key, first in adapter.items():
            name = key.removeprefix(_PREFIX)
            path, _, kind = name.partition(".lora_")
            if kind in ("A.weight", "embedding_A"):
                delta = adapter[key.replace("_A", "_B")] @ first
                is_turned = kind == "embedding_A" or config["fan_in_fan_out"]
                result.get_parameter(f"{path}.weight").add_(scale * (delta.t() if is_turned else delta))
            elif name == _SAVED:
                result.get_parameter(name).copy_(first)
    return result


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(input_ids=IDS, use_cache=False).logits
    return found


@pytest.mark.parametrize("case", CASES)
def test_a_folder_of_peft_becomes_one_for_the_small_model(case: str, tmp_path: Path) -> None:
    source, plan = _FOLDERS / case, uneven_plan(case)
    plan.apply_adapter(source, tmp_path / "small")
    files = "adapter_config.json", "adapter_model.safetensors"
    assert sorted(file.name for file in (tmp_path / "small").iterdir()) == sorted(files)
    assert (tmp_path / "small" / files[0]).read_bytes() == (source / files[0]).read_bytes()
    config = json.loads((source / files[0]).read_text())
    large, small = load_file(source / files[1]), load_file(tmp_path / "small" / files[1])
    assert list(small) == list(large)
    assert sum(t.numel() for t in small.values()) < sum(t.numel() for t in large.values())
    masked = apply_masks(merged(CASES[case]().model, large, config), CASES[case]().masks)
    wanted = logits(masked.eval())
    found = logits(merged(materialize(plan, verify="none"), small, config))
    assert (found - wanted).abs().max() < 1e-5 * wanted.abs().max()
    assert (logits(apply_masks(CASES[case]().model, CASES[case]().masks)) - wanted).abs().max() > 0.1
