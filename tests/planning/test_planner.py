from __future__ import annotations

import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import prune

from speedup import (
    ExportError,
    InputError,
    MaskDeviceError,
    MaskShapeError,
    MaskTargetError,
    MaskValueError,
    NonFiniteWeightError,
    Plan,
    SpeedupError,
    UnknownModuleError,
    UnknownNameError,
    apply_masks,
    materialize,
    plan_speedup,
)
from speedup.demo.networks import LeNet
from tests.support.contract import require_as_masked
from tests.support.drawn import doubles
from tests.support.untouched import Snapshot, differences, snapshot

images = doubles(3, 6, 6)
digits = doubles(1, 28, 28)

Masks = Mapping[str, Any]


class Net(nn.Module):
    """A convolution, a BatchNorm and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.bn = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 5)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.bn(self.conv(x))).mean((2, 3)))


def half() -> Tensor:
    """The mask of the last two filters of `conv`."""
    mask = torch.ones(4, 3, 3, 3)
    mask[2:] = 0
    return mask


def with_value(value: float) -> Tensor:
    mask = half()
    mask[1, 2, 0, 1] = value
    return mask


@pytest.fixture
def model() -> Net:
    """In train mode, with gradients, hooks and frozen parts, none of which may change."""
    net = Net()
    net(images()).sum().backward()
    net.conv.weight.requires_grad_(False)
    net.bn.eval()
    net.head.register_forward_hook(lambda module, args, output: output)
    return net


@pytest.fixture(autouse=True)
def _grad_mode_stays() -> Iterator[None]:
    before = torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.get_default_dtype()
    yield
    assert (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.get_default_dtype()) == before


def require_untouched(before: Snapshot, model: nn.Module) -> None:
    assert differences(before, snapshot(model)) == ()


def masks_snapshot(masks: Masks | None) -> list[tuple[str, int, int, bytes]]:
    """Each mask tensor: whose it is, which object, its version and its bits."""
    flat: dict[str, Any] = {}
    for key, value in (masks or {}).items():
        flat.update(
            {f"{key}.{k}": v for k, v in value.items()} if isinstance(value, Mapping) else {key: value}
        )
    return [
        (
            name,
            id(t),
            t._version,
            b"" if t.is_meta else bytes(t.contiguous().flatten().view(torch.uint8).tolist()),
        )
        for name, t in flat.items()
        if isinstance(t, Tensor)
    ]


BAD_MASKS: list[tuple[str, Masks, type[SpeedupError], list[str]]] = [
    ("unknown module", {"cnov": {"weight": half()}}, UnknownNameError, ["cnov", "did you mean 'conv'"]),
    ("unknown parameter", {"conv": {"wieght": half()}}, UnknownNameError, ["conv.wieght", "'weight'"]),
    ("unknown full name", {"conv.wait": half()}, UnknownNameError, ["conv.wait", "'weight'"]),
    ("module for a parameter", {"conv": half()}, UnknownNameError, ["conv", "'weight'"]),
    (
        "wrong shape",
        {"conv": {"weight": torch.ones(4)}},
        MaskShapeError,
        ["conv.weight", "(4,)", "(4, 3, 3, 3)", "reshape"],
    ),
    (
        "non-binary",
        {"conv": {"weight": with_value(0.5)}},
        MaskValueError,
        ["conv.weight", "0.5", "(1, 2, 0, 1)", "mask > 0.5"],
    ),
    (
        "NaN",
        {"conv": {"weight": with_value(float("nan"))}},
        MaskValueError,
        ["conv.weight", "nan", "(1, 2, 0, 1)", "mask > 0.5"],
    ),
    (
        "buffer",
        {"bn": {"running_mean": torch.zeros(4)}},
        MaskTargetError,
        ["bn.running_mean", "buffer", "Drop"],
    ),
    (
        "other device",
        {"conv": {"weight": half().to("meta")}},
        MaskDeviceError,
        ["conv.weight", "meta", "cpu", "make the mask on"],
    ),
]


@pytest.mark.parametrize(
    ("masks", "error", "words"), [case[1:] for case in BAD_MASKS], ids=[case[0] for case in BAD_MASKS]
)
def test_bad_mask_is_a_typed_error_and_nothing_changes(
    model: Net, masks: Masks, error: type[SpeedupError], words: list[str]
) -> None:
    x = images()
    before, masks_before = snapshot(model), masks_snapshot(masks)
    with pytest.raises(error) as caught:
        plan_speedup(model, x, masks)
    assert type(caught.value) is error
    for word in words:
        assert word in str(caught.value)
    require_untouched(before, model)
    assert masks_snapshot(masks) == masks_before


@pytest.mark.parametrize(
    ("x", "words"),
    [
        ((), ["no tensor", "torch.randn"]),
        ({}, ["no tensor", "torch.randn"]),
        ((3, "x"), ["no tensor", "torch.randn"]),
        (None, ["NoneType", "tuple"]),
        (7, ["int", "tuple"]),
        ("images", ["str", "tuple"]),
    ],
    ids=["empty tuple", "empty dict", "no tensor in it", "None", "int", "str"],
)
def test_example_that_is_no_call_is_an_input_error(model: Net, x: Any, words: list[str]) -> None:
    before = snapshot(model)
    with pytest.raises(InputError) as caught:
        plan_speedup(model, x)
    assert isinstance(caught.value, TypeError)
    for word in words:
        assert word in str(caught.value)
    require_untouched(before, model)


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
@pytest.mark.parametrize("name", ["conv.weight", "head.bias"])
def test_weight_that_is_not_finite_is_an_error_that_names_it(model: Net, name: str, value: float) -> None:
    with torch.no_grad():
        model.get_parameter(name).view(-1)[-1] = value
    x = images()
    before = snapshot(model)
    with pytest.raises(NonFiniteWeightError, match=rf"'{name}' holds inf or NaN.*before planning"):
        plan_speedup(model, x, {"conv": {"weight": half()}})
    require_untouched(before, model)


def test_keeping_an_unknown_module_is_an_error_that_suggests_a_known_one(model: Net) -> None:
    x = images()
    before = snapshot(model)
    with pytest.raises(UnknownModuleError, match=r"keep names module 'heads'.*did you mean 'head'"):
        plan_speedup(model, x, keep=["conv", "heads"])
    require_untouched(before, model)


class Failing(nn.Module):
    """Raises in its forward."""

    def forward(self, x: Tensor) -> Tensor:
        raise RuntimeError("out of luck")


class Branching(nn.Module):
    """Control flow that depends on data."""

    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


@pytest.mark.parametrize(
    ("kind", "words"),
    [(Failing, ["RuntimeError", "out of luck"]), (Branching, ["data-dependent control flow"])],
)
def test_forward_that_cannot_be_traced_is_an_error_that_names_the_module(
    kind: type[nn.Module], words: list[str]
) -> None:
    """No other module has parameters that could be planned."""
    model = nn.Sequential(nn.Identity(), nn.ModuleDict({"inner": kind()})["inner"], nn.Identity())
    x = torch.randn(2, 4)
    before = snapshot(model)
    with pytest.raises(ExportError) as caught:
        plan_speedup(model, x)
    for word in (f"1 ({kind.__name__})", "test_planner.py", *words):
        assert word in str(caught.value)
    require_untouched(before, model)


def test_input_of_a_shape_that_the_model_does_not_take_is_an_export_error(model: Net) -> None:
    x = torch.randn(2, 5, 6, 6).double()
    before = snapshot(model)
    with pytest.raises(ExportError, match=r"conv \(Conv2d\).*runs in eval mode on the example input"):
        plan_speedup(model, x)
    require_untouched(before, model)


def test_planning_and_materializing_touch_nothing(model: Net) -> None:
    """Flags, hooks, gradients, tensors, masks, example and random state are all as before."""
    masks = {"conv": {"weight": half()}}
    x = images()
    before, masks_before, x_before = snapshot(model), masks_snapshot(masks), x.clone()
    assert model.head.weight.grad is not None
    small: Any = materialize(plan_speedup(model, x, masks))
    require_untouched(before, model)
    assert masks_snapshot(masks) == masks_before
    assert torch.equal(x, x_before) and x._version == 0
    assert model.training and not model.bn.training
    assert small.conv.out_channels == 2


def test_planning_under_other_grad_modes_works_and_leaves_them(model: Net) -> None:
    masks = {"conv": {"weight": half()}}
    plan = plan_speedup(model, images(), masks)
    with torch.no_grad():
        assert plan_speedup(model, images(), masks) == plan
        assert not torch.is_grad_enabled()


def test_planning_twice_gives_an_equal_plan(model: Net) -> None:
    masks = {"conv": {"weight": half()}}
    assert plan_speedup(model, images(), masks) == plan_speedup(model, images(), masks)


def test_training_flag_does_not_change_the_plan(model: Net) -> None:
    masks = {"conv": {"weight": half()}}
    plan = plan_speedup(model.train(), images(), masks)
    assert plan_speedup(model.eval(), images(), masks) == plan


def test_masks_by_module_and_by_parameter_give_equal_plans(model: Net) -> None:
    by_module = plan_speedup(model, images(), {"conv": {"weight": half()}})
    assert plan_speedup(model, images(), {"conv.weight": half()}) == by_module
    assert plan_speedup(model, images(), {"conv.weight": half().bool()}) == by_module


@pytest.mark.parametrize("as_text", [True, False])
def test_masks_come_from_a_file(model: Net, tmp_path: pathlib.Path, as_text: bool) -> None:
    path: str | os.PathLike[str] = tmp_path / "masks.pt"
    torch.save({"conv": {"weight": half()}}, path)
    expected = plan_speedup(model, images(), {"conv": {"weight": half()}})
    assert plan_speedup(model, images(), str(path) if as_text else path) == expected


class Keywords(nn.Module):
    """Takes a second input, by keyword if one likes."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor, y: Tensor, twice: bool = False) -> Tensor:
        out = self.b(self.a(x) * y)
        return 2 * out if twice else out


