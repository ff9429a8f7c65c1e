from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import attrs
import pytest
import torch
from torch import Tensor, nn

from speedup import (
    InputError,
    OutputError,
    Plan,
    StaleModelError,
    StructureError,
    materialize,
    plan_speedup,
)
from speedup.building.materializing import Level
from speedup.ir.edits import AddToParameter, MergeColumns, NewBias
from tests.support.contract import require_as_masked
from tests.support.drawn import doubles, images
from tests.support.masking import filters, rows

vectors = doubles(8)

Masks = Mapping[str, Mapping[str, Tensor]]
Make = Callable[[int], Tensor]


def tokens(batch: int) -> Tensor:
    return torch.randint(10, (batch, 4))


def shrunk(model: nn.Module, masks: Masks, make: Make) -> tuple[Plan, Any]:
    plan = plan_speedup(model, make(2), masks)
    small = materialize(plan, verify="none")
    require_as_masked(model, copy.deepcopy(small), masks, make)
    return plan, small


def kinds(plan: Plan) -> set[type]:
    """What was done about constants."""
    return {type(e) for e in plan.edits} & {AddToParameter, MergeColumns, NewBias}


def test_constants_go_into_the_bias_of_a_linear_layer() -> None:
    model: Any = nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 5)).double()
    plan, small = shrunk(model, {"0": filters(model[0], 1, 4)}, vectors)
    assert kinds(plan) == {AddToParameter}
    assert small[0].weight.shape == (4, 8)
    with torch.no_grad():
        constants = torch.tanh(model[0].bias[[1, 4]])
        expected = model[2].bias + model[2].weight[:, [1, 4]] @ constants
    torch.testing.assert_close(small[2].bias.detach(), expected, rtol=1e-14, atol=1e-14)


def test_constants_may_meet_a_layer_without_outputs() -> None:
    model = nn.Sequential(nn.Linear(8, 6), nn.Linear(6, 0))
    small: Any = materialize(plan_speedup(model, torch.randn(2, 8), {"0": filters(model[0], 1, 4)}))
    assert small(torch.randn(3, 8)).shape == (3, 0)
    assert small[0].out_features < 6


def test_constants_go_into_the_bias_of_a_convolution_without_padding() -> None:
    model: Any = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 5, 3)).double()
    nn.init.ones_(model[0].bias)
    plan, small = shrunk(model, {"0": filters(model[0], 0, 1, 2)}, images)
    assert kinds(plan) == {AddToParameter}
    with torch.no_grad():
        expected = model[2].bias + model[2].weight[:, :3].sum((1, 2, 3))
    torch.testing.assert_close(small[2].bias.detach(), expected, rtol=1e-14, atol=1e-14)


def test_running_mean_takes_constants_where_there_is_no_bias() -> None:
    model: Any = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 5, 3, bias=False), nn.BatchNorm2d(5)
    ).double()
    nn.init.ones_(model[0].bias)
    plan, small = shrunk(model, {"0": filters(model[0], 2)}, images)
    assert kinds(plan) == {AddToParameter}
    assert small[2].bias is None
    with torch.no_grad():
        expected = model[3].running_mean - model[2].weight[:, 2].sum((1, 2))
    torch.testing.assert_close(small[3].running_mean, expected, rtol=1e-14, atol=1e-14)
    assert list(small.state_dict()) == list(model.state_dict())


class Normed(nn.Module):
    """A convolution without a bias before a BatchNorm; what comes between them is also made use of."""

    def __init__(self, is_returned: bool) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3)
        self.conv = nn.Conv2d(6, 5, 3, bias=False)
        self.norm = nn.BatchNorm2d(5)
        self.is_returned = is_returned
        nn.init.ones_(self.get_parameter("stem.bias"))
        self.double()

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        between = self.conv(torch.relu(self.stem(x)))
        normed = self.norm(between)
        return (normed, between) if self.is_returned else normed * torch.tanh(between)


@pytest.mark.parametrize("is_returned", [False, True], ids=["read", "returned"])
def test_running_mean_takes_no_constants_of_what_not_only_the_norm_gets(is_returned: bool) -> None:
    model = Normed(is_returned)
    plan, small = shrunk(model, {"stem": filters(model.stem, 2)}, images)
    assert kinds(plan) == {NewBias}
    assert small.stem.out_channels == 5


