"""What the property tests draw: a network, masks for it, and all else that an example depends on."""

from __future__ import annotations

import attrs
from hypothesis import strategies as st
from torch import Tensor, nn

from speedup.plan import Plan
from speedup.testing.assertion import assert_equivalent
from speedup.testing.habits import masks
from speedup.testing.masks import MaskSpec
from speedup.testing.networks import Family, Network, build, networks, sample_inputs
from speedup.testing.source import expression, names_in


@attrs.frozen
class Case:
    """One example: a network with the weights of `seed`, traced at `batch`, and masks for it."""

    network: Network
    seed: int
    batch: int
    masks: MaskSpec
    training: bool = False
    keywords: bool = False

    def check(self) -> Plan:
        """Assert that the small model is the masked one; a failure carries the source that reproduces it.

        Returns the plan.
        """
        try:
            return assert_equivalent(self.model(), self.example(), self.masks)
        except Exception as error:
            error.add_note(source_of(self))
            raise

    def model(self) -> nn.Module:
        """The model as the user holds it, which may be in training mode."""
        return build(self.network, self.seed).train(self.training)

    def inputs(self, batch: int, seed: int = 0) -> tuple[Tensor, ...]:
        """Random inputs of that batch size."""
        return sample_inputs(self.network.inputs, batch, seed)

    def example(self) -> Tensor | tuple[Tensor, ...] | dict[str, Tensor]:
        """The example input as users pass it: a tensor, positional arguments, or keyword arguments."""
        inputs = self.inputs(self.batch)
        if self.keywords:
            return dict(zip(("x", "y"), inputs, strict=False))
        return inputs[0] if len(inputs) == 1 else inputs


@st.composite
def cases(draw: st.DrawFn, family: Family | None = None) -> Case:
    """Networks with masks, weights, an example batch size and a training flag."""
    network = draw(networks(family))
    return Case(
        network=network,
        seed=draw(st.integers(0, 999)),
        batch=draw(st.integers(1, 3)),
        masks=draw(masks(network)),
        training=draw(st.booleans()),
        keywords=draw(st.booleans()),
    )


def source_of(case: Case) -> str:
    """A Python program that builds what `case` builds and asserts what `Case.check` does."""
    network, masks = case.network, case.masks
    blocks = sorted(names_in(network.module) - {"nn"})
    names = {"assert_equivalent", "lively", "sample_inputs", *names_in(network.inputs), *names_in(masks)}
    example = f"sample_inputs(inputs, batch={case.batch})"
    if case.keywords:
        example = f'dict(zip(("x", "y"), {example}, strict=False))'
    return "\n".join(
        (
            "from torch import nn",
            "",
            f"from speedup.testing import {', '.join(sorted(names))}",
            *([f"from speedup.testing.modules import {', '.join(blocks)}"] if blocks else []),
            "",
            f"inputs = {expression(network.inputs)}",
            f"model = {expression(network.module)}",
            f"model = lively(model, inputs, seed={case.seed}).train({case.training})",
            f"masks = {expression(masks)}",
            f"assert_equivalent(model, {example}, masks)",
            "",
        )
    )
