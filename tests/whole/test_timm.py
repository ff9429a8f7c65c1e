"""A model of each of timm's families with random rows of every layer masked: exact and untouched."""

from __future__ import annotations

import importlib

import pytest

from tests.support import timm_models
from tests.support.zoo import check_timm

pytestmark = pytest.mark.skipif(not timm_models.available(), reason="timm is not installed")

_TOLERANCE = 1e-9
# Convolutions with standardised weights, squeeze-excitation, LayerNorm, attention, and all of it at once.
_QUICK = ("nfnet", "efficientnet", "convnext", "vision_transformer", "maxxvit")


def test_every_family_that_timm_registers_has_a_model() -> None:
    assert timm_models.families() == tuple(sorted(importlib.import_module("timm").list_modules()))


@pytest.mark.parametrize("family", _QUICK)
def test_model_with_random_rows_masked_becomes_smaller_and_stays_the_same(family: str) -> None:
    result = check_timm(family, also_verified=True)
    result.require_exact(_TOLERANCE)
    assert result.parameters_kept < 0.99


@pytest.mark.zoo
@pytest.mark.parametrize("family", timm_models.families())
def test_every_family_with_random_rows_masked_stays_the_same(family: str) -> None:
    check_timm(family, also_verified=True).require_exact(_TOLERANCE)
