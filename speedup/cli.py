"""The command line: one function per command, errors and exit codes in one place.

Exit codes: 0 done; 1 the small model is not equivalent; 2 bad input or bad usage.
"""

from __future__ import annotations

import traceback
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from speedup.errors import EquivalenceError, SpeedupError

NOT_EQUIVALENT = 1
BAD_INPUT = 2


class _Commands(TyperGroup):
    """Runs a command and turns a `SpeedupError` into one line on stderr and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except SpeedupError as error:
            _report(error, with_traceback=bool(ctx.params.get("debug")))
            raise typer.Exit(exit_code(error)) from error


app = typer.Typer(cls=_Commands, no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False)


@app.callback()
def root(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Turn a masked PyTorch model into a smaller one that computes the same function."""


@app.command()
def demo() -> None:
    """Compact a LeNet and a ResNet-18 built on the spot, and print the plans and measurements."""
    from speedup.demo import run_demo

    run_demo()


def exit_code(error: SpeedupError) -> int:
    """The exit code that stands for `error`."""
    return NOT_EQUIVALENT if isinstance(error, EquivalenceError) else BAD_INPUT


def _report(error: SpeedupError, with_traceback: bool) -> None:
    if with_traceback:
        traceback.print_exception(error)
    else:
        typer.echo(f"error: {' '.join(str(error).split())}", err=True)
