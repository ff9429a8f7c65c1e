"""Whether a call from a file is another with numbers changed: what several lowerings ask."""

from __future__ import annotations

import ast

from speedup.lowerings.lowering import Agrees
from speedup.lowerings.syntax import is_literal


def keywords_agree(old: ast.Call, new: ast.AST, agrees: Agrees) -> bool:
    """Whether every keyword of `new` is one of `old`'s, or a number."""
    known = {keyword.arg: keyword.value for keyword in old.keywords}
    return isinstance(new, ast.Call) and all(
        keyword.arg is not None
        and (is_literal(keyword.value) or agrees(known.get(keyword.arg), keyword.value, True))
        for keyword in new.keywords
    )


def calls_instead(name: str, old: ast.Call, new: ast.AST, agrees: Agrees) -> bool:
    """Whether `new` calls `name` where `old` calls another function of the same tensor or module."""
    if not isinstance(new, ast.Call) or not isinstance(new.func, ast.Attribute) or new.func.attr != name:
        return False
    if isinstance(old.func, ast.Attribute):
        reached = agrees(old.func.value, new.func.value, False)
    else:
        reached = isinstance(new.func.value, ast.Name) and new.func.value.id == "torch"
    known = all(is_literal(a) or any(agrees(b, a, True) for b in old.args) for a in new.args)
    return reached and known and keywords_agree(old, new, agrees)
