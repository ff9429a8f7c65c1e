"""What operators return for tensors without data is remembered, and is what they return."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speedup.ir.inputs import example_from
from speedup.torch_api import FakeTensorMode, Overload, is_alias_of
from speedup.tracing.forms import Form, Forms
from speedup.tracing.trace import capture, export

ATEN = torch.ops.aten


def twice(func: Overload, *calls: tuple[Any, ...], **kwargs: Any) -> list[Any]:
    """What `func` returns for each of the calls, one after the other, all remembered."""
    with FakeTensorMode() as mode, torch.no_grad():
        forms = Forms(mode)
        made = [tuple(a() if callable(a) else a for a in call) for call in calls]
        return [forms.call(func, args, kwargs) for args in made]


def of(*shape: int, **options: Any) -> Callable[[], Tensor]:
    return lambda: torch.empty(*shape, **options)


@pytest.mark.parametrize(
    ("func", "calls"),
    [
        (ATEN.add.Tensor, [(of(2, 3), of(3)), (of(2, 3), of(1, 3))]),
        (ATEN.add.Tensor, [(of(2), of(2, dtype=torch.float64)), (of(2), of(2, dtype=torch.int64))]),
        (ATEN.mul.Tensor, [(of(2, dtype=torch.int64), 1), (of(2, dtype=torch.int64), 1.0)]),
        (ATEN.mul.Tensor, [(of(2, dtype=torch.bool), 1), (of(2, dtype=torch.bool), True)]),
        (ATEN.relu.default, [(of(2, 3),), (lambda: torch.empty(3, 2).t(),)]),
        (ATEN.cat.default, [(lambda: [torch.empty(2, 3)] * 2,), (lambda: [torch.empty(2, 3)] * 2, 1)]),
        (ATEN.linear.default, [(of(2, 3), of(4, 3)), (of(2, 3), of(4, 3), of(4))]),
    ],
)
def test_calls_of_other_forms_are_told_apart(func: Overload, calls: list[tuple[Any, ...]]) -> None:
    found = twice(func, *calls, *calls)
    with FakeTensorMode():
        wanted = [func(*(a() if callable(a) else a for a in call)) for call in calls]
    assert [*map(Form.of, found)] == [*map(Form.of, wanted)] * 2


def test_what_is_remembered_is_not_run_again() -> None:
    first, again = twice(ATEN.linear.default, (of(2, 3), of(4, 3)), (of(2, 3), of(4, 3)))
    assert Form.of(first) == Form.of(again)
    assert not is_alias_of(first, again)


@pytest.mark.parametrize("function", [ATEN.native_layer_norm.default, ATEN.max.dim], ids=str)
def test_several_results_are_remembered_each_by_its_form(function: Overload) -> None:
    rest = (1,) if function is ATEN.max.dim else ([3], None, None, 1e-5)
    first, again = twice(function, (of(2, 3), *rest), (of(2, 3), *rest))
    with FakeTensorMode():
        wanted = [*map(Form.of, function(torch.empty(2, 3), *rest))]
    assert [*map(Form.of, first)] == [*map(Form.of, again)] == wanted
    assert not any(is_alias_of(one, other) for one, other in zip(first, again, strict=True))


def test_numbers_that_are_known_are_not_forgotten() -> None:
    with FakeTensorMode() as mode, torch.no_grad():
        forms = Forms(mode)
        for number, is_more in ((3, True), (1, False), (3, True)):
            assert bool(forms.call(ATEN.gt.Scalar, (torch.tensor(number), 2), {})) is is_more
        unknown = forms.call(ATEN.gt.Scalar, (torch.empty((), dtype=torch.int64), 2), {})
        assert unknown.shape == ()
        assert bool(forms.call(ATEN.gt.Scalar, (torch.tensor(3), 2), {}))


def test_settings_count() -> None:
    with FakeTensorMode() as mode, torch.no_grad():
        forms, x, half = Forms(mode), torch.empty(2, 3), torch.bfloat16
        one = forms.call(ATEN.mm.default, (x, x.t()), {})
        with torch.autocast("cpu", half):
            other = forms.call(ATEN.mm.default, (x, x.t()), {})
        count = torch.ones(2, dtype=torch.int64)
        whole = forms.call(ATEN.true_divide.Tensor, (count, count), {})
        before = torch.get_default_dtype()
        try:
            torch.set_default_dtype(torch.float64)
            wide = forms.call(ATEN.true_divide.Tensor, (count, count), {})
        finally:
            torch.set_default_dtype(before)
    assert (one.dtype, other.dtype, whole.dtype, wide.dtype) == (before, half, before, torch.float64)


def test_a_tensor_that_is_handed_on_is_the_same_one_each_time() -> None:
    with FakeTensorMode() as mode, torch.no_grad():
        forms = Forms(mode)
        for _ in range(2):
            x = torch.empty(2, 3)
            assert is_alias_of(forms.call(ATEN.dropout.default, (x, 0.5, False), {}), x)


def test_gradients_are_followed() -> None:
    with FakeTensorMode() as mode:
        forms, x = Forms(mode), torch.empty(2, 3, requires_grad=True)
        assert all(forms.call(ATEN.relu.default, (x,), {}).requires_grad for _ in range(2))


class Repeating(nn.Module):
    """Equal layers, with what is written into their results, handed on and cast."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        made = []
        for layer in self.layers:
            made.append(F.dropout(torch.relu(layer(x)), 0.5, self.training) * 3)
            made[-1].add_(1)
            x = torch.sigmoid(layer(x)) + F.softmax(made[-1].t(), 0).t()
        return torch.cat([x, *made], 1).mul_(2)


def test_the_graph_is_that_of_an_export() -> None:
    example = example_from(torch.randn(2, 4))
    model = Repeating().eval()
    captured = capture(model, example)
    assert captured is not None and captured.graph == export(model, example).graph
