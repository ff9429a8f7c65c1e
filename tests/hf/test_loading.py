"""Small models whose layers differ in width are loaded, used and saved by transformers."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
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
    materialize,
)
from tests.support.attention_models import missing, transformers
from tests.support.folders import content, tensors_in
from tests.support.small_transformers import CASES, IDS, gpt2, uneven_plan, uniform_plan

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
