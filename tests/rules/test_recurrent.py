"""Recurrent rules against the operators they speak for, and recurrent layers in whole models."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from speedup import Plan, apply_masks, materialize, plan_speedup
from speedup.ir.inputs import example_from
from speedup.rules import STANDARD, rule_for
from speedup.rules.recurrence import describe_recurrence
from speedup.tracing.trace import trace_call
from tests.support.measure import check_exact, relative_error
from tests.support.reports import reasons
from tests.support.soundness import Case, Shape, Tensors, blank, case, dead_claims, known_claims, made_once

Masks = dict[str, Tensor]
HIDDEN, FEATURES = 3, 4
GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}
LAYERS: dict[str, Callable[..., nn.RNNBase]] = {
    "lstm": nn.LSTM,
    "gru": nn.GRU,
    "rnn_tanh": nn.RNN,
    "rnn_relu": lambda *sizes, **options: nn.RNN(*sizes, nonlinearity="relu", **options),
}
CELLS: dict[str, Callable[..., nn.RNNCellBase]] = {
    "lstm": nn.LSTMCell,
    "gru": nn.GRUCell,
    "rnn_tanh": nn.RNNCell,
    "rnn_relu": partial(nn.RNNCell, nonlinearity="relu"),
}


def silent(shape: Shape, generator: torch.Generator) -> Tensor:
    """Normal numbers in which most rows are 0, so that a unit's gate often is."""
    rows = torch.rand((shape[0], *[1] * (len(shape) - 1)), generator=generator) > 0.7
    return torch.randn(shape, generator=generator, dtype=torch.float64) * rows


def _weights(kind: str, layers: int, directions: int, bias: bool) -> list[Tensors]:
    shapes: list[Shape] = []
    for layer in range(layers):
        rows, columns = GATES[kind] * HIDDEN, FEATURES if layer == 0 else directions * HIDDEN
        shapes += [(rows, columns), (rows, HIDDEN), *([(rows,), (rows,)] if bias else [])] * directions
    return [Tensors(shape, silent, state=True) for shape in shapes]


def _stack(kind: str, layers: int = 1, directions: int = 1, bias: bool = True, first: bool = False) -> Case:
    function, states = getattr(torch, kind), 2 if kind == "lstm" else 1

    def run(x: Tensor, *rest: Tensor) -> Any:
        initial = rest[:states] if states == 2 else rest[0]
        return function(x, initial, rest[states:], bias, layers, 0.0, False, directions == 2, first)

    state = Tensors((layers * directions, 2, HIDDEN), blank)
    data = Tensors((2, 5, FEATURES) if first else (5, 2, FEATURES), blank)
    return case(run, data, *[state] * states, *_weights(kind, layers, directions, bias))


def _step(kind: str, bias: bool = True) -> Case:
    function, states = getattr(torch, f"{kind}_cell"), 2 if kind == "lstm" else 1

    def run(x: Tensor, *rest: Tensor) -> Any:
        return function(x, rest[:states] if states == 2 else rest[0], *rest[states:])

    state = Tensors((2, HIDDEN), blank)
    return case(run, Tensors((2, FEATURES), blank), *[state] * states, *_weights(kind, 1, 1, bias))


CASES: dict[str, Callable[[], Case]] = {
    **{kind: partial(_stack, kind) for kind in GATES},
    **{f"{kind} in both directions": partial(_stack, kind, 1, 2) for kind in GATES},
    **{f"two {kind}": partial(_stack, kind, 2, 1, True, True) for kind in GATES},
    **{f"two {kind} without bias": partial(_stack, kind, 2, 2, False) for kind in GATES},
    **{f"{kind} cell": partial(_step, kind) for kind in GATES},
    **{f"{kind} cell without bias": partial(_step, kind, False) for kind in GATES},
}

built = made_once(CASES)


@pytest.mark.parametrize("name", CASES)
def test_what_is_called_known_is_that_constant_for_every_input(name: str) -> None:
    assert known_claims(built(name)) > 0


