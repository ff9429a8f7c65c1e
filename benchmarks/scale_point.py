"""One size of `benchmarks.scale`: prints what was measured as a line of JSON.

`python -m benchmarks.scale_point SIZE FOLDER`
"""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from attrs import frozen
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from benchmarks.clock import forget_peak, peak, timed
from speedup import Plan, materialize, plan_speedup
from speedup.checkpoints import compacting, shards
from speedup.cli import app
from tests.support import vision


@frozen
class Shape:
    """Of a Llama: layers, hidden size, heads, heads of keys, width of the feed-forward part, words."""

    layers: int
    hidden: int
    heads: int
    groups: int
    inner: int
    words: int


SHAPES = {
    "tiny": Shape(2, 64, 4, 2, 96, 128),
    "2.5GB": Shape(24, 2048, 16, 8, 5632, 32000),
    "10GB": Shape(40, 3584, 28, 4, 8960, 32000),
    "70B": Shape(80, 8192, 64, 8, 28672, 128256),
}
_SHARDS = 5


def main() -> None:
    """Measure the size that the command line names."""
    size, folder = sys.argv[1], Path(sys.argv[2])
    torch.set_num_threads(1)
    measured = _planning(size, folder)
    if size != "70B":
        measured |= _compaction(size, folder)
    print(json.dumps(measured))


def hollow(shape: Shape) -> nn.Module:
    """The model without weights, in bfloat16."""
    vision.available()
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.groups,
        intermediate_size=shape.inner,
        vocab_size=shape.words,
        use_cache=False,
    )
    with torch.device("meta"):
        # As transformers loads it: the table of angles stays in float32.
        model: nn.Module = LlamaForCausalLM._from_config(config, dtype=torch.bfloat16)
    return model.eval()


def masks_of(model: nn.Module, shape: Shape) -> dict[str, Tensor]:
    """Half of each feed-forward part, other units in each layer, and half of the KV groups.

    Of the largest also a quarter of the hidden channels: in a checkpoint, norms would be scaled for these,
    which is not bit for bit.
    """
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randperm(shape.hidden, generator=generator) >= shape.hidden // 4
    masks: dict[str, Tensor] = {}
    half = shape.hidden // shape.heads * (shape.groups // 2)
    for name, parameter in model.named_parameters():
        if name.endswith("gate_proj.weight"):
            rows = torch.randperm(shape.inner, generator=generator) >= shape.inner // 2
            masks[name] = masks[name.replace("gate", "up")] = rows[:, None]
        elif name.endswith(("k_proj.weight", "v_proj.weight")):
            masks[name] = torch.arange(parameter.shape[0])[:, None] >= half
        elif shape == SHAPES["70B"] and name.endswith(("o_proj.weight", "down_proj.weight")):
            masks[name] = hidden[:, None]
        elif shape == SHAPES["70B"] and name.endswith("embed_tokens.weight"):
            masks[name] = hidden[None]
    return masks


def _planning(size: str, folder: Path) -> dict[str, Any]:
    """Plan on the meta device, and write the plan."""
    model = hollow(SHAPES[size])
    masks = masks_of(model, SHAPES[size])
    ids = torch.zeros(1, 16, dtype=torch.long, device="meta")
    if size == "tiny":
        plan_speedup(hollow(SHAPES[size]), {"input_ids": ids}, masks)  # first uses are imports
    forget_peak()
    plan, seconds = timed(lambda: plan_speedup(model, {"input_ids": ids}, masks))
    text = plan.to_json()
    (folder / "plan.json").write_text(text)
    return {
        "parameters": [plan.parameters_before, plan.parameters_after],
        "plan_cpu_seconds": seconds["cpu"],
        "plan_peak_bytes": peak(),
        "plan_file_bytes": len(text),
    }


