"""The commands, one function each: read what is named, call the library, print or write what came out."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from attrs import evolve

from speedup.cli import summaries
from speedup.cli.examples import SYNTAX
from speedup.cli.options import (
    Align,
    AsJson,
    Calls,
    DeviceName,
    Inputs,
    Keep,
    Latency,
    LoweringNames,
    MaskFile,
    Model,
    TypeName,
    Uniform,
    Weights,
)
from speedup.cli.placing import device_of, dtype_of, placed_model
from speedup.cli.progress import Steps
from speedup.cli.pruning import SCORES, save_masks, scores_of
from speedup.cli.references import factory_of, model_of
from speedup.cli.subject import read_plan_arguments
from speedup.errors import FileWriteError, InputError
from speedup.plan import Plan
from speedup.rendering.latency import LatencyEstimate
from speedup.rendering.verdict import verdict
from speedup.sparse.choices import Choices
from speedup.writing import write_text

if TYPE_CHECKING:
    from speedup.checkpoints.stock import OwnForm, StockForm


def _estimate(made: Plan, step: Steps) -> LatencyEstimate:
    from speedup.measuring.estimating import estimate_latency

    with step("measuring"):
        return estimate_latency(made)


def plan(
    model: Model,
    inputs: Inputs,
    calls: Calls = None,
    weights: Weights = None,
    masks: MaskFile = None,
    keep: Keep = None,
    align: Align = None,
    uniform: Uniform = None,
    lowerings: LoweringNames = "auto",
    device: DeviceName = None,
    dtype: TypeName = None,
    explain: Annotated[str | None, typer.Option("--explain", help="Say why, for one module.")] = None,
    depth: Annotated[
        int | None, typer.Option("--depth", min=1, help="Levels of modules to tell apart; else what fits.")
    ] = None,
    latency: Latency = False,
    table: Annotated[bool, typer.Option("--table", help="Print all layers and all reasons.")] = False,
    out: Annotated[
        Path | None, typer.Option("--out", help="Write the whole plan here, as .json; - prints it.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what would shrink, what would not, and why. Nothing is built.

    Example: speedup plan torchvision.models:resnet18 --input 1x3x224x224 --masks masks.pth

    Two calls: speedup plan net.py:make --input ids=1x16:int64:1000 --call "ids=1x1:int64:1000 past=1x4x9x8"
    """
    is_printed = out is not None and str(out) == "-"
    if out is not None and not is_printed:
        _require_suffix(out, (".json",), "a plan")
    with Steps(3 if latency else 2).shown() as step:
        with step("reading the model"):
            subject = read_plan_arguments(
                *(model, inputs, calls, weights, masks, keep, align, lowerings, device, dtype),
                uniform=uniform,
            )
        with step("planning"):
            made = subject.plan()
        estimate = _estimate(made, step) if latency else None
    if out is not None and not is_printed:
        write_text(out, made.to_json() + "\n")
    if is_printed:
        typer.echo(made.to_json())
    elif explain is not None:
        said = made.explain(explain)
        typer.echo(json.dumps({"path": explain, "explanation": said.splitlines()}) if as_json else said)
    elif as_json:
        typer.echo(json.dumps(summaries.plan_summary(made, latency=estimate)))
    else:
        typer.echo(made.table() if table else made.overview(depth, estimate))


def prune(
    model: Model,
    inputs: Inputs,
    out: Annotated[Path, typer.Option("--out", help="The mask file to write: .pt, .pth or .safetensors.")],
    calls: Calls = None,
    weights: Weights = None,
    sparsity: Annotated[
        float | None, typer.Option("--sparsity", help="The share of channels to mask, from 0 to 1.")
    ] = None,
    macs: Annotated[
        float | None,
        typer.Option("--macs", help="Instead: the share of the MACs that may be left, such as 0.5."),
    ] = None,
    parameters: Annotated[
        float | None,
        typer.Option("--parameters", help="Instead: the share of the parameters that may be left."),
    ] = None,
    latency_ms: Annotated[
        float | None,
        typer.Option("--latency-ms", help="Instead: milliseconds that a forward on --input may take here."),
    ] = None,
    score: Annotated[
        str, typer.Option("--score", help=f"What tells channels apart: {', '.join(SCORES)}.")
    ] = "l1",
    scope: Annotated[
        str, typer.Option("--scope", help="layer: all lose the same share; global: ranked together.")
    ] = "layer",
    skip: Annotated[
        list[str] | None, typer.Option("--skip", help="Module whose channels stay; repeatable.")
    ] = None,
    round_to: Annotated[
        int, typer.Option("--round-to", min=1, help="Leave multiples of so many channels.")
    ] = 1,
    device: DeviceName = None,
    dtype: TypeName = None,
    as_json: AsJson = False,
) -> None:
    """Make masks of the channels of least importance, for `plan` and `compact`. The model stays as it is.

    Example: speedup prune net.py:make --weights net.pt --input 1x3x32x32 --macs 0.5 --out masks.pth
    """
    from speedup.pruners import make_masks

    _require_suffix(out, (".pt", ".pth", ".safetensors"), "a mask file")
    scores = scores_of(score)
    with Steps(4).shown() as step:
        with step("reading the model"):
            subject = read_plan_arguments(
                *(model, inputs, calls, weights, None, None, None, "auto", device, dtype),
                asks_for_weights=True,
            )
        with step("masking"):
            masks = make_masks(
                *(subject.model, subject.example, scores, sparsity),
                macs=macs,
                parameters=parameters,
                latency_ms=latency_ms,
                others=subject.others,
                scope=scope,  # type: ignore[arg-type]
                skip=skip or (),
                round_to=round_to,
            )
        with step("planning"):
            made = evolve(subject, masks=masks).plan()
        with step("writing"):
            save_masks(masks, out)
    named = "1 parameter" if len(masks) == 1 else f"{len(masks)} parameters"
    _tell_written(made, out, subject.warnings, as_json, masks=f"masks of {named}")


