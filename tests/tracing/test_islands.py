"""Models that cannot be exported as a whole: which parts are planned, what stays, and that all is exact."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.flex_attention import flex_attention
from torch.testing import assert_close

from speedup import ExportError, OutputError, Plan, apply_masks, materialize, plan_speedup, verify
from tests.support.contract import dropped
from tests.support.drawn import doubles
from tests.support.untouched import differences, snapshot

WIDTH = 6


class Block(nn.Module):
    """Two layers; what is between them can shrink."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(WIDTH, 10)
        self.down = nn.Linear(10, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(torch.relu(self.up(x)))


class Forked(nn.Module):
    """Takes one of two ways, by the values of its input."""

    def __init__(self) -> None:
        super().__init__()
        self.positive = Block()
        self.negative = Block()
        self.last = Block()

    def forward(self, x: Tensor) -> Tensor:
        x = self.positive(x) if x.sum() > 0 else self.negative(x)
        return self.last(x)


class Looped(nn.Module):
    """Runs blocks of a list until the result is small enough."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        number = 0
        while number < 6 and x.norm() > 1e-2:
            x = self.blocks[number % 3](x) / 4
            number += 1
        return x


class EarlyExit(nn.Module):
    """Returns from the first head that is sure enough."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList(Block() for _ in range(3))
        self.heads = nn.ModuleList(nn.Sequential(Block(), nn.Linear(WIDTH, 2)) for _ in range(3))

    def forward(self, x: Tensor) -> dict[str, Any]:
        for number, (stage, head) in enumerate(zip(self.stages, self.heads, strict=True)):
            x = x + stage(x)
            logits = head(x)
            result = {"logits": logits, "exit": number}
            if logits.softmax(-1).max().item() > 0.7:
                break
        return result


class Routed(nn.Module):
    """A mixture of experts with the routing in Python: each gets as many tokens as choose it."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(WIDTH, 3)
        self.experts = nn.ModuleList(Block() for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        choice = self.router(x).argmax(-1)
        out = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            tokens = (choice == number).nonzero().flatten()
            if len(tokens):
                out[tokens] = expert(x[tokens])
        return out


class Language(nn.Module):
    """A small GPT without a cache, its head tied to its embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.wte = nn.Embedding(11, WIDTH)
        self.blocks = nn.Sequential(*(nn.Sequential(nn.LayerNorm(WIDTH), Block()) for _ in range(2)))
        self.head = nn.Linear(WIDTH, 11, bias=False)
        self.head.weight = self.wte.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.blocks(self.wte(tokens)))