@pytest.mark.parametrize("name", CASES)
def test_what_is_called_dead_does_not_change_live_results(name: str) -> None:
    assert dead_claims(built(name)) > 0


class Reader(nn.Module):
    """A linear layer, a recurrent one, and a head that reads its outputs or its last states."""

    def __init__(self, layer: nn.RNNBase, of_states: bool = False) -> None:
        super().__init__()
        self.enter, self.layer, self.of_states = nn.Linear(3, layer.input_size), layer, of_states
        width = layer.proj_size or layer.hidden_size
        self.head = nn.Linear(width * (1 + layer.bidirectional), 2)

    def forward(self, x: Tensor) -> Tensor:
        outputs, state = self.layer(self.enter(x).tanh())
        if not self.of_states:
            return self.head(outputs)
        last = state[0] if isinstance(state, tuple) else state
        return self.head(torch.cat([last[-2], last[-1]], -1) if self.layer.bidirectional else last[-1])


class Loop(nn.Module):
    """A cell, stepped along the sequence; the head reads every step's state."""

    def __init__(self, cell: nn.RNNCellBase) -> None:
        super().__init__()
        self.enter, self.cell, self.head = nn.Linear(3, 4), cell, nn.Linear(cell.hidden_size, 2)

    def forward(self, x: Tensor) -> Tensor:
        state, seen = None, []
        for step in self.enter(x).tanh().unbind(1):
            state = self.cell(step, state)
            seen.append(state[0] if isinstance(state, tuple) else state)
        return self.head(torch.stack(seen, 1))


def double(model: nn.Module, seed: int = 0) -> nn.Module:
    """The model in float64 with lively weights."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in (model := model.double()).parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) / 2)
    return model


def unit_mask(parameter: Tensor, gates: int, units: list[int], only: int | None = None) -> Tensor:
    """A mask of all rows of the `units`, or of their rows in one gate."""
    mask = torch.ones_like(parameter).reshape(gates, parameter.shape[0] // gates, -1)
    mask[slice(None) if only is None else only, units] = 0
    return mask.reshape(parameter.shape)


def unit_masks(model: nn.Module, gates: int, units: Mapping[str, list[int]]) -> Masks:
    """Masks of the rows of units, by the part of the parameters' names that follows `_l`."""
    return {
        name: unit_mask(parameter, gates, units[name.partition("_l")[2]])
        for name, parameter in model.named_parameters()
        if name.startswith("layer.") and name.partition("_l")[2] in units
    }


def inputs(length: int = 5, batch_first: bool = True) -> Callable[[int, int], tuple[Tensor]]:
    def make(batch: int, seed: int) -> tuple[Tensor]:
        generator = torch.Generator().manual_seed(seed)
        shape = (batch, length, 3) if batch_first else (length, batch, 3)
        return (torch.randn(shape, generator=generator, dtype=torch.float64),)

    return make


def shrunk(model: nn.Module, masks: Masks, lengths: tuple[int, ...] = (1, 9)) -> tuple[Plan, Any]:
    """The plan and the small model, which is exact at other batch sizes and lengths."""
    others = [inputs(length) for length in lengths]
    check_exact(model, masks, inputs(), other_inputs=others, also_verified=True).require_exact()
    plan = plan_speedup(model, inputs()(2, 0), masks)
    return plan, materialize(plan, verify="none")


# (layers, in both directions, with bias, batch first, whether the head reads the last states)
FORMS = [
    (1, False, True, True, False),
    (1, False, False, False, True),
    (1, True, True, False, True),
    (2, False, True, True, True),
    (2, True, True, True, False),
    (2, True, False, True, True),
]


