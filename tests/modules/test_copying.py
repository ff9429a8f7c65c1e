from __future__ import annotations

import functools
import sys
import threading
import warnings
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any

import attrs
import pytest
import torch
from torch import fx, nn
from torch.nn.utils import parametrizations, parametrize, prune

from speedup.errors import SpeedupError
from speedup.modules.copying import copy_module, share_module


def named_tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    return {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }


def state(model: nn.Module) -> list[Any]:
    """Every attribute of every module by identity, every tensor by identity, version and content."""
    attributes = [(id(m), name, id(value)) for m in model.modules() for name, value in vars(m).items()]
    tensors = [
        (name, id(t), t._version, t.requires_grad, id(t.grad) if t.is_leaf else None)
        for name, t in named_tensors(model).items()
        if not nn.parameter.is_lazy(t)
    ]
    return [attributes, tensors, [list(m._forward_hooks) for m in model.modules()]]


def assert_independent(model: nn.Module, copied: nn.Module) -> None:
    """The copy holds equal tensors under equal names, and no storage of the model."""
    old, new = named_tensors(model), named_tensors(copied)
    assert list(old) == list(new)
    assert [type(m) for m in model.modules()] == [type(m) for m in copied.modules()]
    for name in old:
        assert type(old[name]) is type(new[name])
        assert torch.equal(old[name], new[name])
        assert old[name].data_ptr() != new[name].data_ptr()
        assert old[name].requires_grad == new[name].requires_grad


class Gain(nn.Parameter):
    """A parameter class of the user's whose constructor wants more than a tensor."""

    def __new__(cls, data: torch.Tensor, unit: str) -> Gain:
        gain: Any = torch.Tensor._make_subclass(cls, data, True)
        gain.unit = unit
        return gain


class Halved(nn.Module):
    """A parametrization."""

    def forward(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor / 2


@attrs.define
class Slotted:
    """An object without a `__dict__`."""

    tensor: torch.Tensor


class Recorder:
    """Owns a hook that is a bound method."""

    def __init__(self) -> None:
        self.seen = torch.zeros(1)

    def hook(self, module: nn.Module, args: Any, output: torch.Tensor) -> None:
        self.seen = self.seen + 1


def conv_bn() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU())


def pruned() -> nn.Sequential:
    model = nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3))
    prune.l1_unstructured(model[0], "weight", amount=0.5)
    prune.random_structured(model[1], "weight", amount=1, dim=0)
    return model


def weight_normed() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return nn.Sequential(nn.utils.weight_norm(nn.Linear(5, 4)))


def spectral_normed() -> nn.Module:
    model = nn.Sequential(nn.utils.spectral_norm(nn.Linear(5, 4)))
    model(torch.ones(1, 5))
    return model.eval()


def parametrized() -> nn.Module:
    model = nn.Sequential(nn.Linear(5, 4), parametrizations.weight_norm(nn.Linear(4, 3)))
    parametrize.register_parametrization(model[0], "weight", Halved())
    return model


def tied() -> nn.Sequential:
    model = nn.Sequential(nn.Linear(5, 5), nn.Linear(5, 5))
    model[1].weight = model[0].weight
    model.append(model[0])
    return model


def graph_module() -> nn.Module:
    model: Any = fx.symbolic_trace(nn.Sequential(nn.Linear(5, 4), nn.ReLU()))
    model.unused = nn.Linear(2, 2)
    model.note = "of the user"
    model.register_forward_hook(lambda module, args, output: output + 1)
    return model.eval()


BUILDERS = [pruned, weight_normed, spectral_normed, parametrized, tied, graph_module]


@pytest.mark.parametrize("build", BUILDERS)
def test_a_copy_computes_the_same_and_shares_nothing(build: Callable[[], nn.Module]) -> None:
    model = build()
    before = state(model)
    copied = copy_module(model, {})
    assert state(model) == before
    if build is not graph_module:  # each graph module has a class of its own
        assert_independent(model, copied)
    assert list(named_tensors(model)) == list(named_tensors(copied))
    x = torch.randn(2, 5)
    assert torch.equal(model(x), copied(x))


