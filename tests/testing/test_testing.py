"""`speedup.testing`: what it draws, what it refuses, and what it says."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from attrs import evolve
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from speedup import InputError
from speedup.testing import (
    Case,
    Input,
    MaskSpec,
    Network,
    Scattered,
    Slices,
    Spec,
    Whole,
    assert_equivalent,
    expression,
    inputs_like,
    lively,
    mask_argument,
    masks_for,
    networks,
    sample_inputs,
    source_of,
)
from speedup.testing.grammar.sized import looks_at_sizes
from speedup.testing.modules import (
    Either,
    FusedAttention,
    ItemNumber,
    Net,
    OptionalInput,
    PeakScale,
    Rounds,
    TwoInputNet,
)
from speedup.testing.seeded import search_seeded, seeded_masks
from speedup.tracing.exploring import Exploration
from tests.support.repository import ROOT, example_run_by

QUICK = settings(
    max_examples=10,
    deadline=None,
    database=None,
    derandomize=True,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
CASE = Case(
    network=Network(
        (Input((2, 5, 5)),), Spec.of(Net, Spec.of(nn.Conv2d, 2, 6, 3), Spec.of(nn.Conv2d, 6, 4, 3))
    ),
    seed=3,
    batch=2,
    masks=MaskSpec((Slices("stages.0.weight", 0, (1, 2)),), compact=True),
    training=True,
)


def two_layers() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3))


def images(batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def off_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows of what was cut arrive one place further."""
    library = importlib.import_module("speedup.building.materializing")
    apply_edits = library.apply_edits

    def planted(held: Mapping[str, Tensor], masks: object, edits: object) -> dict[str, Tensor]:
        new = apply_edits(held, masks, edits)
        return {name: t.roll(1, 0) if t.shape != held[name].shape else t for name, t in new.items()}

    monkeypatch.setattr(library, "apply_edits", planted)


def test_an_equivalent_model_passes_and_its_plan_is_returned() -> None:
    plan = assert_equivalent(two_layers(), images(), MaskSpec((Slices("0.weight", 0, (0, 1, 2)),)))
    assert plan.parameters_after < plan.parameters_before


def test_masks_may_be_given_as_to_the_planner() -> None:
    mask = torch.ones(6, 3, 3, 3)
    mask[:2] = 0
    plan = assert_equivalent(two_layers(), (images(),), {"0": {"weight": mask}}, others=[images(1)])
    assert plan.layers[0].path == "0"


