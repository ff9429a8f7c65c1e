"""`speedup compact`: the small model of a model in memory, or the small checkpoint of a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from speedup.cli.options import (
    SYNTAX,
    Align,
    AsJson,
    Calls,
    DeviceName,
    Keep,
    LoweringNames,
    MaskFile,
    TypeName,
    Uniform,
    Weights,
)
from speedup.cli.progress import Steps
from speedup.cli.request import PlanRequest
from speedup.errors import InputError

if TYPE_CHECKING:
    from speedup.checkpoints.stock import OwnForm, StockForm
    from speedup.plan import Plan
    from speedup.sparse.choices import Choices


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
    request = None
    if model is not None and inputs:
        request = PlanRequest(
            *(model, inputs, calls, weights, masks, keep, align, uniform, lowerings, device, dtype)
        )
    if checkpoint is None:
        if plan_file is not None:
            raise InputError(
                "--plan is for --checkpoint; name the model, and its masks, to build it in memory"
            )
        if not sparse and (choices_file is not None or threads is not None):
            raise InputError("--choices and --threads are about what --sparse measures; pass that too")
        _compact_model(_required(request), out, verify, sparse, choices_file, threads, as_json)
        return
    for given, name, why in (
        (sparse, "--sparse", "is for a model in memory, which can be measured"),
        (weights, "--weights", "is for a model in memory; a checkpoint has its own"),
        (device, "--device", "is for a model in memory; of a checkpoint none is made"),
    ):
        if given:
            raise InputError(f"{name} {why}. Leave it out.")
    if plan_file is not None and (model is not None or masks is not None):
        raise InputError("--plan stands for a model and its masks; name these, or the plan, and not both")
    _compact_folder(plan_file or _required(request), checkpoint, out, max_shard_size, as_json)


def _required(request: PlanRequest | None) -> PlanRequest:
    if request is None:
        raise InputError("name the model and its --input: speedup compact net.py:make --input 1x3x32x32 ...")
    return request


def _compact_model(
    request: PlanRequest,
    out: Path,
    verify: str,
    sparse: bool,
    choices_file: Path | None,
    threads: int | None,
    as_json: bool,
) -> None:
    from speedup.building.materializing import materialize
    from speedup.cli.printing import require_suffix, tell_written
    from speedup.cli.subject import read_plan_arguments
    from speedup.files.saving import save

    require_suffix(out, (".safetensors",), "a small model")
    if choices_file is not None:
        require_suffix(choices_file, (".json",), "choices")
    choices = None
    with Steps(4 + sparse).shown() as step:
        with step("reading the model"):
            subject = read_plan_arguments(request, asks_for_weights=True)
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
    tell_written(
        made, out, subject.warnings, as_json, choices, verification=_VERIFIED.get(verify, _UNVERIFIED)
    )


_VERIFIED = {
    "full": "same operations as planned, same outputs as the masked model",
    "structure": "same operations as planned; outputs were not compared",
}
_UNVERIFIED = "not verified"


def _measured_choices(made: Plan, threads: int | None, step: Steps) -> Choices:
    from speedup.measuring.tuning import Tuning, tune

    def tell(now: Tuning) -> None:
        step.say(f"measuring layer {now.done + 1} of {now.total}, {now.path}")

    return tune(made, threads=threads, progress=tell)


def _compact_folder(
    planned: Path | PlanRequest, checkpoint: Path, out: Path, max_shard_size: str, as_json: bool
) -> None:
    from speedup.cli.printing import tell_written

    with Steps(2).shown() as step:
        with step("planning"):
            made = _plan_of(planned)
        with step("writing"):
            form = _written_folder(made, checkpoint, out, max_shard_size, step)
    verified = "what the plan makes of the weights, not run"
    tell_written(made, out, (), as_json, verification=verified, loading=form.loading)


def _plan_of(planned: Path | PlanRequest) -> Plan:
    """The plan in a file, or one for the model that is named, without its weights."""
    from speedup.cli.subject import read_plan_arguments
    from speedup.plan import Plan

    if isinstance(planned, PlanRequest):
        return read_plan_arguments(planned, hollow=True).plan()
    try:
        return Plan.from_json(planned.read_bytes())
    except OSError as error:
        raise InputError(f"--plan {str(planned)!r} cannot be read: {error.strerror}") from error


def _written_folder(
    made: Plan, checkpoint: Path, out: Path, max_shard_size: str, step: Steps
) -> StockForm | OwnForm:
    from speedup.checkpoints.compacting import Progress, compact_checkpoint

    def tell(now: Progress) -> None:
        step.say(
            f"writing {now.written / 1e9:.1f} of {now.total / 1e9:.1f} GB, {now.rate / 1e6:.0f} MB/s, "
            f"{now.seconds_left:.0f} s left"
        )

    return compact_checkpoint(made, checkpoint, out, max_shard_size=max_shard_size, progress=tell)
