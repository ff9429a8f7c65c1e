"""Compression and equivalence on the models of torchvision, timm, transformers and other libraries.

`python -m benchmarks.zoo [NAMES...] [--library torchvision] [--max-params 100e6] [--json FILE]` takes every
classifier of at most that many parameters, with half of every convolution's filters masked; with `--library
timm` a model of each family, or of transformers each of its tiny models, with random rows of every layer
masked. All are in float64 and in a lively state; it exits with 1 if one is inexact or was touched.

Of the other libraries it takes some models of theirs, one per family and small; the table then has the
errors at two batch sizes, and beside the multiply-accumulates that layers keep what the masks allow them:
rows with a living weight, from columns that vary between two inputs, each layer on its own. What is not
installed is told with the command that installs it. With `--free` plans are made as if calls cost nothing:
models this small do not pay for lowerings that larger ones of their kind get.

With `--whole-layers` it takes detectors, DeepLab, ResNetV2, RepVGG and Llama with whole layers masked, and
says what they keep beside what each layer needs by itself.

With `--sizes` torchvision's classifiers have half of all rows masked, those of linear layers too. Each is
planned at one resolution and compared at that and at two others, one of them odd; the table has a column for
every size. Models that are made for one resolution refuse the others.
"""

from __future__ import annotations

import gc
import json
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, TypeAlias

import torch
import typer
from attrs import evolve
from rich.console import Console

from benchmarks.insight import analysis_of, macs
from benchmarks.verdicts import TOLERANCE, print_faults, record, size_table, table, verdict, work_table
from tests.support import timm_models, transformers_models, vision, whole_layers
from tests.support.costs import free_calls
from tests.support.masking import Recipe, random_row_masks
from tests.support.measure import Exactness, check_exact
from tests.support.third_party import LibraryMissingError, require
from tests.support.work import Work
from tests.support.zoo import check_classifier, check_third_party, check_timm, check_transformers


class Library(StrEnum):
    """Where the models come from."""

    TORCHVISION = "torchvision"
    TIMM = "timm"
    TRANSFORMERS = "transformers"
    PYTORCHCV = "pytorchcv"
    SEGMENTATION_MODELS = "segmentation-models-pytorch"
    VIT_PYTORCH = "vit-pytorch"
    X_TRANSFORMERS = "x-transformers"
    DIFFUSERS = "diffusers"
    MONAI = "monai"
    OPEN_CLIP = "open-clip-torch"


_OURS = (Library.TORCHVISION, Library.TIMM, Library.TRANSFORMERS)
Check: TypeAlias = Callable[..., Exactness]


def main(
    names: Annotated[
        list[str] | None, typer.Argument(help="Classifiers, families or classes; all by default.")
    ] = None,
    library: Annotated[Library, typer.Option(help="Whose models.")] = Library.TORCHVISION,
    max_params: Annotated[float, typer.Option(help="Leave out larger classifiers of torchvision.")] = 100e6,
    seed: Annotated[int, typer.Option(help="Of random weights and rows.")] = 7,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the results there too.")] = None,
    verify: Annotated[
        bool, typer.Option(help="Make each model a second time, as the library checks it.")
    ] = False,
    sizes: Annotated[bool, typer.Option("--sizes", help="Compare classifiers at other resolutions.")] = False,
    whole: Annotated[bool, typer.Option("--whole-layers", help="Models with whole layers masked.")] = False,
    free: Annotated[bool, typer.Option("--free", help="Plan as if calls cost nothing.")] = False,
    threads: Annotated[int, typer.Option(help="Threads torch may use.")] = 1,
) -> None:
    if sizes and library is not Library.TORCHVISION:
        raise typer.BadParameter("--sizes is for torchvision's classifiers")
    torch.set_num_threads(threads)
    try:
        known, check = _whole_layers() if whole else _models(library, max_params, seed)
    except LibraryMissingError as error:
        raise typer.BadParameter(str(error)) from error
    check = partial(check, also_verified=verify)
    masked = "R1" if library is Library.TORCHVISION else "Random rows"
    make_table = table if library in _OURS else work_table
    if whole:
        masked, make_table = "Whole layers masked", work_table
    if sizes:
        # R1 leaves attention and its kin alone, which look at sizes most.
        recipe = partial(random_row_masks, fraction=0.5, seed=seed)
        check, masked = partial(_checked_at_sizes, recipe=recipe, also_verified=verify), "Half of all rows"
        make_table = size_table
    results: list[Exactness] = []
    for name in names or known:
        with free_calls() if free else nullcontext():
            results.append(_checked(name, check))
        if json_file is not None:
            json_file.write_text(json.dumps([record(result) for result in results], indent=1) + "\n")
    title = f"{masked} in float64; {threads} thread(s)"
    Console().print(make_table(results, title))
    print_faults(results)
    raise typer.Exit(0 if all(result.is_exact(TOLERANCE) for result in results) else 1)


def _models(library: Library, max_params: float, seed: int) -> tuple[Sequence[str], Check]:
    """The names of all models of `library`, and how one of them is checked."""
    match library:
        case Library.TORCHVISION:
            return vision.classifiers(int(max_params)), check_classifier
        case Library.TIMM:
            return timm_models.families(), partial(check_timm, seed=seed)
        case Library.TRANSFORMERS:
            return transformers_models.classes(), partial(check_transformers, seed=seed)
        case _:
            check = partial(check_third_party, library.value, seed=seed)
            return tuple(require(library.value).cases), check


def _whole_layers() -> tuple[Sequence[str], Check]:
    return tuple(whole_layers.CASES), _checked_with_whole_layers_masked


def _checked_with_whole_layers_masked(name: str, *, also_verified: bool) -> Exactness:
    """With the work of all layers as planning counts it: what the rows need that are read."""
    case = whole_layers.CASES[name]
    model = case.build(case.masks)
    masks = case.masks(model)
    result = check_exact(model, masks, case.inputs, name=name, also_verified=also_verified)
    before, _, needed = macs(analysis_of(model, case.inputs(2, 0), masks))
    return evolve(result, work=Work(before, needed, result.macs_after))


def _checked_at_sizes(name: str, *, recipe: Recipe, also_verified: bool) -> Exactness:
    sizes = vision.further_resolutions(name)
    return check_classifier(name, recipe=recipe, also_verified=also_verified, sizes=sizes)


def _checked(name: str, check: Check) -> Exactness:
    start = time.perf_counter()
    try:
        result = check(name)
    except Exception:
        # One that cannot even be built or called must not end a run of an hour.
        result = Exactness(name, failure=traceback.format_exc())
    # Models of a few hundred MB in float64: cycles must not keep the last one beside the next.
    gc.collect()
    took = time.perf_counter() - start
    Console(stderr=True).print(f"{result.name}: {verdict(result)}, {took:.0f} s", highlight=False)
    return result


if __name__ == "__main__":
    typer.run(main)
