"""One point of `benchmarks.growth`: prints seconds and peak memory of planning as a line of JSON.

`python -m benchmarks.growth_point KIND SIZE`
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import torch
from attrs import frozen
from torch import Tensor, nn

from benchmarks.clock import forget_peak, peak, timed
from speedup import materialize, plan_speedup
from tests.support import vision
from tests.support.masking import Masks

# By million parameters: layers, hidden size, heads, heads of keys, width of the feed-forward part, words.
_LLAMAS = {
    1: (4, 128, 4, 2, 384, 1000),
    10: (8, 288, 6, 2, 768, 6000),
    100: (12, 640, 10, 2, 1792, 32000),
    1000: (16, 2048, 16, 8, 5632, 32000),
    7000: (32, 4096, 32, 32, 11008, 32000),
    70000: (80, 8192, 64, 8, 28672, 128256),
}


@frozen(eq=False)
class Point:
    """A model to plan: what its forward takes, its masks, and how many layers count."""

    model: nn.Module
    x: Any
    masks: Masks
    layers: int


class _Block(nn.Module):
    """Two convolutions with BatchNorm and a shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.bn = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(torch.relu(self.bn(self.conv1(x))))


def main() -> None:
    """Measure the point that the command line names."""
    kind, size = sys.argv[1], int(sys.argv[2])
    torch.set_num_threads(1)
    # Imports and first uses are not part of the growth.
    warm = residual(1, 8, 8)
    materialize(plan_speedup(warm.model, warm.x, warm.masks), verify="none")
    point = POINTS[kind](size)
    before = forget_peak()
    plan, planned = timed(lambda: plan_speedup(point.model, point.x, point.masks))
    planned_peak = peak()
    made = {"wall": 0.0, "cpu": 0.0}
    is_meta = any(p.is_meta for p in point.model.parameters())
    if not is_meta:
        made = timed(lambda: materialize(plan, verify="none"))[1]
    print(
        json.dumps(
            {
                "layers": point.layers,
                "parameters": plan.parameters_before,
                "parameters_after": plan.parameters_after,
                "plan": planned["cpu"],
                "plan_wall": planned["wall"],
                "materialize": made["cpu"],
                "peak": planned_peak,
                "growth_of_peak": planned_peak - before,
            }
        )
    )


def residual(blocks: int, width: int, resolution: int) -> Point:
    """A chain of residual blocks, half the inner channels masked, different ones in each."""
    model = nn.Sequential(*[_Block(width) for _ in range(blocks)]).eval()
    generator = torch.Generator().manual_seed(0)
    masks = {f"{n}.conv1": {"weight": _halves(width, generator, 4)} for n in range(blocks)}
    return Point(model, torch.randn(1, width, resolution, resolution), masks, 2 * blocks)


def attention(blocks: int) -> Point:
    """An encoder of torch's own layers, a head and half the hidden units of each masked."""
    width, heads = 64, 4
    layer = nn.TransformerEncoderLayer(width, heads, 4 * width, batch_first=True)
    model = nn.TransformerEncoder(layer, blocks, enable_nested_tensor=False).eval()
    generator = torch.Generator().manual_seed(0)
    masks: Masks = {}
    for n in range(blocks):
        rows = torch.ones(3, heads, width // heads)
        rows[:, n % heads] = 0
        own = {"in_proj_weight": rows.reshape(-1, 1).expand(-1, width), "in_proj_bias": rows.reshape(-1)}
        masks[f"layers.{n}.self_attn"] = own
        masks[f"layers.{n}.linear1"] = {"weight": _halves(4 * width, generator, 2)}
    return Point(model, torch.randn(2, 5, width), masks, blocks)


def llama(millions: int) -> Point:
    """A causal language model on the meta device, a quarter of the hidden units of each layer masked."""
    vision.available()
    from transformers import LlamaConfig, LlamaForCausalLM

    layers, hidden, heads, groups, inner, words = _LLAMAS[millions]
    config = LlamaConfig(
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=groups,
        intermediate_size=inner,
        vocab_size=words,
        use_cache=False,
    )
    with torch.device("meta"):
        model = LlamaForCausalLM(config).eval().half()
    keep = torch.ones(inner, 1)
    keep[::4] = 0
    masks = {n: {"weight": keep} for n, _ in model.named_modules() if n.endswith(("gate_proj", "up_proj"))}
    return Point(model, {"input_ids": torch.zeros(1, 16, dtype=torch.long, device="meta")}, masks, layers)


def _halves(width: int, generator: torch.Generator, ndim: int) -> Tensor:
    keep = torch.randperm(width, generator=generator) >= width // 2
    return keep.float().reshape(-1, *[1] * (ndim - 1))


POINTS: dict[str, Callable[[int], Point]] = {
    "depth": lambda size: residual(max(size // 2, 1), 16, 8),
    "depth_attention": attention,
    "width": lambda size: residual(4, size, 8),
    "resolution": lambda size: residual(4, 16, size),
    "parameters": llama,
}

if __name__ == "__main__":
    main()
