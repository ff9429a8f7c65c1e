"""Rules of products with weights, of two activations, and of look-ups, against their operators."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from tests.support.soundness import Case, Tensors, below, case, dead_claims, known_claims, made_once, weight

attend = F.scaled_dot_product_attention

CASES: dict[str, Callable[[], Case]] = {
    "linear": lambda: case(F.linear, (2, 3, 4), weight(5, 4), weight(5)),
    "linear_without_bias": lambda: case(F.linear, (3, 4), weight(5, 4)),
    "linear_of_one_vector": lambda: case(F.linear, (4,), weight(5, 4), weight(5)),
    "conv1d": lambda: case(F.conv1d, (2, 3, 5), weight(4, 3, 2), weight(4)),
    "conv1d_groups": lambda: case(
        lambda x, w, b: F.conv1d(x, w, b, groups=2), (2, 4, 5), weight(6, 2, 2), weight(6)
    ),
    "conv2d": lambda: case(F.conv2d, (2, 3, 4, 4), weight(4, 3, 3, 3), weight(4)),
    "conv2d_padded": lambda: case(
        lambda x, w, b: F.conv2d(x, w, b, padding=1), (2, 3, 4, 4), weight(4, 3, 3, 3), weight(4)
    ),
    "conv2d_same": lambda: case(
        lambda x, w, b: F.conv2d(x, w, b, padding="same"), (2, 3, 4, 4), weight(4, 3, 3, 2), weight(4)
    ),
    "conv2d_pointwise": lambda: case(F.conv2d, (2, 3, 3, 3), weight(4, 3, 1, 1)),
    "conv2d_groups": lambda: case(
        lambda x, w, b: F.conv2d(x, w, b, padding=1, groups=2, stride=2),
        (2, 4, 4, 4),
        weight(6, 2, 3, 3),
        weight(6),
    ),
    "conv2d_depthwise": lambda: case(
        lambda x, w, b: F.conv2d(x, w, b, padding=1, groups=4), (2, 4, 4, 4), weight(4, 1, 3, 3), weight(4)
    ),
    "conv2d_depth_multiplier": lambda: case(
        lambda x, w: F.conv2d(x, w, groups=3), (2, 3, 4, 4), weight(6, 1, 2, 2)
    ),
    "conv2d_without_batch": lambda: case(F.conv2d, (3, 4, 4), weight(4, 3, 2, 2), weight(4)),
    "conv3d": lambda: case(
        lambda x, w, b: F.conv3d(x, w, b, padding=(1, 0, 0)),
        (1, 3, 3, 3, 3),
        weight(4, 3, 2, 2, 2),
        weight(4),
    ),
    "conv_transpose1d": lambda: case(F.conv_transpose1d, (2, 3, 4), weight(3, 5, 2), weight(5)),
    "conv_transpose2d": lambda: case(
        lambda x, w, b: F.conv_transpose2d(x, w, b, stride=2, padding=1, output_padding=1),
        (2, 3, 3, 3),
        weight(3, 4, 3, 3),
        weight(4),
    ),
    "conv_transpose2d_groups": lambda: case(
        lambda x, w, b: F.conv_transpose2d(x, w, b, groups=2), (2, 4, 3, 3), weight(4, 3, 2, 2), weight(6)
    ),
    "matmul_weight": lambda: case(torch.matmul, (2, 3, 4), weight(4, 5)),
    "mm_weight": lambda: case(torch.mm, (3, 4), weight(4, 5)),
    "addmm": lambda: case(lambda x, b, w: torch.addmm(b, x, w), (3, 4), weight(5), weight(4, 5)),
    "attention": lambda: case(attend, (2, 2, 3, 4), (2, 2, 5, 4), (2, 2, 5, 3)),
    "attention_causal": lambda: case(
        lambda q, k, v: attend(q, k, v, is_causal=True), (2, 2, 3, 4), (2, 2, 3, 4), (2, 2, 3, 4)
    ),
    "attention_masked": lambda: case(attend, (2, 2, 3, 4), (2, 2, 5, 4), (2, 2, 5, 3), (3, 5)),
    "attention_grouped": lambda: case(
        lambda q, k, v: attend(q, k, v, enable_gqa=True), (1, 4, 3, 4), (1, 2, 5, 4), (1, 2, 5, 3)
    ),
    "embedding": lambda: case(F.embedding, Tensors((2, 3), below(5)), weight(5, 4)),
    "index": lambda: case(lambda x, i: x[:, i], (2, 5, 3), Tensors((4,), below(5), state=True)),
    "index_of_two_dimensions": lambda: case(lambda x, i: x[i], (5, 3), Tensors((2, 2), below(5), state=True)),
    "index_unknown": lambda: case(lambda x, i: x[i], (5, 3), Tensors((4,), below(5))),
    "index_select": lambda: case(
        lambda x, i: x.index_select(1, i), (2, 5, 3), Tensors((4,), below(5), state=True)
    ),
    "tril": lambda: case(lambda x: x.tril(-1), (2, 4, 3)),
    "triu": lambda: case(lambda x: x.triu(1), (3, 4)),
}
# Their rules call everything read as soon as anything is.
EVERYTHING_READ = {"index", "index_of_two_dimensions", "index_unknown", "tril", "triu"}
TWO_FACTORS: dict[str, Callable[[], Case]] = {
    "bmm": lambda: case(torch.bmm, (2, 3, 4), (2, 4, 3)),
    "matmul": lambda: case(torch.matmul, (2, 3, 4), (4, 2)),
    "matmul_broadcast": lambda: case(torch.matmul, (2, 1, 3, 4), (3, 4, 2)),
    "addmm_scaled": lambda: case(
        lambda x, b, w: torch.addmm(b, x, w, beta=2, alpha=0.5), (3, 4), weight(5), weight(4, 5)
    ),
    "matmul_of_weight": lambda: case(lambda x, w: torch.matmul(w, x), (4, 3), weight(5, 4)),
}

built = made_once(CASES)


@pytest.mark.parametrize("name", CASES)
def test_what_is_called_known_is_that_constant_for_every_input(name: str) -> None:
    claims = known_claims(built(name))
    assert claims > 0


@pytest.mark.parametrize("name", CASES)
def test_what_is_called_dead_does_not_change_live_results(name: str) -> None:
    claims = dead_claims(built(name))
    assert claims > 0 or name in EVERYTHING_READ


@pytest.mark.parametrize("name", TWO_FACTORS)
def test_a_product_of_activations_is_known_where_every_term_is(name: str) -> None:
    assert known_claims(TWO_FACTORS[name]()) > 0


@pytest.mark.parametrize("name", TWO_FACTORS)
def test_a_factor_of_activations_is_dead_where_the_other_is_zero(name: str) -> None:
    assert dead_claims(TWO_FACTORS[name](), together=False) > 0
