"""A plan applied to a state dict gives what `materialize` gives, however the state is held."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from speedup import (
    ArchitectureError,
    InputError,
    ModelError,
    OtherWeightsError,
    Plan,
    materialize,
    plan_speedup,
)
from tests.support.cut_cases import CASES, Net, each_case, planned_once, without


def require_equal(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    assert list(found) == list(wanted)
    for name, tensor in wanted.items():
        assert found[name].dtype is tensor.dtype, name
        assert torch.equal(found[name], tensor), name


@each_case
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_it_is_what_materialize_gives(case: str, dtype: torch.dtype) -> None:
    model, plan = planned_once(case, dtype)
    state, small = model.state_dict(), materialize(plan, verify="none")
    before = {name: tensor.clone() for name, tensor in state.items()}
    found = plan.apply(state)
    require_equal(found, small.state_dict())
    require_equal(state, before)
    own = {tensor.untyped_storage().data_ptr() for tensor in state.values()}
    assert own.isdisjoint(tensor.untyped_storage().data_ptr() for tensor in found.values())


@each_case
def test_a_plan_that_was_read_back_is_enough(case: str) -> None:
    model, plan = planned_once(case)
    found = Plan.from_json(plan.to_json()).apply(model.state_dict())
    require_equal(found, materialize(plan, verify="none").state_dict())


@each_case
def test_parts_of_a_state_give_the_parts_of_the_small_one(case: str) -> None:
    model, plan = planned_once(case)
    parts = [plan.apply({name: tensor}) for name, tensor in model.state_dict().items()]
    joined = {name: tensor for part in parts for name, tensor in part.items()}
    assert sum(map(len, parts)) == len(joined)
    require_equal(joined, materialize(plan, verify="none").state_dict())


@each_case
def test_slices_of_files_are_enough(case: str, tmp_path: Path) -> None:
    model, plan = planned_once(case)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    save_file(state, tmp_path / "state.safetensors")
    with safe_open(tmp_path / "state.safetensors", "pt") as file:
        found = plan.apply({name: file.get_slice(name) for name in state})
    require_equal(found, materialize(plan, verify="none").state_dict())


class Lazy(Mapping[str, Tensor]):
    """Tensors that are made when they are asked for; notes how many are alive at once."""

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        self.state, self.alive, self.most, self.asked = state, 0, 0, list[str]()

    def __getitem__(self, name: str) -> Tensor:
        self.asked.append(name)
        tensor = self.state[name].clone()
        self.alive += 1
        self.most = max(self.most, self.alive)
        weakref.finalize(tensor, self._gone)
        return tensor

    def _gone(self) -> None:
        self.alive -= 1

    def __iter__(self) -> Iterator[str]:
        return iter(self.state)

    def __len__(self) -> int:
        return len(self.state)


@each_case
def test_of_a_lazy_state_no_two_tensors_are_needed_at_once(case: str) -> None:
    model, plan = planned_once(case)
    lazy = Lazy(model.state_dict())
    require_equal(plan.apply(lazy), materialize(plan, verify="none").state_dict())
    # The one before is let go when the next one has been made.
    assert lazy.asked == list(model.state_dict()) and lazy.most <= 2


def test_an_averaged_copy_follows_a_plan_that_is_made_of_masks_alone() -> None:
    model, plan = planned_once("sliced")
    averaged = {
        name: tensor.lerp(torch.ones_like(tensor), 0.25) for name, tensor in model.state_dict().items()
    }
    other = CASES["sliced"]()[0]
    other.load_state_dict(averaged)
    require_equal(plan.apply(averaged), materialize(plan, other.eval(), verify="none").state_dict())


@pytest.mark.parametrize("case", ["folded", "with_new_bias", "merged", "combined", "normed"])
def test_a_plan_with_constants_is_for_its_own_numbers_alone(case: str) -> None:
    model, plan = planned_once(case)
    averaged = {
        name: tensor * 0.5 for name, tensor in model.state_dict().items() if tensor.is_floating_point()
    }
    with pytest.raises(OtherWeightsError, match=r"'0.weight' holds other numbers.*averaged"):
        plan.apply(averaged)


def test_zeros_that_count_as_masked_have_to_be_there() -> None:
    model: Any = Net(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    with torch.no_grad():
        model[0].weight[2:5] = model[0].bias[2:5] = 0
    plan = plan_speedup(model, torch.ones(2, 5))
    require_equal(plan.apply(model.state_dict()), materialize(plan).state_dict())
    with pytest.raises(OtherWeightsError, match=r"'0.weight'"):
        plan.apply({**model.state_dict(), "0.weight": torch.ones(8, 5)})


def test_another_precision_is_cut_where_numbers_do_not_matter() -> None:
    model, plan = planned_once("sliced")
    found = plan.apply({name: tensor.double() for name, tensor in model.state_dict().items()})
    small = materialize(plan, verify="none").double()
    require_equal(found, small.state_dict())


class Counting(nn.Module):
    """Has state besides tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.calls = nn.Linear(4, 6), 3

    def get_extra_state(self) -> Any:
        return {"calls": self.calls}

    def set_extra_state(self, state: Any) -> None:
        self.calls = state["calls"]

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.inner(x)
        return result


def test_what_modules_add_to_a_state_goes_with_it() -> None:
    model: Any = nn.Sequential(Counting(), nn.BatchNorm1d(6), nn.Linear(6, 2)).eval()
    model[0].calls = 5
    drop = without((6, 4), 0, 1, 2)
    masks = {"0.inner.weight": drop, "0.inner.bias": drop[:, 0].clone(), "1.bias": drop[:, 0].clone()}
    plan = plan_speedup(model, torch.ones(2, 4), masks)
    found: Any = plan.apply(model.state_dict())
    small: Any = materialize(plan)
    small[0].calls = 0
    small.load_state_dict(found)
    assert small[0].calls == 5 and found["1.running_mean"].shape == (4,)
    assert vars(found)["_metadata"] == vars(model.state_dict())["_metadata"]


WRONG: Mapping[str, tuple[Any, type[Exception], str]] = {
    "an unknown name": (
        {"0.weigth": torch.ones(8, 5)},
        ArchitectureError,
        r"no tensor '0.weigth'; it has '0.weig",
    ),
    "another shape": ({"0.weight": torch.ones(8, 4)}, ArchitectureError, r"\(8, 4\), planned was \(8, 5\)"),
    "integers": ({"0.weight": torch.ones(8, 5, dtype=torch.int8)}, ArchitectureError, "int8.*quantised"),
    "a small float": ({"0.weight": torch.ones(8, 5).to(torch.float8_e4m3fn)}, ArchitectureError, "float8"),
    "no tensor": ({"0.weight": [1.0]}, InputError, "'0.weight' is list; pass tensors"),
    "a small state": ({"0.weight": torch.ones(5, 5)}, ArchitectureError, "planned architecture"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_state_is_refused(kind: str) -> None:
    state, error, words = WRONG[kind]
    with pytest.raises(error, match=words):
        planned_once("sliced")[1].apply(state)


class Packed(torch.Tensor):
    """As libraries for quantisation make them: no numbers of its own."""

    @staticmethod
    def __new__(cls, shape: tuple[int, ...]) -> Packed:
        made: Packed = torch.Tensor._make_wrapper_subclass(cls, shape)
        return made

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        raise NotImplementedError(str(func))


def test_a_tensor_without_numbers_of_its_own_is_refused() -> None:
    with pytest.raises(ModelError, match=r"'0.weight' is a .*Packed, which keeps its numbers elsewhere"):
        planned_once("sliced")[1].apply({"0.weight": Packed((8, 5))})
