"""Weights that torch.nn.utils computes each time are plain in the small model, where they are constants."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

from speedup import (
    InputError,
    Plan,
    StaleModelError,
    apply_masks,
    load,
    masks_from_prune,
    materialize,
    plan_speedup,
    save,
)
from speedup.modules.reparametrized import computed_weights
from speedup.testing import assert_equivalent
from tests.support.hooked import hooked
from tests.support.measure import check_exact, relative_error

Masks = dict[str, Tensor]


class Net(nn.Module):
    """Convolutions with a norm between, a residual sum, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.second, self.last = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.first(x)))
        return self.last(x + torch.sigmoid(self.second(x)))


def images(batch: int, seed: int) -> tuple[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(batch, 3, 8, 8, generator=generator, dtype=torch.float64),)


def larger(batch: int, seed: int) -> tuple[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(batch, 3, 11, 9, generator=generator, dtype=torch.float64),)


def alive(model: nn.Module) -> Any:
    """The model in float64 with lively numbers in its norms and biases."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            if tensor.is_floating_point() and tensor.ndim == 1:
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5 + ("bias" in name))
    return model.double().eval()


def net(kind: type[nn.Module] = Net) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return alive(kind())


LAYERS = ("first", "second")


def structured(model: Any) -> None:
    for name in LAYERS:
        prune.ln_structured(getattr(model, name), "weight", 0.5, 1, 0)


def several_in_a_row(model: Any) -> None:
    structured(model)
    prune.random_unstructured(model.second, "weight", 0.3)
    prune.l1_unstructured(model.second, "bias", 2)


def everywhere(model: Any) -> None:
    structured(model)
    prune.global_unstructured(
        [(model.first, "weight"), (model.second, "weight"), (model.last, "weight")],
        pruning_method=prune.L1Unstructured,
        amount=0.6,
    )


def custom(model: Any) -> None:
    rows = torch.arange(8).reshape(8, 1, 1, 1) % 2
    for name in LAYERS:
        prune.custom_from_mask(getattr(model, name), "weight", rows.expand_as(getattr(model, name).weight))


PRUNINGS = (structured, several_in_a_row, everywhere, custom)


def removed(model: Any) -> Any:
    for module in model.modules():
        for name in ("weight", "bias"):
            if hasattr(module, f"{name}_mask"):
                prune.remove(module, name)
    return model


@pytest.mark.parametrize("pruned", PRUNINGS)
def test_a_model_with_hooks_is_planned_as_the_one_without(pruned: Callable[[Any], None]) -> None:
    hooked = net()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        pruned(hooked)
    plain = removed(_twin(hooked))
    plan = plan_speedup(hooked, images(2, 0))
    assert plan == plan_speedup(plain, images(2, 0))
    small: Any = materialize(plan)
    wanted = materialize(plan_speedup(plain, images(2, 0)))
    assert small.first.weight.shape[0] < 8
    state = small.state_dict()
    assert sorted(state) == sorted(wanted.state_dict()) == sorted(net().state_dict())
    assert all(torch.equal(tensor, state[name]) for name, tensor in wanted.state_dict().items())
    assert not any(module._forward_pre_hooks for module in small.modules())
    check_exact(hooked, None, images, other_inputs=[larger], also_verified=True).require_exact()


def _twin(hooked: Any) -> Any:
    """Another model of the same hooks and numbers."""
    twin = net()
    for path, module in hooked.named_modules():
        for name, mask in module.named_buffers(recurse=False):
            if name.endswith("_mask"):
                prune.custom_from_mask(twin.get_submodule(path), name.removesuffix("_mask"), mask)
    twin.load_state_dict(hooked.state_dict())
    return twin


def test_the_given_model_keeps_its_hooks_and_sources() -> None:
    model = net()
    structured(model)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    held = dict(model.named_parameters())
    small: Any = materialize(plan_speedup(model, images(2, 0)))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert (
        dict(model.named_parameters()).keys() == held.keys()
        and model.first.weight_orig is held["first.weight_orig"]
    )
    assert len(model.first._forward_pre_hooks) == 1
    addresses = {tensor.data_ptr() for tensor in (*model.parameters(), *model.buffers(), model.first.weight)}
    assert not addresses & {tensor.data_ptr() for tensor in (*small.parameters(), *small.buffers())}


def test_keep_keeps_hooks() -> None:
    model = net()
    structured(model)
    plan = plan_speedup(model, images(2, 0), reparametrized="keep")
    small: Any = materialize(plan)
    assert "first.weight_orig" in small.state_dict() and small.first._forward_pre_hooks
    check_exact(model, None, images, reparametrized="keep").require_exact()
    # What was planned with hooks meets models with hooks only.
    assert "first.weight_orig" in materialize(Plan.from_json(plan.to_json()), model).state_dict()


def test_another_word_is_refused() -> None:
    with pytest.raises(InputError, match="reparametrized='remove' is neither 'bake' nor 'keep'"):
        plan_speedup(net(), images(2, 0), reparametrized="remove")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["first.weight", "first.weight_orig"])
def test_masks_of_a_pruned_weight_are_masks_of_the_plain_one(name: str) -> None:
    hooked = net()
    structured(hooked)
    plain = removed(_twin(hooked))
    mask = torch.ones(8, 1, 1, 1)
    mask[[0, 5]] = 0
    plan = plan_speedup(hooked, images(2, 0), {name: mask})
    assert plan == plan_speedup(plain, images(2, 0), {"first.weight": mask})
    assert [*plan.subject.masks] == ["first.weight"]
    check_exact(hooked, {name: mask}, images, also_verified=True).require_exact()


def test_masks_from_prune_are_at_home_with_and_without_hooks() -> None:
    hooked = net()
    structured(hooked)
    masks = masks_from_prune(hooked)
    plain = removed(_twin(hooked))
    assert plan_speedup(hooked, images(2, 0), masks) == plan_speedup(plain, images(2, 0), masks)


def test_a_plan_and_a_file_are_good_for_models_with_and_without_hooks(tmp_path: Any) -> None:
    hooked = net()
    structured(hooked)
    plan = plan_speedup(hooked, images(2, 0))
    again = Plan.from_json(plan.to_json())
    small: Any = materialize(plan)
    (x,) = images(3, 5)
    for model in (hooked, removed(_twin(hooked))):
        assert torch.equal(materialize(again, model)(x), small(x))
    save(small, plan, tmp_path / "small.safetensors")

    def hooked_anew() -> nn.Module:
        model = Net().double()
        structured(model)
        return model

    for make in (lambda: Net().double(), hooked_anew):
        loaded = load(tmp_path / "small.safetensors", make)
        assert loaded.state_dict().keys() == small.state_dict().keys()
        assert torch.equal(loaded.eval()(x), small(x))


@pytest.mark.parametrize("name", ["weight_orig", "weight_mask"])
def test_a_source_that_changes_after_planning_is_noticed(name: str) -> None:
    model = net()
    structured(model)
    plan = plan_speedup(model, images(2, 0))
    materialize(plan)
    with torch.no_grad():
        # A mask of other filters, or other numbers.
        tensor = getattr(model.first, name)
        tensor.copy_(tensor.flip(0) if name == "weight_mask" else tensor + 1)
    with pytest.raises(StaleModelError, match=r"first\.weight"):
        materialize(plan)


class Masked(nn.Module):
    """A mask as a plain attribute, as in many tutorials."""

    def __init__(self) -> None:
        super().__init__()
        self.mask = (torch.arange(8) % 3 > 0).double().reshape(8, 1, 1, 1)

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.mask


class LowRank(nn.Module):
    """A trained addition of low rank."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.randn(8, 2)), nn.Parameter(torch.randn(2, 72))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + (self.a @ self.b).reshape(weight.shape)


