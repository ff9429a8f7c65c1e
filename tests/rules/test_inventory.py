"""Every operator that real models consist of has a rule, or is kept on purpose with a reason."""

from __future__ import annotations

import csv

import pytest
import torch
from torch import nn

from speedup import STANDARD, plan_speedup
from speedup.rules import FAMILIES, rule_for
from speedup.rules.kept import KEPT, RULES
from speedup.rules.rule import UNKNOWN_OPERATOR, Rule
from tests.support.repository import DATA

INVENTORY = DATA / "op_inventory.tsv"
# Parts of an exported graph that are no operators; freezing a trace resolves them.
RESOLVED = {"<built-in function getitem>", "wrap_with_set_grad_enabled", "wrap_with_autocast"}


def inventory() -> dict[str, tuple[int, ...]]:
    """Operator name -> how often torchvision's, timm's and transformers' models call it."""
    with INVENTORY.open(encoding="utf-8") as file:
        lines = (line for line in file if not line.startswith("#"))
        header, *rows = csv.reader(lines, delimiter="\t")
    assert header[0] == "op"
    return {name: tuple(map(int, counts)) for name, *counts in rows}


def ruled(name: str) -> Rule:
    """The standard rule of `namespace.operator.overload`, also where its library is not installed."""
    namespace, operator, overload = name.split(".")
    packet = getattr(getattr(torch.ops, namespace), operator, None)
    if packet is None:
        return STANDARD.get(f"{namespace}::{operator}", UNKNOWN_OPERATOR)
    return rule_for(getattr(packet, overload), STANDARD)


def test_inventory_holds_the_158_operators_of_210_models() -> None:
    assert len(inventory()) == 158
    assert all(len(counts) == 3 and sum(counts) > 0 for counts in inventory().values())


def test_every_operator_of_the_inventory_has_a_rule_or_is_kept_on_purpose() -> None:
    missing = [n for n in inventory() if n not in RESOLVED and ruled(n) is UNKNOWN_OPERATOR]
    assert missing == []


def test_no_operator_is_both_ruled_and_kept() -> None:
    names = [name for family in FAMILIES for name in family]
    assert sorted(n for n in set(names) if names.count(n) > 1) == []


# Operators that torch no longer has, from which release on; the table leaves out what is not there.
GONE = {"cholesky": (2, 14)}


@pytest.mark.parametrize("name", [n for n in KEPT if "::" not in n])
def test_every_kept_operator_exists(name: str) -> None:
    packet, _, overload = name.partition(".")
    if name in GONE and tuple(int(part) for part in torch.__version__.split(".")[:2]) >= GONE[name]:
        assert not hasattr(torch.ops.aten, packet)
        return
    assert hasattr(torch.ops.aten, packet)
    assert not overload or hasattr(getattr(torch.ops.aten, packet), overload)


def test_few_operators_of_the_inventory_are_kept() -> None:
    kept = {id(rule) for rule in RULES.values()}
    assert {n for n in inventory() if n not in RESOLVED and id(ruled(n)) in kept} == {
        "aten.histc.default",
        "transformers.grouped_mm_fallback.default",
    }


class Counting(nn.Module):
    """A histogram of features: kept on purpose."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(4, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.histc(self.enter(x), 5, -1.0, 1.0)


def test_a_plan_names_the_reason_of_what_is_kept_and_does_not_call_it_unknown() -> None:
    mask = torch.ones(6, 1)
    mask[:2] = 0
    plan = plan_speedup(Counting(), torch.randn(3, 4), {"enter.weight": mask})
    assert plan.unknown_operators == ()
    (blocked,) = plan.blocked
    assert (blocked.path, blocked.count) == ("enter", 2)
    assert "histc counts elements" in blocked.reason
