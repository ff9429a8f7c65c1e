"""Choices: what was measured, with its text, its table and its questions."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, Final

import cattrs
from attrs import evolve, frozen

from speedup.errors import ChoicesFormatError
from speedup.rendering.versions import package_version
from speedup.sparse.kernels import KERNELS
from speedup.sparse.measured import LayerChoice, Measurements
from speedup.text.json_values import add_values
from speedup.writing import StrPath, write_text

FORMAT: Final = "speedup.choices"
VERSION: Final = 1


@frozen(repr=False)
class Choices(Measurements):
    """What `tune` measured: print it, save it, give it to `materialize(plan, choices=...)`."""

    def agreement(self, other: Choices) -> float:
        """On which share of the layers' time, as measured here, `other` decides as these do."""
        theirs = {layer.path: layer.chosen is None for layer in other.layers}
        total = sum(layer.seconds for layer in self.layers)
        same = sum(layer.seconds for layer in self.layers if theirs.get(layer.path) == (layer.chosen is None))
        return same / total if total else 1.0

    def unchecked(self) -> Choices:
        """The same choices for any machine and model; their layers must be there, and have these shapes."""
        return evolve(self, is_checked=False)

    def to_json(self) -> str:
        """The choices as text, from which `from_json` makes equal ones."""
        content = _converter().unstructure(self)
        del content["is_checked"]
        head = {"format": FORMAT, "version": VERSION, "written_by": package_version()}
        return json.dumps({**head, **content}, indent=1)

    @classmethod
    def from_json(cls, text: str | bytes) -> Choices:
        """The choices that `to_json` wrote.

        Raises:
            ChoicesFormatError: the text is damaged, of another version, or something else.
        """
        try:
            given = json.loads(text)
        except ValueError as error:
            raise ChoicesFormatError(
                f"this is no text of choices: {error}. Measure again with tune."
            ) from error
        if not isinstance(given, dict) or given.get("format") != FORMAT:
            raise ChoicesFormatError(f"this is JSON of something else: it has no format {FORMAT!r}.")
        if given.get("version") != VERSION:
            raise ChoicesFormatError(
                f"these choices are of version {given.get('version')!r}, this release reads {VERSION}. "
                "Measure again with tune."
            )
        content = {name: part for name, part in given.items() if name not in _HEAD}
        try:
            found = _converter().structure(content, cls)
        except Exception as error:  # a converter raises what the constructors do
            raise ChoicesFormatError(f"these choices are damaged: {_first_reason(error)}") from error
        for layer in found.layers:
            fault = _fault(layer)
            if fault is not None:
                raise ChoicesFormatError(f"these choices are damaged: {layer.path!r} {fault}")
        return found

    def save(self, path: StrPath) -> None:
        """Write them to a file, by convention `*.json`, all of it or nothing.

        Raises:
            FileWriteError: the folder is missing or cannot be written to.
        """
        write_text(path, self.to_json() + "\n")

    @classmethod
    def load(cls, path: StrPath) -> Choices:
        """The choices in a file that `save` wrote. Whether they fit is asked by `materialize`.

        Raises:
            ChoicesFormatError: the file is missing, damaged, of another version, or something else.
        """
        try:
            text = Path(path).read_bytes()
        except OSError as error:
            raise ChoicesFormatError(f"{str(path)!r} cannot be read: {error.strerror}") from error
        try:
            return cls.from_json(text)
        except ChoicesFormatError as error:
            raise ChoicesFormatError(f"{str(path)!r}: {error}") from error

    def table(self, width: int | None = None) -> str:
        """All layers with what was chosen and what it gains, as plain text; `width` is in characters."""
        from speedup.sparse.table import choices_table  # rich takes a while to import

        return choices_table(self, width)

    def __str__(self) -> str:
        return self.table()

    def __repr__(self) -> str:
        kernels = Counter(layer.kernel for layer in self.layers)
        told = ", ".join(f"{count} {kernel}" for kernel, count in kernels.items())
        return f"Choices of {self.model} ({told or 'no layers'}): {self.verdict}"


def _fault(layer: LayerChoice) -> str | None:
    """What no measurement leaves behind."""
    if layer.taken is not None and not 0 <= layer.taken < len(layer.candidates):
        return "takes what it has not"
    for one in layer.candidates:
        if one.kernel not in KERNELS or one.side not in KERNELS[one.kernel].sides:
            return f"has a kernel {one.kernel!r} with blocks of {one.side}, which this release has not"
    times = (layer.dense, *(one.seconds for one in layer.candidates))
    if not all(part > 0 for time in times if time is not None for part in (time.low, time.median, time.high)):
        return "has times that none are"
    return None


_HEAD = ("format", "version", "written_by")


@cache
def _converter() -> cattrs.Converter:
    converter = cattrs.Converter(forbid_extra_keys=True)
    add_values(converter)
    return converter


def _first_reason(error: BaseException) -> str:
    *_, last = _innermost([error])
    return f"{type(last).__name__}: {last}"


def _innermost(errors: Iterable[Any]) -> Iterator[BaseException]:
    for error in errors:
        inner = getattr(error, "exceptions", ())
        if inner:
            yield from _innermost(inner[:1])
        else:
            yield error
