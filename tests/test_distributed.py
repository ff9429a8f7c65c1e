"""Checkpoints of large models are loaded by many processes into sharded small models."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint
from safetensors.torch import save_file
from torch import nn

from speedup import Plan, materialize
from speedup.distributed import CompactingLoadPlanner
from tests.support.cut_cases import CASES, each_case, planned_once
from tests.support.repository import ROOT

# Its functions are not exported in a way that type checkers see.
DCP: Any = torch.distributed.checkpoint


@pytest.mark.parametrize("processes", [2, 4])
def test_every_process_gets_its_part_of_what_is_kept(processes: int, tmp_path: Path) -> None:
    ran = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc-per-node", str(processes), "-m", "tests.support.sharded_loads", str(tmp_path)),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    found = [line.removeprefix("holds: ") for line in ran.stdout.splitlines() if line.startswith("holds: ")]
    cases = [f"{case}{dim}" for case in CASES for dim in (0, 1)]
    wanted = ["training 0", "training 1", "refused numbers", "refused missing", "refused shape"]
    assert found == [*cases, *wanted]


def load(state: dict[str, Any], reader: Any, plan: Plan) -> None:
    DCP.load(state, storage_reader=reader, planner=CompactingLoadPlanner(plan), no_dist=True)


def saved(state: dict[str, Any], folder: Path) -> Any:
    DCP.save(state, checkpoint_id=folder, no_dist=True)
    return DCP.FileSystemReader(folder)


@each_case
def test_one_process_gets_all_that_is_kept(case: str, tmp_path: Path) -> None:
    model, plan = planned_once(case)
    wanted = materialize(plan, verify="none").state_dict()
    small = {name: torch.zeros_like(tensor) for name, tensor in wanted.items()}
    load(small, saved(model.state_dict(), tmp_path), plan)
    assert all(torch.equal(small[name], tensor) for name, tensor in wanted.items())


def adam(model: nn.Module) -> dict[str, Any]:
    """The state of an optimizer after a step, by names."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for parameter in model.parameters():
        parameter.grad = torch.rand(parameter.shape, generator=torch.Generator().manual_seed(0))
    kept = [parameter.detach().clone() for parameter in model.parameters()]
    optimizer.step()
    with torch.no_grad():
        for parameter, value in zip(model.parameters(), kept, strict=True):
            parameter.copy_(value)
            parameter.grad = None
    names = dict(enumerate(name for name, _ in model.named_parameters()))
    state = optimizer.state_dict()
    return {
        "state": {names[number]: entries for number, entries in state["state"].items()},
        "param_groups": [{**g, "params": [names[n] for n in g["params"]]} for g in state["param_groups"]],
    }


@pytest.mark.parametrize("case", ["sliced", "folded", "with_new_bias", "merged"])
def test_moments_lose_what_the_parameters_lose(case: str, tmp_path: Path) -> None:
    model, plan = planned_once(case)
    large, small = adam(model), adam(materialize(plan, verify="none"))
    small["param_groups"][0]["lr"] = 0.3
    state = {"optimizer": small}
    load(state, saved({"optimizer": large}, tmp_path), plan)
    wanted = plan.apply_optimizer(large)
    assert state["optimizer"]["param_groups"][0]["params"] == wanted["param_groups"][0]["params"]
    assert state["optimizer"]["param_groups"][0]["lr"] == 0.01
    for name, entries in state["optimizer"]["state"].items():
        for entry, value in entries.items():
            # A new bias has no moments yet.
            expected = wanted["state"].get(name, {}).get(entry, torch.zeros_like(value))
            assert torch.equal(value, expected), (name, entry)


def test_tied_tensors_are_found_by_either_name(tmp_path: Path) -> None:
    model, plan = planned_once("tied")
    state = model.state_dict()
    save_file(
        {name: tensor for name, tensor in state.items() if name != "last.weight"},
        tmp_path / "model.safetensors",
    )
    small = {"last.weight": torch.zeros_like(state["last.weight"])}
    load(small, DCP.HuggingFaceStorageReader(str(tmp_path)), plan)
    assert torch.equal(small["last.weight"], plan.apply(state)["last.weight"])


def refusal(state: dict[str, Any], held: dict[str, Any], plan: Plan, folder: Path) -> str:
    with pytest.raises(BaseException) as raised:
        load(state, saved(held, folder), plan)
    return str(raised.value)


def test_other_checkpoints_are_refused(tmp_path: Path) -> None:
    model, plan = planned_once("folded")
    small, held = plan.apply(model.state_dict()), dict(model.state_dict())
    told = [
        refusal(small, {**held, "2.weight": held["2.weight"] * 2}, plan, tmp_path / "numbers"),
        refusal(small, {**held, "0.weight": torch.ones(9, 5)}, plan, tmp_path / "shape"),
        refusal(small, {n: t for n, t in held.items() if n != "0.bias"}, plan, tmp_path / "missing"),
        refusal({**small, "more": torch.ones(1)}, held, plan, tmp_path / "more"),
    ]
    for text, words in zip(
        told,
        (
            "OtherWeightsError: the plan depends on weights",
            "ArchitectureError: tensor '0.weight' is of shape (9, 5)",
            "CheckpointError: the checkpoint has no tensor '0.bias'",
            "CheckpointError: the checkpoint has no entry 'more'",
        ),
        strict=True,
    ):
        assert words in text


def test_states_that_cannot_follow_are_refused(tmp_path: Path) -> None:
    plan = planned_once("sliced")[1]
    state = {"state": {"0.weight": {"row_var": torch.ones(5)}}}
    held = {"state": {"0.weight": {"row_var": torch.ones(8)}}}
    assert "OptimizerStateError: the optimizer's state is Adafactor's" in refusal(
        state, held, plan, tmp_path / "x"
    )
