"""One plan for all the ways in which a model is called: `plan_speedup(model, x, masks, others=[...])`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
from torch import Tensor, nn

import speedup
from speedup import (
    InputError,
    OutputError,
    Plan,
    SpeedupError,
    StructureError,
    apply_masks,
    load,
    load_plan,
    materialize,
    plan_speedup,
    save,
    verify,
)
from tests.support.calls import (
    XS,
    Either,
    Forked,
    Heads,
    HeadsNamed,
    IdsOrEmbeddings,
    Optional,
    Resolutions,
    Shifted,
    Tasks,
    cache,
    decoder,
    prepared,
    step,
)
from tests.support.lively import Inputs
from tests.support.masked_model import MaskedModel, normal, token_ids
from tests.support.measure import relative_error
from tests.support.untouched import differences, snapshot

IMAGES, LARGE_IMAGES, MORE = normal(3, 8, 8), normal(3, 12, 12), normal(5, 4)
_SEEDS = (1, 2, 3)


def planned(masked: MaskedModel, *others: Inputs, x: Inputs | None = None) -> Plan:
    """The plan for the model's own inputs, or `x`, and `others`; nothing is touched by it."""
    before = snapshot(masked.model)
    x = masked.make_inputs(2, 0) if x is None else x
    plan = plan_speedup(masked.model, x, masked.masks, others=list(others))
    assert not differences(before, snapshot(masked.model))
    return plan


def assert_same(masked: MaskedModel, small: nn.Module, *calls: Sequence[Inputs]) -> None:
    """Each of `calls`, given with several values, comes out the same."""
    oracle, small = apply_masks(masked.model, masked.masks).eval(), small.eval()
    errors = [relative_error(oracle, small, call) for call in calls]
    assert max(errors) < 1e-9, errors


def drawn(make: Any, *more: Any, batch: int = 3) -> list[Inputs]:
    """One kind of call with several values: what `make` makes, and arguments that stay the same."""
    return [(make(batch, seed), *more) if more else make(batch, seed) for seed in _SEEDS]


def test_decoder_is_planned_for_its_prefill_and_its_steps() -> None:
    masked = decoder()
    plan = planned(masked, step(2, 0))
    small: Any = materialize(plan)
    assert (small.up.out_features, small.down.in_features) == (9, 9)
    for batch in (1, 3):
        steps = [[step(batch, seed, length) for seed in _SEEDS] for length in (1, 5, 9)]
        several = [{"x": normal(4, 6)(batch, seed), "past": cache(batch, 3, seed)} for seed in _SEEDS]
        prefills = [drawn(normal(length, 6), batch=batch) for length in (1, 4, 5, 8)]
        assert_same(masked, small, *prefills, *steps, several)


def test_decoder_that_goes_on_with_its_own_cache_says_the_same() -> None:
    masked = decoder()
    small = materialize(planned(masked, step(2, 0))).eval()
    oracle = apply_masks(masked.model, masked.masks).eval()
    x = XS(3, 1)
    expected: list[Tensor] = []
    actual: list[Tensor] = []
    for model, found in ((oracle, expected), (small, actual)):
        y, past = model(x)
        for _ in range(4):
            found.append(y)
            y, past = model(y[:, -1:].repeat(1, 1, 2), past)
        found.extend(past)
    for one, other in zip(expected, actual, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-9, atol=1e-12)


def test_order_of_prefill_and_step_does_not_matter_for_what_is_computed() -> None:
    masked = decoder()
    small: Any = materialize(planned(masked, XS(2, 0), x=step(2, 0)))
    assert small.up.out_features == 9
    assert_same(masked, small, drawn(XS), [step(3, seed) for seed in _SEEDS])


@pytest.mark.parametrize("first", ["without", "with"])
def test_optional_argument_may_be_there_or_not(first: str) -> None:
    # Of `first` two rows are constants; with the argument they are what `side` makes of it.
    masked = prepared(Optional(), {"first": (0, 3)})
    calls: list[Inputs] = [XS(2, 0), (XS(2, 0), MORE(2, 1))]
    if first == "with":
        calls.reverse()
    small: Any = materialize(planned(masked, calls[1], x=calls[0]))
    assert small.last.in_features == 8
    with_more = [(XS(3, seed), MORE(3, seed + 9)) for seed in _SEEDS]
    assert_same(masked, small, drawn(XS), with_more, drawn(XS, batch=1))


def test_channels_that_are_zero_in_each_call_go() -> None:
    masked = prepared(Optional(), {}, {"first": (0, 3), "side": (0, 3, 4)})
    small: Any = materialize(planned(masked, {"x": XS(2, 0), "more": MORE(2, 1)}))
    assert (small.first.out_features, small.side.out_features, small.last.in_features) == (6, 6, 6)
    assert_same(masked, small, drawn(XS), [(XS(3, seed), MORE(3, seed + 9)) for seed in _SEEDS])


