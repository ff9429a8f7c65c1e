"""Masks that stand in a model or a file already, and what is wrong with those that do not fit."""

from __future__ import annotations

import pathlib
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils import prune

from speedup import (
    MaskError,
    MaskFileError,
    MaskShapeError,
    MaskTargetError,
    MaskValueError,
    UnknownNameError,
    apply_masks,
    check_masks,
    masks_from_file,
    masks_from_prune,
    masks_from_zeros,
    plan_speedup,
)
from speedup.masks import resolve_masks
from tests.support.untouched import differences, snapshot

ROWS = torch.tensor([True, False, True, True])


def _model() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 3))


def test_zeros_in_weights_become_masks() -> None:
    model: Any = _model()
    with torch.no_grad():
        model[0].weight[1] = 0.0
        model[3].weight[2, 1, 0, 0] = -0.0

    masks = masks_from_zeros(model)

    # A BatchNorm starts with a bias of zeros.
    assert set(masks) == {"0.weight", "1.bias", "3.weight"}
    assert torch.equal(masks["0.weight"], ROWS[:, None, None, None].expand(4, 3, 3, 3))
    assert (~masks["3.weight"]).nonzero().tolist() == [[2, 1, 0, 0]]


def test_masks_of_zeros_change_nothing_in_the_model_they_come_from() -> None:
    model: Any = _model()
    with torch.no_grad():
        model[0].weight[1] = 0.0
    x = torch.randn(1, 3, 8, 8)

    assert plan_speedup(model, x, masks_from_zeros(model)).edits == plan_speedup(model, x).edits


def test_parameters_without_values_have_no_zeros() -> None:
    assert masks_from_zeros(nn.Linear(2, 2, device="meta")) == {}
    with pytest.raises(MaskTargetError, match=r"'weight' is uninitialised; run the model once"):
        masks_from_zeros(nn.LazyLinear(2))


def _pruned_in_a_row(model: nn.Sequential) -> None:
    prune.ln_structured(model[0], "weight", amount=2, n=1, dim=0)
    prune.random_unstructured(model[0], "weight", amount=0.3)
    prune.l1_unstructured(model[0], "bias", amount=1)


def _pruned_globally(model: nn.Sequential) -> None:
    prune.global_unstructured(
        [(model[0], "weight"), (model[3], "weight"), (model[3], "bias")], prune.L1Unstructured, amount=0.4
    )


def _pruned_along_columns(model: nn.Sequential) -> None:
    prune.random_structured(model[3], "weight", amount=2, dim=1)


@pytest.mark.parametrize("prune_it", [_pruned_in_a_row, _pruned_globally, _pruned_along_columns])
def test_masks_of_prune_say_what_its_forward_computes(prune_it: Callable[[nn.Sequential], None]) -> None:
    model = _model().eval()
    dense = apply_masks(model, None)
    prune_it(model)
    x = torch.randn(2, 3, 8, 8)

    masks = masks_from_prune(model)

    assert masks
    # The names are those of the model that was not pruned, and of this one once pruning is made permanent.
    torch.testing.assert_close(apply_masks(dense, masks)(x), model(x))
    assert len(resolve_masks(model, masks)) == len(masks)
    permanent = apply_masks(model, None)
    for name in masks:
        path, _, local = name.rpartition(".")
        prune.remove(permanent.get_submodule(path), local)
    assert all(torch.equal(mask, masks_from_zeros(permanent)[name]) for name, mask in masks.items())
    assert check_masks(permanent, masks) == ()


def test_a_model_that_is_not_pruned_has_no_masks_of_prune() -> None:
    model = _model()
    nn.utils.spectral_norm(model[3])
    prune.identity(model[0], "weight")
    assert masks_from_prune(model) == {}


def _by_nni() -> dict[str, dict[str, Tensor | None]]:
    """As NNI 3 gathers them: floats of the parameter's shape, None for what is not masked."""
    masks: dict[str, dict[str, Tensor | None]] = defaultdict(dict)
    masks["0"]["weight"] = ROWS.float()[:, None, None, None].expand(4, 3, 3, 3).contiguous()
    masks["0"]["bias"] = ROWS.float()
    masks["3"]["weight"] = torch.ones(5, 4, 3, 3)
    masks["3"]["bias"] = None
    return masks