def registered(kind: type[nn.Module], unsafe: bool = False) -> Callable[[nn.Module], nn.Module]:
    return lambda layer: parametrize.register_parametrization(layer, "weight", kind(), unsafe=unsafe)


def twice(layer: nn.Module) -> nn.Module:
    return registered(LowRank)(registered(Masked)(layer))


WRAPS: dict[str, Callable[..., nn.Module]] = {
    "weight_norm": parametrizations.weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
    "weight_norm's hook": hooked("weight_norm"),
    "spectral_norm's hook": hooked("spectral_norm"),
    "mask": registered(Masked),
    "low rank": registered(LowRank),
    "two": twice,
}


def second_computed(wrap: Callable[..., nn.Module]) -> Any:
    """A model whose second layer computes its weight."""
    model = net()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        model.second = wrap(model.second)
    return model.double().eval()


def first_rows(*gone: int) -> Masks:
    """Masks of filters of the first layer, with their norm and bias."""
    keep = torch.ones(8)
    keep[list(gone)] = 0
    masks = {"first.weight": keep.reshape(8, 1, 1, 1)}
    return masks | dict.fromkeys(("first.bias", "norm.weight", "norm.bias"), keep)


@pytest.mark.parametrize("name", WRAPS)
def test_computed_weights_that_nothing_feeds_are_plain(name: str) -> None:
    model, masks = second_computed(WRAPS[name]), first_rows(1, 4, 6)
    plan = plan_speedup(model, images(2, 0), masks)
    small: Any = materialize(plan)
    assert sorted(small.state_dict()) == sorted(net().state_dict())
    assert type(small.second) is nn.Conv2d and isinstance(small.second.weight, nn.Parameter)
    check_exact(model, masks, images, other_inputs=[larger], also_verified=True).require_exact()
    assert_equivalent(model, images(2, 0), masks)
    assert computed_weights(model) and not computed_weights(small)


