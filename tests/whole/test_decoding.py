"""Language models are planned for their prefill and their cached steps, and generate the same text."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from speedup import Plan, apply_masks, materialize, plan_speedup
from tests.support import vision
from tests.support.attention_models import transformers
from tests.support.decoding import DECODING, TOKENS, Decoding
from tests.support.masked_model import MaskedModel, token_ids
from tests.support.measure import relative_error
from tests.support.untouched import differences, snapshot

# transformers looks for torchvision, which may have to be made importable.
pytestmark = pytest.mark.skipif(
    not vision.available() or importlib.util.find_spec("transformers") is None,
    reason="transformers is not installed",
)

_TOLERANCE = 1e-9
_SEEDS = (1, 2, 3)


class Planned:
    """A model in its wrapper, its plan for both calls, the small one and the masked one."""

    def __init__(self, kind: str) -> None:
        self.case: Decoding = DECODING[kind]
        self.masked: MaskedModel = self.case.wrapped()
        before = snapshot(self.masked.model)
        self.plan: Plan = plan_speedup(
            self.masked.model,
            self.case.prefill(2, 0),
            self.masked.masks,
            others=[self.case.step(self.masked.model, 2, 0)],
        )
        self.small: nn.Module = materialize(self.plan).eval()
        self.touched = differences(before, snapshot(self.masked.model))
        self.oracle: nn.Module = apply_masks(self.masked.model, self.masked.masks).eval()


@functools.cache
def planned(kind: str) -> Planned:
    """Made once: several tests look at it, none changes it."""
    return Planned(kind)


@pytest.mark.parametrize("kind", DECODING)
def test_feed_forward_layers_shrink_and_nothing_is_touched(kind: str) -> None:
    done = planned(kind)
    assert not done.touched
    assert _hidden_features(done.case, done.small) == _expected_features(done.case, done.small)


@pytest.mark.parametrize("kind", DECODING)
def test_prefill_is_the_same_at_every_length(kind: str) -> None:
    done = planned(kind)
    for batch in (1, 3):
        for length in (1, 4, 5, 9):
            calls = [done.case.prefill(batch, seed, length) for seed in _SEEDS]
            assert relative_error(done.oracle, done.small, calls) < _TOLERANCE, (batch, length)


@pytest.mark.parametrize("kind", DECODING)
def test_step_is_the_same_behind_every_length(kind: str) -> None:
    done = planned(kind)
    for batch in (1, 3):
        for length in (1, 5, 8):
            calls = [done.case.step(done.oracle, batch, seed, length) for seed in _SEEDS]
            assert relative_error(done.oracle, done.small, calls) < _TOLERANCE, (batch, length)


@pytest.mark.parametrize("kind", DECODING)
def test_steps_on_the_small_model_s_own_cache_are_the_same(kind: str) -> None:
    done = planned(kind)
    logits = [_steps(done.case, model) for model in (done.oracle, done.small)]
    torch.testing.assert_close(logits[1], logits[0], rtol=_TOLERANCE, atol=_TOLERANCE)


@pytest.mark.parametrize("kind", DECODING)
def test_generated_text_is_the_same(kind: str) -> None:
    done = planned(kind)
    texts = [_generated(done.case, model.get_submodule("model")) for model in (done.oracle, done.small)]
    assert texts[0].shape[1] >= 8
    assert torch.equal(texts[0], texts[1])


def _cache_of(model: nn.Module, tokens: Tensor) -> Any:
    """What a model hands on to its next step."""
    with torch.no_grad():
        return model(input_ids=tokens, use_cache=True).past_key_values


@pytest.fixture(params=["an object", "registered"])
def cache_kind(request: pytest.FixtureRequest) -> Iterator[str]:
    """Caches are opaque to torch, or are taken apart once transformers has registered them for export."""
    if request.param == "registered":
        cache = transformers().DynamicCache
        transformers().integrations.executorch.register_dynamic_cache_export_support()
        yield request.param
        pytree._deregister_pytree_node(cache)
        torch.fx._pytree._deregister_pytree_flatten_spec(cache)
    else:
        yield request.param


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_model_is_planned_with_the_cache_that_it_returned(kind: str, cache_kind: str) -> None:
    case = DECODING[kind]
    masked = case.model()
    cache = _cache_of(masked.model, TOKENS(2, 0))
    kept = [layer.keys.clone() for layer in cache.layers]
    step = {"input_ids": token_ids(1, 50)(2, 1), "past_key_values": cache}
    plan = plan_speedup(masked.model, case.plain_call(2, 0), masked.masks, others=[step])
    small, oracle = materialize(plan).eval(), apply_masks(masked.model, masked.masks).eval()
    # The example is only read, although a model writes to the cache that it is called with.
    assert all(torch.equal(layer.keys, keys) for layer, keys in zip(cache.layers, kept, strict=True))
    assert _hidden_features(case, small) == _expected_features(case, small)
    for batch, length in ((1, 5), (3, 2), (3, 9)):
        tokens, more = token_ids(length, 50)(batch, 3), token_ids(1, 50)(batch, 4)
        logits = []
        for model in (oracle, small):
            with torch.no_grad():
                first = model(input_ids=tokens, use_cache=True)
                second = model(input_ids=more, past_key_values=first.past_key_values, use_cache=True)
            logits.append((first.logits, second.logits))
        torch.testing.assert_close(logits[1], logits[0], rtol=_TOLERANCE, atol=_TOLERANCE)
    assert torch.equal(*(_generated(case, model) for model in (oracle, small)))


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_model_that_was_planned_for_its_prefill_alone_generates_the_same(kind: str) -> None:
    case = DECODING[kind]
    masked = case.model()
    small = materialize(plan_speedup(masked.model, case.plain_call(2, 0), masked.masks)).eval()
    oracle = apply_masks(masked.model, masked.masks).eval()
    assert torch.equal(*(_generated(case, model) for model in (oracle, small)))


def _steps(case: Decoding, model: nn.Module) -> Tensor:
    """Logits of the last token, of a prefill and four steps behind it, each on what the last one returned."""
    found = []
    with torch.no_grad():
        output = model(**case.prefill(3, 5))
        for turn in range(4):
            found.append(output[0][:, -1])
            output = model(**case.next(output, token_ids(1, 50)(3, turn)))
    return torch.stack([*found, output[0][:, -1]])


def _generated(case: Decoding, model: Any) -> Tensor:
    """Eight tokens for each of three texts, greedily."""
    source = TOKENS(3, 6) if case.encodes is None else case.encodes(3, 6)
    with torch.no_grad():
        # Random models soon repeat themselves, which would show little.
        options = {"max_new_tokens": 8, "min_new_tokens": 8, "no_repeat_ngram_size": 1}
        found = model.generate(source, do_sample=False, **options)
    assert isinstance(found, Tensor)
    return found


def _hidden_features(case: Decoding, small: nn.Module) -> dict[str, int]:
    return {
        name: parameter.shape[dim]
        for name, parameter in small.named_parameters()
        for suffix, (dim, _) in case.hidden.items()
        if name.endswith(suffix)
    }


def _expected_features(case: Decoding, small: nn.Module) -> dict[str, int]:
    return {
        name: left
        for name, _ in small.named_parameters()
        for suffix, (_, left) in case.hidden.items()
        if name.endswith(suffix)
    }
