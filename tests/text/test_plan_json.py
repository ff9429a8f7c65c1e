"""Plans as text: equal when they come back, described by a schema, and refused when they make no sense."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import speedup
from speedup import Plan, PlanFormatError, UnboundPlanError, materialize, plan_speedup
from speedup.ir.edits import AddToParameter, ConstantTensor, SliceGroups
from speedup.ir.inputs import example_from
from speedup.ir.tensor_text import (
    indices_from_text,
    indices_text,
    mask_from_text,
    mask_text,
    tensor_from_text,
    tensor_text,
)
from speedup.text.index_sets import IndexSets
from speedup.text.json_values import call_from_json, json_of_call, value_from_json, value_to_json
from tests.support.saving_models import CASES, masks_of

_FILE = Path(speedup.__file__).parent / "text" / "plan.schema.json"
SCHEMA = json.loads(_FILE.read_text(encoding="utf-8"))


def planned(name: str) -> Plan:
    model = CASES[name].model()
    return plan_speedup(model, CASES[name].example(), masks_of(name, model))


@pytest.fixture(scope="module")
def text() -> str:
    return planned("residual").to_json()


@pytest.mark.parametrize("name", CASES)
def test_a_plan_that_is_read_back_is_the_plan(name: str) -> None:
    plan = planned(name)
    text = plan.to_json()
    again = Plan.from_json(text)
    assert again == plan
    assert hash(again) == hash(plan)
    assert again.to_json() == text
    assert str(again) == str(plan)
    jsonschema.validate(json.loads(text), SCHEMA)


def test_the_schema_is_one_and_refuses_what_is_none(text: str) -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    body = json.loads(text)
    body["edits"][0]["kind"] = "Shrink"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(body, SCHEMA)


def test_every_edit_and_operation_has_a_line(text: str) -> None:
    body = json.loads(text)
    lines = text.splitlines()
    for edit in body["edits"]:
        assert sum(json.dumps(edit, separators=(",", ":")) in line for line in lines) == 1


class Blank(nn.Module):
    """Fills with NaN, which is not equal to itself, where its input is below 0."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        return self.last(x).masked_fill(x[:, :1] < 0, float("nan")).clamp(max=math.inf)


def test_numbers_that_json_does_not_know_come_back() -> None:
    mask = torch.ones(6, 1)
    mask[3] = 0
    model = Blank()
    plan = plan_speedup(model, torch.randn(2, 4), {"first.weight": mask, "first.bias": mask.reshape(-1)})
    assert Plan.from_json(plan.to_json()) == plan
    assert '{"float":"nan"}' in plan.to_json()
    materialize(plan, verify="structure")


@pytest.mark.parametrize("value", [-0.0, 1e-310, 0.1, 1, True, None, "inf", (1, (2.5, "a")), -math.inf])
def test_values_keep_type_and_sign(value: Any) -> None:
    again = value_from_json(json.loads(json.dumps(value_to_json(value), allow_nan=False)))
    assert again == value
    assert repr(again) == repr(value)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16, torch.complex64])
def test_constants_keep_every_bit(dtype: torch.dtype) -> None:
    tensor = torch.tensor([-0.0, math.inf, -math.inf, math.nan, 1e-40, 0.1], dtype=dtype)
    again = tensor_from_text(json.loads(json.dumps(tensor_text(tensor))))
    assert ConstantTensor(again) == ConstantTensor(tensor)
    assert again.dtype is dtype


@pytest.mark.parametrize("shape", [(), (0, 3), (2, 1, 3)])
def test_tensors_keep_their_shape(shape: tuple[int, ...]) -> None:
    tensor = torch.arange(math.prod(shape)).reshape(shape)
    assert torch.equal(tensor_from_text(tensor_text(tensor)), tensor)


@pytest.mark.parametrize(
    ("indices", "text"),
    [((), ""), ((3,), "3"), ((0, 1, 2, 5, 7, 8), "0-2,5,7-8"), ((4, 3, 3, 4, 5), "4,3,3-5")],
)
def test_indices_are_ranges(indices: tuple[int, ...], text: str) -> None:
    assert indices_text(indices) == text
    assert indices_from_text(text) == indices


@pytest.mark.parametrize("text", ["3-1", "1,,2", "-1", "a", "0-99999999999", 3, None])
def test_other_texts_are_no_indices(text: object) -> None:
    with pytest.raises(ValueError, match=r"ind|range"):
        indices_from_text(text)


def test_masks_of_rows_are_short_and_others_whole() -> None:
    rows = torch.ones(64, 1, 1, 1, dtype=torch.bool)
    rows[3:60] = False
    assert mask_text(rows) == {"shape": [64, 1, 1, 1], "dropped": "3-59"}
    for mask in (rows, torch.rand(5, 7) > 0.5, torch.zeros((), dtype=torch.bool)):
        assert torch.equal(mask_from_text(mask_text(mask)), mask)