@pytest.mark.parametrize("kind", GATES)
@pytest.mark.parametrize(("layers", "bidirectional", "bias", "batch_first", "of_states"), FORMS)
def test_a_layer_with_random_masks_becomes_smaller_and_stays_exact(
    kind: str, layers: int, bidirectional: bool, bias: bool, batch_first: bool, of_states: bool
) -> None:
    options: dict[str, Any] = {"num_layers": layers, "bidirectional": bidirectional, "bias": bias}
    layer = LAYERS[kind](4, 6, batch_first=batch_first, **options)
    model = double(Reader(layer, of_states))
    generator = torch.Generator().manual_seed(layers + 2 * bidirectional)
    places = [f"{n}{d}" for n in range(layers) for d in ("", "_reverse")[: 1 + bidirectional]]
    units = {p: torch.randperm(6, generator=generator)[:4].tolist() for p in places}
    masks = unit_masks(model, GATES[kind], units)
    masks["enter.weight"] = torch.tensor([1.0, 0, 1, 0])[:, None]
    others = [inputs(length, batch_first) for length in (1, 8)]
    result = check_exact(model, masks, inputs(5, batch_first), other_inputs=others, also_verified=True)
    result.require_exact()

    small: Any = materialize(plan_speedup(model, inputs(5, batch_first)(2, 0), masks), verify="none")
    # The last states of both directions stand in one tensor, so they keep the units of either.
    joined = of_states and bidirectional
    kept = 6 - len(set(units[places[-1]]) & set(units[places[-2]])) if joined else 2
    assert small.layer.hidden_size == kept
    assert small.layer.input_size == (2 if bias else 4)
    assert repr(small.layer).startswith(f"{type(layer).__name__}({small.layer.input_size}, {kept}")


@pytest.mark.parametrize("kind", GATES)
@pytest.mark.parametrize("bias", [True, False])
def test_a_stepped_cell_becomes_smaller_and_stays_exact(kind: str, bias: bool) -> None:
    model = double(Loop(CELLS[kind](4, 6, bias=bias)))
    masks = {
        name: unit_mask(parameter, GATES[kind], [0, 3])
        for name, parameter in model.named_parameters()
        if name.startswith("cell.")
    }
    _, small = shrunk(model, masks, ())
    assert small.cell.hidden_size == 4
    assert tuple(small.cell.weight_hh.shape) == (4 * GATES[kind], 4)


@pytest.mark.parametrize("kind", GATES)
def test_a_single_step_absorbs_constant_columns(kind: str) -> None:
    class Step(Loop):
        def forward(self, x: Tensor) -> Tensor:
            state = self.cell(self.enter(x[:, 0]).tanh())
            return self.head(state[0] if isinstance(state, tuple) else state)

    model = double(Step(CELLS[kind](4, 6)))
    _, small = shrunk(model, {"enter.weight": torch.tensor([1.0, 0, 1, 0])[:, None]})
    assert small.cell.input_size == 2


@pytest.mark.parametrize(("kind", "gate"), [("lstm", 2), ("gru", 2)])
def test_a_unit_goes_when_nothing_ever_enters_it(kind: str, gate: int) -> None:
    model = double(Reader(LAYERS[kind](4, 6, batch_first=True)))
    parameters = dict(model.get_submodule("layer").named_parameters())
    masks = {f"layer.{n}": unit_mask(p, GATES[kind], [1, 4], gate) for n, p in parameters.items()}
    assert shrunk(model, masks)[1].layer.hidden_size == 4


@pytest.mark.parametrize("kind", GATES)
def test_a_unit_whose_bias_is_alive_stays(kind: str) -> None:
    model: Any = double(Reader(LAYERS[kind](4, 6, batch_first=True)))
    masks = unit_masks(model, GATES[kind], {"0": [1, 4]})
    del masks["layer.bias_ih_l0"]
    with torch.no_grad():
        model.layer.bias_ih_l0.abs_()
    assert shrunk(model, masks)[1].layer.hidden_size == 6


def test_a_rectified_unit_whose_bias_is_negative_goes() -> None:
    model: Any = double(Reader(LAYERS["rnn_relu"](4, 6, batch_first=True)))
    masks = unit_masks(model, 1, {"0": [1, 4]})
    del masks["layer.bias_ih_l0"]
    with torch.no_grad():
        model.layer.bias_ih_l0.abs_().neg_()
    assert shrunk(model, masks)[1].layer.hidden_size == 4