def test_example_may_be_positional_or_by_keyword() -> None:
    model, x, y = Keywords(), torch.randn(2, 4), torch.randn(2, 4)
    mask = torch.ones(4, 4)
    mask[0] = 0
    masks = {"a": {"weight": mask, "bias": mask[:, 0]}}
    # y is an input, whose channels stay, and so do those of what it is multiplied with.
    plans = [
        plan_speedup(model, (x, y), masks),
        plan_speedup(model, [x, y], masks),
        plan_speedup(model, {"x": x, "y": y}, masks),
        plan_speedup(model, x, masks, kwargs={"y": y}),
    ]
    assert len(set(plans)) == 1
    assert plan_speedup(model, (x, y), masks, kwargs={"twice": True}) != plans[0]


def tutorial() -> tuple[LeNet, Masks]:
    """The tutorial's LeNet: conv1's first three filters masked, while their biases are 1."""
    model = LeNet().double()
    nn.init.ones_(model.get_parameter("conv1.bias"))
    mask = torch.ones_like(model.conv1.weight)
    mask[:3] = 0
    return model, {"conv1": {"weight": mask}}


def test_lenet_of_the_tutorial_gets_smaller_and_stays_exact() -> None:
    model, masks = tutorial()
    small = materialize(plan_speedup(model, digits(2), masks), verify="none")
    assert "(conv1): Conv2d(1, 3, " in repr(small)
    assert "(conv2): Conv2d(3, 16, " in repr(small)
    require_as_masked(model, small, masks, digits)
    x = digits(4)
    with torch.no_grad():
        error = (small(x) - apply_masks(model, masks).eval()(x)).abs().max()
    assert float(error) < 1e-13