@pytest.mark.parametrize("name", WRAPS)
def test_flags_of_originals_are_those_of_the_plain_weight(name: str) -> None:
    model = second_computed(WRAPS[name])
    learning: Any = materialize(plan_speedup(model, images(2, 0), first_rows(1)))
    assert learning.second.weight.requires_grad
    model.train().requires_grad_(False)
    small: Any = materialize(plan_speedup(model, images(2, 0), first_rows(1)))
    assert not small.second.weight.requires_grad and small.second.training


@pytest.mark.parametrize("name", ["weight_norm", "spectral_norm", "weight_norm's hook", "mask"])
def test_a_weight_whose_own_parameters_are_masked_stays_computed(name: str) -> None:
    model = second_computed(WRAPS[name])
    source = computed_weights(model)[0].originals[0]
    parameter = dict(model.named_parameters())[source]
    mask = torch.ones(parameter.shape[0]).reshape(-1, *[1] * (parameter.ndim - 1))
    mask[2] = 0
    masks = {source: mask}
    small: Any = materialize(plan_speedup(model, images(2, 0), masks))
    assert computed_weights(small)
    check_exact(model, masks, images, also_verified=True).require_exact()


class Noisy(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight + torch.randn_like(weight) * 1e-3


class Gate(nn.Module):
    """A weight scaled by what an outer forward has left here."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.ones((), dtype=torch.float64)

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.scale


class Fed(Net):
    """The forward sets what the second layer's weight is scaled by; `same` sets it to what it was."""

    def __init__(self, same: bool = False) -> None:
        super().__init__()
        self.same, self.gate = same, Gate()
        parametrize.register_parametrization(self.second, "weight", self.gate)

    def forward(self, x: Tensor) -> Tensor:
        # As often written to as what it replaces.
        self.gate.scale = (x.sum() > -1e9).to(x.dtype).mul_(1) if self.same else x.mean()
        return super().forward(x)


class LooksAtSources(Net):
    """The forward returns something of the original."""

    def __init__(self) -> None:
        super().__init__()
        prune.ln_structured(self.first, "weight", 0.5, 1, 0)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.first.get_parameter("weight_orig").sum()


class AsksForHooks(Net):
    """The forward does something else where its layer is pruned."""

    def __init__(self) -> None:
        super().__init__()
        prune.ln_structured(self.first, "weight", 0.5, 1, 0)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(2 * x if hasattr(self.first, "weight_mask") else x)


class Tied(Net):
    """The original of a pruned weight is another layer's weight."""

    def __init__(self) -> None:
        super().__init__()
        self.third = nn.Conv2d(8, 8, 3, padding=1)
        self.third.weight = self.second.weight
        prune.ln_structured(self.second, "weight", 0.5, 1, 0)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.first(x)))
        return self.last(self.third(torch.sigmoid(self.second(x))))


