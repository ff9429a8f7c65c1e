"""Tables that are looked up, and tensors that a forward creates."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import prod
from types import MappingProxyType

import torch
from torch import Tensor, nn

from speedup.engine.bounds import OPEN, Bounds, spanned
from speedup.engine.constraints import Constraint
from speedup.engine.keepsets import KeepSets
from speedup.engine.lattice import (
    Fact,
    all_over,
    any_along,
    any_over,
    broadcast,
    constant,
    fact,
    indicator,
    vector,
)
from speedup.engine.layout import Block, IndexMap, pull, push, restrict_index
from speedup.ir.evaluation import evaluate
from speedup.ir.graph import Op, Value
from speedup.lowerings import Alternative, TakeIndices
from speedup.rules.bounded import argument, as_given
from speedup.rules.layout import couple_block
from speedup.rules.rule import Facts, Lives, Rule, Sizes, equal, everything_read, nothing_known, pinned
from speedup.rules.site import Site
from speedup.rules.stated import stated_result_sizes
from speedup.rules.weights import MAKES, Attributes, LayerAxis, WeightRule


def embedding_known(op: Op, facts: Facts) -> tuple[Fact, ...]:
    """A column that is the same in every row is a constant whatever is looked up, whatever the others are."""
    return _looked_up_known(op, facts, 0, op.operands[1])


def embedding_live(op: Op, facts: Facts, live: Lives) -> tuple[Tensor, ...]:
    """All rows of the columns that are read, or those that are looked up where that is known."""
    table, index = op.operands
    columns = any_along(live[0], op.result.ndim - 1, table.shape[1])
    reads = vector(columns, 1, 2)
    if facts[1].is_all_known():
        asked = any_over(live[0], [op.result.ndim - 1]).squeeze(-1).expand(index.shape)
        rows = torch.zeros(table.shape[0], dtype=torch.bool)
        rows[facts[1].value.expand(index.shape)[asked].long()] = True
        reads = reads & vector(rows, 0, 2)
    return reads, indicator(bool(columns.any()), index.ndim)


def embedding_couple(site: Site) -> Iterable[Constraint]:
    table, index = site.op.operands
    result = site.op.result
    reason = site.because("embedding looks up rows of its table")
    yield from equal(reason, (table, 1), (result, result.ndim - 1))
    for dim in range(index.ndim):
        yield from equal(reason, (index, dim), (result, dim))
    yield from pinned(table, [0], reason)


def _lookup(op: Op) -> tuple[int, Value] | None:
    """The dimension and the index of `x[i]` with one tensor of integers, or of `index_select`; None for other
    indexing.
    """
    if "indices" not in op.arguments:
        ndim, index = op.operands[0].ndim, op.operands[1]
        return (op["dim"] % ndim, index) if ndim and index.ndim else None
    given = [(d, i) for d, i in enumerate(op.arguments["indices"]) if i is not None]
    if len(given) != 1 or len(op.operands) != 2 or given[0][1].dtype not in (torch.int64, torch.int32):
        return None
    return given[0]


def _carried_dims(op: Op, axis: int, index: Value) -> list[tuple[int, int]]:
    """(operand dim, result dim) of all dimensions but the one that is looked up."""
    dims = range(op.operands[0].ndim)
    return [(d, d if d < axis else d + index.ndim - 1) for d in dims if d != axis]


def _index_move(op: Op, facts: Facts, axis: int, index: Value) -> IndexMap | None:
    """With a known index, a lookup is a gather along one dimension."""
    if not facts[1].is_all_known():
        return None
    rows = facts[1].value.expand(index.shape).reshape(-1).long() % op.operands[0].shape[axis]
    blocks = [Block((s,), (t,)) for s, t in _carried_dims(op, axis, index)]
    return IndexMap(0, 0, (*blocks, Block((axis,), tuple(range(axis, axis + index.ndim)), rows)))


def index_known(op: Op, facts: Facts) -> tuple[Fact, ...]:
    found = _lookup(op)
    return nothing_known(op, facts) if found is None else _looked_up_known(op, facts, *found)


def _looked_up_known(op: Op, facts: Facts, axis: int, index: Value) -> tuple[Fact, ...]:
    """What is the same at every index is that wherever it is looked up."""
    table = facts[0]
    if table.is_unknown:
        return nothing_known(op, facts)
    index_map = _index_move(op, facts, axis, index)
    if index_map is not None:
        source, target = op.operands[0].shape, op.result.shape
        return (
            fact(
                pull(index_map, table.known, source, target, torch.tensor(False)),
                pull(index_map, table.value, source, target, torch.zeros((), dtype=table.value.dtype)),
            ),
        )
    first = table.value.narrow(axis, 0, 1)
    same = all_over(table.known & (table.value == first), [axis])
    shape = [*same.shape[:axis], *[1] * index.ndim, *same.shape[axis + 1 :]]
    value = first.reshape([*first.shape[:axis], *[1] * index.ndim, *first.shape[axis + 1 :]])
    return (fact(same.reshape(shape), value),)


def index_live(op: Op, facts: Facts, live: Lives) -> tuple[Tensor, ...]:
    """A lookup reads any index of its dimension where these are not known, and what is read of the result."""
    found = _lookup(op)
    if found is None:
        return everything_read(op, facts, live)
    axis, index = found
    index_map = _index_move(op, facts, axis, index)
    flag = indicator(bool(live[0].any()), index.ndim)
    if index_map is not None:
        return push(index_map, live[0], op.operands[0].shape, op.result.shape), flag
    reads = any_over(live[0], range(axis, axis + index.ndim))
    shape = [*reads.shape[:axis], 1, *reads.shape[axis + index.ndim :]]
    return reads.reshape(shape), flag


def _selected(site: Site) -> Block | None:
    """The block of a selection of channels by known numbers; None where something else is looked up.

    In tables of the model's own it is positions that are looked up.
    """
    found = _lookup(site.op)
    index_map = found and _index_move(site.op, [site.fact(v) for v in site.op.operands], *found)
    if index_map is None or site.op.operands[1].ndim != 1 or site.graph.is_fixed(site.op.operands[0]):
        return None
    return index_map.blocks[-1]


def index_couple(site: Site) -> Iterable[Constraint]:
    op, found = site.op, _lookup(site.op)
    reason = site.because("an index refers to positions")
    if found is None:
        for value in (*op.operands, op.result):
            yield from pinned(value, range(value.ndim), reason)
        return
    axis, index = found
    table, result = op.operands[0], op.result
    for own, other in _carried_dims(op, axis, index):
        yield from equal(reason, (table, own), (result, other))
    selected = _selected(site)
    if selected is not None:
        yield from couple_block(selected, table, result, False, reason)
        yield from pinned(index, [0], reason)
        return
    for dim in range(index.ndim):
        yield from equal(reason, (index, dim), (result, axis + dim))
    yield from pinned(table, [axis], reason)
    if site.fact(index).is_all_known():
        yield from pinned(index, range(index.ndim), reason)


def index_holds(site: Site, sizes: Sizes, kept: KeepSets) -> bool:
    """The numbers of an index are those of what there was before."""
    selected, op = _selected(site), site.op
    if selected is None:
        return True
    ends = ((op.operands[0].index, selected.source[0]), (op.result.index, selected.target[0]))
    return all(kept.is_full(end) for end in ends)


def index_alternatives(site: Site, sizes: Sizes, kept: KeepSets) -> Iterable[Alternative]:
    """What is left of a selection is one by other numbers."""
    selected, op = _selected(site), site.op
    if selected is None:
        return
    ends = ((op.operands[0].index, selected.source[0]), (op.result.index, selected.target[0]))
    read = restrict_index(selected.index, kept[ends[0]], kept[ends[1]])
    if read is not None:
        yield Alternative(TakeIndices(tuple(read.tolist()), selected.source[0]), cost=prod(sizes(op.result)))


def filled_known(op: Op, facts: Facts) -> tuple[Fact, ...]:
    """A tensor filled with one number is that number at every size."""
    if any(not f.is_all_known() for f in facts[op_skip(op) :]):
        return nothing_known(op, facts)
    name = op.name
    number = op.get("fill_value", 1 if name.endswith("ones") else 0)
    if op.follows_sizes("fill_value"):
        return nothing_known(op, facts)
    shape = (1,) * op.result.ndim
    return (constant(torch.full(shape, number, dtype=op.result.dtype)),)


def filled_bounds(op: Op, facts: Facts) -> Sequence[Bounds]:
    """A number that follows sizes, or that is read from a tensor, is another in other calls."""
    if op.follows_sizes("fill_value"):
        return (OPEN,)
    if "fill_value" in op.arguments:
        return (argument("fill_value")(op, facts),)
    return (spanned([1 if op.name.endswith("ones") else 0]),)


def op_skip(op: Op) -> int:
    """`new_zeros(x, ...)` reads nothing of its first operand."""
    return 1 if op.name.startswith("new_") else 0


def sequence_known(op: Op, facts: Facts) -> tuple[Fact, ...]:
    """`arange` and the like: constants, unless their extent follows the input's."""
    if op.follows_sizes() or op.operands:
        return nothing_known(op, facts)
    return tuple(constant(t) for t in evaluate(op, []))


