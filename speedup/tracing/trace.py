"""Trace a model and freeze the result into a `Graph`.

One forward on tensors without data shows what most models do; where it does not, `torch.export` is asked. The
caller's model is never touched: a clone that shares its tensors is traced in eval mode.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from types import MappingProxyType

import torch
from attrs import frozen
from torch import Tensor, nn

from speedup.errors import ExportError
from speedup.ir.graph import Graph
from speedup.ir.inputs import Example
from speedup.modules.attention import MultiheadAttention
from speedup.modules.copying import copy_module, named_tensors, share_module
from speedup.modules.isolation import isolated, lean, quiet, uncompiled, unfused
from speedup.modules.surroundings import surroundings_kept
from speedup.torch_api import is_fake
from speedup.tracing.captured import capture_program
from speedup.tracing.exported import export_program
from speedup.tracing.flat import Flat
from speedup.tracing.freeze import freeze
from speedup.tracing.module_stack import is_confused
from speedup.tracing.program import Program
from speedup.tracing.provenance import insists_on_ints, is_tracked
from speedup.tracing.reading import Values, as_it_is
from speedup.tracing.record import Record
from speedup.tracing.tracking import Tracking, track_attributes

_ABOUT_TYPES = re.compile(r"\bdtypes?\b|\bscalar types?\b|type .* should be the same|the same type")


@frozen(eq=False)
class Trace:
    """A frozen graph and, apart from it, the live tensors of its state values by name."""

    graph: Graph
    tensors: Mapping[str, Tensor]


def trace_call(
    model: nn.Module, example: Example, *, doubts_errors: bool = True, values: Values = as_it_is
) -> Trace:
    """The graph of `model`'s forward in eval mode on `example`.

    `doubts_errors` says whether `torch.export` is asked too where a plain forward raises an error. That is in
    vain for a model which has been traced before, in a call that it may not take.

    Where Python code reads numbers from the model's own tensors, it gets those that `values` makes of them.

    Raises:
        ExportError: neither a plain forward nor `torch.export` shows all of it.
    """
    try:
        captured = capture(model, example)
    except ExportError:
        if not doubts_errors:
            raise
        captured = None
    return export(model, example, values) if captured is None else captured


def capture(model: nn.Module, example: Example) -> Trace | None:
    """What `trace_call` gives, by one plain forward; None where only `torch.export` follows that.

    Raises:
        ExportError: the forward raised an error.
    """
    try:
        return _trace(model, example, capture_program)
    except ExportError as error:
        if not insists_on_ints(error.__cause__):
            raise
    return _trace(model, example, capture_program, tracking=Tracking(Record(hands_out_ints=True)))


def export(model: nn.Module, example: Example, values: Values = as_it_is) -> Trace:
    """What `trace_call` gives, by `torch.export`.

    Raises:
        ExportError: it cannot trace the model as a whole.
    """
    catches = gives = insists = False
    while True:
        tracking = Tracking(Record(hands_out_ints=insists), gives)
        try:
            found = _trace(model, example, export_program, catches, tracking, values)
        except ExportError as error:
            before = catches, gives, insists
            catches = catches or is_confused(error.__cause__)
            gives = gives or tracking.record.reads_state
            insists = insists or insists_on_ints(error.__cause__)
            if (catches, gives, insists) == before:
                raise
        else:
            assert found is not None
            return found


def _trace(
    model: nn.Module,
    example: Example,
    program_of: Callable[[Flat, Sequence[Tensor]], Program | None],
    catches: bool = False,
    tracking: Tracking | None = None,
    values: Values = as_it_is,
) -> Trace | None:
    """`catches` says that the forward goes on after that of a module has raised."""
    example = example.with_fresh_objects()
    clone = _clone(model).eval()
    _adopt_attention(clone)
    tracking = Tracking(Record()) if tracking is None else tracking
    record = tracking.record
    record.watch(clone)
    read = {name: partial(values, tensor) for name, tensor in named_tensors(model) if not tensor.is_meta}
    track_attributes(clone, record)
    with _tracing(clone):
        # A tensor that shares storage with another input would be traced with unknown sizes.
        inputs = [t.detach().clone().requires_grad_(t.requires_grad) for t in example.tensors]
        program = program_of(Flat(clone, example, tracking, catches, read), inputs)
    if program is None:
        return None
    graph = freeze(program, clone, record)
    require_steady(graph)
    _require_informative(graph)
    return Trace(graph, _tensors(graph, program, model))


def require_steady(graph: Graph) -> None:
    """Refuse a forward in which Python reads numbers that the next call may find changed."""
    changing = next((value for value in graph.consulted if value in graph.written), None)
    if changing is not None:
        raise ExportError(f"the forward reads {changing.name!r} in Python and writes it, too")


def _require_informative(graph: Graph) -> None:
    """Refuse a call that shows nothing of what is needed: what is returned, if anything, is empty."""
    if not graph.outputs:
        raise ExportError(
            "the forward returns no tensor, so there is nothing that a smaller model could keep"
        )
    empty = [v.shape for v in (*graph.inputs, *graph.outputs) if 0 in v.shape]
    if any(0 in v.shape for v in graph.inputs) and any(0 in v.shape for v in graph.outputs):
        raise ExportError(
            f"the example calls it with an empty tensor of shape {empty[0]} and gets one of shape "
            f"{empty[-1]}, which shows nothing of what it computes. Use an example with some content."
        )


def _adopt_attention(clone: nn.Module) -> None:
    """Trace attention modules by the code that also runs with fewer heads."""
    for module in clone.modules():
        if MultiheadAttention.can_adopt(module):
            MultiheadAttention.adopt(module)


def canonical_names(model: nn.Module) -> Mapping[str, str]:
    """Every name of a parameter or buffer -> the first name of the same tensor."""
    first: dict[int, str] = {}
    return {name: first.setdefault(id(tensor), name) for name, tensor in named_tensors(model)}


def _clone(model: nn.Module) -> nn.Module:
    """A copy whose flags and caches may change. It shares its tensors with `model` where autograd
    allows that; tensors made in inference mode are copied.
    """
    tensors = (*model.parameters(), *model.buffers())
    return copy_module(model, {}) if any(t.is_inference() for t in tensors) else share_module(model)


def _is_traced(value: object) -> bool:
    """Whether it is of a trace: a tensor without data, or a number that is followed."""
    return is_fake(value) if isinstance(value, Tensor) else is_tracked(value)


@contextmanager
def _tracing(clone: nn.Module) -> Iterator[None]:
    """Let `clone` be traced without leaving traces around; what that raises becomes an `ExportError`."""
    try:
        kept = surroundings_kept(clone, _is_traced)
        with isolated(), quiet(), lean(), unfused(), uncompiled(), kept, torch.no_grad():
            yield
    except Exception as error:
        raise export_error(error, clone, "torch.export cannot trace the model") from error


def export_error(error: Exception, clone: nn.Module, headline: str) -> ExportError:
    """`headline`, and which module of `clone` the error comes from, with its line and first words."""
    # torch.export runs others in their place, which hold the same.
    names = {id(vars(m)): name for name, m in clone.named_modules()}
    culprit = ""
    line = ""
    path = None
    for frame, number in traceback.walk_tb(error.__traceback__):
        owner = frame.f_locals.get("self")
        if not isinstance(owner, nn.Module) or id(vars(owner)) not in names:
            continue
        path = names[id(vars(owner))]
        if frame.f_code.co_name == "forward":
            culprit = f"{path or 'the model itself'} ({type(owner).__name__})"
            line = f" at line {number} of {frame.f_code.co_filename.rsplit('/', 1)[-1]}"
    reason = str(error).strip().splitlines()
    first = reason[0] if reason else "no message"
    return ExportError(
        f"{headline}: {culprit or 'its inputs'}{line} raised {type(error).__name__}: {first}. "
        + _advice(first, clone),
        path,
    )


def _advice(reason: str, model: nn.Module) -> str:
    """What to do about an error of a forward."""
    if _ABOUT_TYPES.search(reason):
        types = sorted(
            {str(p.dtype).removeprefix("torch.") for p in model.parameters() if p.is_floating_point()}
        )
        return (
            f"Check that model(*inputs) runs on the example input: its types have to go with those of the "
            f"model's parameters ({', '.join(types) or 'none'}), as after x.to(dtype)."
        )
    return (
        "Check that model(*inputs) runs in eval mode on the example input; data-dependent control flow "
        "(if/while on tensor values) has to stay out of the modules that hold the layers."
    )


def _tensors(graph: Graph, program: Program, model: nn.Module) -> Mapping[str, Tensor]:
    held = dict(named_tensors(model))
    found = {}
    for value in graph.state:
        tensor = held.get(value.name, program.constants.get(value.name))
        if not isinstance(tensor, Tensor):
            raise ExportError(f"the trace reads {value.name!r}, which is no tensor of the model")
        found[value.name] = tensor.detach()
    return MappingProxyType(found)