@pytest.mark.parametrize("dim", [0, 1, 2])
def test_a_mask_that_varies_along_one_dimension_is_written_so(dim: int) -> None:
    shape = (5, 40, 30)
    line = torch.rand(shape[dim], generator=torch.Generator().manual_seed(0)) > 0.4
    mask = line.reshape([shape[dim] if d == dim else 1 for d in range(3)]).expand(shape).contiguous()
    written = mask_text(mask)
    assert written == {
        "shape": [5, 40, 30],
        "along": dim,
        "dropped": indices_text((~line).nonzero().reshape(-1).tolist()),
    }
    assert torch.equal(mask_from_text(written), mask)
    mask[(0,) * 3] = ~mask[(0,) * 3]
    assert "data" in mask_text(mask) and torch.equal(mask_from_text(mask_text(mask)), mask)


@pytest.mark.parametrize(
    "given",
    [
        {"shape": [2, 3], "along": 2, "dropped": ""},
        {"shape": [2, 3], "along": True, "dropped": ""},
        {"shape": [2, 3], "along": 0, "dropped": "2"},
        {"shape": [2, 1 << 40], "along": 0, "dropped": "1"},
    ],
)
def test_a_mask_along_nothing_is_refused(given: object) -> None:
    with pytest.raises(ValueError, match=r"does not vary along|cannot drop"):
        mask_from_text(given)


# Those of which few are left out are the ones that are written as bits.
_FEW_LEFT_OUT = st.sets(st.integers(0, 150), min_size=8, max_size=60).map(
    lambda out: [n for n in range(151) if n not in out]
)


@given(st.lists(st.integers(0, 5000), unique=True, max_size=300) | _FEW_LEFT_OUT, st.booleans())
def test_sets_of_indices_are_given_back_in_their_order(indices: list[int], is_sorted: bool) -> None:
    found = tuple(sorted(indices) if is_sorted else indices)
    table = IndexSets()
    written = table.write(found)
    assert table.write(found) == written and len(table.entries) <= 1
    assert IndexSets(json.loads(json.dumps(table.entries))).read(written) == found


