"""Plans and small models that releases have written are read, and are what they were."""

from __future__ import annotations

import copy
import importlib
import json
import pickle
import pickletools
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
from attrs import evolve, fields
from safetensors import safe_open
from torch import Tensor, nn

import speedup
from speedup import Plan, PlanFormatError, apply_masks, load, load_plan, materialize, plan_speedup, verify
from speedup.ir.edits import AddToParameter, CombineColumns, ConstantTensor, Edit, NewBias
from speedup.lowerings import HELPERS
from speedup.masks import resolve_masks
from tests.support.released import (
    PICKLED,
    calls_of,
    masks_of,
    model_of,
    pickled_example,
    pickled_masks,
    pickled_model,
    planned_today,
)
from tests.support.repository import DATA

VERSIONS = (1, 2, 3, 4, 5, 6)
NEWEST = max(VERSIONS)
each = pytest.mark.parametrize("version", VERSIONS)


def text_of(version: int) -> str:
    return (DATA / f"version_{version}" / "plan.json").read_text(encoding="utf-8")


def file_of(version: int) -> Path:
    return DATA / f"version_{version}" / "small.safetensors"


def loaded(version: int) -> nn.Module:
    return load(file_of(version), lambda: model_of(version)).eval()


def test_a_model_of_two_rounds_is_read() -> None:
    path = DATA / "version_6" / "two_rounds.safetensors"
    small = load(path, lambda: model_of(1)).eval()
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert {name: tuple(t.shape) for name, t in tensors.items()} == {
        name: tuple(t.shape) for name, t in small.state_dict().items()
    }
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in small.state_dict().items())
    assert tuple(small.get_parameter("0.weight").shape) == (4, 3, 3, 3)
    assert small(images()).shape == (3, 5)


def images(*shape: int) -> Tensor:
    return torch.randn(*(shape or (3, 3, 8, 8)), generator=torch.Generator().manual_seed(7))


def without_numbers(plan: Plan) -> list[Edit]:
    """The edits, but for computed numbers, whose last digits are other ones on other processors."""
    return [without_number(edit) for edit in plan.edits]


def without_number(edit: Edit) -> Edit:
    none = ConstantTensor(torch.zeros(0))
    match edit:
        case CombineColumns():
            return evolve(edit, factors=none)
        case AddToParameter():
            return evolve(edit, delta=none)
        case NewBias():
            return evolve(edit, value=none)
    return edit


def numbers_of(plan: Plan) -> list[Tensor]:
    held = [getattr(edit, a.name) for edit in plan.edits for a in fields(type(edit))]
    return [value.tensor for value in held if isinstance(value, ConstantTensor)]


def as_of_then(plan: Plan) -> Plan:
    """`plan` without what was not told of at first: lowerings that would not pay, what is asked, bytes."""
    return evolve(plan, report=evolve(plan.report, choices=(), asked=None, size=None))


@each
def test_plan_is_what_planning_gives_today(version: int) -> None:
    plan, today = Plan.from_json(text_of(version)), planned_today(version)
    assert without_numbers(plan) == without_numbers(today)
    torch.testing.assert_close(numbers_of(plan), numbers_of(today))
    assert any(isinstance(edit, CombineColumns) for edit in plan.edits) is (version == 3)
    assert plan.layers == today.layers
    assert plan.masks_digest == today.masks_digest
    assert (plan.report.parameters, plan.report.macs) == (today.report.parameters, today.report.macs)


def test_plan_of_one_call_is_equal_to_what_planning_gives_today() -> None:
    assert Plan.from_json(text_of(1)) == as_of_then(planned_today(1))


@each
def test_plan_holds_the_calls_that_it_was_made_for(version: int) -> None:
    subject, today = Plan.from_json(text_of(version)).subject, planned_today(version).subject
    for had, made in ((subject.example, today.example), *zip(subject.others, today.others, strict=True)):
        assert [t.shape for t in had.tensors] == [t.shape for t in made.tensors]
    assert len(subject.others) == len(calls_of(version)) - 1


def test_what_a_version_did_not_know_is_empty() -> None:
    first, second = (Plan.from_json(text_of(version)) for version in (1, 2))
    assert (first.subject.others, first.subject.found, first.assumptions) == ((), (), ())
    assert second.subject.others and second.subject.found and second.assumptions
    assert (first.report.asked, first.report.size) == (None, None)
    lines = str(first).splitlines()
    assert lines[0].endswith("of the MACs go") and "asked for" not in str(first) and "MB" not in str(first)


@each
def test_plan_is_materialized_and_verified(version: int) -> None:
    plan, model = Plan.from_json(text_of(version)), model_of(version)
    small = materialize(plan, model)
    assert verify(plan, small, model=model).level == "full"
    x, masked = images(), apply_masks(model, masks_of(version)).eval()
    torch.testing.assert_close(small.eval()(x), masked(x), rtol=1e-4, atol=1e-5)


@each
def test_small_model_is_the_materialized_one_to_the_last_bit(version: int) -> None:
    small, again = materialize(Plan.from_json(text_of(version)), model_of(version)).eval(), loaded(version)
    assert {n: t.shape for n, t in again.state_dict().items()} == {
        n: t.shape for n, t in small.state_dict().items()
    }
    for name, tensor in again.state_dict().items():
        assert torch.equal(tensor, small.state_dict()[name]), name
    assert torch.equal(again(images()), small(images()))


def test_small_model_of_several_calls_holds_for_all() -> None:
    small, masked = loaded(2), apply_masks(model_of(2), masks_of(2)).eval()
    for call in ({"x": images(1, 3, 9, 14)}, {"x": images(), "gain": torch.randn(4, 1, 1)}):
        torch.testing.assert_close(small(**call), masked(**call), rtol=1e-4, atol=1e-5)


