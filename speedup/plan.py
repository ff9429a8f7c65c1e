"""The plan: an immutable value that says what becomes of a model, and why.

It compares and hashes by content: the edits, the layers, the reasons, the expected trace and
the masks. The model it was made for is carried along but is not part of its value.
"""

from __future__ import annotations

from typing import Any

from attrs import field, frozen
from torch import nn

from speedup.edits import Edit
from speedup.errors import UnknownModuleError
from speedup.graph import Shape
from speedup.inputs import Example
from speedup.masks import Masks
from speedup.stamps import Stamp


@frozen
class Layer:
    """One module that holds parameters, before and after.

    `before` and `after` are its constructor-like descriptions, counts are in elements and in
    multiply-accumulates for the example input.
    """

    path: str
    kind: str
    before: str
    after: str
    parameters_before: int
    parameters_after: int
    macs_before: int
    macs_after: int
    notes: tuple[str, ...] = ()

    @property
    def is_changed(self) -> bool:
        return (
            self.before != self.after or bool(self.notes) or self.parameters_before != self.parameters_after
        )


@frozen
class Blocked:
    """`count` constant or unread channels of a layer that stay nevertheless, and the reason."""

    path: str
    count: int
    of: int
    reason: str


@frozen
class ExpectedOp:
    """What one op of the small model's own trace must look like.

    `operands` name state by its name in the model and other values by (op, result) or input
    number; `arguments` holds everything that is not a tensor.
    """

    target: str
    path: str
    operands: tuple[Any, ...]
    arguments: tuple[Any, ...]
    results: tuple[Shape, ...]


@frozen
class Expected:
    """The trace that the small model must have."""

    ops: tuple[ExpectedOp, ...]
    outputs: tuple[Any, ...]


@frozen(eq=False)
class Subject:
    """What a plan was made for; none of it is part of the plan's value."""

    model: nn.Module
    masks: Masks
    example: Example
    stamps: tuple[Stamp, ...]


@frozen
class Plan:
    """What `materialize` will do. Print it for a dry run; `explain` tells about one layer."""

    edits: tuple[Edit, ...]
    layers: tuple[Layer, ...]
    blocked: tuple[Blocked, ...]
    unknown_operators: tuple[str, ...]
    expected: Expected = field(repr=False)
    masks_digest: str
    parameters_before: int
    parameters_after: int
    macs_before: int
    macs_after: int
    subject: Subject = field(eq=False, repr=False)

    def __str__(self) -> str:
        from speedup.table import plan_table

        return plan_table(self)

    def explain(self, path: str) -> str:
        """Why each part of module `path` goes or stays, as plain text.

        Raises:
            UnknownModuleError: the plan knows no such module.
        """
        lines = [_describe(layer) for layer in self.layers if layer.path == path]
        if not lines:
            known = ", ".join(layer.path for layer in self.layers[:5])
            raise UnknownModuleError(
                f"the plan knows no module {path!r} with parameters; it knows {known}, ... (see plan.layers)"
            )
        lines += [f"  {note}" for layer in self.layers if layer.path == path for note in layer.notes]
        lines += [
            f"  {b.count} of {b.of} could go but stay: {b.reason}" for b in self.blocked if b.path == path
        ]
        return "\n".join(lines)


def _describe(layer: Layer) -> str:
    if layer.before == layer.after:
        return f"{layer.path}: {layer.before} stays as it is"
    return f"{layer.path}: {layer.before} -> {layer.after}"
