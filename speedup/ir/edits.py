"""What a plan does to a model: a closed set of edit kinds.

Edits name tensors and modules by their path in the model. The numbers they carry are held
in `ConstantTensor`, an immutable tensor that compares and hashes by content.
"""

from __future__ import annotations

import hashlib

from attrs import field, frozen
from torch import Tensor

from speedup.ir.tensor_text import bytes_of


@frozen
class ConstantTensor:
    """A small constant tensor with value semantics. `tensor` must never be written to."""

    tensor: Tensor = field(eq=False)
    digest: str = field(init=False)

    def __attrs_post_init__(self) -> None:
        text = f"{self.tensor.dtype}{tuple(self.tensor.shape)}".encode()
        object.__setattr__(self, "digest", hashlib.sha256(text + bytes_of(self.tensor)).hexdigest())


@frozen
class Slice:
    """Keep `indices` of dimension `dim` of the parameter or buffer `name`."""

    name: str
    dim: int
    indices: tuple[int, ...]


@frozen
class SliceGroups:
    """Of a grouped weight (rows, columns per group, ...), keep row `rows[i]` with columns `columns[i]`."""

    name: str
    rows: tuple[int, ...]
    columns: tuple[tuple[int, ...], ...]


@frozen
class AddToParameter:
    """Add `delta` (original shape) to the parameter or buffer `name` before it is sliced."""

    name: str
    delta: ConstantTensor
    why: str


@frozen
class MergeColumns:
    """Add to column `into` of a weight a multiple of other columns, before it is sliced.

    `weight[rows, into] += sum_i weight[rows, columns[i]] * factors[i]` along dimension `dim`;
    `rows` limits it to the rows of one group.
    """

    name: str
    dim: int
    into: int
    columns: tuple[int, ...]
    factors: tuple[float, ...]
    rows: tuple[int, int] | None
    why: str


@frozen
class CombineColumns:
    """Add to some columns of a weight multiples of others, before it is sliced.

    `weight[rows, into[j]] += sum_i weight[rows, columns[i]] * factors[i, j]` along dimension `dim`; `rows`
    limits it to the rows of one group.
    """

    name: str
    dim: int
    into: tuple[int, ...]
    columns: tuple[int, ...]
    factors: ConstantTensor
    rows: tuple[int, int] | None
    why: str


@frozen
class NewBias:
    """Give module `path`, which has none, the bias `value` (sliced length), as parameter `attribute`."""

    path: str
    value: ConstantTensor
    why: str
    attribute: str = "bias"

    @property
    def name(self) -> str:
        """The name of the new parameter in the model."""
        return f"{self.path}.{self.attribute}".lstrip(".")


@frozen
class SetAttribute:
    """Set attribute `attribute` of module `path` from `before` to `after`.

    `attribute` may lead into what the module holds: `config.hidden_size`, `window[0]`.
    """

    path: str
    attribute: str
    before: float | tuple[int, ...] | None
    after: float | tuple[int, ...]


@frozen
class Rewritten:
    """A function's new `source`, decorators included.

    `helpers` are functions that it calls by name and that are rewritten too; `borrowed` are names
    of `speedup.lowerings.HELPERS` that it uses.
    """

    name: str
    source: str
    helpers: tuple[Rewritten, ...] = ()
    borrowed: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """Follows from what the function and its helpers say; the same in every process."""
        whole = "\n".join((self.source, *(f"{helper.name} {helper.digest}" for helper in self.helpers)))
        return hashlib.sha256(whole.encode()).hexdigest()[:16]


@frozen
class RewriteForward:
    """Let module `path` run `functions` in place of its methods of the same names."""

    path: str
    functions: tuple[Rewritten, ...]
    why: tuple[str, ...]


@frozen
class AdoptAttention:
    """Make module `path`, an `nn.MultiheadAttention`, a `speedup.attention.MultiheadAttention`."""

    path: str


TensorEdit = Slice | SliceGroups | AddToParameter | MergeColumns | CombineColumns
ModuleEdit = NewBias | AdoptAttention | SetAttribute | RewriteForward
Edit = TensorEdit | ModuleEdit