@each
def test_plan_in_a_file_is_the_plan_beside_it(version: int) -> None:
    plan = load_plan(file_of(version))
    assert plan == Plan.from_json(text_of(version))
    verify(plan, loaded(version), model=model_of(version))


@each
def test_what_was_read_is_written_in_the_newest_version(version: int) -> None:
    plan = Plan.from_json(text_of(version))
    written = plan.to_json()
    assert json.loads(written)["version"] == NEWEST
    assert Plan.from_json(written) == plan
    assert Plan.from_json(written).to_json() == written
    schema = json.loads((Path(speedup.__file__).parent / "text" / "plan.schema.json").read_text("utf-8"))
    jsonschema.validate(json.loads(written), schema)


def test_schema_knows_all_that_rewritten_source_may_borrow() -> None:
    text = (Path(speedup.__file__).parent / "text" / "plan.schema.json").read_text("utf-8")
    listed = [json.loads(found) for found in re.findall(r'"borrowed":.*?"enum": (\[.*?\])', text, re.DOTALL)]
    assert listed and all(set(names) == set(HELPERS) for names in listed)


def test_newest_version_is_written_as_it_was() -> None:
    assert Plan.from_json(text_of(NEWEST)).to_json() == text_of(NEWEST)


@each
@pytest.mark.parametrize("other", [0, 7, "2", 2.0, True, None])
def test_plans_of_other_versions_are_refused(version: int, other: object) -> None:
    body = json.loads(text_of(version)) | {"version": other}
    with pytest.raises(
        PlanFormatError, match=r"version .* of the format, .* reads versions 1, 2, 3, 4, 5, 6"
    ) as caught:
        Plan.from_json(json.dumps(body))
    assert f"version {other!r} of the format" in str(caught.value)


@each
@pytest.mark.parametrize("part", ["subject", "report"])
def test_damaged_plans_are_refused(version: int, part: str) -> None:
    body = json.loads(text_of(version))
    damaged: object
    for damaged in (None, [], {}, {**body[part], "more": 1}):
        with pytest.raises(PlanFormatError):
            Plan.from_json(json.dumps({**body, part: damaged}))
    del body[part]
    with pytest.raises(PlanFormatError):
        Plan.from_json(json.dumps(body))


PICKLES = DATA / "version_2" / "pickles"


def unpickled(path: Path) -> Any:
    if path.suffix == ".pt":
        return torch.load(path, weights_only=False)
    return pickle.loads(path.read_bytes())


@pytest.mark.parametrize("suffix", ["pickle", "pt"])
@pytest.mark.parametrize("name", PICKLED)
def test_pickled_small_models_are_the_materialized_ones_to_the_last_bit(name: str, suffix: str) -> None:
    had, x = unpickled(PICKLES / f"{name}.{suffix}"), pickled_example(name)
    plan = Plan.from_json((PICKLES / f"{name}.json").read_text("utf-8"))
    small = materialize(plan, pickled_model(name)).eval()
    assert [(n, type(m).__name__) for n, m in had.named_modules()] == [
        (n, type(m).__name__) for n, m in small.named_modules()
    ]
    for key, tensor in small.state_dict().items():
        assert torch.equal(had.state_dict()[key], tensor), key
    assert torch.equal(had(x), small(x))
    today = plan_speedup(pickled_model(name), x, pickled_masks(name))
    assert plan == as_of_then(today)


@pytest.mark.parametrize("name", PICKLED)
def test_pickles_of_today_name_stable_addresses_alone(name: str) -> None:
    plan = plan_speedup(pickled_model(name), pickled_example(name), pickled_masks(name))
    for value in (plan, materialize(plan), resolve_masks(pickled_model(name), pickled_masks(name))):
        named = {
            str(argument).split()[0]
            for operation, argument, _ in pickletools.genops(pickle.dumps(value, 2))
            if operation.name == "GLOBAL" and str(argument).startswith("speedup")
        }
        assert named == {"speedup._stable"}


def test_a_pickled_plan_is_the_plan_without_a_model() -> None:
    plan = Plan.from_json(text_of(5))
    assert unpickled(DATA / "version_5" / "plan.pickle") == plan == pickle.loads(pickle.dumps(plan))
    today = planned_today(5)
    again = pickle.loads(pickle.dumps(today))
    assert again == today and again.subject.model is None and today.subject.model is not None
    assert copy.copy(today) is today and copy.deepcopy([today])[0] is today


def test_pickled_masks_are_the_masks() -> None:
    masks = resolve_masks(pickled_model("normed"), pickled_masks("normed"))
    assert unpickled(PICKLES / "masks.pickle") == masks == pickle.loads(pickle.dumps(masks))


def test_small_model_in_a_file_with_the_first_key_is_read() -> None:
    path = DATA / "version_1_first_key" / "small.safetensors"
    had = load(path, lambda: model_of(1))
    assert had.training
    assert torch.equal(had.eval()(images()), loaded(1)(images()))


def test_addresses_of_earlier_releases_hold_nothing_else() -> None:
    from speedup.attention import MultiheadAttention  # type: ignore[import-not-found]

    assert issubclass(MultiheadAttention, nn.MultiheadAttention)
    for address in ("speedup.spec.edits", "speedup.attention", "speedup._stable"):
        with pytest.raises(AttributeError, match="has no attribute 'Slice'"):
            getattr(importlib.import_module(address), "Slice")  # noqa: B009
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("speedup.spec.graph")
