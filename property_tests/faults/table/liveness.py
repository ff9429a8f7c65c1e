"""Something is called unread and is read."""

from __future__ import annotations

from property_tests.faults.fault import Fault
from property_tests.faults.killers import (
    ANALYSES,
    CONTRACTIONS,
    LAYOUTS,
    NORMS,
    PLANNER,
    POINTWISE,
    POSITIONS,
    RECURRENT,
    REDUCTIONS,
    REPARAMETRIZED,
    SEQUENCES,
    dead,
)

_WRITTEN_OUT = "tests/rules/test_written_out.py::test_as_much_is_told_as_of_what_it_is_written_out_as"

FAULTS = (
    Fault(
        "live: what masked_fill never takes is read",
        "rules.pointwise",
        "mask, live[0] & _maybe(facts[1], True)]",
        "mask, live[0]]",
        (f"{_WRITTEN_OUT}[aten.masked_fill]",),
    ),
    Fault(
        "live: a slope that nothing needs is read",
        "rules.pointwise",
        "return live & _fit(~(facts[0].known & (facts[0].value >= 0)), op.result)",
        "return live",
        (f"{_WRITTEN_OUT}[aten._prelu_kernel]",),
    ),
    Fault(
        "live: what 0 is scaled by is read",
        "rules.pointwise",
        "live[0] & _fit(second | ~first, op.result), live[0] & _fit(first, op.result)",
        "live[0] & _fit(second | ~first, op.result), live[0]",
        (f"{_WRITTEN_OUT}[aten.ldexp]",),
    ),
    Fault(
        "live: all is read of a triangle",
        "rules.indexing",
        "    return (live[0] & _inside(op),)\n",
        "    return (live[0],)\n",
        (f"{_WRITTEN_OUT}[aten.tril]",),
    ),
    Fault(
        "live: rows that nothing looks up are read",
        "rules.indexing",
        "        reads = reads & vector(rows, 0, 2)\n",
        "",
        (f"{_WRITTEN_OUT}[aten.embedding]",),
    ),
    Fault(
        "live: only the last reader of a value counts",
        "analyses.liveness",
        "read if before.numel() == 1 and not bool(before) else before | read",
        "read",
        (ANALYSES,),
    ),
    Fault(
        "live: a column that one row does not read is dead",
        "rules.contraction",
        "columns = any_both(reads, rows, 1).squeeze(1)",
        "columns = (reads | ~rows).all(1)",
        (dead(CONTRACTIONS),),
    ),
    Fault(
        "live: two zeros that only hold each other are both dead",
        "rules.pointwise",
        "fold_to(live[0] & (second | ~first), a.shape)",
        "fold_to(live[0] & second, a.shape)",
        (f"{PLANNER}::test_two_zeros_that_only_hold_each_other_stay_zero", POINTWISE),
    ),
    Fault(
        "live: a branch of where is dead when it is taken",
        "rules.pointwise",
        'for name, outcome in (("self", True), ("other", False)):',
        'for name, outcome in (("self", False), ("other", True)):',
        (dead(POINTWISE),),
    ),
    Fault(
        "live: a channel whose neighbour in the group is read is dead",
        "rules.normalization",
        "if data.shape[1] != 1:",
        "if data.shape[1] < 0:",
        (dead(NORMS),),
    ),
    Fault(
        "live: BatchNorm with a weight of zero does not read its bias",
        "rules.normalization",
        "return _reads(op, data, live[0])\n\n\ndef batch_norm_couple",
        "return _reads(op, data, data)\n\n\ndef batch_norm_couple",
        (dead(NORMS),),
    ),
    Fault(
        "live: a pool reads one position for each it writes",
        "rules.reduction",
        "(any_over(one, _space(op, rank)) for one in live))\n        return (reads, *",
        "(one.narrow(-1, 0, 1) for one in live))\n        return (reads, *",
        (dead(REDUCTIONS),),
    ),
    Fault(
        "live: a softmax reads what is live of its result only",
        "rules.reduction",
        "reduce(or_, (any_over(one, _dims(op)) for one in live))",
        "reduce(or_, live)",
        (dead(REDUCTIONS),),
    ),
    Fault(
        "live: a key head is dead when one of its query heads is",
        "rules.product",
        "live.ndim - 3, value.shape[-3]).any(-3)",
        "live.ndim - 3, value.shape[-3]).all(-3)",
        (dead(CONTRACTIONS), dead(POSITIONS)),
    ),
    Fault(
        "live: the width of queries is dead where that of the values is",
        "rules.product",
        "weights = any_over(live[0] & ~result.known, [op.result.ndim - 1])",
        "weights = live[0].narrow(-1, 0, 1) & ~result.known.narrow(-1, 0, 1)",
        (dead(CONTRACTIONS), dead(POSITIONS)),
    ),
    Fault(
        "live: a unit that is read two steps later is dead",
        "rules.units",
        "if bool((larger == units).all()):",
        "if larger is not None:",
        (dead(RECURRENT),),
    ),
    Fault(
        "live: a norm reads only the live elements of a direction",
        "rules.reparametrized",
        "slices = any_over(live[0], shape.others)",
        "slices = live[0]",
        (dead(REPARAMETRIZED),),
    ),
    Fault(
        "live: an element that is read twice is dead when its last reader is",
        "engine.layout",
        "scattered.index_add_(position, block.index[valid], read) > 0",
        "scattered.index_copy_(position, block.index[valid], read) > 0",
        (LAYOUTS,),
    ),
    Fault(
        "live: an embedding's dead columns are one to the right",
        "rules.indexing",
        "    reads = vector(columns, 1, 2)\n",
        "    reads = vector(columns.roll(1), 1, 2)\n",
        (f"{dead(POSITIONS)}[embedding]", SEQUENCES),
    ),
)
