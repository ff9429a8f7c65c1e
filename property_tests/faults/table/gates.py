"""Channels that only a gate tells from constants."""

from __future__ import annotations

from property_tests.faults.fault import Fault
from property_tests.faults.killers import CONSTRAINTS, GATES

FAULTS = (
    Fault(
        "gates: what is left out adds nothing",
        "lowerings.gate_rows",
        "added.to(total.dtype))",
        "added.to(total.dtype) * 0)",
        (GATES,),
    ),
    Fault(
        "gates: factors are those of other channels",
        "lowerings.places",
        "return sorted(set(range(total)).difference(own))",
        "return sorted(set(range(total)).difference(own))[::-1]",
        (GATES,),
    ),
    Fault(
        "gates: all samples get the factors of the first",
        "lowerings.gate_rows",
        "factors.reshape(gate.shape[0], 1, len(others))",
        "factors.reshape(gate.shape[0], 1, len(others))[:1]",
        (GATES,),
    ),
    Fault(
        "gates: its products are not counted",
        "analyses.analysis",
        "return rule_of(op, self.rules).macs(op, self.sizes) + more",
        "return rule_of(op, self.rules).macs(op, self.sizes)",
        (GATES,),
    ),
    Fault(
        "gates: one of those that read the channels is made up for",
        "analyses.gates",
        "[_weight_of(r, one, analysis) for r, one in zip(self.readers, rows, strict=True)]",
        "[_weight_of(self.readers[0], rows[0], analysis)]",
        (GATES,),
    ),
    Fault(
        "gates: a factor for each position is one for all",
        "analyses.gates",
        "factors.shape[d] == 1 and not extents.varies(factors, d)",
        "True",
        (GATES,),
    ),
    Fault(
        "gates: what the model returns may lack channels",
        "analyses.gates",
        "if result in analysis.graph.outputs or not all(",
        "if not all(",
        (GATES,),
    ),
    Fault(
        "gates: any op may read the channels that some product reads",
        "analyses.gates",
        "not all(_sums(r, result, dim, analysis) for r in readers)",
        "not any(_sums(r, result, dim, analysis) for r in readers)",
        (GATES,),
    ),
    Fault(
        "gates: channels are needed that may go",
        "planning.problem",
        "found[gate.part] = ~gate.spare if needed is None else needed & ~gate.spare",
        "found[gate.part] = needed",
        (GATES,),
    ),
    Fault(
        "gates: a channel that helps has to be carried itself",
        "engine.constraints",
        "(self.members & ~kept)[own].double()",
        "(~kept)[own].double()",
        (CONSTRAINTS,),
    ),
    Fault(
        "gates: channels that need none do not help",
        "engine.constraints",
        "return self.members if self.helpers is None else self.members | self.helpers",
        "return self.members",
        (GATES,),
    ),
    Fault(
        "gates: what asks how large a tensor is reads it",
        "analyses.borders",
        " or not _reads_any(op, rule, facts, found)",
        "",
        (GATES,),
    ),
    Fault(
        "gates: ops are those of the graph without copies",
        "analyses.gates",
        "return evolve(self, op=op_of(self.op), readers",
        "return evolve(self, readers",
        (GATES,),
    ),
    Fault(
        "gates: columns that carry constants are as they were",
        "analyses.gates",
        "for column in _changed_columns(reader, analysis)]] = False",
        "for column in _changed_columns(reader, analysis)][:0]] = False",
        (GATES,),
    ),
)
