"""What of a fact holds at every size, and not only at the example's.

Along a dimension whose extent may follow the inputs, an index is only the same place at every size
while it is counted from the front. Where an op counts from the back, by a number derived from sizes, or
together with another dimension, only what is the same all along such a dimension says anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from attrs import evolve
from torch import Tensor

from speedup.analyses.taken_apart import taken_apart
from speedup.engine.constraints import Dim
from speedup.engine.lattice import Fact, any_over, uniform_along, uniform_fact
from speedup.ir.expressions import with_traced_numbers
from speedup.ir.graph import Op, Value
from speedup.rules import Rules, rule_of
from speedup.rules.extents import STATED_SIZES, Extents, numbers_follow
from speedup.rules.moves import moves_at
from speedup.rules.rule import Moves, Rule

_BOUNDS = ("start", "end", "index")


def steady_facts(op: Op, facts: Sequence[Fact], rules: Rules, extents: Extents) -> Sequence[Fact]:
    """What the rule of `op` may be told of its operands."""
    if all(f.is_unknown for f in facts):
        return facts
    rule = rule_of(op, rules)
    if rule.is_local:
        return facts
    if rule.arrangement == "joins":
        return _joined(op, facts, extents)
    return [
        # Weights are large, and lie alike at all sizes.
        one
        if _is_still(value, rule)
        else uniform_fact(one, unsteady_dims(op, value, _spread(one), rules, extents))
        for one, value in zip(facts, op.operands, strict=True)
    ]


def _is_still(value: Value, rule: Rule) -> bool:
    """Whether the op reads `value` at the same places whatever the sizes of the inputs are."""
    return rule.moves is None and value.is_state


def _spread(one: Fact) -> tuple[int, ...]:
    """The dimensions along which a fact says different things."""
    if one.is_unknown:
        return ()
    wide = [d for d in range(one.ndim) if max(one.known.shape[d], one.raw.shape[d]) != 1]
    return tuple(d for d in wide if not (uniform_along(one.known, [d]) and uniform_along(one.value, [d])))


def steady_reads(op: Op, reads: Sequence[Tensor], rules: Rules, extents: Extents) -> Sequence[Tensor]:
    """Which elements the op reads at some size, where it reads `reads` at the example's."""
    rule = rule_of(op, rules)
    if rule.is_local or all(read.numel() == 1 for read in reads):
        return reads
    found = []
    for value, read in zip(op.operands, reads, strict=True):
        spread = [d for d, n in enumerate(read.shape) if n != 1]
        found.append(any_over(read, unsteady_dims(op, value, spread, rules, extents)))
    return found


def unsteady_dims(
    op: Op, value: Value, among: Sequence[int], rules: Rules, extents: Extents
) -> tuple[int, ...]:
    """Those `among` the dimensions of an operand along which its indices are other places at other sizes."""
    rule = rule_of(op, rules)
    if not among or _is_still(value, rule):
        return ()
    varying = [d for d in among if extents.varies(value, d)]
    found = (*_unsteady(op, value, varying, rules, extents), *taken_apart(op, extents))
    return tuple(d for d in found if d in among)


def _unsteady(op: Op, value: Value, varying: Sequence[int], rules: Rules, extents: Extents) -> Sequence[int]:
    rule = rule_of(op, rules)
    if rule.moves is None:
        return varying
    if rule.arrangement == "turns" and not any(numbers_follow(extents, op, n) for n in op.arguments):
        return tuple(d for d in varying if d in moved_axes(op, value, rule))
    others = [n for n in op.arguments if n not in STATED_SIZES]
    if any(numbers_follow(extents, op, n) for n in others):
        return tuple(d for d in range(value.ndim) if d in moved_axes(op, value, rule))
    counted = [op.get(n) for n in _BOUNDS]
    if any(isinstance(n, int) and n < 0 for n in counted):
        return tuple(d for d in varying if d in moved_axes(op, value, rule))
    if not varying or rule.arrangement == "joins":
        return ()
    frayed = (d for d in varying if d in moved_axes(op, value, rule) and has_moving_end(value, d, extents))
    return tuple(dict.fromkeys((*_tied(op, value, varying, rule.moves, extents), *frayed)))


