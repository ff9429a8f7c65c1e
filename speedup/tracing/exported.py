"""Programs from `torch.export`: it also follows numbers that a forward reads from its inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind

from speedup.ir.graph import Origin
from speedup.tracing.aliasing import written_back
from speedup.tracing.program import Program, has_calls_to_lower

_KINDS = {
    InputKind.PARAMETER: Origin.PARAMETER,
    InputKind.BUFFER: Origin.BUFFER,
    InputKind.CONSTANT_TENSOR: Origin.CONSTANT,
}


def export_program(flat: nn.Module, inputs: Sequence[Tensor]) -> Program:
    """What `flat` computes from `inputs`, in plain operators; the model is its `model`.

    Raises:
        Exception: whatever torch.export raises where it cannot trace the model as a whole.
    """
    program = torch.export.export(flat, tuple(inputs), strict=False)
    writes = None if has_calls_to_lower(program.graph) else written_back(program.graph)
    if writes is None:
        program = program.run_decompositions({})
        writes = written_back(program.graph) or {}
    constants = {name.removeprefix("model."): found for name, found in program.constants.items()}
    return Program(program.graph, _state_names(program), constants, _written(program), writes)


def _state_names(program: ExportedProgram) -> Mapping[str, tuple[Origin, str]]:
    """Placeholder name -> origin and name in the model, for all that is not a user input."""
    return {
        spec.arg.name: (_KINDS[spec.kind], (spec.target or "").removeprefix("model."))
        for spec in program.graph_signature.input_specs
        if spec.kind in _KINDS and hasattr(spec.arg, "name")
    }


def _written(program: ExportedProgram) -> frozenset[str]:
    signature = program.graph_signature
    targets = {*signature.buffers_to_mutate.values(), *signature.parameters_to_mutate.values()}
    specs = signature.input_specs
    return frozenset(s.arg.name for s in specs if s.target in targets and hasattr(s.arg, "name"))