def test_masks_that_nni_saved_are_read(tmp_path: pathlib.Path) -> None:
    torch.save(_by_nni(), tmp_path / "masks.pth")

    masks = masks_from_file(tmp_path / "masks.pth")

    assert set(masks) == {"0.weight", "0.bias"}
    assert torch.equal(masks["0.bias"], ROWS)
    assert resolve_masks(_model(), masks) == resolve_masks(_model(), tmp_path / "masks.pth")


def test_masks_by_parameter_are_read_from_safetensors(tmp_path: pathlib.Path) -> None:
    save_file({"0.bias": ROWS.to(torch.uint8)}, tmp_path / "masks.safetensors")
    assert torch.equal(masks_from_file(str(tmp_path / "masks.safetensors"))["0.bias"], ROWS)


class _Payload:
    def __reduce__(self) -> tuple[object, tuple[object, str]]:
        return defaultdict, (print, "never")


def test_a_defaultdict_opens_no_door(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"0.bias": _Payload()}, tmp_path / "masks.pth")
    with pytest.raises(MaskFileError, match=r"was refused, and nothing in it was executed: it holds"):
        masks_from_file(tmp_path / "masks.pth")
    assert capsys.readouterr().out == ""


def test_all_that_is_wrong_in_a_file_is_told(tmp_path: pathlib.Path) -> None:
    torch.save(
        {"0": {"_output_0": ROWS, "weight": torch.full((4,), 0.5)}, "3.bias": ROWS}, tmp_path / "masks.pth"
    )
    with pytest.raises(MaskError) as caught:
        masks_from_file(tmp_path / "masks.pth")
    assert type(caught.value) is MaskError
    assert "2 problems" in str(caught.value)
    assert "'0._output_0': it is for what the module takes or returns" in str(caught.value)
    assert "'0.weight' holds 0.5" in str(caught.value)


BAD = {
    "0.weigth": ROWS,
    "0.bias": ROWS,
    "7": {"weight": ROWS, "bias": ROWS},
    "3": {"weight": ROWS, "bias": torch.full((5,), 2.0), 3: ROWS},
    "1": {"bias": ROWS, "running_var": ROWS},
}


def test_every_problem_is_told_at_once() -> None:
    problems = check_masks(_model(), {**BAD, "3": {"weight": ROWS, "bias": torch.full((5,), 2.0)}})

    assert [(p.name, p.kind) for p in problems] == [
        ("0.weigth", UnknownNameError),
        ("7", UnknownNameError),
        ("3.weight", MaskShapeError),
        ("3.bias", MaskValueError),
        ("1.running_var", MaskTargetError),
    ]
    assert problems[2].what == "mask for '3.weight' has shape (4,), its parameter (5, 4, 3, 3)"
    assert "mask.reshape(1, 4, 1, 1)" in problems[2].advice


def test_a_name_that_is_no_string_is_a_problem_too() -> None:
    assert [p.name for p in check_masks(_model(), BAD)] == ["0.weigth", "7", "3", "1.running_var"]


def test_resolving_raises_what_checking_finds() -> None:
    model = _model()
    with pytest.raises(MaskError) as caught:
        resolve_masks(model, BAD)
    for problem in check_masks(model, BAD):
        assert str(problem) in str(caught.value)


def test_problems_of_one_kind_raise_that_kind() -> None:
    with pytest.raises(UnknownNameError, match=r"(?s)2 problems.*'a'.*'b'"):
        resolve_masks(_model(), {"a": ROWS, "b": {}})


@pytest.mark.parametrize("masks", [None, {}, {"0.bias": ROWS}, {"0": {"bias": ROWS, "weight": None}}])
def test_masks_that_fit_have_no_problems(masks: Mapping[str, object] | None) -> None:
    assert check_masks(_model(), masks) == ()


def test_what_cannot_be_read_at_all_is_one_problem(tmp_path: pathlib.Path) -> None:
    (problem,) = check_masks(_model(), tmp_path / "absent.pt")
    assert problem.kind is MaskFileError
    assert problem.name == str(tmp_path / "absent.pt")
    assert problem.advice == "Check the path."
    assert len(check_masks(_model(), [ROWS])) == 1  # type: ignore[arg-type]


def test_sources_leave_the_model_as_it_was() -> None:
    model = _model()
    _pruned_in_a_row(model)
    before = snapshot(model)
    masks_from_zeros(model)
    masks_from_prune(model)
    check_masks(model, BAD)
    assert differences(before, snapshot(model)) == ()
