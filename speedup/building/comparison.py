"""Two models on the same inputs: how far apart their outputs are, and whether rounding explains it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

import torch
from attrs import frozen
from torch import Tensor, nn

from speedup.errors import OutputError
from speedup.ir.inputs import Example, leaves_of
from speedup.modules.copying import copy_module

# Largest error allowed, relative to how much the outputs vary between inputs, by the least precise
# floating-point type that the forward computes in.
_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 5e-2}
# Rounding noise is measured by running the masked model on inputs that differ by rounding.
_NOISE_FACTOR = 64.0
# By how many units of rounding, and how much further to see whether a choice could fall otherwise.
_ROUNDING, _FAR = 4.0, 256.0
_SEED = 20_000

Leaves = list[tuple[str, Any]]


def scratch_copy(model: nn.Module) -> nn.Module:
    """A copy with the same parameters and its own buffers, which a forward may write to."""
    return copy_module(model, {id(p): p.detach() for p in model.parameters()})


def tolerance(computed: Iterable[torch.dtype]) -> float:
    """The relative error that a forward which computes in these types may have."""
    return max((_TOLERANCE[dtype] for dtype in computed if dtype in _TOLERANCE), default=0.0)


@frozen(eq=False)
class Comparison:
    """The masked model and the small one, or the same module `path` of both, in calls like `example`.

    `tolerance` is the largest error allowed of outputs in floating point, if they are as precise.
    """

    masked: nn.Module
    small: nn.Module
    example: Example
    tolerance: float
    path: str = ""

    def reference(self, tensors: Sequence[Tensor]) -> Leaves:
        """What the masked model returns."""
        return self._run(self.masked, tensors)

    def error(self, tensors: Sequence[Tensor], reference: Leaves, other: Leaves | None) -> float:
        """The largest relative error of the small model's outputs on `tensors`.

        `reference` is what the masked model returns there, `other` what it returns on other tensors,
        to see how much its outputs vary.

        Raises:
            OutputError: the error is larger than rounding explains, or the small model does not run.
        """
        try:
            found = self._run(self.small, tensors)
        except Exception as fault:
            raise self._raised(tensors, fault) from fault
        if _form(found) != _form(reference):
            if self._may_change_form(tensors, reference):
                return 0.0
            raise OutputError(
                f"{self._name} returns {_form(found)}, the masked one {_form(reference)}. The small "
                "model was not handed out."
            )
        worst = 0.0
        for number, (place, mine) in enumerate(found):
            if isinstance(mine, Tensor):
                want = reference[number][1]
                spread = _spread(want, _same_place(other, number, want))
                error = _largest(mine, want) / spread
                # Code that was not traced may compute less precisely than what was.
                own = _TOLERANCE.get(want.dtype)
                limit = 0.0 if own is None else max(own, self.tolerance)
                if not error <= limit and not error <= self._noise(tensors, number) / spread:
                    raise self._output_error(tensors, place, error, limit)
                worst = max(worst, error)
        return worst

    @property
    def _name(self) -> str:
        return f"module {self.path!r} of the small model" if self.path else "the small model"

    def _run(self, model: nn.Module, tensors: Sequence[Tensor]) -> Leaves:
        """The leaves of one forward's output; every run starts from the same state."""
        args, kwargs = self.example.with_fresh_objects().call([t.clone() for t in tensors])
        with torch.no_grad():
            torch.manual_seed(_SEED)
            return [(n, _real(leaf)) for n, leaf in leaves_of(scratch_copy(model)(*args, **kwargs))]

    def _may_change_form(self, tensors: Sequence[Tensor], reference: Leaves) -> bool:
        """Whether how much the masked model returns hangs on rounding, as a number of detections may."""
        nearby = (self._nearby(tensors, far) for far in (_ROUNDING, _FAR))
        return any(leaves is not None and _form(leaves) != _form(reference) for leaves in nearby)

    def _noise(self, tensors: Sequence[Tensor], number: int) -> float:
        """How far rounding moves an output of the masked model, with a margin."""
        leaves = self.reference(tensors)
        before: Tensor = leaves[number][1]
        nearby = self._nearby(tensors, _ROUNDING)
        noise = 0.0 if nearby is None else _difference(before, nearby, number)
        eps = torch.finfo(before.dtype).eps if before.is_floating_point() else 0.0
        size = float(before.double().nan_to_num(0, 0, 0).abs().max()) if before.numel() else 0.0
        return _NOISE_FACTOR * (noise + eps * size)

    def _nearby(self, tensors: Sequence[Tensor], far: float) -> Leaves | None:
        """What the masked model returns on inputs that are off by `far` units of rounding.

        None where it takes none such, as at both ends of a range that it insists on.
        """
        for units in (far, -far):
            try:
                return self.reference(_perturb(tensors, units))
            except Exception:
                continue
        return None

    def _raised(self, tensors: Sequence[Tensor], error: Exception) -> OutputError:
        module = ".".join(part for part in (self.path, self._raising(tensors)) if part)
        return OutputError(
            f"{self._name} raises an error on an input that the masked one takes, in module {module!r}: "
            f"{type(error).__name__}: {error_line(error)}. The small model was not handed out; plan again "
            f"with keep=[{module!r}]."
        )

    def _raising(self, tensors: Sequence[Tensor]) -> str:
        """The innermost module that the small model is in when it raises an error."""
        watched, entered = scratch_copy(self.small), [""]

        def enter(name: str) -> Any:
            return lambda module, args: entered.append(name)

        def leave(name: str) -> Any:
            def hook(module: nn.Module, args: Any, output: Any) -> None:
                # Those that are still in there raised errors that were caught.
                while entered.pop() != name:
                    pass

            return hook

        for name, module in watched.named_modules():
            module.register_forward_pre_hook(enter(name), prepend=True)
            module.register_forward_hook(leave(name))
        args, kwargs = self.example.with_fresh_objects().call([t.clone() for t in tensors])
        with torch.no_grad(), suppress(Exception):
            torch.manual_seed(_SEED)
            watched(*args, **kwargs)
        return entered[-1]

    def _output_error(self, tensors: Sequence[Tensor], place: str, error: float, limit: float) -> OutputError:
        inner = self._first_differing(tensors, limit)
        module = ".".join(part for part in (self.path, inner) if part)
        return OutputError(
            f"output{place} of {self._name} differs from the masked model's by {error:.2e} of "
            f"its variation (allowed: {limit:.0e}); the first module of equal shape that differs is "
            f"{module!r}. The small model was not handed out; plan again with keep=[{module!r}]."
        )

    def _first_differing(self, tensors: Sequence[Tensor], limit: float) -> str:
        """The first module, in execution order, with an output of unchanged shape that differs."""
        wanted, found = (self._outputs_by_module(model, tensors) for model in (self.masked, self.small))
        for key, one in wanted.items():
            other = found.get(key)
            if other is None or other.shape != one.shape:
                continue
            size = float(one.double().abs().max()) if one.numel() else 0.0
            if _largest(other, one) > limit * (size or 1.0):
                return key[0]
        return ""

    def _outputs_by_module(
        self, model: nn.Module, tensors: Sequence[Tensor]
    ) -> dict[tuple[str, int], Tensor]:
        seen: dict[tuple[str, int], Tensor] = {}
        watched = scratch_copy(model)
        counts: dict[str, int] = {}

        def watch(name: str) -> Any:
            def hook(module: nn.Module, args: Any, output: Any) -> None:
                if isinstance(output, Tensor):
                    counts[name] = counts.get(name, -1) + 1
                    seen[name, counts[name]] = _real(output.detach().clone())

            return hook

        for name, module in watched.named_modules():
            module.register_forward_hook(watch(name))
        args, kwargs = self.example.with_fresh_objects().call([t.clone() for t in tensors])
        with torch.no_grad():
            watched(*args, **kwargs)
        return seen


