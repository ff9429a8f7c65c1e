"""Figures that others have published, as they stand: seconds for a number of consecutive runs.

From the documentation of Microsoft's NNI 1.9, "Speed up Masked Model": one V100 GPU, inputs of
64 x 3 x 32 x 32; the FPGM table was measured on a CPU with inputs of 64 x 1 x 28 x 28, "too large variance"
as it says there.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

SOURCE = "https://github.com/microsoft/nni/blob/v1.9/docs/en_US/Compression/ModelSpeedup.md"

# (times, masked, small); the table for FPGM has three lines for 40 runs.
PUBLISHED: Mapping[str, tuple[tuple[int, float, float], ...]] = MappingProxyType(
    {
        "slim_vgg19": (
            (1, 0.01197, 0.005107),
            (2, 0.02019, 0.008769),
            (4, 0.02733, 0.014809),
            (8, 0.04310, 0.027441),
            (16, 0.07731, 0.05008),
            (32, 0.14464, 0.10027),
        ),
        "fpgm_mnist": (
            (1, 0.01383, 0.01839),
            (2, 0.01167, 0.003558),
            (4, 0.01636, 0.01088),
            (40, 0.14412, 0.08268),
            (40, 1.29385, 0.14408),
            (40, 0.41035, 0.46162),
            (400, 6.29020, 5.82143),
        ),
        "l1_vgg16": (
            (1, 0.01026, 0.003677),
            (2, 0.01657, 0.008161),
            (4, 0.02458, 0.020018),
            (8, 0.03498, 0.025504),
            (16, 0.06757, 0.047523),
            (32, 0.10487, 0.086442),
        ),
        "apoz_vgg16": (
            (1, 0.01389, 0.004208),
            (2, 0.01628, 0.008310),
            (4, 0.02521, 0.014008),
            (8, 0.03386, 0.023923),
            (16, 0.06042, 0.046183),
            (32, 0.12421, 0.087113),
        ),
    }
)
DEVICES: Mapping[str, str] = MappingProxyType(
    {name: "CPU" if name == "fpgm_mnist" else "V100" for name in PUBLISHED}
)
