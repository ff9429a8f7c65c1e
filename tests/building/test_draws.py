"""Inputs to compare on: drawn as varied as the masked model takes them, and what happens if it takes none."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Literal

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from speedup import (
    Drawn,
    InputError,
    OutputError,
    Verification,
    apply_masks,
    materialize,
    plan_speedup,
    verify,
)
from speedup.building.draws import Draw, draws, first_taken
from speedup.ir.inputs import example_from, fresh_inputs
from speedup.testing import assert_equivalent

Masks = Mapping[str, Mapping[str, Tensor]]


def generator(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def without_rows(size: int) -> Masks:
    """Masks of a layer `head.f` that lose its second and third row."""
    kept = torch.ones(size)
    kept[1:3] = 0
    return {"head.f": {"weight": kept.view(-1, 1), "bias": kept}}


class Head(nn.Module):
    """What all models here have in common: a module that can be traced, whose first layer loses rows."""

    def __init__(self, width: int, hidden: int = 8) -> None:
        super().__init__()
        layers = {"f": nn.Linear(width, hidden), "act": nn.ReLU(), "o": nn.Linear(hidden, 3)}
        self.head: Any = nn.Sequential(OrderedDict(layers))


class Packed(Head):
    def __init__(self, enforce_sorted: bool = True) -> None:
        super().__init__(8)
        self.e, self.lstm = nn.Embedding(20, 6), nn.LSTM(6, 8, batch_first=True)
        self.enforce_sorted = enforce_sorted

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        packed = pack_padded_sequence(
            self.e(ids), lengths, batch_first=True, enforce_sorted=self.enforce_sorted
        )
        return self.head(self.lstm(packed)[1][0][-1])


class Bag(Head):
    def __init__(self, mode: str = "mean") -> None:
        super().__init__(6)
        self.e = nn.EmbeddingBag(20, 6, mode=mode)

    def forward(self, ids: Tensor, offsets: Tensor) -> Tensor:
        return self.head(self.e(ids, offsets))


class Levels(Head):
    def __init__(self) -> None:
        super().__init__(4)

    def forward(self, x: Tensor, shapes: Tensor) -> Tensor:
        parts = self.head(x).split([int(h * w) for h, w in shapes], 1)
        return sum(part.mean(1) for part in parts)


class Segments(Head):
    """Sums rows by their segment; ids are all there, from 0 on."""

    def forward(self, x: Tensor, segments: Tensor) -> Tensor:
        count = int(segments.max()) + 1
        if len(segments.unique()) != count:
            raise ValueError("a segment is empty")
        pooled = x.new_zeros(count, x.shape[1]).index_add(0, segments, x)
        return self.head(pooled)


class Scattered(Head):
    def forward(self, x: Tensor, index: Tensor) -> Tensor:
        return self.head(x.new_zeros(5, x.shape[1]).scatter_add(0, index, x))


class Masked(Head):
    """A mean over the positions that a mask leaves, of which there must be some in every row."""

    def forward(self, x: Tensor, left: Tensor) -> Tensor:
        if not left.any(1).all():
            raise ValueError("a row has nothing left")
        weight = left.to(x.dtype).unsqueeze(-1)
        return self.head((x * weight).sum(1) / weight.sum(1))


class OneHot(Head):
    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        if not bool((target.sum(1) == 1).all()):
            raise ValueError("targets are not one-hot")
        return self.head(x) * target.to(x.dtype)


class Cumulative(Head):
    """Sequences one after another, told apart by where each begins and the last ends."""

    def forward(self, x: Tensor, ends: Tensor) -> Tensor:
        parts = self.head(x).split(ends.diff().tolist())
        return torch.stack([part.mean(0) for part in parts])


class Unique(Head):
    def __init__(self) -> None:
        super().__init__(6)
        self.e = nn.Embedding(20, 6)

    def forward(self, ids: Tensor) -> Tensor:
        assert len(ids.unique()) == ids.numel(), "ids are not unique"
        return self.head(self.e(ids))


class Probabilities(Head):
    """Takes floats between zero and one only, zero and one among them."""

    def forward(self, x: Tensor) -> Tensor:
        if bool((x < 0).any()) or bool((x > 1).any()):
            raise ValueError("not between zero and one")
        return self.head(x)


IDS = torch.randint(0, 20, (3, 7), generator=generator())
FEATURES = torch.randn(8, 6, generator=generator(), dtype=torch.float64)
STARTS = torch.tensor([0, 3, 7])
GIVEN: Literal["as in the example"] = "as in the example"


def verified(model: nn.Module, x: Any, width: int = 8) -> Verification:
    """What the check of a small model says, whose outputs on the example are right."""
    model = model.double().eval()
    plan = plan_speedup(model, x, without_rows(width))
    small = materialize(plan)
    assert small.get_submodule("head.f").out_features == width - 2
    with torch.no_grad():
        want = apply_masks(model, without_rows(width))(*_args(x))
        assert torch.allclose(small(*_args(x)), want, rtol=1e-9, atol=1e-12)
    found = verify(plan, small)
    assert found == verify(plan, small)
    assert found.level == "full"
    return found


def _args(x: Any) -> tuple[Any, ...]:
    return x if isinstance(x, tuple) else (x,)


def test_lengths_of_packed_sequences_stay_legal() -> None:
    found = verified(Packed(), (IDS, torch.tensor([7, 5, 2])))
    assert found.batch_sizes == (3, 1)


def test_offsets_of_bags_stay_legal() -> None:
    found = verified(Bag(), (torch.randint(0, 20, (10,)), STARTS))
    assert found.drawn == (Drawn(0, None, None, found.drawn[0].integers),)


def test_shapes_of_levels_stay_as_in_the_example() -> None:
    x = torch.randn(2, 20, 4, dtype=torch.float64), torch.tensor([[4, 4], [2, 2]])
    found = verified(Levels(), x)
    assert found.drawn == (Drawn(0, 2, "redrawn", GIVEN),)


@pytest.mark.parametrize("enforce_sorted", [True, False])
@pytest.mark.parametrize("lengths", [[7, 7, 2], [5, 5, 5], [3, 2, 1]])
def test_sorted_lengths_are_sorted_again(enforce_sorted: bool, lengths: list[int]) -> None:
    found = verified(Packed(enforce_sorted), (IDS, torch.tensor(lengths)))
    assert [one.integers for one in found.drawn] == ["redrawn", "redrawn"]


def test_unsorted_lengths_are_redrawn_where_they_may_be() -> None:
    found = verified(Packed(enforce_sorted=False), (IDS, torch.tensor([2, 7, 5])))
    assert found.drawn == (Drawn(0, 3, None, "redrawn"), Drawn(0, 1, None, "redrawn"))


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_offsets_are_never_drawn_out_of_order(mode: str) -> None:
    """`EmbeddingBag` takes such offsets, and returns memory that nobody wrote."""
    example = example_from((torch.arange(10), STARTS))
    for seed in range(40):
        drawn = fresh_inputs(example, None, generator(seed))[1]
        assert drawn.tolist() == sorted(drawn.tolist())
    verified(Bag(mode), (torch.randint(0, 20, (10,)), STARTS))


def test_segments_without_gaps_stay_so() -> None:
    verified(Segments(6), (FEATURES, torch.tensor([0, 1, 2, 3, 4, 5, 6, 7])))
    verified(Segments(6), (FEATURES, torch.tensor([3, 0, 1, 5, 2, 4, 0, 6])))


def test_indices_of_a_scatter_may_be_redrawn() -> None:
    index = torch.randint(0, 5, (8, 6), generator=generator())
    found = verified(Scattered(6), (FEATURES, index))
    assert found.drawn == (Drawn(0, 8, "redrawn", "redrawn"), Drawn(0, 1, "redrawn", "redrawn"))


def test_mask_with_something_left_in_every_row_keeps_it() -> None:
    left = torch.zeros(6, 5, dtype=torch.bool)
    left[torch.arange(6), torch.tensor([0, 3, 2, 4, 1, 0])] = True
    x = torch.randn(6, 5, 6, dtype=torch.float64)
    found = verified(Masked(6), (x, left))
    assert found.drawn[0] == Drawn(0, 6, "redrawn", GIVEN)
    assert found.batch_sizes == (6, 1)


def test_one_hot_targets_stay_one_hot() -> None:
    target = F.one_hot(torch.tensor([0, 2, 1, 1, 0, 2, 2, 1]), 3)
    found = verified(OneHot(6), (FEATURES, target))
    assert found.drawn[0] == Drawn(0, 8, "redrawn", GIVEN)
    assert found.batch_sizes == (8, 1)


def test_cumulative_lengths_stay_those_of_the_example() -> None:
    found = verified(Cumulative(6), (FEATURES, torch.tensor([0, 1, 3, 4, 6, 8])))
    assert found.drawn == (Drawn(0, None, "redrawn", GIVEN),)


def test_ids_that_must_be_unique_are_compared_as_they_are() -> None:
    """At another batch size too: of six ids, one is left."""
    found = verified(Unique(), torch.tensor([[4, 19, 7], [0, 3, 11]]))
    assert found.drawn[0] == Drawn(0, 2, None, GIVEN)
    assert found.batch_sizes == (2, 1)


def test_floats_that_no_draw_may_replace_are_compared_as_they_are() -> None:
    # So many that one of those that are drawn is none.
    x = torch.rand(4, 64, generator=generator(), dtype=torch.float64)
    x[0, :2] = torch.tensor([0.0, 1.0])
    found = verified(Probabilities(64), x)
    assert found.drawn == (Drawn(0, 4, GIVEN, None), Drawn(0, 1, GIVEN, None))


def test_fault_shows_where_only_the_example_itself_is_taken() -> None:
    x = torch.rand(4, 6, generator=generator(), dtype=torch.float64)
    plan = plan_speedup(Probabilities(6).double(), x, without_rows(8))
    small: Any = materialize(plan)
    with torch.no_grad():
        small.head.o.bias[0] += 1e-6
    with pytest.raises(OutputError, match=r"differs is 'head\.o'"):
        verify(plan, small)


def test_rounding_is_measured_inside_of_the_range_that_a_model_insists_on() -> None:
    """An output off by more than its tolerance makes the comparison look at inputs nearby."""
    x = torch.ones(4, 6, dtype=torch.float64)
    plan = plan_speedup(Probabilities(6).double(), x, without_rows(8))
    small: Any = materialize(plan)
    with torch.no_grad():
        small.head.o.bias[0] += 1e-6
    with pytest.raises(OutputError):
        verify(plan, small)


def test_inputs_without_dimensions_are_drawn_with_the_rest() -> None:
    class Scaled(Head):
        def forward(self, x: Tensor, step: Tensor, scale: Tensor) -> Tensor:
            return self.head(x) * scale + step

    x = FEATURES, torch.tensor(5), torch.tensor(0.5, dtype=torch.float64)
    assert verified(Scaled(6), x).batch_sizes == (8, 1)


def test_numbers_that_are_no_tensors_stay() -> None:
    class Scaled(Head):
        def forward(self, x: Tensor, power: int, name: str) -> Tensor:
            return self.head(x) ** power if name == "power" else x

    assert verified(Scaled(6), (FEATURES, 2, "power")).batch_sizes == (8, 1)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool])
def test_empty_integers_are_drawn_empty(dtype: torch.dtype) -> None:
    class Joined(Head):
        def forward(self, x: Tensor, more: Tensor) -> Tensor:
            return self.head(torch.cat((x, more.to(x.dtype)), 1))

    assert verified(Joined(6), (FEATURES, torch.empty(8, 0, dtype=dtype))).batch_sizes == (8, 1)


def test_a_comparison_of_traces_alone_says_so() -> None:
    plan = plan_speedup(Unique(), torch.tensor([1, 2]))
    found = verify(plan, materialize(plan, verify="none"), level="structure")
    assert (found.level, found.error, found.drawn) == ("structure", None, ())


REFUSES: list[str] = []


class Refusing(Head):
    """Runs until it is told not to."""

    def forward(self, x: Tensor) -> Tensor:
        if REFUSES and not torch.compiler.is_compiling():
            raise RuntimeError("shapes cannot be multiplied\nand more")
        return self.head(x)


@pytest.mark.parametrize("check", ["verify", "materialize"])
def test_masked_model_that_refuses_its_example_is_an_input_error(
    check: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Refusing(6).double()
    plan = plan_speedup(model, FEATURES, without_rows(8))
    small = materialize(plan, verify="none")
    monkeypatch.setattr(f"{__name__}.REFUSES", ["now"])
    with pytest.raises(
        InputError, match=r"does not run on its example.*RuntimeError: shapes cannot"
    ) as caught:
        verify(plan, small) if check == "verify" else materialize(plan)
    assert isinstance(caught.value.__cause__, RuntimeError)
    assert "\n" not in str(caught.value)


def _raises(module: nn.Module, args: Any) -> None:
    if not torch.compiler.is_compiling():
        raise ZeroDivisionError("narrow.")


def test_small_model_that_raises_where_the_masked_one_runs_is_an_output_error() -> None:
    model = nn.Sequential(OrderedDict(head=nn.Sequential(OrderedDict(f=nn.Linear(6, 8), o=nn.Linear(8, 3)))))
    plan = plan_speedup(model.double(), FEATURES, without_rows(8))
    small: Any = materialize(plan)
    small.head.o.register_forward_pre_hook(_raises)
    with pytest.raises(
        OutputError,
        match=r"in module 'head\.o': ZeroDivisionError: narrow\. The small.*keep=\['head\.o'\]",
    ) as caught:
        verify(plan, small)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


class Counting(Head):
    """Raises an error once its first layer has become smaller, which no trace shows."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.head(x)
        if not torch.compiler.is_compiling() and self.head.f.out_features < 8:
            raise ZeroDivisionError("narrow")
        return y


