"""Is a small model the masked one? Measured against how the masked model's output varies with its input."""

from __future__ import annotations

import math
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from attrs import evolve, frozen
from torch import Tensor, nn

from tests.support.lively import Inputs
from tests.support.untouched import differences, snapshot
from tests.support.work import Work, layers_work

if TYPE_CHECKING:
    from speedup import Plan

MakeInputs: TypeAlias = Callable[[int, int], Inputs]
"""(batch size, seed) -> the arguments of one call."""

BATCH_SIZES = (1, 3)
_CALLS = 3
# An element that varies a million times less than the liveliest one is a constant with rounding noise on it.
_CONSTANT_BELOW = 1e-6


@frozen
class AtSize:
    """How the small model did on inputs of one size, or of one batch size.

    `error` is None where the masked model refuses it.
    """

    size: int
    error: float | None


@frozen
class Exactness:
    """What came of planning and materializing one model.

    `error` is the largest `relative_error` met, `nan` if it never came to a comparison; `touched` names
    what planning or materializing changed in the model; `failure` is the traceback or the broken promise,
    if any. Zeros stand for what was not reached. Times are in seconds. `sizes` holds what each of the sizes
    that were asked for on their own added to it; their errors count for `error`. `batches` holds the errors
    by batch size at the inputs' own size, `work` what layers need and what they do, if that was asked for.
    """

    name: str
    error: float = math.nan
    touched: tuple[str, ...] = ()
    failure: str | None = None
    parameters_before: int = 0
    parameters_after: int = 0
    macs_before: int = 0
    macs_after: int = 0
    plan_seconds: float = 0.0
    materialize_seconds: float = 0.0
    sizes: tuple[AtSize, ...] = ()
    batches: tuple[AtSize, ...] = ()
    work: Work | None = None

    @property
    def parameters_kept(self) -> float:
        """Parameters after over before."""
        return self.parameters_after / max(self.parameters_before, 1)

    @property
    def macs_kept(self) -> float:
        """Multiply-accumulates after over before."""
        return self.macs_after / max(self.macs_before, 1)

    def is_exact(self, tolerance: float = 1e-9) -> bool:
        """Whether nothing failed, nothing was touched, and the error is below `tolerance`."""
        return self.failure is None and not self.touched and self.error < tolerance

    def require_exact(self, tolerance: float = 1e-9) -> None:
        """Raise an AssertionError that says what is wrong unless `is_exact(tolerance)`."""
        assert self.failure is None, f"{self.name}: {self.failure}"
        assert not self.touched, f"{self.name}: the model was touched: {', '.join(self.touched[:8])}"
        assert self.error < tolerance, (
            f"{self.name}: relative error {self.error:.3g}, not below {tolerance:.0e}"
        )


def check_exact(
    model: nn.Module,
    masks: Mapping[str, object] | None,
    make_inputs: MakeInputs,
    *,
    name: str = "",
    other_inputs: Sequence[MakeInputs] = (),
    sizes: Mapping[int, MakeInputs] = MappingProxyType({}),
    batch_sizes: Sequence[int] = BATCH_SIZES,
    also_verified: bool = False,
    counts_work: bool = False,
    **planning: Any,
) -> Exactness:
    """Plan and materialize `model`; compare with `apply_masks` at several batch and input sizes.

    The plan is made from `make_inputs(2, ...)`, so the batch sizes compared are not the traced one.
    `other_inputs` make inputs of other sizes, such as resolutions, that the model takes too; they are
    compared at the first of `batch_sizes` only. So are `sizes`, which the model may refuse, and which are
    told one by one. Both models are compared in eval mode.

    The library's own verification is off, so that it cannot be what passes; with `also_verified` the plan
    is materialized a second time with it. With `counts_work` the work of the layers is counted.
    `planning` are options of `plan_speedup`. Nothing is raised: whatever goes wrong is in the result, see
    `Exactness.require_exact`.
    """
    from speedup import apply_masks

    before = snapshot(model)
    result = Exactness(name or type(model).__name__)
    try:
        result, small = _compacted(result, model, masks, make_inputs, also_verified, planning)
        masked = apply_masks(model, masks).eval()
        small.eval()
        batches = tuple(AtSize(batch, _error_at(masked, small, make_inputs, batch)) for batch in batch_sizes)
        others = [_error_at(masked, small, make, batch_sizes[0]) for make in other_inputs]
        at_sizes = tuple(_at_size(size, masked, small, make, batch_sizes[0]) for size, make in sizes.items())
        errors = [one.error for one in (*batches, *at_sizes) if one.error is not None]
        result = evolve(result, error=max(*errors, *others), sizes=at_sizes, batches=batches)
        if counts_work:
            one, other, *_ = inputs_of(make_inputs, batch_sizes[-1])
            result = evolve(result, work=layers_work(masked, small, one, other))
    except Exception:
        result = evolve(result, failure=traceback.format_exc())
    return evolve(result, touched=differences(before, snapshot(model)))