@pytest.mark.parametrize(
    "calls",
    [
        ({"x": XS(2, 0), "task": "a"}, {"x": XS(2, 0), "task": "b"}),
        (XS(2, 0), (XS(2, 1), "b")),
        ((XS(2, 0), "b"), {"x": XS(1, 0)}),
    ],
    ids=["keywords", "positions", "both"],
)
def test_each_task_loses_its_own_rows(calls: tuple[Inputs, Inputs]) -> None:
    masked = prepared(Tasks(), {"trunk": (1, 2)}, {"hidden.a": (0, 1, 2), "hidden.b": (4, 9)})
    small: Any = materialize(planned(masked, calls[1], x=calls[0]))
    assert small.trunk.out_features == 6
    shapes = {task: tuple(small.hidden[task].weight.shape) for task in "ab"}
    assert shapes == {"a": (7, 6), "b": (8, 6)}
    assert (small.heads["a"].in_features, small.heads["b"].in_features) == (7, 8)
    assert_same(masked, small, drawn(XS, "a"), drawn(XS, "b"), drawn(XS, "b", batch=1))


def test_layer_of_the_second_call_alone_keeps_what_it_needs() -> None:
    masked = prepared(Tasks())
    plan = planned(masked, (XS(2, 1), "b"))
    assert plan.parameters_after == plan.parameters_before
    assert_same(masked, materialize(plan), drawn(XS), drawn(XS, "b"))


def test_images_of_two_resolutions_take_two_ways() -> None:
    masked = prepared(Resolutions(), {"first": (1, 4)}, {"large": (0, 3)}, IMAGES)
    small = materialize(planned(masked, LARGE_IMAGES(2, 0)))
    sizes = [normal(3, height, width) for height, width in ((8, 8), (9, 7), (12, 12), (13, 11), (16, 21))]
    assert_same(masked, small, *(drawn(make, batch=batch) for make in sizes for batch in (1, 3)))


def test_channels_of_two_resolutions_go_where_both_have_zeros() -> None:
    masked = prepared(Resolutions(), {}, {"first": (1, 4), "large": (1, 4, 5)}, IMAGES)
    small: Any = materialize(planned(masked, LARGE_IMAGES(2, 0)))
    assert tuple(small.first.weight.shape[:2]) == (6, 3)
    assert small.large.in_channels == 6
    assert_same(masked, small, drawn(IMAGES), drawn(LARGE_IMAGES), drawn(normal(3, 15, 15)))


def test_constants_that_agree_go_into_the_biases() -> None:
    masked = prepared(Either(), {"q": (1, 4)})
    both = planned(masked, (XS(2, 0), True))
    small: Any = materialize(both)
    assert (small.q.out_features, small.o.in_features, small.p.in_features) == (6, 6, 6)
    assert_same(masked, small, drawn(XS), drawn(XS, True))


def test_plan_for_the_same_call_twice_shrinks_as_with_one() -> None:
    masked = prepared(Shifted(), {"q": (1, 4)})
    alone, twice = planned(masked), planned(masked, XS(2, 0))
    assert alone.parameters_after == twice.parameters_after < alone.parameters_before
    assert_same(masked, materialize(twice), drawn(XS))


def test_constants_that_disagree_stay() -> None:
    masked = prepared(Shifted(), {"q": (1, 4)}, {})
    plan = planned(masked, (XS(2, 0), 1.0))
    assert plan.parameters_after == plan.parameters_before
    assert_same(masked, materialize(plan), drawn(XS), drawn(XS, 1.0))


def test_one_channel_stays_of_those_that_are_zero_in_one_of_the_calls_alone() -> None:
    masked = prepared(Shifted(), {}, {"q": (1, 4)})
    small: Any = materialize(planned(masked, (XS(2, 0), 1.0)))
    assert small.o.in_features == 7
    assert_same(masked, small, drawn(XS), drawn(XS, 1.0))


def test_constants_stay_that_disagree_with_the_last_of_three_calls() -> None:
    masked = prepared(Shifted(), {"q": (1, 4)})
    plan = planned(masked, XS(1, 3), (XS(2, 0), 2.0))
    assert materialize(plan).get_submodule("o").in_features == 8
    assert_same(masked, materialize(plan), drawn(XS), drawn(XS, 2.0))


def test_tokens_or_their_embeddings() -> None:
    masked = prepared(IdsOrEmbeddings(), {"up": (0, 5, 6)}, {}, token_ids(7, 20))
    embeddings = normal(4, 6)
    plan = planned(masked, {"inputs_embeds": embeddings(2, 0)}, x={"input_ids": token_ids(7, 20)(2, 0)})
    small: Any = materialize(plan)
    assert small.up.out_features == 7
    tokens = [{"input_ids": token_ids(9, 20)(3, seed)} for seed in _SEEDS]
    assert_same(masked, small, tokens, [{"inputs_embeds": embeddings(3, seed)} for seed in _SEEDS])


