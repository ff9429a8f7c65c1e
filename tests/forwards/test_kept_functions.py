"""Functions that modules keep as attributes are rewritten where a forward calls them."""

from __future__ import annotations

import copy
import inspect
import textwrap
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speedup import ForeignSourceError, Plan, materialize, plan_speedup
from speedup.forwards.restated import require_restated
from speedup.ir.edits import RewriteForward, Rewritten
from tests.support import spoken
from tests.support.contract import dropped, shrunk
from tests.support.drawn import doubles

vectors = doubles(4)
GONE = (0, 3, 4, 7, 11)
WIDE = 12
HALF: Any = 0.5
scale = 1.5


class Net(nn.Module):
    """Twelve features, of which five go; what is between the layers is an attribute."""

    def __init__(self, between: Callable[..., Tensor], more: Callable[..., Tensor] = F.relu) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(4, WIDE), nn.Linear(WIDE, 3)
        self.between, self.more = between, more

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.more(self.between(F.relu(self.first(x)))))


class Given(Net):
    """Hands itself over."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.between(self, F.relu(self.first(x))))


class InAMethod(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.middle(F.relu(self.first(x))))

    def middle(self, x: Tensor) -> Tensor:
        return self.between(x)


class Twice(Net):
    """The two lambdas read the same, and are written at places of their own."""

    def __init__(self) -> None:
        super().__init__(lambda y: y.view(-1, 12), lambda y: y.view(-1, 12))


class Shadowed(Net):
    """A name of the lambda is another thing in the forward."""

    def forward(self, x: Tensor) -> Tensor:
        scale = 3.0
        return self.head(self.between(scale * F.relu(self.first(x))))


def in_rows(y: Tensor) -> Tensor:
    """As rows of twelve."""
    return y.reshape(-1, 12)


def in_rows_of(model: nn.Module, y: Tensor) -> Tensor:
    assert isinstance(model, Given)
    return y.reshape((-1, 12))


LAMBDAS: dict[str, Callable[..., Tensor]] = {
    "view": lambda y: y.view(-1, 12),
    "mean": lambda y: y / torch.sqrt(y.pow(2).mean(1, keepdim=True) + 1e-6),
    "gate": lambda y: y / (1 + torch.exp(y.mean(1, keepdim=True))),
    "chunks": lambda y: torch.cat(y.chunk(2, 1), 1),
    "two lines": lambda y: y.view(
        -1,
        12,  # as many as there are
    ),
    "two on a line": [lambda y: y * 2, lambda y: F.relu(y.view(-1, 12))][1],
    "function": in_rows,
}


def sources(plan: Plan) -> str:
    edits = [edit for edit in plan.edits if isinstance(edit, RewriteForward)]
    return "\n".join(function.source for edit in edits for function in edit.functions)


@pytest.mark.parametrize("name", LAMBDAS)
def test_function_that_is_an_attribute_is_rewritten(name: str) -> None:
    torch.manual_seed(0)
    _, small = shrunk(Net(LAMBDAS[name]), vectors, {"first": GONE}, importable=name == "function")
    assert small.first.out_features == small.head.in_features == WIDE - len(GONE)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Given(in_rows_of),
        lambda: Given(lambda s, y: y.view(-1, 12)),
        lambda: InAMethod(lambda y: y.view(-1, 12)),
        lambda: Net(in_rows, lambda y: y.view(-1, 12)),
        Twice,
    ],
)
def test_method_that_calls_attributes_is_rewritten(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    _, small = shrunk(make(), vectors, {"first": GONE}, importable=False)
    assert small.head.in_features == WIDE - len(GONE)


def test_lambdas_that_read_the_same_change_at_their_own_places() -> None:
    torch.manual_seed(0)
    plan, _ = shrunk(Twice(), vectors, {"first": GONE}, importable=False)
    assert sources(plan).count("(lambda y: y.view(-1, 7))") == 2


def closed_over(wide: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda y: y.view(-1, 12) * wide


DECLINED: dict[str, Callable[[], nn.Module]] = {
    "a name of the forward": lambda: Shadowed(lambda y: scale * y.view(-1, 12)),
    "a name that only the lambda has": lambda: Net(closed_over(torch.ones(()))),
    "a default": lambda: Net(lambda y, wide=HALF: y.view(-1, 12) * wide),
    "a function of another file": lambda: Net(spoken.as_rows),
}


@pytest.mark.parametrize("name", DECLINED)
def test_what_would_be_something_else_in_the_forward_is_left(name: str) -> None:
    torch.manual_seed(0)
    _, small = shrunk(DECLINED[name](), vectors, {"first": GONE}, importable=False)
    assert small.head.in_features == WIDE


def test_each_module_gets_the_function_that_it_keeps() -> None:
    torch.manual_seed(0)
    pair = nn.Sequential(Net(lambda y: y.view(-1, 12)), nn.Linear(3, 4), Net(lambda y: -y.view(-1, 12)))
    _, small = shrunk(pair, vectors, {"0.first": GONE, "2.first": (1,)}, importable=False)
    assert (small[0].head.in_features, small[2].head.in_features) == (7, 11)


SOURCE = textwrap.dedent(inspect.getsource(Net.forward))


@pytest.mark.parametrize(
    ("text", "is_own"),
    [
        ("(lambda y: y.view(-1, 7))", True),
        ("(lambda y: y.view(-1, 12))", True),
        ("(lambda y: y.reshape(-1, 7))", False),
        ("(lambda y: print(y))", False),
        ("print", False),
        ("in_rows", False),
    ],
)
def test_only_the_function_that_is_kept_may_stand_in_its_place(text: str, is_own: bool) -> None:
    net = Net(lambda y: y.view(-1, 12))
    written = Rewritten("forward", SOURCE.replace("self.between", text), (), ())
    if is_own:
        require_restated(Net, [written], vars(net))
    else:
        with pytest.raises(ForeignSourceError, match="not its own"):
            require_restated(Net, [written], vars(net))


def test_plan_of_a_model_with_another_lambda_is_refused() -> None:
    torch.manual_seed(0)
    model = Net(lambda y: y.view(-1, 12)).double().eval()
    plan = plan_speedup(model, vectors(2), dropped(model, {"first": GONE}))
    other = copy.deepcopy(model)
    other.between = lambda y: -y.view(-1, 12)
    with pytest.raises(ForeignSourceError):
        materialize(Plan.from_json(plan.to_json()), other, verify="none")
