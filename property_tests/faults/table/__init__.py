"""The fault table: what is planted, by the part of the library that it is planted in."""

from __future__ import annotations

from property_tests.faults.fault import Fault
from property_tests.faults.killers import EVERY
from property_tests.faults.table import (
    absorption,
    attention,
    borders,
    bounds,
    building,
    checkpoints,
    computed,
    contraction,
    dead,
    engine,
    faces,
    fills,
    forwards,
    gates,
    knowledge,
    layouts,
    liveness,
    parts,
    pointwise,
    positions,
    products,
    readings,
    recurrences,
    rows,
    shuffles,
    sizes,
    sources,
    sparse,
    statistics,
    traces,
)

FAULTS: tuple[Fault, ...] = (
    *knowledge.FAULTS,
    *liveness.FAULTS,
    *pointwise.FAULTS,
    *contraction.FAULTS,
    *products.FAULTS,
    *recurrences.FAULTS,
    *layouts.FAULTS,
    *positions.FAULTS,
    *attention.FAULTS,
    *statistics.FAULTS,
    *absorption.FAULTS,
    *borders.FAULTS,
    *bounds.FAULTS,
    *shuffles.FAULTS,
    *rows.FAULTS,
    *dead.FAULTS,
    *fills.FAULTS,
    *gates.FAULTS,
    *engine.FAULTS,
    *forwards.FAULTS,
    *sources.FAULTS,
    *sizes.FAULTS,
    *readings.FAULTS,
    *traces.FAULTS,
    *parts.FAULTS,
    *building.FAULTS,
    *checkpoints.FAULTS,
    *computed.FAULTS,
    *sparse.FAULTS,
    *faces.FAULTS,
)

# A fault that is none: the tests have to pass, or they would kill anything.
CONTROL = Fault("nothing", "analyses.constants", "graph.values]\n", "graph.values]\n", EVERY)
