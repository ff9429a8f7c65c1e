"""Masks in the forms that people have them in, and what is said of those that do not fit."""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from speedup import (
    MaskError,
    MaskShapeError,
    MaskTargetError,
    MaskValueError,
    UnknownNameError,
    check_masks,
    masks_from_file,
    masks_from_prune,
)
from speedup.masks import resolve_masks

ROWS = torch.tensor([1, 0, 1, 1, 0, 1])
FILTERS = ROWS.reshape(6, 1, 1, 1)


def net() -> Any:
    model = nn.Module()
    model.first, model.norm = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6)
    model.block = nn.Sequential(nn.Conv2d(6, 4, 3), nn.ReLU())
    return model


def pruned() -> Any:
    model = net()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        prune.ln_structured(model.first, "weight", 0.5, 1, 0)
        prune.random_unstructured(model.block[0], "weight", 0.3)
        prune.l1_unstructured(model.block[0], "bias", 1)
    return model


WANTED = {"first.weight": FILTERS, "first.bias": ROWS}

KEYED: dict[str, Callable[[Any], dict[Any, object]]] = {
    "modules": lambda m: {m.first: {"weight": FILTERS, "bias": ROWS}},
    "pairs": lambda m: {(m.first, "weight"): FILTERS, (m.first, "bias"): ROWS},
    "parameters": lambda m: {m.first.weight: FILTERS, m.first.bias: ROWS},
    "the model": lambda m: {m: {"first.weight": FILTERS, "first.bias": ROWS}},
    "a mixture": lambda m: {m.first: {"weight": FILTERS}, "first.bias": ROWS},
    "data parallel": lambda m: {f"module.{name}": mask for name, mask in WANTED.items()},
    "compiled": lambda m: {f"_orig_mod.{name}": mask for name, mask in WANTED.items()},
    "both": lambda m: {f"module._orig_mod.{name}": mask for name, mask in WANTED.items()},
    "modules of a wrapped one": lambda m: {"module.first": {"weight": FILTERS, "bias": ROWS}},
}


@pytest.mark.parametrize("name", KEYED)
def test_keys_are_taken_for_the_names_that_they_stand_for(name: str) -> None:
    model = net()
    assert check_masks(model, KEYED[name](model)) == ()
    assert resolve_masks(model, KEYED[name](model)) == resolve_masks(model, WANTED)


def test_a_model_that_has_a_module_of_that_name_keeps_it() -> None:
    model = nn.Module()
    model.module = net()
    masks = {"module.first.weight": FILTERS}
    assert [*resolve_masks(model, masks)] == ["module.first.weight"]


def test_a_prefix_of_some_keys_is_none() -> None:
    (problem,) = check_masks(net(), {"module.first.weight": FILTERS, "first.bias": ROWS})
    assert problem.kind is UnknownNameError and problem.name == "module.first.weight"


@pytest.mark.parametrize(
    "key", [nn.Conv2d(3, 6, 3), (nn.Conv2d(3, 6, 3), "weight"), nn.Parameter(ROWS * 1.0), 3]
)
def test_what_is_not_of_the_model_is_refused_with_what_to_use(key: Any) -> None:
    for value in (FILTERS, {"weight": FILTERS}):
        with pytest.raises(MaskError, match=r"a name must be a str, not .*Name parameters as") as caught:
            resolve_masks(net(), {key: value})
        assert ("the model's own" in str(caught.value)) is not isinstance(key, int)
        assert len(str(caught.value)) < 400


STATES: dict[str, Callable[[Any], dict[str, Any]]] = {
    "state dict": lambda m: m.state_dict(),
    "checkpoint": lambda m: {"epoch": 3, "state_dict": dict(m.state_dict())},
    "of a wrapped model": lambda m: {f"module.{name}": t for name, t in m.state_dict().items()},
    "of a compiled one": lambda m: {"model": {f"_orig_mod.{name}": t for name, t in m.state_dict().items()}},
}


@pytest.mark.parametrize("name", STATES)
@pytest.mark.parametrize("to", ["pruned", "plain"])
def test_masks_are_found_in_the_state_of_a_pruned_model(name: str, to: str, tmp_path: pathlib.Path) -> None:
    source = pruned()
    wanted = masks_from_prune(source)
    model = source if to == "pruned" else net()
    state = STATES[name](source)
    assert resolve_masks(model, state) == resolve_masks(model, wanted)
    torch.save(state, tmp_path / "model.pth")
    assert resolve_masks(model, tmp_path / "model.pth") == resolve_masks(model, wanted)
    assert resolve_masks(model, masks_from_file(tmp_path / "model.pth")) == resolve_masks(model, wanted)


def test_a_parameter_that_is_called_a_mask_is_one() -> None:
    model = nn.Module()
    model.token_mask = nn.Parameter(torch.ones(4))
    keep = torch.tensor([1, 0, 1, 1])
    assert [*resolve_masks(model, {"token_mask": keep})] == ["token_mask"]


def test_masks_of_activations_that_mask_nothing_are_left_out(tmp_path: pathlib.Path) -> None:
    torch.save({"first": {"weight": FILTERS, "_output_0": torch.ones(6, 1, 1)}}, tmp_path / "masks.pth")
    assert [*masks_from_file(tmp_path / "masks.pth")] == ["first.weight"]
    torch.save({"first": {"_output_0": ROWS.reshape(6, 1, 1)}}, tmp_path / "masks.pth")
    with pytest.raises(MaskTargetError, match=r"Mask the rows, and the biases"):
        masks_from_file(tmp_path / "masks.pth")


def _many(value: Tensor, count: int = 60) -> tuple[nn.Module, dict[str, Tensor]]:
    model = nn.Sequential(*(nn.Linear(4, 4) for _ in range(count)))
    return model, {f"{n}.weight": value for n in range(count)}


@pytest.mark.parametrize(
    ("value", "kind", "cause"),
    [
        (torch.ones(5, 1), MaskShapeError, "as if they were for a model of other widths"),
        (torch.full((4, 4), 0.3), MaskValueError, "as scores and weights do"),
    ],
)
def test_many_problems_are_a_cause_five_of_them_and_a_count(
    value: Tensor, kind: type[MaskError], cause: str
) -> None:
    model, masks = _many(value)
    with pytest.raises(kind) as caught:
        resolve_masks(model, masks)
    first, *listed = str(caught.value).splitlines()
    assert first.startswith("there are 60 problems with the masks; ") and cause in first
    assert len(listed) == 6 and "'4.weight'" in listed[4]
    assert listed[5] == "- and 55 more, which check_masks(model, masks) lists"
    assert len(check_masks(model, masks)) == 60


def test_names_of_another_model_are_said_to_be_so() -> None:
    model, _ = _many(ROWS)
    with pytest.raises(
        UnknownNameError, match=r"200 problems .* as if they were of another one:\n"
    ) as caught:
        resolve_masks(model, {f"encoder.layer.{n}.weight": ROWS for n in range(200)})
    assert len(str(caught.value)) < 2500


def test_problems_of_several_kinds_have_no_one_cause() -> None:
    model, masks = _many(torch.ones(5, 1), 2)
    with pytest.raises(MaskError, match=r"3 problems with the masks:\n"):
        resolve_masks(model, {**masks, "no.weight": ROWS})
