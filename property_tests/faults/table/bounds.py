"""Numbers and results are taken to lie where they do not, and what lies between ends to be what is there."""

from __future__ import annotations

from property_tests.faults.fault import Fault
from property_tests.faults.killers import BOUNDED, EVERY_NUMBER, unchanging, unread

FAULTS = (
    Fault(
        "bounds: a number that follows sizes is what it is in the example",
        "analyses.every_size",
        "points = bounds.points(most)",
        "points = (number,)",
        (EVERY_NUMBER,),
    ),
    Fault(
        "bounds: what lies on both sides of 0 is never 0",
        "engine.bounds",
        "if low < 0 < high:",
        "if low < 0 < high < 0:",
        (EVERY_NUMBER,),
    ),
    Fault(
        "bounds: in a batch of one as many add up as in any other",
        "engine.lattice",
        "return not self.varies and self.raw.shape",
        "return self.raw.shape",
        (EVERY_NUMBER,),
    ),
    Fault(
        "bounds: every product is a square",
        "rules.pointwise",
        "op.operands[0] is op.operands[1]",
        "op.operands[0] is not None",
        (BOUNDED,),
    ),
    Fault(
        "bounds: 0 over anything is 0",
        "rules.pointwise",
        "if data.is_unknown or not other.bounds.is_nonzero:",
        "if data.is_unknown:",
        (BOUNDED,),
    ),
    Fault(
        "bounds: zeros do not count under the largest of numbers of either sign",
        "rules.reduction",
        "counts_zeros = bounds.low < 0 if",
        "counts_zeros = bounds.low > 0 if",
        (BOUNDED,),
    ),
    Fault(
        "bounds: the place of the largest is the same where zeros are gone",
        "rules.reduction",
        "if counts_zeros or has_places",
        "if counts_zeros",
        (BOUNDED,),
    ),
    Fault(
        "bounds: an average over padding lies where its data do",
        "rules.reduction",
        "is not None else as_given_or_0(op, facts)",
        "is not None else as_given(op, facts)",
        (BOUNDED,),
    ),
    Fault(
        "known: what is added to a product is known where one factor is",
        "rules.pointwise",
        "product = (one.known & other.known) | (one.known & (one.value == 0))",
        "product = (one.known & other.known) | one.known",
        unchanging("addcmul"),
    ),
    Fault(
        "known: any weight mixes constants to one number",
        "rules.pointwise",
        "(weight.known & settled) | same",
        "settled | same",
        unchanging("lerp"),
    ),
    Fault(
        "known: batch statistics of what varies over positions leave the bias",
        "rules.normalization",
        "data = uniform_fact(facts[0], (d for d in range(facts[0].ndim) if d != 1))",
        "data = facts[0]",
        unchanging("batch_norm"),
    ),
    Fault(
        "live: what gates a 0 is read, and the 0 is not",
        "rules.gating",
        "torch.cat([gated, gating], axis)",
        "torch.cat([gating, gated], axis)",
        unread("glu"),
    ),
)
