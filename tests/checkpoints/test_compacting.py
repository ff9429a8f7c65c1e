"""A checkpoint on disk becomes the one that the small model would have, or nothing."""

from __future__ import annotations

import errno
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from speedup import (
    ArchitectureError,
    CheckpointError,
    FileWriteError,
    InputError,
    OtherWeightsError,
    Plan,
    Progress,
    compact_checkpoint,
    materialize,
    plan_speedup,
)
from speedup.checkpoints import compacting
from speedup.checkpoints.shards import size_in_bytes
from speedup.stored.reading import StoredTensor
from tests.support.cut_cases import Net, each_case, planned_once, without
from tests.support.folders import content, tensors_in, write_source
from tests.support.repository import ROOT


def require_small(folder: Path, plan: Plan) -> None:
    wanted = materialize(plan, verify="none").state_dict()
    found = tensors_in(folder)
    assert set(found) == set(wanted)
    for name, tensor in wanted.items():
        assert found[name].dtype is tensor.dtype and torch.equal(found[name], tensor), name


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_source(tmp_path / "large", planned_once("sliced")[0].state_dict())


@each_case
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("block", [8, 1 << 24])
def test_tensors_are_those_of_the_small_model_bit_for_bit(
    case: str, dtype: torch.dtype, block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, plan = planned_once(case, dtype)
    folder, out = write_source(tmp_path / "large", model.state_dict()), tmp_path / "small"
    before = content(folder)
    monkeypatch.setattr(compacting, "_BLOCK", block)
    compact_checkpoint(Plan.from_json(plan.to_json()), folder, out)
    require_small(out, plan)
    assert content(folder) == before
    assert {*content(out)} == {"config.json", "tokenizer.json", "model.safetensors", "speedup_plan.json"}
    assert Plan.from_json((out / "speedup_plan.json").read_bytes()) == plan


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize(("size", "files"), [(1, 6), (250, 2), ("1KB", 1), ("0.2KiB", None)])
def test_shards_are_no_larger_than_asked_for(
    size: int | str, files: int | None, shards: int, tmp_path: Path
) -> None:
    model, plan = planned_once("sliced")
    folder, out = write_source(tmp_path / "large", model.state_dict(), shards), tmp_path / "small"
    compact_checkpoint(plan, folder, out, max_shard_size=size)
    require_small(out, plan)
    found = sorted(out.glob("*.safetensors"))
    assert len(found) == files or (files is None and len(found) > 1)
    for file in found:
        held = load_file(file)
        assert len(held) == 1 or sum(t.nbytes for t in held.values()) <= size_in_bytes(size)
    index = out / "model.safetensors.index.json"
    assert index.is_file() is (len(found) > 1)
    if len(found) > 1:
        body = json.loads(index.read_text())
        assert body["weight_map"] == {name: file.name for file in found for name in load_file(file)}
        assert body["metadata"]["total_size"] == sum(t.nbytes for t in tensors_in(out).values())


def test_tensors_of_several_types_lie_where_they_can_be_mapped(tmp_path: Path) -> None:
    model, plan = planned_once("sliced")
    state = model.state_dict()
    state["0.bias"], state["2.bias"] = state["0.bias"].bfloat16(), state["2.bias"].double()
    compact_checkpoint(plan, write_source(tmp_path / "large", state), tmp_path / "small")
    found = tensors_in(tmp_path / "small")
    assert [found[f"{n}.bias"].dtype for n in (0, 2, 4)] == [torch.bfloat16, torch.float64, torch.float32]
    assert all(torch.equal(tensor, found[name]) for name, tensor in plan.apply(state).items())
    (file,) = (tmp_path / "small").glob("*.safetensors")
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    assert sum(t.nbytes for t in found.values() if t.itemsize < 8) % 8, "else any order would do"
    for name, tensor in found.items():
        assert (8 + length + header[name]["data_offsets"][0]) % tensor.itemsize == 0, name


def test_no_more_than_a_block_is_read_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 512, bias=False), nn.ReLU(), nn.Linear(512, 256, bias=False)).eval()
    plan = plan_speedup(model, torch.ones(1, 64), {"0.weight": without((512, 64), 0, *range(100, 400))})
    folder = write_source(tmp_path / "large", model.state_dict())
    spans: list[int] = []
    read = StoredTensor.bytes

    def counted(stored: StoredTensor, start: int, stop: int) -> Tensor:
        spans.append(stop - start)
        return read(stored, start, stop)

    monkeypatch.setattr(StoredTensor, "bytes", counted)
    monkeypatch.setattr(compacting, "_BLOCK", 1 << 13)
    compact_checkpoint(plan, folder, tmp_path / "small")
    require_small(tmp_path / "small", plan)
    # Of the first weight the rows that go are not read, but for a gap that is short.
    assert max(spans) <= 1 << 13 and sum(spans) < 512 * 64 * 4 - (1 << 16) + 512 * 256 * 4 + (1 << 16)