class Generator(nn.Module):
    """Appends the likeliest token until token 3 comes or there are enough."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Language()

    def forward(self, tokens: Tensor) -> Tensor:
        for _ in range(6):
            following = self.model(tokens)[:, -1].argmax(-1)
            tokens = torch.cat([tokens, following[:, None]], 1)
            if following[0].item() == 3:
                break
        return tokens


def rows(batch: int = 3, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, WIDTH, generator=generator, dtype=torch.float64)


def prompt(batch: int = 2, seed: int = 1) -> Tensor:
    return torch.randint(11, (batch, 4), generator=torch.Generator().manual_seed(seed))


def half(model: nn.Module) -> dict[str, dict[str, Tensor]]:
    """Every other unit of every block masked; biases stay."""
    mask = torch.ones(10, WIDTH)
    mask[::2] = 0
    return {f"{name}.up": {"weight": mask} for name, m in model.named_modules() if isinstance(m, Block)}


def planned(model: nn.Module, x: Any) -> Plan:
    return plan_speedup(model, x, half(model))


def inside(plan: Plan) -> list[str]:
    return [island.path for island in plan.report.islands]


def outside(plan: Plan) -> dict[str, str]:
    return {one.path: one.reason for one in plan.report.outside}


def assert_exact(plan: Plan, inputs: Callable[[int, int], Any]) -> Any:
    """Materialize with all checks; compare at other values and batch sizes."""
    model = plan.subject.model
    assert model is not None
    small = materialize(plan)
    masked = apply_masks(model, plan.subject.masks).eval()
    small.eval()
    for batch in (1, 2, 5):
        for seed in range(5):
            want, have = masked(inputs(batch, seed)), small(inputs(batch, seed))
            torch.testing.assert_close(have, want, rtol=1e-10, atol=1e-12)
    return small


MODELS: list[tuple[type[nn.Module], Callable[..., Tensor]]] = [
    (Forked, rows),
    (Looped, rows),
    (EarlyExit, rows),
    (Routed, rows),
    (Generator, prompt),
]


@pytest.mark.parametrize(("kind", "inputs"), MODELS)
def test_model_with_control_flow_on_data_is_planned_in_parts_and_stays_the_same(
    kind: type[nn.Module], inputs: Callable[..., Tensor]
) -> None:
    model = kind().double()
    before = snapshot(model)
    plan = planned(model, inputs())
    assert plan == planned(model, inputs())
    small = assert_exact(plan, inputs)
    assert differences(before, snapshot(model)) == ()
    assert plan.parameters_after < plan.parameters_before
    assert plan.parameters_after == sum(p.numel() for p in small.parameters())


def test_the_largest_modules_that_can_be_exported_are_islands() -> None:
    model = nn.Sequential(Forked(), Block(), nn.ModuleDict({"a": Forked()})["a"]).double()
    plan = planned(model, rows().abs())
    assert inside(plan)[:3] == ["0.positive", "0.last", "1"]
    assert {"", "0", "2"} <= outside(plan).keys()


def test_an_exportable_model_is_one_graph_without_islands() -> None:
    plan = planned(nn.Sequential(Block(), Block()).double(), rows())
    assert (plan.report.islands, plan.report.outside) == ((), ())
    assert plan.subject.islands is None


def test_a_module_that_is_never_called_stays_whole_and_the_plan_says_so() -> None:
    plan = planned(Forked().double(), rows().abs())
    small: Any = materialize(plan)
    assert small.positive.up.out_features == 5
    assert small.negative.up.out_features == 10
    assert outside(plan)["negative"] == "the example does not call it"
    assert "data-dependent" in outside(plan)[""]


def test_the_table_says_what_was_planned_apart_and_what_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    plan = planned(Forked().double(), rows().abs())
    assert "positive, last" in plan.table()
    assert "the example does not call it" in plan.table()
    assert "Planned each on its own: positive, last; " in str(plan)


def test_inputs_and_outputs_of_an_island_stay_even_when_masked() -> None:
    model = Forked().double()
    masks = {"last.up": half(model)["last.up"], "positive.down": {"weight": torch.zeros(WIDTH, 10)}}
    plan = plan_speedup(model, rows().abs(), masks)
    small = assert_exact(plan, rows)
    assert small.positive.down.out_features == WIDTH


def test_lengths_of_a_generation_loop_are_one_program() -> None:
    plan = planned(Generator().double(), prompt())
    assert [(island.path, island.calls) for island in plan.report.islands] == [("model", 1)]
    small: Any = materialize(plan)
    assert small.model.blocks[0][1].up.out_features == 5
    assert small.model.head.weight is small.model.wte.weight


class Modal(nn.Module):
    """Calls one module in two ways, which use different layers."""

    class Either(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = Block()
            self.two = Block()

        def forward(self, x: Tensor, first: bool) -> Tensor:
            return self.one(x) if first else self.two(x) * 2

    def __init__(self) -> None:
        super().__init__()
        self.either = self.Either()

    def forward(self, x: Tensor) -> Tensor:
        x = self.either(x, True)
        if x.sum() > 1e9:
            return x
        return self.either(x, first=False)


def test_calls_that_run_other_code_are_all_traced() -> None:
    plan = planned(Modal().double(), rows())
    assert [(island.path, island.calls) for island in plan.report.islands] == [("either", 2)]
    small = assert_exact(plan, rows)
    assert small.either.one.up.out_features == small.either.two.up.out_features == 5


class Switched(nn.Module):
    """A block whose calls differ in nothing but a constant, which is 0 in the first."""

    class Scaled(Block):
        def forward(self, x: Tensor, scale: float = 1.0) -> Tensor:
            return self.down(torch.relu(self.up(x)) * torch.tensor(scale, dtype=x.dtype))

    def __init__(self) -> None:
        super().__init__()
        self.block = self.Scaled()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.block(x, 0.0)
        if x.sum() > 1e9:
            return x
        return self.block(x, 2.0)


def test_calls_with_other_constants_are_all_traced() -> None:
    plan = planned(Switched().double(), rows())
    assert [(island.path, island.calls) for island in plan.report.islands] == [("block", 2)]
    assert_exact(plan, rows)


class ReadsWeights(nn.Module):
    """Reads a weight of a child beside calling it."""

    def __init__(self, read: Callable[[Block], Tensor]) -> None:
        super().__init__()
        self.block = Block()
        self.read = read

    def forward(self, x: Tensor) -> Tensor:
        x = self.block(x)
        if x.sum() > 1e9:
            return x
        return x * self.read(self.block)


@pytest.mark.parametrize(
    "read",
    [
        lambda block: block.up.weight.sum(),
        lambda block: block.up.weight.shape[0],
        lambda block: F.linear(torch.ones(1, 10).double(), block.down.weight).mean(),
        lambda block: sum(p.mean() for p in block.parameters()),
        lambda block: block.up.bias.data.norm(),
    ],
)
def test_state_that_code_outside_of_islands_reads_does_not_change(read: Callable[[Block], Tensor]) -> None:
    plan = planned(ReadsWeights(read).double(), rows())
    assert inside(plan) == ["block"]
    assert assert_exact(plan, rows).block.up.out_features == 10


def test_reading_what_does_not_depend_on_the_size_leaves_the_module_free() -> None:
    model = ReadsWeights(lambda block: torch.ones((), dtype=block.up.weight.dtype)).double()
    assert assert_exact(planned(model, rows()), rows).block.up.out_features == 5


def test_state_shared_with_a_module_that_is_not_called_does_not_change() -> None:
    model = Forked().double()
    model.negative.up = model.positive.up
    small = assert_exact(planned(model, rows().abs()), lambda b, s: rows(b, s).abs())
    assert small.positive.up.out_features == 10
    assert small.positive.up is small.negative.up
    assert small.last.up.out_features == 5


def test_state_shared_by_two_islands_is_cut_alike() -> None:
    model = Forked().double()
    model.last.up.weight = model.positive.up.weight
    small = assert_exact(planned(model, rows().abs()), lambda b, s: rows(b, s).abs())
    assert small.last.up.weight is small.positive.up.weight


class KeepsItsWidth(nn.Module):
    """A forward that states a size as an attribute of its module."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(WIDTH, 10)
        self.down = nn.Linear(10, WIDTH)
        self.width = 10

    def forward(self, x: Tensor) -> Tensor:
        return self.down(torch.relu(self.up(x)).view(-1, self.width))