def _form(leaves: Leaves) -> Leaves:
    """Everything about an output but its tensors' values."""
    return [(n, (tuple(v.shape), v.dtype) if isinstance(v, Tensor) else v) for n, v in leaves]


def error_line(error: Exception) -> str:
    """What an error says, in one line and without a full stop."""
    return str(error).strip().partition("\n")[0].removesuffix(".")


def _perturb(tensors: Sequence[Tensor], far: float) -> list[Tensor]:
    return [
        t * (1 + far * torch.finfo(t.dtype).eps) if t.is_floating_point() or t.is_complex() else t
        for t in tensors
    ]


def _same_place(leaves: Leaves | None, number: int, like: Tensor) -> Tensor | None:
    """The tensor at a position of another output, None where that has another form."""
    if leaves is None or number >= len(leaves):
        return None
    found = leaves[number][1]
    return found if isinstance(found, Tensor) and found.shape == like.shape else None


def _difference(one: Tensor, leaves: Leaves, number: int) -> float:
    other = _same_place(leaves, number, one)
    return float("inf") if other is None else _largest(one, other)


def _largest(a: Tensor, b: Tensor) -> float:
    if a.numel() == 0:
        return 0.0
    if not a.is_floating_point():
        return float((a != b).any())
    same = (a == b) | (a.isnan() & b.isnan())
    return float(torch.where(same, 0.0, (a.double() - b.double()).abs()).max())


def _spread(a: Tensor, b: Tensor | None) -> float:
    """How much an output varies between two inputs; its magnitude where it does not."""
    if not a.is_floating_point() or a.numel() == 0:
        return 1.0
    between = 0.0 if b is None else float((a.double() - b.double()).nan_to_num(0, 0, 0).abs().max())
    size = float(a.double().nan_to_num(0, 0, 0).abs().max())
    return between or size or 1.0


def rows_like(reference: Leaves, other: Leaves) -> Leaves | None:
    """`other`, outputs of a batch of another size, as outputs of the shapes of `reference`: one of the two
    batches is one row, which stands beside each of the other's.

    None where an output does not have a row for each input.
    """
    if len(reference) != len(other):
        return None
    found: Leaves = []
    for (place, want), (_, have) in zip(reference, other, strict=True):
        if isinstance(want, Tensor):
            if not isinstance(have, Tensor) or want.ndim != have.ndim:
                return None
            differing = [d for d in range(want.ndim) if want.shape[d] != have.shape[d]]
            extents = [{want.shape[d], have.shape[d]} for d in differing]
            if len(extents) != 1 or 1 not in extents[0] or 0 in extents[0]:
                return None
            found.append((place, have.narrow(differing[0], 0, 1).expand(want.shape)))
        else:
            found.append((place, have))
    return found


def _real(leaf: Any) -> Any:
    """A complex tensor as pairs of real numbers, any other leaf as it is."""
    is_complex = isinstance(leaf, Tensor) and leaf.is_complex()
    return torch.view_as_real(leaf.resolve_conj()) if is_complex else leaf