def test_opposite_biases_cancel_in_an_lstm_but_not_behind_the_reset_gate_of_a_gru() -> None:
    for kind, kept in (("lstm", 5), ("gru", 6)):
        model: Any = double(Reader(LAYERS[kind](4, 6, batch_first=True)))
        masks = unit_masks(model, GATES[kind], {"0": [1]})
        del masks["layer.bias_ih_l0"], masks["layer.bias_hh_l0"]
        with torch.no_grad():
            model.layer.bias_hh_l0.copy_(-model.layer.bias_ih_l0)
        assert shrunk(model, masks)[1].layer.hidden_size == kept


@pytest.mark.parametrize("kind", GATES)
def test_a_unit_that_nothing_reads_goes(kind: str) -> None:
    model = double(Reader(LAYERS[kind](4, 6, batch_first=True)))
    columns = torch.ones(1, 6)
    columns[:, [0, 2]] = 0
    recurrent = torch.ones(GATES[kind] * 6, 6)
    # Units 0 and 2 read each other, and nobody reads them.
    alive = [r for r in range(GATES[kind] * 6) if r % 6 not in (0, 2)]
    recurrent[alive, 0] = recurrent[alive, 2] = 0
    masks = {"head.weight": columns, "layer.weight_hh_l0": recurrent}
    assert shrunk(model, masks)[1].layer.hidden_size == 4
    del masks["layer.weight_hh_l0"]
    assert shrunk(model, masks)[1].layer.hidden_size == 6


@pytest.mark.parametrize("kind", GATES)
def test_layers_and_directions_keep_different_units_but_equally_many(kind: str) -> None:
    layer = LAYERS[kind](4, 6, num_layers=2, bidirectional=True, batch_first=True)
    model = double(Reader(layer))
    units = {"0": [0, 1], "0_reverse": [4, 5], "1": [0, 3], "1_reverse": [2]}
    plan, small = shrunk(model, unit_masks(model, GATES[kind], units))
    assert small.layer.hidden_size == 5
    assert small.layer.weight_ih_l1.shape == (GATES[kind] * 5, 10)
    assert "one hidden_size" in reasons(plan, "layer")
    assert sum(b.count for b in plan.blocked if b.path == "layer") == 3


@pytest.mark.parametrize("kind", GATES)
def test_a_fully_masked_layer_runs_on(kind: str) -> None:
    model = double(Reader(LAYERS[kind](4, 6, num_layers=2, bidirectional=True, batch_first=True)))
    masks = {f"layer.{n}": torch.zeros_like(p) for n, p in model.get_submodule("layer").named_parameters()}
    plan, small = shrunk(model, masks)
    assert small.layer.hidden_size == 1
    assert plan.parameters_after < plan.parameters_before / 4


def test_constants_move_into_the_bias_of_every_direction() -> None:
    model = double(Reader(nn.LSTM(4, 6, bidirectional=True, batch_first=True)))
    plan, small = shrunk(model, {"enter.weight": torch.tensor([1.0, 0, 0, 1])[:, None]})
    assert small.layer.input_size == 2
    (note,) = {note for layer in plan.report.layers if layer.path == "layer" for note in layer.notes[:1]}
    assert note == "2 constant columns into layer.bias_ih_l0"


def test_constants_stay_without_a_bias_that_is_the_layers_own() -> None:
    masks = {"enter.weight": torch.tensor([1.0, 0, 0, 1])[:, None]}
    for tied in (False, True):
        model: Any = double(Reader(nn.LSTM(4, 6, bidirectional=True, bias=tied, batch_first=True)))
        if tied:
            model.layer.bias_ih_l0_reverse = model.layer.bias_ih_l0
        plan, small = shrunk(model, masks)
        assert small.layer.input_size == 4
        assert "no bias_ih can take over" in reasons(plan, "enter")


