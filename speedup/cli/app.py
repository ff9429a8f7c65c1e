"""The command line's frame: exit codes, errors as one readable line, and the commands under one roof.

Exit codes: 0 done; 1 the small model is not equivalent, or the run failed; 2 bad input or bad usage.
"""

from __future__ import annotations

import json
import sys
import traceback
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.exceptions import TyperException

from speedup.cli import commands
from speedup.errors import EquivalenceError, SpeedupError
from speedup.rendering.versions import package_version

FAILED = 1
BAD_INPUT = 2

_DEBUG = "--debug"
# Where the context of a command line says whether it asks for JSON.
_AS_JSON = "speedup.as_json"

_EXAMPLES = """
Examples:

    speedup prune net.py:make --weights net.pt --input 1x3x32x32 --macs 0.5 --out masks.pth

    speedup plan torchvision.models:resnet18 --input 1x3x224x224 --masks masks.pth

    speedup plan net.py:make --input ids=1x16:int64:1000 --explain encoder.0

    speedup plan net.py:make --input ids=1x16:int64:1000 --call "ids=1x1:int64:1000 past=1x4x9x8"

    speedup compact net.py:make --weights net.pt --masks masks.pth --input 1x3x32x32 --out small.safetensors

    speedup verify net.py:make small.safetensors --weights net.pt

    speedup report net.py:make --weights net.pt --masks masks.pth --input 1x3x32x32 --out report.html

    speedup bench net.py:make --weights net.pt --masks masks.pth --input 8x3x32x32 --json
"""


class _Commands(TyperGroup):
    """Runs a command and turns an error into one line on stderr, or one of JSON, and an exit code."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        # It may stand anywhere, also behind the command that turned out to fail.
        found = [arg for arg in args if arg != _DEBUG]
        ctx.meta[_AS_JSON] = "--json" in args
        return super().parse_args(ctx, [_DEBUG, *found] if len(found) < len(args) else found)

    def invoke(self, ctx: Any) -> Any:
        as_json = ctx.meta[_AS_JSON]
        try:
            return super().invoke(ctx)
        except (typer.Exit, typer.Abort):
            raise
        except TyperException as error:
            if not as_json:
                raise
            _print_json(error, error.format_message(), error.exit_code)
            raise typer.Exit(error.exit_code) from error
        except Exception as error:
            code = exit_code(error)
            if ctx.params.get("debug"):
                traceback.print_exception(error)
            elif not as_json:
                typer.echo(f"error: {_said(error)}", err=True)
            if as_json:
                _print_json(error, _said(error), code)
            raise typer.Exit(code) from error


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(is_asked: bool) -> None:
    if is_asked:
        import torch

        python = ".".join(map(str, sys.version_info[:3]))
        typer.echo(f"speedup {package_version()} (torch {torch.__version__}, Python {python})")
        raise typer.Exit


@app.callback(epilog=_EXAMPLES)
def root(
    debug: Annotated[
        bool, typer.Option(_DEBUG, help="Show the traceback of an error; may stand anywhere.")
    ] = False,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print versions, and end."),
    ] = False,
) -> None:
    """Turn a masked PyTorch model into a smaller one that computes the same function."""


for _command in commands.ALL:
    app.command(_command.__name__.removesuffix("_command"))(_command)


def exit_code(error: Exception) -> int:
    """The exit code that stands for `error`."""
    is_input = isinstance(error, SpeedupError) and not isinstance(error, EquivalenceError)
    return BAD_INPUT if is_input else FAILED


def _said(error: Exception) -> str:
    """What an error says, in one line."""
    said = " ".join(str(error).split())
    if isinstance(error, SpeedupError):
        return said
    return f"{type(error).__name__}: {said}; speedup --debug shows where"


def _print_json(error: Exception, said: str, code: int) -> None:
    """Print the type of an error, what it says, and the exit code."""
    summary = {"type": type(error).__name__, "message": said, "exit_code": code}
    typer.echo(json.dumps({"error": summary}))
