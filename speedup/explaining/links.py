"""Which layer reads which: a graph down to what a person wants to see of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

from attrs import frozen

from speedup.ir.graph import Graph, Op, Origin
from speedup.ir.report import Junction
from speedup.rules import Rules, rule_of


@frozen
class Links:
    """`links` are (source, reader) in order of execution, each the path of a layer or a junction's name."""

    links: tuple[tuple[str, str], ...]
    junctions: tuple[Junction, ...]


def links_of(graph: Graph, layers: Collection[str], rules: Rules) -> Links:
    """The links between `layers`, the paths of modules, through operators without parameters.

    An operator that reads several of them (a residual addition, a concatenation) is a junction: without it,
    each layer of a residual stream would read all that came before. So there are at most as many links as
    operands. An operator is its layer's if it reads one of its weights or multiplies, as attention does; what
    depends on no layer belongs to no link.
    """
    known = frozenset(layers)
    # Parameters and what is computed from nothing else, such as a normalised weight.
    weights = {value.index for value in graph.values if value.origin is Origin.PARAMETER}
    source: dict[int, str] = {}
    found: dict[tuple[str, str], None] = {}
    junctions: list[Junction] = []
    used: Counter[str] = Counter()
    for op in filter(graph.is_counted, graph.ops):
        weighted = [v.index in weights for v in op.operands if v.index in weights or not v.is_state]
        if weighted and all(weighted):
            weights.update(result.index for result in op.results)
            continue
        read = tuple(dict.fromkeys(source[v.index] for v in op.operands if v.index in source))
        if op.owner.path in known and (any(weighted) or _multiplies(op, rules)):
            here = op.owner.path
        elif len(read) > 1:
            here = _name(op, used, known)
            junctions.append(Junction(here, op.owner.path, op.name.strip("_")))
        elif read:
            (here,) = read
        else:
            continue
        found.update(((one, here), None) for one in read if one != here)
        source.update((result.index, here) for result in op.results)
    return Links(tuple(found), tuple(junctions))


def _multiplies(op: Op, rules: Rules) -> bool:
    return bool(rule_of(op, rules).macs(op, lambda value: value.shape))


def _name(op: Op, used: Counter[str], layers: Collection[str]) -> str:
    """A name for a junction that nothing else has: `layer1.0 (add)`, `layer1.0 (add 2)`."""
    plain = f"{op.owner.path} ({op.name.strip('_')})".lstrip()
    used[plain] += 1
    name = plain if used[plain] == 1 else f"{plain[:-1]} {used[plain]})"
    return name if name not in layers else _name(op, used, layers)