def test_a_constant_that_varies_along_the_sequence_stays() -> None:
    class Positioned(Reader):
        def __init__(self, layer: nn.RNNBase) -> None:
            super().__init__(layer)
            self.positions = nn.Parameter(torch.ones(5, 4))

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.layer(self.enter(x) + self.positions)[0])

    model = double(Positioned(nn.GRU(4, 6, batch_first=True)))
    masks = {"enter.weight": torch.tensor([1.0, 0, 0, 1])[:, None]}
    assert shrunk(model, masks, ())[1].layer.input_size == 4


@pytest.mark.parametrize("kind", ["rnn_tanh", "rnn_relu"])
@pytest.mark.parametrize("is_read", [False, True])
def test_a_constant_unit_goes_unless_the_recurrence_reads_it(kind: str, is_read: bool) -> None:
    model: Any = double(Reader(LAYERS[kind](4, 6, num_layers=2, batch_first=True)))
    masks = unit_masks(model, 1, {"0": [2], "1": [5]})
    for layer, unit in ((0, 2), (1, 5)):
        del masks[f"layer.bias_ih_l{layer}"], masks[f"layer.bias_hh_l{layer}"]
        if not is_read:
            masks[f"layer.weight_hh_l{layer}"][:, unit] = 0
    with torch.no_grad():
        model.layer.bias_ih_l0.abs_()
        model.layer.bias_ih_l1.abs_()
    assert shrunk(model, masks)[1].layer.hidden_size == (6 if is_read else 5)


class Started(nn.Module):
    """A GRU that starts from a state of the forward's making."""

    def __init__(self, start: Tensor | None) -> None:
        super().__init__()
        self.layer, self.head = nn.GRU(3, 6, batch_first=True), nn.Linear(6, 2)
        self.start = None if start is None else nn.Parameter(start)

    def forward(self, x: Tensor) -> Tensor:
        if self.start is None:
            state = torch.zeros(1, x.shape[0], 6, dtype=x.dtype)
        else:
            state = self.start.expand(-1, x.shape[0], -1).contiguous()
        return self.head(self.layer(x, state)[0])


def test_a_learnt_initial_state_shrinks_with_its_units() -> None:
    model = double(Started(torch.ones(1, 1, 6)))
    masks = unit_masks(model, 3, {"0": [1, 2]})
    assert shrunk(model, masks)[1].layer.hidden_size == 6
    start = torch.ones(1, 1, 6)
    start[..., [1, 2]] = 0
    _, small = shrunk(model, masks | {"start": start})
    assert (small.layer.hidden_size, small.start.shape) == (4, (1, 1, 4))


def test_a_literal_initial_state_is_exact_whether_or_not_it_can_shrink() -> None:
    model = double(Started(None))
    plan, small = shrunk(model, unit_masks(model, 3, {"0": [1, 2]}))
    assert small.layer.hidden_size == 4 or "one hidden_size" in reasons(plan, "layer")


def test_states_handed_to_another_layer_tie_the_units_of_both() -> None:
    class Translator(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.decoder = (nn.LSTM(3, 6, 2, batch_first=True) for _ in range(2))
            self.head = nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.decoder(x, self.encoder(x)[1])[0])

    model = double(Translator())
    named = list(model.named_parameters())
    masks = {n: unit_mask(p, 4, [0, 5]) for n, p in named if n.startswith(("encoder", "decoder"))}
    _, small = shrunk(model, masks)
    assert (small.encoder.hidden_size, small.decoder.hidden_size) == (4, 4)
    _, small = shrunk(model, {n: m for n, m in masks.items() if n.startswith("encoder")})
    assert (small.encoder.hidden_size, small.decoder.hidden_size) == (6, 6)


def test_states_that_are_returned_stay_whole() -> None:
    class Returning(Reader):
        def forward(self, x: Tensor) -> Any:
            outputs, (state, _) = self.layer(self.enter(x))
            return self.head(outputs), state

    model = double(Returning(nn.LSTM(4, 6, batch_first=True)))
    plan, small = shrunk(model, unit_masks(model, 4, {"0": [0]}))
    assert small.layer.hidden_size == 6
    assert "the model returns them" in reasons(plan, "layer")


