"""Choices are measured, are values, and are applied to the models that they are for."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from math import nan
from pathlib import Path
from typing import Any

import pytest
import torch
from attrs import evolve
from torch import nn

from speedup import (
    Choices,
    ChoicesFormatError,
    ForeignChoicesError,
    InputError,
    ModelError,
    OutputError,
    Plan,
    apply_masks,
    materialize,
    plan_speedup,
    tune,
    verify,
)
from speedup.measuring import tuning
from speedup.measuring.timing import Timing
from speedup.measuring.tuning import Tuning, candidates_for, is_close, is_faster
from speedup.sparse.applying import dense_model, sparse_capable
from speedup.sparse.layers import SparseConv2d, SparseLinear
from speedup.sparse.measured import Candidate, Measured
from speedup.sparse.weight import SparseModule
from tests.support.sparse import blocky, choices_of, chosen_everywhere, thinned


class Net(nn.Module):
    """Convolutions, one of them 1 x 1, and linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 32, 3, padding=1)
        self.narrow = nn.Conv2d(32, 32, 1)
        self.up, self.down = nn.Linear(32, 64), nn.Linear(64, 32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.narrow(self.first(x).relu()).relu().mean((2, 3))
        out: torch.Tensor = x + self.down(self.up(x).relu())
        return out


@pytest.fixture
def plan() -> Plan:
    model = Net().double().eval()
    for layer in (model.narrow, model.up, model.down):
        thinned(layer, 0.8)
    masks = {"first.weight": torch.arange(32)[:, None, None, None] > 3, "first.bias": torch.arange(32) > 3}
    return plan_speedup(model, torch.randn(2, 3, 6, 6, dtype=torch.float64), masks)


def test_tuning_measures_every_layer_that_a_kernel_takes_and_changes_nothing(plan: Plan) -> None:
    text, state = plan.to_json(), copy.deepcopy(plan.subject.planned_model().state_dict())
    seen: list[Tuning] = []
    choices = tune(plan, rounds=2, seconds=1e-4, progress=seen.append)
    assert [layer.path for layer in choices.layers] == ["narrow", "up", "down"] == [one.path for one in seen]
    assert all(layer.dense is not None and layer.candidates and layer.calls == 1 for layer in choices.layers)
    assert all(layer.why or layer.chosen for layer in choices.layers)
    assert plan.to_json() == text
    now = plan.subject.planned_model().state_dict()
    assert all(torch.equal(now[name], tensor) for name, tensor in state.items())


def test_chosen_layers_are_sparse_and_the_model_is_exact_at_other_batches(plan: Plan) -> None:
    choices = chosen_everywhere(plan)
    small = materialize(plan, choices=choices)
    kinds = [type(small.get_submodule(path)) for path in ("first", "narrow", "up", "down")]
    assert kinds == [nn.Conv2d, SparseConv2d, SparseLinear, SparseLinear]
    assert isinstance(small.first, nn.Conv2d) and small.first.out_channels == 28
    masked = apply_masks(plan.subject.planned_model(), plan.subject.masks).eval()
    for batch in (1, 2, 5):
        x = torch.randn(batch, 3, 7, 5, dtype=torch.float64)
        torch.testing.assert_close(small(x), masked(x), rtol=1e-11, atol=1e-11)
    assert verify(plan, small).error is not None


@pytest.mark.parametrize("gains", [True, False], ids=["gains", "does not"])
def test_what_layers_gain_is_taken_where_the_model_gains(
    plan: Plan, monkeypatch: pytest.MonkeyPatch, gains: bool
) -> None:
    """The clock is made up: layers take 3 s, kernels 1 s; the model 3 s, with kernels 2 s or 4 s."""

    def timed(runs: Sequence[Callable[[], object]], *, rounds: int, **_: Any) -> tuple[Timing, ...]:
        dense, *others = (run() for run in runs)
        for other in others:
            torch.testing.assert_close(other, dense, rtol=1e-11, atol=1e-11)
        # Of layers, several kernels are measured.
        is_whole = len(runs) == 2
        fast = (2.0 if gains else 4.0) if is_whole else 1.0
        return Timing(3.0, 3.0, 3.0), *(Timing(fast, fast, fast) for _ in others)

    monkeypatch.setattr(tuning, "take_turns", timed)
    choices = tune(plan, rounds=2)
    assert [layer.path for layer in choices.chosen] == (["narrow", "up", "down"] if gains else [])
    assert choices.whole is not None and (choices.errors is not None) is gains
    assert all("as a whole" in layer.why for layer in choices.layers if layer.chosen is None)


def test_without_choices_all_is_as_before(plan: Plan) -> None:
    small = materialize(plan, verify="none")
    assert not any(isinstance(module, SparseModule) for module in small.modules())


def test_wrong_sparse_weights_are_not_handed_out(plan: Plan) -> None:
    small = materialize(plan, choices=chosen_everywhere(plan), verify="none")
    small.get_submodule("up").weight_values.mul_(2.0)  # type: ignore[operator]
    with pytest.raises(OutputError, match="'up'"):
        verify(plan, small)


def test_dense_model_is_the_small_one_without_choices(plan: Plan) -> None:
    sparse = materialize(plan, choices=chosen_everywhere(plan))
    again, small = dense_model(sparse), materialize(plan)
    assert repr(again) == repr(small)
    state = small.state_dict()
    assert {*again.state_dict()} == {*state}
    assert all(torch.equal(tensor, state[name]) for name, tensor in again.state_dict().items())
    assert isinstance(sparse.get_submodule("up"), SparseLinear)


def test_a_model_with_sparse_weights_is_not_planned_again(plan: Plan) -> None:
    small = materialize(plan, choices=chosen_everywhere(plan), verify="none")
    with pytest.raises(
        ModelError, match=r"module 'narrow' \(SparseConv2d\) has a sparse weight; plan speedup"
    ):
        plan_speedup(small, torch.randn(2, 3, 6, 6, dtype=torch.float64))
    plan_speedup(dense_model(small), torch.randn(2, 3, 6, 6, dtype=torch.float64))


def test_transformer_layers_of_torch_call_their_sparse_parts() -> None:
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True).eval()
    thinned(layer.linear1, 0.7)
    x = torch.randn(2, 5, 16)
    plan = plan_speedup(layer, x)
    small = materialize(plan, choices=chosen_everywhere(plan))
    linear = small.get_submodule("linear1")
    assert isinstance(linear, SparseLinear)
    with torch.inference_mode():
        found = small(x)
        linear.weight_values.zero_()
        assert not torch.equal(small(x), found)
        torch.testing.assert_close(found, layer(x))
    assert any("made_for_kernel" in name for name in vars(linear))