def test_a_tied_weight_may_be_in_the_file_once_or_twice(tmp_path: Path) -> None:
    model, plan = planned_once("tied")
    for absent in ("embedding.weight", "last.weight"):
        state = {name: tensor for name, tensor in model.state_dict().items() if name != absent}
        folder = write_source(tmp_path / absent, state)
        compact_checkpoint(plan, folder, tmp_path / f"small {absent}")
        assert set(tensors_in(tmp_path / f"small {absent}")) == set(state)


def test_progress_is_told(source: Path, tmp_path: Path) -> None:
    told: list[Progress] = []
    compact_checkpoint(planned_once("sliced")[1], source, tmp_path / "small", progress=told.append)
    total = sum(tensor.nbytes for tensor in tensors_in(tmp_path / "small").values())
    assert {now.total for now in told} == {total} and told[-1].written == total
    assert all(a.written < b.written and a.seconds <= b.seconds for a, b in pairwise(told))
    assert Progress(100, 300, 2.0).rate == 50 and Progress(100, 300, 2.0).seconds_left == 4


def shorten(folder: Path) -> None:
    file = folder / "model-00001-of-00002.safetensors"
    file.write_bytes(file.read_bytes()[:-10])


def damage_header(folder: Path) -> None:
    file = folder / "model-00001-of-00002.safetensors"
    file.write_bytes(b"\xff" * 8 + file.read_bytes()[8:])