@pytest.mark.parametrize(
    ("entries", "given", "words"),
    [
        ([], 0, "no set 0 among 0"),
        (["0-3"], -1, "no set -1 among 1"),
        (["0-3"], True, "as in '0-13,15'"),
        ([{"byte": "AA"}], 0, "as ranges or as bits"),
        ([{"bits": "A"}], 0, "base64|padding"),
        ([3], 0, "as in '0-13,15'"),
    ],
)
def test_a_table_that_makes_no_sense_is_refused(entries: list[Any], given: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        IndexSets(entries).read(given)


def test_a_set_that_is_used_often_is_written_once() -> None:
    scattered, even = tuple(range(0, 4000, 3)), tuple(range(4000))
    table = IndexSets()
    assert [table.write(found) for found in (scattered, even, scattered, (1, 2))] == [0, "0-3999", 0, "1-2"]
    ((form, text),) = table.entries[0].items()
    assert form == "bits" and len(text) < 700
    assert table.write(tuple(reversed(even))) == 1 and isinstance(table.entries[1], str)
    again = IndexSets(table.entries)
    assert again.read(0) is again.read(0)


@pytest.mark.parametrize(
    "given",
    [
        {"dtype": "float32", "shape": [3], "data": "AAAA"},
        {"dtype": "float32", "shape": [10**15], "data": tensor_text(torch.ones(3))["data"]},
        {**tensor_text(torch.ones(3)), "shape": [2]},
        {**tensor_text(torch.ones(3)), "dtype": "Tensor"},
        {**tensor_text(torch.ones(8, dtype=torch.uint8) * 7), "dtype": "bool"},
        {**tensor_text(torch.ones(3)), "more": 1},
        "ones",
    ],
)
def test_damaged_tensors_are_refused(given: object) -> None:
    with pytest.raises(ValueError, match=r"data|tensor|type"):
        tensor_from_text(given)


def test_inputs_are_written_by_what_matters_of_them() -> None:
    images, tokens = torch.randn(2, 3, 40, 40) * 3 + 5, torch.arange(3000)
    example = example_from(
        ((images, [tokens]), {"flag": True, "scale": 2.0}), {"dtype": torch.float16, "n": None}
    )
    written = json_of_call(example)
    again = call_from_json(json.loads(json.dumps(written)))
    assert json_of_call(again) == written
    (pair, options), found = again.call(again.tensors)
    assert pair[0].shape == images.shape
    assert abs(float(pair[0].mean()) - 5) < 0.5
    assert torch.equal(pair[1][0], tokens)
    assert options == {"flag": True, "scale": 2.0}
    assert found == {"dtype": torch.float16, "n": None}
    assert len(json.dumps(written)) < 12_000


def test_an_input_that_text_cannot_hold_is_named() -> None:
    with pytest.raises(PlanFormatError, match="holds a Linear"):
        json_of_call(example_from((torch.ones(2), nn.Linear(1, 1))))


def edited(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda body: body.update(changes)


def at(*path: Any, value: Any) -> Callable[[dict[str, Any]], None]:
    """Put a value somewhere inside."""

    def change(body: dict[str, Any]) -> None:
        inner: Any = body
        for step in path[:-1]:
            inner = inner[step]
        inner[path[-1]] = value

    return change


FAULTS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "another format": (edited(format="onnx"), "is no plan"),
    "a later version": (edited(version=7), "version 7 of the format"),
    "a version that is a word": (edited(version="1"), "version '1' of the format"),
    "no table of indices": (lambda body: body.pop("indices"), "null is no list"),
    "a table that is none": (edited(indices={}), "is no list"),
    "a set that is not there": (at("edits", -10, "indices", value=900), r"edits\[1\].indices"),
    "an entry of another form": (
        lambda body: (edited(indices=[{"byte": "AA"}])(body), at("edits", -10, "indices", value=0)(body)),
        r"edits\[1\].indices",
    ),
    "a role that is none": (at("subject", "stamps", 0, "role", value="weight"), "not in literal"),
    "a field more": (edited(extra=1), "extra"),
    "no edits": (edited(edits=None), "plan.edits"),
    "a word for a list": (at("report", "unknown_operators", value="abc"), "unknown_operators"),
    "a word for a number": (at("report", "macs", value=["1", 2]), "macs"),
    "a number for a word": (at("report", "layers", 0, "path", value=3), "path"),
    "an unknown edit": (at("edits", 0, "kind", value="Burn"), "plan.edits"),
    "an index too large": (at("edits", -10, "indices", value="0-700"), "lists index 700"),
    "an index twice": (at("edits", -10, "indices", value="1,1"), "one twice"),
    "no index": (at("edits", -10, "indices", value=""), "lists no index"),
    "a dimension too many": (at("edits", -10, "dim", value=9), "along dimension 9"),
    "a tensor that is not there": (
        at("edits", -10, "name", value="gone"),
        "'gone', which the model",
    ),
    "a module that is not there": (at("edits", -1, "path", value="gone"), "'gone', which the model"),
    "other masks": (at("subject", "masks", "conv1.weight", "dropped", value="1"), "masks are not those"),
    "a mask of nothing": (at("subject", "masks", "x", value={"shape": [2], "dropped": "0"}), "mask"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_nonsense_is_refused(fault: str, text: str) -> None:
    change, words = FAULTS[fault]
    body = json.loads(text)
    slices = [edit for edit in body["edits"] if edit["kind"] == "Slice"]
    others = [edit for edit in body["edits"] if edit["kind"] != "Slice"]
    body["edits"] = [*others, *slices, *[e for e in others if e["kind"] == "SetAttribute"][:9]]
    body["edits"] = [*others[:1], slices[0], *others[-9:]]
    assert body["edits"][-10]["kind"] == "Slice"
    change(body)
    with pytest.raises(PlanFormatError, match=words):
        Plan.from_json(json.dumps(body))


@pytest.mark.parametrize("cut", [0, 1, 100, -3])
def test_truncated_text_is_refused(cut: int, text: str) -> None:
    with pytest.raises(PlanFormatError, match="no whole JSON document"):
        Plan.from_json(text[:cut])


@pytest.mark.parametrize("given", ["null", "[]", "3", "[" * 100_000, '{"format": NaN}', b"\xff\xfe\x00"])
def test_other_json_is_refused(given: str | bytes) -> None:
    with pytest.raises(PlanFormatError):
        Plan.from_json(given)


def test_a_plan_without_a_model_says_so(text: str) -> None:
    with pytest.raises(UnboundPlanError, match="model=model"):
        materialize(Plan.from_json(text))


def test_groups_and_additions_are_checked_too(text: str) -> None:
    body = json.loads(text)
    weight = "conv1.weight"
    wrong: list[dict[str, Any]] = [
        {"kind": "SliceGroups", "name": weight, "rows": "0-1", "columns": ["0"]},
        {"kind": "AddToParameter", "name": weight, "delta": tensor_text(torch.ones(2)), "why": ""},
        {"kind": "MergeColumns", "name": weight, "dim": 1, "into": 0, "columns": "1", "factors": [],
         "rows": None, "why": ""},
        {"kind": "MergeColumns", "name": weight, "dim": 1, "into": 0, "columns": "1", "factors": [1.0],
         "rows": [4, 99], "why": ""},
    ]  # fmt: skip
    for edit in wrong:
        with pytest.raises(PlanFormatError, match=f"a {edit['kind']} of '{weight}'"):
            Plan.from_json(json.dumps({**body, "edits": [edit]}))
    assert {AddToParameter.__name__, SliceGroups.__name__} < {edit["kind"] for edit in wrong}
