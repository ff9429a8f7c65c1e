"""Orders of channels that become one selection."""

from __future__ import annotations

from property_tests.faults.fault import Fault
from property_tests.faults.killers import CHAINS, SHUFFLES

FAULTS = (
    Fault(
        "shuffles: others may read what is inside of a chain",
        "analyses.chains",
        "if len(readers) != 1 or value in graph.outputs:",
        "if not readers or value in graph.outputs:",
        (CHAINS,),
    ),
    Fault(
        "shuffles: dimensions may stand elsewhere in the end",
        "analyses.chains",
        "return self.dims == {dim} and self.others == others and",
        "return self.dims == {dim} and",
        (CHAINS,),
    ),
    Fault(
        "shuffles: an order is read backwards",
        "analyses.chains",
        "yield Mapped(dims[0], dims[1], self.order,",
        "yield Mapped(dims[0], dims[1], torch.argsort(self.order),",
        (SHUFFLES,),
    ),
    Fault(
        "shuffles: what is kept is selected in the order in which it stood",
        "forwards.fitting",
        "SelectIndices(tuple(read.tolist()), chain.dim)",
        "SelectIndices(tuple(sorted(read.tolist())), chain.dim)",
        (SHUFFLES,),
    ),
    Fault(
        "shuffles: a chain that cannot be written is taken all the same",
        "planning.coupling",
        "if o not in found.refused and o.place in worth",
        "if o.place in worth",
        (SHUFFLES,),
    ),
    Fault(
        "shuffles: a selection is made where the ops do as well",
        "planning.verdicts",
        "if any(more.values()) else None",
        "if more else None",
        (SHUFFLES,),
    ),
    Fault(
        "shuffles: a selection is made however little it saves",
        "planning.coupling",
        "if before - after > len(options) * CALL:",
        "if before - after > 0:",
        (SHUFFLES,),
    ),
    Fault(
        "shuffles: the size of the batch decides what pays",
        "planning.costs",
        "return sum(map(analysis.macs, analysis.graph.ops)) / batch_of(analysis)",
        "return float(sum(map(analysis.macs, analysis.graph.ops)))",
        (SHUFFLES,),
    ),
    Fault(
        "shuffles: source from a file may leave out any call",
        "lowerings.permutation",
        "return last_name(old.func) in _ARRANGING and",
        "return",
        (SHUFFLES,),
    ),
)