def _compaction(size: str, folder: Path) -> dict[str, Any]:
    """Compact a checkpoint by the command line, copy what it wrote, and compare it."""
    large, small = folder / "large", folder / "small"
    state_shapes = _write_checkpoint(hollow(SHAPES[size]), large)
    before = forget_peak()
    command = [
        "compact",
        "--plan",
        str(folder / "plan.json"),
        "--checkpoint",
        str(large),
        "--out",
        str(small),
    ]
    with _writing() as writing:
        _, seconds = timed(lambda: _call(command))
    extra = peak() - before
    written = _bytes_in(small)
    copied = _copied(small, folder / "copy")
    shutil.rmtree(folder / "copy")
    return {
        "source_bytes": _bytes_in(large),
        "written_bytes": written,
        "tensors": len(state_shapes),
        "seconds": seconds["wall"],
        "cpu_seconds": seconds["cpu"],
        "writing_seconds": writing[0],
        "copy_seconds": copied,
        "extra_bytes": extra,
        "is_equal": _is_equal(folder, hollow(SHAPES[size])),
    }


@contextmanager
def _writing() -> Iterator[list[float]]:
    """Seconds from the first byte that is written to the end of the block, when all is on the disk."""
    began: list[float] = []
    found: list[float] = []
    write_shard = shards.write_shard

    def write(*args: Any) -> None:
        began.append(time.perf_counter())
        write_shard(*args)

    with patch.object(compacting, "write_shard", write):
        yield found
    found.append(time.perf_counter() - began[0])


def _call(command: list[str]) -> None:
    """The command line, in this process; what it prints is not measured."""
    try:
        app(command, standalone_mode=False)
    except SystemExit as end:
        if end.code:
            raise RuntimeError(f"speedup {' '.join(command)} ended with {end.code}") from end


def _write_checkpoint(model: nn.Module, folder: Path) -> Mapping[str, tuple[int, ...]]:
    """A folder in the form of Hugging Face with random weights: pieces of one pool, which takes no time."""
    folder.mkdir()
    pool = (torch.randn(1 << 22, generator=torch.Generator().manual_seed(0)) * 0.02).bfloat16()
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    names = [*shapes]
    places: dict[str, str] = {}
    each = -(-len(names) // _SHARDS)
    for number in range(_SHARDS):
        file = f"model-{number + 1:05}-of-{_SHARDS:05}.safetensors"
        part = names[number * each : (number + 1) * each]
        save_file({name: _filled(pool, shapes[name], n) for n, name in enumerate(part)}, folder / file)
        places |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    config: Any = model.config
    own = {"architectures": [type(model).__name__], "dtype": "bfloat16"}
    said = {**json.loads(config.to_json_string()), **own}
    (folder / "config.json").write_text(json.dumps(said))
    return shapes


def _filled(pool: Tensor, shape: tuple[int, ...], offset: int) -> Tensor:
    count = math.prod(shape)
    turned = pool.roll(offset * 7919)
    return turned.repeat(-(-count // len(pool)))[:count].reshape(shape)


def _copied(source: Path, target: Path) -> float:
    """Seconds to copy a folder with its bytes on the disk, as they are after compaction."""
    start = time.perf_counter()
    shutil.copytree(source, target)
    for file in target.iterdir():
        handle = os.open(file, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)
    return time.perf_counter() - start


def _is_equal(folder: Path, model: nn.Module) -> bool:
    """Whether each tensor is, bit for bit, what `materialize` makes of the loaded model.

    One file of the large model is loaded at a time.
    """
    plan = Plan.from_json((folder / "plan.json").read_text())
    small = {name: file for file in (folder / "small").glob("*.safetensors") for name in _names_in(file)}
    hollow_state = dict(model.state_dict())
    for file in (folder / "large").glob("*.safetensors"):
        with safe_open(file, framework="pt") as opened:
            part = {name: opened.get_tensor(name) for name in _names_in(file)}
        model.load_state_dict({**hollow_state, **part}, assign=True)
        wanted = materialize(plan, model, verify="none").state_dict()
        for name in part:
            with safe_open(small.pop(name), framework="pt") as opened:
                if not torch.equal(opened.get_tensor(name), wanted[name]):
                    return False
    return not small


def _names_in(file: Path) -> list[str]:
    with safe_open(file, framework="pt") as opened:
        return list(opened.keys())


def _bytes_in(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())


if __name__ == "__main__":
    main()