def test_a_model_that_is_itself_a_layer_becomes_sparse() -> None:
    model = thinned(nn.Linear(32, 16).eval(), 0.9)
    plan = plan_speedup(model, torch.randn(2, 32))
    small = materialize(plan, choices=chosen_everywhere(plan))
    assert isinstance(small, SparseLinear)


def test_choices_are_values_that_text_and_files_hold(plan: Plan, tmp_path: Path) -> None:
    choices = tune(plan, rounds=2, seconds=1e-4)
    choices.save(tmp_path / "choices.json")
    again = Choices.load(tmp_path / "choices.json")
    assert again == choices and hash(again) == hash(choices) and str(again) == str(choices)
    assert Choices.from_json(choices.to_json()) == choices
    with pytest.raises(AttributeError):
        choices.rounds = 3  # type: ignore[misc]
    assert choices.agreement(choices) == 1.0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "no text of choices"),
        ("[]", "something else"),
        ('{"format": "speedup.choices", "version": 99}', "version 99"),
        ('{"format": "speedup.choices", "version": 1, "rounds": "x"}', "damaged"),
    ],
)
def test_damaged_texts_of_choices_are_refused(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "choices.json").write_text(text)
    with pytest.raises(ChoicesFormatError, match=said):
        Choices.load(tmp_path / "choices.json")
    with pytest.raises(ChoicesFormatError, match="cannot be read"):
        Choices.load(tmp_path / "nothing.json")


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ({"kernel": "fast"}, "a kernel 'fast' with blocks of 1, which"),
        ({"side": 0}, "blocks of 0"),
        ({"side": 8}, "a kernel 'csr' with blocks of 8"),
        ({"seconds": {"median": 0.0, "low": 0.0, "high": 0.0}}, "times"),
    ],
)
def test_choices_of_what_cannot_be_are_refused(plan: Plan, part: dict[str, Any], said: str) -> None:
    content = json.loads(choices_of(plan, lambda count: 0).to_json())
    content["layers"][1]["candidates"][0].update(part)
    with pytest.raises(ChoicesFormatError, match=f"'up' has .*{said}"):
        Choices.from_json(json.dumps(content))


