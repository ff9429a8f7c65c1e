"""Why work stays, summed over the model: every constraint has words that a user knows."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from attrs import evolve

import speedup
from speedup.ir.report import Asked, Blocker
from speedup.rendering.causes import KINDS, causes_of, kind_of
from speedup.rules.kept import KEPT
from tests.support.reports import linear, reported

SOURCES = Path(speedup.__file__).parent
# What says why something stays, with the place of the words among its arguments.
SAYING = {"because": 0, "reason_for": 1, "Reason": 1, "keeping": 0}
# Said of engine-made constraints only, never of what a plan keeps.
OF_ALIGNMENT = "align= asks for more"


def words_in(source: Path) -> Iterator[str]:
    """The words of all constraints that a module states; what is put into them stands as `x`."""
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        place = SAYING.get(name_of(node.func), len(node.args))
        match node.args[place : place + 1]:
            case [ast.Constant(value=str(text))]:
                yield text
            case [ast.JoinedStr(values=parts)]:
                yield "".join(str(p.value) if isinstance(p, ast.Constant) else "x" for p in parts)


def name_of(function: ast.expr) -> str:
    match function:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
    return ""


STATED = sorted(
    {words for room in ("rules", "planning", "forwards", "engine", "analyses", "explaining")
     for source in (SOURCES / room).glob("*.py") for words in words_in(source)}
    | set(KEPT.values())
    | {"the model returns them", "code that could not be traced reads them",
       "they belong to an input of the model", "a tensor that the forward holds stays whole"}
)  # fmt: skip


def test_words_are_found() -> None:
    assert len(STATED) > 70
    assert {"a padded constant needs one channel to carry it", "works element by element"} <= set(STATED)


@pytest.mark.parametrize("words", [words for words in STATED if words != OF_ALIGNMENT])
def test_every_constraint_that_the_library_states_is_of_a_kind(words: str) -> None:
    kinds = {kind_of(words, "aten.view.default"), kind_of(f"view {words}", "aten.view.default")}
    assert kinds & set(KINDS), words


@pytest.mark.parametrize(
    ("words", "operator", "told"),
    [
        ("needs them", "aten.add_.Tensor", "skip connections"),
        ("add works element by element", "aten.add.Tensor", "skip connections"),
        ("adds rows to those of a stream", "aten.add.Tensor", "skip connections"),
        ("needs them", "aten.conv2d.default", "layers that share channels"),
        ("reads them", "aten.linear.default", "layers that share channels"),
        ("addmm ties its weight to its input and output channels", "aten.addmm.default", "layers that share"),
        ("mul works element by element", "aten.mul.Tensor", "products"),
        ("the model returns them", "", "outputs of the model"),
        ("a dimension cannot become empty: one index stays", "", "masked whole"),
        ("keep='heads.0' was asked for", "aten.linear.default", "keep= names"),
        ("relu has a rule that failed at a.py:3: KeyError: 'x'", "aten.relu.default", "whose rule failed"),
        ("my::op.default has no rule that lets its dimensions shrink", "my.op.default", "without a rule"),
        ("group_norm takes statistics over whole groups", "aten.group_norm.default", "norms"),
        ("view ties the dimensions it rearranges", "aten.view.default", "views that split"),
        ("shares up.weight with another call", "aten.linear.default", "several calls share"),
    ],
)
def test_constraints_are_told_in_a_user_s_words(words: str, operator: str, told: str) -> None:
    assert told in kind_of(words, operator).told


def test_words_that_are_like_no_others_stand_for_themselves() -> None:
    assert kind_of("a rule of my own says so", "my.op.default").told == "a rule of my own says so"


def blocker(words: str, operator: str, path: str, macs: int, parameters: int = 0) -> Blocker:
    return Blocker(words, operator, path, (path,), 1, macs, parameters)


REPORT = reported(
    [linear("one")],
    blockers=(
        blocker("add works element by element", "aten.add.Tensor", "block.1", 300, 10),
        blocker("the model returns them", "", "", 200),
        blocker("needs them", "aten.add_.Tensor", "block.2", 100, 20),
        blocker("needs them", "aten.add_.Tensor", "block.3", 0),
    ),
)


def test_constraints_of_a_kind_are_added_up_and_the_largest_comes_first() -> None:
    sums, outputs = causes_of(REPORT)
    assert "skip connections" in sums.told
    assert (sums.macs, sums.parameters, sums.at) == (400, 30, "block.1 and 1 more")
    assert (outputs.macs, outputs.at) == (200, "")


def test_causes_add_up_to_what_is_held_back_in_all() -> None:
    """Constraints that are counted one by one may hold back the same elements."""
    report = evolve(REPORT, asked=Asked(1, 100, 50, 50, parameters=15, macs=450))
    assert [(cause.macs, cause.parameters) for cause in causes_of(report)] == [(300, 15), (150, 0)]


def test_a_model_of_which_nothing_stays_has_no_causes() -> None:
    assert causes_of(reported([linear("one")])) == ()