def test_small_model_whose_own_forward_raises_is_named_as_the_whole() -> None:
    with pytest.raises(OutputError, match="in module '': ZeroDivisionError"):
        materialize(plan_speedup(Counting(6).double(), FEATURES, without_rows(8)))


def test_small_model_that_raises_fails_an_assertion() -> None:
    with pytest.raises(
        AssertionError, match="it raises ZeroDivisionError, where the masked model runs: narrow"
    ):
        assert_equivalent(Counting(6).double(), FEATURES, without_rows(8))


@pytest.mark.parametrize(
    ("model", "x"),
    [
        (Packed(), (IDS, torch.tensor([7, 5, 2]))),
        (Levels(), (torch.randn(2, 20, 4), torch.tensor([[4, 4], [2, 2]]))),
        (Unique(), torch.tensor([[4, 19, 7], [0, 3, 11]])),
        (OneHot(6), (FEATURES.float(), F.one_hot(torch.tensor([0, 2, 1, 1, 0, 2, 2, 1]), 3))),
    ],
    ids=["packed", "levels", "unique", "one-hot"],
)
def test_assertions_draw_what_the_masked_model_takes(model: nn.Module, x: Any) -> None:
    plan = assert_equivalent(model, x, without_rows(8), batch_sizes=(1, 2, 3))
    assert plan.parameters_after < plan.parameters_before