@pytest.mark.parametrize("kind", ["convolution", "linear"])
def test_layer_without_any_bias_gets_one(kind: str) -> None:
    if kind == "linear":
        layers: tuple[nn.Module, ...] = (nn.Linear(8, 6), nn.Linear(6, 5, bias=False))
        make: Make = vectors
    else:
        layers, make = (nn.Conv2d(3, 6, 3), nn.Conv2d(6, 5, 3, bias=False)), images
    model: Any = nn.Sequential(layers[0], nn.ReLU(), layers[1]).double()
    nn.init.ones_(model[0].bias)
    plan, small = shrunk(model, {"0": filters(model[0], 3)}, make)
    assert kinds(plan) == {NewBias}
    assert "2.bias" not in model.state_dict()
    assert small.state_dict()["2.bias"].shape == (5,)
    assert isinstance(small[2].bias, nn.Parameter) and small[2].bias.requires_grad
    assert "bias=False" not in repr(small)


def test_new_bias_is_frozen_where_the_weight_is() -> None:
    model = nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 5, bias=False)).double()
    model[2].weight.requires_grad_(False)
    _, small = shrunk(model, {"0": filters(model[0], 3)}, vectors)
    assert not small[2].bias.requires_grad


def test_new_bias_has_the_length_of_the_rows_that_stay() -> None:
    model = nn.Sequential(
        nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 6, bias=False), nn.Tanh(), nn.Linear(6, 5)
    ).double()
    masks = {"0": filters(model[0], 3), "4": {"weight": torch.ones(5, 6)}}
    masks["4"]["weight"][:, [0, 5]] = 0
    _, small = shrunk(model, masks, vectors)
    assert small[2].weight.shape == (4, 5)
    assert small[2].bias.shape == (4,)


@pytest.mark.parametrize("padding", [1, "same"])
def test_padded_constants_are_carried_by_one_channel_at_any_resolution(padding: int | str) -> None:
    model: Any = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 5, 3, padding=padding)).double()
    with torch.no_grad():
        model[0].bias.copy_(torch.tensor([0.5, 2.0, 1.0, 0.3, 0.2, 0.1]))
    masks = {"0": filters(model[0], 0, 1, 2)}
    plan, small = shrunk(model, masks, images)
    (merge,) = [e for e in plan.edits if isinstance(e, MergeColumns)]
    assert (merge.into, merge.columns, merge.factors) == (1, (0, 2), (0.25, 0.5))
    assert small[0].out_channels == 4
    for size in (3, 5, 13):
        require_as_masked(model, copy.deepcopy(small), masks, partial(images, size=size))


def test_negative_constants_are_carried_with_their_sign() -> None:
    model: Any = nn.Sequential(nn.Conv2d(3, 6, 3), nn.Tanh(), nn.Conv2d(6, 5, 3, padding=1)).double()
    with torch.no_grad():
        model[0].bias[:2] = torch.tensor([-0.5, 1.0])
    plan, small = shrunk(model, {"0": filters(model[0], 0, 1)}, images)
    assert kinds(plan) == {MergeColumns}
    assert small[0].out_channels == 5


@pytest.mark.parametrize("padding", [0, 1])
def test_constants_of_a_transposed_convolution_are_carried(padding: int) -> None:
    model: Any = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.ReLU(), nn.ConvTranspose2d(6, 5, 3, stride=2, padding=padding)
    ).double()
    nn.init.ones_(model[0].bias)
    masks = {"0": filters(model[0], 0, 4, 5)}
    plan, small = shrunk(model, masks, images)
    assert kinds(plan) == {MergeColumns}
    assert small[2].in_channels == 4
    require_as_masked(model, copy.deepcopy(small), masks, lambda batch: images(batch, 5))


def test_constants_before_a_grouped_padded_convolution_are_carried_group_by_group() -> None:
    model: Any = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 3, padding=1, groups=2)
    ).double()
    nn.init.ones_(model[0].bias)
    masks = {"0": filters(model[0], 0, 1, 5, 7)}
    plan, small = shrunk(model, masks, images)
    assert kinds(plan) == {MergeColumns}
    assert (small[2].in_channels, small[2].groups) == (6, 2)


class Grouped(nn.Module):
    """A grouped convolution between two plain ones."""

    def __init__(self) -> None:
        super().__init__()
        self.before = nn.Conv2d(3, 8, 3)
        self.grouped = nn.Conv2d(8, 8, 3, groups=4)
        self.after = nn.Conv2d(8, 5, 1)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        return self.after(torch.tanh(self.grouped(torch.tanh(self.before(x)))))


