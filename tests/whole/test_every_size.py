"""One plan holds at every size that a model takes, though its forward branches on sizes or counts by them."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from attrs import evolve
from torch import Tensor, nn

from speedup import SpeedupError, apply_masks, materialize, plan_speedup
from tests.support import sized_tokens, vision
from tests.support.repository import ROOT
from tests.support.sized import MaskedRows, Sized, check_every_size, errors_by_size
from tests.support.sized_images import IMAGE_CASES, TORCHVISION_CASES
from tests.support.sized_tokens import TOKEN_CASES


@pytest.mark.parametrize("name", TOKEN_CASES)
def test_plan_holds_for_sequences_of_every_length(name: str) -> None:
    check_every_size(TOKEN_CASES[name])


@pytest.mark.parametrize("name", IMAGE_CASES)
def test_plan_holds_for_images_of_every_size(name: str) -> None:
    check_every_size(IMAGE_CASES[name])


@pytest.mark.skipif(not vision.available(), reason="torchvision is not installed")
@pytest.mark.parametrize("name", TORCHVISION_CASES)
def test_plan_of_a_torchvision_model_holds_for_images_of_every_size(name: str) -> None:
    check_every_size(TORCHVISION_CASES[name])


_FROM_THE_LAST_SIZE = {
    f"{kind}: {name}": evolve(case, sizes=case.sizes[::-1])
    for kind, cases in (("sequences", TOKEN_CASES), ("images", IMAGE_CASES))
    for name, case in cases.items()
}


@pytest.mark.zoo
@pytest.mark.parametrize("name", _FROM_THE_LAST_SIZE)
def test_plan_from_another_size_holds_for_every_size(name: str) -> None:
    check_every_size(_FROM_THE_LAST_SIZE[name])


_FROM_A_BATCH_OF_ONE = {
    f"{kind}: {name}": evolve(case, example_batch=1, batches=(1, 2, 3))
    for kind, cases in (("sequences", TOKEN_CASES), ("images", IMAGE_CASES))
    for name, case in cases.items()
    if case.example_batch != 1
}


@pytest.mark.zoo
@pytest.mark.parametrize("name", _FROM_A_BATCH_OF_ONE)
def test_plan_from_a_batch_of_one_holds_for_every_size(name: str) -> None:
    check_every_size(_FROM_A_BATCH_OF_ONE[name])


_WHOLE = {
    "recurrence": evolve(TOKEN_CASES["recurrence, example of one token"], recipe=MaskedRows()),
    "layer of longer inputs": evolve(TOKEN_CASES["layer of longer inputs"], recipe=MaskedRows()),
    "odd and even": evolve(TOKEN_CASES["odd and even"], recipe=MaskedRows()),
    "as deep as long": evolve(TOKEN_CASES["as deep as long"], recipe=MaskedRows()),
    "two roads": evolve(IMAGE_CASES["two roads"], recipe=MaskedRows()),
    "norm": evolve(IMAGE_CASES["norm of larger batches, example of one"], recipe=MaskedRows()),
}


@pytest.mark.parametrize("name", _WHOLE)
def test_what_only_other_sizes_use_stays_where_nothing_is_masked(name: str) -> None:
    case = _WHOLE[name]
    masked = case.masked()
    plan = plan_speedup(masked.model, case.example(), {})
    assert errors_by_size(case, masked.model, materialize(plan).eval()) == {}
    assert plan.parameters_after == plan.parameters_before


# Rows of `q` masked with their biases: features that are zero at every size.
_ZEROS = {"gone": {"wide": (2, 7), "q": (1, 4)}}


@pytest.mark.parametrize("name", ["log-n scaling", "float", "at most six", "remainder", "shape in a tensor"])
def test_zeros_go_whatever_they_are_multiplied_by(name: str) -> None:
    function = sized_tokens.FUNCTIONS[name]

    def scaled(y: Tensor, x: Tensor) -> Tensor:
        return y * function(torch.ones(1, dtype=y.dtype), x)

    case = evolve(TOKEN_CASES[name], make=partial(sized_tokens.Function, scaled), recipe=MaskedRows(**_ZEROS))
    assert _small(case).q.out_features == 6
    check_every_size(case)


def test_zeros_go_where_all_sizes_have_zeros() -> None:
    case = evolve(TOKEN_CASES["layer of longer inputs"], recipe=MaskedRows(**_ZEROS))
    small = _small(evolve(case, make=partial(sized_tokens.Function, lambda y, x: torch.relu(y))))
    assert (small.q.out_features, small.o.in_features) == (6, 6)
    # Both what is behind the branch and what goes past it read the features.
    masks = MaskedRows({}, {**_ZEROS["gone"], "p": (1, 4)})
    assert _small(evolve(case, recipe=masks)).o.in_features == 6
    check_every_size(evolve(case, recipe=masks))


def test_constants_go_that_are_the_same_at_every_size() -> None:
    case = evolve(TOKEN_CASES["early return"], make=partial(sized_tokens.Function, _sigmoid_of_the_last))
    small = _small(case)
    assert (small.q.out_features, small.o.in_features) == (6, 6)
    check_every_size(case)


def _sigmoid_of_the_last(y: Tensor, x: Tensor) -> Tensor:
    return torch.sigmoid(y[:, x.shape[1] - 1])


def test_layers_of_every_branch_lose_what_is_masked() -> None:
    recipe = MaskedRows({}, {"wide": (2, 7), "p": (1, 4), "small": (0,), "large": (0,)})
    small = _small(evolve(IMAGE_CASES["two roads"], recipe=recipe))
    shapes = [tuple(layer.weight.shape[:2]) for layer in (small.wide, small.p, small.small, small.large)]
    assert shapes == [(8, 3), (4, 8), (5, 4), (5, 4)]
    assert small.o.in_channels == 5


@functools.lru_cache
def _split(length: int, heads: int) -> tuple[int, int]:
    """einops computes sizes behind such a cache."""
    return heads, length // heads


class Attention(nn.Module):
    """Splits its features into heads by cached arithmetic."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = 4
        self.q, self.k, self.v, self.out = (nn.Linear(32, 32) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = (
            layer(x).reshape(b, n, *_split(x.shape[2], self.heads)).transpose(1, 2)
            for layer in (self.q, self.k, self.v)
        )
        return self.out(((q @ k.transpose(-1, -2)).softmax(-1) @ v).transpose(1, 2).flatten(2))


class AttentionBySize(Attention):
    """The same by the size of what is split, which may shrink."""

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = (layer(x) for layer in (self.q, self.k, self.v))
        q, k, v = (t.reshape(b, n, *_split(t.shape[2], self.heads)).transpose(1, 2) for t in (q, k, v))
        return self.out(((q @ k.transpose(-1, -2)).softmax(-1) @ v).transpose(1, 2).flatten(2))


@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
def test_cached_arithmetic_on_sizes_holds_nothing_back(warm: bool) -> None:
    model, x = AttentionBySize().double().eval(), torch.randn(1, 5, 32, dtype=torch.float64)
    _split.cache_clear()
    if warm:
        model(x)
    keep = torch.ones(4, 8)
    keep[1] = 0
    masks = {name: {"weight": keep.reshape(-1, 1), "bias": keep.reshape(-1)} for name in "qkv"}
    plans = [plan_speedup(model, x, masks) for _ in range(2)]
    assert plans[0] == plans[1]
    assert plans[0].parameters_after < plans[0].parameters_before
    small, longer = materialize(plans[0]), torch.randn(3, 7, 32, dtype=torch.float64)
    torch.testing.assert_close(small(longer), apply_masks(model, masks)(longer), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", [Attention, AttentionBySize])
def test_model_that_was_planned_computes_the_same_as_before(kind: type[nn.Module]) -> None:
    model, x = kind().double().eval(), torch.randn(2, 5, 32, dtype=torch.float64)
    before = model(x)
    plan_speedup(model, x, {"q": {"weight": torch.ones(32, 1)}})
    assert torch.equal(model(x), before)
    assert all(type(size) is int for size in _split(32, 4))


@pytest.mark.parametrize(
    "name", ["cached arithmetic", "odd and even", "remembered positions", "log-n scaling"]
)
def test_planning_twice_gives_equal_plans(name: str) -> None:
    case = TOKEN_CASES[name]
    masked = case.masked()
    plans = [plan_speedup(masked.model, case.example(), masked.masks) for _ in range(2)]
    assert plans[0] == plans[1]


class Asked(nn.Module):
    """Asks more about sizes than can be tried together."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(1, 4, 1), nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        for number in (2, 3, 4, 5, 7, 9):
            if x.shape[2] % number == 0:
                y = y + number
            if x.shape[3] % number == 0:
                y = y * number
        return self.last(y)


_PLANNED_ANEW = """
import torch
from speedup import plan_speedup
from tests.whole.test_every_size import Asked

torch.manual_seed(0)
masks = {"first.weight": torch.tensor([1, 0, 1, 1.0]).view(4, 1, 1, 1)}
print(plan_speedup(Asked().eval(), torch.zeros(1, 1, 8, 8), masks).to_json())
"""


def test_plans_are_equal_whatever_order_sets_have_in_a_process() -> None:
    texts = []
    for seed in ("0", "2"):
        environment = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", _PLANNED_ANEW]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        texts.append(done.stdout)
    assert "combinations of what is asked about sizes" in texts[0]
    assert texts[0] == texts[1]


@pytest.mark.parametrize("name", ["odd and even", "reduction tree", "try"])
def test_assumptions_are_lines(name: str) -> None:
    case = TOKEN_CASES[name]
    masked = case.masked()
    assumptions = plan_speedup(masked.model, case.example(), masked.masks).assumptions
    assert isinstance(assumptions, tuple)
    assert all(isinstance(line, str) and line.strip() and "\n" not in line for line in assumptions)


def test_model_that_does_not_look_at_sizes_needs_no_assumption() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 3)).eval()
    mask = torch.ones(8, 1, 1, 1)
    mask[2:4] = 0
    assert plan_speedup(model, torch.randn(2, 3, 8, 8), {"0": {"weight": mask}}).assumptions == ()


def _small(case: Sized) -> Any:
    masked = case.masked()
    return materialize(plan_speedup(masked.model, case.example(), masked.masks), verify="none")


def _longer(x: Tensor, length: int) -> bool:
    return x.shape[1] > length


def _asks_twice(x: Tensor) -> Tensor:
    """The second question of some inputs is another than that of others."""
    if _longer(x, 8):
        x = torch.tanh(x)
        if _longer(x, 20):
            x = torch.sigmoid(x)
    if _longer(x, 3):
        x = torch.relu(x)
    return x


class _Asking(nn.Module):
    def __init__(self, *lengths: int) -> None:
        super().__init__()
        self.lengths = lengths

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] > self.lengths[0]:
            x = torch.tanh(x)
            if x.shape[1] > self.lengths[1]:
                x = torch.sigmoid(x)
        return x


class _Function(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def _executed() -> Callable[[Tensor], Tensor]:
    """The function of a source that is in no file, as of what is typed into Python."""
    names: dict[str, Callable[[Tensor], Tensor]] = {}
    source = (
        "def asks(x):\n"
        "    if x.shape[1] > 8:\n"
        "        x = x.tanh()\n"
        "        if x.shape[1] > 20:\n"
        "            x = x.sigmoid()\n"
        "    if x.shape[1] % 2 == 0:\n"
        "        x = x.relu()\n"
        "    return x\n"
    )
    exec(source, names)
    return names["asks"]


@pytest.mark.parametrize(
    "middle",
    [
        _Function(_asks_twice),
        nn.Sequential(_Asking(8, 20), _Asking(3, 12), _Asking(4, 7)),
        _Function(_executed()),
    ],
    ids=["a function called twice", "modules in a row", "source in no file"],
)
def test_lines_that_are_come_to_in_several_ways_are_several_questions(middle: nn.Module) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), middle, nn.Linear(8, 3)).double().eval()
    keep = torch.ones(8)
    keep[:3] = 0
    masks = {"0": {"weight": keep.reshape(-1, 1), "bias": keep}}
    plan = plan_speedup(model, torch.randn(2, 5, 6, dtype=torch.float64), masks)
    small, masked = materialize(plan), apply_masks(model, masks).eval()
    assert plan.assumptions == ()
    for length in (1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 13, 20, 21, 22, 30):
        x = torch.randn(2, length, 6, dtype=torch.float64)
        torch.testing.assert_close(small(x), masked(x), rtol=1e-9, atol=1e-12, msg=f"length {length}")


class OneThenOther(nn.Module):
    """What the one comparison makes is only used where another comes out so too."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        side = y if x.shape[1] > 6 else 0
        if x.shape[1] % 2 == 0:
            y = y + side
        return self.last(y)


def test_comparisons_that_matter_together_are_seen_together() -> None:
    torch.manual_seed(0)
    model = OneThenOther().double().eval()
    masks = {"first.weight": torch.tensor([1, 0, 1, 1, 0, 1, 1, 1.0])[:, None]}
    plan = plan_speedup(model, torch.randn(2, 5, 6, dtype=torch.float64), masks)
    small, masked = materialize(plan), apply_masks(model, masks)
    assert plan.assumptions == ()
    assert plan.parameters_after < plan.parameters_before
    for length in (4, 5, 6, 7, 8, 9, 10, 12):
        x = torch.randn(1, length, 6, dtype=torch.float64)
        assert torch.allclose(small(x), masked(x), rtol=0, atol=1e-12)


class Nested(nn.Module):
    """Rounds within rounds, so that at few of the outer ones none of the inner ones is counted."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.inner, self.outer, self.last = (nn.Conv2d(c, 4, 1) for c in (1, 4, 4, 4))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for _ in range(x.shape[-1] // 2):
            for _ in range(x.shape[-1] // 2):
                x = self.inner(torch.relu(x))
            x = self.outer(x)
        return self.last(x)


@pytest.mark.parametrize("width", [1, 4, 7])
def test_rounds_within_rounds_are_counted(width: int) -> None:
    torch.manual_seed(0)
    model = Nested().double().eval()
    rows = torch.tensor([1, 0, 1, 1])
    masks = {f"{path}.weight": rows.reshape(4, 1, 1, 1) for path in ("first", "inner", "outer")}
    small = materialize(plan_speedup(model, torch.randn(2, 1, 5, width, dtype=torch.float64), masks))
    masked = apply_masks(model, masks)
    for other in (1, 2, 3, 4, 6, 8, 9):
        x = torch.randn(3, 1, 4, other, dtype=torch.float64)
        torch.testing.assert_close(small(x), masked(x), rtol=1e-9, atol=1e-12)


class TwoImages(nn.Module):
    """Two images one beside the other, smoothed once for every four columns."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(4, 6, 1), nn.Conv2d(4, 6, 1)
        self.again, self.head = nn.Conv2d(12, 12, 1), nn.Linear(12, 2)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        both = torch.cat([self.left(x), self.right(y)], 1)
        for _ in range(both.shape[-1] // 4):
            both = torch.relu(self.again(both))
        return self.head(both.mean((2, 3)))


def test_inputs_change_together_though_channels_are_as_many() -> None:
    torch.manual_seed(0)
    model, rows = TwoImages().double().eval(), torch.arange(12) > 3

    def images(width: int, batch: int) -> tuple[Tensor, Tensor]:
        x, y = torch.randn(2, batch, 4, 5, width, dtype=torch.float64)
        return x, y

    masks = {"again.weight": rows[:, None, None, None].expand(12, 12, 1, 1), "again.bias": rows}
    small = materialize(plan_speedup(model, images(4, 1), masks))
    masked = apply_masks(model, masks)
    for width in (2, 4, 7, 8, 12):
        for batch in (1, 3):
            given = images(width, batch)
            torch.testing.assert_close(small(*given), masked(*given), rtol=1e-9, atol=1e-12)


class Flattening(nn.Module):
    """Smooths by as many rounds as the width says, or by other layers for wide images, and flattens.

    So it takes those images alone whose maps, of about half the size, have twelve places.
    """

    def __init__(self, by_rounds: bool) -> None:
        super().__init__()
        self.by_rounds = by_rounds
        self.enter, self.again = nn.Conv2d(2, 6, 1), nn.Conv2d(6, 6, 1)
        self.smaller, self.leave = nn.Conv2d(6, 3, (1, 3), stride=2, padding=1), nn.Linear(36, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        if self.by_rounds:
            for _ in range(x.shape[-1] // 3):
                x = torch.tanh(self.again(x))
        elif x.shape[-1] > 5:
            x = torch.tanh(self.again(x))
        return self.leave(self.smaller(x).flatten(1))


@pytest.mark.parametrize("by_rounds", [True, False], ids=["rounds", "comparison"])
@pytest.mark.parametrize("planned", [(9, 4), (9, 3), (6, 6)], ids=str)
def test_one_extent_may_have_to_make_up_for_another(by_rounds: bool, planned: tuple[int, int]) -> None:
    torch.manual_seed(0)
    model, rows = Flattening(by_rounds).double().eval(), torch.arange(6) > 2
    masks = {"again.weight": rows[:, None, None, None].expand(6, 6, 1, 1), "again.bias": rows}
    masks |= {
        "enter.weight": rows.flip(0)[:, None, None, None].expand(6, 2, 1, 1),
        "enter.bias": rows.flip(0),
    }
    small = materialize(plan_speedup(model, torch.randn(2, 2, *planned, dtype=torch.float64), masks))
    masked = apply_masks(model, masks)
    for height, width in (
        (9, 4),
        (10, 3),
        (6, 6),
        (5, 5),
        (4, 8),
        (3, 7),
        (2, 12),
        (1, 11),
        (21, 2),
        (22, 1),
    ):
        x = torch.randn(3, 2, height, width, dtype=torch.float64)
        torch.testing.assert_close(small(x), masked(x), rtol=1e-9, atol=1e-12)


class Halved(nn.Module):
    """Halves its images, rounding up, and flattens them: one row less changes nothing, two are refused."""

    def __init__(self, question: str) -> None:
        super().__init__()
        self.question = question
        self.enter, self.halve = nn.Conv2d(2, 6, 1), nn.Conv2d(6, 6, 1, stride=2)
        self.again, self.leave = nn.Conv2d(6, 6, 1), nn.Linear(48, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.halve(torch.tanh(self.enter(x)))
        asked = x.shape[-1] in (2, 1) if self.question == "narrow" else x.shape[-1] > 7
        return self.leave((torch.tanh(self.again(x)) if asked else x).flatten(1))


@pytest.mark.parametrize("question", ["narrow", "wide"])
@pytest.mark.parametrize("planned", [(4, 7), (3, 8), (4, 8)], ids=str)
def test_extents_that_no_single_change_moves_may_be_others(question: str, planned: tuple[int, int]) -> None:
    torch.manual_seed(0)
    model, rows = Halved(question).double().eval(), torch.arange(6) > 2
    masks = {"again.weight": rows[:, None, None, None].expand(6, 6, 1, 1), "again.bias": rows}
    masks |= {
        "halve.weight": rows.flip(0)[:, None, None, None].expand(6, 6, 1, 1),
        "halve.bias": rows.flip(0),
    }
    small = materialize(plan_speedup(model, torch.randn(2, 2, *planned, dtype=torch.float64), masks))
    masked = apply_masks(model, masks)
    for height, width in ((4, 7), (3, 8), (8, 4), (7, 3), (16, 2), (15, 1), (2, 16), (1, 15)):
        x = torch.randn(3, 2, height, width, dtype=torch.float64)
        torch.testing.assert_close(small(x), masked(x), rtol=1e-9, atol=1e-12)


class Scanned(nn.Module):
    """A hand-written recurrence, whose stacked states are treated by how many there are.

    That follows the length of the input, though no operator says so: a trace stacks as many as it has.
    """

    def __init__(self, kind: str, per: int) -> None:
        super().__init__()
        self.kind, self.per = kind, per
        self.enter, self.cell = nn.Linear(5, 6), nn.Linear(12, 6)
        self.again, self.leave = nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x, state, states = self.enter(x), x.new_zeros(x.shape[0], 6), []
        for step in range(x.shape[1]):
            state = torch.tanh(self.cell(torch.cat([x[:, step], state], 1)))
            states.append(state)
        y = torch.stack(states, 1)
        if self.kind == "comparison":
            return self.leave(torch.tanh(self.again(y)) if y.shape[1] > self.per else y)
        if self.kind == "rounds, batches of one go past them" and x.shape[0] == 1:
            return self.leave(y)
        for _ in range(y.shape[1] // self.per):
            y = torch.tanh(self.again(y))
        return self.leave(y)


@pytest.mark.parametrize("per", [3, 20])
@pytest.mark.parametrize("kind", ["comparison", "rounds", "rounds, batches of one go past them"])
def test_sizes_may_hang_on_the_rounds_of_a_loop(kind: str, per: int) -> None:
    torch.manual_seed(0)
    model, rows = Scanned(kind, per).double().eval(), torch.arange(6) > 2
    masks = {"again.weight": rows[:, None].expand(6, 6), "again.bias": rows}
    masks |= {"cell.weight": rows.flip(0)[:, None].expand(6, 12), "cell.bias": rows.flip(0)}
    plan = plan_speedup(model, torch.randn(1, 3, 5, dtype=torch.float64), masks)
    assert not plan.assumptions
    small, masked = materialize(plan), apply_masks(model, masks)
    for batch in (1, 3):
        for length in (1, 2, 3, 6, 8, 19, 20, 21, 41):
            x = torch.randn(batch, length, 5, dtype=torch.float64)
            torch.testing.assert_close(small(x), masked(x), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("length", [5, 7])
def test_an_error_that_the_forward_catches_is_no_raw_error(length: int) -> None:
    torch.manual_seed(0)
    model, rows = sized_tokens.Caught().double().eval(), torch.arange(8) > 1
    masks = {"q.weight": rows[:, None].expand(8, 10), "q.bias": rows}
    x = torch.randn(2, length, 6, dtype=torch.float64)
    try:
        small = materialize(plan_speedup(model, x, masks))
    except SpeedupError:
        return
    torch.testing.assert_close(small(x), apply_masks(model, masks)(x), rtol=1e-9, atol=1e-12)


class Insisting(nn.Module):
    """Takes sequences of a few lengths, far from each other, and treats the longest in another way."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.again, self.leave = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] not in (5, 1777):
            raise ValueError(f"sequences of 5 or of 1777 tokens, not of {x.shape[1]}")
        x = torch.tanh(self.enter(x))
        return self.leave(torch.tanh(self.again(x)) if x.shape[1] > 977 else x)


def test_a_model_that_refuses_whatever_is_tried_is_said_to() -> None:
    torch.manual_seed(0)
    model, rows = Insisting().double().eval(), torch.arange(8) > 2
    plan = plan_speedup(model, torch.randn(2, 5, 6, dtype=torch.float64), {"enter.weight": rows[:, None]})
    (told,) = (line for line in plan.assumptions if "977" in line)
    assert "shape[1] <= 977 (at line" in told and "were refused, all" in told


class Stretched(nn.Module):
    """Tokens get positions of a table that is stretched to their number; one of them is what is returned."""

    def __init__(self, token: int) -> None:
        super().__init__()
        self.enter, self.leave, self.token = nn.Linear(2, 6), nn.Linear(6, 3), token
        self.table = nn.Parameter(torch.randn(1, 6, 5))

    def forward(self, x: Tensor) -> Tensor:
        table = nn.functional.interpolate(self.table, size=x.shape[1], mode="linear")
        result: Tensor = self.leave((self.enter(x) + table.transpose(1, 2))[:, self.token])
        return result


@pytest.mark.parametrize("token", [0, -1])
@pytest.mark.parametrize("planned", [2, 5, 6, 9])
def test_what_a_stretched_table_holds_at_one_size_it_does_not_at_others(planned: int, token: int) -> None:
    torch.manual_seed(0)
    model, rows = Stretched(token).double().eval(), torch.tensor([1, 0, 1, 1, 0, 1]) > 0
    masks = {"enter.weight": rows[:, None].expand(6, 2), "enter.bias": rows}
    # Of the rows that are masked in front the table has one for the first positions, and none of the other.
    places = torch.ones(6, 5, dtype=torch.bool)
    places[1, 0], places[4] = False, False
    masks["table"] = places[None]
    plan = plan_speedup(model, torch.randn(1, planned, 2, dtype=torch.float64), masks)
    small, masked = materialize(plan), apply_masks(model, masks)
    assert not plan.assumptions
    assert small.get_parameter("leave.weight").shape == (3, 5)
    for length in (1, 2, 3, 4, 5, 6, 7, 9, 12):
        x = torch.randn(2, length, 2, dtype=torch.float64)
        torch.testing.assert_close(small(x), masked(x), rtol=1e-9, atol=1e-12)


class Picking(nn.Module):
    """Takes a row of a table, or some channels, by the number of tokens."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.what = what
        self.enter, self.leave = nn.Linear(2, 6), nn.LazyLinear(3)
        self.table = nn.Parameter(torch.randn(12, 6))

    def forward(self, x: Tensor) -> Tensor:
        tokens, y = x.shape[1], self.enter(x)
        match self.what:
            case "row":
                y = y + self.table[tokens % 5]
            case "row of a slice":
                y = y + self.table[tokens % 5 :][0]
            case "channel":
                y = y[..., tokens % 5].unsqueeze(-1)
            case "channels":
                y = y[..., tokens % 5 :][..., :1]
            case "narrow channels":
                y = y.narrow(-1, tokens % 5, 1)
            case "rolled":
                y = y.roll(tokens % 3, -1)
            case "padded in front":
                y = nn.functional.pad(y, (tokens % 3, 0))[..., :6]
            case "padded behind":
                y = nn.functional.pad(y, (0, tokens % 3))[..., -6:]
            case "first chunk":
                y = y.chunk(tokens % 2 + 1, -1)[0].mean(-1, keepdim=True)
            case "each again":
                y = y.repeat_interleave(tokens % 3 + 1, -1)[..., :6]
            case "all again":
                y = y.repeat(1, 1, tokens % 3 + 1)[..., -6:]
            case "windows":
                y = y.unfold(-1, tokens % 3 + 1, 1).sum(-1)[..., :4]
            case "turned":
                y = y.flip(1 + tokens % 2)
            case "summed":
                y = y.sum(1 + tokens % 2, keepdim=True).expand(-1, tokens, 6)
        result: Tensor = self.leave(y)
        return result


@pytest.mark.parametrize("planned", [5, 3, 6])
@pytest.mark.parametrize(
    "what",
    (
        "row, row of a slice, channel, channels, narrow channels, rolled, padded in front, padded behind, "
        "first chunk, each again, all again, windows, turned, summed"
    ).split(", "),
)
def test_what_is_picked_by_a_size_is_all_there(what: str, planned: int) -> None:
    torch.manual_seed(0)
    model, rows = Picking(what).double().eval(), torch.tensor([1, 0, 1, 1, 0, 1]) > 0
    model(torch.randn(1, planned, 2, dtype=torch.float64))
    masks = {"enter.weight": rows[:, None].expand(6, 2), "enter.bias": rows}
    plan = plan_speedup(model, torch.randn(1, planned, 2, dtype=torch.float64), masks)
    small, masked = materialize(plan), apply_masks(model, masks)
    for tokens in (1, 2, 3, 4, 5, 6, 7, 8, 9, 14):
        x = torch.randn(2, tokens, 2, dtype=torch.float64)
        torch.testing.assert_close(small(x), masked(x), rtol=1e-9, atol=1e-12)