class ReadsWidth(nn.Module):
    def __init__(self, reads: bool) -> None:
        super().__init__()
        self.child = KeepsItsWidth()
        self.reads = reads

    def forward(self, x: Tensor) -> Tensor:
        return self.plain(x) if x.sum() > 1e9 else self.scaled(x) if self.reads else self.child(x)

    def plain(self, x: Tensor) -> Tensor:
        return self.child(x)

    def scaled(self, x: Tensor) -> Tensor:
        return self.child(x) * self.child.width


class NamesNothing(ReadsWidth):
    def scaled(self, x: Tensor) -> Tensor:
        return self.child(x)


@pytest.mark.parametrize(("kind", "width"), [(ReadsWidth, 10), (NamesNothing, 5)])
def test_an_attribute_that_code_outside_of_islands_names_does_not_change(
    kind: type[ReadsWidth], width: int
) -> None:
    model = kind(True).double()
    mask = torch.ones(10, WIDTH)
    mask[::2] = 0
    plan = plan_speedup(model, rows(), {"child.up": {"weight": mask}})
    assert inside(plan) == ["child"]
    assert assert_exact(plan, rows).child.width == width


class CallsInside(nn.Module):
    """Calls a module as a whole and, elsewhere, only a part of it."""

    def __init__(self) -> None:
        super().__init__()
        self.block = Block()

    def forward(self, x: Tensor) -> Tensor:
        x = self.block(x)
        if x.sum() > 1e9:
            return x
        return self.block.up(x)


