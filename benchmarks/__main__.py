"""Everything that is measured, by one command.

`python -m benchmarks` runs all sections but the peers and `scale`; `python -m benchmarks peers` those, making
an environment for each on first use; `python -m benchmarks scale` measures large checkpoints on disk;
`python -m benchmarks run limit growth` chosen sections; `figures` and `readme` make the figures and the
README's tables anew from what is stored. Results are written row by row.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated

import typer

from benchmarks import consecutive, digits, growth, latency, limit, paths, phases, readme, sparse, sparse_cuda
from benchmarks import scale as large
from benchmarks.figures import draw_all
from benchmarks.scale_point import SHAPES
from benchmarks.settings import Settings
from benchmarks.store import RESULTS, Store

SECTIONS: Mapping[str, Callable[[Settings], None]] = {
    "limit": limit.run,
    "growth": growth.run,
    "phases": phases.run,
    "digits": digits.run,
    "consecutive": consecutive.run,
    "latency": latency.run,
    "sparse": sparse.run,
    "sparse_cuda": sparse_cuda.run,
    "recipes": paths.run,
}

app = typer.Typer(help=__doc__, add_completion=False, pretty_exceptions_enable=False)
Folder = Annotated[Path, typer.Option(help="Where results and figures are.")]
Smoke = Annotated[bool, typer.Option("--smoke", help="The smallest subjects only, in seconds.")]
Threads = Annotated[int, typer.Option(help="Threads torch may use; all cores by default.")]
Only = Annotated[list[str] | None, typer.Option(help="Only these models; may be given several times.")]
Pages = Annotated[list[Path] | None, typer.Option(help="Pages; by default both READMEs.")]
_CORES = os.cpu_count() or 1


@app.callback(invoke_without_command=True)
def default(
    context: typer.Context, folder: Folder = RESULTS, smoke: Smoke = False, threads: Threads = _CORES
) -> None:
    """Run all sections but the peers when no command is given."""
    if context.invoked_subcommand is None:
        run_sections(list(SECTIONS), Settings(Store(folder), smoke, threads))


@app.command()
def run(
    sections: Annotated[list[str], typer.Argument(help=f"Any of {', '.join(SECTIONS)}.")],
    folder: Folder = RESULTS,
    smoke: Smoke = False,
    threads: Threads = _CORES,
    only: Only = None,
) -> None:
    """Run chosen sections; other results stay as they are."""
    unknown = [name for name in sections if name not in SECTIONS]
    if unknown:
        raise typer.BadParameter(f"no section {unknown[0]!r}; there are {', '.join(SECTIONS)}")
    run_sections(sections, Settings(Store(folder), smoke, threads, tuple(only or ())))


@app.command(name="sparse")
def sparse_kernels(
    folder: Folder = RESULTS, smoke: Smoke = False, threads: Threads = _CORES, only: Only = None
) -> None:
    """Run the section `sparse` alone; of `--only` it also takes single rows."""
    run_sections(["sparse"], Settings(Store(folder), smoke, threads, tuple(only or ())))


@app.command()
def peers(
    folder: Folder = RESULTS,
    smoke: Smoke = False,
    threads: Threads = _CORES,
    only: Only = None,
    tool: Annotated[list[str] | None, typer.Option(help="Only these tools.")] = None,
) -> None:
    """Run the other tools and this one on the same models and masks."""
    from benchmarks.peers.run import TOOLS
    from benchmarks.peers.run import run as run_peers

    settings = Settings(Store(folder), smoke, threads, tuple(only or ()))
    run_peers(settings, tuple(tool or TOOLS))
    draw_all(settings.store)


@app.command()
def scale(
    folder: Folder = RESULTS,
    smoke: Smoke = False,
    size: Annotated[list[str] | None, typer.Option(help=f"Any of {', '.join(SHAPES)}.")] = None,
    scratch: Annotated[Path | None, typer.Option(help="Where checkpoints are written, and removed.")] = None,
) -> None:
    """Compact large checkpoints by the command line, and plan 70B shapes without weights."""
    large.run(Settings(Store(folder), smoke, 1), tuple(size or large.SIZES), scratch)


@app.command()
def figures(folder: Folder = RESULTS) -> None:
    """Draw the figures anew from the stored results."""
    for path in draw_all(Store(folder)):
        print(path)


@app.command(name="readme")
def readme_tables(folder: Folder = RESULTS, file: Pages = None) -> None:
    """Write the tables between the markers of the READMEs anew from the stored results."""
    for page in file or readme.PAGES:
        readme.rewrite(page, Store(folder))


def run_sections(names: list[str], settings: Settings) -> None:
    """Run sections in order, then draw the figures."""
    for name in names:
        start = time.perf_counter()
        SECTIONS[name](settings)
        print(f"{name}: {time.perf_counter() - start:.0f} s", flush=True)
    draw_all(settings.store)


if __name__ == "__main__":
    app()
