"""The command line: `speedup` and `python -m speedup`."""

from speedup.cli.app import app, exit_code

__all__ = ["app", "exit_code"]