def nothing_read(op: Op, facts: Facts, live: Lives) -> tuple[Tensor, ...]:
    """No operand element is read."""
    return tuple(indicator(False, v.ndim) for v in op.operands)


def filled_live(op: Op, facts: Facts, live: Lives) -> tuple[Tensor, ...]:
    """Of a tensor that shows what to fill nothing is read, but a number to fill it with is."""
    is_read = any(bool(one.any()) for one in live)
    return tuple(indicator(v.is_number and is_read, v.ndim) for v in op.operands)


def sequence_couple(site: Site) -> Iterable[Constraint]:
    reason = site.because("a sequence of numbers depends on its length")
    for value in site.op.results:
        yield from pinned(value, range(value.ndim), reason)


def filled_couple(site: Site) -> Iterable[Constraint]:
    """Any subset of equal entries is as good as any other."""
    return ()


def no_coupling(site: Site) -> Iterable[Constraint]:
    """The op only checks; it ties nothing."""
    return ()


def _inside(op: Op) -> Tensor:
    """Bool, compressed: what lies below (above) the diagonal. At other sizes it lies at the same places."""
    data = op.operands[0]
    inside = evaluate(op, [torch.ones(data.shape[-2:], dtype=torch.uint8)])[0].bool()
    return inside.reshape((1,) * (data.ndim - 2) + inside.shape)


