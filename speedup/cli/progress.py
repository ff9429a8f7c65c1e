"""A bar on stderr for work that takes longer than a second, where a person watches."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

PATIENCE = 1.0
"""Seconds of work after which the bar appears."""


class Steps:
    """The steps of one command; `with steps("planning"):` is the next one.

    The bar is drawn by a thread of its own, so it moves while torch works. Without a terminal on stderr
    nothing is written.
    """

    def __init__(self, total: int, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
        self._progress = Progress(*columns, console=self._console, transient=True)
        self._task = self._progress.add_task("", total=total)
        self._ended = Event()

    @contextmanager
    def shown(self) -> Iterator[Steps]:
        """Watch the steps inside; the bar appears once they have taken a second, and is gone after them."""
        if not self._console.is_terminal:
            yield self
            return
        watch = Thread(target=self._appear, daemon=True)
        watch.start()
        try:
            yield self
        finally:
            self._ended.set()
            watch.join()
            self._progress.stop()

    @contextmanager
    def __call__(self, what: str) -> Iterator[None]:
        """One step, called `what`."""
        self._progress.update(self._task, description=what)
        yield
        self._progress.advance(self._task)

    def say(self, what: str) -> None:
        """Call the step that is under way so, to tell how far it is."""
        self._progress.update(self._task, description=what)

    def _appear(self) -> None:
        if not self._ended.wait(PATIENCE):
            self._progress.start()