def compact_command(
    out: Annotated[Path, typer.Option("--out", help="The .safetensors file, or the folder, to write.")],
    model: Annotated[
        str | None,
        typer.Argument(help="package.module:factory or file.py:factory, called without arguments."),
    ] = None,
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input", help=f"Example input, once per argument of the forward: {SYNTAX}; or a file."
        ),
    ] = None,
    calls: Calls = None,
    weights: Weights = None,
    masks: MaskFile = None,
    keep: Keep = None,
    align: Align = None,
    uniform: Uniform = None,
    lowerings: LoweringNames = "auto",
    device: DeviceName = None,
    dtype: TypeName = None,
    verify: Annotated[str, typer.Option("--verify", help="full, structure or none.")] = "full",
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            "--checkpoint",
            help="A folder of safetensors, as of Hugging Face, to make smaller without a model in memory.",
        ),
    ] = None,
    plan_file: Annotated[
        Path | None,
        typer.Option("--plan", help="With --checkpoint: what `plan --out` wrote, for a model."),
    ] = None,
    max_shard_size: Annotated[
        str, typer.Option("--max-shard-size", help="With --checkpoint: of a file, such as 5GB.")
    ] = "5GB",
    sparse: Annotated[
        bool,
        typer.Option(
            "--sparse",
            help="Measure, on --input, which layers with single zeros gain by sparse kernels; use those.",
        ),
    ] = False,
    choices_file: Annotated[
        Path | None,
        typer.Option("--choices", help="With --sparse: write what was measured here too, as .json."),
    ] = None,
    threads: Annotated[
        int | None, typer.Option("--threads", min=1, help="With --sparse: threads that torch may use.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Build the small model, verify it, and save it with its plan; `speedup.load` builds it again.

    Example: speedup compact net.py:make --weights net.pt --masks masks.pth --input 1x3x32x32 --out small.safetensors

    Example: speedup compact net.py:make --masks masks.pth --input ids=1x16:int64:1000 --checkpoint large --out small

    Example: speedup compact net.py:make --weights net.pt --masks masks.pth --input 8x3x32x32 --sparse --out small.safetensors

    Of a checkpoint, a folder, the model is made without weights, so that what goes follows from the masks
    alone; a plan that was made with weights is taken by --plan.
    """  # noqa: E501
    if checkpoint is not None:
        if sparse:
            raise InputError("--sparse is for a model in memory, which can be measured. Leave it out.")
        if weights is not None:
            raise InputError("--weights is for a model in memory; a checkpoint has its own. Leave it out.")
        if device is not None:
            raise InputError("--device is for a model in memory; of a checkpoint none is made. Leave it out.")
        with Steps(2).shown() as step:
            with step("planning"):
                made = _plan_of(
                    plan_file, model, inputs, calls, masks, keep, align, uniform, lowerings, dtype
                )
            with step("writing"):
                form = _compact_folder(made, checkpoint, out, max_shard_size, step)
        verified = "what the plan makes of the weights, not run"
        _tell_written(made, out, (), as_json, verification=verified, loading=form.loading)
        return
    if plan_file is not None:
        raise InputError("--plan is for --checkpoint; name the model, and its masks, to build it in memory")
    model, inputs = _required(model, inputs)
    from speedup.building.materializing import materialize
    from speedup.files.saving import save

    _require_suffix(out, (".safetensors",), "a small model")
    if not sparse and (choices_file is not None or threads is not None):
        raise InputError("--choices and --threads are about what --sparse measures; pass that too")
    if choices_file is not None:
        _require_suffix(choices_file, (".json",), "choices")
    choices: Choices | None = None
    with Steps(4 + sparse).shown() as step:
        with step("reading the model"):
            subject = read_plan_arguments(
                *(model, inputs, calls, weights, masks, keep, align, lowerings, device, dtype),
                asks_for_weights=True,
                uniform=uniform,
            )
        with step("planning"):
            made = subject.plan()
        if sparse:
            with step("measuring"):
                choices = _measured_choices(made, threads, step)
        with step("building and verifying"):
            small = materialize(made, verify=verify, choices=choices)  # type: ignore[arg-type]
        with step("writing"):
            save(small, made, out)
            if choices is not None and choices_file is not None:
                choices.save(choices_file)
    _tell_written(made, out, subject.warnings, as_json, choices, verification=_verification_words(verify))


def _measured_choices(made: Plan, threads: int | None, step: Steps) -> Choices:
    from speedup.measuring.tuning import Tuning, tune

    def tell(now: Tuning) -> None:
        step.say(f"measuring layer {now.done + 1} of {now.total}, {now.path}")

    return tune(made, threads=threads, progress=tell)


def _required(model: str | None, inputs: list[str] | None) -> tuple[str, list[str]]:
    if model is None or not inputs:
        raise InputError("name the model and its --input: speedup compact net.py:make --input 1x3x32x32 ...")
    return model, inputs


def _plan_of(
    plan_file: Path | None,
    model: str | None,
    inputs: list[str] | None,
    calls: list[str] | None,
    masks: str | None,
    keep: list[str] | None,
    align: int | None,
    uniform: int | None,
    lowerings: str,
    dtype: str | None,
) -> Plan:
    """The plan in a file, or one for the model that is named, without its weights."""
    if plan_file is None:
        given = _required(model, inputs)
        arguments = (*given, calls, None, masks, keep, align, lowerings, None, dtype)
        return read_plan_arguments(*arguments, hollow=True, uniform=uniform).plan()
    if model is not None or masks is not None:
        raise InputError("--plan stands for a model and its masks; name these, or the plan, and not both")
    try:
        return Plan.from_json(plan_file.read_bytes())
    except OSError as error:
        raise InputError(f"--plan {str(plan_file)!r} cannot be read: {error.strerror}") from error


def _compact_folder(
    made: Plan, checkpoint: Path, out: Path, max_shard_size: str, step: Steps
) -> StockForm | OwnForm:
    from speedup.checkpoints.compacting import Progress, compact_checkpoint

    def tell(now: Progress) -> None:
        step.say(
            f"writing {now.written / 1e9:.1f} of {now.total / 1e9:.1f} GB, {now.rate / 1e6:.0f} MB/s, "
            f"{now.seconds_left:.0f} s left"
        )

    return compact_checkpoint(made, checkpoint, out, max_shard_size=max_shard_size, progress=tell)


def verify_command(
    model: Model,
    small: Annotated[Path, typer.Argument(help="What `speedup compact` or `speedup.save` wrote.")],
    weights: Weights = None,
    device: DeviceName = None,
    dtype: TypeName = None,
    as_json: AsJson = False,
) -> None:
    """Compare a saved small model with the masked one. Ends with 1 when they differ.

    The weights, and the type, are those that `speedup compact` was given; the masks are in the file.

    Example: speedup verify net.py:make small.safetensors --weights net.pt
    """
    from speedup.building.binding import bind_plan
    from speedup.building.verifying import verify as check
    from speedup.files.saving import count_rounds, load, load_plan

    place = device_of(device), dtype_of(dtype)
    if (rounds := count_rounds(small)) > 1:
        raise InputError(
            f"{str(small)!r} is of {rounds} rounds. What it is to be compared with is the small model of the "
            "round before, with the weights that it was trained to; in Python: verify(load_plan(file), "
            "load(file, make_model), model=that_model)"
        )
    with Steps(3).shown() as step:
        with step("reading both models"):
            planned = bind_plan(load_plan(small), placed_model(model_of(model, weights), *place))
            loaded = placed_model(load(small, factory_of(model)), *place)
        with step("comparing"):
            found = check(planned, loaded)
    sizes = [size for size in found.batch_sizes if size is not None]
    error = "no inputs were run" if found.error is None else f"largest relative error {found.error:.1e}"
    _tell(
        summaries.verification_summary(found),
        f"equivalent: {error}, batch sizes {', '.join(map(str, sizes)) or 'as planned'}",
        as_json,
    )


def report(
    model: Model,
    inputs: Inputs,
    out: Annotated[Path, typer.Option("--out", help="The file to write: .html, .svg, .png or .pdf.")],
    calls: Calls = None,
    weights: Weights = None,
    masks: MaskFile = None,
    keep: Keep = None,
    align: Align = None,
    lowerings: LoweringNames = "auto",
    device: DeviceName = None,
    dtype: TypeName = None,
    latency: Latency = False,
    as_json: AsJson = False,
) -> None:
    """Write the plan as a page to look at (.html), or as a figure (.svg, .png, .pdf).

    Example: speedup report net.py:make --weights net.pt --masks masks.pth --input 1x3x32x32 --out report.html
    """
    _require_suffix(out, (".html", ".htm", ".svg", ".png", ".pdf"), "a report")
    with Steps(4 if latency else 3).shown() as step:
        with step("reading the model"):
            subject = read_plan_arguments(
                *(model, inputs, calls, weights, masks, keep, align, lowerings, device, dtype),
                asks_for_weights=True,
            )
        with step("planning"):
            made = subject.plan()
        estimate = _estimate(made, step) if latency else None
        with step("drawing"):
            made.write_report(out, latency=estimate)
    _tell_written(made, out, subject.warnings, as_json)


def bench(
    model: Model,
    inputs: Inputs,
    calls: Calls = None,
    weights: Weights = None,
    masks: MaskFile = None,
    keep: Keep = None,
    align: Annotated[
        list[int] | None, typer.Option("--align", min=1, help="Alignments to compare; 1 is none.")
    ] = None,
    lowerings: LoweringNames = "auto",
    device: DeviceName = None,
    dtype: TypeName = None,
    threads: Annotated[
        int | None, typer.Option("--threads", min=1, help="Threads that torch may use.")
    ] = None,
    rounds: Annotated[int, typer.Option("--rounds", min=2, help="Measurements of each model.")] = 11,
    as_json: AsJson = False,
) -> None:
    """Measure the masked model beside the small one at several alignments, taking turns.

    Example: speedup bench net.py:make --weights net.pt --masks masks.pth --input 32x3x32x32 --align 1 --align 8
    """  # noqa: E501
    from speedup.measuring.latency import latency_table

    with Steps(3).shown() as step:
        with step("reading the model"):
            subject = read_plan_arguments(
                *(model, inputs, calls, weights, masks, keep, None, lowerings, device, dtype),
                asks_for_weights=True,
            )
        with step("planning"):
            made = subject.plan()
        with step("measuring"):
            table = latency_table(made, aligns=align or (1, 8), threads=threads, rounds=rounds)
    _tell(summaries.latency_summary(table, subject.warnings), str(table), as_json)


def demo(as_json: AsJson = False) -> None:
    """Compact a LeNet and a ResNet-18 built on the spot, and print the plans and measurements."""
    from speedup import demo as networks

    if as_json:
        typer.echo(json.dumps(summaries.demo_summary(networks.demo_outcomes())))
    else:
        networks.run_demo()


ALL: tuple[Callable[..., None], ...] = (*(prune, plan, compact_command, verify_command, report, bench, demo),)


def _tell(summary: dict[str, Any], said: str, as_json: bool) -> None:
    """Print what came out; warnings are in the summary, or go to stderr."""
    if as_json:
        typer.echo(json.dumps(summary))
        return
    for warning in summary["warnings"]:
        typer.echo(f"warning: {warning}", err=True)
    typer.echo(said)


def _tell_written(
    made: Plan,
    out: Path,
    warnings: Sequence[str],
    as_json: bool,
    choices: Choices | None = None,
    **further: str,
) -> None:
    """Print what a plan comes to, what was measured for it, and the file that was written of it."""
    said = "; ".join(["written", *further.values()])
    summary = summaries.file_summary(made, out, warnings, **further)
    lines = [verdict(made.report)]
    if choices is not None:
        summary |= summaries.choices_summary(choices)
        lines.append(str(choices))
    _tell(summary, "\n".join([*lines, f"{out}: {said}"]), as_json)


def _require_suffix(path: Path, known: Sequence[str], what: str) -> None:
    """Raise unless what is written to `path` is what its name says."""
    if path.suffix.lower() not in known:
        raise FileWriteError(
            f"--out {str(path)!r}: {what} is written as {' or '.join(known)}; name such a file"
        )


def _verification_words(level: str) -> str:
    return {
        "full": "same operations as planned, same outputs as the masked model",
        "structure": "same operations as planned; outputs were not compared",
    }.get(level, "not verified")