def test_zeros_in_the_weights_count_without_masks() -> None:
    model, masks = tutorial()
    zeroed = apply_masks(model, masks)
    small: Any = materialize(plan_speedup(zeroed, digits(2)), verify="none")
    assert (small.conv1.out_channels, small.conv2.in_channels) == (3, 3)
    require_as_masked(model, small, masks, digits)


def test_model_without_masks_or_zeros_stays_as_it_is(model: Net) -> None:
    plan = plan_speedup(model, images())
    assert plan.edits == ()
    assert plan.parameters_after == plan.parameters_before
    assert plan.macs_after == plan.macs_before


class Pruned(nn.Module):
    """Two convolutions and a linear layer, as `torch.nn.utils.prune` gets them."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3)
        self.second = nn.Conv2d(8, 6, 3)
        self.head = nn.Linear(6, 5)
        self.double()
        prune.ln_structured(self.first, "weight", amount=0.5, n=2, dim=0)
        prune.ln_structured(self.second, "weight", amount=2, n=1, dim=0)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.second(F.relu(self.first(x)))).mean((2, 3)))


def pruned_plan(model: Pruned) -> Plan:
    x = images()
    before = snapshot(model)
    plan = plan_speedup(model, x)
    require_untouched(before, model)
    return plan


def test_structured_pruning_of_torch_is_found_without_masks() -> None:
    model = Pruned()
    small: Any = materialize(pruned_plan(model), verify="none")
    assert small.first.weight.shape == (4, 3, 3, 3)
    # Nothing is left of what torch.nn.utils.prune keeps between forwards.
    assert not any("orig" in name or "mask" in name for name in small.state_dict())
    assert (small.second.in_channels, small.second.out_channels) == (4, 4)
    assert small.head.in_features == 4
    require_as_masked(model, small, None, images)


def test_pruning_made_permanent_is_found_too() -> None:
    model = Pruned()
    prune.remove(model.first, "weight")
    prune.remove(model.second, "weight")
    small: Any = materialize(pruned_plan(model), verify="none")
    assert small.first.weight.shape == (4, 3, 3, 3)
    assert small.second.weight.shape == (4, 4, 3, 3)
    require_as_masked(model, small, None, images)


class WithAuxiliary(nn.Module):
    """Has a head that only its training forward runs."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head, self.auxiliary = nn.Linear(4, 6), nn.Linear(6, 3), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        logits = self.head(self.body(x).relu())
        return (logits, self.auxiliary(x)) if self.training else logits