@pytest.mark.parametrize("kind", [LooksAtSources, AsksForHooks, Tied, Fed], ids=lambda kind: kind.__name__)
def test_weights_that_are_no_constants_stay_computed(kind: type[nn.Module]) -> None:
    model = net(kind)
    plan = plan_speedup(model, images(2, 0), first_rows(1, 4))
    assert plan.subject.fingerprints and computed_weights(materialize(plan, verify="none"))
    if kind is not Fed:
        check_exact(model, first_rows(1, 4), images, also_verified=True).require_exact()


def test_what_a_forward_sets_to_what_it_was_is_noticed_too() -> None:
    model = net(lambda: Fed(same=True))  # type: ignore[arg-type]
    assert computed_weights(materialize(plan_speedup(model, images(2, 0)), verify="none"))


def test_a_weight_that_is_drawn_anew_stays_computed() -> None:
    model = second_computed(registered(Noisy))
    small: Any = materialize(plan_speedup(model, images(2, 0), first_rows(1)), verify="none")
    assert computed_weights(small)


def test_weights_beside_one_that_is_drawn_anew_are_plain() -> None:
    model = second_computed(registered(Noisy))
    parametrizations.weight_norm(model.first)
    small: Any = materialize(plan_speedup(model, images(2, 0)), verify="none")
    assert [one.path for one in computed_weights(small)] == ["second"]


def test_an_infinite_weight_stays_computed() -> None:
    """A length of 0 and a direction of 0: NaN in both models."""
    model = second_computed(parametrizations.weight_norm)
    with torch.no_grad():
        model.second.parametrizations.weight.original1[3] = 0
    small: Any = materialize(plan_speedup(model, images(2, 0), first_rows(1)), verify="none")
    assert computed_weights(small)


def test_ties_of_weights_pruned_alike_stay() -> None:
    class Alike(Tied):
        def __init__(self) -> None:
            super().__init__()
            prune.custom_from_mask(self.third, "weight", self.second.weight_mask)

    model = net(Alike)
    small: Any = materialize(plan_speedup(model, images(2, 0)))
    assert small.second.weight is small.third.weight and not computed_weights(small)
    check_exact(model, None, images, also_verified=True).require_exact()


def test_of_one_original_pruned_in_two_ways_there_are_two_weights() -> None:
    class Unlike(Tied):
        def __init__(self) -> None:
            super().__init__()
            prune.custom_from_mask(self.third, "weight", self.second.get_buffer("weight_mask").flip(0))

    model = net(Unlike)
    small: Any = materialize(plan_speedup(model, images(2, 0)))
    assert not torch.equal(small.second.weight.sum(), small.third.weight.sum())
    mask = torch.ones(8, 1, 1, 1)
    mask[0] = 0
    for masks in (None, {"second.weight": mask}):
        check_exact(model, masks, images, also_verified=True).require_exact()


def test_a_module_with_two_names_is_plain_under_both() -> None:
    model = net()
    structured(model)
    model.again = model.second
    small: Any = materialize(plan_speedup(model, images(2, 0)))
    assert small.again is small.second and not computed_weights(small)


