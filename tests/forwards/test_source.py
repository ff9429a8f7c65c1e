"""Finding what a frame was evaluating, and changing the text around it."""

from __future__ import annotations

import functools
import itertools
import linecache
from typing import Any

import pytest

from speedup.forwards.source import is_code, is_wrapper, source_file
from speedup.ir.graph import Frame
from speedup.lowerings.syntax import Change, end_of, start_of
from speedup.modules.functions import enclosed_names, names_of, unwrap


def parsed(text: str, file: str = "<a test>") -> Any:
    linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
    return source_file(file)


TEXT = """class A:
    @staticmethod
    def f(x):
        é = "é"; y = g(x)[0](
            1,
        )
        return h(é, y)
"""


def frame(line: int, column: int, name: str = "A.f", first: int = 2) -> Frame:
    return Frame("<a test>", name, first, (1, 0, line, column))


def test_a_call_is_found_by_where_it_ends() -> None:
    file = parsed(TEXT)
    call = file.expression(frame(6, 9))
    assert file.text(start_of(call), end_of(call)) == "g(x)[0](\n            1,\n        )"
    assert file.expression(frame(6, 8)) is None


def test_columns_are_bytes() -> None:
    file = parsed(TEXT)
    line = TEXT.splitlines()[3]
    column = len(line[: line.index("g(x)") + 4].encode())
    found = file.expression(frame(4, column))
    assert file.text(start_of(found), end_of(found)) == "g(x)"


def test_a_function_is_found_by_its_first_decorator_and_its_name() -> None:
    file = parsed(TEXT)
    assert file.function(frame(6, 9)).name == "f"
    assert file.function(frame(6, 9, first=3)) is None
    assert file.function(frame(6, 9, name="A.g")) is None


def test_changes_are_made_from_the_end_and_lose_the_indentation() -> None:
    file = parsed(TEXT)
    function = file.function(frame(6, 9))
    changes = [Change((7, 15), (7, 15), "("), Change((7, 15), (7, 16), "k"), Change((5, 12), (5, 13), "23")]
    assert file.with_changes(function, [(((5, 0), (7, 20)), change) for change in changes]) == (
        '@staticmethod\ndef f(x):\n    é = "é"; y = g(x)[0](\n        23,\n    )\n    return (k(é, y)\n'
    )


def test_what_is_put_around_nested_expressions_nests_alike() -> None:
    """However the changes are listed: what is put around `a * b` stands around what is put around `b`."""
    file = parsed("def f(a, b):\n    return a * b + a\n")
    (function,) = file.functions.values()
    left, product, right, total = (
        ((2, 11), (2, 12)),
        ((2, 11), (2, 16)),
        ((2, 15), (2, 16)),
        ((2, 11), (2, 20)),
    )
    around = [(total, product, "f"), (product, left, "g"), (product, right, "h")]
    changes = [
        (within, change)
        for within, (start, end), name in around
        for change in (Change(start, start, f"{name}("), Change(end, end, f", {name})"))
    ]
    for listed in itertools.permutations(changes):
        assert file.with_changes(function, listed) == (
            "def f(a, b):\n    return f(g(a, g) * h(b, h), f) + a\n"
        )


def test_lines_of_a_text_keep_their_indentation() -> None:
    file = parsed(
        'class A:\n    def f(self):\n        x = """\n      a\n b\n"""\n        return f"""\n  {x}"""\n'
    )
    function = file.function(frame(1, 0, first=2))
    assert (
        file.with_changes(function, [])
        == 'def f(self):\n    x = """\n      a\n b\n"""\n    return f"""\n  {x}"""\n'
    )


@pytest.mark.parametrize("text", ["def f(:\n", "", "a = '\x00'\n"])
def test_text_that_is_no_python_is_no_source(text: str) -> None:
    assert parsed(text, f"<no source {len(text)}>") is None
    assert source_file("<nobody knows>") is None


def decorated(function: Any) -> Any:
    @functools.wraps(function)
    def wrapper(*args: Any) -> Any:
        return function(*args)

    return wrapper


@decorated
def plain(x: int) -> int:
    return x


def running(function: Any) -> Frame:
    code = function.__code__
    return Frame(code.co_filename, code.co_qualname, code.co_firstlineno, (1, 0, 1, 0))


def test_decorators_are_looked_through() -> None:
    inner = unwrap(plain)
    assert inner is plain.__wrapped__
    assert is_code(plain, running(inner)) and not is_code(plain, running(plain))
    assert is_wrapper(plain, running(plain)) and not is_wrapper(plain, running(inner))
    assert unwrap(staticmethod(plain)) is inner and unwrap(classmethod(plain)) is inner
    assert not is_code(3, running(inner))


def test_names_are_those_around_a_function_before_those_of_its_module() -> None:
    plain = 5

    def inner() -> int:
        return plain

    assert enclosed_names(inner) == {"plain": 5}
    assert names_of(inner)["plain"] == 5
    assert names_of(inner)["decorated"] is decorated


def test_a_name_that_has_no_value_yet_is_left_out() -> None:
    def inner() -> int:
        return later

    assert enclosed_names(inner) == {}
    later = 3
    assert enclosed_names(inner) == {"later": later}
