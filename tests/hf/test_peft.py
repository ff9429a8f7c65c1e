"""Adapters that peft made for the large model are loaded by peft into the small one."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from speedup import apply_masks, materialize
from tests.support.attention_models import missing
from tests.support.small_transformers import CASES, IDS, uneven_plan

pytestmark = pytest.mark.skipif(
    bool(missing(("transformers", "peft"))), reason="transformers or peft is not installed"
)

# What the adapters change, by case: layers, tables, and a module that is saved whole.
TARGETS: dict[str, dict[str, Any]] = {
    "llama": {
        "target_modules": ["q_proj", "v_proj", "o_proj", "gate_proj", "down_proj", "embed_tokens"],
        "modules_to_save": ["lm_head"],
    },
    "gpt2": {"target_modules": ["c_attn", "c_fc", "c_proj"], "fan_in_fan_out": True},
}


def peft() -> Any:
    return pytest.importorskip("peft")


def adapted(case: str) -> Any:
    """The large model with an adapter that is not zero; the model itself stays as it is."""
    config = peft().LoraConfig(r=3, lora_alpha=6, task_type="CAUSAL_LM", **TARGETS[case])
    model = peft().get_peft_model(deepcopy(CASES[case]().model), config)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name or "modules_to_save" in name:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model.eval()


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(input_ids=IDS, use_cache=False).logits
    return found


def masked_logits(case: str, with_adapter: Any) -> Tensor:
    """Of the model whose weights are the mask times the sum of weight and adapter."""
    merged = deepcopy(with_adapter).merge_and_unload()
    return logits(apply_masks(merged, CASES[case]().masks).eval())


@pytest.mark.parametrize("case", TARGETS)
def test_peft_loads_the_cut_adapter_into_the_small_model(case: str, tmp_path: Path) -> None:
    plan, large = uneven_plan(case), adapted(case)
    large.save_pretrained(tmp_path / "large")
    plan.apply_adapter(tmp_path / "large", tmp_path / "small")
    small = peft().PeftModel.from_pretrained(materialize(plan, verify="none"), tmp_path / "small").eval()
    wanted = masked_logits(case, large)
    assert (logits(small) - wanted).abs().max() < 1e-5 * wanted.abs().max()
    without = logits(apply_masks(CASES[case]().model, CASES[case]().masks).eval())
    assert (without - wanted).abs().max() > 0.1 * wanted.abs().max()
    unloaded = small.merge_and_unload()
    assert (logits(unloaded) - wanted).abs().max() < 1e-5 * wanted.abs().max()


@pytest.mark.parametrize("case", TARGETS)
def test_peft_refuses_the_adapter_as_it_was(case: str, tmp_path: Path) -> None:
    adapted(case).save_pretrained(tmp_path / "large")
    with pytest.raises(RuntimeError, match="size mismatch"):
        peft().PeftModel.from_pretrained(materialize(uneven_plan(case), verify="none"), tmp_path / "large")


@pytest.mark.parametrize("case", TARGETS)
def test_names_of_the_adapter_in_a_live_model_are_known(case: str, tmp_path: Path) -> None:
    """A state dict of peft's, of the adapter alone, as is passed between processes."""
    large = adapted(case)
    state = peft().get_peft_model_state_dict(large)
    is_transposed = bool(TARGETS[case].get("fan_in_fan_out"))
    cut = uneven_plan(case).apply_adapter(state, fan_in_fan_out=is_transposed)
    config = deepcopy(large.peft_config["default"])
    small = peft().get_peft_model(materialize(uneven_plan(case), verify="none"), config).eval()
    missed = peft().set_peft_model_state_dict(small, cut)
    assert not missed.unexpected_keys
    wanted = masked_logits(case, large)
    assert (logits(small) - wanted).abs().max() < 1e-5 * wanted.abs().max()
