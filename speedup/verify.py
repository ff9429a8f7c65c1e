"""The gate: a small model is compared with the plan, then with the masked model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from attrs import frozen
from torch import Tensor, nn

from speedup.copying import copy_module
from speedup.errors import EquivalenceError, ExportError, OutputError, StructureError
from speedup.expected import actual_trace, first_difference
from speedup.inputs import Example, batch_size, fresh_inputs, leaves_of
from speedup.isolation import isolated
from speedup.masks import apply_masks
from speedup.plan import Plan
from speedup.trace import trace

# Largest error allowed, relative to how much the outputs vary between inputs, by dtype.
_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 5e-2}
# Rounding noise is measured by running the masked model on inputs that differ by rounding.
_NOISE_FACTOR = 64.0
_SEED = 20_000


@frozen
class Verification:
    """What was checked: the largest relative error and the batch sizes that ran."""

    structure: bool
    error: float | None
    batch_sizes: tuple[int | None, ...]


def verify(plan: Plan, small: nn.Module, *, level: Literal["full", "structure"] = "full") -> Verification:
    """Check that `small` is what `plan` promises; `level` as in `materialize`.

    Raises:
        StructureError: the small model traces to other operations than planned.
        OutputError: its outputs differ from the masked model's; names the first such module.
    """
    with torch.inference_mode(mode=False):
        return _verified(plan, small, level)


def _verified(plan: Plan, small: nn.Module, level: str) -> Verification:
    example = plan.subject.example
    try:
        difference = first_difference(plan.expected, actual_trace(trace(small, example).graph))
    except ExportError as error:
        raise StructureError(f"the small model cannot be traced: {error}") from error
    if difference is not None:
        raise StructureError(
            f"the small model does not compute what was planned: {difference}. Plan again with "
            "keep=[that module's path] to leave it as it is, and please report this."
        )
    if level == "structure" or any(t.is_meta for t in example.tensors):
        return Verification(True, None, ())
    return _compare(plan, small, example)


def _compare(plan: Plan, small: nn.Module, example: Example) -> Verification:
    masked = apply_masks(plan.subject.model, plan.subject.masks).eval()
    candidate = _scratch(small).eval()
    generator = torch.Generator().manual_seed(_SEED)
    own = batch_size(example)
    sizes: list[int | None] = [None] if own is None else [own, 1 if own != 1 else 2]
    worst, ran = 0.0, []
    with isolated():
        for size in sizes:
            inputs = [fresh_inputs(example, size, generator) for _ in range(2)]
            try:
                reference = [_run(masked, example, one) for one in inputs]
            except Exception:
                # A model that fixes its batch size is compared at that size only.
                if size == own:
                    raise
                continue
            worst = max(worst, _error(masked, candidate, example, inputs, reference))
            ran.append(size)
    return Verification(True, worst, tuple(ran))


def _scratch(model: nn.Module) -> nn.Module:
    """A copy with the same parameters and its own buffers, which a forward may write to."""
    return copy_module(model, {id(p): p.detach() for p in model.parameters()})


def _run(model: nn.Module, example: Example, tensors: Sequence[Tensor]) -> list[tuple[str, Any]]:
    """The leaves of one forward's output; every run starts from the same state."""
    args, kwargs = example.call([t.clone() for t in tensors])
    with torch.no_grad():
        torch.manual_seed(_SEED)
        return [(n, _real(leaf)) for n, leaf in leaves_of(_scratch(model)(*args, **kwargs))]


