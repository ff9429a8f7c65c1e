"""Sums of products named by letters, distances, and transforms along a dimension."""

from __future__ import annotations

from property_tests.faults.fault import Fault
from property_tests.faults.killers import (
    EINSUMS,
    LATENCY,
    PRODUCTS,
    ZERO_IN_ONE,
    dead,
    exact_around,
    known,
    sliced,
    unchanging,
)

FAULTS = (
    Fault(
        "products: nobody is asked about the width of what a product with a weight makes",
        "rules.weights",
        "            if len(self.makes) == 1:",
        "            if len(self.makes) > 1:",
        (PRODUCTS,),
    ),
    Fault(
        "products: a weight is measured at one width whichever was asked for",
        "measuring.layer_calls",
        "return tuple(width if",
        "return tuple(n if",
        (LATENCY,),
    ),
    Fault(
        "products: a weight that is transposed first is no layer to prune",
        "pruners.channels",
        "if move.covers and block.is_plain",
        "if move.covers and not block.is_plain",
        (PRODUCTS,),
    ),
    Fault(
        "products: a constant that is uniform along a summed letter counts as often as in the example",
        "rules.einsum",
        "            known = known & (maybe == 0)",
        "            known = known & (maybe >= 0)",
        (known(EINSUMS), *unchanging("einsum")),
    ),
    Fault(
        "products: what is added to a product is not scaled by beta",
        "rules.einsum",
        'terms.result) * op.get("beta", 1)',
        "terms.result)",
        (*unchanging("addmv", "baddbmm"), known(EINSUMS)),
    ),
    Fault(
        "products: of two zeros neither has to hold",
        "rules.einsum",
        "return reads(others) | (reads(before) & ~facts[number].maybe_nonzero)",
        "return reads(others)",
        (dead(EINSUMS), EINSUMS),
    ),
    Fault(
        "products: dimensions of one letter are not tied",
        "rules.einsum",
        "        yield from equal(reason, *members)",
        "        yield from ()",
        sliced("einsum"),
    ),
    Fault(
        "products: constants that add up along a letter go",
        "rules.einsum",
        "            yield from _constants_stay(site, members)",
        "            yield from ()",
        (*sliced("einsum", "tensordot"), exact_around("einsum_over_channels", "constants")),
    ),
    Fault(
        "products: an ellipsis of fewer dimensions is aligned at the left",
        "rules.einsum",
        "dots[widest - next(supply) :]",
        "dots[: next(supply)]",
        (EINSUMS,),
    ),
    Fault(
        "products: a constant counts in a distance only where both are",
        "rules.distance",
        "yield Pinned((first.index, dim), reason, counts[0] | counts[1])",
        "yield Pinned((first.index, dim), reason, counts[0] & counts[1])",
        (ZERO_IN_ONE,),
    ),
    Fault(
        "products: channels that a transform mixes may go",
        "rules.fourier",
        "        yield from pinned(value, mixed, reason)",
        "        yield from ()",
        sliced("fft_fft"),
    ),
)
