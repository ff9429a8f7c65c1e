"""What a plan says of the tensors of its model: names, shapes, what becomes of each, and what joins them."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property

import torch
from attrs import frozen

from speedup.cutting.tensors import NO_CHANGE, TensorChange, changes_of, planned_shapes
from speedup.errors import ArchitectureError
from speedup.ir.edits import NewBias
from speedup.ir.graph import Shape
from speedup.modules.fingerprints import ModuleFingerprint, TensorFingerprint
from speedup.parts import PlanParts

# A state in another precision than planned is cut all the same, unless it is packed.
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@frozen(slots=False, eq=False)
class PlannedTensors:
    """The tensors of the planned model, by all names that they have there."""

    plan: PlanParts

    @cached_property
    def fingerprints(self) -> Mapping[str, TensorFingerprint]:
        """What the plan remembers of each, in the model's order."""
        return {f.name: f for f in self.plan.subject.fingerprints if isinstance(f, TensorFingerprint)}

    @cached_property
    def changes(self) -> Mapping[str, TensorChange]:
        """What becomes of those that change, by first names."""
        return changes_of(self.plan.subject.masks, self.plan.edits)

    @cached_property
    def _module_order(self) -> Mapping[str, int]:
        modules = [f.name for f in self.plan.subject.fingerprints if isinstance(f, ModuleFingerprint)]
        return {name: number for number, name in reversed([*enumerate(modules)])}

    @cached_property
    def _biases(self) -> Mapping[str, tuple[NewBias, ...]]:
        found: dict[str, tuple[NewBias, ...]] = {}
        for edit in self.plan.edits:
            if isinstance(edit, NewBias):
                leader = self._leader(edit.path)
                found[leader] = (*found.get(leader, ()), edit)
        return found

    def canonical(self, name: str) -> str:
        """The first name of the tensor that the model knows as `name`.

        Raises:
            ArchitectureError: it knows no such tensor.
        """
        known = self.fingerprints.get(name)
        if known is None:
            near = difflib.get_close_matches(name, self.fingerprints, 3)
            raise ArchitectureError(
                f"the planned model has no tensor {name!r}"
                + (f"; it has {', '.join(map(repr, near))}" if near else "")
                + ". Pass tensors by the names that they have in the planned model's state dict."
            )
        return known.same_as or name

    def change(self, name: str, shape: Sequence[int], dtype: torch.dtype) -> TensorChange:
        """What becomes of tensor `name`, which is given in this shape and type.

        Raises:
            ArchitectureError: the planned model has no such tensor, or it is of another shape or kind.
        """
        canonical = self.canonical(name)
        planned = self.fingerprints[canonical]
        if tuple(shape) != planned.shape:
            raise ArchitectureError(
                f"tensor {name!r} is of shape {tuple(shape)}, planned was {planned.shape}. Pass the state of "
                "a model of the planned architecture."
            )
        if dtype != planned.dtype and not (dtype in _FLOATS and planned.dtype in _FLOATS):
            raise ArchitectureError(
                f"tensor {name!r} is of type {dtype}, planned was {planned.dtype}: what is packed, or no "
                "longer a number by itself, cannot be cut. Pass the state as it was before it was quantised."
            )
        return self.changes.get(canonical, NO_CHANGE)

    def slices(self, name: str) -> TensorChange:
        """What becomes of a tensor that belongs to `name` entry by entry, such as a mean of its gradients."""
        return self.changes.get(self.canonical(name), NO_CHANGE).slices

    def depends_on(self, name: str) -> bool:
        """Whether the plan holds only for the planned numbers of tensor `name`."""
        return self.canonical(name) not in self.plan.subject.value_independent

    def saved_names(self) -> Iterator[str]:
        """The first names of the tensors that a state dict of the planned model has.

        A plan of an earlier format does not say which buffers these are; of those it names what it changes.
        """
        for name, known in self.fingerprints.items():
            is_saved = name in self.changes if known.role is None else known.role != "unsaved"
            if known.same_as is None and is_saved:
                yield name

    def new_biases(self, name: str) -> tuple[NewBias, ...]:
        """The biases that the small model has besides, and that are of the type of its tensor `name`."""
        return self._biases.get(name, ())

    def places(self, names: Sequence[str]) -> Iterator[str]:
        """`names` of parameters, with those of new biases where a model lists them.

        Each stands before the first parameter of a later module; it is there if the parameter whose type it
        has is among `names`.
        """
        new = [edit for name in names for edit in self.new_biases(self.canonical(name))]
        for name in names:
            here = self._module_order.get(name.rpartition(".")[0], -1)
            while (edit := next((e for e in new if self._module_order[e.path] < here), None)) is not None:
                new.remove(edit)
                yield edit.name
            yield name
        yield from (edit.name for edit in new)

    def _leader(self, path: str) -> str:
        """The parameter whose type and device a new bias of module `path` has, see `change_modules`."""
        prefix = f"{path}." if path else ""
        parameters = [f.name for f in self.fingerprints.values() if f.role in ("parameter", None)]
        inside = [name for name in parameters if name.startswith(prefix)]
        own = [name for name in inside if "." not in name.removeprefix(prefix)]
        return self.canonical([*own, *inside, *parameters][0])


def shapes_fault(found: Mapping[str, Shape], plan: PlanParts) -> str | None:
    """The first way in which tensors, by first names, are not those of the plan's small model, in words."""
    known = PlannedTensors(plan).fingerprints.values()
    planned = planned_shapes({f.name: f.shape for f in known if f.same_as is None}, plan.edits)
    for name, shape in planned.items():
        if name not in found:
            return f"tensor {name!r} is missing"
        if found[name] != shape:
            return f"tensor {name!r} is of shape {found[name]}, planned is {shape}"
    extra = next((name for name in found if name not in planned), None)
    return None if extra is None else f"tensor {extra!r} was not planned"
