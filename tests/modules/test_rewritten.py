"""Classes that run other functions in place of their methods."""

from __future__ import annotations

import copy
import pickle
import traceback
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from speedup.errors import SpeedupError
from speedup.ir.edits import Rewritten
from speedup.modules.rewritten import build_function, rewrite_module, rewritten_class

STEP = 10


def scaled(x: Any) -> Any:
    return x * STEP


class Base(nn.Module):
    def step(self, x: Any) -> Any:
        return x + 1


class Net(Base):
    """What it says."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def forward(self, x: Any, extra: Any = STEP) -> Any:
        return scaled(self.step(x)) + extra

    def step(self, x: Any) -> Any:
        return super().step(x) + 1


FORWARD = Rewritten("forward", "def forward(self, x, extra=None):\n    return scaled(self.step(x)) - extra\n")
STEPPED = Rewritten("step", "def step(self, x):\n    return super().step(x) + 5\n")
HELPED = Rewritten(
    "forward",
    "def forward(self, x, extra=None):\n    return scaled(self.step(x)) + extra\n",
    (Rewritten("scaled", "def scaled(x):\n    return x * STEP * 2\n"),),
)


def test_only_the_methods_change() -> None:
    module, other = Net(), Net()
    rewrite_module(module, (FORWARD, STEPPED))
    assert module(0) == 10 * 6 - 10
    assert other(0) == 10 * 2 + 10
    assert isinstance(module, Net)
    kinds = [(k.__name__, k.__qualname__, k.__module__, k.__doc__) for k in (type(module), Net)]
    assert kinds[0] == kinds[1]


def test_defaults_are_those_of_the_function_that_is_replaced() -> None:
    module = Net()
    rewrite_module(module, (FORWARD,))
    assert type(module).forward.__defaults__ is Net.forward.__defaults__


def test_a_helper_changes_for_one_module_only() -> None:
    module = Net()
    rewrite_module(module, (HELPED,))
    assert module(0) == 10 * 2 * 2 + 10
    assert (scaled(1), Net()(0)) == (10, 30)


def test_the_same_functions_make_the_same_class() -> None:
    assert rewritten_class(Net, (FORWARD,)) is rewritten_class(Net, (FORWARD,))
    assert rewritten_class(Net, (FORWARD,)) is not rewritten_class(Net, (STEPPED,))


def test_what_is_rewritten_twice_derives_from_the_class_itself() -> None:
    module = Net()
    rewrite_module(module, (HELPED,))
    rewrite_module(module, (STEPPED,))
    assert type(module).__mro__[1] is Net
    assert module(0) == 10 * 2 * 6 + 10
    rewrite_module(module, (FORWARD,))
    assert module(0) == 10 * 2 * 6 - 10


def test_copies_and_pickles_run_the_same() -> None:
    module = Net().requires_grad_(False)
    rewrite_module(module, (HELPED, STEPPED))
    for made in (copy.deepcopy(module), pickle.loads(pickle.dumps(module)), copy.copy(module)):
        assert type(made) is type(module)
        assert made(0) == module(0)
        assert torch.equal(made.layer.weight, module.layer.weight)
        assert not made.layer.weight.requires_grad
    assert copy.deepcopy(module).layer.weight is not module.layer.weight


def test_tracebacks_show_the_new_source() -> None:
    module = Net()
    rewrite_module(module, (Rewritten("step", "def step(self, x):\n    return 1 / 0  # here\n"),))
    with pytest.raises(ZeroDivisionError) as caught:
        module(0)
    assert "return 1 / 0  # here" in "".join(traceback.format_tb(caught.value.__traceback__))


def surrounded(scale: int) -> Any:
    def function(x: int) -> int:
        return x * scale

    return function


def test_what_surrounds_a_function_stays_in_sight() -> None:
    made = build_function(
        Rewritten("function", "def function(x):\n    return x * scale + STEP\n"), surrounded(7), None
    )
    assert made(2) == 24


def test_functions_of_speedup_are_lent() -> None:
    call = "partial_layer_norm(x, [2], dropped=0, total=2, dropped_sum=0, dropped_squares=0)"
    text = f"def function(x):\n    return {call}\n"
    made = build_function(Rewritten("function", text, (), ("partial_layer_norm",)), surrounded(7), None)
    torch.testing.assert_close(made(torch.tensor([1.0, 3.0])), torch.tensor([-1.0, 1.0]))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("step", "def step(self, x:\n"),
        ("step", "def step(self, x=UNKNOWN):\n    return x\n"),
        ("step", "def step(self, x):\n    return self.__x\n"),
        ("missing", "def missing(self):\n    return 1\n"),
        ("training", "def training(self):\n    return 1\n"),
    ],
)
def test_what_cannot_be_built_is_an_error(name: str, text: str) -> None:
    with pytest.raises(SpeedupError):
        rewritten_class(Net, (Rewritten(name, text),))


def test_a_function_that_uses_its_own_name_is_an_error() -> None:
    text = Rewritten("scaled", "def scaled(x):\n    return scaled(x)\n")
    with pytest.raises(SpeedupError, match="also the name"):
        build_function(Rewritten("scaled", "def scaled(x):\n    return x\n", (text,)), scaled, None)


def test_kinds_of_methods_stay() -> None:
    class Kinds(nn.Module):
        @staticmethod
        def one(x: Tensor) -> Tensor:
            return x

        @classmethod
        def two(cls, x: Tensor) -> Tensor:
            return x

    one = Rewritten("one", "@staticmethod\ndef one(x):\n    return x + 1\n")
    two = Rewritten("two", "@classmethod\ndef two(cls, x):\n    return cls.one(x) + 1\n")
    made: Any = rewritten_class(Kinds, (one, two))
    assert (made().one(0), made.two(0)) == (1, 2)