def relative_error(masked: nn.Module, small: nn.Module, inputs: Sequence[Inputs]) -> float:
    """How far `small` is from `masked`, in units of how much the output of `masked` varies between inputs.

    The models run in the mode they are in. `inputs` are two or more calls of equal shapes and different
    values. Per output tensor, the spread of an element is its standard deviation over the calls; the unit
    is the median spread of the elements that vary at all, which neither a few wild elements nor constant
    ones move (where none varies, the largest magnitude, or 1). The result is the largest absolute
    difference over all elements and calls, in this unit, largest over the output tensors: `inf` for NaN or
    infinity in either output and for differing integers or booleans.

    Outputs may be tensors, or tuples, lists, mappings, dataclasses and plain objects of them.

    Raises:
        AssertionError: the outputs differ in structure, shape or dtype, or in a leaf that is not a tensor.
        ValueError: fewer than two inputs, by which nothing can vary.
    """
    if len(inputs) < 2:
        raise ValueError(f"relative_error needs two inputs or more to see what varies, not {len(inputs)}")
    expected = [_outputs(masked, call) for call in inputs]
    actual = [_outputs(small, call) for call in inputs]
    for one, other in zip(expected, actual, strict=True):
        _require_same_form(one, other)
    tensors = [place for place, leaf in expected[0].items() if isinstance(leaf, Tensor)]
    return max((_leaf_error(_stack(expected, at), _stack(actual, at)) for at in tensors), default=0.0)


def _compacted(
    result: Exactness,
    model: nn.Module,
    masks: Mapping[str, object] | None,
    make_inputs: MakeInputs,
    also_verified: bool,
    planning: Mapping[str, Any],
) -> tuple[Exactness, nn.Module]:
    from speedup import materialize, plan_speedup

    example = make_inputs(2, 0)
    start = time.perf_counter()
    plan = plan_speedup(model, example, masks, **planning)
    planned = time.perf_counter()
    small = materialize(plan, verify="none")
    made = time.perf_counter()
    _require_counts(plan, small)
    _require_own_storage(model, small)
    if also_verified:
        materialize(plan)
    measured = evolve(
        result,
        parameters_before=plan.parameters_before,
        parameters_after=plan.parameters_after,
        macs_before=plan.macs_before,
        macs_after=plan.macs_after,
        plan_seconds=planned - start,
        materialize_seconds=made - planned,
    )
    return measured, small


def _error_at(masked: nn.Module, small: nn.Module, make: MakeInputs, batch: int) -> float:
    return relative_error(masked, small, inputs_of(make, batch))


def _at_size(size: int, masked: nn.Module, small: nn.Module, make: MakeInputs, batch: int) -> AtSize:
    """The error at a size, infinite where only the small model fails."""
    inputs = inputs_of(make, batch)
    try:
        _outputs(masked, inputs[0])
    except Exception:
        return AtSize(size, None)
    try:
        return AtSize(size, relative_error(masked, small, inputs))
    except Exception:
        return AtSize(size, math.inf)


