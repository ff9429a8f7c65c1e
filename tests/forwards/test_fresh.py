"""Is a tensor that a statement changes in place held by that one name alone?"""

from __future__ import annotations

import ast

import pytest

from speedup.forwards.source import Assignment, is_fresh


def changed(*lines: str) -> tuple[ast.AugAssign, ast.FunctionDef]:
    """The only `out += ...` in a function of these lines, and the function."""
    text = "\n".join(("def forward(self, x, given):", *(f"    {line}" for line in lines)))
    (function,) = ast.parse(text).body
    assert isinstance(function, ast.FunctionDef)
    (statement,) = (node for node in ast.walk(function) if isinstance(node, ast.AugAssign))
    return statement, function


def is_made(statement: Assignment) -> bool:
    text = "" if statement.value is None else ast.unparse(statement.value)
    return text.startswith(("self.norm(", "self.scale * "))


NORM, SUM = "out = self.norm(x)", "out += x"
PRODUCT = "out = self.scale * self.other(x)"


@pytest.mark.parametrize(
    ("lines", "fresh"),
    [
        ((NORM, SUM), True),
        ((NORM, "y = self.other(x)", SUM, "return out"), True),
        ((NORM, "out = self.drop(out)", SUM), True),
        (("y = x", "x = self.norm(x)", "x += y"), True),
        ((PRODUCT, SUM), True),
        ((PRODUCT, "out = self.drop(out)", SUM), True),
        (("out: Tensor = self.scale * x", SUM), True),
        ((NORM, "out = self.shift + out", SUM), True),
        ((NORM, "out = self.shift + given", SUM), False),
        ((PRODUCT, "y = out", SUM), False),
        (("y = self.scale * x", "out = y", SUM), False),
        (("y = self.scale * x", "out = self.drop(y)", SUM), False),
        (("out: Tensor = self.norm(x)", SUM), True),
        ((NORM, "out: Tensor = self.drop(out)", SUM), True),
        ((NORM, "y: Tensor = out", SUM), False),
        (("out: Tensor = given", SUM), False),
        (("out: Tensor", "out = given", SUM), False),
        ((NORM, "if self.training:", "    out = self.drop(out)", SUM), True),
        ((NORM, "if self.training:", "    out += x"), True),
        (("with torch.no_grad():", f"    {NORM}", f"    {SUM}"), True),
        ((NORM, "y = out", SUM), False),
        ((NORM, "given.append(out)", SUM), False),
        ((NORM, "if out.sum() > 0:", "    out += x"), False),
        ((NORM, "if self.training:", "    out = given", SUM), False),
        ((NORM, "if self.training:", "    out = self.other(x)", SUM), False),
        ((NORM, "out, y = self.both(out)", SUM), False),
        (("y = self.norm(x)", "out = self.drop(y)", SUM), False),
        (("out = given", SUM), False),
        (("out = x[0]", SUM), False),
        ((SUM.replace("out", "given"),), False),
        (("for _ in range(2):", f"    {NORM}", f"    {SUM}"), False),
        ((NORM, "while self.training:", f"    {SUM}"), False),
        ((NORM, "with self.lock:", f"    {SUM}"), False),
        ((NORM, "def inner():", f"    {SUM}"), False),
        ((NORM, "self.out += x"), False),
        (("out = y = self.norm(x)", SUM), False),
    ],
)
def test_only_what_nothing_else_can_hold_may_be_made_anew(lines: tuple[str, ...], fresh: bool) -> None:
    statement, function = changed(*lines)
    assert is_fresh(statement, function, is_made) is fresh
