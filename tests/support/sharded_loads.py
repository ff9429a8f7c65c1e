"""Run by torchrun in several processes: checkpoints of large models into sharded small ones.

`torchrun ... -m tests.support.sharded_loads FOLDER`; each process prints a line for each check that holds.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    get_model_state_dict,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from speedup import Plan, materialize, plan_speedup
from speedup.distributed import CompactingLoadPlanner
from tests.support.cut_cases import CASES, planned

# Its functions are not exported in a way that type checkers see.
dcp: Any = torch.distributed.checkpoint
STEPS = 5


def main() -> None:
    """All checks, one after the other."""
    folder = Path(sys.argv[1])
    dist.init_process_group("gloo")
    torch.manual_seed(0)
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for case in CASES:
        model, plan = planned(case)
        for dim in (0, 1):
            check_weights(folder / f"{case}{dim}", model, plan, mesh, dim)
    check_training(folder / "training", mesh)
    check_faults(folder, mesh)
    dist.barrier()
    dist.destroy_process_group()
    # Threads of torch's that are still there when an interpreter ends may take the process down.
    sys.stdout.flush()
    os._exit(0)


def held(*what: object) -> None:
    if dist.get_rank() == 0:
        print("holds:", *what, flush=True)


def on_first(action: Callable[[], object]) -> None:
    """Done by the first process while the others wait."""
    if dist.get_rank() == 0:
        action()
    dist.barrier()


def sharded(tensors: Mapping[str, Tensor], mesh: DeviceMesh, dim: int) -> dict[str, Any]:
    """Tensors of as many numbers, sharded along a dimension where they have it."""
    return {
        name: distribute_tensor(tensor.clone(), mesh, [Shard(min(dim, tensor.ndim - 1))])
        if tensor.ndim
        else tensor.clone()
        for name, tensor in tensors.items()
    }


def require_equal(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    assert list(found) == list(wanted)
    for name, value in wanted.items():
        one = found[name]
        assert torch.equal(one.full_tensor() if isinstance(one, DTensor) else one, value), name


def save_safetensors(tensors: Mapping[str, Tensor], folder: Path) -> None:
    """As Hugging Face does: tied tensors once."""
    folder.mkdir(parents=True)
    seen: set[int] = set()
    once = {k: v for k, v in tensors.items() if not (id(v) in seen or seen.add(id(v)))}  # type: ignore[func-returns-value]
    save_file({name: tensor.contiguous() for name, tensor in once.items()}, folder / "model.safetensors")


def named(model: nn.Module) -> dict[str, Tensor]:
    """The model's state, tied tensors by both names as one object."""
    tensors: dict[int, Tensor] = {}
    return {k: tensors.setdefault(v.data_ptr(), v) for k, v in model.state_dict().items()}


def check_weights(folder: Path, model: nn.Module, plan: Plan, mesh: DeviceMesh, dim: int) -> None:
    """From DCP, saved by all processes, and from safetensors; and the plan applied to sharded tensors."""
    wanted = materialize(plan, verify="none").state_dict()
    large = sharded(model.state_dict(), mesh, 1 - dim)
    dcp.save(large, checkpoint_id=folder / "dcp")
    on_first(lambda: save_safetensors(named(model), folder / "hf"))
    readers = {
        "dcp": dcp.FileSystemReader(folder / "dcp"),
        "hf": dcp.HuggingFaceStorageReader(str(folder / "hf")),
    }
    for reader in readers.values():
        small = sharded({name: torch.zeros_like(t) for name, t in wanted.items()}, mesh, dim)
        dcp.load(small, storage_reader=reader, planner=CompactingLoadPlanner(plan))
        require_equal(small, wanted)
    require_equal(plan.apply(large), wanted)
    held(folder.name)


