"""What the property tests draw: a network, masks for it, and all else that an example depends on."""

from __future__ import annotations

import attrs
from hypothesis import strategies as st
from torch import Tensor, nn

from property_tests.masks import Masks, masks
from property_tests.networks import FAMILIES, Family, Network, build, networks, sample_inputs

__all__ = [
    "FAMILIES",
    "Case",
    "Family",
    "Masks",
    "Network",
    "build",
    "cases",
    "masks",
    "networks",
    "sample_inputs",
]


@attrs.frozen
class Case:
    """One example: a network with the weights of `seed`, traced at `batch`, and masks for it."""

    network: Network
    seed: int
    batch: int
    masks: Masks
    training: bool = False
    keywords: bool = False

    def model(self) -> nn.Module:
        """The model as the user holds it, which may be in training mode."""
        return build(self.network, self.seed).train(self.training)

    def inputs(self, batch: int, seed: int = 0) -> tuple[Tensor, ...]:
        """Random inputs of that batch size."""
        return sample_inputs(self.network, batch, seed)

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
