"""Which layers of a small model gain by a sparse kernel: measured beside the dense ones, never believed.

Each layer with enough zeros is called on its own input, which is recorded in a forward, dense and with each
kernel that takes it, taking turns. Then the model as chosen is measured beside the dense one, and where
it does not gain as a whole nothing is chosen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from math import inf
from typing import Any

import torch
from attrs import evolve, frozen
from torch import Tensor, nn

from speedup.building.binding import current_plan
from speedup.errors import InputError
from speedup.ir.inputs import Example, example_from, leaves_of
from speedup.measuring.conditions import moved_call, require_device
from speedup.measuring.forwards import forward_of, small_on
from speedup.measuring.timing import take_turns
from speedup.modules.copying import copy_module, share_module
from speedup.modules.isolation import isolated
from speedup.plan import Plan
from speedup.sparse.applying import (
    matrix_of,
    pattern_of,
    put_kernels,
    sparse_capable,
    sparse_layer_of,
    unpacked_model,
    weight_of,
)
from speedup.sparse.choices import Choices
from speedup.sparse.compressed import block_fill
from speedup.sparse.kernels import KERNELS
from speedup.sparse.machine import this_machine
from speedup.sparse.measured import Candidate, Errors, LayerChoice, Measured
from speedup.sparse.ordering import block_order

# Where less is zero no kernel has been seen to gain, and measuring all layers of all models takes its time.
_LEAST_ZEROS = 0.5
# Blocks that store more zeros than that are slower than single elements.
_LEAST_FILL = 0.5
# Blocks that store fewer need no better order.
_GOOD_FILL = 0.9
# How many times as many rounds decide where few do not.
_MORE = 3
# By which share of its time a model has to be faster: what another measurement may differ by.
_WHOLE_MARGIN = 0.02
_NO_TIME = Measured(0.0, 0.0, 0.0)


@frozen
class Tuning:
    """How far a measurement of layers is: `done` of `total`, the next is `path`."""

    done: int
    total: int
    path: str


@frozen(eq=False)
class _Call:
    """The first call of a layer in a forward, and how many there were."""

    input: Tensor
    count: int


def tune(
    plan: Plan,
    x: Any = None,
    *,
    model: nn.Module | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    threads: int | None = None,
    rounds: int = 9,
    seconds: float = 0.01,
    margin: float = 0.05,
    progress: Callable[[Tuning], None] | None = None,
) -> Choices:
    """Measure for each layer of the small model whether a sparse kernel is faster than the dense product.

    Masks of single weights free nothing that can be cut off, but a product with few weights may be computed
    faster: that depends on the layer, the share of zeros, the batch, the device and its libraries. So each
    layer whose weight is at least half zeros is measured with each kernel that takes it: its elements one by
    one (CSR), blocks of 8, 16 or 32 (BSR), also after its rows and columns are put in an order that makes
    such, and two of four on GPUs. `plan` and its model are not changed.

    Args:
        plan: a plan of the model.
        x: the input to measure with, as in `plan_speedup`, of the batch size that the small model will run
            on; None: the example that was planned with.
        model: the model, where the plan was read back.
        device, dtype: what the small model and the floating-point inputs are moved to; None: as they are.
        threads: threads that torch may use on the CPU; None: as many as now.
        rounds: measurements of each candidate; three times as many where these do not decide.
        seconds: how long a measurement takes at least; one layer takes about `candidates * rounds * seconds`.
        margin: by which share of its time a candidate has to be faster, in the median and in the lower
            quartile.
        progress: is called before each layer.

    Returns:
        What was measured and chosen, for `materialize(plan, choices=...)`.

    Raises:
        InputError: `x` is no input, the model does not run on it, there is no such device here, or an
            argument is out of its range.
        UnboundPlanError, StaleModelError: as of `materialize`.
    """
    if rounds < 2 or not (margin >= 0 and 0 <= seconds < inf) or (threads is not None and threads < 1):
        raise InputError(
            f"rounds={rounds}, threads={threads}, seconds={seconds}, margin={margin}: at least two rounds, "
            "one thread, and a time and a margin that are not negative are needed"
        )
    require_device(device)
    with torch.inference_mode(mode=False):
        plan = current_plan(plan, model)
        small = small_on(plan, device, dtype)
    given = plan.subject.example if x is None else example_from(x)
    example = moved_call(given, _device(small, given), dtype)
    measure = _Measure(rounds, threads, seconds)
    with isolated(), torch.inference_mode():
        unpacked = unpacked_model(small)
        calls = _calls(unpacked, example)
        layers = list(sparse_capable(unpacked))
        found: list[LayerChoice] = []
        for number, (path, layer) in enumerate(layers):
            if progress is not None:
                progress(Tuning(number, len(layers), path))
            found.append(_measured(path, layer, calls.get(path), measure, margin))
        choices = Choices(
            model=plan.model_name,
            machine=this_machine(_device(small, example)),
            threads=threads or torch.get_num_threads(),
            dtype=_type_name(small, example),
            inputs=tuple(tuple(t.shape) for t in example.tensors),
            rounds=rounds,
            layers=tuple(choice for choice in found if choice.zeros > 0),
        )
        return _as_a_whole(choices, small, example, measure) if choices.chosen else choices


def _measured(
    path: str,
    layer: nn.Module,
    call: _Call | None,
    measure: _Measure,
    margin: float,
) -> LayerChoice:
    weight = weight_of(layer)
    zeros = 1.0 - int((weight != 0).sum()) / max(1, weight.numel())
    choice = LayerChoice(
        path,
        _described(layer),
        tuple(weight.shape),
        zeros,
        pattern_of(weight),
        0 if call is None else call.count,
    )
    if call is None:
        return evolve(choice, why="the forward does not call it")
    if zeros < _LEAST_ZEROS:
        return evolve(choice, why=f"less than {_LEAST_ZEROS:.0%} are zero")
    proposed = list(candidates_for(matrix_of(layer)))
    if not proposed:
        return evolve(choice, why=f"no kernel takes {weight.dtype} on {weight.device.type}")
    runs = [
        partial(layer, call.input),
        *(partial(sparse_layer_of(layer, one), call.input) for one in proposed),
    ]
    dense, *times = measure(runs)
    best = min(range(len(times)), key=lambda n: times[n].median)
    if is_close(times[best], dense, margin):
        dense, times[best] = measure([runs[0], runs[1 + best]], more=_MORE)
    candidates = tuple(evolve(one, seconds=time) for one, time in zip(proposed, times, strict=True))
    choice = evolve(choice, dense=dense, candidates=candidates)
    if not is_faster(times[best], dense, margin):
        return evolve(choice, why="no kernel is faster by the margin")
    return evolve(choice, taken=best)


def candidates_for(matrix: Tensor) -> Iterator[Candidate]:
    """What is worth measuring for a weight: kernels that run where it is and take its form; without times."""
    for kernel in KERNELS.values():
        if not kernel.takes(matrix.device.type, matrix.dtype) or not kernel.fits(matrix):
            continue
        for side in kernel.sides:
            plain = block_fill(matrix, side)
            order = None if plain >= _GOOD_FILL else block_order(matrix, side)
            ordered = 0.0 if order is None else block_fill(matrix, side, order)
            if side == 1 or max(plain, ordered) >= _LEAST_FILL:
                yield Candidate(kernel.name, side, ordered > plain, _NO_TIME)


def is_faster(candidate: Measured, dense: Measured, margin: float) -> bool:
    """Whether a candidate is faster by the margin, in the median and where least else ran on the machine."""
    pairs = ((candidate.median, dense.median), (candidate.low, dense.low))
    return all(sparse * (1.0 + margin) <= other for sparse, other in pairs)


def is_close(candidate: Measured, dense: Measured, margin: float) -> bool:
    """Whether another measurement might decide otherwise: gain and margin are near, or rounds contradict."""
    ratios = [dense.median / candidate.median, dense.low / candidate.low]
    return any(ratio >= 1.0 + margin for ratio in ratios) != all(
        ratio >= 1.0 + margin for ratio in ratios
    ) or any(abs(ratio - 1.0 - margin) <= 2.0 * margin for ratio in ratios)


def _as_a_whole(
    choices: Choices,
    small: nn.Module,
    example: Example,
    measure: _Measure,
) -> Choices:
    """The choices with times of the model, or without any kernel where the model does not gain."""
    chosen = put_kernels(share_module(small), choices)
    forwards = [forward_of(small, example), forward_of(chosen, example)]
    dense, sparse = measure(forwards)
    if is_close(sparse, dense, _WHOLE_MARGIN):
        dense, sparse = measure(forwards, more=_MORE)
    errors = _errors(small, example, *(forward() for forward in forwards))
    if is_faster(sparse, dense, _WHOLE_MARGIN):
        return evolve(choices, whole=(dense, sparse), errors=errors)
    layers = tuple(
        layer if layer.chosen is None else evolve(layer, taken=None, why="the model as a whole does not gain")
        for layer in choices.layers
    )
    return evolve(choices, layers=layers, whole=(dense, dense))


def _errors(small: nn.Module, example: Example, dense: object, chosen: object) -> Errors | None:
    """Of both against the small model in float64; None where that one does not run."""
    try:
        wide = copy_module(small, {}).double()
        tensors = [t.double() if t.is_floating_point() else t for t in example.tensors]
        wanted = forward_of(wide, example.with_tensors(tensors))()
    except Exception:  # a forward may name its type
        return None
    return Errors(_error(chosen, wanted), _error(dense, wanted))


def _error(found: object, wanted: object) -> float:
    worst = 0.0
    wide = dict(leaves_of(wanted))
    for place, one in leaves_of(found):
        other = wide.get(place)
        if not (isinstance(one, Tensor) and isinstance(other, Tensor) and one.shape == other.shape):
            continue
        if one.is_floating_point() and one.numel():
            size = float(other.abs().max()) or 1.0
            worst = max(worst, float((one.double() - other).abs().max()) / size)
    return worst


def _calls(small: nn.Module, example: Example) -> dict[str, _Call]:
    """The first call of each layer in one forward, by path, where its input is a single tensor."""
    calls: dict[str, _Call] = {}

    def record(path: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = (*args, *kwargs.values())
        if len(given) == 1 and isinstance(given[0], Tensor):
            known = calls.get(path)
            calls[path] = (
                _Call(given[0].clone(), 1) if known is None else evolve(known, count=known.count + 1)
            )

    handles = [
        layer.register_forward_pre_hook(
            lambda module, args, kwargs, path=path: record(path, args, kwargs), with_kwargs=True
        )
        for path, layer in sparse_capable(small)
    ]
    try:
        forward_of(small, example)()
    except Exception as error:
        raise InputError(
            f"the small model does not run on this input: {type(error).__name__}: {error}. Pass an x that "
            "it takes in eval mode."
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    return calls


@frozen
class _Measure:
    """How runs are measured beside one another."""

    rounds: int
    threads: int | None
    seconds: float

    def __call__(self, runs: Sequence[Callable[[], object]], more: int = 1) -> list[Measured]:
        """Times of each; `more` is how many times as many rounds there are."""
        found = take_turns(runs, rounds=self.rounds * more, threads=self.threads, seconds=self.seconds)
        return [Measured(one.median, one.low, one.high) for one in found]


def _device(small: nn.Module, example: Example) -> torch.device:
    held = (t.device for t in (*small.parameters(), *small.buffers()))
    return next(held, example.tensors[0].device)


def _type_name(small: nn.Module, example: Example) -> str:
    layers = (weight_of(layer) for _, layer in sparse_capable(small))
    first = next((t for t in (*layers, *small.parameters()) if t.is_floating_point()), example.tensors[0])
    return str(first.dtype).removeprefix("torch.")


def _described(layer: nn.Module) -> str:
    if isinstance(layer, nn.Linear):
        return f"Linear({layer.in_features}, {layer.out_features})"
    if not isinstance(layer, nn.Conv2d):
        return repr(layer)
    return f"Conv2d({layer.in_channels}, {layer.out_channels}, 1)"
