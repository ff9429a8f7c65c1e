"""The commands, one module each: what a command line may say, and what is done about it.

A module loads what its options are made of. What the work needs is loaded by the command itself, as it needs
torch, which takes seconds, and `--help` does not.
"""

from __future__ import annotations

from collections.abc import Callable

from speedup.cli.commands.bench import bench
from speedup.cli.commands.compact import compact_command
from speedup.cli.commands.demo import demo
from speedup.cli.commands.plan import plan
from speedup.cli.commands.prune import prune
from speedup.cli.commands.report import report
from speedup.cli.commands.verify import verify_command

ALL: tuple[Callable[..., None], ...] = (*(prune, plan, compact_command, verify_command, report, bench, demo),)
"""In the order in which they are used."""
