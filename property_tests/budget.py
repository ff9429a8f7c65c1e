"""How many networks each test tries: a few per run in most profiles, `SPEEDUP_EXAMPLES` in all at night."""

from __future__ import annotations

import os

from property_tests.around.reach import operators
from property_tests.tally import LEAST_OF_EACH
from speedup.testing.networks import FAMILIES

PROFILE = os.environ.get("HYPOTHESIS_PROFILE", "ci")
NIGHTLY = PROFILE == "nightly"
NETWORKS = int(os.environ.get("SPEEDUP_EXAMPLES", "20000"))
"""How many networks the nightly profile tries, besides those that look at sizes."""
SIZED = int(os.environ.get("SPEEDUP_SIZED_EXAMPLES", "2000"))
"""How many networks that look at sizes it tries."""
CAPTURED = int(os.environ.get("SPEEDUP_CAPTURED_EXAMPLES", "2000")) if NIGHTLY else 32
"""How many networks are traced in both ways."""
LOWERED = (
    int(os.environ.get("SPEEDUP_LOWERED_EXAMPLES", "3000"))
    if NIGHTLY
    else {"ci": 24, "dev": 6}.get(PROFILE, 24)
)
"""How many networks that are made for lowerings are tried."""
SPARSE = (
    int(os.environ.get("SPEEDUP_SPARSE_EXAMPLES", "500"))
    if NIGHTLY
    else {"ci": 16, "dev": 6}.get(PROFILE, 16)
)
"""How many networks with sparse kernels are tried."""


def around_each() -> int:
    """How many networks around each operator: at night some more than are asked for, if there are enough."""
    return min(LEAST_OF_EACH + 4, max(1, NETWORKS * 7 // 8 // len(operators()))) if NIGHTLY else 1


def of_each_family() -> int:
    """How many networks of each family: at night, all that are not around an operator."""
    if not NIGHTLY:
        return {"ci": 37, "dev": 8}.get(PROFILE, 37)
    return max(1, -(-(NETWORKS - around_each() * len(operators())) // len(FAMILIES)))


def sized_of_each_family() -> int:
    """How many networks of each family that look at sizes."""
    return max(1, -(-SIZED // len(FAMILIES))) if NIGHTLY else {"ci": 12, "dev": 4}.get(PROFILE, 12)


def captured_of_each_family() -> int:
    """How many networks of each family are traced in both ways."""
    return max(1, -(-CAPTURED // len(FAMILIES)))