def test_choices_of_another_machine_or_model_are_refused_and_can_be_taken_all_the_same(plan: Plan) -> None:
    choices = chosen_everywhere(plan)
    other_machine = evolve(choices, machine=evolve(choices.machine, processor="another"))
    with pytest.raises(ForeignChoicesError, match="the processor was another, here it is"):
        materialize(plan, choices=other_machine)
    assert isinstance(materialize(plan, choices=other_machine.unchecked()).get_submodule("up"), SparseLinear)
    with pytest.raises(ForeignChoicesError, match="measured was float32"):
        materialize(plan, choices=evolve(choices, dtype="float32"))
    layers = (*choices.layers[:-1], evolve(choices.layers[-1], pattern=1))
    with pytest.raises(ForeignChoicesError, match="'down' has its zeros elsewhere"):
        materialize(plan, choices=evolve(choices, layers=layers))
    layers = (*choices.layers[:-1], evolve(choices.layers[-1], shape=(32, 65)))
    with pytest.raises(ForeignChoicesError, match=r"measured was \(32, 65\)"):
        materialize(plan, choices=evolve(choices, layers=layers).unchecked())
    layers = (*choices.layers[:-1], evolve(choices.layers[-1], path="out"))
    with pytest.raises(ForeignChoicesError, match="there is no layer 'out'"):
        materialize(plan, choices=evolve(choices, layers=layers).unchecked())


def test_bad_arguments_are_refused(plan: Plan) -> None:
    with pytest.raises(InputError, match="choices is a dict"):
        materialize(plan, choices={})  # type: ignore[arg-type]
    bad: tuple[dict[str, Any], ...] = ({"rounds": 1}, {"threads": 0}, {"seconds": nan}, {"margin": -1.0})
    for arguments in bad:
        with pytest.raises(InputError, match="at least two rounds"):
            tune(plan, **arguments)
    with pytest.raises(InputError, match="device='nowhere' cannot be measured on"):
        tune(plan, device="nowhere")
    with pytest.raises(InputError, match="does not run on this input"):
        tune(plan, torch.randn(2, 4, 5, 5))


def test_a_candidate_has_to_be_faster_by_the_margin_whatever_else_ran() -> None:
    dense = Measured(1.0, 0.95, 1.05)
    assert is_faster(Measured(0.8, 0.75, 0.9), dense, 0.05)
    assert is_faster(Measured(0.8, 0.75, 7.0), dense, 0.05)
    assert not is_faster(Measured(0.97, 0.96, 0.98), dense, 0.05)
    assert not is_faster(Measured(0.8, 0.94, 0.96), dense, 0.05)


def test_what_is_near_the_margin_is_measured_once_more() -> None:
    dense = Measured(1.0, 1.0, 1.0)
    assert [is_close(Measured(t, t, t), dense, 0.05) for t in (0.5, 0.9, 0.97, 1.04, 2.0)] == [
        *(False, True, True, True, False)
    ]
    assert is_close(Measured(0.5, 1.5, 0.5), dense, 0.05)


def test_blocks_are_candidates_where_the_zeros_make_them_in_some_order() -> None:
    def proposed(layer: nn.Linear) -> set[tuple[str, int, bool]]:
        return {(one.kernel, one.side, one.is_ordered) for one in candidates_for(layer.weight)}

    assert proposed(thinned(nn.Linear(64, 64), 0.9)) == {("csr", 1, False), ("bags", 1, False)}
    assert proposed(blocky(nn.Linear(64, 64), 16)) >= {("bsr", 8, True), ("bsr", 16, True)}
    blocks = nn.Linear(64, 64)
    with torch.no_grad():
        blocks.weight[:32] = 0
    assert ("bsr", 32, False) in proposed(blocks)
    assert [*candidates_for(torch.zeros(32, 32, dtype=torch.bfloat16))] == []


def test_layers_that_share_a_weight_and_those_that_nothing_calls_stay_dense() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = (thinned(nn.Linear(16, 16), 0.9) for _ in range(3))
            self.b.weight = self.a.weight

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.b(self.a(x)) + x @ self.c.weight
            return out

    plan = plan_speedup(Tied().eval(), torch.randn(2, 16))
    assert [path for path, _ in sparse_capable(plan.subject.planned_model())] == ["c"]
    choices = tune(plan, rounds=2, seconds=1e-4)
    assert [(layer.path, layer.why) for layer in choices.layers] == [("c", "the forward does not call it")]


def test_the_table_says_what_was_chosen_and_what_it_gains(plan: Plan) -> None:
    choices = chosen_everywhere(plan)
    up = evolve(choices.layers[1], dense=Measured(2e-3, 2e-3, 2e-3))
    fast = Candidate("csr", 1, False, Measured(5e-4, 5e-4, 5e-4))
    up = evolve(up, candidates=(fast,), taken=0)
    down = evolve(choices.layers[2], taken=None, why="no kernel is faster by the margin")
    told = evolve(choices, layers=(choices.layers[0], up, down)).table(140)
    assert told.startswith(
        "unstructured: 80% of the weights of 3 layers are zero; measured: 2 of 3 layers gain"
    )
    (line,) = (line for line in told.splitlines() if " up " in line)
    assert [cell.strip() for cell in line.strip("│ ").split("│")] == [
        "up", "Linear", "80.0%", "2.000 ms", "0.500 ms (csr)", "4.00x", "csr",
    ]  # fmt: skip
    assert "dense: no kernel is faster by the margin" in told
