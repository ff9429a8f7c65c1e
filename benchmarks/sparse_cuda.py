"""Half of four, and blocks, in half precision on a GPU: the products of BERT-large, chosen over dense.

Section `sparse_cuda`. Each row is one product at 8 sequences of 128 or 512 tokens: a weight of which the two
smaller of each four are masked, for the tensor cores; and one of which only the tenth or fifth of its blocks
stays that has the largest norms. The products are planned, measured and verified as models of one layer.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.clock import interleaved, repeats_within
from benchmarks.settings import Settings
from benchmarks.store import Row
from speedup import apply_masks, materialize, plan_speedup, tune
from speedup.ir.inputs import leaves_of

WIDTHS = ((1024, 1024), (1024, 4096), (4096, 1024))
TOKENS = (8 * 128, 8 * 512)
_SIDE = 32
_SECONDS = 2.0
_ROUNDS = 15


def two_of_four(weight: Tensor) -> Tensor:
    """A mask that keeps the two larger of each four elements in a row."""
    rows, columns = weight.shape
    groups = weight.detach().abs().reshape(rows, columns // 4, 4)
    mask = torch.zeros_like(groups, dtype=torch.bool)
    return mask.scatter(2, groups.topk(2).indices, True).reshape(rows, columns)


def largest_blocks(share: float, side: int, weight: Tensor) -> Tensor:
    """A mask that keeps this share of the blocks (side, side), those of the largest norms."""
    rows, columns = weight.shape
    blocks = weight.detach().float().reshape(rows // side, side, columns // side, side)
    norms = blocks.square().sum((1, 3))
    limit = norms.flatten().topk(max(1, round(share * norms.numel()))).values[-1]
    return (norms >= limit).repeat_interleave(side, 0).repeat_interleave(side, 1)


MASKS: dict[str, Callable[[Tensor], Tensor]] = {
    "2:4": two_of_four,
    "a fifth of the blocks": partial(largest_blocks, 0.2, _SIDE),
    "a tenth of the blocks": partial(largest_blocks, 0.1, _SIDE),
}


def run(settings: Settings) -> None:
    """Measure every product with every kind of masks; without a GPU only a small one, in a smoke run."""
    if not torch.cuda.is_available() and not settings.smoke:
        print("sparse_cuda: needs a GPU")
        return
    device, dtype = ("cuda", torch.float16) if torch.cuda.is_available() else ("cpu", torch.float32)
    for columns, rows in ((128, 128),) if settings.smoke else WIDTHS:
        for tokens in (16,) if settings.smoke else TOKENS:
            for kind in ("a tenth of the blocks",) if settings.smoke else MASKS:
                key = f"Linear({columns}, {rows}), {tokens} tokens, {kind}"
                if not settings.only or kind in settings.only or key in settings.only:
                    row = partial(product_row, columns, rows, tokens, kind, device, dtype, settings)
                    settings.measure("sparse_cuda", key, row)


def product_row(
    columns: int, rows: int, tokens: int, kind: str, device: str, dtype: torch.dtype, settings: Settings
) -> Row:
    """Latencies of one product, masked and as chosen, what was chosen, and the errors of both."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(columns, rows)).to(device, dtype).eval()
        x = torch.randn(tokens, columns).to(device, dtype)
    masks = {"0.weight": MASKS[kind](model.get_parameter("0.weight"))}
    plan = plan_speedup(model, x, masks)
    choices = tune(plan, x, rounds=3 if settings.smoke else _ROUNDS, threads=settings.threads)
    masked, small = apply_masks(model, masks).eval(), materialize(plan, choices=choices).eval()
    calls: dict[str, Callable[[], object]] = {"masked": partial(masked, x), "small": partial(small, x)}
    seconds = 0.05 if settings.smoke else _SECONDS
    with torch.inference_mode():
        wanted = apply_masks(model, masks).double().eval()(x.double())
        errors = {name: _error(call(), wanted) for name, call in calls.items()}
    return {
        "latency": interleaved(calls, repeats_within(seconds, calls["masked"]), threads=settings.threads),
        "chosen": [layer.kernel for layer in choices.layers],
        "candidates": [
            [str(one), one.seconds.median] for layer in choices.layers for one in layer.candidates
        ],
        "errors": errors,
    }


def _error(found: object, wanted: Tensor) -> float:
    ((_, one),) = leaves_of(found)
    return float((one.double() - wanted).abs().max() / wanted.abs().max())
