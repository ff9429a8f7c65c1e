"""Networks around operators that were wrong once: each is checked in every run."""

from __future__ import annotations

from property_tests.around.case import OperatorCase
from property_tests.around.layers import Layer
from speedup.testing import MaskSpec, Slices

FOUND: tuple[OperatorCase, ...] = (
    # A linear layer that reads a single vector, some of whose elements are constant.
    OperatorCase(
        "aten.linalg_multi_dot.default",
        1,
        (Layer("nothing"), Layer("scale")),
        Layer("mix", dim=-1),
        True,
        "none",
        299,
        MaskSpec(
            (
                Slices("stems.1.layer.scale", 0, (0, 1, 2, 4, 5)),
                Slices("stems.1.layer.shift", 0, (0, 1, 2, 4, 5)),
                Slices("leaves.0.head.layers.0.weight", 0, (0, 1, 2, 4, 5)),
            ),
        ),
    ),
    # A tensor of stated sizes that nobody filled, read by a layer that loses columns.
    OperatorCase(
        "aten.new_empty.default",
        0,
        (Layer("scale", dim=2),),
        Layer("mix", dim=2),
        True,
        "none",
        6,
        MaskSpec((Slices("leaves.0.head.layers.0.weight", 0, (0, 2, 3, 4, 5)),)),
    ),
    # A constant result of a linear layer that is asked for along another dimension than its rows.
    OperatorCase(
        "aten.special_log1p.default",
        0,
        (Layer("nothing"),),
        Layer("mix", dim=2),
        True,
        "add",
        0,
        MaskSpec(
            (
                Slices("leaves.0.layer.layer.weight", 0, (0, 1, 2, 3)),
                Slices("leaves.0.layer.layer.bias", 0, (0, 1, 2, 3)),
            ),
        ),
    ),
    # Five columns in three chunks are two, two and one; four are not.
    OperatorCase(
        "aten.unsafe_chunk.default",
        1,
        (Layer("mix", dim=1),),
        Layer("nothing"),
        True,
        "none",
        0,
        MaskSpec((Slices("leaves.1.head.layers.0.weight", 0, (0,)),)),
    ),
    OperatorCase(
        "aten.tensor_split.sections",
        1,
        (Layer("mix", dim=1),),
        Layer("nothing"),
        True,
        "none",
        0,
        MaskSpec(
            (
                Slices("leaves.2.head.layers.2.weight", 0, (0,)),
                Slices("leaves.2.head.layers.2.bias", 0, (0,)),
            ),
        ),
    ),
    # Which of equal numbers is the median depends on how many there are: the batch, here.
    OperatorCase(
        "aten.median.dim",
        2,
        (Layer("mix", dim=-2),),
        Layer("mix", dim=-2),
        True,
        "none",
        0,
        MaskSpec(
            tuple(
                Slices(f"{layer}.layer.layer.{name}", 0, (0,))
                for layer in ("stems.0", "leaves.0", "leaves.1")
                for name in ("weight", "bias")
            ),
        ),
    ),
)
