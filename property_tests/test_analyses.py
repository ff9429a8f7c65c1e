"""What the analyses say of random networks holds when these run, op by op: constants, and what is dead."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from property_tests.test_networks import given_model
from speedup import STANDARD
from speedup.analyses import constants, liveness
from speedup.engine.lattice import Fact
from speedup.ir.evaluation import evaluate
from speedup.ir.graph import Graph, Value
from speedup.ir.inputs import example_from
from speedup.masks import apply_masks, resolve_masks
from speedup.modules.isolation import isolated
from speedup.testing.grammar.sized import looks_at_sizes
from speedup.testing.strategies import Case, cases
from speedup.tracing.trace import trace_call

_FEW = settings(max_examples=max(1, settings().max_examples // 6))
_CLOSE = 1e-8


def _traced(case: Case, inputs: tuple[Tensor, ...]) -> tuple[Graph, Mapping[str, Tensor]]:
    """The graph of the masked model for those inputs, and its tensors."""
    model, given_masks = given_model(case)
    found = trace_call(apply_masks(model, given_masks or {}).eval(), example_from(inputs))
    return found.graph, found.tensors


def _facts(case: Case, graph: Graph, tensors: Mapping[str, Tensor]) -> tuple[Fact, ...]:
    """What is known of the model that is given, from its masks."""
    model, given_masks = given_model(case)
    names = {v.name for v in graph.state}
    own = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    held = {name: own.get(name, tensors[name]).detach() for name in names}
    return constants.find_constants(graph, held, resolve_masks(model, given_masks), STANDARD)


def _run(
    graph: Graph,
    tensors: Mapping[str, Tensor],
    inputs: tuple[Tensor, ...],
    seen: Callable[[Value, Tensor], Tensor] = lambda value, tensor: tensor,
) -> list[Tensor]:
    """The value of every tensor of the graph, each of which passes through `seen` when it is made."""
    values: dict[int, Tensor] = {v.index: seen(v, tensors[v.name].detach()) for v in graph.state}
    values |= {v.index: seen(v, x) for v, x in zip(graph.inputs, inputs, strict=True)}
    with isolated(), torch.no_grad():
        torch.manual_seed(0)
        for op in graph.ops:
            made = evaluate(op, [values[v.index] for v in op.operands])
            values |= {r.index: seen(r, one) for r, one in zip(op.results, made, strict=True)}
    return [values[v.index] for v in graph.values]


@_FEW
@given(case=cases(), seed=st.integers(0, 999))
def test_what_is_known_of_a_network_is_so_at_every_batch_size(case: Case, seed: int) -> None:
    graph, tensors = _traced(case, case.inputs(case.batch))
    facts = _facts(case, graph, tensors)
    other = case.inputs(case.batch + 2, seed)
    again, others = _traced(case, other)
    if looks_at_sizes(case.network.module):
        # What is known of one way need not be so in another.
        assume([op.target for op in again.ops] == [op.target for op in graph.ops])
    assert [op.target for op in again.ops] == [op.target for op in graph.ops]
    for found, tensor in zip(facts, _run(again, others, other), strict=True):
        if not found.is_unknown:
            # What is known one by one along the batch does not broadcast to another batch.
            known, told = (t.expand(tensor.shape) for t in (found.known, found.value))
            torch.testing.assert_close(told[known], tensor[known], rtol=_CLOSE, atol=_CLOSE)


@_FEW
@given(case=cases(), seed=st.integers(0, 999))
def test_what_is_dead_in_a_network_does_not_change_what_it_returns(case: Case, seed: int) -> None:
    inputs = case.inputs(case.batch, seed)
    graph, tensors = _traced(case, inputs)
    lives = liveness.find_liveness(graph, _facts(case, graph, tensors), STANDARD)
    generator = torch.Generator().manual_seed(seed)

    def disturbed(value: Value, tensor: Tensor) -> Tensor:
        """Dead numbers become others of the same sign, so that roots and logarithms of them still exist."""
        if not tensor.is_floating_point():
            return tensor
        drawn = torch.rand(tensor.shape, generator=generator, dtype=tensor.dtype) + 0.5
        return torch.where(lives[value.index], tensor, torch.where(tensor == 0, drawn, tensor * drawn))

    plain, changed = _run(graph, tensors, inputs), _run(graph, tensors, inputs, disturbed)
    for value in graph.outputs:
        torch.testing.assert_close(changed[value.index], plain[value.index], rtol=_CLOSE, atol=_CLOSE)