def test_what_only_training_uses_is_left_alone() -> None:
    model = WithAuxiliary().eval()
    plan = plan_speedup(
        model, torch.randn(2, 4), {"body.weight": torch.tensor([0.0] * 3 + [1.0] * 3).reshape(6, 1)}
    )
    small: Any = materialize(plan)
    assert small.auxiliary.weight.shape == (5, 4)
    assert small.body.weight.shape == (3, 4)
    assert small.train()(torch.randn(2, 4))[1].shape == (2, 5)


def test_two_zeros_that_only_hold_each_other_stay_zero() -> None:
    class Product(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pre, self.other = nn.Linear(4, 4), nn.Linear(4, 4)
            self.a, self.b = nn.Linear(4, 3, bias=False), nn.Linear(4, 3, bias=False)
            self.head = nn.Linear(4, 2)
            with torch.no_grad():
                self.pre.weight[:2] = 0
                self.pre.bias[:2] = 1
                self.other.weight[0] = 0
                self.other.bias[0] = 0
                for layer in (self.a, self.b):
                    layer.weight[:, 0] = 0
                    layer.weight[2] = torch.tensor([1.0, -1.0, 0.0, 0.0])

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            y = self.pre(x)
            return self.a(y) * self.b(y), self.head(torch.tanh(y + self.other(x)))

    model = Product().double().eval()
    x = torch.randn(3, 4, dtype=torch.float64)
    small = materialize(plan_speedup(model, x), verify="none")
    for want, have in zip(model(x), small(x), strict=True):
        assert torch.allclose(want, have, atol=1e-12, rtol=0)


class PerSample(nn.Module):
    """Adds a learnt share that each sample of the batch gets of it."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(4, 6), nn.Linear(6, 3)
        self.whole = nn.Parameter(torch.randn(6))

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(torch.relu(self.enter(x) + self.whole / x.shape[0]))


def test_constant_that_is_shared_among_the_batch_is_none() -> None:
    model = PerSample().double()
    masks = {"enter": {"weight": torch.ones(6, 4), "bias": torch.ones(6)}}
    for mask in masks["enter"].values():
        mask[:3] = 0
    plan = plan_speedup(model, torch.randn(2, 4).double(), masks)
    small, masked = materialize(plan, verify="none").eval(), apply_masks(model, masks).eval()
    for batch in (1, 2, 5):
        x = torch.randn(batch, 4).double()
        torch.testing.assert_close(small(x), masked(x), rtol=1e-10, atol=1e-10)