def has_moving_end(value: Value, dim: int, extents: Extents) -> bool:
    """Whether padding ends a dimension of varying extent: its last indices are of the data at other sizes."""
    ends = extents.graph.once("moving ends", lambda: _moving_ends(extents))
    return (value.index, dim) in ends


def _moving_ends(extents: Extents) -> frozenset[Dim]:
    """Dimensions that padding ends, and those of what is computed of these."""
    found: set[Dim] = set()
    for op in extents.graph.ops:
        ended = {d for v in op.operands for d in range(v.ndim) if (v.index, d) in found}
        rule = rule_of(op, extents.rules)
        if rule.arrangement == "pads":
            source, amounts = op.operands[0], with_traced_numbers(op["pad"])
            last = source.ndim - 1
            ended |= {
                last - n // 2
                for n, amount in enumerate(amounts)
                if n % 2 and amount > 0 and extents.varies(source, last - n // 2)
            }
        if ended:
            # Ops that turn or split dimensions may have it anywhere.
            is_aligned = all(v.ndim == r.ndim for r in op.results for v in op.operands if v.ndim)
            keeps = rule.arrangement == "pads" or (is_aligned and rule.is_local)
            for result in op.results:
                dims = ended if keeps else range(result.ndim)
                found.update((result.index, d) for d in dims if d < result.ndim)
    return frozenset(found)


def moved_axes(op: Op, value: Value, rule: Rule) -> frozenset[int]:
    """The dimensions along which the op moves anything; all where it does not say."""
    given = op.get("dims", op.get("dim"))
    if rule.arrangement == "pads":
        # Its own rule knows of borders; what is cut off is another part at other sizes.
        cut = [number // 2 for number, amount in enumerate(op["pad"]) if amount < 0]
        return frozenset(value.ndim - 1 - number for number in cut)
    if isinstance(given, int):
        return frozenset({given % value.ndim}) if value.ndim else frozenset()
    if isinstance(given, tuple) and given:
        return frozenset(d % value.ndim for d in given)
    return frozenset(range(value.ndim))


def _tied(op: Op, value: Value, varying: Sequence[int], moves: Moves, extents: Extents) -> Iterable[int]:
    """Dimensions that a reshape counts together with others that vary, or takes apart if they do."""
    for move in moves_at(op, moves):
        if op.operands[move.operand] is value:
            has_unit = any(value.shape[d] == 1 for d in varying)
            for block in move.blocks:
                wide = [d for d in block.source if value.shape[d] != 1]
                made = [d for d in block.target if op.results[move.result].shape[d] != 1]
                if block.index is None and (len(wide) > 1 or len(made) > 1):
                    yield from (d for d in wide if d in varying)
                if block.index is None and has_unit and not any(d in varying for d in wide):
                    # An extent of 1 may be counted with them, as a batch is.
                    result = op.results[move.result]
                    yield from wide if any(extents.varies(result, d) for d in made) else ()


def _joined(op: Op, facts: Sequence[Fact], extents: Extents) -> Sequence[Fact]:
    """What stands behind something of varying length has no place of its own."""
    axis = op["dim"] % op.result.ndim
    ranked = [n for n, v in enumerate(op.operands) if v.ndim == op.result.ndim]
    first = next((p for p, n in enumerate(ranked) if extents.varies(op.operands[n], axis)), None)
    if first is None:
        return facts
    tail = ranked[first:]
    flat = [uniform_fact(facts[n], [axis]) for n in tail]
    known, value = flat[0].known, flat[0].value
    for other in flat[1:]:
        known, value = torch.broadcast_tensors(known & other.known & (value == other.value), value)  # type: ignore[no-untyped-call]
    found = list(facts)
    for n, one in zip(tail, flat, strict=True):
        # Where they agree it does not matter whose element it is.
        found[n] = evolve(one, known=one.known & known, cache={}) if len(tail) > 1 else one
    return found