def kinds(x: Any, size: int | None = None) -> list[tuple[str | None, str | None]]:
    return [(draw.floats, draw.integers) for draw in draws(example_from(x), size, generator())]


def test_draws_go_from_the_most_varied_to_the_example_itself() -> None:
    assert kinds((FEATURES, IDS)) == [("redrawn", "redrawn"), ("redrawn", GIVEN), (GIVEN, GIVEN)]
    assert kinds(FEATURES) == [("redrawn", None), (GIVEN, None)]
    assert kinds(IDS) == [(None, "redrawn"), (None, GIVEN)]


def test_last_draw_is_the_example_or_its_rows_cycled() -> None:
    ids, step = torch.tensor([[1, 2], [3, 4], [5, 6]]), torch.tensor(9)
    example = example_from((ids, step))
    for size in (None, 3):
        *_, last = draws(example, size, generator())
        assert all(a is b for a, b in zip(last.tensors, example.tensors, strict=True))
    for size, rows in ((1, [0]), (2, [0, 1]), (5, [0, 1, 2, 0, 1])):
        *_, last = draws(example, size, generator())
        assert torch.equal(last.tensors[0], ids[rows])
        assert last.tensors[1] is step
    *_, last = draws(example_from(torch.empty(0, 2)), 1, generator())
    assert torch.equal(last.tensors[0], torch.zeros(1, 2))


def test_equal_generators_draw_equal_inputs() -> None:
    example = example_from((FEATURES, IDS))
    for a, b in zip(draws(example, 4, generator()), draws(example, 4, generator()), strict=True):
        assert all(map(torch.equal, a.tensors, b.tensors))
        assert (a.floats, a.integers) == (b.floats, b.integers)


def test_the_first_that_runs_is_taken_and_the_last_refusal_is_told() -> None:
    drawn = [Draw((torch.tensor(float(n)),), "redrawn", None) for n in range(3)]

    def from_one_on(tensors: Any) -> float:
        if not tensors[0]:
            raise ValueError(f"refused {tensors[0]}")
        return float(tensors[0])

    taken, result = first_taken(drawn, from_one_on)
    assert taken is drawn[1]
    assert result == 1.0
    with pytest.raises(ValueError, match="refused 0"):
        first_taken(drawn[:1], from_one_on)
