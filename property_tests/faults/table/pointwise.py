"""Ties that elementwise operators, reductions, pools and norms forget."""

from __future__ import annotations

from property_tests.faults.fault import Fault
from property_tests.faults.killers import COUPLING, CUSTOM_RULES, GROUPS, NETWORKS, SANDWICHES, sliced

FAULTS = (
    Fault(
        "coupling: a sum ties its first operand only",
        "rules.pointwise",
        "        for value in operands:\n            own",
        "        for value in operands[:1]:\n            own",
        NETWORKS,
    ),
    Fault(
        "coupling: broadcast operands are aligned at the left",
        "rules.pointwise",
        "own = dim - (result.ndim - value.ndim)",
        "own = dim if dim < value.ndim else -1",
        NETWORKS,
    ),
    Fault(
        "coupling: the slopes of a PReLU are not tied",
        "rules.pointwise",
        "if weight.ndim == 1 and weight.shape[0] > 1:",
        "if weight.ndim == 2:",
        sliced("prelu"),
    ),
    Fault(
        "coupling: running statistics are not tied to their channels",
        "rules.normalization",
        "for v in op.operands[1:] if v.ndim == 1]",
        "for v in op.operands[1:3] if v.ndim == 1]",
        sliced("batch_norm"),
    ),
    Fault(
        "coupling: GroupNorm keeps half of a group",
        "rules.normalization",
        "yield Unbroken((data.index, 1), _groups(site.op), reason)",
        "yield from ()",
        (GROUPS,),
    ),
    Fault(
        "coupling: a maximum over channels does not need them all",
        "rules.reduction",
        "    yield from pinned(data, _dims(op), reason)\n\n\ndef sum_couple",
        "    yield from ()\n\n\ndef sum_couple",
        sliced("amax"),
    ),
    Fault(
        "coupling: softmax is not pinned along its dimension",
        "rules.reduction",
        "        yield from pinned(value, gone, reason)",
        "        yield from ()",
        sliced("softmax"),
    ),
    Fault(
        "coupling: constants that are not zero go from a sum",
        "rules.reduction",
        "counts = site.fact(data).known_nonzero & site.live(data)",
        "counts = ~site.fact(data).known & site.live(data)",
        sliced("sum"),
    ),
    Fault(
        "coupling: a gated unit pairs up with its neighbour's gate",
        "rules.gating",
        "half = torch.arange(data.shape[axis]) % op.result.shape[axis]",
        "half = torch.arange(data.shape[axis]) // 2",
        sliced("glu"),
    ),
    Fault(
        "coupling: an embedding's columns are not tied to what it looks up",
        "rules.indexing",
        "yield from equal(reason, (table, 1), (result, result.ndim - 1))",
        "yield from ()",
        sliced("embedding"),
    ),
    Fault(
        "coupling: rows of an embedding may go",
        "rules.indexing",
        "    yield from pinned(table, [0], reason)",
        "    yield from ()",
        sliced("embedding"),
    ),
    Fault(
        "coupling: a table that is indexed loses rows",
        "rules.indexing",
        "    yield from pinned(table, [axis], reason)",
        "    yield from ()",
        sliced("index.Tensor"),
    ),
    Fault(
        "coupling: positions that are gathered along may go",
        "rules.scatter",
        "(d for d in range(value.ndim) if d not in own), reason)",
        "(d for d in range(value.ndim) if d < 0), reason)",
        sliced("gather"),
    ),
    Fault(
        "coupling: an operator that nobody knows is free to shrink",
        "rules.rule",
        '    reason = site.because(f"{site.op.target} has no rule that lets its dimensions shrink")\n'
        "    for value in (*site.op.operands, *site.op.results):",
        '    reason = site.because(f"{site.op.target} has no rule that lets its dimensions shrink")\n'
        "    for value in site.op.results[:0]:",
        (CUSTOM_RULES, SANDWICHES, COUPLING),
    ),
)
