"""Each operator between two layers: what its rule couples, held against the whole model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speedup import apply_masks, materialize, plan_speedup
from tests.support.measure import check_exact

Function = Callable[[Tensor, Tensor], Any]
CHANNELS = 8
CONSTANT = 0.3


class Sandwich(nn.Module):
    """`function` of two images (batch, 8, 4, 4), made by a convolution each and read by a linear layer."""

    def __init__(self, function: Function) -> None:
        super().__init__()
        self.function = function
        self.left, self.right = nn.Conv2d(3, CHANNELS, 1), nn.Conv2d(3, CHANNELS, 1)
        self.leave = nn.Linear(self.features(torch.zeros(2, 3, 4, 4)).shape[1], 3)
        self.double()

    def features(self, x: Tensor) -> Tensor:
        results = self.function(self.left(x), self.right(x))
        several = results if isinstance(results, list | tuple) else [results]
        real = [torch.view_as_real(r.resolve_conj()) if r.is_complex() else r for r in several]
        return torch.cat([r.flatten(1).to(x.dtype) for r in real], 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(self.features(x))


def drop(model: Sandwich, seed: int, biases: bool) -> dict[str, Tensor]:
    """Masks of whole filters; their biases go too, or leave constants."""
    generator = torch.Generator().manual_seed(seed)
    common = torch.rand(CHANNELS, generator=generator) > 0.4
    common[0] = True
    masks = {}
    for name, layer in (("left", model.left), ("right", model.right)):
        keep = common & (torch.rand(CHANNELS, generator=generator) > 0.15) if seed else common
        masks[f"{name}.weight"] = keep.to(layer.weight.dtype).reshape(-1, 1, 1, 1)
        if biases:
            masks[f"{name}.bias"] = keep.to(layer.weight.dtype)
    return masks


def image(batch: int, seed: int) -> tuple[Tensor, ...]:
    return (torch.randn(batch, 3, 4, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64),)


def positions(*shape: int, below: int) -> Tensor:
    return torch.arange(torch.Size(shape).numel()).mul(7).remainder(below).reshape(shape)


def put_rows(a: Tensor, b: Tensor) -> Tensor:
    out = a.clone()
    out[:, :, positions(2, below=4)] = b[:, :, :2]
    return out


def put_masked(a: Tensor, b: Tensor) -> Tensor:
    out = a.clone()
    out[a > 0] = 0.0
    return out * b


def one_picture(a: Tensor) -> Tensor:
    """(batch, 4, 4, 8): channels last."""
    return a.movedim(1, -1)


def as_sequences(*images: Tensor) -> list[Tensor]:
    """(batch, 16, 8) each: positions, then channels."""
    return [one.flatten(2).mT for one in images]


def attend(q: Tensor, k: Tensor, v: Tensor, *, scale: float | None = None) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, scale=scale)


# Channels that are zero go.
SHRINKING: dict[str, Function] = {
    "gather": lambda a, b: a.gather(2, positions(1, 1, 3, 4, below=4).expand(a.shape[0], a.shape[1], 3, 4)),
    "take_along_dim": lambda a, b: torch.take_along_dim(a, b.argsort(2), 2),
    "scatter": lambda a, b: torch.zeros_like(a).scatter(3, a.argsort(3), b),
    "scatter_add": lambda a, b: a.scatter_add(3, b.argsort(3), b),
    "index_select": lambda a, b: a.index_select(2, positions(5, below=4)),
    "index_add": lambda a, b: a.index_add(2, positions(4, below=4), b),
    "index_copy": lambda a, b: a.index_copy(2, positions(4, below=4), b),
    "index_fill": lambda a, b: a.index_fill(2, positions(1, below=4), 0.0),
    "index_put": put_rows,
    "sort": lambda a, b: a.sort(2)[0],
    "cummax": lambda a, b: a.cummax(2)[0],
    "diff": lambda a, b: a.diff(dim=2),
    "kthvalue": lambda a, b: a.kthvalue(2, 2)[0],
    "quantile": lambda a, b: a.quantile(0.3, dim=2),
    "aminmax": lambda a, b: tuple(torch.aminmax(a, dim=2)),
    "pixel_shuffle": lambda a, b: F.pixel_shuffle(a.repeat_interleave(4, 1), 2),
    "pixel_unshuffle": lambda a, b: F.pixel_unshuffle(a, 2),
    "unfold": lambda a, b: F.unfold(a, 3, padding=1),
    "fold": lambda a, b: F.fold(F.unfold(a, 2), (4, 4), 2),
    "grid_sample": lambda a, b: F.grid_sample(a, b[:, :2].movedim(1, -1).tanh(), align_corners=False),
    "max_unpool": lambda a, b: F.max_unpool2d(*F.max_pool2d(a, 2, return_indices=True), (2, 2)),
    "nearest_exact": lambda a, b: F.interpolate(a, scale_factor=2, mode="nearest-exact"),
    "antialiased": lambda a, b: F.interpolate(a, size=(3, 2), mode="bilinear", antialias=True),
    "fft2": lambda a, b: torch.fft.fft2(a),
    "spectral_filter": lambda a, b: torch.fft.irfft2(torch.fft.rfft2(a) * torch.fft.rfft2(b), s=a.shape[-2:]),
    "complex": lambda a, b: torch.complex(a, b).conj() * torch.polar(a, b),
    "complex_pairs": lambda a, b: torch.view_as_complex(torch.stack([a, b], -1)).abs(),
    "cosine_similarity": F.cosine_similarity,
    "cdist": lambda a, b: torch.cdist(a.flatten(2).mT, b.flatten(2).mT),
    "cross": lambda a, b: torch.linalg.cross(a[..., :3], b[..., :3]),
    "einsum": lambda a, b: torch.einsum("bchw,bdhw->bcd", a, b),
    "einsum_over_channels": lambda a, b: torch.einsum("bcij,bckl->bijkl", a, b),
    "einsum_ellipsis": lambda a, b: torch.einsum("bc...,bc...->b...", a, b),
    "matmul_over_channels": lambda a, b: a.flatten(2).mT @ b.flatten(2),
    "attention_scaled": lambda a, b: attend(
        *as_sequences(a, b * torch.arange(1, 5).to(b.dtype), b), scale=0.3
    ),
    "baddbmm": lambda a, b: torch.baddbmm(a[:, :, 0, :1], a.flatten(2), b.flatten(2).mT),
    "addbmm_free": lambda a, b: torch.einsum("bi,bj->bij", a[:, :, 0, 0], b[:, :, 1, 1]),
    "tensordot": lambda a, b: torch.tensordot(a, b[0].detach() * 0 + 1.0, ([2], [1])),
    "movedim": lambda a, b: a.movedim((1, 2), (-1, 0)).movedim(0, 1),
    "rot90": lambda a, b: a.rot90(3, (1, 2)),
    "hstack": lambda a, b: torch.hstack([a, b]),
    "dstack": lambda a, b: torch.dstack([a[:, :, 0], b[:, :, 1]]),
    "column_stack": lambda a, b: torch.column_stack([a, b]),
    "tensor_split": lambda a, b: (a * torch.ones(4, 4).double()).tensor_split([3, 4], 2),
    "hsplit": lambda a, b: a.flip(1).mT.contiguous().dsplit(2),
    "diagonal": lambda a, b: a.diagonal(1, 2, 3),
    "diag_embed": lambda a, b: torch.diag_embed(a[..., 0].mT),
    "broadcast_tensors": lambda a, b: torch.broadcast_tensors(a, b[:, :, :1, :1]),
    "adjoint": lambda a, b: torch.complex(a, b).adjoint(),
    "empty_like": lambda a, b: torch.empty_like(a).fill_(2.0) * a,
    "logaddexp": torch.logaddexp,
    "rrelu": lambda a, b: F.rrelu(a),
    "power": lambda a, b: (a.square() + 1) ** b,
}
# What comes of zeros counts.
COUNTING: dict[str, Function] = {
    "diff_prepended": lambda a, b: a.diff(dim=2, prepend=b[:, :, :1]),
    "cdist_of_channels": lambda a, b: torch.cdist(a.flatten(2), b.flatten(2)),
    "pairwise_distance": F.pairwise_distance,
    "attention_with_empty_keys": lambda a, b: attend(
        *as_sequences(a), *(torch.cat([k, k.new_zeros(k.shape[0], 2, 8)], 1) for k in as_sequences(b, b))
    ),
    "attention_grouped": lambda a, b: F.scaled_dot_product_attention(a, b[:, :4], b[:, :4], enable_gqa=True),
}
# What is kept whole has to run all the same.
KEPT: dict[str, Function] = {
    # Images of 8 x 2 have as many features, of which others are of a channel.
    "tensor_split_flattened": lambda a, b: a.tensor_split([3, 4], 2),
    "kron": lambda a, b: torch.kron(a, b[:1]),
    "topk_channels": lambda a, b: a.topk(3, 1)[0],
    "argsort_channels": lambda a, b: a.argsort(1),
    "diff_of_channels": lambda a, b: a.diff(dim=1),
    "gather_channels": lambda a, b: a.gather(1, b.argmax(1, keepdim=True)),
    "index_put_masked": put_masked,
    "fft_of_channels": lambda a, b: torch.fft.rfft(a, dim=1),
    "local_response_norm": lambda a, b: F.local_response_norm(a, 3),
    "linalg": lambda a, b: torch.linalg.matrix_exp(a * 0.1),
    "one_hot": lambda a, b: F.one_hot(a.argmax(1), 8),
    "stft": lambda a, b: torch.stft(a.flatten(1), 16, window=torch.ones(16).double(), return_complex=True),
    "cross_of_whatever": lambda a, b: torch.ops.aten.cross(a[:, :, :3], b[:, :, :3]),
    "embed_rows": lambda a, b: F.embedding_bag(a.argmax(1).flatten(1), torch.ones(8, 4).double(), mode="max"),
    "drawn": lambda a, b: F.dropout(a, 0.5, training=True),
}


def made(function: Function, seed: int) -> Sandwich:
    torch.manual_seed(seed)
    model = Sandwich(function).eval()
    columns = torch.rand(model.leave.in_features) > 0.1
    with torch.no_grad():
        model.leave.weight *= columns
    return model


@pytest.mark.parametrize("biases", [True, False], ids=["zeros", "constants"])
@pytest.mark.parametrize("name", SHRINKING | COUNTING | KEPT)
def test_a_network_around_the_operator_stays_exact(name: str, biases: bool) -> None:
    function = (SHRINKING | COUNTING | KEPT)[name]
    model = made(function, 1)
    found = check_exact(model, drop(model, 1, biases), image, name=name)
    # Two runs of an operator that draws differ; that it runs is all there is to see.
    assert found.failure is None, found.failure
    if name != "drawn":
        found.require_exact(1e-9)


@pytest.mark.parametrize(
    "name",
    ["cosine_similarity", "pairwise_distance", "cdist", "einsum_over_channels", "matmul_over_channels"],
)
def test_channels_that_are_zero_in_one_and_constant_in_the_other_are_exact(name: str) -> None:
    model = made((SHRINKING | COUNTING)[name], 1)
    masks = drop(model, 0, True)
    del masks["left.bias"]
    check_exact(model, masks, image, name=name).require_exact(1e-9)


@pytest.mark.parametrize("name", SHRINKING)
def test_channels_that_are_zero_in_both_go(name: str) -> None:
    model = made(SHRINKING[name], 0)
    masks = drop(model, 0, True)
    plan = plan_speedup(model, image(2, 0), masks)
    assert plan.unknown_operators == ()
    kept = int(masks["left.weight"].sum())
    left: Any = materialize(plan).get_submodule("left")
    assert left.weight.shape[0] == kept, str([b.reason for b in plan.blocked])


def test_what_is_flattened_may_come_of_images_of_another_form() -> None:
    model = made(KEPT["tensor_split_flattened"], 0)
    masks = drop(model, 0, True)
    small, masked = materialize(plan_speedup(model, image(2, 0), masks)), apply_masks(model, masks)
    for height, width in ((4, 4), (8, 2)):
        x = torch.randn(3, 3, height, width, dtype=torch.float64)
        torch.testing.assert_close(small(x), masked(x), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", KEPT)
def test_operators_that_are_kept_give_a_reason(name: str) -> None:
    model = made(KEPT[name], 0)
    plan = plan_speedup(model, image(2, 0), drop(model, 0, True))
    assert plan.unknown_operators == ()
    assert any(b.path == "left" for b in plan.blocked)
