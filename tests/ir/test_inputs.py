"""Example calls, the tensors of outputs, and fresh inputs like the example's."""

from __future__ import annotations

from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from typing import Any

import attrs
import pytest
import torch
from torch import Tensor

from speedup.errors import InputError, SpeedupError
from speedup.ir.inputs import (
    batch_size,
    example_from,
    fresh_inputs,
    leaves_of,
    sketch_of,
    tensors_of,
)

A, B, C = torch.randn(2, 3), torch.randn(2, 4), torch.arange(6).reshape(2, 3)


def named_tensors_of(output: Any) -> list[tuple[str, torch.Tensor]]:
    return [(place, leaf) for place, leaf in leaves_of(output) if isinstance(leaf, torch.Tensor)]


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def rebuilt(x: Any, kwargs: Any = None) -> tuple[tuple[Any, ...], dict[str, Any]]:
    example = example_from(x, kwargs)
    return example.call(example.tensors)


@pytest.mark.parametrize(
    ("x", "kwargs", "args", "keywords"),
    [
        (A, None, (A,), {}),
        ((A, B), None, (A, B), {}),
        ([A, B], None, (A, B), {}),
        ({"ids": A, "mask": B}, None, (), {"ids": A, "mask": B}),
        (A, {"mask": B}, (A,), {"mask": B}),
        ({"ids": A}, {"mask": B}, (), {"ids": A, "mask": B}),
        (None, {"ids": A}, (), {"ids": A}),
        ((A, 3, None, "mode"), {"flag": True}, (A, 3, None, "mode"), {"flag": True}),
        (([A, B], {"inner": C}), None, ([A, B], {"inner": C}), {}),
    ],
)
def test_an_example_is_rebuilt_as_the_call_it_was_read_from(
    x: Any, kwargs: Any, args: tuple[Any, ...], keywords: dict[str, Any]
) -> None:
    got_args, got_keywords = rebuilt(x, kwargs)
    assert _same(got_args, args)
    assert _same(got_keywords, keywords)


def _same(a: Any, b: Any) -> bool:
    """Equality of structures whose tensors are the same objects."""
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return a is b
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(_same, a, b))
    return bool(a == b)


def test_a_call_puts_other_tensors_in_the_same_places() -> None:
    example = example_from(([A, 5], B), {"mask": C})
    assert len(example.tensors) == 3
    args, keywords = example.call([t + 1 for t in example.tensors])
    assert torch.equal(args[0][0], A + 1)
    assert args[0][1] == 5
    assert torch.equal(args[1], B + 1)
    assert torch.equal(keywords["mask"], C + 1)


def test_keywords_given_apart_win_over_those_of_a_dict() -> None:
    _, keywords = rebuilt({"ids": A}, {"ids": B})
    assert keywords["ids"] is B


@pytest.mark.parametrize("x", [3, "text", object(), None, 1.5])
def test_an_example_of_another_kind_is_refused_with_its_type(x: Any) -> None:
    with pytest.raises(InputError, match=type(x).__name__):
        example_from(x)


@pytest.mark.parametrize("x", [(), [], {}, (3, None), {"flag": True}])
def test_an_example_without_tensors_is_refused(x: Any) -> None:
    with pytest.raises(InputError, match="no tensor"):
        example_from(x)


def test_an_input_error_is_a_type_error_and_a_speedup_error() -> None:
    assert issubclass(InputError, TypeError)
    assert issubclass(InputError, SpeedupError)


Pair = namedtuple("Pair", "left right")


@dataclass
class Output:
    logits: Tensor
    hidden: tuple[Tensor, ...] = ()
    loss: Tensor | None = None


@attrs.define
class Slotted:
    left: Tensor
    right: Tensor


class Bag:
    """An object with nothing but attributes."""

    def __init__(self, **fields: Any) -> None:
        vars(self).update(fields)


@pytest.mark.parametrize(
    ("output", "places"),
    [
        (A, [""]),
        ((A, B), ["[0]", "[1]"]),
        ([A, (B, C)], ["[0]", "[1][0]", "[1][1]"]),
        ({"a": A, "b": {"c": B}}, ["['a']", "['b']['c']"]),
        (OrderedDict(z=A, a=B), ["['z']", "['a']"]),
        (Pair(A, B), ["[0]", "[1]"]),
        (Output(A, (B, C)), [".logits", ".hidden[0]", ".hidden[1]"]),
        (Slotted(A, B), [".left", ".right"]),
        (Bag(x=A, n=3, y=[B]), [".x", ".y[0]"]),
        ((None, A, 3, "s", True), ["[1]"]),
        (None, []),
        ({}, []),
    ],
)
def test_tensors_of_an_output_are_named_by_their_place(output: Any, places: list[str]) -> None:
    found = list(named_tensors_of(output))
    assert [place for place, _ in found] == places
    every = {id(t) for t in (A, B, C)}
    assert all(id(t) in every for _, t in found)
    assert len({id(t) for _, t in found}) == len(places)
    assert all(map(_same, tensors_of(output), (t for _, t in found)))


