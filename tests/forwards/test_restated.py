"""Source that is taken from a file: the model's own with other numbers, and nothing else."""

from __future__ import annotations

import inspect
import textwrap

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speedup import ForeignSourceError
from speedup.forwards.restated import require_restated
from speedup.ir.edits import Rewritten


def rows(x: Tensor) -> Tensor:
    """As rows of twelve."""
    return x.view(-1, 12)


class Net(nn.Module):
    """Says sizes in all ways that can be restated."""

    def forward(self, x: Tensor, wide: int = 12) -> Tensor:
        """Its documentation."""
        x = rows(x.reshape(x.shape[0], wide))
        one, two = x.chunk(2, dim=1)
        y = F.layer_norm(torch.cat([one, two], 1), [12])
        size = (y.shape[0], 12)
        size_of = torch.zeros_like(y, dtype=y.dtype)
        size_of += y * 2
        y = y.view(size).view(*y.shape[:1], 12).reshape(*size)
        return y[:, 3:9] + x.mean(1, keepdim=True) + torch.roll(x, 1, 1)[:, :6]


SOURCE = textwrap.dedent(inspect.getsource(Net.forward))


def check(old: str, new: str, borrowed: tuple[str, ...] = (), helpers: tuple[Rewritten, ...] = ()) -> None:
    assert old in SOURCE
    require_restated(Net, [Rewritten("forward", SOURCE.replace(old, new), helpers, borrowed)])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("wide))", "7))"),
        ("x.chunk(2, dim=1)", "x.split([3, 4], dim=1)"),
        ("F.layer_norm(torch.cat([one, two], 1), [12])",
         "partial_layer_norm(torch.cat([one, two], 1), [7], dropped=5, total=12, dropped_sum=-0.5, "
         "dropped_squares=1.0)"),
        ("3:9", "1:5"),
        ("y[:, 3:9]", "y[:, [0, 2]]"),
        ("x.mean(1, keepdim=True)", "(x.sum(1, keepdim=True) / 12)"),
        ("torch.roll(x, 1, 1)", "x[:, [2, 0, 1]]"),
        ("[12])", "[7])"),
        ("torch.zeros_like(y, dtype", "y.new_zeros((*y.shape[:1], 7), dtype"),
        ("size_of += y * 2", "size_of = size_of + (y * 2)"),
        ("view(size)", "view((*size[:1], 7))"),
        ("view(size)", "view((7, *size[1:]))"),
        ("*y.shape[:1], 12", "*y.shape[:1], 7"),
        ("*y.shape[:1], 12", "3, *y.shape[:1][1:], 7"),
        ("reshape(*size)", "reshape(*size[:1], 7)"),
    ],
)  # fmt: skip
def test_other_numbers_are_taken(old: str, new: str) -> None:
    check(old, new, ("partial_layer_norm",))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("rows(", "eval("),
        ("torch.zeros_like(y, dtype", "y.new_ones((*y.shape[:1], 7), dtype"),
        ("torch.zeros_like(y, dtype", "x.new_zeros((*y.shape[:1], 7), dtype"),
        ("torch.zeros_like(y, dtype", "y.new_zeros((*y.data[:1], 7), dtype"),
        ("torch.zeros_like(y, dtype=y.dtype)", "y.new_zeros((7,), dtype=print())"),
        ("size_of += y * 2", "size_of = size_of - (y * 2)"),
        ("size_of += y * 2", "size_of = y + (y * 2)"),
        ("size_of += y * 2", "size_of = size_of + print()"),
        ("size_of += y * 2", "y = size_of + (y * 2)"),
        ("view(size)", "view((*wide[:1], 7))"),
        ("view(size)", "view((*size[:1], print()))"),
        ("view(size)", "view((*size[print():], 7))"),
        ("view(size)", "view((*size, 7))"),
        ("*y.shape[:1], 12", "*y.shape[:1], print()"),
        ("*y.shape[:1], 12", "*x.shape[:1], 12"),
        ("reshape(*size)", "reshape(*size[:1], *print())"),
        ("reshape(*size)", "reshape(*size[:1].f()[:1], 7)"),
        ("x.chunk(2, dim=1)", "x.split(exec('1'), dim=1)"),
        ("x.chunk(2, dim=1)", "x.split([1, print()], dim=1)"),
        ("x.chunk(2, dim=1)", "x.apply_([3, 4], dim=1)"),
        ("x.chunk(2, dim=1)", "os.split([3, 4], dim=1)"),
        ("wide))", "wide.__class__))"),
        ("wide))", "'text'))"),
        ("wide))", "[i for i in x]))"),
        ("x.mean(1, keepdim=True)", "(x.sum(1, keepdim=True) / print())"),
        ("x.mean(1, keepdim=True)", "(x.prod(1, keepdim=True) / 12)"),
        ("torch.roll(x, 1, 1)", "y.data[:, [2, 0, 1]]"),
        ("torch.roll(x, 1, 1)", "x[:, [2, 0, print()]]"),
        ("F.layer_norm(torch.cat([one, two], 1), [12])", "partial_layer_norm(print(), [7])"),
        ("def forward(self, x: Tensor, wide: int = 12)", "def forward(self, x: Tensor, wide: int = print())"),
        ("def forward", "async def forward"),
        ("def forward", "@property\ndef forward"),
        ("def forward", "print()\ndef forward"),
        ("Its documentation.", "Another."),
        ("return y", "import os; return y"),
        ("return y", "return -y"),
        ("def forward", "def forward("),
        ("[:, :6]", "[:, :6]\n\nprint()"),
    ],
)
def test_anything_else_is_refused(old: str, new: str) -> None:
    with pytest.raises(ForeignSourceError, match="'forward' of Net"):
        check(old, new)


def test_only_known_names_are_borrowed() -> None:
    with pytest.raises(ForeignSourceError):
        check("wide))", "7))", ("Sequence",))


def test_helpers_are_compared_as_well() -> None:
    own = textwrap.dedent(inspect.getsource(rows))
    check("wide))", "7))", helpers=(Rewritten("rows", own.replace("12)", "7)")),))
    for helper in (
        Rewritten("rows", own.replace("x.view", "x.apply_")),
        Rewritten("len", "def len(x): return 1"),
    ):
        with pytest.raises(ForeignSourceError, match=f"{helper.name!r} of Net"):
            check("wide))", "7))", helpers=(helper,))


def test_methods_without_source_are_refused() -> None:
    namespace: dict[str, type[nn.Module]] = {}
    exec("from torch import nn\nclass Hidden(nn.Module):\n    def forward(self, x): return x", namespace)
    for name in ("forward", "no_such_method", "__init_subclass__"):
        with pytest.raises(ForeignSourceError, match="cannot be found"):
            require_restated(namespace["Hidden"], [Rewritten(name, "def forward(self, x): return x")])