def test_a_part_of_an_island_that_is_also_called_from_outside_keeps_its_ends() -> None:
    plan = planned(CallsInside().double(), rows())
    assert inside(plan) == ["block", "block.up"]
    assert assert_exact(plan, rows).block.up.out_features == 10


class Boxed:
    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


class TakesObjects(nn.Module):
    class Unboxing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = Block()

        def forward(self, boxed: Boxed) -> Tensor:
            return self.block(boxed.tensor)

    def __init__(self) -> None:
        super().__init__()
        self.unboxing = self.Unboxing()

    def forward(self, x: Tensor) -> Tensor:
        return self.unboxing(Boxed(x if x.sum() > 0 else -x))


def test_a_module_that_is_called_with_objects_is_descended_into() -> None:
    plan = planned(TakesObjects().double(), rows())
    assert inside(plan) == ["unboxing.block"]
    assert outside(plan)["unboxing"] == "it is called with an object of class Boxed"
    assert_exact(plan, rows)


class Leaking(nn.Module):
    """Reads what happens inside a child through a hook."""

    def __init__(self) -> None:
        super().__init__()
        self.block = Block()
        self.seen: dict[str, Tensor] = {}
        self.block.up.register_forward_hook(self._keep)

    def _keep(self, module: nn.Module, args: Any, output: Tensor) -> None:
        self.seen["up"] = output

    def forward(self, x: Tensor) -> Tensor:
        x = self.block(x)
        return x if x.sum() > 1e9 else x * self.seen["up"].mean()


def test_a_module_whose_inner_tensors_are_read_elsewhere_is_descended_into() -> None:
    plan = planned(Leaking().double(), rows())
    assert "block" not in inside(plan)
    assert "does not return" in outside(plan)["block"]
    assert assert_exact(plan, rows).block.up.out_features == 10


class Methodical(nn.Module):
    """Uses a child through a method, not by calling it."""

    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = Block()
            self.scale = nn.Parameter(torch.ones(WIDTH))

        def encode(self, x: Tensor) -> Tensor:
            return self.block(x) * self.scale

    def __init__(self) -> None:
        super().__init__()
        self.encoder = self.Encoder()

    def forward(self, x: Tensor) -> Tensor:
        return self.encoder.encode(x if x.sum() > 0 else -x)


def test_a_child_used_through_a_method_is_descended_into() -> None:
    plan = planned(Methodical().double(), rows())
    assert inside(plan) == ["encoder.block"]
    assert_exact(plan, rows)


class Writing(nn.Module):
    """A child overwrites its input, which is read afterwards."""

    class InPlace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = Block()

        def forward(self, x: Tensor) -> Tensor:
            x.mul_(2).relu_()
            return self.block(x)

    def __init__(self) -> None:
        super().__init__()
        self.child = self.InPlace()

    def forward(self, x: Tensor) -> Tensor:
        h = x + 1
        y = self.child(h)
        return y + h if y.sum() < 1e9 else y


def test_an_island_may_write_to_its_input() -> None:
    plan = planned(Writing().double(), rows())
    assert inside(plan) == ["child"]
    assert assert_exact(plan, rows).child.block.up.out_features == 5


