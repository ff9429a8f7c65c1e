"""Where the heads of an attention module stand in its parameters, by the conventions of common libraries.

A convention is a set of names: of the projections in, of the projection out, of the number of heads. timm,
torchvision, transformers and diffusers keep to the ones below. Packed projections hold all queries, then all
keys, then all values, unless the module says otherwise (`head_first` of timm).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from attrs import evolve, frozen
from torch import Tensor, nn

from speedup.ir.paths import join_path
from speedup.torch_api import ConvNd, modules_of, parameters_of

_SEPARATE: tuple[tuple[str, str, str], ...] = (
    ("q_proj", "k_proj", "v_proj"),
    ("query", "key", "value"),
    ("q", "k", "v"),
    ("q_lin", "k_lin", "v_lin"),
    ("to_q", "to_k", "to_v"),
    ("wq", "wk", "wv"),
    ("query_proj", "key_proj", "value_proj"),
    ("linear_q", "linear_k", "linear_v"),
)
_PACKED = ("qkv", "c_attn", "Wqkv", "qkv_proj", "to_qkv")
_OUT = ("out_proj", "proj", "o_proj", "o", "c_proj", "out_lin", "to_out.0", "wo", "Wo", "output.dense")
_HEADS = ("num_heads", "num_attention_heads", "n_heads", "n_head", "nhead", "heads")
_KEY_HEADS = ("num_key_value_heads", "num_kv_heads", "n_kv_heads", "kv_heads")
# Biases that are parameters of the attention module itself, as in BEiT and Swin v2: of the query, key, value.
_OWN_BIASES = ("q_bias", "k_bias", "v_bias")


@frozen
class HeadRun:
    """Indices `start` and on of dimension `dim` of a parameter: `heads` heads of `width` indices each."""

    parameter: str
    dim: int
    start: int
    width: int
    heads: int

    def indices(self, drop: Iterable[int], counted: int) -> tuple[int, ...]:
        """What goes with the heads `drop` of `counted`."""
        return tuple(
            self.start + head * self.width + at
            for head in shared_heads(frozenset(drop), counted, self.heads)
            for at in range(self.width)
        )


def shared_heads(drop: frozenset[int], counted: int, heads: int) -> tuple[int, ...]:
    """The heads, of `heads`, that go when `drop` of `counted` do: those of which no part is left.

    Keys and values of grouped attention have fewer heads than queries, deeper stages more than the first:
    head i of the one belongs to heads of the other by its share of the whole.
    """
    within, without = max(counted // heads, 1), max(heads // counted, 1)
    return tuple(
        head for head in range(heads) if all(head * within // without + nth in drop for nth in range(within))
    )


@frozen
class Projection:
    """A dimension of a parameter that holds `size` rows (or columns) of heads.

    `parts` says of what: 0 for queries, 1 for keys, 2 for values, one run after the other.
    """

    parameter: str
    dim: int
    size: int
    parts: tuple[int, ...] = (0,)


@frozen
class AttentionModule:
    """An attention module: its projections in, and out if that is known, and the heads that it states.

    `is_by_head` says that packed rows list query, key and value of each head together.
    """

    path: str
    inward: tuple[Projection, ...]
    outward: Projection | None
    heads: int | None
    key_heads: int | None
    is_by_head: bool

    def runs(self, heads: int) -> tuple[HeadRun, ...] | None:
        """Where `heads` query heads stand, and what they share; None if they do not divide a projection."""
        runs: list[HeadRun] = []
        for projection in (*self.inward, *(() if self.outward is None else (self.outward,))):
            counts = (heads,) if self.is_by_head else self._counts(projection, heads)
            width, rest = divmod(projection.size, sum(counts))
            if rest or not width:
                return None
            starts = (sum(counts[:n]) * width for n in range(len(counts)))
            name, dim = projection.parameter, projection.dim
            runs += (HeadRun(name, dim, at, width, n) for at, n in zip(starts, counts, strict=True))
        return tuple(runs)

    def _counts(self, projection: Projection, heads: int) -> tuple[int, ...]:
        """The number of heads in each part of a projection."""
        shared = self.key_heads or self._implied_key_heads(heads)
        return tuple(shared if part else heads for part in projection.parts)

    def _implied_key_heads(self, heads: int) -> int:
        """Heads of keys are as wide as those of queries."""
        size = {one.parts: one.size for one in self.inward}
        queries, keys = size.get((0,)), size.get((1,))
        return heads if queries is None or keys is None else max(keys * heads // queries, 1)


def attention_in(model: nn.Module, path: str) -> tuple[AttentionModule, ...]:
    """The attention modules at or in module `path` of `model`."""
    scope = model.get_submodule(path)
    found = [read for name, module in scope.named_modules() if (read := _read(join_path(path, name), module))]
    if len(found) == 1 and found[0].outward is None:
        # BERT's projection out is a neighbour of the module that makes the heads.
        return (evolve(found[0], outward=_outward(path, scope)),)
    return tuple(found)


def _read(path: str, module: nn.Module) -> AttentionModule | None:
    """`module` as an attention module, if it is one by its names."""
    inward = (*_own(path, module), *_packed(path, module)) or tuple(_separate(path, module))
    if not inward:
        return None
    heads, width = _stated(module, _HEADS), _stated(module, ("head_dim",))
    queries = next((one.size for one in inward if one.parts == (0,)), None)
    if heads is None and width and queries:
        heads = queries // width
    by_head = bool(getattr(module, "head_first", False))
    return AttentionModule(path, inward, _outward(path, module), heads, _stated(module, _KEY_HEADS), by_head)


def _own(path: str, module: nn.Module) -> Iterator[Projection]:
    """The parameters of `nn.MultiheadAttention`, which calls no layers to project."""
    if not isinstance(module, nn.MultiheadAttention):
        return
    for local, dim, parts in (
        ("in_proj_weight", 0, (0, 1, 2)),
        ("in_proj_bias", 0, (0, 1, 2)),
        ("q_proj_weight", 0, (0,)),
        ("k_proj_weight", 0, (1,)),
        ("v_proj_weight", 0, (2,)),
        ("bias_k", 2, (1,)),
        ("bias_v", 2, (2,)),
    ):
        tensor = getattr(module, local, None)
        if isinstance(tensor, Tensor):
            yield Projection(join_path(path, local), dim, tensor.shape[dim], parts)


def _packed(path: str, module: nn.Module) -> Iterator[Projection]:
    """One layer for queries, keys and values; for keys and values where queries have their own."""
    name = next((name for name in _PACKED if _row_dim(_child(module, name)) is not None), None)
    if name is None:
        return
    has_queries = _row_dim(_child(module, "q_attn")) is not None
    yield from _rows(path, module, "q_attn", (0,)) if has_queries else ()
    yield from _rows(path, module, name, (1, 2) if has_queries else (0, 1, 2))
    yield from _own_biases(path, module)


def _separate(path: str, module: nn.Module) -> Iterator[Projection]:
    """A layer for each of queries, keys and values."""
    for names in _SEPARATE:
        if all(_row_dim(_child(module, name)) is not None for name in names):
            for part, name in enumerate(names):
                yield from _rows(path, module, name, (part,))
            yield from _own_biases(path, module)
            return


def _own_biases(path: str, module: nn.Module) -> Iterator[Projection]:
    for part, local in enumerate(_OWN_BIASES):
        if isinstance(bias := parameters_of(module).get(local), Tensor):
            yield Projection(join_path(path, local), 0, bias.shape[0], (part,))


def _rows(path: str, module: nn.Module, name: str, parts: tuple[int, ...]) -> Iterator[Projection]:
    """Weight and bias of the layer `name`, by their rows."""
    layer = _child(module, name)
    dim = _row_dim(layer) or 0
    size = layer.weight.shape[dim]
    yield Projection(join_path(path, f"{name}.weight"), dim, size, parts)
    if isinstance(getattr(layer, "bias", None), Tensor):
        yield Projection(join_path(path, f"{name}.bias"), 0, size, parts)


def _outward(path: str, module: nn.Module) -> Projection | None:
    """The columns of the projection out."""
    for name in _OUT:
        layer = _child(module, name)
        dim = _row_dim(layer)
        if layer is not None and dim is not None:
            return Projection(join_path(path, f"{name}.weight"), 1 - dim, layer.weight.shape[1 - dim])
    return None


def _child(module: nn.Module, name: str) -> Any:
    """What `module` holds under the dotted `name`; None if nothing."""
    found: Any = module
    for part in name.split("."):
        found = modules_of(found).get(part) if isinstance(found, nn.Module) else None
    return found


def _row_dim(layer: Any) -> int | None:
    """The dimension of a layer's weight that holds its outputs; None if it is no such layer."""
    if isinstance(layer, nn.Linear) or (isinstance(layer, ConvNd) and layer.groups == 1):
        return 1 if getattr(layer, "transposed", False) else 0
    # transformers' Conv1D is a linear layer whose weight is (in, out).
    return 1 if type(layer).__name__ == "Conv1D" and getattr(layer, "weight", None) is not None else None


def _stated(module: nn.Module, names: Iterable[str]) -> int | None:
    """The first of the attributes `names` that is a number, of the module or else of its config."""
    holders = (module, getattr(module, "config", None))
    found = (getattr(holder, name, None) for holder in holders for name in names)
    return next((n for n in found if isinstance(n, int) and not isinstance(n, bool) and n > 0), None)
