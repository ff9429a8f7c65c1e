"""The faults of the table can be planted, and the suite notices them."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest

from property_tests.faults.fault import Fault, faulty, source_of
from property_tests.faults.table import CONTROL, FAULTS

# One of each kind, all of which die quickly.
QUICK = (
    "known: the bias is forgotten in a constant row of a product",
    "live: an element that is read twice is dead when its last reader is",
    "coupling: a sum ties its first operand only",
    "layout: a channel shuffle changes nothing",
    "absorption: the running mean is charged with the wrong sign",
    "engine: merging equal dimensions forgets those after the second",
    "building: masks are not applied",
    "purity: the given model is put into eval mode",
)


# The library must not be imported where faults are planted.
CRASH = """
import attrs
from property_tests.faults.__main__ import trials
from property_tests.faults.killers import MATERIALIZE
from property_tests.faults.table import CONTROL
killers = (f"{MATERIALIZE}::test_constants_go_into_the_bias_of_a_linear_layer",)
control = attrs.evolve(CONTROL, killers=killers)
crash = attrs.evolve(control, after=control.after + "    import os; os.abort()\\n")
print(*(trial.outcome for trial in trials([crash, control], jobs=1, gate=False)))
"""


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)


def _try(*arguments: str) -> str:
    done = _run("-m", "property_tests.faults", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_table_holds_many_faults_each_under_its_own_name() -> None:
    assert len({fault.name for fault in FAULTS}) == len(FAULTS) >= 45


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_every_fault_changes_one_place_of_the_library_as_it_is(fault: Fault) -> None:
    source = source_of(fault)
    assert ast.dump(ast.parse(faulty(fault, source))) != ast.dump(ast.parse(source))


def test_the_control_changes_nothing() -> None:
    source = source_of(CONTROL)
    assert faulty(CONTROL, source) == source


def test_a_fault_that_takes_its_process_down_is_not_killed_and_the_others_are_tried() -> None:
    assert _run("-c", CRASH).stdout.split() == ["crashed", "survived"]


def test_quick_faults_are_killed() -> None:
    assert f"{len(QUICK)} planted: {len(QUICK)} killed" in _try(*QUICK)


@pytest.mark.nightly
def test_all_faults_are_killed() -> None:
    assert f"{len(FAULTS)} planted: {len(FAULTS)} killed" in _try()


@pytest.mark.nightly
def test_without_a_fault_nothing_is_killed() -> None:
    assert "1 planted: 1 survived" in _try("--control")
