"""`speedup verify`: is a saved small model still equivalent?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from speedup.cli.options import AsJson, DeviceName, Model, TypeName, Weights
from speedup.cli.progress import Steps
from speedup.errors import InputError


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
    from speedup.building.verifying import verify
    from speedup.cli.placing import device_of, dtype_of, placed_model
    from speedup.cli.printing import tell
    from speedup.cli.references import factory_of, model_of
    from speedup.cli.summaries import verification_summary
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
            found = verify(planned, loaded)
    sizes = [size for size in found.batch_sizes if size is not None]
    error = "no inputs were run" if found.error is None else f"largest relative error {found.error:.1e}"
    tell(
        verification_summary(found),
        f"equivalent: {error}, batch sizes {', '.join(map(str, sizes)) or 'as planned'}",
        as_json,
    )
