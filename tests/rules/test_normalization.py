"""Normalization rules against the operators they speak for."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from speedup.engine.lattice import constant, unknown
from speedup.rules import STANDARD, rule_for
from tests.support.soundness import (
    Case,
    Tensors,
    blank,
    case,
    dead_claims,
    known_claims,
    made_once,
    positive,
    weight,
)

DATA = (2, 4, 3)
VARIANCE = weight(4, sampler=positive)

CASES: dict[str, Callable[[], Case]] = {
    "batch_norm": lambda: case(F.batch_norm, DATA, weight(4), VARIANCE, weight(4), weight(4)),
    "batch_norm_of_vectors": lambda: case(
        lambda x, m, v, w, b: F.batch_norm(x, m, v, w, b, eps=0.1),
        (3, 4),
        weight(4),
        VARIANCE,
        weight(4),
        weight(4),
    ),
    "instance_norm": lambda: case(
        lambda x, w, b: F.instance_norm(x, weight=w, bias=b), DATA, weight(4), weight(4)
    ),
    "group_norm": lambda: case(lambda x, w, b: F.group_norm(x, 2, w, b), DATA, weight(4), weight(4)),
    "group_norm_of_one_group": lambda: case(
        lambda x, w, b: F.group_norm(x, 1, w, b), (2, 4, 2, 2), weight(4), weight(4)
    ),
    "layer_norm": lambda: case(lambda x, w, b: F.layer_norm(x, (4,), w, b), (2, 3, 4), weight(4), weight(4)),
    "layer_norm_of_two_dimensions": lambda: case(
        lambda x, w, b: F.layer_norm(x, (3, 4), w, b), (2, 3, 4), weight(3, 4), weight(3, 4)
    ),
    "rms_norm": lambda: case(lambda x, w: F.rms_norm(x, (4,), w, 1e-5), (2, 3, 4), weight(4)),
}

PLAIN: dict[str, Callable[[], Case]] = {
    "batch_norm": lambda: case(F.batch_norm, DATA, weight(4), VARIANCE),
    "instance_norm": lambda: case(F.instance_norm, DATA),
    "group_norm": lambda: case(lambda x: F.group_norm(x, 2), DATA),
    "group_norm_of_zeros": lambda: case(lambda x: F.group_norm(x, 2), Tensors(DATA, blank)),
    "instance_norm_of_zeros": lambda: case(F.instance_norm, Tensors(DATA, blank)),
    "layer_norm": lambda: case(lambda x: F.layer_norm(x, (4,)), (2, 3, 4)),
    "rms_norm": lambda: case(lambda x: F.rms_norm(x, (4,)), (2, 3, 4)),
}

built = made_once(CASES)


@pytest.mark.parametrize("name", CASES)
def test_what_is_called_known_is_that_constant_for_every_input(name: str) -> None:
    assert known_claims(built(name)) > 0


@pytest.mark.parametrize("name", CASES)
def test_what_is_called_dead_does_not_change_live_results(name: str) -> None:
    assert dead_claims(built(name)) > 0


@pytest.mark.parametrize("name", PLAIN)
def test_known_holds_without_weight_and_bias(name: str) -> None:
    assert known_claims(PLAIN[name]()) > 0


@pytest.mark.parametrize("name", PLAIN)
def test_dead_holds_without_weight_and_bias(name: str) -> None:
    assert dead_claims(PLAIN[name]()) > 0


@pytest.mark.parametrize("name", ["batch_norm", "instance_norm", "group_norm", "layer_norm", "rms_norm"])
def test_a_zero_weight_leaves_the_bias_and_reads_no_data(name: str) -> None:
    one = built(name)
    gain = torch.tensor([0.0, 1.0, 0.0, 1.0], dtype=torch.float64)
    values = {"weight": gain, "running_var": torch.ones(4, dtype=torch.float64)}
    rest = [
        constant(values.get(key, torch.full((4,), 3.0, dtype=torch.float64)))
        for key in one.op.arguments
        if key != "input" and one.op.position(key) is not None
    ]
    facts = [unknown(3, torch.float64), *rest]
    rule = rule_for(one.op.target, STANDARD)
    (found,) = rule.known(one.op, facts)
    assert found.known.reshape(-1).tolist() == [True, False, True, False]
    expected = 0.0 if name == "rms_norm" else 3.0
    assert found.value.reshape(-1)[0] == expected
    data = rule.live(one.op, facts, [torch.tensor([[[True]]])])[0]
    if name in ("batch_norm", "instance_norm"):
        assert data.reshape(-1).tolist() == [False, True, False, True]


def test_batch_norm_with_batch_statistics_leaves_the_bias_of_constants() -> None:
    one = case(
        lambda x, w, b: F.batch_norm(x, None, None, w, b, training=True), (2, 4, 3), weight(4), weight(4)
    )
    assert known_claims(one) > 0