@pytest.mark.parametrize("build", BUILDERS)
def test_a_copy_can_be_trained_without_the_original_noticing(build: Callable[[], nn.Module]) -> None:
    model = build()
    contents = {name: tensor.detach().clone() for name, tensor in named_tensors(model).items()}
    copied = copy_module(model, {}).train()
    optimizer = torch.optim.SGD(copied.parameters(), lr=1.0)
    copied(torch.randn(2, 5)).square().sum().backward()
    optimizer.step()
    assert all(torch.equal(contents[name], tensor) for name, tensor in named_tensors(model).items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert any(not torch.equal(contents[name], tensor) for name, tensor in named_tensors(copied).items())


@pytest.mark.parametrize("build", BUILDERS)
def test_a_shared_clone_holds_the_very_tensors(build: Callable[[], nn.Module]) -> None:
    model = build()
    before = state(model)
    shared = share_module(model)
    assert state(model) == before
    old, new = named_tensors(model), named_tensors(shared)
    assert list(old) == list(new)
    assert all(old[name] is new[name] for name in old)
    assert {id(m) for m in model.modules()}.isdisjoint(id(m) for m in shared.modules())
    x = torch.randn(2, 5)
    assert torch.equal(model.eval()(x), shared.eval()(x))


def test_flags_hooks_and_attributes_of_a_shared_clone_are_its_own() -> None:
    model = conv_bn()
    before = state(model)
    shared: Any = share_module(model)
    shared.eval()
    shared[0].register_forward_hook(lambda *_: None)
    shared[0].note = 1
    shared[0].weight = nn.Parameter(torch.zeros(1))
    shared.append(nn.ReLU())
    del shared[1].running_mean
    assert state(model) == before
    assert all(module.training for module in model.modules())


def test_a_replaced_parameter_keeps_class_and_flag() -> None:
    model = conv_bn()
    model[1].weight.requires_grad_(False)
    model[1].bias = Gain(torch.ones(4), "dB")
    new = {id(p): torch.zeros(2, 2) for p in model[1].parameters()}
    copied: Any = copy_module(model, new)
    assert (type(copied[1].weight), copied[1].weight.requires_grad) == (nn.Parameter, False)
    assert (type(copied[1].bias), copied[1].bias.requires_grad) == (Gain, True)
    assert copied[1].bias.unit == "dB"
    assert [tuple(p.shape) for p in copied[1].parameters()] == [(2, 2), (2, 2)]
    assert [name for name, _ in copied.named_parameters()] == [name for name, _ in model.named_parameters()]


def test_a_replacement_is_taken_over_without_a_copy() -> None:
    model = conv_bn()
    weight, mean = torch.zeros(2, 3, 3, 3), nn.Parameter(torch.zeros(2))
    copied: Any = copy_module(model, {id(model[0].weight): weight, id(model[1].running_mean): mean})
    assert copied[0].weight.data_ptr() == weight.data_ptr()
    assert copied[1].running_mean.data_ptr() == mean.data_ptr()
    assert type(copied[1].running_mean) is torch.Tensor
    assert (weight.requires_grad, type(mean), mean.requires_grad) == (False, nn.Parameter, True)


def test_a_replacement_may_have_another_dtype_and_device() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    copied = copy_module(model, {id(model[0].weight): torch.zeros(1, 2, dtype=torch.half, device="meta")})
    assert (copied[0].weight.dtype, copied[0].weight.device.type) == (torch.half, "meta")


def test_a_replaced_tied_parameter_stays_tied() -> None:
    model = tied()
    copied: Any = copy_module(model, {id(model[0].weight): torch.zeros(5, 5)})
    assert copied[0].weight is copied[1].weight
    assert copied[2] is copied[0]
    assert not copied[1].weight.any()


def test_a_buffer_keeps_its_standing_when_replaced() -> None:
    model = nn.Module()
    model.register_buffer("kept", torch.ones(3))
    model.register_buffer("lost", torch.ones(3), persistent=False)
    model.typed = nn.Buffer(torch.ones(3))
    copied = copy_module(model, {id(buffer): torch.zeros(2) for buffer in model.buffers()})
    assert list(copied.state_dict()) == ["kept", "typed"]
    assert isinstance(copied.typed, nn.Buffer)
    assert [(name, buffer.tolist()) for name, buffer in copied.named_buffers()] == [
        (name, [0, 0]) for name in ("kept", "lost", "typed")
    ]


def test_a_cached_result_can_be_replaced_too() -> None:
    model = pruned()
    copied: Any = copy_module(model, {id(model[0].weight): torch.zeros(2, 5)})
    assert copied[0].weight.shape == (2, 5)
    assert not copied[0].weight.requires_grad


def test_a_parameter_on_a_tensor_subclass_is_replaced() -> None:
    class Wrapped(torch.Tensor):
        pass

    model = nn.Module()
    model.weight = nn.Parameter(torch.ones(3).as_subclass(Wrapped))
    model.weight.grad = torch.ones(3).as_subclass(Wrapped)
    copied = copy_module(model, {id(model.weight): torch.zeros(2).as_subclass(Wrapped)})
    plain = copy_module(model, {})
    assert (type(copied.weight), copied.weight.shape, copied.weight.requires_grad) == (Wrapped, (2,), True)
    assert isinstance(copied.weight, nn.Parameter)
    assert isinstance(plain.weight, nn.Parameter)
    assert plain.weight.grad is None
    assert [name for name, _ in copied.named_parameters()] == ["weight"]


def test_a_replacement_for_a_stranger_is_refused() -> None:
    stranger = torch.ones(3)
    with pytest.raises(
        SpeedupError, match=r"1 of 1 replacements are for no tensor of this Sequential; .* \(7,\)"
    ):
        copy_module(conv_bn(), {id(stranger): torch.ones(7)})


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_a_recurrent_layer_uses_its_new_parameters(kind: Callable[..., nn.RNNBase]) -> None:
    model = kind(3, 4, num_layers=2, bidirectional=True)
    x = torch.randn(5, 2, 3)
    copied: Any = copy_module(model, {id(p): torch.zeros_like(p) for p in model.parameters()})
    assert all(new is own for new, own in zip(copied._flat_weights, copied.parameters(), strict=True))
    assert all(ref() is own for ref, own in zip(copied._flat_weight_refs, copied.parameters(), strict=True))
    assert not copied(x)[0].any()
    assert model(x)[0].any()
    copied.weight_ih_l0 = nn.Parameter(torch.ones_like(copied.weight_ih_l0))
    copied.bias_ih_l0 = nn.Parameter(torch.ones_like(copied.bias_ih_l0))
    assert copied(x)[1] is not None
    assert copied._flat_weights[0] is copied.weight_ih_l0
    assert model._flat_weights[0] is model.weight_ih_l0


def test_a_recurrent_layer_can_become_narrower() -> None:
    model = nn.LSTM(3, 4)
    narrow = nn.LSTM(3, 2)
    new = {
        id(old): p.detach().clone() for old, p in zip(model.parameters(), narrow.parameters(), strict=True)
    }
    copied = copy_module(model, new)
    copied.hidden_size = 2
    x = torch.randn(5, 1, 3)
    assert torch.equal(copied(x)[0], narrow(x)[0])


def pruned_lstm() -> nn.Module:
    model = nn.LSTM(3, 4)
    prune.l1_unstructured(model, "weight_hh_l0", amount=0.5)
    return model


def parametrized_lstm() -> nn.Module:
    model = nn.LSTM(3, 4)
    parametrize.register_parametrization(model, "weight_hh_l0", Halved())
    return model


def relinked_lstm() -> nn.Module:
    model = nn.LSTM(3, 4)
    model._parameters["weight_hh_l0"] = nn.Parameter(torch.zeros(16, 4))
    return model


@pytest.mark.parametrize("build", [pruned_lstm, parametrized_lstm, relinked_lstm])
@pytest.mark.parametrize("duplicate", [share_module, lambda model: copy_module(model, {})])
@pytest.mark.parametrize("called", [False, True])
def test_the_caches_of_a_recurrent_layer_are_not_refreshed(
    build: Callable[[], nn.Module], duplicate: Callable[[nn.Module], nn.Module], called: bool
) -> None:
    model: Any = build()
    x = torch.randn(5, 2, 3)
    if called:
        model(x)
    before = state(model), list(map(id, model._flat_weights)), list(model._flat_weight_refs)
    twin = duplicate(model)
    assert (state(model), list(map(id, model._flat_weights)), list(model._flat_weight_refs)) == before
    assert torch.equal(twin(x)[0], model(x)[0])


def test_a_pruned_recurrent_layer_uses_its_new_parameters() -> None:
    model: Any = pruned_lstm()
    copied = copy_module(model, {id(model.weight_hh_l0_orig): torch.zeros(16, 4)})
    x = torch.randn(5, 2, 3)
    with torch.no_grad():
        model.weight_hh_l0_orig.zero_()
    assert torch.equal(copied(x)[0], model(x)[0])


def test_gradients_stay_with_the_original() -> None:
    model: Any = conv_bn()
    model.register_buffer("running", torch.ones(2, requires_grad=True))
    model.plain = torch.ones(2, requires_grad=True)
    for tensor in (*model.parameters(), model.running, model.plain):
        tensor.grad = torch.ones_like(tensor)
    before = state(model)
    copied = copy_module(model, {id(model[0].weight): torch.zeros(4, 3, 3, 3)})
    assert state(model) == before
    assert all(tensor.grad is None for tensor in (*copied.parameters(), copied.running, copied.plain))
    assert copied.running.requires_grad
    assert copied.plain.requires_grad
    assert share_module(model)[0].weight.grad is model[0].weight.grad


def _place_in_attribute(model: Any, tensor: torch.Tensor) -> Callable[[Any], torch.Tensor]:
    model.cache = tensor
    return lambda m: m.cache


def _place_in_list(model: Any, tensor: torch.Tensor) -> Callable[[Any], torch.Tensor]:
    model.cache = [1, tensor]
    return lambda m: m.cache[1]


def _place_deep(model: Any, tensor: torch.Tensor) -> Callable[[Any], torch.Tensor]:
    model.cache = OrderedDict(a=({"b": deque([tensor])},))
    return lambda m: m.cache["a"][0]["b"][0]


def _place_in_set(model: Any, tensor: torch.Tensor) -> Callable[[Any], torch.Tensor]:
    model.cache = {tensor}
    return lambda m: next(iter(m.cache))


def _place_in_key(model: Any, tensor: torch.Tensor) -> Callable[[Any], torch.Tensor]:
    model.cache = {tensor: 1}
    return lambda m: next(iter(m.cache))


def _place_in_slots(model: Any, tensor: torch.Tensor) -> Callable[[Any], torch.Tensor]:
    model.cache = Slotted(tensor)
    return lambda m: m.cache.tensor


def _place_in_hook(model: Any, tensor: torch.Tensor) -> Callable[[Any], torch.Tensor]:
    recorder = Recorder()
    recorder.seen = tensor
    model.register_forward_hook(recorder.hook)
    return lambda m: next(iter(m._forward_hooks.values())).__self__.seen


def _place_in_partial(model: Any, tensor: torch.Tensor) -> Callable[[Any], torch.Tensor]:
    model.cache = functools.partial(torch.add, tensor)
    return lambda m: m.cache.args[0]


def _place_on_parameter(model: Any, tensor: torch.Tensor) -> Callable[[Any], torch.Tensor]:
    model[0].weight.cache = tensor
    return lambda m: m[0].weight.cache


PLACES = [
    _place_in_attribute,
    _place_in_list,
    _place_deep,
    _place_in_set,
    _place_in_key,
    _place_in_slots,
    _place_in_hook,
    _place_in_partial,
    _place_on_parameter,
]


@pytest.mark.parametrize("place", PLACES)
def test_a_computed_tensor_is_detached_wherever_it_hides(place: Callable[..., Any]) -> None:
    model: Any = conv_bn()
    tensor = model[0].weight * 2
    find = place(model, tensor)
    copied = copy_module(model, {})
    assert find(model) is tensor
    assert tensor.grad_fn is not None
    assert find(copied).is_leaf
    assert not find(copied).requires_grad
    assert torch.equal(find(copied), tensor)
    assert find(copied).data_ptr() != tensor.data_ptr()
    assert find(share_module(model)) is tensor


@pytest.mark.parametrize("place", PLACES)
def test_a_parameter_is_replaced_wherever_else_it_hides(place: Callable[..., Any]) -> None:
    model = conv_bn()
    find = place(model, model[1].weight)
    copied = copy_module(model, {id(model[1].weight): torch.zeros(4)})
    assert find(copied) is copied[1].weight
    assert find(model) is model[1].weight


def test_attributes_of_parameters_survive() -> None:
    model: Any = conv_bn()
    model[0].weight.no_weight_decay = True
    model[1].weight.tags = ["norm"]
    copied: Any = copy_module(model, {id(model[0].weight): torch.zeros(4, 3, 3, 3)})
    assert copied[0].weight.no_weight_decay is True
    assert copied[1].weight.tags == ["norm"]
    assert copied[1].weight.tags is not model[1].weight.tags


def test_an_uninitialised_model_is_copied() -> None:
    def lazy(module: nn.Module) -> list[bool]:
        return [nn.parameter.is_lazy(tensor) for tensor in named_tensors(module).values()]

    model = nn.Sequential(nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d(dtype=torch.double), nn.Flatten())
    model.append(nn.LazyLinear(2)).double()
    before = lazy(model)
    for twin in (copy_module(model, {}), share_module(model)):
        assert lazy(twin) == before
        assert list(twin.state_dict()) == list(model.state_dict())
    copied = copy_module(model, {})
    assert copied(torch.ones(2, 3, 5, 5, dtype=torch.double)).shape == (2, 2)
    assert not any(lazy(copied))
    assert lazy(model) == before


def test_absent_parameters_and_buffers_stay_absent() -> None:
    model = nn.Sequential(
        nn.Linear(2, 2, bias=False), nn.BatchNorm1d(2, affine=False, track_running_stats=False)
    )
    for twin in (copy_module(model, {}), share_module(model)):
        assert twin[0]._parameters["bias"] is None
        assert twin[1]._buffers["running_mean"] is None


def test_hooks_of_a_copy_see_the_copy() -> None:
    model = conv_bn()
    seen: list[nn.Module] = []
    recorder = Recorder()
    model[0].register_forward_hook(lambda module, *_: seen.append(module))
    model[0].register_forward_hook(recorder.hook)
    copied = copy_module(model, {})
    copied(torch.ones(2, 3, 5, 5))
    assert seen == [copied[0]]
    assert recorder.seen.item() == 0


def test_an_exported_program_is_shared_and_copied() -> None:
    model: Any = nn.Sequential(nn.Linear(5, 4), nn.ReLU())
    x = torch.randn(2, 5)
    exported = torch.export.export(model, (x,)).module()
    copied: Any = copy_module(exported, {id(getattr(exported, "0").weight): torch.zeros(4, 5)})
    assert torch.equal(share_module(exported)(x), model(x))
    assert torch.equal(copied(x), model[0].bias.relu().expand(2, 4))


@pytest.mark.parametrize("duplicate", [share_module, lambda model: copy_module(model, {})])
def test_an_attribute_that_cannot_be_copied_is_named(duplicate: Callable[[nn.Module], nn.Module]) -> None:
    model: Any = nn.Sequential(conv_bn(), nn.ReLU())
    model[0][1].lock = threading.Lock()
    with pytest.raises(SpeedupError) as caught:
        duplicate(model)
    for part in [
        "cannot copy this Sequential, because of attribute 'lock' of module '0.1' (BatchNorm2d)",
        "TypeError: cannot pickle '_thread.lock' object",
        "Remove that attribute or hook",
    ]:
        assert part in str(caught.value)


def test_a_module_that_refuses_only_as_a_whole_is_named() -> None:
    class Single(nn.Module):
        def __deepcopy__(self, memo: dict[int, Any]) -> Single:
            raise ValueError("there can be only one")

    with pytest.raises(SpeedupError, match="cannot copy this Single: ValueError: there can be only one"):
        copy_module(Single(), {})


class Rebuilt(nn.Module):
    """Copies itself without a look at the memo."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)

    def __deepcopy__(self, memo: dict[int, Any]) -> Rebuilt:
        twin = Rebuilt()
        twin.load_state_dict(self.state_dict())
        return twin


def test_a_module_that_copies_its_tensors_in_its_own_way_is_refused() -> None:
    model: Any = nn.Sequential(Rebuilt())
    message = (
        r"the copy of '0\.linear\.weight' is not the tensor that was asked for: Linear, or a module around it"
    )
    with pytest.raises(SpeedupError, match=message):
        share_module(model)
    with pytest.raises(SpeedupError, match=message):
        copy_module(model, {id(model[0].linear.weight): torch.zeros(2, 2)})
    assert torch.equal(copy_module(model, {})[0].linear.weight, model[0].linear.weight)


def test_parameters_of_a_copy_are_no_views() -> None:
    model = nn.Linear(3, 4)
    copied = copy_module(model, {id(model.weight): model.weight.detach()[:2].clone()})
    assert not any(parameter._is_view() for parameter in copied.parameters())


def test_a_function_with_a_name_that_has_no_value_yet_is_copied() -> None:
    def with_an_empty_cell(is_filled: bool) -> Callable[[], object]:
        def inner() -> object:
            return later, model

        if is_filled:
            later = 3
        return inner

    model: Any = nn.Linear(2, 3)
    model.inner = with_an_empty_cell(False)
    assert copy_module(model, {}).inner is not model.inner


def test_annotations_of_closures_are_copied_unread() -> None:
    """Since Python 3.14 they are evaluated when somebody asks, and what they name need not be there."""
    source = "def make(layer):\n    def call(x: Absent = 1) -> Absent: return layer(x)\n    return call\n"
    lazy = sys.version_info >= (3, 14)
    names: dict[str, Any] = {} if lazy else {"Absent": "told"}
    exec(compile(source, "made.py", "exec", dont_inherit=True), names)
    model = nn.Module()
    model.layer = nn.Linear(2, 2)
    model.call = names["make"](model.layer)

    copied: Any = copy_module(model, {})

    assert copied.call is not model.call
    names["Absent"] = "told"
    assert copied.call.__annotations__ == {"x": "told", "return": "told"}


@pytest.mark.parametrize("duplicate", [share_module, lambda model: copy_module(model, {})])
def test_empty_tables_of_a_copy_are_its_own(duplicate: Callable[[nn.Module], nn.Module]) -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    shared: dict[str, int] = {}
    one: Any = model[0]
    other: Any = model[1]
    one.cache, other.cache, one.order = shared, shared, OrderedDict[str, int]()
    one.order.note = "kept"
    copied: Any = duplicate(model)
    copied[0].cache["a"] = 1
    copied[0].order["b"] = 2
    copied[0].register_forward_hook(lambda module, args, output: None)
    assert copied[1].cache is copied[0].cache
    assert (type(copied[0].order), copied[0].order.note) == (OrderedDict, "kept")
    assert (one.cache, other.cache, dict(one.order), dict(one._forward_hooks)) == ({}, {}, {}, {})