def test_whole_groups_go() -> None:
    model = Grouped()
    masks = {"before": rows(model.before, 2, 3), "grouped": rows(model.grouped, 2, 3)}
    _, small = shrunk(model, masks, images)
    assert (small.grouped.groups, tuple(small.grouped.weight.shape)) == (3, (6, 2, 3, 3))


def test_groups_that_lose_equally_many_shrink() -> None:
    model = Grouped()
    masks = {"before": rows(model.before, 0, 3, 4, 7), "grouped": rows(model.grouped, 1, 2, 4, 6)}
    _, small = shrunk(model, masks, images)
    assert (small.grouped.groups, tuple(small.grouped.weight.shape)) == (4, (4, 1, 3, 3))


def test_groups_that_lose_unequally_many_are_filled_up() -> None:
    model = Grouped()
    masks = {"before": rows(model.before, 0, 2, 3), "grouped": rows(model.grouped, 2, 3, 4)}
    plan, small = shrunk(model, masks, images)
    assert (small.grouped.groups, tuple(small.grouped.weight.shape)) == (3, (6, 2, 3, 3))
    assert {b.path for b in plan.blocked} == {"before", "grouped"}


class Tied(nn.Module):
    """An embedding and a head that share their table."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, 6)
        self.head = nn.Linear(6, 10, bias=False)
        self.head.weight = self.embedding.weight
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.embedding(x)))


def test_tied_weights_stay_tied() -> None:
    model = Tied()
    mask = torch.ones(10, 6)
    mask[:, [0, 3]] = 0
    _, small = shrunk(model, {"embedding": {"weight": mask}}, tokens)
    assert small.head.weight is small.embedding.weight
    assert small.head.weight.shape == (10, 4)
    assert (small.head.in_features, small.embedding.embedding_dim) == (4, 4)


class Twice(nn.Module):
    """A layer that is called twice, under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(8, 6)
        self.shared = nn.Linear(6, 6)
        self.alias = self.shared
        self.head = nn.Linear(6, 5)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.alias(torch.tanh(self.shared(torch.tanh(self.stem(x)))))))


def test_module_called_twice_stays_one_module() -> None:
    model = Twice()
    masks = {"stem": rows(model.stem, 1, 2), "shared": rows(model.shared, 1, 2)}
    _, small = shrunk(model, masks, vectors)
    assert small.alias is small.shared
    assert small.shared.weight.shape == (4, 4)
    assert (small.shared.in_features, small.shared.out_features) == (4, 4)


def test_bias_of_a_module_called_twice_is_not_charged_with_constants_of_one_call() -> None:
    model = Twice()
    plan, small = shrunk(model, {"stem": filters(model.stem, 1, 2)}, vectors)
    assert not any(e.name.startswith("shared") for e in plan.edits if isinstance(e, AddToParameter))
    assert small.shared.in_features == 6


def test_module_called_twice_gets_no_bias_for_constants_of_one_call() -> None:
    model = Twice()
    model.shared.bias = None  # type: ignore[assignment]
    plan, small = shrunk(
        model, {"stem": filters(model.stem, 1, 2), "shared": filters(model.shared, 1, 2)}, vectors
    )
    assert NewBias not in kinds(plan)
    assert small.shared.bias is None


def test_bias_of_two_layers_is_not_charged_with_constants_of_one() -> None:
    model = nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6)).double()
    model[4].bias = model[2].bias
    plan, small = shrunk(model, {"0": filters(model[0], 1, 4)}, vectors)
    assert not any(e.name == "2.bias" for e in plan.edits if isinstance(e, AddToParameter))
    assert small[4].bias is small[2].bias


