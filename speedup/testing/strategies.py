"""What the property tests draw: a network, masks for it, and all else that an example depends on."""

from __future__ import annotations

from typing import Any

import attrs
from hypothesis import strategies as st
from torch import Tensor, nn

from speedup.plan import Plan
from speedup.testing.assertion import assert_equivalent
from speedup.testing.habits import masks
from speedup.testing.masks import MaskSpec
from speedup.testing.networks import Call, Family, Network, build, networks, sample_call, sample_inputs
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

        The plan is made for all of the network's calls, and compared at sizes that it was not made from.

        Returns the plan.
        """
        given = self.example(), self.masks
        try:
            return assert_equivalent(self.model(), *given, others=self.calls(), unseen=self.elsewhere())
        except Exception as error:
            error.add_note(source_of(self))
            raise

    def model(self) -> nn.Module:
        """The model as the user holds it, which may be in training mode."""
        return build(self.network, self.seed).train(self.training)

    def inputs(self, batch: int, seed: int = 0) -> tuple[Tensor, ...]:
        """Random inputs of that batch size."""
        return sample_inputs(self.network.inputs, batch, seed)

    def example(self) -> Any:
        """The example input as users pass it: a tensor, positional arguments, or keyword arguments."""
        inputs = self.inputs(self.batch)
        return inputs[0] if len(inputs) == 1 and not self.keywords else self._passed(inputs)

    def calls(self) -> list[Any]:
        """The further calls that a plan is to be made for."""
        return [self._passed(sample_call(call, self.batch)) for call in self.network.calls]

    def elsewhere(self) -> list[Any]:
        """Calls at sizes that no plan is made from, of several batch sizes."""
        numbered = enumerate(self.network.elsewhere)
        return [self._passed(sample_call(call, _batch(number), number)) for number, call in numbered]

    def _passed(self, call: tuple[Any, ...]) -> Any:
        return dict(zip(_NAMES, call, strict=False)) if self.keywords else call


_NAMES = ("x", "y")
_BATCHES = (2, 1, 3, 5)


def _batch(number: int) -> int:
    """The batch size of call number so and so elsewhere."""
    return _BATCHES[number % len(_BATCHES)]


@st.composite
def cases(draw: st.DrawFn, family: Family | None = None, *, sized: bool = False) -> Case:
    """Networks with masks, weights, an example batch size and a training flag.

    With `sized`, those that look at sizes or at numbers in tensors, as far as they have any.
    """
    network = draw(networks(family, sized=sized))
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
    further = {
        "others": [_sample_source(call, case.batch, 0, case.keywords) for call in network.calls],
        "unseen": [
            _sample_source(call, _batch(number), number, case.keywords)
            for number, call in enumerate(network.elsewhere)
        ],
    }
    given = {name: samples for name, samples in further.items() if samples}
    if given:
        names |= {"sample_call", "Input"}
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
            *(line for name, samples in given.items() for line in (f"{name} = [", *samples, "]")),
            f"assert_equivalent(model, {', '.join([example, 'masks', *(f'{n}={n}' for n in given)])})",
            "",
        )
    )


def _sample_source(call: Call, batch: int, seed: int, keywords: bool) -> str:
    """A line that makes the call of such a list."""
    sample = f"sample_call({expression(call, 1 << 20)}, {batch}, seed={seed})"
    return f'    dict(zip(("x", "y"), {sample}, strict=False)),' if keywords else f"    {sample},"
