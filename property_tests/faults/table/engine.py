"""The fixpoint engine and what it starts from."""

from __future__ import annotations

from property_tests.faults.fault import Fault
from property_tests.faults.killers import COUPLING, ENGINE, FIXPOINT, MATERIALIZE, NETWORKS, PLANNER, VALUES

FAULTS = (
    Fault(
        "engine: merging equal dimensions forgets those after the second",
        "engine.keepsets",
        "for other in equal.dims[1:]:",
        "for other in equal.dims[1:2]:",
        (ENGINE,),
    ),
    Fault(
        "engine: merging joins a class with its first member only",
        "engine.keepsets",
        "parent[find(other)] = find(first)",
        "parent[other] = find(first)",
        (ENGINE,),
    ),
    Fault(
        "engine: a constraint is not asked again when its dimensions grow",
        "engine.keepsets",
        "                self.forced.append(number)",
        "                self.forced.extend(())",
        (ENGINE,),
    ),
    Fault(
        "engine: a choice is not asked again when its dimensions grow",
        "engine.keepsets",
        "                    heappush(self.choices, number)",
        "                    heappush([], number)",
        (ENGINE,),
    ),
    Fault(
        "engine: choices are asked before everything forced has settled",
        "engine.keepsets",
        "self.forced = deque(n for n, c in enumerate(closures) if not c.is_choice)",
        "self.forced = deque(range(len(closures)))",
        (ENGINE,),
    ),
    Fault(
        "engine: dimensions may become empty",
        "engine.keepsets",
        "            solver.grow(dim, first, _NOT_EMPTY)",
        "            solver.grow(dim, first & False, _NOT_EMPTY)",
        (ENGINE,),
    ),
    Fault(
        "engine: what keeps a dimension from being empty is not told to others",
        "engine.keepsets",
        "            solver.grow(dim, first, _NOT_EMPTY)\n            solver.settle()",
        "            solver.grow(dim, first, _NOT_EMPTY)",
        (ENGINE,),
    ),
    Fault(
        "engine: a constraint is skipped when one of its dimensions is full",
        "engine.keepsets",
        "if all(self.full[self.classes[d]] for d in closure.dims):",
        "if any(self.full[self.classes[d]] for d in closure.dims):",
        (ENGINE,),
    ),
    Fault(
        "engine: growth is not written down",
        "engine.keepsets",
        "        self.growth.append(Growth(dim, added, cause, closure))",
        "        self.growth.extend(())",
        (ENGINE,),
    ),
    Fault(
        "engine: groups are filled up with one channel too few",
        "engine.constraints",
        "(torch.cumsum(absent.to(torch.int64), 1) <= missing[:, None])",
        "(torch.cumsum(absent.to(torch.int64), 1) < missing[:, None])",
        (ENGINE, "tests/test_constraints.py"),
    ),
    Fault(
        "engine: a run with a kept index need not stay whole",
        "engine.constraints",
        "yield self.dim, run.any(1, keepdim=True).expand_as(run).reshape(-1)",
        "yield self.dim, run.all(1, keepdim=True).expand_as(run).reshape(-1)",
        ("tests/test_constraints.py", *NETWORKS),
    ),
    Fault(
        "engine: a carrier may be a thousand times smaller than what it carries",
        "engine.constraints",
        "    RATIO = 0.1\n",
        "    RATIO = 0.0001\n",
        ("tests/test_constraints.py",),
    ),
    Fault(
        "seeds: what the model returns may shrink",
        "planning.coupling",
        "whole = {v.index for v in (*graph.inputs, *graph.outputs)}",
        "whole = {v.index for v in graph.inputs}",
        NETWORKS,
    ),
    Fault(
        "seeds: what the model is given may shrink",
        "planning.coupling",
        "whole = {v.index for v in (*graph.inputs, *graph.outputs)}",
        "whole = {v.index for v in graph.outputs}",
        NETWORKS,
    ),
    Fault(
        "seeds: weights that only training reads are cut",
        "planning.coupling",
        "v.origin is Origin.CONSTANT or not graph.readers[v.index]}",
        "v.origin is Origin.CONSTANT}",
        (PLANNER, *NETWORKS),
    ),
    Fault(
        "seeds: tensors that are no parameters of the model shrink",
        "planning.coupling",
        "v.origin is Origin.CONSTANT or not graph.readers[v.index]}",
        "not graph.readers[v.index]}",
        (*NETWORKS, COUPLING, PLANNER),
    ),
    Fault(
        "seeds: what varies with the input and is read is not needed",
        "planning.coupling",
        "needed = live & ~found.known",
        "needed = live & ~found.known & found.known",
        NETWORKS,
    ),
    Fault(
        "seeds: constants count as needed, so that less goes",
        "planning.coupling",
        "needed = live & ~found.known",
        "needed = live & found.maybe_nonzero",
        (FIXPOINT, MATERIALIZE),
    ),
    Fault(
        "seeds: what nothing reads counts as needed, so that less goes",
        "planning.coupling",
        "needed = live & ~found.known",
        "needed = ~found.known",
        (VALUES, MATERIALIZE, PLANNER, COUPLING),
    ),
)