class Net(nn.Module):
    """What shrinks is between layers; extents that no number of processes divides."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 17), nn.Linear(17, 13, bias=False)
        self.last = nn.Linear(13, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.second(torch.sigmoid(self.first(x)))))


def shard(model: nn.Module, mesh: DeviceMesh, dim: int) -> None:
    """FSDP2 with weights along `dim`; of another dimension than the first it wants even shards."""

    def place(parameter: nn.Parameter) -> Shard:
        is_even = parameter.ndim > dim and parameter.shape[dim] % mesh.size() == 0
        return Shard(dim if is_even else 0)

    fully_shard(model, mesh=mesh, shard_placement_fn=place)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        x, y = torch.randn(2, 8, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        nn.functional.mse_loss(model(x), y[:, :3]).backward()
        optimizer.step()


def model_state(model: nn.Module) -> dict[str, Any]:
    return get_model_state_dict(model)


def optimizer_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    return get_optimizer_state_dict(model, optimizer)


def check_training(folder: Path, mesh: DeviceMesh) -> None:
    """Trained, saved sharded, loaded smaller and sharded, trained on: as in one process."""
    for dim in (0, 1):
        torch.manual_seed(1)
        model = Net().double()
        masks = {
            "first.weight": (torch.arange(17) % 3 > 0)[:, None],
            "first.bias": torch.arange(17) % 3 > 0,
            "second.weight": (torch.arange(13) % 4 > 0)[:, None],
        }
        optimizer = torch.optim.AdamW(model.named_parameters(), lr=0.01)
        train(model, optimizer, range(STEPS))
        x = torch.ones(2, 6, dtype=torch.float64)
        plan = plan_speedup(model, x, masks)
        small = materialize(plan, verify="none")
        small_optimizer = torch.optim.AdamW(small.named_parameters(), lr=0.01)
        small_optimizer.load_state_dict(plan.apply_optimizer(optimizer.state_dict()))
        path = folder / str(dim)
        state: dict[str, Any] = {
            "model": model_state(model),
            "optimizer": optimizer_state(model, optimizer),
        }
        dcp.save(state, checkpoint_id=path)

        other = materialize(plan, verify="none")
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.zero_()
        shard(other, mesh, dim)
        other_optimizer = torch.optim.AdamW(other.parameters(), lr=0.3)
        empty: dict[str, Any] = {
            "model": model_state(other),
            "optimizer": optimizer_state(other, other_optimizer),
        }
        dcp.load(empty, checkpoint_id=path, planner=CompactingLoadPlanner(plan))
        set_optimizer_state_dict(other, other_optimizer, empty["optimizer"])
        require_equal(model_state(other), small.state_dict())
        # Also a sharded large state becomes a sharded small one.
        moments = plan.apply_optimizer(
            {
                **state["optimizer"],
                "state": {
                    name: {
                        key: distribute_tensor(value, mesh, [Shard(0)]) if value.ndim else value
                        for key, value in entries.items()
                    }
                    for name, entries in state["optimizer"]["state"].items()
                },
            }
        )
        assert isinstance(moments["state"]["second.weight"]["exp_avg"], DTensor)
        wanted = optimizer_state(small, small_optimizer)["state"]
        for name, entries in wanted.items():
            for found in (moments["state"], optimizer_state(other, other_optimizer)["state"]):
                if name in found and entries:
                    require_equal({k: found[name][k] for k in entries}, entries)
        train(small, small_optimizer, range(STEPS, 2 * STEPS))
        train(other, other_optimizer, range(STEPS, 2 * STEPS))
        trained = model_state(other)
        for name, value in small.state_dict().items():
            apart = (trained[name].full_tensor() - value).abs().max()
            assert apart < 1e-6, (name, float(apart))
        held("training", dim)


def check_faults(folder: Path, mesh: DeviceMesh) -> None:
    """Other checkpoints are refused."""
    model, plan = planned("folded")
    wanted = materialize(plan, verify="none").state_dict()
    faults: dict[str, tuple[Callable[[dict[str, Tensor]], object], str]] = {
        "numbers": (lambda state: state["2.weight"].mul_(2), "OtherWeightsError"),
        "missing": (lambda state: state.pop("0.bias"), "CheckpointError"),
        "shape": (lambda state: state.update({"0.weight": torch.ones(9, 5)}), "ArchitectureError"),
    }
    for kind, (change, error) in faults.items():
        state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        change(state)
        on_first(partial(save_safetensors, state, folder / kind))
        small = sharded(wanted, mesh, 0)
        try:
            dcp.load(
                small,
                storage_reader=dcp.HuggingFaceStorageReader(str(folder / kind)),
                planner=CompactingLoadPlanner(plan),
            )
        except dcp.CheckpointException as found:
            assert error in str(found), found
            held("refused", kind)


if __name__ == "__main__":
    main()
