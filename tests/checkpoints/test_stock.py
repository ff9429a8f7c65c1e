"""A small model with equal layers is one of transformers' own class, and its folder says so."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from speedup import apply_masks, compact_checkpoint, hf, materialize, plan_uniform
from speedup.checkpoints.stock import OwnForm, StockForm, find_form, solutions
from tests.support.attention_models import missing
from tests.support.folders import tensors_in, write_source
from tests.support.small_transformers import CASES, IDS, uneven_plan, uniform_plan

pytestmark = pytest.mark.skipif(bool(missing(("transformers",))), reason="transformers is not installed")


def config_of(model: Any) -> dict[str, Any]:
    return {**json.loads(model.config.to_json_string()), "architectures": [type(model).__name__]}


def logits(model: Any, ids: Tensor = IDS) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(input_ids=ids).logits
    return found


SIZES: dict[str, dict[str, Any]] = {
    "llama": {
        "hidden_size": 24,
        "intermediate_size": 40,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "rms_norm_eps": 1e-6 * 32 / 24,
        "head_dim": 8,
    },
    "gpt2": {"n_inner": 108},
}


@pytest.mark.parametrize("case", CASES)
def test_the_stock_class_loads_it_and_computes_what_the_masked_model_does(case: str, tmp_path: Path) -> None:
    pruned, plan = CASES[case](), uniform_plan(case)
    source = pruned.save(tmp_path / "large")
    form = compact_checkpoint(plan, source, tmp_path / "small")
    said = json.loads((tmp_path / "small" / "config.json").read_text())
    assert isinstance(form, StockForm) and form.architecture == type(pruned.model).__name__
    assert said == {**json.loads((source / "config.json").read_text()), **SIZES[case]}
    masked = apply_masks(pruned.model, pruned.masks).eval()
    for load in (type(pruned.model).from_pretrained, hf.from_pretrained):
        small = load(tmp_path / "small")
        assert type(small) is type(pruned.model)
        for ids in (IDS, IDS[:1, :3], IDS.repeat(2, 3)):
            wanted = logits(masked, ids)
            assert (logits(small, ids) - wanted).abs().max() < 1e-5 * wanted.abs().max()
        assert torch.equal(generated(small), generated(masked))


def test_a_model_loaded_in_half_precision_is_of_the_stock_class_too() -> None:
    """Tables of angles, which its class computes in float32, are so in both."""
    pruned = CASES["llama"]()
    model = type(pruned.model)._from_config(pruned.model.config, dtype=torch.bfloat16).eval()
    form = find_form(plan_uniform(model, pruned.call, pruned.masks, multiple=4), config_of(model))
    assert isinstance(form, StockForm) and {**form.sizes, "head_dim": 8} == SIZES["llama"]
    # Another model is not taken for it: all of it, angles too, in the one type.
    form = find_form(plan_uniform(model.bfloat16(), pruned.call, pruned.masks), config_of(model))
    assert isinstance(form, OwnForm) and "rotary_emb" in form.reason


def generated(model: Any) -> Tensor:
    found: Tensor = model.generate(IDS[:, :4], max_new_tokens=6, do_sample=False)
    return found


def test_all_but_scaled_norms_is_what_materialize_makes(tmp_path: Path) -> None:
    plan = uniform_plan("llama")
    source = CASES["llama"]().save(tmp_path / "large")
    form = compact_checkpoint(plan, source, tmp_path / "small")
    wanted, found = materialize(plan, verify="none").state_dict(), tensors_in(tmp_path / "small")
    assert isinstance(form, StockForm) and set(form.factors) == {name for name in wanted if "norm" in name}
    for name, tensor in wanted.items():
        factor = form.factors.get(name, 1.0)
        assert torch.equal(found[name], (tensor.double() * factor).to(tensor.dtype)), name


def test_no_weight_is_scaled_where_that_is_not_wanted(tmp_path: Path) -> None:
    pruned, plan = CASES["llama"](), uniform_plan("llama")
    form = compact_checkpoint(plan, pruned.save(tmp_path / "large"), tmp_path / "small", as_stock=False)
    assert isinstance(form, OwnForm) and {*form.sizes} == {*SIZES["llama"]} - {"head_dim"}
    wanted, found = materialize(plan, verify="none").state_dict(), tensors_in(tmp_path / "small")
    assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())
    small = hf.from_pretrained(tmp_path / "small")
    assert torch.equal(logits(small), logits(materialize(plan, verify="none")))


@pytest.mark.parametrize(("case", "size"), [("llama", "intermediate_size"), ("gpt2", "n_inner")])
def test_layers_of_other_widths_have_no_sizes(case: str, size: str) -> None:
    form = find_form(uneven_plan(case), config_of(CASES[case]().model))
    assert isinstance(form, OwnForm) and form.sizes == (size,)
    assert form.reason.startswith(f"{size} differs between layers, as between ")


def test_what_is_no_class_of_transformers_has_no_sizes() -> None:
    plan = uneven_plan("gpt2")
    assert find_form(plan, {"architectures": ["Net"]}) == OwnForm("Net is no class of transformers")
    assert find_form(plan, {}) == OwnForm("what config.json names is no class of transformers")
    refused = find_form(plan, {**config_of(CASES["gpt2"]().model), "n_head": 5})
    assert isinstance(refused, OwnForm) and "its class refuses config.json: " in refused.reason
    other = find_form(plan, config_of(CASES["llama"]().model))
    assert isinstance(other, OwnForm) and "not of the planned architecture" in other.reason


def test_a_folder_of_other_models_keeps_its_config(tmp_path: Path) -> None:
    from tests.support.cut_cases import planned_once

    model, plan = planned_once("sliced")
    folder = write_source(tmp_path / "large", model.state_dict())
    form = compact_checkpoint(plan, folder, tmp_path / "small")
    assert form == OwnForm("config.json names no class of transformers")
    assert (tmp_path / "small/config.json").read_bytes() == (folder / "config.json").read_bytes()


def test_sizes_that_stand_in_most_places_stay_first() -> None:
    half, one = Fraction(1, 2), Fraction(1)
    factors = {
        ("q", 0): (half, frozenset({"heads", "head_dim"})),
        ("k", 0): (half, frozenset({"groups", "head_dim"})),
        ("q", 1): (one, frozenset({"hidden"})),
    }
    found = [*solutions({"heads": 4, "groups": 2, "head_dim": 8, "hidden": 32}, factors)]
    assert found[0] == {"heads": half, "groups": half, "head_dim": one, "hidden": one}
    assert {"heads": one, "groups": one, "head_dim": half, "hidden": one} in found
    assert [*solutions({"heads": 3, "hidden": 32}, {("q", 0): (half, frozenset({"heads"}))})] == []
