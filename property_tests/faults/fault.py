"""A fault as a value: one piece of the library's source that reads otherwise.

It is planted while the module is imported, so that rule tables, default arguments and closures that
are made at import hold it too. Nothing is written to disk.
"""

from __future__ import annotations

import importlib.util
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import CodeType

import attrs


@attrs.frozen
class Fault:
    """In module `speedup.<module>`, `before` reads `after`; `killers` are tests that may notice.

    Names and descriptions say what the library does wrong. Killers are arguments of pytest, tried in
    order; they are properties where there is one, quick ones first.
    """

    name: str
    module: str
    before: str
    after: str
    killers: tuple[str, ...]

    @property
    def path(self) -> str:
        """The full name of the module."""
        return f"speedup.{self.module}"


def faulty(fault: Fault, source: str) -> str:
    """`source` with the fault in it.

    Raises:
        ValueError: the source has no such piece, or several: the fault has to be told anew.
    """
    count = source.count(fault.before)
    if count != 1:
        raise ValueError(f"{fault.name!r}: {fault.path} holds {fault.before!r} {count} times, not once")
    return source.replace(fault.before, fault.after)


def source_of(fault: Fault) -> str:
    """The source that the fault is to be planted in; the module is not imported."""
    package, _, _ = fault.module.rpartition(".")
    parent = "speedup" + (f".{package}" if package else "")
    spec = importlib.util.find_spec(parent)
    found = None if spec is None else PathFinder.find_spec(fault.path, spec.submodule_search_locations)
    if found is None or not isinstance(found.loader, SourceFileLoader):
        raise ValueError(f"{fault.name!r}: there is no module {fault.path}")
    return found.loader.get_data(found.loader.path).decode()


class _FaultyLoader(SourceFileLoader):
    """Compiles the faulty source; cached bytecode is neither read nor written."""

    def __init__(self, fault: Fault, path: str) -> None:
        super().__init__(fault.path, path)
        self.fault = fault

    def get_code(self, fullname: str) -> CodeType:
        code: CodeType = self.source_to_code(faulty(self.fault, self.get_data(self.path).decode()), self.path)
        return code


class _FaultyFinder(MetaPathFinder):
    """Finds the one faulty module and leaves all others to those after it."""

    def __init__(self, fault: Fault) -> None:
        self.fault = fault

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if fullname != self.fault.path:
            return None
        found = PathFinder.find_spec(fullname, path)  # type: ignore[arg-type]
        assert found is not None and isinstance(found.loader, SourceFileLoader)
        found.loader = _FaultyLoader(self.fault, found.loader.path)
        return found


def plant(fault: Fault) -> None:
    """Let this process import the library with the fault. There is no way back: use a process of its own."""
    assert "speedup" not in sys.modules, "the library is imported already, without the fault"
    sys.meta_path.insert(0, _FaultyFinder(fault))
    # At once: pytest looks for modules itself, to rewrite their assertions.
    importlib.import_module(fault.path)
