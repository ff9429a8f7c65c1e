"""Explanations name the cause: the operator, the module that calls it, the indices and the words."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn

from speedup import STANDARD, Plan, plan_speedup
from speedup.errors import UnknownModuleError
from speedup.rendering.explanation import ranges
from tests.support.explained import ADD, GOING, IMAGES, STAYING, Case, Said, Wired
from tests.support.repository import README


def planned(case: Case) -> Plan:
    torch.manual_seed(0)
    model = case.model().eval()
    without = case.options.get("without")
    rules = {key: rule for key, rule in STANDARD.items() if key != without}
    masks = case.masks(model)
    return plan_speedup(model, torch.randn(case.shape), masks, rules=rules, keep=case.options.get("keep", ()))


@pytest.mark.parametrize("case", (*STAYING, *GOING), ids=lambda case: case.name)
def test_the_cause_is_named(case: Case) -> None:
    plan = planned(case)
    axis = [
        p for p in plan.report.portions if (p.path, p.axis, p.stays) == (case.path, case.axis, case.stays)
    ]
    found = [portion for portion in axis if portion.indices == case.indices]
    assert len(found) == 1, plan.report.portions
    why = found[0].why
    assert [(step.operator, step.path) for step in why[: len(case.why)]] == [
        (said.operator, said.path) for said in case.why
    ]
    assert all(said.words in step.words for said, step in zip(case.why, why, strict=False)), why


def _told(said: Said, line: str, stays: bool) -> bool:
    need = said.words in ("needs them", "reads them")
    words = f"{said.path} {said.words.split()[0]} channel" if need else said.words
    return words in line and (not stays or (said.operator in line and said.path in line))


@pytest.mark.parametrize("case", (*STAYING, *GOING), ids=lambda case: case.name)
def test_the_explanation_says_so(case: Case) -> None:
    lines = planned(case).explain(case.path).splitlines()
    fate = "could go but stay" if case.stays else "gone:"
    starts = [n for n, line in enumerate(lines) if line.startswith(f"    {ranges(case.indices)} {fate}")]
    assert any(
        all(_told(said, line, case.stays) for said, line in zip(case.why, lines[start:], strict=False))
        for start in starts
    ), lines


def test_the_indices_that_are_needed_stand_where_they_are_needed() -> None:
    """Channel 1 of one head stays because of channel 5, the same entry of the other."""
    (case,) = (case for case in STAYING if case.name == "a head that is not whole")
    assert "attention.q needs channel 5 (aten.linear.default)" in planned(case).explain("attention.q")


def residual() -> Plan:
    (case,) = (case for case in STAYING if case.name == "residual conflict")
    return planned(case)


def test_blockers_are_ranked_by_the_work_they_hold_back() -> None:
    def build(side: int, path: str) -> nn.Module:
        return Wired(lambda m, x: x + m.conv(x), conv=nn.Conv2d(6, 6, side, padding=side // 2))

    model = Wired(
        lambda m, x: m.head(m.far(m.near(m.stem(x))).mean((2, 3))),
        stem=nn.Conv2d(3, 6, 3),
        near=build(1, "near"),
        far=build(5, "far"),
        head=nn.Linear(6, 2),
    )
    masks = {name: {"weight": torch.ones(6, 1, 1, 1)} for name in ("near.conv", "far.conv")}
    masks["near.conv"]["weight"][1:4] = 0
    masks["far.conv"]["weight"][2] = 0
    plan = plan_speedup(model, torch.randn(IMAGES), masks)

    first, second = plan.blockers()
    assert (first.operator, first.path, first.layers, first.channels) == (ADD, "far", ("far.conv",), 1)
    assert (second.operator, second.path, second.layers, second.channels) == (ADD, "near", ("near.conv",), 3)
    # One of six rows of 5 x 5 kernels, three of six of 1 x 1.
    assert (first.macs, second.macs) == (2 * 36 * 6 * 25, 2 * 36 * 6 * 3)
    assert (first.parameters, second.parameters) == (6 * 25 + 1, 3 * (6 + 1))


def test_equal_work_is_ranked_by_parameters() -> None:
    for wide, narrow in (("one", "two"), ("two", "one")):
        modules = {wide: nn.Linear(8, 6), narrow: nn.Linear(8, 6, bias=False)}
        model = Wired(lambda m, x: (m.one(x).softmax(1), m.two(x).log_softmax(1)), **modules)
        masks = {f"{name}.weight": torch.ones(6, 1).index_fill(0, torch.tensor([2]), 0) for name in modules}
        found = plan_speedup(model, torch.randn(2, 8), masks).blockers()
        assert [b.macs for b in found] == sorted((b.macs for b in found), reverse=True)
        assert [b.parameters for b in found] == sorted((b.parameters for b in found), reverse=True)


def test_a_plan_with_nothing_held_back_has_no_blockers() -> None:
    assert plan_speedup(nn.Linear(4, 5), torch.randn(2, 4)).blockers() == ()


def test_a_container_sums_up_what_is_below_it() -> None:
    plan = residual()
    lines = plan.explain("block").splitlines()
    assert lines[0] == "block: Wired of 1 layer, of which 0 change"
    assert lines[1].startswith("  parameters ")
    assert f"  held back, 2 channels: add works element by element ({ADD} in block)" in lines
    assert plan.explain("").splitlines()[0] == "(model): Wired of 3 layers, of which 0 change"
    assert f"{plan.macs_before:,} -> {plan.macs_after:,}" in plan.explain("")


def test_a_module_without_parameters_tells_what_it_keeps() -> None:
    (case,) = (case for case in STAYING if case.name == "softmax axis")
    model = Wired(
        lambda m, x: m.last(m.soft(m.first(x))),
        first=nn.Linear(4, 8),
        soft=nn.Softmax(1),
        last=nn.Linear(8, 2),
    )
    told = plan_speedup(model, torch.randn(2, 4), case.masks(model), lowerings="none").explain("soft")
    assert told.splitlines() == [
        "soft: Softmax holds no parameters",
        "  keeps 1 channel of first: softmax runs along the whole dimension (aten.softmax.int)",
    ]


def test_an_unknown_module_is_an_error_that_lists_those_of_a_like_name() -> None:
    with pytest.raises(UnknownModuleError, match=r"no module 'block.cov'; did you mean 'block.conv'"):
        residual().explain("block.cov")


def test_explanations_survive_without_the_model() -> None:
    plan = residual()
    again = Plan.from_json(plan.to_json())
    assert again.explain("block.conv") == plan.explain("block.conv")
    assert again.blockers() == plan.blockers() != ()


def test_channels_that_stay_to_align_say_so() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 2))
    mask = torch.ones(8, 1)
    mask[[1, 4, 6]] = 0
    plan = plan_speedup(model, torch.randn(2, 8), {"0.weight": mask}, align=4)
    assert "fill up a width that align= asks for" in plan.explain("0")


@pytest.mark.parametrize(
    ("indices", "text"),
    [
        ((), ""),
        ((3,), "3"),
        ((3, 4, 5, 12), "3-5, 12"),
        (tuple(range(0, 16, 2)), "0, 2, 4, 6, 8, 10 and 2 more"),
        ((0, 2, 4, 6, 8, 10, *range(12, 20)), "0, 2, 4, 6, 8, 10 and 8 more"),
    ],
)
def test_indices_are_told_as_ranges_and_not_too_many(indices: tuple[int, ...], text: str) -> None:
    assert ranges(indices) == text


def test_the_readme_shows_what_its_example_prints(capsys: pytest.CaptureFixture[str]) -> None:
    found = re.search(
        r"<!-- run by tests/explaining/test_explaining.py -->\n```python\n(.*?)```\n\n```text\n(.*?)```",
        README,
        re.DOTALL,
    )
    assert found is not None
    exec(found[1], {"__name__": "readme"})
    assert capsys.readouterr().out == found[2]