class Tasks(nn.Module):
    """Two last layers by task; large images are pooled."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, padding=1)
        self.a, self.b = nn.Conv2d(6, 4, 1), nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor, task: str = "a", gain: Tensor | None = None) -> Tensor:
        x = torch.relu(self.first(x))
        if x.shape[-1] > 10:
            x = nn.functional.max_pool2d(x, 2)
        x = self.a(x) if task == "a" else self.b(x)
        return x if gain is None else x * gain


ROWS = MaskSpec((Slices("first.weight", 0, (0, 1, 2)), Slices("first.bias", 0, (0, 1, 2))))


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """The shapes and the other arguments of all calls that are compared."""
    kind = importlib.import_module("speedup.testing.oracle").Yardstick
    deviation, seen = kind.deviation, []

    def watched(self: Any, small: nn.Module, tensors: tuple[Tensor, ...]) -> str | None:
        args, kwargs = self.example.call(tensors)
        seen.append(tuple(tuple(a.shape) if isinstance(a, Tensor) else a for a in (*args, *kwargs.values())))
        found: str | None = deviation(self, small, tensors)
        return found

    monkeypatch.setattr(kind, "deviation", watched)
    return seen


def test_others_are_planned_for_and_compared_at_other_batch_sizes(compared: list[tuple[Any, ...]]) -> None:
    others = [{"x": images(), "task": "b", "gain": images()[:, :2]}, (images(1), "b")]
    plan = assert_equivalent(Tasks(), images(), ROWS, others=others)
    assert len(plan.subject.others) == 2
    assert {edit.name for edit in plan.edits if hasattr(edit, "name")} >= {"a.weight", "b.weight"}
    expected = {(n, 3, 8, 8) for n in (1, 2, 3)}
    assert {call[0] for call in compared if len(call) == 1 and call[0][-1] == 8} == expected
    assert {call[0] for call in compared if call[1:] == ("b",)} >= {(1, 3, 8, 8), (3, 3, 8, 8)}
    assert {call[2] for call in compared if len(call) == 3} >= {(2, 2, 8, 8), (3, 2, 8, 8)}


def test_sizes_that_planning_looked_for_are_compared(compared: list[tuple[Any, ...]]) -> None:
    plan = assert_equivalent(Tasks(), images(), ROWS)
    ((found,),) = [call.tensors for call in plan.subject.found]
    assert (tuple(found.shape),) in compared


def test_planning_is_not_told_of_unseen_inputs(compared: list[tuple[Any, ...]]) -> None:
    unseen = [torch.randn(2, 3, 13, 14), torch.randn(1, 3, 5, 5)]
    plan = assert_equivalent(Tasks(), images(), ROWS, unseen=unseen, batch_sizes=())
    assert plan.subject.others == ()
    assert {tuple(one.shape) for one in unseen} <= {call[0] for call in compared}


def test_unseen_inputs_come_with_the_keyword_arguments_of_the_example() -> None:
    assert_equivalent(Tasks(), images(), ROWS, kwargs={"task": "b"}, unseen=[torch.randn(1, 3, 12, 12)])


def test_a_fault_in_another_call_is_reported_with_what_reproduces_it(off_by_one: None) -> None:
    others, masks = [(images(), "b")], MaskSpec((Slices("b.weight", 1, (0, 1)),))
    model = Tasks()
    with torch.no_grad():
        # No channel is needed by the first task.
        model.a.weight.zero_()
    with pytest.raises(AssertionError) as caught:
        assert_equivalent(model, images(), masks, others=others, unseen=[images(1)])
    message = str(caught.value)
    assert "To reproduce it with this model and input, others, unseen:" in message
    assert "    assert_equivalent(model, x, masks, others=others, unseen=unseen)" in message


def test_a_call_that_is_none_is_refused() -> None:
    with pytest.raises(InputError, match="others"):
        assert_equivalent(Tasks(), images(), ROWS, others=images())  # type: ignore[arg-type]


def test_the_fixture_passes_calls_on(
    equivalent: Callable[..., None], compared: list[tuple[Any, ...]]
) -> None:
    equivalent(Tasks(), images(), examples=3, others=[(images(), "b")], unseen=[torch.randn(1, 3, 9, 9)])
    assert {call[-1] for call in compared} >= {"b", (1, 3, 9, 9)}


def test_rounding_that_a_norm_of_constants_amplifies_is_no_deviation() -> None:
    inputs = (Input((1, 4, 4, 4)),)
    layers = nn.Conv3d(1, 3, 1, padding="same", bias=False), nn.Conv3d(3, 8, 1, padding=2), nn.Conv3d(8, 2, 1)
    norms = nn.BatchNorm3d(2, affine=False), nn.InstanceNorm3d(2, eps=0.001)
    model = lively(Net(*layers, *norms, nn.ReLU(), nn.Conv3d(2, 2, 1)), inputs, seed=0).eval()
    everything = MaskSpec((Slices("stages.2.weight", 0, (0, 1)), Slices("stages.2.bias", 0, (0, 1))))
    plan = assert_equivalent(model, sample_inputs(inputs, batch=1), everything)
    assert plan.parameters_after < plan.parameters_before


def test_layers_to_keep_are_kept() -> None:
    masks = MaskSpec((Slices("0.weight", 0, (0, 1, 2)),))
    plan = assert_equivalent(two_layers(), images(), masks, keep=["0", "2"])
    assert plan.parameters_after == plan.parameters_before


def test_a_fault_is_reported_with_place_masks_and_plan(off_by_one: None) -> None:
    with pytest.raises(AssertionError) as caught:
        assert_equivalent(two_layers(), images(), MaskSpec((Slices("0.weight", 0, (0, 1)),)))
    message = str(caught.value)
    assert message.startswith("the small Sequential is not the masked Sequential: output is off by ")
    assert "for inputs of shape (2, 3, 8, 8)" in message
    assert "keep=['2'] leaves that module as it is" in message
    assert "    masks = MaskSpec((Slices('0.weight', 0, (0, 1)),))" in message
    assert "Conv2d(3, 6) -> (3, 4)" in message


def test_a_changed_model_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    library = importlib.import_module("speedup.testing.assertion")
    plan_speedup = library.plan_speedup

    def careless(model: nn.Module, *arguments: object) -> object:
        model.get_submodule("2").eval()
        return plan_speedup(model, *arguments)

    monkeypatch.setattr(library, "plan_speedup", lambda *given, **_: careless(*given))
    with pytest.raises(AssertionError, match="planning changed module '2'"):
        assert_equivalent(two_layers(), images(), None)


def test_the_printed_source_reproduces_a_failure(off_by_one: None) -> None:
    with pytest.raises(AssertionError) as caught:
        CASE.check()
    (source,) = caught.value.__notes__
    assert source == source_of(CASE)
    with pytest.raises(AssertionError, match="the small Net is not the masked Net") as again:
        exec(source, {})
    assert str(again.value) == str(caught.value)


def test_the_printed_source_passes_where_there_is_no_fault() -> None:
    exec(source_of(CASE), {})


def test_source_of_a_case_is_what_one_would_write() -> None:
    assert source_of(CASE).splitlines() == [
        "from torch import nn",
        "",
        "from speedup.testing import Input, MaskSpec, Slices, assert_equivalent, lively, sample_inputs",
        "from speedup.testing.modules import Net",
        "",
        "inputs = (Input((2, 5, 5)),)",
        "model = Net(nn.Conv2d(2, 6, 3), nn.Conv2d(6, 4, 3))",
        "model = lively(model, inputs, seed=3).train(True)",
        "masks = MaskSpec((Slices('stages.0.weight', 0, (1, 2)),), compact=True)",
        "assert_equivalent(model, sample_inputs(inputs, batch=2), masks)",
    ]


BY_SIZE = Case(
    network=Network(
        (Input((4, 3)),),
        Spec.of(
            TwoInputNet,
            Spec.of(OptionalInput, Spec.of(nn.Linear, 3, 6), Spec.of(nn.Linear, 3, 6)),
            Spec.of(Net, Spec.of(Rounds, Spec.of(nn.Linear, 6, 6), 2, 1), Spec.of(nn.Linear, 6, 2)),
        ),
        calls=((Input((4, 3)), Input((4, 3))),),
        elsewhere=((Input((1, 3)),), (Input((7, 3)), Input((7, 3)))),
    ),
    seed=3,
    batch=2,
    masks=MaskSpec((Slices("net.stages.0.body.weight", 0, (1, 2)), Slices("merge.left.weight", 0, (1, 3)))),
)


def test_case_of_several_calls_is_planned_for_all_and_compared_at_other_sizes() -> None:
    plan = BY_SIZE.check()
    assert [len(call.tensors) for call in plan.subject.others] == [2]
    assert [call["x"].shape for call in evolve(BY_SIZE, keywords=True).elsewhere()] == [(2, 1, 3), (1, 7, 3)]


@pytest.mark.parametrize("keywords", [False, True])
def test_source_of_a_case_of_several_calls_passes(keywords: bool) -> None:
    source = source_of(evolve(BY_SIZE, keywords=keywords))
    assert "assert_equivalent(model, " in source
    assert ", masks, others=others, unseen=unseen)" in source
    exec(source, {})


def test_small_model_that_is_wrong_at_other_sizes_alone_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    library = importlib.import_module("speedup.tracing.islands")
    monkeypatch.setattr(library, "explore", lambda *_: Exploration((), ()))
    either = Spec.of(Either, Spec.of(nn.Linear, 6, 6), Spec.of(nn.Identity), "above", 1, 4)
    module = Spec.of(Net, Spec.of(nn.Linear, 3, 6), either, Spec.of(nn.Linear, 6, 2))
    network = Network((Input((4, 3)),), module, elsewhere=((Input((3, 3)),), (Input((7, 3)),)))
    masks = MaskSpec((Slices("stages.0.weight", 0, (1, 3)), Slices("stages.0.bias", 0, (1, 3))))
    with pytest.raises(AssertionError, match=r"for inputs of shape \(1, 7, 3\)"):
        Case(network, seed=3, batch=2, masks=masks).check()


def test_networks_that_look_at_sizes_are_drawn_on_demand() -> None:
    @settings(QUICK, max_examples=20)
    @given(networks("sequence", sized=True))
    def look(network: Network) -> None:
        blocks = {spec.make for spec in network.module.walk()}
        assert looks_at_sizes(network.module) or blocks & {ItemNumber, PeakScale}
        assert all(call != network.inputs for call in network.elsewhere)

    look()


def test_long_expressions_are_broken_into_lines_that_mean_the_same() -> None:
    masks = MaskSpec(tuple(Slices(f"stages.{n}.weight", 0, (n, n + 1)) for n in range(6)), style="baked")
    written = expression(masks)
    assert max(map(len, written.splitlines())) < 100
    assert eval(written, {"MaskSpec": MaskSpec, "Slices": Slices}) == masks
    assert repr(masks) == written


def test_a_failing_search_shrinks_to_a_single_cut(off_by_one: None) -> None:
    model = two_layers()

    def fails(masks: MaskSpec) -> bool:
        try:
            assert_equivalent(model, images(), masks, batch_sizes=())
        except AssertionError:
            return True
        return False

    found = find(masks_for(model), fails, settings=settings(QUICK, max_examples=50, phases=tuple(Phase)))
    assert len(found.cuts) == 1


def test_masks_of_all_kinds_are_drawn_and_fit_the_model() -> None:
    model = two_layers()
    drawn: list[MaskSpec] = []

    @settings(QUICK, max_examples=150)
    @given(masks_for(model))
    def collect(masks: MaskSpec) -> None:
        mask_argument(masks, model)
        drawn.append(masks)

    collect()
    assert {type(cut) for masks in drawn for cut in masks.cuts} == {Slices, Scattered, Whole}
    assert {0, 1} <= {cut.dim for masks in drawn for cut in masks.cuts if isinstance(cut, Slices)}
    assert any(not masks.cuts for masks in drawn)


def test_whole_heads_are_masked_where_a_module_counts_them() -> None:
    model = FusedAttention(8, 4, 2)
    head_of_row = torch.arange(24) // 2 % 4

    def is_of_whole_heads(masks: MaskSpec) -> bool:
        cuts = [cut for cut in masks.cuts if isinstance(cut, Slices)]
        rows = [set(cut.indices) for cut in cuts if cut.parameter == "qkv.weight"]
        gone = {int(head_of_row[row]) for row in rows[0]} if rows and cuts[0].dim == 0 else set()
        whole = {row for row in range(24) if int(head_of_row[row]) in gone}
        return bool(gone) and len(gone) == 1 and rows[0] == whole

    find(masks_for(model), is_of_whole_heads, settings=settings(QUICK, max_examples=1000))


def test_masks_of_wide_layers_stay_short_to_print() -> None:
    @settings(QUICK, max_examples=40)
    @given(masks_for(nn.Linear(64, 512)))
    def is_short(masks: MaskSpec) -> None:
        assert len(repr(masks)) < 4000

    is_short()


def test_a_model_without_parameters_has_no_masks() -> None:
    with pytest.raises(ValueError, match="this ReLU has no parameters"):
        masks_for(nn.ReLU())


@QUICK
@given(data=st.data())
def test_inputs_have_the_structure_of_the_example(data: st.DataObject) -> None:
    ids, image = torch.tensor([[1, 4], [4, 6]]), images()
    given_ids, given_image = data.draw(inputs_like((ids, image), resolutions=[(5, 6)]))
    assert len(given_ids) == len(given_image) in (1, 2, 3)
    assert set(given_ids.flatten().tolist()) <= {1, 4, 6}
    assert given_image.shape[1:] in ((3, 8, 8), (3, 5, 6))
    assert data.draw(inputs_like({"x": image}))["x"].dtype == image.dtype


def run_without_hypothesis(code: str) -> str:
    """What `code` prints in a process in which Hypothesis is not to be had."""
    hidden = (
        "import importlib.util, sys\n"
        "real = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *rest: None if name == 'hypothesis' else real(name, *rest)\n"
        "sys.modules['hypothesis'] = None\n"
    )
    command = [sys.executable, "-c", hidden + code]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_without_hypothesis_the_extra_is_named() -> None:
    said = run_without_hypothesis(
        "import speedup.testing\n"
        "try:\n    from speedup.testing import masks_for\nexcept ImportError as error:\n    print(error)\n"
    )
    assert "speedup.testing.masks_for needs Hypothesis" in said
    assert "pip install 'torch-speedup[testing]'" in said


def test_the_assertion_works_without_hypothesis() -> None:
    said = run_without_hypothesis(
        "import torch\nfrom torch import nn\n"
        "from speedup.testing import MaskSpec, Slices, assert_equivalent\n"
        "net = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 2))\n"
        "masks = MaskSpec((Slices('0.weight', 0, (1, 2)),))\n"
        "plan = assert_equivalent(net, torch.randn(2, 4), masks)\n"
        "print(plan.parameters_after < plan.parameters_before)\n"
    )
    assert said == "True\n"


def test_masks_from_seeds_are_of_all_kinds_and_the_same_each_time() -> None:
    model = two_layers()
    drawn = [seeded_masks(model, seed) for seed in range(100)]
    assert drawn == [seeded_masks(model, seed) for seed in range(100)]
    assert {type(cut) for masks in drawn for cut in masks.cuts} == {Slices, Scattered, Whole}
    assert {0, 1} <= {cut.dim for masks in drawn for cut in masks.cuts if isinstance(cut, Slices)}
    search_seeded(model, images(), examples=4)


def test_a_search_from_seeds_ends_at_the_smallest_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    def is_wrong_below_row_1(model: nn.Module, x: Any, masks: MaskSpec) -> None:
        cuts = [cut for cut in masks.cuts if isinstance(cut, Slices) and cut.parameter == "0.weight"]
        assert not any(cut.dim == 0 and 1 in cut.indices for cut in cuts), masks

    monkeypatch.setattr("speedup.testing.seeded.assert_equivalent", is_wrong_below_row_1)
    with pytest.raises(AssertionError, match=r"MaskSpec\(\(Slices\('0.weight', 0, \(1,\)\),\)"):
        search_seeded(two_layers(), images())


def test_example_of_the_readme_runs_as_it_stands() -> None:
    names: dict[str, object] = {}
    profile = settings.get_current_profile_name()
    try:
        exec(example_run_by(__file__), names)
    finally:
        settings.load_profile(profile)
    test = names["test_small_model_is_equivalent"]
    assert callable(test)
    settings(QUICK, max_examples=3)(test)()
