"""Trace a model with `torch.export` and freeze the result into a `Graph`.

The caller's model is never touched: a clone that shares its tensors is traced in eval mode.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from types import MappingProxyType

import torch
from attrs import frozen
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind

from speedup.errors import ExportError
from speedup.ir.graph import Graph, Origin
from speedup.ir.inputs import Example, leaves_of, tensors_of
from speedup.modules.attention import MultiheadAttention
from speedup.modules.copying import copy_module, share_module
from speedup.modules.isolation import isolated, lean, quiet, unfused
from speedup.modules.surroundings import surroundings_kept
from speedup.torch_api import is_fake
from speedup.tracing.aliasing import written_back
from speedup.tracing.freeze import freeze, has_calls_to_lower
from speedup.tracing.module_stack import follow_modules, is_confused
from speedup.tracing.numbers import number_type
from speedup.tracing.provenance import follow_numbers, is_tracked, mark_opaque, node_of
from speedup.tracing.reading import State, Values, as_it_is
from speedup.tracing.record import Record
from speedup.tracing.tracking import Tracking, track_attributes

_ABOUT_TYPES = re.compile(r"\bdtypes?\b|\bscalar types?\b|type .* should be the same|the same type")


@frozen(eq=False)
class Trace:
    """A frozen graph and, apart from it, the live tensors of its state values by name."""

    graph: Graph
    tensors: Mapping[str, Tensor]


class _Flat(nn.Module):
    """Takes and returns flat tensors, so that any structure of inputs and outputs can be exported."""

    def __init__(
        self,
        model: nn.Module,
        example: Example,
        tracking: Tracking,
        catches: bool,
        read: Mapping[str, Callable[[], Tensor]],
    ) -> None:
        super().__init__()
        self.model = model
        self.example = example
        self.tracking = tracking
        self._catches = catches
        self._read = read

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        if self._catches:
            follow_modules()
        args, kwargs = self.example.call(tensors)
        before = _buffers(self.model)
        nodes = {node_of(tensor): name for name, tensor in _state(self.model) if name in self._read}
        self.tracking.state = State(nodes, self._read)
        with self.tracking, follow_numbers(self.tracking.record):
            output = self.model(*args, **kwargs)
        assigned = {n: t for n, t in _buffers(self.model).items() if n in before and t is not before[n]}
        self.tracking.record.assigned.update(dict.fromkeys(assigned))
        leaves = [leaf for _, leaf in leaves_of(output)]
        for leaf in leaves:
            mark_opaque(leaf)
        # Numbers that were read from tensors have to come out right as well.
        numbers = (torch.scalar_tensor(leaf) for leaf in leaves if number_type(leaf) is not None)
        checked = self.tracking.record.checked
        return (*tensors_of(output), *numbers, *assigned.values(), *checked)


def _buffers(model: nn.Module) -> Mapping[str, Tensor]:
    return dict(model.named_buffers(remove_duplicate=False))


def _state(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers by all their names."""
    yield from model.named_parameters(remove_duplicate=False)
    yield from model.named_buffers(remove_duplicate=False)


def trace(model: nn.Module, example: Example, values: Values = as_it_is) -> Trace:
    """The graph of `model`'s forward in eval mode on `example`.

    Where Python code reads numbers from the model's own tensors, it gets those that `values` makes of them.

    Raises:
        ExportError: `torch.export` cannot trace the model as a whole.
    """
    catches = gives = False
    read = {name: partial(values, tensor) for name, tensor in _state(model) if not tensor.is_meta}
    while True:
        clone = _clone(model).eval()
        record = Record(clone)
        flat = _Flat(clone, example.with_fresh_objects(), Tracking(record, gives), catches, read)
        try:
            return _trace(model, flat)
        except ExportError as error:
            before = catches, gives
            catches, gives = catches or is_confused(error.__cause__), gives or record.reads_state
            if (catches, gives) == before:
                raise