def test_number_of_heads_is_solved_for_both_calls() -> None:
    masked = prepared(Heads(), {}, {"q": (3, 4, 5)})
    small: Any = materialize(planned(masked, (XS(2, 0), True)))
    assert (small.heads, small.q.out_features, small.o.in_features) == (3, 9, 9)
    assert_same(masked, small, drawn(XS), drawn(XS, True), drawn(XS, True, batch=1))


def test_number_of_heads_stays_that_one_of_the_calls_compares() -> None:
    masked = prepared(HeadsNamed(), {}, {"q": (3, 4, 5)})
    small = materialize(planned(masked, (XS(2, 0), True)))
    assert small.heads == 4
    assert_same(masked, small, drawn(XS), drawn(XS, True))


def test_ways_that_values_decide_are_planned_from_the_calls_that_take_them() -> None:
    masked = prepared(Forked(), {"positive.0": (0, 1), "negative.0": (2, 3, 4)})
    positive, negative = XS(2, 0).abs(), -XS(2, 0).abs()
    small: Any = materialize(planned(masked, negative, x=positive))
    assert (small.positive[0].out_features, small.negative[0].out_features) == (8, 7)
    ways = [[sign * XS(3, seed).abs() for seed in _SEEDS] for sign in (1, -1)]
    assert_same(masked, small, *ways)


@pytest.mark.parametrize("others", [(), []], ids=["tuple", "list"])
def test_no_others_are_as_if_not_given(others: Any) -> None:
    masked = prepared(Shifted(), {"q": (1, 4)})
    plan = plan_speedup(masked.model, XS(2, 0), masked.masks)
    assert plan_speedup(masked.model, XS(2, 0), masked.masks, others=others) == plan


def test_others_may_be_a_tuple_and_a_call_a_list() -> None:
    masked = prepared(Optional(), {"first": (0, 3)})
    calls = [XS(2, 0), MORE(2, 1)]
    plans = [
        plan_speedup(masked.model, XS(2, 0), masked.masks, others=others)
        for others in ([tuple(calls)], (calls,), [{"x": calls[0], "more": calls[1]}])
    ]
    assert plans[0].edits == plans[1].edits == plans[2].edits


def test_calls_are_not_written_to() -> None:
    masked = decoder()
    call: Any = step(2, 0)
    kept = {"x": call["x"].clone(), "past": tuple(t.clone() for t in call["past"])}
    materialize(planned(masked, call))
    assert torch.equal(call["x"], kept["x"])
    assert all(torch.equal(one, other) for one, other in zip(call["past"], kept["past"], strict=True))


def _failing_calls() -> Mapping[str, tuple[Any, type[SpeedupError], tuple[str, ...]]]:
    x = XS(2, 0)
    return {
        "a tensor": (x, InputError, ("others",)),
        "a dict": ({"x": x}, InputError, ("others",)),
        "a number": (3, InputError, ("others",)),
        "a string": ("x", InputError, ("others",)),
        "a call without a tensor": ([(3,)], InputError, ("others", "0")),
        "a second call without a tensor": ([x, {"x": 1.0}], InputError, ("others", "1")),
        "no call": ([None], InputError, ("others", "0")),
        "a call that is a string": ([x, x, "b"], InputError, ("others", "2")),
        "a shape that the model does not take": ([normal(5, 7)(2, 0)], SpeedupError, ("others",)),
        "an argument that the model does not have": ([{"x": x, "what": x}], SpeedupError, ("others",)),
        "a task that the model does not have": ([x, (x, "c")], SpeedupError, ("others",)),
    }


@pytest.mark.parametrize("name", _failing_calls())
def test_call_that_cannot_be_made_is_a_typed_error_that_names_it(name: str) -> None:
    others, error, words = _failing_calls()[name]
    model = prepared(Tasks()).model
    before = snapshot(model)
    with pytest.raises(error) as caught:
        plan_speedup(model, XS(2, 0), others=others)
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert not differences(before, snapshot(model))


def test_planning_twice_gives_equal_plans() -> None:
    masked = decoder()
    plans = [planned(masked, step(2, 0)) for _ in range(2)]
    assert plans[0] == plans[1]
    assert hash(plans[0]) == hash(plans[1])


def _tasks() -> MaskedModel:
    return prepared(Tasks(), {"trunk": (1, 2)}, {"hidden.a": (0, 1, 2), "hidden.b": (4, 9)})


def _plan_of_tasks(masked: MaskedModel) -> Plan:
    return planned(masked, {"x": XS(2, 1), "task": "b"})