def index_of(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    index = folder / "model.safetensors.index.json"
    body = json.loads(index.read_text())
    change(body["weight_map"])
    index.write_text(json.dumps(body))


def other_shards(places: dict[str, str]) -> None:
    for name, file in places.items():
        places[name] = (
            "model-00002-of-00002.safetensors" if "00001" in file else "model-00001-of-00002.safetensors"
        )


def quantised(folder: Path, method: str) -> None:
    (folder / "config.json").write_text(json.dumps({"quantization_config": {"quant_method": method}}))


def with_tensor(folder: Path, name: str, tensor: Tensor) -> None:
    file = folder / "model-00001-of-00002.safetensors"
    save_file({**load_file(file), name: tensor}, file)
    index_of(folder, lambda places: places.update({name: file.name}))


Damage = Callable[[Path], Any]
DAMAGES: Mapping[str, tuple[Damage, type[Exception], str]] = {
    "a truncated shard": (shorten, CheckpointError, "00001-of-00002.safetensors' is truncated"),
    "a header of noise": (damage_header, CheckpointError, "truncated, damaged or no safetensors"),
    "a shard missing": (
        lambda f: os.remove(f / "model-00002-of-00002.safetensors"),
        CheckpointError,
        "no file .*00002-of-00002",
    ),
    "an index that lies": (
        lambda f: index_of(f, other_shards),
        CheckpointError,
        "lists other tensors .* does not",
    ),
    "an index that leaves out": (
        lambda f: index_of(f, lambda places: places.pop("0.weight")),
        CheckpointError,
        "holds besides '0.weight'",
    ),
    "an index that leads outside": (
        lambda f: index_of(f, lambda places: places.update({"0.weight": "../x.safetensors"})),
        CheckpointError,
        "outside the folder",
    ),
    "an index of noise": (
        lambda f: (f / "model.safetensors.index.json").write_text("{"),
        CheckpointError,
        "has no weight_map",
    ),
    "an index without a map": (
        lambda f: (f / "model.safetensors.index.json").write_text("[]"),
        CheckpointError,
        "has no weight_map",
    ),
    "no weights": (
        lambda f: [shutil.move(f / file, f / "kept.txt") for file in os.listdir(f) if "safetensors" in file],
        CheckpointError,
        "holds neither",
    ),
    "no folder": (shutil.rmtree, CheckpointError, "no folder"),
    "GPTQ": (lambda f: quantised(f, "gptq"), CheckpointError, "are packed: .*'gptq'"),
    "AWQ": (lambda f: quantised(f, "awq"), CheckpointError, "are packed: .*'awq'"),
    "packed rows": (
        lambda f: with_tensor(f, "0.qweight", torch.ones(2, dtype=torch.int32)),
        CheckpointError,
        "'0.qweight' is of GPTQ or AWQ",
    ),
    "fp8 with scales": (
        lambda f: with_tensor(f, "0.weight_scale_inv", torch.ones(2)),
        CheckpointError,
        "'0.weight_scale_inv' is of fp8",
    ),
    "fp8": (
        lambda f: with_tensor(f, "0.weight", torch.ones(8, 5).to(torch.float8_e4m3fn)),
        ArchitectureError,
        r"'0.weight' is of type torch.float8_e4m3fn",
    ),
    "another name": (
        lambda f: with_tensor(f, "1.weight", torch.ones(8, 5)),
        ArchitectureError,
        "no tensor '1.weight'",
    ),
    "another shape": (lambda f: with_tensor(f, "0.weight", torch.ones(9, 5)), ArchitectureError, r"\(9, 5\)"),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_source_that_is_not_right_is_refused_and_nothing_written(
    kind: str, source: Path, tmp_path: Path
) -> None:
    damage, error, words = DAMAGES[kind]
    damage(source)
    before = content(source)
    with pytest.raises(error, match=words):
        compact_checkpoint(planned_once("sliced")[1], source, tmp_path / "small")
    assert content(source) == before
    assert sorted(os.listdir(tmp_path)) == (["large"] if source.exists() else [])


def test_a_part_of_a_model_is_not_the_model(tmp_path: Path) -> None:
    model, plan = planned_once("normed")
    state = model.state_dict()
    for name in state:
        rest = {other: tensor for other, tensor in state.items() if other != name}
        folder = write_source(tmp_path / f"without {name}", rest)
        with pytest.raises(CheckpointError, match=f"it has no tensor '{name}'"):
            compact_checkpoint(plan, folder, tmp_path / "small")


def test_buffers_that_state_dicts_leave_out_need_not_be_there(tmp_path: Path) -> None:
    model, plan = planned_once("tied")
    assert "scale" in dict(model.named_buffers()) and "scale" not in model.state_dict()
    compact_checkpoint(plan, write_source(tmp_path / "large", model.state_dict()), tmp_path / "small")


@pytest.mark.parametrize("case", ["folded", "merged", "normed"])
def test_another_models_numbers_are_refused_where_they_matter(case: str, tmp_path: Path) -> None:
    model, plan = planned_once(case)
    state = {n: t + 1 if t.is_floating_point() else t for n, t in model.state_dict().items()}
    with pytest.raises(OtherWeightsError, match="holds other numbers than planned"):
        compact_checkpoint(plan, write_source(tmp_path / "large", state), tmp_path / "small")
    assert os.listdir(tmp_path) == ["large"]


def test_checksums_are_the_same_read_in_pieces(tmp_path: Path) -> None:
    from speedup.modules.fingerprints import checksum, checksum_of_bytes

    for count in (1, 3, 4097, (1 << 22) + 5, (1 << 23) + (1 << 15) + 1):
        tensor = torch.arange(count, dtype=torch.int32).view(torch.uint8)[: 4 * count - count % 3]
        folder = write_source(tmp_path / str(count), {"x": tensor}, 1)
        stored = StoredTensor(folder / "model.safetensors", 0, (), torch.uint8)
        offset = stored.file.stat().st_size - tensor.numel()
        asked: list[int] = []

        def read(a: int, b: int, start: int = offset, seen: list[int] = asked) -> Tensor:
            seen.append(b - a)
            return stored.bytes(start + a, start + b)  # noqa: B023

        assert checksum_of_bytes(read, tensor.numel()) == checksum(tensor)
        assert max(asked) <= 1 << 24


def test_a_folder_that_is_there_is_left_alone(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "small"
    out.mkdir()
    (out / "precious").write_text("")
    with pytest.raises(FileWriteError, match="is there already"):
        compact_checkpoint(planned_once("sliced")[1], source, out)
    assert os.listdir(out) == ["precious"]
    (out / "precious").unlink()
    compact_checkpoint(planned_once("sliced")[1], source, out)
    require_small(out, planned_once("sliced")[1])


@pytest.mark.parametrize("place", ["large", "large/small", "nowhere/small"])
def test_a_place_that_cannot_be_is_refused(place: str, source: Path, tmp_path: Path) -> None:
    before = content(source)
    with pytest.raises((InputError, FileWriteError), match=r"is in the source|cannot be written"):
        compact_checkpoint(planned_once("sliced")[1], source, tmp_path / place)
    assert content(source) == before and os.listdir(tmp_path) == ["large"]


@pytest.mark.parametrize("size", [0, -1, "5 apples", "", "GB", True, "0.1"])
def test_a_size_that_is_none_is_refused(size: Any, source: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no size of files"):
        compact_checkpoint(planned_once("sliced")[1], source, tmp_path / "small", max_shard_size=size)


class Stopped(BaseException):
    """As KeyboardInterrupt."""


@pytest.mark.parametrize("reason", [Stopped(), OSError(errno.ENOSPC, "No space left on device")])
def test_a_failure_leaves_nothing(reason: BaseException, source: Path, tmp_path: Path) -> None:
    def fail(now: Progress) -> None:
        if now.written > now.total / 2:
            raise reason

    with pytest.raises((Stopped, FileWriteError), match=r"No space left|^$"):
        compact_checkpoint(planned_once("sliced")[1], source, tmp_path / "small", progress=fail)
    assert os.listdir(tmp_path) == ["large"]


_CHILD = """
import os, resource, signal, sys
from pathlib import Path
from speedup import FileWriteError, Plan, compact_checkpoint
folder, how = Path(sys.argv[1]), sys.argv[2]
plan = Plan.from_json((folder / "plan.json").read_bytes())
def now(progress):
    if how == "killed" and progress.written > progress.total / 2:
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "two at once":
        try:
            compact_checkpoint(plan, folder / "large", folder / "small")
        except FileWriteError as error:
            print("refused:", error)
            sys.exit()
if how == "full":
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (700, 700))
try:
    compact_checkpoint(plan, folder / "large", folder / "small", max_shard_size=250, progress=now)
except FileWriteError as error:
    print("refused:", error)
"""


@pytest.mark.parametrize("how", ["killed", "full", "two at once"])
def test_a_process_that_ends_in_between_leaves_no_folder_that_looks_whole(
    how: str, source: Path, tmp_path: Path
) -> None:
    plan, before = planned_once("sliced")[1], content(source)
    (tmp_path / "plan.json").write_text(plan.to_json())
    ran = subprocess.run(
        [sys.executable, "-c", _CHILD, str(tmp_path), how],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    words = {"killed": "", "full": "cannot be written: File too large", "two at once": "by another process"}
    assert words[how] in ran.stdout, ran.stderr
    assert ran.returncode == (-signal.SIGKILL if how == "killed" else 0), ran.stderr
    assert (tmp_path / ".small.unfinished").exists() is (how == "killed")
    assert not (tmp_path / "small").exists() and content(source) == before
    compact_checkpoint(plan, source, tmp_path / "small")
    require_small(tmp_path / "small", plan)
    assert not (tmp_path / ".small.unfinished").exists()


_ON_A_SMALL_DISK = """
import os, sys
from pathlib import Path
from speedup import FileWriteError, Plan, compact_checkpoint
folder, disk = Path(sys.argv[1]), Path(sys.argv[2])
plan = Plan.from_json((folder / "plan.json").read_bytes())
try:
    compact_checkpoint(plan, folder / "large", disk / "small", max_shard_size=250)
except FileWriteError as error:
    print("refused:", error)
print("left:", os.listdir(disk))
"""


def test_a_full_disk_is_told_of_and_nothing_stays_on_it(source: Path, tmp_path: Path) -> None:
    plan, before, disk = planned_once("sliced")[1], content(source), tmp_path / "disk"
    disk.mkdir()
    (tmp_path / "plan.json").write_text(plan.to_json())
    mount = f"mount -t tmpfs -o size=8k none {shlex.quote(str(disk))}"
    if (
        shutil.which("unshare") is None
        or subprocess.run(["unshare", "-m", "sh", "-c", mount], capture_output=True, check=False).returncode
    ):
        pytest.skip("no file system of its own may be mounted here")
    child = shlex.join([sys.executable, "-c", _ON_A_SMALL_DISK, str(tmp_path), str(disk)])
    ran = subprocess.run(
        ["unshare", "-m", "sh", "-c", f"{mount} && exec {child}"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert "cannot be written: No space left on device. Name a folder on a disk" in ran.stdout, ran.stderr
    assert "left: []" in ran.stdout and content(source) == before


def test_a_source_that_becomes_shorter_while_it_is_read_is_told_of(source: Path, tmp_path: Path) -> None:
    def shorten_all(now: Progress) -> None:
        for file in source.glob("*.safetensors"):
            os.truncate(file, 8)

    with pytest.raises(CheckpointError, match="has become shorter while it was read"):
        compact_checkpoint(planned_once("sliced")[1], source, tmp_path / "small", progress=shorten_all)
    assert os.listdir(tmp_path) == ["large"]


def test_a_plan_that_counts_zeros_holds_for_the_planned_numbers(tmp_path: Path) -> None:
    model: Any = Net(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    with torch.no_grad():
        model[0].weight[2:5] = model[0].bias[2:5] = 0
    plan = plan_speedup(model, torch.ones(2, 5))
    compact_checkpoint(plan, write_source(tmp_path / "large", model.state_dict()), tmp_path / "small")
    require_small(tmp_path / "small", plan)