def _trace(model: nn.Module, flat: _Flat) -> Trace:
    """The same, of a copy within `flat`."""
    clone, record, example = flat.model, flat.tracking.record, flat.example
    _adopt_attention(clone)
    track_attributes(clone, record)
    program = _export(flat, example, clone)
    writes = None if has_calls_to_lower(program.graph) else written_back(program.graph)
    if writes is None:
        with _exporting(clone):
            program = program.run_decompositions({})
        writes = written_back(program.graph) or {}
    graph = freeze(program, clone, record, _state_names(program), writes)
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
    return {name: first.setdefault(id(tensor), name) for name, tensor in _state(model)}


def _clone(model: nn.Module) -> nn.Module:
    """A copy whose flags and caches may change. It shares its tensors with `model` where autograd
    allows that; tensors made in inference mode are copied.
    """
    tensors = (*model.parameters(), *model.buffers())
    return copy_module(model, {}) if any(t.is_inference() for t in tensors) else share_module(model)


def _export(flat: _Flat, example: Example, clone: nn.Module) -> ExportedProgram:
    with _exporting(clone):
        # A tensor that shares storage with another input would be traced with unknown sizes.
        inputs = tuple(t.detach().clone().requires_grad_(t.requires_grad) for t in example.tensors)
        return torch.export.export(flat, inputs, strict=False)


def _is_traced(value: object) -> bool:
    """Whether it is of a trace: a tensor without data, or a number that is followed."""
    return is_fake(value) if isinstance(value, Tensor) else is_tracked(value)


@contextmanager
def _exporting(clone: nn.Module) -> Iterator[None]:
    """Let torch.export work on `clone` without leaving traces; what it raises becomes an `ExportError`."""
    try:
        kept = surroundings_kept(clone, _is_traced)
        with isolated(), quiet(), lean(), unfused(), kept, torch.no_grad():
            yield
    except Exception as error:
        raise export_error(error, clone, "torch.export cannot trace the model") from error


def export_error(error: Exception, clone: nn.Module, headline: str) -> ExportError:
    """`headline`, and which module of `clone` the error comes from, with its line and first words."""
    names = {id(m): name for name, m in clone.named_modules()}
    culprit = ""
    line = ""
    for frame, number in traceback.walk_tb(error.__traceback__):
        owner = frame.f_locals.get("self")
        if isinstance(owner, nn.Module) and id(owner) in names and frame.f_code.co_name == "forward":
            culprit = f"{names[id(owner)] or 'the model itself'} ({type(owner).__name__})"
            line = f" at line {number} of {frame.f_code.co_filename.rsplit('/', 1)[-1]}"
    reason = str(error).strip().splitlines()
    first = reason[0] if reason else "no message"
    return ExportError(
        f"{headline}: {culprit or 'its inputs'}{line} raised {type(error).__name__}: {first}. "
        + _advice(first, clone)
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


def _state_names(program: ExportedProgram) -> Mapping[str, tuple[Origin, str]]:
    """Placeholder name -> origin and name in the model, for all that is not a user input."""
    kinds = {
        InputKind.PARAMETER: Origin.PARAMETER,
        InputKind.BUFFER: Origin.BUFFER,
        InputKind.CONSTANT_TENSOR: Origin.CONSTANT,
    }
    return {
        spec.arg.name: (kinds[spec.kind], re.sub(r"^model\.", "", spec.target or ""))
        for spec in program.graph_signature.input_specs
        if spec.kind in kinds and hasattr(spec.arg, "name")
    }


def _tensors(graph: Graph, program: ExportedProgram, model: nn.Module) -> Mapping[str, Tensor]:
    held: dict[str, Tensor] = dict(_state(model))
    constants = {re.sub(r"^model\.", "", k): v for k, v in program.constants.items()}
    found = {}
    for value in graph.state:
        tensor = held.get(value.name, constants.get(value.name))
        if not isinstance(tensor, Tensor):
            raise ExportError(f"the trace reads {value.name!r}, which is no tensor of the model")
        found[value.name] = tensor.detach()
    return MappingProxyType(found)