class OfListed(nn.Module):
    """Takes images of any size in a list and returns one result for each that is bright."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 3))
        self.sizes: list[int] = []

    def forward(self, images: list[Tensor]) -> list[Tensor]:
        assert all(image.shape[0] == 3 for image in images)
        features = [self.body(image[None]).flatten(2) for image in images]
        return [f[:, :, f[0].mean(0) > 0] for f in features]


def test_results_of_varying_shape_from_a_list_of_images_are_compared() -> None:
    model: Any = OfListed().double()
    mask = torch.ones_like(model.body[0].weight)
    mask[:4] = 0
    images = [torch.randn(3, size, 9, dtype=torch.float64) for size in (7, 9, 8)]
    plan = plan_speedup(model, (images,), {"body.0": {"weight": mask}})
    assert [(island.path, island.calls) for island in plan.report.islands] == [("body", 1)]
    small: Any = materialize(plan)
    assert small.body[0].out_channels < 8
    found = verify(plan, small)
    assert found.batch_sizes == (None,)
    assert found.error is not None and found.error < 1e-12


def test_a_wrong_number_in_an_island_is_an_error_that_names_the_module() -> None:
    plan = planned(Forked().double(), rows().abs())
    small: Any = materialize(plan, verify="none")
    with torch.no_grad():
        small.last.up.bias[0] += 1
    with pytest.raises(OutputError, match=r"module 'last' of.*keep=\['last.down'\]"):
        verify(plan, small)


def test_keeping_an_island_leaves_it_whole() -> None:
    model = Forked().double()
    plan = plan_speedup(model, rows().abs(), half(model), keep=["positive"])
    small: Any = materialize(plan)
    assert small.positive.up.out_features == 10
    assert small.last.up.out_features == 5


class OwnParameter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight if x.sum() > 0 else x


def test_a_model_without_any_exportable_module_is_an_export_error() -> None:
    model = nn.Sequential(OwnParameter(), nn.ReLU())
    with pytest.raises(ExportError, match=r"cannot trace the model: 0 \(OwnParameter\).*control flow"):
        plan_speedup(model, torch.ones(2, WIDTH))


class Fails(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block = Block()

    def forward(self, x: Tensor) -> Tensor:
        raise RuntimeError("no such luck")


def test_a_model_that_does_not_run_is_an_export_error_that_names_the_module() -> None:
    model = nn.Sequential(Block(), Fails())
    before = snapshot(model)
    with pytest.raises(ExportError, match=r"does not run.*1 \(Fails\).*RuntimeError: no such luck"):
        plan_speedup(model, torch.ones(2, WIDTH))
    assert differences(before, snapshot(model)) == ()


def test_nothing_is_printed_when_a_model_cannot_be_exported(capfd: pytest.CaptureFixture[str]) -> None:
    materialize(planned(Forked().double(), rows()))
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""


class Chooses(nn.Module):
    """Hands on the samples with a positive sum: none of the example's."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.head = nn.Linear(4, 8), nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2))

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.enter(x)
        return self.head(hidden[x.sum(1) > 0])


def test_module_that_the_example_calls_with_nothing_stays_whole() -> None:
    model = Chooses().double().eval()
    mask = torch.ones(6, 8)
    mask[0] = 0
    masks = {"head.0": {"weight": mask}}
    plan = plan_speedup(model, -torch.rand(3, 4, dtype=torch.float64), masks)
    small: Any = materialize(plan)
    masked = apply_masks(model, masks)
    x = torch.randn(9, 4, dtype=torch.float64)
    assert small.head[0].out_features == 6
    torch.testing.assert_close(small(x), masked(x))


class Flexible(nn.Module):
    """Attention by flex_attention between two layers, and a feed-forward part."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(16, 32)
        self.parts = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 16))

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x).unflatten(-1, (4, 8)).transpose(1, 2)
        y = flex_attention(y, y, y, score_mod=lambda score, b, h, i, j: score + (i - j) * 0.1)
        assert isinstance(y, Tensor)
        return self.parts(y.transpose(1, 2).flatten(2))


class Compiled(nn.Module):
    """Compiles a function of its own, and branches on its data."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 16))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.compile(torch.sin, fullgraph=True)(self.parts(x))
        return y if y.sum() > 0 else -y


@pytest.mark.parametrize(("kind", "why"), [(Flexible, "flex_attention"), (Compiled, "")])
@torch.no_grad()
def test_what_a_forward_compiles_stays_apart_and_the_rest_is_planned(kind: type[nn.Module], why: str) -> None:
    torch.manual_seed(0)
    model = kind().double().eval()
    masks = dropped(model, {"parts.0": range(32)})
    plan = plan_speedup(model, doubles(6, 16)(), masks)
    assert why in plan.report.outside[0].reason
    small: Any = materialize(plan)
    assert small.parts[0].out_features == 32
    x = doubles(9, 16)(3)
    assert_close(small(x), apply_masks(model, masks)(x))
