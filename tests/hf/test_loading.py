"""Small models whose layers differ in width are loaded, used and saved by transformers."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from speedup import (
    ArchitectureError,
    CheckpointError,
    FileWriteError,
    InputError,
    ModelError,
    PlanFormatError,
    SavedModelError,
    apply_masks,
    compact_checkpoint,
    hf,
    load,
    materialize,
    plan_speedup,
    save,
)
from tests.support.attention_models import missing, transformers
from tests.support.folders import content, tensors_in
from tests.support.small_transformers import CASES, IDS, gpt2, llama, uneven_plan, uniform_plan

pytestmark = pytest.mark.skipif(bool(missing(("transformers",))), reason="transformers is not installed")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("folders")
    for case, make in CASES.items():
        compact_checkpoint(uneven_plan(case), make().save(root / f"large {case}"), root / case)
    return root


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(input_ids=IDS).logits
    return found


def generated(model: Any) -> Tensor:
    found: Tensor = model.generate(IDS[:, :4], max_new_tokens=6, do_sample=False)
    return found


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("options", [{}, {"device_map": "cpu"}, {"attn_implementation": "eager"}])
def test_it_computes_what_the_masked_model_does(case: str, options: dict[str, Any], folders: Path) -> None:
    if "device_map" in options:
        pytest.importorskip("accelerate")
    pruned = CASES[case]()
    small = hf.from_pretrained(folders / case, **options)
    assert isinstance(small, type(pruned.model)) and not small.training
    assert not any(tensor.is_meta for tensor in (*small.parameters(), *small.buffers()))
    masked = apply_masks(pruned.model, pruned.masks).eval()
    wanted = logits(masked)
    assert (logits(small) - wanted).abs().max() < 1e-5 * wanted.abs().max()
    assert torch.equal(generated(small), generated(masked))


def test_its_tensors_are_those_that_materialize_makes(folders: Path) -> None:
    for case in CASES:
        small, wanted = hf.from_pretrained(folders / case), materialize(uneven_plan(case), verify="none")
        state = small.state_dict()
        assert list(state) == list(wanted.state_dict())
        assert all(torch.equal(state[name], tensor) for name, tensor in wanted.state_dict().items())
        assert str(small) == str(wanted)


def test_types_are_options_of_transformers(folders: Path) -> None:
    small = hf.from_pretrained(folders / "llama", dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in small.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("options", [{}, {"ignore_mismatched_sizes": True}])
def test_nothing_else_takes_it_for_what_it_is_not(case: str, options: dict[str, Any], folders: Path) -> None:
    for kind in (type(CASES[case]().model), transformers().AutoModelForCausalLM):
        with pytest.raises(Exception, match=r"load with speedup\.hf\.from_pretrained"):
            kind.from_pretrained(folders / case, **options)


@pytest.mark.parametrize("case", CASES)
def test_it_is_saved_as_what_it_is(case: str, folders: Path, tmp_path: Path) -> None:
    small = hf.from_pretrained(folders / case)
    with torch.no_grad():
        for parameter in small.parameters():
            parameter.mul_(1.01)
    small.save_pretrained(tmp_path / "first", max_shard_size="20KB")
    assert len([*(tmp_path / "first").glob("*.safetensors")]) > 1
    again = hf.from_pretrained(tmp_path / "first")
    assert torch.equal(logits(again), logits(small))
    # Over what was there, in other pieces.
    again.save_pretrained(tmp_path / "first")
    assert [file.name for file in (tmp_path / "first").glob("model*")] == ["model.safetensors"]
    assert torch.equal(logits(hf.from_pretrained(tmp_path / "first")), logits(small))
    with pytest.raises(Exception, match=r"load with speedup\.hf\.from_pretrained"):
        type(CASES[case]().model).from_pretrained(tmp_path / "first", ignore_mismatched_sizes=True)
    assert os.listdir(tmp_path) == ["first"]


def test_what_materialize_makes_is_saved_with_its_plan(tmp_path: Path) -> None:
    plan = uneven_plan("gpt2")
    small = materialize(plan, verify="none")
    hf.save_pretrained(small, plan, tmp_path / "uneven")
    assert torch.equal(logits(hf.from_pretrained(tmp_path / "uneven")), logits(small))
    plan = uniform_plan("gpt2")
    small = materialize(plan, verify="none")
    hf.save_pretrained(small, plan, tmp_path / "uniform")
    stock = transformers().GPT2LMHeadModel.from_pretrained(tmp_path / "uniform")
    assert torch.equal(logits(stock), logits(small)) and stock.config.n_inner == 108
    with pytest.raises(SavedModelError, match="is not what this plan makes"):
        hf.save_pretrained(small, uneven_plan("gpt2"), tmp_path / "other")
    with pytest.raises(ModelError, match="is no model of transformers"):
        hf.save_pretrained(nn.Linear(2, 3), plan, tmp_path / "other")
    with pytest.raises(InputError, match="push_to_hub"):
        hf.save_pretrained(small, plan, tmp_path / "other", push_to_hub=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(FileWriteError, match="cannot be written"):
        hf.save_pretrained(small, plan, tmp_path / "file" / "folder")
    assert sorted(os.listdir(tmp_path)) == ["file", "uneven", "uniform"]


def pickled(model: Any, folder: Path) -> Any:
    torch.save(model, folder / "whole.pt")
    return torch.load(folder / "whole.pt", weights_only=False)


def read_again(model: Any, folder: Path) -> Any:
    save(model, uneven_plan("gpt2"), folder / "small.safetensors")
    return load(folder / "small.safetensors", lambda: type(gpt2().model)(gpt2().model.config))


def cut_from_a_checkpoint(model: Any, folder: Path) -> Any:
    large = gpt2().save(folder / "large")
    return materialize(uneven_plan("gpt2"), gpt2().model, checkpoint=large, verify="none")


@pytest.mark.parametrize(
    "way",
    [lambda model, _: model, lambda model, _: deepcopy(model), pickled, read_again, cut_from_a_checkpoint],
)
def test_small_models_save_themselves_as_what_they_are(
    way: Callable[[Any, Path], Any], tmp_path: Path
) -> None:
    made = materialize(uneven_plan("gpt2"), verify="none")
    small = way(made, tmp_path)
    with torch.no_grad():
        for parameter in small.parameters():
            parameter.mul_(1.01)
    small.save_pretrained(tmp_path / "small", is_main_process=False)
    assert not (tmp_path / "small").exists()
    small.save_pretrained(tmp_path / "small", state_dict=small.state_dict(), max_shard_size="20KB")
    assert len([*(tmp_path / "small").glob("*.safetensors")]) > 1
    assert torch.equal(logits(hf.from_pretrained(tmp_path / "small")), logits(small))
    assert small is made or not torch.equal(logits(small), logits(made))


def test_a_model_that_returns_its_cache_is_of_the_stock_class_too(tmp_path: Path) -> None:
    pruned = llama()
    masks = {name: torch.arange(48) < 32 for name in pruned.masks if "gate_proj" in name or "up_proj" in name}
    masks = {name: mask[:, None].expand(48, 32) for name, mask in masks.items()}
    small = materialize(plan_speedup(pruned.model, {"input_ids": IDS}, masks))
    small.save_pretrained(tmp_path)  # type: ignore[operator]
    stock = type(pruned.model).from_pretrained(tmp_path)
    assert type(stock) is type(pruned.model) and stock.config.intermediate_size == 32
    assert torch.equal(logits(stock), logits(small))


def test_models_that_no_plan_changed_save_themselves_as_before(tmp_path: Path) -> None:
    same = materialize(plan_speedup(gpt2().model, gpt2().call), verify="none")
    assert "save_pretrained" not in vars(same)
    same.save_pretrained(tmp_path)  # type: ignore[operator]
    assert torch.equal(logits(type(gpt2().model).from_pretrained(tmp_path)), logits(same))


def test_small_models_of_several_plans_are_not_saved_as_those_of_one(tmp_path: Path) -> None:
    first = materialize(uneven_plan("gpt2"), verify="none")
    name = "transformer.h.0.mlp.c_fc.weight"
    width = first.get_parameter(name).shape[1]
    masks = {
        name: (torch.arange(width) < 50).expand(32, width),
        name.replace("weight", "bias"): torch.arange(width) < 50,
    }
    small = materialize(plan_speedup(first, gpt2().call, masks))
    with pytest.raises(SavedModelError, match=r"write the model with speedup\.save"):
        small.save_pretrained(tmp_path)  # type: ignore[operator]
    assert os.listdir(tmp_path) == []


def damaged_config(folder: Path, **entries: Any) -> None:
    said = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**said, **entries}))


@pytest.mark.parametrize(
    ("damage", "error", "words"),
    [
        (lambda f: os.remove(f / "config.json"), CheckpointError, r"config\.json' cannot be read"),
        (lambda f: (f / "config.json").write_text("[]"), CheckpointError, "is no config"),
        (lambda f: damaged_config(f, architectures=["Net"]), CheckpointError, "names 'Net', which is no"),
        (lambda f: damaged_config(f, speedup={}), CheckpointError, "does not say where the plan is"),
        (
            lambda f: damaged_config(f, speedup={"plan": "../plan.json", "config": {}}),
            CheckpointError,
            "does not say where the plan is",
        ),
        (lambda f: os.remove(f / "speedup_plan.json"), CheckpointError, "belongs to the weights"),
        (lambda f: (f / "speedup_plan.json").write_text("{"), PlanFormatError, "."),
        (
            lambda f: (f / "speedup_plan.json").write_text(uneven_plan("llama").to_json()),
            ArchitectureError,
            "not of the planned architecture",
        ),
    ],
)
def test_a_folder_that_is_not_right_is_refused(
    damage: Callable[[Path], Any], error: type[Exception], words: str, folders: Path, tmp_path: Path
) -> None:
    for name, body in content(folders / "gpt2").items():
        (tmp_path / name).write_bytes(body)
    damage(tmp_path)
    with pytest.raises(error, match=words):
        hf.from_pretrained(tmp_path)


def test_the_config_is_the_folders_own(folders: Path) -> None:
    with pytest.raises(InputError, match="config= is the folder's own"):
        hf.from_pretrained(folders / "gpt2", config=gpt2().model.config)


def test_the_folder_has_what_is_no_weight(folders: Path) -> None:
    for case in CASES:
        assert (folders / case / "tokenizer.json").is_file() and tensors_in(folders / case)
