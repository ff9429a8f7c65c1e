"""Tiny models of transformers with random rows of every layer masked: exact and untouched."""

from __future__ import annotations

import pytest

from tests.support import transformers_models
from tests.support.zoo import check_transformers

pytestmark = pytest.mark.skipif(not transformers_models.available(), reason="transformers is not installed")

_TOLERANCE = 1e-9
# An encoder, decoders with grouped queries and with a state space, both in one, images, and sound.
_QUICK = (
    "BertForMaskedLM",
    "LlamaForCausalLM",
    "MambaForCausalLM",
    "T5ForConditionalGeneration",
    "SwinForImageClassification",
    "Wav2Vec2ForCTC",
)


@pytest.mark.parametrize("name", _QUICK)
def test_model_with_random_rows_masked_becomes_smaller_and_stays_the_same(name: str) -> None:
    result = check_transformers(name, also_verified=True)
    result.require_exact(_TOLERANCE)
    assert result.parameters_kept < 0.99


@pytest.mark.zoo
@pytest.mark.parametrize("name", transformers_models.classes())
def test_every_class_with_random_rows_masked_stays_the_same(name: str) -> None:
    check_transformers(name, also_verified=True).require_exact(_TOLERANCE)
