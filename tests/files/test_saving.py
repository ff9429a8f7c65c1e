"""Small models in files: the same to the last bit when they come back, and errors that say what is wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from speedup import (
    ArchitectureError,
    FileWriteError,
    ForeignSourceError,
    ModelError,
    Plan,
    PlanFormatError,
    SavedModelError,
    load,
    load_plan,
    materialize,
    plan_speedup,
    save,
    verify,
)
from tests.support.repository import ROOT
from tests.support.saving_models import CASES, Residual, Rewritten, masks_of


def planned(name: str) -> tuple[Plan, Any]:
    case = CASES[name]
    model = case.model()
    plan = plan_speedup(model, case.example(), masks_of(name, model))
    return plan, materialize(plan)


def outputs(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return model.eval()(x)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Plan, nn.Module]:
    """A file, its plan, and its small model."""
    plan, small = planned("residual")
    path = tmp_path_factory.mktemp("saved") / "small.safetensors"
    save(small, plan, path)
    return path, plan, small


def traits(model: nn.Module) -> list[tuple[object, ...]]:
    """All that a file has to bring back."""
    state = (*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False))
    tensors = [(n, t.dtype, tuple(t.shape), t.stride(), t.requires_grad, type(t)) for n, t in state]
    return [*tensors, *((n, type(m).__qualname__, m.training, str(m)) for n, m in model.named_modules())]


@pytest.mark.parametrize("name", CASES)
def test_what_is_loaded_is_what_was_saved(name: str, tmp_path: Path) -> None:
    plan, small = planned(name)
    assert plan.parameters_after < plan.parameters_before
    path = tmp_path / "small.safetensors"
    save(small, plan, path)
    made: list[torch.device] = []

    def make() -> nn.Module:
        model = CASES[name].model(seed=1)
        made.append(next(model.parameters()).device)
        return model

    loaded = load(path, make)
    assert traits(loaded) == traits(small)
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), small.parameters(), strict=True))
    x = CASES[name].example(seed=3)
    assert torch.equal(outputs(loaded, x), outputs(small, x))
    assert load_plan(path) == plan
    # Only where numbers are looked at, or hide in functions, is the full model ever made.
    last = torch.device("cpu" if name in ("computed", "closed over") else "meta")
    assert made[-1] == last


def test_loaded_models_are_the_same_in_a_fresh_process(tmp_path: Path) -> None:
    names = [name for name in CASES if name != "channels last"]
    for name in names:
        plan, small = planned(name)
        save(small, plan, tmp_path / f"{name}.safetensors")
        save_file({"out": outputs(small, CASES[name].example(seed=3)).contiguous()}, tmp_path / f"{name}.out")
    program = "\n".join(
        (
            "import sys, torch",
            "from safetensors.torch import load_file",
            "from speedup import load",
            "from tests.support.saving_models import CASES",
            "torch.set_num_threads(1)",
            "folder = sys.argv[1]",
            "for name in sys.argv[2:]:",
            "    small = load(f'{folder}/{name}.safetensors', CASES[name].make).eval()",
            "    want = load_file(f'{folder}/{name}.out')['out']",
            "    with torch.no_grad():",
            "        assert torch.equal(small(CASES[name].example(seed=3)), want), name",
        )
    )
    command = [sys.executable, "-c", program, str(tmp_path), *names]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr


def test_what_was_trained_and_cast_since_is_kept(tmp_path: Path) -> None:
    plan, small = planned("residual")
    small.half()
    with torch.no_grad():
        for parameter in small.parameters():
            parameter.mul_(2)
    small.fc.requires_grad_(False)
    save(small, plan, tmp_path / "a")
    loaded: Any = load(tmp_path / "a", Residual)
    assert traits(loaded) == traits(small)
    assert loaded.fc.weight.dtype is torch.float16
    assert torch.equal(loaded.conv1.weight, small.conv1.weight)
    loaded.conv1.weight.data.zero_()
    again: Any = load(tmp_path / "a", Residual)
    assert not torch.equal(again.conv1.weight, loaded.conv1.weight)


def test_loading_shares_no_memory_and_leaves_the_random_state(saved: tuple[Path, Plan, nn.Module]) -> None:
    before = torch.get_rng_state()
    loaded = load(saved[0], Residual)
    assert torch.equal(torch.get_rng_state(), before)
    for tensor in loaded.state_dict().values():
        assert tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()


def test_a_small_model_is_made_smaller_again_and_saved(tmp_path: Path) -> None:
    plan, small = planned("rewritten")
    save(small, plan, tmp_path / "first")
    mask = torch.ones(7, 1)
    mask[2] = 0
    second = plan_speedup(small, torch.randn(2, 6), {"first.weight": mask, "first.bias": mask.reshape(-1)})
    smaller: Any = materialize(second)
    assert smaller.first.out_features == 6
    save(smaller, second, tmp_path / "second")
    loaded = load(tmp_path / "second", lambda: load(tmp_path / "first", Rewritten))
    x = torch.randn(5, 6)
    assert torch.equal(outputs(loaded, x), outputs(smaller, x))
    with pytest.raises(ArchitectureError, match="has shape"):
        load(tmp_path / "second", Rewritten)


def two_rounds() -> tuple[list[Plan], Any]:
    plan, small = planned("rewritten")
    mask = torch.ones(7, 1)
    mask[2] = 0
    second = plan_speedup(small, torch.randn(2, 6), {"first.weight": mask, "first.bias": mask.reshape(-1)})
    return [plan, second], materialize(second)


def test_a_file_may_hold_several_rounds(tmp_path: Path) -> None:
    plans, smaller = two_rounds()
    save(smaller, plans, tmp_path / "both")
    made: list[torch.device] = []

    def make() -> nn.Module:
        model = Rewritten()
        made.append(next(model.parameters()).device)
        return model

    loaded = load(tmp_path / "both", make)
    x = torch.randn(5, 6)
    assert torch.equal(outputs(loaded, x), outputs(smaller, x))
    assert made == [torch.device("meta")]
    assert not any(tensor.is_meta for tensor in loaded.state_dict().values())
    assert traits(loaded) == traits(smaller)
    assert load_plan(tmp_path / "both") == plans[1]
    third = plan_speedup(loaded, x)
    save(materialize(third), [*plans, third], tmp_path / "three")
    assert torch.equal(outputs(load(tmp_path / "three", Rewritten), x), outputs(smaller, x))


def test_rounds_are_told_in_their_order(tmp_path: Path) -> None:
    plans, smaller = two_rounds()
    with pytest.raises(SavedModelError, match="is not what this plan makes"):
        save(smaller, plans[::-1], tmp_path / "both")
    save(smaller, [plans[1], plans[1]], tmp_path / "both")
    with pytest.raises(ArchitectureError, match="has shape"):
        load(tmp_path / "both", Rewritten)


@pytest.mark.parametrize("text", ["[", "7", "[7]", '["{}"]'])
def test_damaged_plans_of_earlier_rounds_are_refused(text: str, tmp_path: Path) -> None:
    plans, smaller = two_rounds()
    save(smaller, plans, tmp_path / "both")
    with safe_open(tmp_path / "both", framework="pt") as file:
        texts = file.metadata()
    save_file(load_file(tmp_path / "both"), tmp_path / "bad", texts | {"speedup.earlier_plans": text})
    with pytest.raises(PlanFormatError, match="of the plans before its own"):
        load(tmp_path / "bad", Rewritten)


def test_the_plan_in_a_file_verifies_the_loaded_model(saved: tuple[Path, Plan, nn.Module]) -> None:
    path, _, _ = saved
    model = CASES["residual"].model()
    error = verify(load_plan(path), load(path, Residual), model=model).error
    assert error is not None and error < 1e-4


def test_another_architecture_is_refused(saved: tuple[Path, Plan, nn.Module]) -> None:
    with pytest.raises(
        ArchitectureError, match=r"tensor 'first.weight' was not planned|'conv1.weight' is missing"
    ):
        load(saved[0], Rewritten)
    with pytest.raises(ModelError, match="make_model returned str"):
        load(saved[0], lambda: "model")  # type: ignore[arg-type,return-value]


def test_an_error_of_the_constructor_reaches_the_caller(saved: tuple[Path, Plan, nn.Module]) -> None:
    def fails() -> nn.Module:
        raise LookupError("no such configuration")

    with pytest.raises(LookupError, match="no such configuration"):
        load(saved[0], fails)


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def of_others(path: Path) -> None:
    save_file({"weight": torch.ones(3)}, path)


def changed(path: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    """The file with other tensors, its texts as they were."""
    tensors = load_file(path)
    with safe_open(path, framework="pt") as file:
        texts = file.metadata()
    change(tensors)
    save_file(tensors, path, texts)


def retold(path: Path, name: str, old: str, new: str) -> None:
    """The file with a text changed."""
    tensors = load_file(path)
    with safe_open(path, framework="pt") as file:
        texts = file.metadata()
    assert old in texts[name]
    save_file(tensors, path, {**texts, name: texts[name].replace(old, new, 1)})


FAULTS: dict[str, tuple[Callable[[Path], object], type[Exception], str]] = {
    "missing": (Path.unlink, SavedModelError, "there is no file"),
    "truncated": (truncated, SavedModelError, "truncated, damaged or no safetensors file"),
    "empty": (emptied, SavedModelError, "truncated, damaged or no safetensors file"),
    "of others": (of_others, SavedModelError, "no plan: it was not written by speedup.save"),
    "without a tensor": (
        lambda p: changed(p, lambda t: t.pop("fc.bias")),
        SavedModelError,
        "tensor 'fc.bias' is missing",
    ),
    "with another tensor": (
        lambda p: changed(p, lambda t: t.update(more=torch.ones(2))),
        SavedModelError,
        "tensor 'more' was not planned",
    ),
    "of another shape": (
        lambda p: changed(p, lambda t: t.update({"fc.bias": torch.ones(5)})),
        SavedModelError,
        r"tensor 'fc.bias' is of shape \(5,\), planned is \(4,\)",
    ),
    "of another version": (
        lambda p: retold(p, "speedup.plan", '"version": 6', '"version": 7'),
        PlanFormatError,
        "version 7 of the format",
    ),
    "with half a plan": (
        lambda p: retold(p, "speedup.plan", '"edits"', '"edits'),
        PlanFormatError,
        "no whole JSON document",
    ),
    "with other flags": (
        lambda p: retold(
            p, "speedup.files.traits", '"layouts": []', '"layouts": [{"name": "fc.bias", "strides": [7]}]'
        ),
        SavedModelError,
        "cannot have strides",
    ),
    "without flags": (
        lambda p: retold(p, "speedup.files.traits", '"training"', '"trainig"'),
        SavedModelError,
        "its flags cannot be read",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_bad_file_is_refused(fault: str, saved: tuple[Path, Plan, nn.Module], tmp_path: Path) -> None:
    damage, error, words = FAULTS[fault]
    path = tmp_path / "bad.safetensors"
    path.write_bytes(saved[0].read_bytes())
    damage(path)
    with pytest.raises(error, match=words) as caught:
        load(path, Residual)
    assert str(path) in str(caught.value)


def test_source_in_a_file_is_not_run(tmp_path: Path) -> None:
    plan, small = planned("rewritten")
    path = tmp_path / "small"
    save(small, plan, path)
    spoilt = "torch.relu(__import__('os').system('touch ran') and self.first(x))"
    retold(path, "speedup.plan", "torch.relu(self.first(x))", spoilt)
    with pytest.raises(ForeignSourceError, match="'forward' of Rewritten"):
        load(path, Rewritten)


def test_only_the_plans_own_model_is_saved(saved: tuple[Path, Plan, nn.Module], tmp_path: Path) -> None:
    _, plan, small = saved
    with pytest.raises(SavedModelError, match=r"tensor 'conv1.weight' is of shape"):
        save(CASES["residual"].model(), plan, tmp_path / "x")
    with pytest.raises(SavedModelError, match="is missing"):
        save(nn.Sequential(small), plan, tmp_path / "x")
    with pytest.raises(SavedModelError, match="has no data"):
        save(materialize(plan, verify="none").to("meta"), plan, tmp_path / "x")
    assert not list(tmp_path.iterdir())


def test_a_failure_leaves_the_old_file(
    saved: tuple[Path, Plan, nn.Module], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, plan, small = saved
    path = tmp_path / "small.safetensors"
    path.write_bytes(b"what was there")

    def broken(*args: object) -> None:
        raise OSError(28, "disk full")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", broken)
        with pytest.raises(FileWriteError, match="cannot be written: disk full"):
            save(small, plan, path)
    assert path.read_bytes() == b"what was there"
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(FileWriteError, match="cannot be written"):
        save(small, plan, tmp_path / "no such folder" / "small")