def inputs_of(make: MakeInputs, batch: int) -> list[Inputs]:
    """The calls that models are compared on at a batch size."""
    return [make(batch, 100 * batch + call) for call in range(_CALLS)]


def _require_counts(plan: Plan, small: nn.Module) -> None:
    from speedup.building.binding import plain_model

    for when, counted, planned in (
        ("before", numel(plain_model(plan).model), plan.parameters_before),
        ("after", numel(small), plan.parameters_after),
    ):
        assert counted == planned, f"the plan counts {planned} parameters {when}, the model has {counted}"


def _require_own_storage(model: nn.Module, small: nn.Module) -> None:
    shared = _storages(model) & _storages(small)
    assert not shared, f"{len(shared)} storages are shared between the model and the small one"


def _storages(model: nn.Module) -> set[int]:
    tensors = (*model.parameters(), *model.buffers())
    return {tensor.untyped_storage().data_ptr() for tensor in tensors if tensor.numel()}


def numel(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _outputs(model: nn.Module, call: Inputs) -> dict[str, Any]:
    with torch.no_grad():
        if isinstance(call, Tensor):
            output = model(call)
        elif isinstance(call, Mapping):
            output = model(**call)
        else:
            output = model(*call)
    return dict(_leaves(output, "output", ()))


def _leaves(item: Any, place: str, inside: tuple[int, ...]) -> Iterator[tuple[str, Any]]:
    """The tensors and plain values in an output, each with its place; `inside` guards against cycles."""
    if isinstance(item, Mapping):
        parts = [(f"{place}[{key!r}]", part) for key, part in item.items()]
    elif isinstance(item, tuple | list):
        parts = [(f"{place}[{at}]", part) for at, part in enumerate(item)]
    elif hasattr(item, "__dict__") and not isinstance(item, Tensor | type):
        parts = [(f"{place}.{key}", part) for key, part in vars(item).items()]
    else:
        yield place, item
        return
    if id(item) not in inside:
        for part_place, part in parts:
            yield from _leaves(part, part_place, (*inside, id(item)))


def _require_same_form(expected: Mapping[str, Any], actual: Mapping[str, Any]) -> None:
    assert expected.keys() == actual.keys(), (
        f"the outputs differ in structure: masked {sorted(expected)}, small {sorted(actual)}"
    )
    for place, one in expected.items():
        other = actual[place]
        if isinstance(one, Tensor) and isinstance(other, Tensor):
            forms = [f"{leaf.dtype} {tuple(leaf.shape)}" for leaf in (one, other)]
            assert forms[0] == forms[1], f"{place}: masked {forms[0]}, small {forms[1]}"
        else:
            assert type(one) is type(other) and one == other, f"{place}: masked {one!r}, small {other!r}"


def _stack(outputs: Sequence[Mapping[str, Any]], place: str) -> Tensor:
    return torch.stack([output[place].detach() for output in outputs])


def _leaf_error(expected: Tensor, actual: Tensor) -> float:
    """Error of one output tensor, the calls stacked in dimension 0."""
    if not expected.dtype.is_floating_point and not expected.dtype.is_complex:
        return 0.0 if torch.equal(expected, actual) else math.inf
    if not expected.numel():
        return 0.0
    if not (expected.isfinite().all() and actual.isfinite().all()):
        return math.inf
    wide = torch.complex128 if expected.dtype.is_complex else torch.float64
    expected, actual = expected.to(wide), actual.to(wide)
    return float((actual - expected).abs().max()) / _unit(expected)


def _unit(expected: Tensor) -> float:
    spread = expected.std(0)
    varying = spread[spread > _CONSTANT_BELOW * spread.max()]
    if len(varying):
        return float(varying.median())
    return float(expected.abs().max()) or 1.0
