"""Training that goes on with the state that a plan made is that of a small model which had started so."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn, optim
from torch.nn.functional import mse_loss

from speedup import ArchitectureError, OptimizerStateError, Plan, materialize
from tests.support.cut_cases import planned

Make = Callable[[Iterable[Any]], optim.Optimizer]
OPTIMIZERS: Mapping[str, Make] = {
    "Adam": partial(optim.Adam, lr=0.05),
    "Adam, amsgrad": partial(optim.Adam, lr=0.05, amsgrad=True, weight_decay=0.1),
    "AdamW": partial(optim.AdamW, lr=0.05),
    "AdamW, amsgrad": partial(optim.AdamW, lr=0.05, amsgrad=True),
    "SGD": partial(optim.SGD, lr=0.05),
    "SGD, Nesterov": partial(optim.SGD, lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.01),
    "SGD, damped": partial(optim.SGD, lr=0.05, momentum=0.9, dampening=0.1),
    "RMSprop": partial(optim.RMSprop, lr=0.05),
    "RMSprop, centered": partial(optim.RMSprop, lr=0.05, momentum=0.9, centered=True),
}
each_optimizer = pytest.mark.parametrize("kind", OPTIMIZERS)
BEFORE, AFTER = 5, 10


def names_of(model: nn.Module) -> list[str]:
    return [name for name, _ in model.named_parameters()]


def train(
    model: nn.Module, optimizer: optim.Optimizer, steps: range, masks: Mapping[str, Tensor] | None = None
) -> None:
    """Steps on batches that follow from their numbers; what is masked is held at zero."""
    masked = (
        [(p, masks[name]) for name, p in model.named_parameters() if name in (masks or {})] if masks else []
    )
    with torch.no_grad():
        for parameter, mask in masked:
            parameter.mul_(mask)
    for step in steps:
        x, y = torch.randn(2, 6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        mse_loss(model(x), y[:, :3]).backward()
        for parameter, mask in masked:
            assert parameter.grad is not None
            parameter.grad.mul_(mask)
        optimizer.step()
    with torch.no_grad():
        for parameter, mask in masked:
            parameter.mul_(mask)


def masked_training(kind: str) -> tuple[nn.Module, optim.Optimizer, Plan]:
    """A masked model after some steps, and the plan, which was made before them."""
    model, plan = planned("sliced", torch.float64)
    optimizer = OPTIMIZERS[kind](model.parameters())
    train(model, optimizer, range(BEFORE), plan.subject.masks)
    return model, optimizer, plan


def resumed(kind: str, small: nn.Module, state: Mapping[str, Any]) -> optim.Optimizer:
    optimizer = OPTIMIZERS[kind](small.parameters())
    optimizer.load_state_dict(dict(state))
    return optimizer


def require_same(one: nn.Module, other: nn.Module, tolerance: float = 0.0) -> None:
    for (name, first), second in zip(one.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(first, second, rtol=tolerance, atol=tolerance, msg=name)


@each_optimizer
def test_training_that_goes_on_is_that_of_a_model_that_started_small(kind: str) -> None:
    model, optimizer, plan = masked_training(kind)
    small = materialize(planned("sliced", torch.float64)[1])
    small.load_state_dict(plan.apply(model.state_dict()))
    train(
        small,
        resumed(kind, small, plan.apply_optimizer(optimizer.state_dict(), names_of(model))),
        range(5, 15),
    )

    # The same layers, made small by hand; weights and moments put in by hand.
    kept = {"0": [0, 2, 3, 5, 6, 7], "2": [0, 1, 3, 4, 5]}
    rows = {"0.weight": "0", "0.bias": "0", "2.weight": "2", "2.bias": "2"}
    columns = {"2.weight": "0", "4.weight": "2"}

    def cut(name: str, tensor: Tensor) -> Tensor:
        tensor = tensor * plan.subject.masks.get(name, torch.ones(()))
        tensor = tensor[kept[rows[name]]] if name in rows else tensor
        return tensor[:, kept[columns[name]]] if name in columns else tensor

    layers = nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)
    started = nn.Sequential(*layers).double()
    first = OPTIMIZERS[kind](started.parameters())
    with torch.no_grad():
        for name, parameter in started.named_parameters():
            parameter.copy_(cut(name, model.get_parameter(name)))
            entries = optimizer.state[model.get_parameter(name)]
            first.state[parameter] = {
                key: cut(name, value) if isinstance(value, Tensor) and value.ndim else value
                for key, value in entries.items()
            }
    train(started, first, range(BEFORE, BEFORE + AFTER))
    require_same(small, started)


@each_optimizer
def test_it_is_the_masked_training_that_goes_on(kind: str) -> None:
    """Where all that is masked goes, the small model would have come to the same point by itself."""
    model, plan = planned("with_bias_masks", torch.float64)
    small = materialize(plan)
    large, little = OPTIMIZERS[kind](model.parameters()), OPTIMIZERS[kind](small.parameters())
    train(model, large, range(BEFORE), plan.subject.masks)
    train(small, little, range(BEFORE))
    cut = materialize(planned("with_bias_masks", torch.float64)[1])
    cut.load_state_dict(plan.apply(model.state_dict()))
    train(cut, resumed(kind, cut, plan.apply_optimizer(large.state_dict(), names_of(model))), range(5, 15))
    train(small, little, range(5, 15))
    require_same(cut, small, 1e-9)


@each_optimizer
def test_an_optimizer_that_knows_names_needs_none(kind: str) -> None:
    model, optimizer, plan = masked_training(kind)
    named = OPTIMIZERS[kind](model.named_parameters())
    named.load_state_dict(optimizer.state_dict())
    state = named.state_dict()
    assert "param_names" in state["param_groups"][0]
    found = plan.apply_optimizer(state)
    wanted = plan.apply_optimizer(optimizer.state_dict(), names_of(model))
    assert found["param_groups"] == wanted["param_groups"]
    torch.testing.assert_close(found["state"], wanted["state"], rtol=0, atol=0)


@each_optimizer
def test_a_state_by_names_stays_one(kind: str) -> None:
    model, optimizer, plan = masked_training(kind)
    names = names_of(model)
    state = optimizer.state_dict()
    (group,) = state["param_groups"]
    by_name = {names[key]: entries for key, entries in state["state"].items()}
    found = plan.apply_optimizer({"state": by_name, "param_groups": [{**group, "params": names}]})
    wanted = plan.apply_optimizer(state, names)
    assert found["param_groups"][0]["params"] == names
    torch.testing.assert_close(list(found["state"].values()), list(wanted["state"].values()), rtol=0, atol=0)


@pytest.mark.parametrize(
    "case", ["folded", "with_new_bias", "merged", "merged_rows", "combined", "grouped", "normed"]
)
def test_moments_are_cut_as_their_parameters_and_nothing_is_folded_into_them(case: str) -> None:
    model, plan = planned(case)
    small = materialize(plan, verify="none")
    optimizer = optim.AdamW(model.parameters())
    for number, parameter in enumerate(model.parameters()):
        parameter.grad = torch.full_like(parameter, number + 1.0)
    optimizer.step()
    state = plan.apply_optimizer(optimizer.state_dict(), names_of(model))
    assert state["param_groups"][0]["param_names"] == names_of(small)
    follower = optim.AdamW(small.parameters())
    follower.load_state_dict(state)
    before = names_of(model)
    for name, parameter in small.named_parameters():
        entries = follower.state.get(parameter)
        if name not in before:
            assert not entries
            continue
        assert entries is not None and entries["exp_avg"].shape == parameter.shape
        mask = plan.subject.masks.get(name)
        if mask is None:
            # Gradients were the same in all entries, and so are their means, unless something was added.
            assert entries["exp_avg"].unique().tolist() == pytest.approx([0.1 * (before.index(name) + 1)])
    follower.zero_grad()
    small(torch.ones_like(plan.subject.example.tensors[0])).sum().backward()
    follower.step()


def test_a_new_bias_joins_the_group_of_its_weight() -> None:
    model, plan = planned("with_new_bias")
    names = names_of(model)
    groups = [[n for n in names if n.endswith("bias")], [n for n in names if n.endswith("weight")]]
    optimizer = optim.SGD(
        [
            {"params": [model.get_parameter(n) for n in group], "lr": 0.1 * i}
            for i, group in enumerate(groups, 1)
        ],
        momentum=0.9,
    )
    state = plan.apply_optimizer(optimizer.state_dict(), [n for group in groups for n in group])
    assert [group["param_names"] for group in state["param_groups"]] == [
        ["0.bias", "4.bias"],
        ["0.weight", "2.weight", "2.bias", "4.weight"],
    ]
    assert [group["params"] for group in state["param_groups"]] == [[0, 1], [2, 3, 4, 5]]
    assert [group["lr"] for group in state["param_groups"]] == [0.1, 0.2]


def test_moments_of_masked_entries_that_stay_are_zero() -> None:
    model, plan = planned("sliced")
    optimizer = optim.AdamW(model.parameters())
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    found = plan.apply_optimizer(optimizer.state_dict(), names_of(model))["state"]
    assert (found[0]["exp_avg"] == 0).nonzero().tolist() == [[0, 2]]
    assert (found[2]["exp_avg_sq"] == 0).nonzero().tolist() == [[1, 2], [4, 0]]


def test_parameters_that_are_not_trained_may_be_missing() -> None:
    model, plan = planned("with_new_bias")
    optimizer = optim.SGD([model.get_parameter("4.weight")], momentum=0.9)
    state = plan.apply_optimizer(optimizer.state_dict(), ["4.weight"])
    assert state["param_groups"][0]["param_names"] == ["4.weight"]


def test_the_given_state_is_not_changed() -> None:
    model, optimizer, plan = masked_training("AdamW")
    before = optimizer.state_dict()
    copied = {key: {k: v.clone() for k, v in entries.items()} for key, entries in before["state"].items()}
    found = plan.apply_optimizer(before, names_of(model))
    torch.testing.assert_close(before["state"], copied, rtol=0, atol=0)
    own = {v.data_ptr() for entries in before["state"].values() for v in entries.values()}
    assert own.isdisjoint(v.data_ptr() for entries in found["state"].values() for v in entries.values())


def stepped(make: Make, model: nn.Module) -> Mapping[str, Any]:
    matrices = [p for p in model.parameters() if p.ndim == 2]
    optimizer = make(matrices)
    for parameter in matrices:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    return optimizer.state_dict()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (optim.Adafactor, "Adafactor's, which keeps means over whole rows"),
        (optim.Muon, "Muon's, whose steps depend on a whole matrix"),
        (optim.Adagrad, r"not known, with the entries step, sum.*Adam and AdamW, SGD, RMSprop"),
        (optim.Rprop, "not known, with the entries prev"),
    ],
)
def test_another_optimizer_is_refused_and_told_why(make: Make, words: str) -> None:
    model, plan = planned("sliced")
    with pytest.raises(OptimizerStateError, match=words):
        plan.apply_optimizer(stepped(make, model), [n for n, p in model.named_parameters() if p.ndim == 2])


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ({"exp_avg_sq_row": 0}, "Adafactor"),
        ({"preconditioner": 0}, "Shampoo"),
        ({"state1": 0, "qmap1": 0}, "8 bits"),
        ({"exp_avg": 0, "something": 0}, "entries exp_avg, something"),
    ],
)
def test_states_of_other_libraries_are_refused_by_their_entries(entries: dict[str, Any], words: str) -> None:
    _, plan = planned("sliced")
    settings = {"betas": (0.9, 0.99), "eps": 1e-8, "amsgrad": False, "maximize": False}
    state = {"state": {0: entries}, "param_groups": [{**settings, "params": [0]}]}
    with pytest.raises(OptimizerStateError, match=words):
        plan.apply_optimizer(state, ["0.weight"])


def adam(shape: tuple[int, ...] = (8, 5)) -> dict[str, Any]:
    parameter = nn.Parameter(torch.ones(shape))
    parameter.grad = torch.ones(shape)
    optimizer = optim.Adam([parameter])
    optimizer.step()
    return optimizer.state_dict()


@pytest.mark.parametrize(
    ("state", "names", "error", "words"),
    [
        ({}, None, OptimizerStateError, "no optimizer's state"),
        (adam(), None, OptimizerStateError, "does not name its parameters"),
        (adam(), [], OptimizerStateError, "0 names for 1 parameters"),
        (adam(), ["0.weight", "0.bias"], OptimizerStateError, "2 names for 1 parameters"),
        (
            adam((8, 4)),
            ["0.weight"],
            OptimizerStateError,
            r"'exp_avg' of parameter '0.weight' is of shape \(8, 4\)",
        ),
        (adam(), ["0.wait"], ArchitectureError, "no tensor '0.wait'"),
    ],
)
def test_what_does_not_fit_is_refused(
    state: dict[str, Any], names: list[str] | None, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        planned("sliced")[1].apply_optimizer(state, names)


def test_a_name_that_is_given_twice_is_refused() -> None:
    model, optimizer, plan = masked_training("SGD")
    names = names_of(model)
    with pytest.raises(OptimizerStateError, match=r"'0.weight' is named twice"):
        plan.apply_optimizer(optimizer.state_dict(), [*names[:-1], names[0]])


def test_buffers_are_no_parameters() -> None:
    _, plan = planned("normed")
    with pytest.raises(OptimizerStateError, match=r"'1.running_mean' is a buffer"):
        plan.apply_optimizer(adam((8,)), ["1.running_mean"])