def tri_known(op: Op, facts: Facts) -> tuple[Fact, ...]:
    """Below (above) a diagonal: known as the operand is; outside known 0."""
    inside, data = _inside(op), facts[0]
    return (fact(*broadcast(data.known | ~inside, data.value * inside.to(data.value.dtype))),)


def tri_live(op: Op, facts: Facts, live: Lives) -> tuple[Tensor, ...]:
    """Nothing is read outside."""
    return (live[0] & _inside(op),)


def positions_couple(site: Site) -> Iterable[Constraint]:
    """The last two dimensions are positions; the others correspond."""
    data, result = site.op.operands[0], site.op.results[0]
    reason = site.because("positions matter")
    for dim in range(data.ndim - 2):
        yield from equal(reason, (data, dim), (result, dim))
    for value in (data, result):
        yield from pinned(value, range(data.ndim - 2, data.ndim), reason)


FILLED = Rule(
    couple=filled_couple,
    known=filled_known,
    live=filled_live,
    bounds=filled_bounds,
    needs=stated_result_sizes("size"),
    reads_sizes=True,
    reads_numbers=True,
)
UNFILLED = Rule(couple=filled_couple, live=nothing_read, needs=stated_result_sizes("size"))
SEQUENCE = Rule(couple=sequence_couple, known=sequence_known, live=everything_read)
CHECK = Rule(couple=no_coupling, live=nothing_read)
# A tensor of one element becomes a number of Python's, which may go anywhere.
NUMBER = Rule(couple=no_coupling)

_SEQUENCES = """
    arange linspace logspace eye scalar_tensor tril_indices triu_indices hann_window hamming_window
    blackman_window bartlett_window kaiser_window fft_fftfreq fft_rfftfreq
""".split()


LOOKUP = Rule(
    couple=index_couple,
    known=index_known,
    live=index_live,
    bounds=as_given,
    holds=index_holds,
    alternatives=index_alternatives,
)


def _embedding_axes(site: Site) -> Iterable[LayerAxis]:
    result = site.op.result
    yield LayerAxis(MAKES, (result.index, result.ndim - 1), site.op.operands[:1])


def _embedding_attributes(op: Op, sizes: Sizes) -> Attributes:
    rows, columns = sizes(op.operands[0])
    return {"num_embeddings": rows, "embedding_dim": columns}


RULES: dict[str, Rule] = {
    "embedding": Rule(
        couple=embedding_couple,
        known=embedding_known,
        live=embedding_live,
        bounds=as_given,
        weight=WeightRule(
            axes=_embedding_axes, attributes=MappingProxyType({nn.Embedding: _embedding_attributes})
        ),
    ),
    **dict.fromkeys(("index.Tensor", "index_select"), LOOKUP),
    **dict.fromkeys(("zeros", "ones", "full", "new_zeros", "new_ones", "new_full"), FILLED),
    **dict.fromkeys(("empty", "new_empty"), UNFILLED),
    **dict.fromkeys(_SEQUENCES, SEQUENCE),
    **{name: Rule(couple=positions_couple, known=tri_known, live=tri_live) for name in ("tril", "triu")},
    **dict.fromkeys(
        ("_assert_tensor_metadata", "_assert_scalar", "_assert_async", "sym_constrain_range_for_size"), CHECK
    ),
    **dict.fromkeys(("item", "_local_scalar_dense"), NUMBER),
}
