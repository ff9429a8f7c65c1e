"""The command line's frame: exit codes, errors as one readable line, and the commands under one roof.

Exit codes: 0 done; 1 the small model is not equivalent, or the run failed; 2 bad input or bad usage.
"""

from __future__ import annotations

import traceback
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.exceptions import TyperException

from speedup.cli import commands
from speedup.errors import EquivalenceError, SpeedupError

FAILED = 1
BAD_INPUT = 2

_EXAMPLES = """
Examples:

    speedup plan torchvision.models:resnet18 --input 1x3x224x224 --masks masks.pth

    speedup plan net.py:make --input ids=1x16:int64:1000 --explain encoder.0

    speedup plan net.py:make --input ids=1x16:int64:1000 --call "ids=1x1:int64:1000 past=1x4x9x8"

    speedup compact net.py:make --weights net.pt --masks masks.pth --input 1x3x32x32 --out small.safetensors

    speedup verify net.py:make small.safetensors --weights net.pt --masks masks.pth

    speedup report net.py:make --masks masks.pth --input 1x3x32x32 --out report.html
"""


class _Commands(TyperGroup):
    """Runs a command and turns an error into one line on stderr and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (typer.Exit, typer.Abort, TyperException):
            raise
        except Exception as error:
            _report(error, with_traceback=bool(ctx.params.get("debug")))
            raise typer.Exit(exit_code(error)) from error


app = typer.Typer(cls=_Commands, no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False)


@app.callback(epilog=_EXAMPLES)
def root(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Turn a masked PyTorch model into a smaller one that computes the same function."""


for _command in commands.ALL:
    app.command(_command.__name__.removesuffix("_command"))(_command)


def exit_code(error: Exception) -> int:
    """The exit code that stands for `error`."""
    is_input = isinstance(error, SpeedupError) and not isinstance(error, EquivalenceError)
    return BAD_INPUT if is_input else FAILED


def _report(error: Exception, with_traceback: bool) -> None:
    if with_traceback:
        traceback.print_exception(error)
        return
    said = " ".join(str(error).split())
    if not isinstance(error, SpeedupError):
        said = f"{type(error).__name__}: {said}; speedup --debug shows where"
    typer.echo(f"error: {said}", err=True)
