"""Maps that are added to what convolutions give."""

from __future__ import annotations

from property_tests.faults.fault import Fault
from property_tests.faults.killers import BORDERS, MAPS

FAULTS = (
    Fault(
        "maps: a stride has a margin",
        "engine.borders",
        "if self.is_mixed or any(window.stride != 1 for window in self.windows):",
        "if self.is_mixed:",
        (BORDERS,),
    ),
    Fault(
        "maps: averages have a margin",
        "engine.borders",
        "if self.is_mixed or any(window.stride != 1 for window in self.windows):",
        "if any(window.stride != 1 for window in self.windows):",
        (BORDERS,),
    ),
    Fault(
        "maps: the last window alone makes the margin",
        "engine.borders",
        "return sum(max(window.padding) for window in self.windows)",
        "return max(self.windows[-1].padding)",
        (BORDERS,),
    ),
    Fault(
        "maps: distances from both ends are exchanged",
        "engine.borders",
        "return min(place, margin) * (margin + 1) + min(length - 1 - place, margin)",
        "return min(place, margin) + min(length - 1 - place, margin) * (margin + 1)",
        (MAPS,),
    ),
    Fault(
        "maps: a map is added twice",
        "lowerings.add_border",
        "return result.add_(border.movedim(-1, 0) if is_last else border)",
        "return result.add_(border.movedim(-1, 0) if is_last else border, alpha=2)",
        (MAPS,),
    ),
    Fault(
        "maps: with channels last axes are exchanged",
        "lowerings.add_border",
        "border.index_select(number if is_last else number + 1, pairs)",
        "border.index_select(len(margins) - 1 - number if is_last else number + 1, pairs)",
        (MAPS,),
    ),
    Fault(
        "maps: where a size is open, all is near the first end",
        "lowerings.places",
        "places.clamp(max=margin) * (margin + 1) + (length - 1 - places).clamp(max=margin)",
        "places.clamp(max=margin) * (margin + 1)",
        (MAPS,),
    ),
    Fault(
        "maps: channels that stay are in the map too",
        "analyses.border_maps",
        "return self.spanned.members & ~analysis.kept[self.part]",
        "return self.spanned.members",
        (MAPS,),
    ),
    Fault(
        "maps: channels that have no need of one are in the map too",
        "rules.borders",
        "constants = torch.where(members.reshape(-1, *(1,) * len(axes)), constants, 0)",
        "constants = constants",
        (MAPS,),
    ),
    Fault(
        "maps: weights that several calls share have one too",
        "analyses.border_maps",
        " or site.counterparts(shape.weight) != (op.index,)",
        "",
        (MAPS,),
    ),
    Fault(
        "maps: channels are carried too",
        "rules.absorption",
        "(none, by_border) if site.is_mapped else (by_border, none)",
        "(by_border, none)",
        (MAPS,),
    ),
    Fault(
        "maps: what is added costs nothing",
        "planning.verdicts",
        "cost = CALLS_OF_MAP * batch_of(analysis) + ADDED * prod(analysis.sizes(one.op.result))",
        "cost = CALLS_OF_MAP * batch_of(analysis)",
        (MAPS,),
    ),
    Fault(
        "maps: calls cost nothing",
        "planning.verdicts",
        "cost = CALLS_OF_MAP * batch_of(analysis) + ADDED * prod(analysis.sizes(one.op.result))",
        "cost = ADDED * prod(analysis.sizes(one.op.result))",
        (MAPS,),
    ),
    Fault(
        "maps: a file may add to another call",
        "lowerings.add_border",
        "return agrees(old, call, False) and is_own_parameter(own)",
        "return is_own_parameter(own)",
        (MAPS,),
    ),
)