def test_an_output_that_contains_itself_ends() -> None:
    loop: list[Any] = [A]
    loop.append(loop)
    assert [place for place, _ in named_tensors_of(loop)] == ["[0]"]


def test_a_tensor_returned_twice_is_named_twice() -> None:
    assert len(tensors_of((A, A))) == 2


@pytest.mark.parametrize(
    ("x", "expected"),
    [
        (A, 2),
        ((A, B, C), 2),
        ((A, torch.tensor(3.0)), 2),
        ((A, torch.randn(5)), None),
        (torch.tensor(1.0), None),
        (([torch.randn(3, 4, 5), torch.randn(3, 6, 5)],), None),
        (([torch.randn(2, 3, 4, 5), torch.randn(2, 3, 2, 2)],), 2),
    ],
)
def test_the_batch_size_is_what_all_inputs_share(x: Any, expected: int | None) -> None:
    assert batch_size(example_from(x)) == expected


def test_fresh_floats_have_the_mean_and_spread_of_the_example() -> None:
    example = example_from(torch.randn(200, 50, generator=generator()) * 3 + 7)
    (fresh,) = fresh_inputs(example, None, generator())
    assert fresh.shape == (200, 50)
    assert fresh.dtype == torch.float32
    assert not torch.equal(fresh, example.tensors[0])
    assert fresh.mean().item() == pytest.approx(7, abs=0.2)
    assert fresh.std().item() == pytest.approx(3, abs=0.2)


def test_a_constant_example_still_gives_varied_inputs_around_it() -> None:
    (fresh,) = fresh_inputs(example_from(torch.full((50, 50), 4.0)), None, generator())
    assert fresh.mean().item() == pytest.approx(4, abs=0.2)
    assert fresh.std().item() == pytest.approx(1, abs=0.2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.complex64])
def test_fresh_inputs_keep_their_dtype(dtype: torch.dtype) -> None:
    (fresh,) = fresh_inputs(example_from(torch.ones(2, 3, dtype=dtype)), None, generator())
    assert fresh.dtype == dtype


def test_fresh_integers_are_drawn_from_the_examples_own_values() -> None:
    tokens = torch.tensor([[5, 7, 7], [900, 5, 12]])
    (fresh,) = fresh_inputs(example_from(tokens), 40, generator())
    assert fresh.dtype == torch.int64
    assert fresh.shape == (40, 3)
    assert set(fresh.unique().tolist()) == {5, 7, 12, 900}


def test_fresh_booleans_stay_booleans_of_the_example() -> None:
    (fresh,) = fresh_inputs(example_from(torch.ones(3, 4, dtype=torch.bool)), None, generator())
    assert fresh.dtype == torch.bool
    assert bool(fresh.all())


def test_the_batch_replaces_the_first_extent_of_inputs_that_have_one() -> None:
    example = example_from((A, C, torch.tensor(2.0)))
    assert [tuple(t.shape) for t in fresh_inputs(example, 5, generator())] == [(5, 3), (5, 3), ()]


def test_equal_generators_give_equal_inputs_and_leave_the_global_one_alone() -> None:
    example = example_from((A, C))
    before = torch.get_rng_state()
    first, second = fresh_inputs(example, 3, generator()), fresh_inputs(example, 3, generator())
    assert all(map(torch.equal, first, second))
    assert torch.equal(torch.get_rng_state(), before)


def test_fresh_inputs_leave_the_example_as_it_was() -> None:
    kept = A.clone()
    fresh_inputs(example_from(A), None, generator())[0].add_(1)
    assert torch.equal(A, kept)


def test_an_example_that_requires_grad_is_sketched_without_its_history() -> None:
    """Since torch 2.14 a number made of such a tensor brings a warning."""
    asked: list[bool] = []

    class Watched(Tensor):
        def __float__(self) -> float:
            asked.append(self.requires_grad)
            return float(self.as_subclass(Tensor).detach())

    tensor = torch.randn(4, 3).as_subclass(Watched).requires_grad_()

    sketch = sketch_of(tensor)

    assert asked == [False, False]
    assert sketch.mean == pytest.approx(float(tensor.detach().mean()))
