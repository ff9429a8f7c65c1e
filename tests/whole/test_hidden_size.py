"""Residual channels masked at every writer and reader are gone: the hidden size is smaller."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import pytest

from speedup import materialize, plan_speedup
from tests.support.attention import hidden_cuts, hidden_masks
from tests.support.attention_models import CHANNELS_DROPPED, HIDDEN_FAMILIES, STAYS, in_double, missing
from tests.support.masked_model import MaskedModel, masked_model, shapes_after
from tests.support.measure import check_exact


def _kinds(names: Iterable[str]) -> list[object]:
    """Those that the Llama and the BERT stand for run in the zoo only."""
    kinds = list(names)
    marks = {kind: [] if kind in ("bert", "llama") else [pytest.mark.zoo] for kind in kinds}
    return [pytest.param(kind, marks=marks[kind]) for kind in kinds]


@pytest.mark.parametrize("kind", _kinds(HIDDEN_FAMILIES))
def test_model_without_some_residual_channels_stays_the_same(kind: str) -> None:
    masked = _without_channels(kind)
    others = [masked.other_inputs] if masked.other_inputs else []
    check_exact(
        masked.model, masked.masks, masked.make_inputs, name=kind, other_inputs=others, also_verified=True
    ).require_exact(1e-9)


@pytest.mark.parametrize("kind", _kinds(k for k in HIDDEN_FAMILIES if k not in STAYS))
def test_hidden_size_is_smaller_at_every_writer_and_reader(kind: str) -> None:
    masked = _without_channels(kind)
    small = materialize(plan_speedup(masked.model, masked.make_inputs(2, 0), masked.masks), verify="none")
    expected = shapes_after(masked.model, hidden_cuts(masked.model, kind, CHANNELS_DROPPED))
    assert {name: tuple(small.get_parameter(name).shape) for name in expected} == expected


def _without_channels(kind: str) -> MaskedModel:
    family = HIDDEN_FAMILIES[kind]
    if absent := missing(family.needs):
        pytest.skip(f"needs {', '.join(absent)}")
    recipe = partial(hidden_masks, kind=kind, drop=CHANNELS_DROPPED)
    return masked_model(in_double(family.build()), recipe, family.make_inputs, family.other_inputs)