def test_projected_states_pin_the_layer_with_a_reason() -> None:
    model = double(Reader(nn.LSTM(4, 6, proj_size=3, batch_first=True)))
    plan, small = shrunk(model, {"enter.weight": torch.tensor([1.0, 0, 0, 1])[:, None]})
    assert (small.layer.input_size, small.layer.hidden_size) == (4, 6)
    assert "proj_size" in reasons(plan, "enter")


def test_an_example_of_one_step_says_nothing_of_longer_ones() -> None:
    model = double(Reader(nn.RNN(4, 6, batch_first=True)))
    columns = torch.tensor([[0.0, 1, 1, 1, 1, 1]])
    plan = plan_speedup(model, inputs(1)(1, 0), {"head.weight": columns})
    small = materialize(plan)
    calls = [inputs(7)(3, seed) for seed in range(3)]
    assert relative_error(apply_masks(model, {"head.weight": columns}), small, calls) < 1e-10


def test_an_unbatched_sequence_is_planned_too() -> None:
    model = double(Reader(nn.GRU(4, 6)))
    masks = unit_masks(model, 3, {"0": [0, 1]})
    make = [torch.randn(5, 3, dtype=torch.float64) for _ in range(3)]
    small: Any = materialize(plan_speedup(model, make[0], masks))
    assert small.layer.hidden_size == 4
    assert relative_error(apply_masks(model, masks), small, [(x,) for x in make]) < 1e-10


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_a_small_layer_is_a_native_one(kind: Callable[..., nn.RNNBase]) -> None:
    model: Any = Reader(kind(4, 6, 2, bidirectional=True, batch_first=True))
    gates = model.layer.weight_hh_l0.shape[0] // 6
    places = ("0", "0_reverse", "1", "1_reverse")
    masks = unit_masks(model, gates, {place: [0, 3] for place in places})
    x = torch.randn(2, 5, 3)
    small: Any = materialize(plan_speedup(model, x, masks))
    for one in (small, copy.deepcopy(small), copy.deepcopy(small).to(torch.float32)):
        weights = list(one.layer.parameters())
        assert all(a is b for a, b in zip(one.layer._flat_weights, weights, strict=True))
        assert all(ref() is w for ref, w in zip(one.layer._flat_weight_refs, weights, strict=True))
    fresh = kind(4, 4, 2, bidirectional=True, batch_first=True)
    fresh.load_state_dict(small.layer.state_dict())
    between = torch.randn(2, 5, 4)
    assert torch.equal(fresh(between)[0], small.layer(between)[0])
    before = small(x).sum()
    before.backward()
    torch.optim.SGD(small.parameters(), 0.1).step()
    assert small(x).sum() < before


def test_work_is_counted_per_step_layer_and_direction() -> None:
    model = nn.LSTM(3, 6, 2, bidirectional=True, batch_first=True)
    plan = plan_speedup(model, torch.randn(2, 5, 3))
    matrices = sum(p.numel() for n, p in model.named_parameters() if n.startswith("weight"))
    assert plan.macs_before == 2 * 5 * matrices


def test_active_dropout_between_layers_is_not_modelled() -> None:
    def run(x: Tensor, h: Tensor, *weights: Tensor) -> Any:
        return torch.gru(x, h, weights, False, 1, 0.5, True, False, False)

    graph = trace_call(_Calling(run), example_from((torch.randn(5, 2, 4), torch.zeros(1, 2, 3)))).graph
    (op,) = (op for op in graph.ops if op.name == "gru")
    assert describe_recurrence(op) is None
    assert rule_for(op.target, STANDARD) is STANDARD[torch.ops.aten.gru.input]


class _Calling(nn.Module):
    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function
        self.first, self.second = nn.Parameter(torch.randn(9, 4)), nn.Parameter(torch.randn(9, 3))

    def forward(self, x: Tensor, h: Tensor) -> Any:
        return self.function(x, h, self.first, self.second)
