"""Blocks between two layouts: flattening, pooling to a vector, image to tokens and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import attrs
from hypothesis import strategies as st
from torch import nn

from speedup.testing.grammar.recurrent import last_state
from speedup.testing.grammar.site import Layout, Shape, pick
from speedup.testing.grammar.sized import last_token
from speedup.testing.modules import (
    FirstToken,
    FromTokens,
    GlobalMean,
    LiteralFlatten,
    TokenMean,
    ToTokens,
    View,
)
from speedup.testing.spec import Spec, sequential

MOST_FEATURES = 200


@attrs.frozen
class Transition:
    """One way out of a layout into another, allowed where `fits` is true of the shape."""

    target: Layout
    draw: Callable[[st.DrawFn, Shape], Spec]
    fits: Callable[[Shape], bool] = lambda shape: True


def _flatten(draw: st.DrawFn, shape: Shape) -> Spec:
    features = shape.channels * shape.positions
    flat = pick(draw, Spec.of(nn.Flatten), Spec.of(View, features))
    return sequential(flat, Spec.of(nn.Linear, features, draw(st.integers(2, 8))))


def _pooled(draw: st.DrawFn, shape: Shape) -> Spec:
    return sequential(Spec.of(nn.AdaptiveAvgPool2d, 1), Spec.of(nn.Flatten))


def _literally_flat(draw: st.DrawFn, shape: Shape) -> Spec:
    return Spec.of(LiteralFlatten, shape.channels)


def _constantly(make: type[nn.Module], *arguments: object) -> Callable[[st.DrawFn, Shape], Spec]:
    spec = Spec.of(make, *arguments)
    return lambda draw, shape: spec


def _image_of_vector(draw: st.DrawFn, shape: Shape) -> Spec:
    channels, size = draw(st.integers(1, 4)), draw(st.integers(2, 4))
    linear = Spec.of(nn.Linear, shape.channels, channels * size * size)
    unflatten = pick(
        draw, Spec.of(nn.Unflatten, 1, (channels, size, size)), Spec.of(View, channels, size, size)
    )
    return sequential(linear, unflatten)


def _tokens_of_vector(draw: st.DrawFn, shape: Shape) -> Spec:
    length, features = draw(st.integers(2, 4)), draw(st.integers(2, 6))
    return sequential(Spec.of(nn.Linear, shape.channels, length * features), Spec.of(View, length, features))


def _image_of_tokens(draw: st.DrawFn, shape: Shape) -> Spec:
    return Spec.of(FromTokens, 2)


def _is_small(shape: Shape) -> bool:
    return shape.channels * shape.positions <= MOST_FEATURES


def _has_few_positions(shape: Shape) -> bool:
    return shape.positions <= 36


def _has_even_length(shape: Shape) -> bool:
    return shape.space[0] % 2 == 0


TRANSITIONS: Mapping[Layout, tuple[Transition, ...]] = {
    "image": (
        Transition("vector", _flatten, _is_small),
        Transition("vector", _flatten, _is_small),
        Transition("vector", _pooled),
        Transition("vector", _literally_flat),
        Transition("vector", _constantly(GlobalMean)),
        Transition("tokens", _constantly(ToTokens), _has_few_positions),
    ),
    "signal": (
        Transition("vector", _flatten, _is_small),
        Transition("tokens", _constantly(ToTokens)),
    ),
    "volume": (
        Transition("vector", _flatten, _is_small),
        Transition("tokens", _constantly(ToTokens), _has_few_positions),
    ),
    "tokens": (
        Transition("vector", _flatten, _is_small),
        Transition("vector", _constantly(TokenMean)),
        Transition("vector", _constantly(FirstToken)),
        Transition("vector", last_token),
        Transition("vector", last_state),
        Transition("signal", _constantly(FromTokens)),
        Transition("image", _image_of_tokens, _has_even_length),
    ),
    "vector": (
        Transition("image", _image_of_vector),
        Transition("tokens", _tokens_of_vector),
    ),
}