@pytest.mark.parametrize("kind", ["tasks", "decoder"])
def test_plan_that_is_read_back_is_the_plan_for_all_calls(kind: str) -> None:
    masked = _tasks() if kind == "tasks" else decoder()
    plan = _plan_of_tasks(masked) if kind == "tasks" else planned(masked, step(2, 0))
    text = plan.to_json()
    again = Plan.from_json(text)
    assert again == plan
    assert again.to_json() == text
    schema = Path(speedup.__file__).parent / "text" / "plan.schema.json"
    jsonschema.validate(json.loads(text), json.loads(schema.read_text(encoding="utf-8")))
    small = materialize(again, masked.model)
    second = drawn(XS, "b") if kind == "tasks" else [step(3, seed) for seed in _SEEDS]
    assert_same(masked, small, drawn(XS), second)


def test_plan_that_is_read_back_compares_the_other_calls_too() -> None:
    masked = _tasks()
    again = Plan.from_json(_plan_of_tasks(masked).to_json())
    small = materialize(again, masked.model)
    assert verify(again, small, model=masked.model).structure
    _nudge(small, "heads.b.weight")
    with pytest.raises(OutputError, match=r"heads\.b"):
        verify(again, small, model=masked.model)


def test_small_model_is_saved_with_its_calls(tmp_path: Path) -> None:
    masked = _tasks()
    plan = _plan_of_tasks(masked)
    small = materialize(plan)
    path = tmp_path / "small.safetensors"
    save(small, plan, path)
    assert load_plan(path) == plan
    again = load(path, lambda: Tasks().double())
    assert_same(masked, again, drawn(XS), drawn(XS, "b"))
    _nudge(again, "heads.b.bias")
    with pytest.raises(OutputError):
        verify(load_plan(path), again, model=masked.model)


# A layer that became smaller cannot be compared itself; what reads it is.
@pytest.mark.parametrize(
    ("name", "named"),
    [("heads.a.weight", "heads.a"), ("heads.b.weight", "heads.b"), ("hidden.b.bias", "heads.b")],
)
def test_verification_compares_each_call(name: str, named: str) -> None:
    masked = _tasks()
    plan = _plan_of_tasks(masked)
    small = materialize(plan, verify="none")
    found = verify(plan, small)
    assert found.structure and found.error is not None and found.error < 1e-9
    _nudge(small, name)
    with pytest.raises(OutputError, match=named):
        verify(plan, small)


def test_structure_is_compared_for_each_call() -> None:
    masked = prepared(Resolutions(), {}, {"first": (1, 4), "large": (0, 3)}, IMAGES)
    plan = planned(masked, LARGE_IMAGES(2, 0))
    small: Any = materialize(plan, verify="none")
    assert verify(plan, small, level="structure").structure
    small.large.padding = (2, 2)
    with pytest.raises(StructureError):
        verify(plan, small, level="structure")


def test_small_model_trains_in_each_way_of_calling_it() -> None:
    masked = _tasks()
    small = materialize(_plan_of_tasks(masked)).train()
    loss: Tensor = small(XS(3, 1)).sum() + small(XS(3, 1), task="b").sum()
    loss.backward()
    assert all(parameter.grad is not None for parameter in small.parameters())


def _nudge(model: nn.Module, name: str) -> None:
    with torch.no_grad():
        model.get_parameter(name).view(-1)[-1].add_(0.1)


def test_calls_that_were_found_are_read_back_at_their_sizes() -> None:
    masked = prepared(Resolutions(), {"first": (0, 2)}, make_inputs=IMAGES)
    plan = planned(masked)
    again = Plan.from_json(plan.to_json())
    shapes = [[[tuple(t.shape) for t in call.tensors] for call in one.subject.found] for one in (plan, again)]
    assert shapes[0] == shapes[1]
    assert shapes[0] and shapes[0] != [[tuple(IMAGES(2, 0).shape)]]
    materialize(again, masked.model)
    assert Plan.from_json(again.to_json()).to_json() == plan.to_json()


class Positions(nn.Module):
    """Looks up its positions in a table that is shorter than the inputs that it has a layer more for."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(8, 6)
        self.up, self.down = nn.Linear(6, 12), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.table(torch.arange(x.shape[1]))
        if x.shape[1] > 10:
            x = torch.tanh(x)
        return self.down(torch.relu(self.up(x)))


def test_a_size_that_can_be_traced_but_not_run_is_no_reason_to_refuse() -> None:
    masked = prepared(Positions(), gone={"up": (0, 2)})
    plan = planned(masked)
    small: Any = materialize(plan)
    assert small.up.out_features == 10
    found = verify(plan, small)
    assert {one.call for one in found.drawn} == {0}
    assert_same(masked, small, drawn(normal(8, 6)), drawn(normal(1, 6)))
