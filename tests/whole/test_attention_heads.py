"""Masked attention heads are gone from nine families of transformers, with no attribute patched by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

import pytest
from torch import nn

from speedup import materialize, plan_speedup
from tests.support.attention import head_cuts
from tests.support.attention_models import FAMILIES, HEADS_DROPPED, missing
from tests.support.masked_model import Cut, MaskedModel, masked_model, masks_of, shapes_after
from tests.support.measure import check_exact


def _swins_in_the_zoo() -> list[object]:
    """All families; the Swins, whose windows take long to trace, in the longer run only."""
    return [pytest.param(kind, marks=[pytest.mark.zoo] if "swin" in kind else []) for kind in FAMILIES]


# Of six groups of two query heads each, one query head is left; all keys and values are still read.
_ONE_OF_EACH_GROUP = (0, 3, 5, 6, 8, 11)


@pytest.mark.parametrize("kind", FAMILIES)
def test_model_without_a_third_of_its_heads_stays_the_same(kind: str) -> None:
    _require_exact(kind, _without_heads(kind))


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_third_of_the_heads_is_gone(kind: str) -> None:
    _require_heads_gone(kind, _without_heads(kind))


@pytest.mark.parametrize("kind", _swins_in_the_zoo())
def test_model_with_only_the_rows_of_heads_masked_stays_the_same(kind: str) -> None:
    _require_exact(kind, _without_heads(kind, readers_masked=False))


@pytest.mark.parametrize("kind", _swins_in_the_zoo())
def test_heads_go_when_only_their_rows_are_masked(kind: str) -> None:
    _require_heads_gone(kind, _without_heads(kind, readers_masked=False))


def test_model_without_a_query_head_of_each_group_stays_the_same() -> None:
    _require_exact("llama", _family("llama", partial(head_cuts, kind="llama", drop=_ONE_OF_EACH_GROUP)))


def test_query_heads_stay_where_a_group_of_one_would_take_another_branch() -> None:
    masked = _family("llama", partial(head_cuts, kind="llama", drop=_ONE_OF_EACH_GROUP))
    weight = "model.layers.0.self_attn.q_proj.weight"
    assert _small_shapes(masked, [weight]) == {weight: (48, 48)}


def test_layers_may_lose_different_numbers_of_heads() -> None:
    masked = _family("bert", _different_heads)
    _require_exact("bert", masked)
    expected = shapes_after(masked.model, _different_heads(masked.model))
    assert _small_shapes(masked, expected) == expected


def _different_heads(model: nn.Module) -> tuple[Cut, ...]:
    """Four heads of BERT's first layer and three others of its second."""
    first, second = head_cuts(model, "bert", (0, 1, 2, 11)), head_cuts(model, "bert", (4, 5, 6))
    return (
        *(cut for cut in first if ".layer.0." in cut.parameter),
        *(cut for cut in second if ".layer.1." in cut.parameter),
    )


def _without_heads(kind: str, readers_masked: bool = True) -> MaskedModel:
    drop = HEADS_DROPPED[kind]
    return _family(kind, partial(head_cuts, kind=kind, drop=drop, readers_masked=readers_masked))


def _family(kind: str, cuts: Callable[[nn.Module], tuple[Cut, ...]]) -> MaskedModel:
    family = FAMILIES[kind]
    if absent := missing(family.needs):
        pytest.skip(f"needs {', '.join(absent)}")
    return masked_model(
        family.build(), lambda model: masks_of(model, cuts(model)), family.make_inputs, family.other_inputs
    )


def _require_exact(kind: str, masked: MaskedModel) -> None:
    """In float64, at batches of one and three, at another size, with nothing touched."""
    others = [masked.other_inputs] if masked.other_inputs else []
    check_exact(
        masked.model, masked.masks, masked.make_inputs, name=kind, other_inputs=others, also_verified=True
    ).require_exact(1e-9)


def _require_heads_gone(kind: str, masked: MaskedModel) -> None:
    expected = shapes_after(masked.model, head_cuts(masked.model, kind, HEADS_DROPPED[kind]))
    assert _small_shapes(masked, expected) == expected


def _small_shapes(masked: MaskedModel, names: Iterable[str]) -> dict[str, tuple[int, ...]]:
    small = materialize(plan_speedup(masked.model, masked.make_inputs(2, 0), masked.masks), verify="none")
    return {name: tuple(small.get_parameter(name).shape) for name in names}