def test_buffers_that_are_computed_stay_buffers() -> None:
    class Shifted(nn.Module):
        def forward(self, mean: Tensor) -> Tensor:
            return mean + 1

    model = net()
    parametrize.register_parametrization(model.norm, "running_mean", Shifted())
    small: Any = materialize(plan_speedup(model, images(2, 0), first_rows(1, 2)))
    assert "norm.running_mean" in dict(small.named_buffers())
    assert type(small.norm) is nn.BatchNorm2d
    check_exact(model, first_rows(1, 2), images, also_verified=True).require_exact()


def test_two_weights_of_a_module_are_plain_together() -> None:
    model = net()
    for name in ("weight", "bias"):
        parametrize.register_parametrization(model.second, name, nn.Identity())
    small: Any = materialize(plan_speedup(model, images(2, 0), first_rows(1)))
    assert type(small.second) is nn.Conv2d and type(model.second) is not nn.Conv2d
    assert parametrize.is_parametrized(model.second, "bias")
    torch.testing.assert_close(model.second.weight, model.second.parametrizations.weight.original)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
@pytest.mark.parametrize("computed", ["pruned", "parametrized", "normed"])
def test_recurrent_layers_know_their_plain_weights(kind: Any, computed: str) -> None:
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.head = kind(3, 6, batch_first=True), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.layer(x)[0])

    model = net(Last)
    if computed == "pruned":
        prune.l1_unstructured(model.layer, "weight_hh_l0", 0.4)
        prune.l1_unstructured(model.layer, "weight_ih_l0", 0.4)
    elif computed == "parametrized":
        parametrize.register_parametrization(model.layer, "weight_hh_l0", nn.Tanh(), unsafe=True)
    else:
        hooked("weight_norm")(model.layer, name="weight_hh_l0")
    model.double()

    def steps(batch: int, seed: int) -> tuple[Tensor]:
        return (torch.randn(batch, 5, 3, generator=torch.Generator().manual_seed(seed)).double(),)

    check_exact(model, None, steps, also_verified=True).require_exact()
    small: Any = materialize(plan_speedup(model, steps(2, 0)))
    assert not computed_weights(small)
    with torch.no_grad():
        small.layer.weight_hh_l0.zero_()
    assert not torch.equal(small(*steps(1, 1)), model(*steps(1, 1)))


def test_models_whose_parts_are_traced_are_plain_too() -> None:
    class Branching(Net):
        def forward(self, x: Tensor) -> Tensor:
            x = torch.relu(self.norm(self.first(x)))
            return self.last(self.second(x) if x.sum() > -1 else x)

    model = net(Branching)
    structured(model)
    plan = plan_speedup(model, images(2, 0))
    assert plan.subject.islands is not None
    assert not computed_weights(materialize(plan))
    check_exact(model, None, images, also_verified=True).require_exact()


def test_models_without_numbers_are_planned_as_those_with() -> None:
    with torch.device("meta"):
        model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
        prune.identity(model[0], "weight")
    keep = torch.arange(8) % 2
    masks = {"0.weight": keep.reshape(8, 1, 1, 1), "0.bias": keep}
    plan = plan_speedup(model, torch.empty(2, 3, 8, 8, device="meta"), masks)
    small: Any = materialize(plan, verify="structure")
    assert small[0].weight.shape == (4, 3, 3, 3) and not computed_weights(small)


def test_a_pruned_direction_under_weight_norm_is_exact() -> None:
    model = net()
    model.second = hooked("weight_norm")(model.second)
    prune.l1_unstructured(model.second, "weight_v", 0.3)
    model.double()
    small: Any = materialize(plan_speedup(model, images(2, 0), first_rows(2)))
    assert relative_error(apply_masks(model, first_rows(2)), small, [images(2, 1), images(2, 2)]) < 1e-9


def test_a_trained_small_model_trains_all_of_its_plain_weights() -> None:
    model = net()
    structured(model)
    small: Any = materialize(plan_speedup(model, images(2, 0))).train()
    small(*images(4, 0)).square().mean().backward()
    assert all(parameter.grad is not None for parameter in small.parameters())
    assert math.isfinite(float(small.first.weight.grad.norm()))