class Net(nn.Module):
    """A convolution, a BatchNorm and two linear layers, in several states at once."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3)
        self.norm = nn.BatchNorm2d(6)
        self.hidden = nn.Linear(6, 6)
        self.head = nn.Linear(6, 5)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.conv(x))).mean((2, 3))
        return self.head(torch.relu(self.hidden(x)))


def masks_of(model: Net) -> Masks:
    return {"conv": filters(model.conv, 0, 1), "hidden": filters(model.hidden, 3)}


@pytest.fixture
def model() -> Net:
    return Net()


@pytest.fixture
def plan(model: Net) -> Plan:
    return plan_speedup(model, images(2), masks_of(model))


def test_hooks_come_along(model: Net) -> None:
    calls: list[str] = []
    model.hidden.register_forward_hook(lambda module, args, output: calls.append(f"{module.in_features}"))
    model.register_forward_pre_hook(lambda module, args: calls.append(type(module).__name__))
    small = materialize(plan_speedup(model, images(2), masks_of(model)))
    calls.clear()
    small(images(2))
    assert calls == ["Net", "4"]


@pytest.mark.parametrize("training", [True, False])
def test_training_flags_are_those_of_the_model(model: Net, training: bool) -> None:
    model.train(training)
    model.norm.train(not training)
    small = materialize(plan_speedup(model, images(2), masks_of(model)))
    assert {n: m.training for n, m in small.named_modules()} == {
        n: m.training for n, m in model.named_modules()
    }


def test_requires_grad_is_that_of_the_model(model: Net) -> None:
    model.conv.weight.requires_grad_(False)
    model.head.bias.requires_grad_(False)
    small: Any = materialize(plan_speedup(model, images(2), masks_of(model)))
    assert {n: p.requires_grad for n, p in small.named_parameters()} == {
        n: p.requires_grad for n, p in model.named_parameters()
    }
    assert small.conv.weight.shape[0] == 4
    assert all(p.is_leaf and p.grad is None for p in small.parameters())


class Widening(nn.Module):
    """Parameters of two dtypes."""

    def __init__(self) -> None:
        super().__init__()
        self.narrow = nn.Linear(8, 6).float()
        self.wide = nn.Linear(6, 5).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.wide(torch.tanh(self.narrow(x.float())).double())


def test_dtypes_are_those_of_the_model() -> None:
    model = Widening()
    masks = {"narrow": filters(model.narrow, 0)}
    small: Any = materialize(plan_speedup(model, vectors(2), masks))
    assert {n: p.dtype for n, p in small.named_parameters()} == {
        n: p.dtype for n, p in model.named_parameters()
    }
    assert small.narrow.out_features == 5


def test_classes_and_names_are_those_of_the_model(model: Net, plan: Plan) -> None:
    small = materialize(plan)
    assert [(n, type(m)) for n, m in small.named_modules()] == [
        (n, type(m)) for n, m in model.named_modules()
    ]
    assert list(small.state_dict()) == list(model.state_dict())


def storages(model: nn.Module) -> Iterator[int]:
    for tensor in (*model.parameters(), *model.buffers()):
        yield tensor.untyped_storage().data_ptr()


def test_small_model_shares_no_storage(model: Net, plan: Plan) -> None:
    small = materialize(plan)
    assert not set(storages(small)) & set(storages(model))
    other = materialize(plan)
    assert not set(storages(small)) & set(storages(other))


def test_tensors_of_the_small_model_hold_no_more_than_they_show(plan: Plan) -> None:
    """A view of the large storage would save no memory."""
    small = materialize(plan)
    for name, tensor in (*small.named_parameters(), *small.named_buffers()):
        assert tensor.is_contiguous(), name
        assert tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size(), name


def test_writing_to_the_small_model_leaves_model_and_plan_alone(model: Net, plan: Plan) -> None:
    small = materialize(plan)
    expected = {n: p.clone() for n, p in small.state_dict().items()}
    with torch.no_grad():
        for parameter in small.parameters():
            parameter.fill_(7.0)
    again = materialize(plan)
    for name, tensor in again.state_dict().items():
        assert torch.equal(tensor, expected[name]), name


def test_state_dict_loads_back(plan: Plan) -> None:
    small, other = materialize(plan), materialize(plan)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    other.load_state_dict(small.state_dict())
    x = images(2)
    assert torch.equal(other.eval()(x), small.eval()(x))


def _saved_and_loaded(small: nn.Module) -> Any:
    stream = io.BytesIO()
    torch.save(small, stream)
    stream.seek(0)
    return torch.load(stream, weights_only=False)


@pytest.mark.parametrize(
    "copied",
    [
        copy.deepcopy,
        lambda small: pickle.loads(pickle.dumps(small)),
        _saved_and_loaded,
    ],
    ids=["deepcopy", "pickle", "torch.save"],
)
def test_small_model_can_be_copied(plan: Plan, copied: Callable[[nn.Module], Any]) -> None:
    small = materialize(plan).eval()
    twin, x = copied(small), images(2)
    assert twin.conv.out_channels == 4
    assert torch.equal(twin(x), small(x))


def test_small_model_can_be_trained(plan: Plan) -> None:
    small: Any = materialize(plan).train()
    optimizer = torch.optim.SGD(small.parameters(), lr=0.05)
    x, target = images(4), torch.randn(4, 5).double()
    before = {n: p.detach().clone() for n, p in small.named_parameters()}
    losses = []
    for _ in range(2):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(small(x), target)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[1] < losses[0]
    assert all(p.grad.shape == p.shape for p in small.parameters())
    assert not torch.equal(small.conv.weight, before["conv.weight"])
    assert small.norm.num_batches_tracked == 2


def _write(model: Net) -> None:
    with torch.no_grad():
        model.hidden.weight.add_(1)


def _write_buffer(model: Net) -> None:
    model.get_buffer("norm.running_mean").add_(1)


def _replace(model: Net) -> None:
    model.hidden.weight = nn.Parameter(model.hidden.weight.detach().clone())


def _remove(model: Net) -> None:
    del model.hidden


def _add(model: Net) -> None:
    model.hidden.extra = nn.Parameter(torch.zeros(1))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (_write, "hidden.weight"),
        (_write_buffer, "norm.running_mean"),
        (_replace, "hidden.weight"),
        (_remove, "hidden.weight, hidden.bias, hidden"),
        (_add, "hidden.extra"),
    ],
)
@pytest.mark.parametrize("level", ["full", "none"])
def test_model_that_changed_since_planning_is_refused(
    model: Net, plan: Plan, change: Callable[[Net], None], named: str, level: Level
) -> None:
    change(model)
    with pytest.raises(StaleModelError, match=rf"changed since it was planned: {named}\. Plan it again"):
        materialize(plan, verify=level)


def test_flags_may_change_between_planning_and_materializing(model: Net, plan: Plan) -> None:
    model.eval().requires_grad_(False)
    small = materialize(plan)
    assert not small.training
    assert not any(p.requires_grad for p in small.parameters())


def without_payments(plan: Plan) -> Plan:
    """A wrong plan: dropped constants are not made up for."""
    edits = tuple(e for e in plan.edits if not isinstance(e, AddToParameter))
    assert len(edits) < len(plan.edits)
    return attrs.evolve(plan, edits=edits)


def test_wrong_numbers_are_found_by_full_verification_only(model: Net) -> None:
    nn.init.ones_(model.hidden.bias)
    wrong = without_payments(plan_speedup(model, images(2), masks_of(model)))
    for level in ("none", "structure"):
        small: Any = materialize(wrong, verify=level)
        assert small.hidden.out_features == 5
    with pytest.raises(OutputError):
        materialize(wrong, verify="full")
    with pytest.raises(OutputError):
        materialize(wrong)


def test_wrong_sizes_are_found_by_structural_verification(model: Net, plan: Plan) -> None:
    other = plan_speedup(model, images(2), {"hidden": filters(model.hidden, 2, 3)})
    wrong = attrs.evolve(plan, edits=other.edits)
    small: Any = materialize(wrong, verify="none")
    assert small.hidden.out_features == 4
    for level in ("structure", "full"):
        with pytest.raises(StructureError, match="does not compute what was planned"):
            materialize(wrong, verify=level)


def test_level_that_does_not_exist_is_refused() -> None:
    plan = plan_speedup(nn.Linear(3, 2), torch.randn(1, 3))
    with pytest.raises(InputError, match="'strcture' is no level; choose one of full, structure, none"):
        materialize(plan, verify="strcture")  # type: ignore[arg-type]


def test_small_model_made_in_inference_mode_can_be_trained() -> None:
    with torch.inference_mode():
        model = nn.Linear(3, 2)
        small = materialize(plan_speedup(model, torch.randn(1, 3), {"weight": torch.tensor([[1.0], [0.0]])}))
    small(torch.randn(4, 3)).sum().backward()
    assert small.weight.grad is not None


def _write_past_the_version_counter(model: Any) -> None:
    model[0].bias.data.add_(1)


def _replace_data(model: Any) -> None:
    model[0].bias.data = model[0].bias.data + 1


def _change_stride(model: Any) -> None:
    model[0].stride = (2, 2)


def _swap_activation(model: Any) -> None:
    model[1] = nn.Sigmoid()


@pytest.mark.parametrize(
    "change", [_write_past_the_version_counter, _replace_data, _change_stride, _swap_activation]
)
def test_no_change_goes_unnoticed(change: Callable[[nn.Module], None]) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    plan = plan_speedup(model, torch.randn(1, 3, 8, 8))
    change(model)
    with pytest.raises(StaleModelError):
        materialize(plan, verify="none")
