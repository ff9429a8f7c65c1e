"""From facts and liveness to keep-sets: seeds, constraints, and what the forward itself can carry.

The least fixpoint says which slices could go. The model's Python code then has to run on the
smaller tensors; `fitting` says what that takes. Where an op cannot be made to come out as the
fixpoint needs it, its dimensions are constrained further and the fixpoint is taken again;
constraints only grow in number, so this ends.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import Tensor

from speedup import native
from speedup.analysis import Analysis
from speedup.constraints import Cause, Constraint, Copied, Dim, Pinned
from speedup.errors import FixpointError
from speedup.expressions import SizeOf
from speedup.fitting import fitted
from speedup.graph import Graph, Op, Origin, Shape, Value
from speedup.keepsets import solve
from speedup.lattice import Fact, along
from speedup.rewriting import Writer
from speedup.rules import Rules, rule_for
from speedup.rules.rule import Site


def couple(
    graph: Graph,
    facts: tuple[Fact, ...],
    lives: tuple[Tensor, ...],
    rules: Rules,
    writer: Writer,
    keep: Iterable[str] = (),
) -> Analysis:
    """The least keep-sets that the model's own forward can carry.

    `writer` knows what the source can be made to say; `keep` names modules that must not change.

    Raises:
        FixpointError: the iteration does not settle (a rule is at fault).
    """
    seeds = _seeds(graph, facts, lives)
    extents = extents_of(graph)
    sites = sites_of(graph, facts, lives)
    constraints = list(constraints_of(graph, sites, rules))
    constraints += _kept_modules(graph, tuple(keep))
    for dim in _copies(graph, constraints):
        seeds.pop(dim, None)
    fallen_back: frozenset[int] = frozenset()
    for _ in range(2 * len(graph.ops) + 2):
        kept = solve(extents, seeds, constraints)
        resized: dict[int, Shape] = {}
        for site in sites:
            resized.update(rule_for(site.op.target, rules).resize(site, kept))
        found = Analysis(graph, facts, sites, rules, kept, seeds, tuple(constraints), resized)
        fit = fitted(found, writer, fallen_back)
        if not fit.missing:
            return fit.analysis
        constraints += fit.missing
        fallen_back = fit.fallen_back
    raise FixpointError("the sizes that the forward computes do not settle; a rule is at fault")


def extents_of(graph: Graph) -> dict[Dim, int]:
    """The size of every dimension of every value."""
    return {(v.index, d): n for v in graph.values for d, n in enumerate(v.shape)}


def sites_of(graph: Graph, facts: tuple[Fact, ...], lives: tuple[Tensor, ...]) -> tuple[Site, ...]:
    """Each op as its rule gets to see it."""
    return tuple(
        Site(graph, op, facts, lives, native.settable(op), native.may_add_bias(op)) for op in graph.ops
    )


def boundary(graph: Graph) -> frozenset[int]:
    """Values that stay whole: what the model takes and returns, and state that is not ours to cut."""
    whole = {v.index for v in (*graph.inputs, *graph.outputs)}
    # What nobody reads in eval mode may be for training.
    whole |= {v.index for v in graph.state if v.origin is Origin.CONSTANT or not graph.readers[v.index]}
    return frozenset(whole)


def _seeds(graph: Graph, facts: Sequence[Fact], lives: Sequence[Tensor]) -> dict[Dim, Tensor | None]:
    """Per dimension, the indices that the model's boundary or a live Unknown element needs."""
    seeds: dict[Dim, Tensor | None] = {}
    whole = boundary(graph)
    for value in graph.values:
        if value.index in whole:
            seeds.update({(value.index, d): None for d in range(value.ndim)})
        elif not value.is_state:
            seeds.update(_needed(value, facts[value.index], lives[value.index]))
    return seeds


def _needed(value: Value, found: Fact, live: Tensor) -> Iterable[tuple[Dim, Tensor | None]]:
    needed = live & ~found.known
    if needed.numel() == 1:
        return [((value.index, d), None) for d in range(value.ndim)] if bool(needed) else []
    if not bool(needed.any()):
        return []
    return [
        ((value.index, d), None if needed.shape[d] == 1 else along(needed, d, value.shape[d]))
        for d in range(value.ndim)
    ]


def _copies(graph: Graph, constraints: Iterable[Constraint]) -> Iterable[Dim]:
    """Dimensions along which there are only copies that one view lists: how many there are counts."""
    for constraint in constraints:
        if isinstance(constraint, Copied):
            value, dim = constraint.copies
            producer = graph.producer[value]
            while producer is not None and graph.readers[value] == (graph.readers[value][0],):
                yield value, dim
                op = graph.ops[producer]
                if op.name == "expand":
                    break
                value = op.operands[0].index
                producer = graph.producer[value]


def constraints_of(graph: Graph, sites: Sequence[Site], rules: Rules) -> Iterable[Constraint]:
    """What the rules demand, and what the forward does with sizes out of sight."""
    for site in sites:
        yield from rule_for(site.op.target, rules).couple(site)
        if site.op.is_rigid:
            yield from _pinned_whole(site.op, site.because("the call it is part of insists on its sizes"))
    escape = Cause(None, "the forward takes this size out of sight (float(), math.sqrt, len, ...)")
    for root in graph.escaped:
        if isinstance(root, SizeOf):
            yield Pinned((root.value, root.dim), escape)


def _kept_modules(graph: Graph, names: tuple[str, ...]) -> Iterable[Pinned]:
    for op in graph.ops:
        name = next((n for n in names if op.owner.path == n or op.owner.path.startswith(n + ".")), None)
        if name is not None:
            cause = Cause(op.index, f"keep={name!r} was asked for")
            yield from _pinned_whole(op, cause)


def _pinned_whole(op: Op, cause: Cause) -> Iterable[Pinned]:
    for value in (*op.operands, *op.results):
        yield from (Pinned((value.index, d), cause) for d in range(value.ndim))
