"""Rules of operators that place, weave, sample, transform or compare, against the operators themselves."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.support.soundness import (
    Case,
    Shape,
    Tensors,
    below,
    blank,
    case,
    dead_claims,
    direct_case,
    known_claims,
    made_once,
    sparse,
    weight,
)

DATA = (2, 3, 4)
IMAGE = (2, 3, 4, 4)


def where(shape: Shape, limit: int) -> Tensors:
    """Positions that are data."""
    return Tensors(shape, below(limit))


def permuted(shape: Shape, generator: torch.Generator) -> Tensor:
    """Different positions along a vector."""
    return torch.randperm(shape[0], generator=generator)


def halves(shape: Shape, generator: torch.Generator) -> Tensor:
    """Some channels are 0 throughout, others 1/2, others neither."""
    channels = torch.randint(3, (*shape[:2], *[1] * (len(shape) - 2)), generator=generator)
    drawn = torch.randn(shape, generator=generator, dtype=torch.float64)
    return torch.where(channels == 0, 0.0, torch.where(channels == 1, 0.5, drawn))


def pairs(shape: Shape, generator: torch.Generator) -> Tensor:
    """Complex numbers, some of them 0."""
    drawn = torch.randn((*shape, 2), generator=generator, dtype=torch.float64)
    return torch.view_as_complex(drawn) * (torch.rand(shape, generator=generator) > 0.4)


def blank_pairs(shape: Shape, generator: torch.Generator) -> Tensor:
    """Complex numbers, half of the time all 0."""
    return pairs(shape, generator) * (torch.rand((), generator=generator) > 0.5)


def zeros_or_image(shape: Shape, generator: torch.Generator) -> Tensor:
    """Channels of an image of which some are 0 throughout."""
    kept = torch.rand([n if d == 1 else 1 for d, n in enumerate(shape)], generator=generator) > 0.5
    return torch.randn(shape, generator=generator, dtype=torch.float64) * kept


FIRSTS = Tensors((2,), lambda shape, generator: torch.tensor([0, 3]))


BAG = torch.ops.aten.embedding_bag.default


def weight_like(*shape: int) -> Tensors:
    """A table of which some columns are 0 throughout."""
    return Tensors(shape, zeros_or_image)


def put(data: Tensor, values: Tensor, *indices: Tensor) -> Tensor:
    return torch.index_put(data, indices, values)


PLACED: dict[str, Callable[[], Case]] = {
    "gather": lambda: case(lambda x, i: x.gather(1, i), Tensors(DATA, halves), where((2, 2, 4), 3)),
    "gather_of_a_part": lambda: case(lambda x, i: x.gather(1, i), Tensors(DATA, blank), where((1, 5, 3), 3)),
    "take_along_dim": lambda: case(
        lambda x, i: torch.take_along_dim(x, i, 2), Tensors(DATA, halves), where((2, 3, 2), 4)
    ),
    "scatter": lambda: case(
        lambda x, i, y: x.scatter(2, i, y), Tensors(DATA, blank), where(DATA, 4), Tensors(DATA, blank)
    ),
    "scatter_of_a_part": lambda: case(
        lambda x, i, y: x.scatter(2, i, y), Tensors(DATA, blank), where((1, 3, 2), 4), Tensors(DATA, blank)
    ),
    "scatter_of_a_number": lambda: case(
        lambda x, i: x.scatter(2, i, 0.5), Tensors(DATA, halves), where((2, 3, 2), 4)
    ),
    "scatter_add": lambda: case(
        lambda x, i, y: x.scatter_add(2, i, y), Tensors(DATA, blank), where(DATA, 4), Tensors(DATA, blank)
    ),
    "scatter_add_of_levels": lambda: case(
        lambda x, i, y: x.scatter_add(2, i, y), Tensors(DATA, halves), where(DATA, 4), Tensors(DATA, halves)
    ),
    "scatter_reduce": lambda: case(
        lambda x, i, y: x.scatter_reduce(2, i, y, "amax"),
        Tensors(DATA, blank),
        where(DATA, 4),
        Tensors(DATA, blank),
    ),
    "index_select": lambda: case(lambda x, i: x.index_select(2, i), Tensors(DATA, halves), where((5,), 4)),
    "index_add": lambda: case(
        lambda x, i, y: x.index_add(2, i, y), Tensors(DATA, blank), where((2,), 4), Tensors((2, 3, 2), blank)
    ),
    "index_copy": lambda: case(
        lambda x, i, y: x.index_copy(2, i, y),
        Tensors(DATA, blank),
        Tensors((4,), permuted),
        Tensors(DATA, blank),
    ),
    "index_fill": lambda: case(lambda x, i: x.index_fill(2, i, 0.5), Tensors(DATA, halves), where((2,), 4)),
    "index_put_rows": lambda: case(put, Tensors(DATA, blank), Tensors((5, 3, 4), blank), where((5,), 2)),
    "index_put_points": lambda: case(
        put, Tensors(DATA, blank), Tensors((5, 4), blank), where((5,), 2), where((5,), 3)
    ),
    "index_put_of_one_number": lambda: case(put, Tensors(DATA, blank), Tensors((), blank), where((5,), 2)),
    "index_put_broadcast": lambda: case(put, Tensors(DATA, blank), Tensors((3, 1), blank), where((2, 2), 2)),
    "index_put_accumulated": lambda: case(
        lambda x, i, y: torch.index_put(x, (i,), y, accumulate=True),
        Tensors(DATA, blank),
        where((5,), 2),
        Tensors((5, 3, 4), blank),
    ),
    "index_put_apart": lambda: case(
        lambda x, i, j, y: torch.ops.aten.index_put(x, [i, None, j], y),
        Tensors(DATA, blank),
        where((5,), 2),
        where((5,), 4),
        Tensors((5, 3), blank),
    ),
    "index_put_behind": lambda: case(
        lambda x, i, y: torch.ops.aten.index_put(x, [None, None, i], y),
        Tensors(DATA, blank),
        where((5,), 4),
        Tensors((2, 3, 5), blank),
    ),
}
WOVEN: dict[str, Callable[[], Case]] = {
    "pixel_shuffle": lambda: case(lambda x: F.pixel_shuffle(x, 2), Tensors((2, 8, 2, 2), halves)),
    "pixel_unshuffle": lambda: case(lambda x: F.pixel_unshuffle(x, 2), Tensors(IMAGE, halves)),
    "pixel_unshuffle_unbatched": lambda: case(lambda x: F.pixel_unshuffle(x, 2), Tensors((3, 4, 4), blank)),
    "im2col": lambda: case(lambda x: F.unfold(x, 2), Tensors(IMAGE, halves)),
    "im2col_padded": lambda: case(lambda x: F.unfold(x, (3, 2), padding=1, stride=2), Tensors(IMAGE, halves)),
    "im2col_dilated": lambda: case(lambda x: F.unfold(x, 2, dilation=2), Tensors((3, 4, 4), blank)),
    "col2im": lambda: case(lambda x: F.fold(x, (3, 3), 2), Tensors((2, 8, 4), blank)),
    "col2im_strided": lambda: case(lambda x: F.fold(x, (5, 5), 2, stride=2), Tensors((8, 4), blank)),
}
SAMPLED: dict[str, Callable[[], Case]] = {
    "grid_sampler": lambda: case(
        lambda x, g: F.grid_sample(x, g, align_corners=False), Tensors(IMAGE, zeros_or_image), (2, 5, 3, 2)
    ),
    "grid_sampler_at_the_border": lambda: case(
        lambda x, g: F.grid_sample(x, g, mode="nearest", padding_mode="border", align_corners=True),
        Tensors(IMAGE, zeros_or_image),
        (2, 3, 3, 2),
    ),
    "max_unpool": lambda: case(
        lambda x, i: F.max_unpool2d(x, i, (2, 2)),
        Tensors((1, 3, 2, 2), zeros_or_image),
        where((1, 3, 2, 2), 16),
    ),
    "embedding_bag": lambda: direct_case(BAG, weight_like(5, 4), where((7,), 5), FIRSTS),
    "embedding_bag_weighted": lambda: direct_case(
        BAG, weight_like(5, 4), where((7,), 5), FIRSTS, False, 0, False, Tensors((7,))
    ),
}
LOOKED_UP: dict[str, Callable[[], Case]] = {
    "embedding": lambda: direct_case(
        torch.ops.aten.embedding.default, weight(3, 8, sampler=sparse), where((9,), 3)
    ),
    "index": lambda: case(lambda x, i: x[i], weight_like(3, 8), where((9,), 3)),
    "index_of_channels": lambda: case(lambda x, i: x[:, i], DATA, where((5,), 3)),
}
MIXED: dict[str, Callable[[], Case]] = {
    "fft": lambda: case(lambda x: torch.fft.fft(x, dim=1), Tensors(DATA, pairs)),
    "rfft": lambda: case(torch.fft.rfft, Tensors(DATA, blank)),
    "irfft": lambda: case(lambda x: torch.fft.irfft(x, n=6), Tensors(DATA, blank_pairs)),
    "rfft2": lambda: case(torch.fft.rfft2, Tensors(IMAGE, halves)),
    "fftn_of_the_last": lambda: case(lambda x: torch.fft.fftn(x, s=(3, 4)), Tensors(DATA, blank)),
    "fftshift": lambda: case(lambda x: torch.fft.fftshift(x, dim=2), Tensors(DATA, halves)),
    "view_as_real": lambda: case(torch.view_as_real, Tensors(DATA, pairs)),
    "view_as_complex": lambda: case(torch.view_as_complex, (2, 3, 2)),
    "real": lambda: case(torch.real, Tensors(DATA, pairs)),
    "angle": lambda: case(torch.angle, Tensors(DATA, pairs)),
    "complex": lambda: case(torch.complex, DATA, DATA),
}
NEVER_KNOWN = {
    "cosine_similarity",
    "cosine_similarity_last",
    "cosine_similarity_repeated",
    "cdist",
    "cdist_broadcast",
    "pairwise_distance",
    "pairwise_distance_keeping",
    "one_hot",
}
COMPARED: dict[str, Callable[[], Case]] = {
    "cosine_similarity": lambda: case(F.cosine_similarity, DATA, DATA),
    "cosine_similarity_last": lambda: case(lambda x, y: F.cosine_similarity(x, y, dim=-1), DATA, (3, 4)),
    "cosine_similarity_repeated": lambda: case(lambda x, y: F.cosine_similarity(x, y, dim=0), DATA, (3, 1)),
    "cdist": lambda: case(torch.cdist, (2, 3, 4), (2, 5, 4)),
    "cdist_broadcast": lambda: case(lambda x, y: torch.cdist(x, y, p=1.0), (2, 3, 4), (5, 4)),
    "pairwise_distance": lambda: case(F.pairwise_distance, (3, 4), (3, 4)),
    "pairwise_distance_keeping": lambda: case(
        lambda x, y: F.pairwise_distance(x, y, keepdim=True), DATA, (4,)
    ),
    "cross": lambda: case(lambda x, y: torch.cross(x, y, dim=1), DATA, DATA),
    "cross_anywhere": lambda: case(torch.ops.aten.cross, DATA, DATA),
    "linalg_cross": lambda: case(torch.linalg.cross, (2, 4, 3), (1, 4, 3)),
    "one_hot": lambda: case(lambda i: F.one_hot(i, 5), where((2, 3), 5)),
}
# Need a coincidence that random facts seldom hold.
SELDOM = {"scatter_of_a_part", "embedding_bag_weighted", "linalg_cross"}
CASES = PLACED | WOVEN | SAMPLED | LOOKED_UP | MIXED | COMPARED

built = made_once(CASES)


@pytest.mark.parametrize("name", CASES)
def test_what_is_called_known_is_that_constant_for_every_input(name: str) -> None:
    claims = known_claims(built(name))
    assert claims == 0 if name in NEVER_KNOWN else claims > 0 or name in SELDOM


@pytest.mark.parametrize("name", CASES)
def test_what_is_called_dead_does_not_change_live_results(name: str) -> None:
    assert dead_claims(built(name)) + dead_claims(built(name), together=False) > 0 or name in SELDOM