def _is_inexact(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def _real(leaf: Any) -> Any:
    """A complex tensor as pairs of real numbers, any other leaf as it is."""
    is_complex = isinstance(leaf, Tensor) and leaf.is_complex()
    return torch.view_as_real(leaf.resolve_conj()) if is_complex else leaf


def _form(leaves: Sequence[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """Everything about an output but its tensors' values."""
    return [(n, (tuple(v.shape), v.dtype) if isinstance(v, Tensor) else v) for n, v in leaves]


def _error(
    masked: nn.Module,
    candidate: nn.Module,
    example: Example,
    inputs: Sequence[Sequence[Tensor]],
    reference: Sequence[list[tuple[str, Any]]],
) -> float:
    """The largest relative error of the candidate's outputs; raises where it is too large."""
    found = _run(candidate, example, inputs[0])
    if _form(found) != _form(reference[0]):
        raise OutputError(
            f"the small model returns {_form(found)}, the masked one {_form(reference[0])}. The small "
            "model was not handed out."
        )
    worst = 0.0
    for number, (name, mine) in enumerate(found):
        if not isinstance(mine, Tensor):
            continue
        want, other = reference[0][number][1], reference[1][number][1]
        spread = _spread(want, other)
        error = _largest(mine, want) / spread
        limit = _TOLERANCE.get(want.dtype, 0.0)
        if not error <= limit:
            noise = _noise(masked, example, inputs[0], number) / spread
            if not error <= _NOISE_FACTOR * noise:
                raise _output_error(masked, candidate, example, inputs[0], name, error, limit)
        worst = max(worst, error)
    return worst


def _largest(a: Tensor, b: Tensor) -> float:
    if a.numel() == 0:
        return 0.0
    if not a.is_floating_point():
        return float((a != b).any())
    same = (a == b) | (a.isnan() & b.isnan())
    return float(torch.where(same, 0.0, (a.double() - b.double()).abs()).max())


def _spread(a: Tensor, b: Tensor) -> float:
    """How much an output varies between two inputs; its magnitude where it does not."""
    if not a.is_floating_point() or a.numel() == 0:
        return 1.0
    between = float((a.double() - b.double()).nan_to_num(0, 0, 0).abs().max())
    size = float(a.double().nan_to_num(0, 0, 0).abs().max())
    return between or size or 1.0


def _noise(masked: nn.Module, example: Example, tensors: Sequence[Tensor], number: int) -> float:
    """How far rounding in the inputs alone moves an output of the masked model."""
    moved = [t * (1 + 4 * torch.finfo(t.dtype).eps) if _is_inexact(t) else t for t in tensors]
    before, after = _run(masked, example, tensors)[number][1], _run(masked, example, moved)[number][1]
    eps = torch.finfo(before.dtype).eps if before.is_floating_point() else 0.0
    size = float(before.double().nan_to_num(0, 0, 0).abs().max()) if before.numel() else 0.0
    return _largest(before, after) + eps * size


def _output_error(
    masked: nn.Module,
    candidate: nn.Module,
    example: Example,
    tensors: Sequence[Tensor],
    name: str,
    error: float,
    limit: float,
) -> EquivalenceError:
    module = _first_differing(masked, candidate, example, tensors, limit)
    return OutputError(
        f"output{name or ''} of the small model differs from the masked model's by {error:.2e} of "
        f"its variation (allowed: {limit:.0e}); the first module of equal shape that differs is "
        f"{module!r}. The small model was not handed out; plan again with keep=[{module!r}]."
    )


def _first_differing(
    masked: nn.Module, candidate: nn.Module, example: Example, tensors: Sequence[Tensor], limit: float
) -> str:
    """The first module, in execution order, with an output of unchanged shape that differs."""
    wanted, found = (_outputs_by_module(m, example, tensors) for m in (masked, candidate))
    for key, one in wanted.items():
        other = found.get(key)
        if other is None or other.shape != one.shape:
            continue
        size = float(one.double().abs().max()) if one.numel() else 0.0
        if _largest(other, one) > limit * (size or 1.0):
            return key[0]
    return ""


def _outputs_by_module(
    model: nn.Module, example: Example, tensors: Sequence[Tensor]
) -> dict[tuple[str, int], Tensor]:
    seen: dict[tuple[str, int], Tensor] = {}
    watched = _scratch(model)
    counts: dict[str, int] = {}

    def watch(name: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                counts[name] = counts.get(name, -1) + 1
                seen[name, counts[name]] = _real(output.detach().clone())

        return hook

    for name, module in watched.named_modules():
        module.register_forward_hook(watch(name))
    args, kwargs = example.call([t.clone() for t in tensors])
    with torch.no_grad():
        watched(*args, **kwargs)
    return seen
