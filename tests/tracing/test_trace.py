"""Traces of small models: what the frozen graph holds, and that running it is running the model."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from speedup.errors import ExportError
from speedup.ir.evaluation import evaluate
from speedup.ir.graph import Graph, Origin
from speedup.ir.inputs import example_from, tensors_of
from speedup.tracing.trace import Trace, capture, export, trace_call
from tests.support.soundness import Calling, graph_of
from tests.support.untouched import differences, snapshot

X = torch.randn(2, 4)


def traced(model: nn.Module, x: Any = X, kwargs: Any = None) -> Trace:
    return trace_call(model, example_from(x, kwargs))


def names(graph: Graph) -> list[str]:
    """The operators' names without namespace and overload."""
    return [op.target._schema.name.removeprefix("aten::") for op in graph.ops]


def run(found: Trace, inputs: tuple[Tensor, ...]) -> list[Tensor]:
    """The outputs that the frozen graph computes."""
    held = {v.index: t for v, t in zip(found.graph.inputs, inputs, strict=True)}
    held.update({v.index: found.tensors[v.name] for v in found.graph.state})
    for op in found.graph.ops:
        results = evaluate(op, [held[v.index] for v in op.operands])
        held.update({v.index: t for v, t in zip(op.results, results, strict=True)})
    return [held[v.index] for v in found.graph.outputs]


def assert_runs_like(model: nn.Module, x: Any = X, kwargs: Any = None) -> Graph:
    """Trace `model` on `x`; fail unless the graph computes what the model does on other inputs."""
    found = traced(model, x, kwargs)
    example = example_from(x, kwargs)
    for _ in range(2):
        inputs = tuple(
            torch.randn_like(t) if t.is_floating_point() else t.flip(0).clone() for t in example.tensors
        )
        args, keywords = example.call([t.clone() for t in inputs])
        with torch.no_grad():
            expected = tensors_of(model.eval()(*args, **keywords))
            got = run(found, inputs)
        assert len(got) == len(expected)
        for g, e in zip(got, expected, strict=True):
            torch.testing.assert_close(g, e)
    assert_well_formed(found.graph)
    return found.graph


def assert_well_formed(graph: Graph) -> None:
    """SSA form: indices are positions, every value is defined once and before it is read."""
    assert [v.index for v in graph.values] == list(range(len(graph.values)))
    assert [op.index for op in graph.ops] == list(range(len(graph.ops)))
    defined = {v.index for v in (*graph.inputs, *graph.state)}
    for op in graph.ops:
        assert {v.index for v in op.operands} <= defined
        made = {v.index for v in op.results}
        assert not made & defined
        defined |= made
    assert {v.index for v in graph.outputs} <= defined
    assert all(graph.values[v.index] is v for v in (*graph.inputs, *graph.outputs, *graph.state))


def inplace_chain(x: Tensor) -> Tensor:
    h = x * 2
    h.relu_()
    h.add_(1)
    return h * h


def inplace_on_a_view(x: Tensor) -> Tensor:
    h = x * 2
    h[:, :2].mul_(10)
    return h + 1


def inplace_on_the_base_of_a_view(x: Tensor) -> Tensor:
    h = x * 2
    part = h[:, :2]
    h.add_(1)
    return part * 3


def filled_buffer(x: Tensor) -> Tensor:
    out = torch.zeros(x.shape[0], 6)
    out[:, 1:5] = x
    return out * 2


def reused_after_write(x: Tensor) -> Tensor:
    h = x + 1
    before = h * 3
    h.mul_(2)
    return before + h


def write_through_a_split(x: Tensor) -> Tensor:
    left, right = (x * 1).chunk(2, 1)
    left.add_(right)
    return torch.cat([left, right], 1)


def numbered_windows(x: Tensor) -> Tensor:
    mask = x.new_zeros(4, 6)
    for number, rows in enumerate((slice(0, -2), slice(-2, None))):
        for columns in (slice(0, 3), slice(3, None)):
            mask[rows, columns] = number
    return mask + 1


def write_through_views_of_a_written_tensor(x: Tensor) -> Tensor:
    h = (x * 2).relu_()
    h[0][1:].add_(3)
    h.mul_(2)
    h[-1] = 5
    return h - 1


def part_read_after_a_write_to_a_part_of_it(x: Tensor) -> Tensor:
    h = x * 2
    part = h[:, 1:]
    part[:, 0].mul_(10)
    return part.sum() + h


def other_part_read_after_the_write(x: Tensor) -> Tensor:
    h = x * 2
    left, right = h[:, :2], h[:, 1:]
    left.mul_(10)
    return right + 1


@pytest.mark.parametrize(
    "forward",
    [
        numbered_windows,
        write_through_views_of_a_written_tensor,
        part_read_after_a_write_to_a_part_of_it,
        other_part_read_after_the_write,
        inplace_chain,
        inplace_on_a_view,
        inplace_on_the_base_of_a_view,
        filled_buffer,
        reused_after_write,
        write_through_a_split,
    ],
)
def test_writing_in_place_is_traced_as_what_it_computes(forward: Callable[[Tensor], Tensor]) -> None:
    assert_runs_like(Calling(forward))


def test_whole_tensor_writes_are_renamed_and_later_uses_read_their_result() -> None:
    graph = graph_of(inplace_chain, X)
    assert names(graph) == ["mul", "relu_", "add_", "mul"]
    _, relu, add, square = graph.ops
    assert add.operands == (relu.result,)
    assert square.operands == (add.result, add.result)


def test_a_write_to_a_view_that_is_read_later_is_functionalized() -> None:
    graph = graph_of(inplace_on_a_view, X)
    assert not any(op.target._schema.is_mutable for op in graph.ops)


@pytest.mark.parametrize("forward", [numbered_windows, write_through_views_of_a_written_tensor])
def test_writes_to_slices_and_selections_need_no_second_trace(
    forward: Callable[[Tensor], Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.export.ExportedProgram, "run_decompositions", None)
    assert_runs_like(Calling(forward))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(6, 4)
        self.head = nn.Linear(4, 6, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.embedding(tokens))


def test_a_tied_parameter_is_one_value_under_its_first_name() -> None:
    graph = assert_runs_like(Tied(), torch.tensor([[0, 1, 5]]))
    assert [v.name for v in graph.state] == ["embedding.weight"]
    lookup, product = graph.ops
    assert lookup.operands[0] is product.operands[1]
    assert graph.readers[graph.state[0].index] == (lookup.index, product.index)


class Block(nn.Module):
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.register_buffer("scale", torch.full((4,), 2.0))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.fc(x)) * self.scale


class Stacked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.shared = Block()
        self.blocks = nn.ModuleList([nn.Sequential(Block())])

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks[0](self.shared(self.shared(x))) - 1


def test_ops_carry_the_path_and_class_of_the_module_that_ran_them() -> None:
    graph = assert_runs_like(Stacked())
    owners = [(n, op.owner.path, op.owner.type) for n, op in zip(names(graph), graph.ops, strict=True)]
    assert owners[-4:] == [
        ("linear", "blocks.0.0.fc", nn.Linear),
        ("relu", "blocks.0.0", Block),
        ("mul", "blocks.0.0", Block),
        ("sub", "", Stacked),
    ]


def test_both_calls_of_a_shared_module_belong_to_the_same_path() -> None:
    graph = traced(Stacked()).graph
    first, second = (op for op in graph.ops if op.owner.path == "shared.fc")
    assert first.operands[1:] == second.operands[1:]
    assert first.operands[0] != second.operands[0]


def test_state_has_the_models_names_and_origins() -> None:
    found = traced(Stacked())
    assert {v.name: v.origin for v in found.graph.state if v.name.startswith("shared")} == {
        "shared.fc.weight": Origin.PARAMETER,
        "shared.fc.bias": Origin.PARAMETER,
        "shared.scale": Origin.BUFFER,
    }


def test_tensors_share_storage_with_the_model() -> None:
    model: Any = Block()
    tensors = traced(model).tensors
    assert tensors["fc.weight"].data_ptr() == model.fc.weight.data_ptr()
    assert tensors["scale"].data_ptr() == model.scale.data_ptr()
    assert not tensors["fc.weight"].requires_grad


def test_a_tensor_kept_as_a_plain_attribute_is_a_constant() -> None:
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = torch.arange(4.0)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.table

    found = traced(Plain())
    (value,) = found.graph.state
    assert value.origin is Origin.CONSTANT
    assert torch.equal(found.tensors[value.name], torch.arange(4.0))


def test_ops_say_which_line_of_the_forward_ran_them() -> None:
    graph = traced(Mixed(), (X, 3), {"other": {"bias": X, "on": True}}).graph
    lines = [line_of(Mixed, text) for text in ("x * factor", "h - other")]
    assert [op.where for op in graph.ops] == [f"test_trace.py:{line}" for line in lines]


@dataclass
class Output:
    logits: Tensor
    hidden: tuple[Tensor, ...]
    loss: Tensor | None = None


@pytest.mark.parametrize(
    ("forward", "count"),
    [
        (lambda x: x + 1, 1),
        (lambda x: (x + 1, [x * 2, x]), 3),
        (lambda x: {"a": x + 1, "b": None, "c": 3}, 1),
        (lambda x: Output(x + 1, (x * 2, x * 3)), 3),
        (lambda x: (None, x + 1), 1),
        (lambda x: (x + 1,) * 2, 2),
    ],
)
def test_outputs_of_any_structure_are_listed_in_order(forward: Callable[[Tensor], Any], count: int) -> None:
    graph = assert_runs_like(Calling(forward))
    assert len(graph.outputs) == count


class Mixed(nn.Module):
    def forward(self, x: Tensor, factor: int, mask: Tensor | None = None, *, other: dict[str, Any]) -> Tensor:
        h = x * factor if mask is None else x * mask
        return h - other["bias"] if other["on"] else h


def test_keyword_arguments_and_those_that_are_no_tensors_are_passed_on() -> None:
    other = {"bias": torch.randn(4), "on": True}
    graph = assert_runs_like(Mixed(), (X, 3, None), {"other": other})
    assert names(graph) == ["mul", "sub"]
    assert graph.ops[0]["other"] == 3
    assert [v.shape for v in graph.inputs] == [(2, 4), (4,)]
    masked = assert_runs_like(Mixed(), (X, 3, torch.randn(4)), {"other": {**other, "on": False}})
    assert names(masked) == ["mul"]


def test_an_input_that_is_not_read_stays_an_input() -> None:
    graph = traced(Calling(lambda x, y: x + 1), (X, torch.randn(3))).graph
    assert [v.shape for v in graph.inputs] == [(2, 4), (3,)]
    assert graph.readers[graph.inputs[1].index] == ()


def test_an_input_that_is_returned_is_an_output() -> None:
    graph = traced(Calling(lambda x: (x, x + 1))).graph
    assert graph.outputs[0] is graph.inputs[0]


def test_arguments_are_named_as_in_the_schema_with_defaults_filled_in() -> None:
    (op,) = graph_of(lambda x: torch.add(x, 2), X).ops
    assert dict(op.arguments) == {"self": op.operands[0], "other": 2, "alpha": 1}


def no_grad_region(x: Tensor) -> Tensor:
    with torch.no_grad():
        h = x * 2
    return h + x


def enabled_inside_disabled(x: Tensor) -> Tensor:
    with torch.no_grad():
        h = x * 2
        with torch.enable_grad():
            h = h.relu() - 1
    return h


def autocast_region(x: Tensor) -> Tensor:
    with torch.autocast("cpu", enabled=False):
        h, k = x * 2, x - 1
    return h + k


@pytest.mark.parametrize(
    ("forward", "operators"),
    [
        (no_grad_region, ["mul", "add"]),
        (enabled_inside_disabled, ["mul", "relu", "sub"]),
        (autocast_region, ["mul", "sub", "add"]),
    ],
)
def test_regions_that_only_set_a_mode_are_inlined(
    forward: Callable[[Tensor], Tensor], operators: list[str]
) -> None:
    assert names(assert_runs_like(Calling(forward))) == operators


def test_a_module_inside_a_region_keeps_its_path() -> None:
    class Frozen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                return self.fc(x)

    graph = assert_runs_like(Frozen())
    assert [op.owner.path for op in graph.ops if op.target is torch.ops.aten.linear.default] == ["fc"]


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            return x
        return -x


class Raising(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise RuntimeError("no such luck\nmore lines")


def line_of(kind: type, text: str) -> int:
    lines, start = inspect.getsourcelines(kind)
    return next(start + n for n, line in enumerate(lines) if text in line)


@pytest.mark.parametrize(("kind", "text"), [(Branching, "if x.sum()"), (Raising, "raise")])
def test_an_export_error_names_the_innermost_module_and_its_line(kind: type[nn.Module], text: str) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Sequential(kind()))
    with pytest.raises(ExportError) as caught:
        traced(model)
    message = str(caught.value)
    assert f"1.0 ({kind.__name__})" in message
    assert f"line {line_of(kind, text)} of test_trace.py" in message
    assert caught.value.__cause__ is not None


def test_an_export_error_repeats_the_first_line_of_the_cause_only() -> None:
    with pytest.raises(ExportError, match="RuntimeError: no such luck") as caught:
        traced(Raising())
    assert "more lines" not in str(caught.value)
    assert "the model itself (Raising)" in str(caught.value)


def test_a_result_whose_shape_depends_on_the_data_is_refused() -> None:
    with pytest.raises(ExportError):
        traced(Calling(lambda x: x[x > 0]))


def test_a_call_with_too_few_arguments_is_an_export_error() -> None:
    with pytest.raises(ExportError, match="missing 1 required positional argument"):
        traced(nn.Bilinear(4, 4, 2))


class Lively(nn.Module):
    """Has hooks, a frozen parameter, gradients, a training flag, a batch norm and a dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
        self.calls = 0
        self.body[0].weight.requires_grad_(False)
        self.body[1].eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


def test_the_given_model_and_the_global_generator_stay_as_they_were() -> None:
    model = Lively().train()
    model.body[1].eval()
    model.body[0].register_forward_hook(lambda module, args, out: out * 2)
    model(X).sum().backward()
    flags = [m.training for m in model.modules()]
    attributes = [{k: id(v) for k, v in vars(m).items()} for m in model.modules()]
    before = snapshot(model)
    traced(model)
    assert differences(before, snapshot(model)) == ()
    assert [m.training for m in model.modules()] == flags
    assert [{k: id(v) for k, v in vars(m).items()} for m in model.modules()] == attributes


def test_a_model_in_training_mode_is_traced_in_eval_mode() -> None:
    graph = traced(Lively().train()).graph
    flags = {n: op.get("training", op.get("train")) for n, op in zip(names(graph), graph.ops, strict=True)}
    assert flags.pop("batch_norm") is False
    assert flags.pop("dropout", False) is False


def test_a_forward_that_counts_its_calls_does_not_count_in_the_given_model() -> None:
    class Counting(Lively):
        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return self.body(x)

    model = Counting()
    traced(model)
    assert model.calls == 0


def test_a_failed_trace_leaves_model_and_generator_alone_too() -> None:
    model = nn.Sequential(nn.Dropout(), Raising()).train()
    before = snapshot(model)
    with pytest.raises(ExportError):
        traced(model)
    assert differences(before, snapshot(model)) == ()
    assert all(m.training for m in model.modules())


def test_hooks_of_the_model_are_part_of_what_it_computes() -> None:
    model = nn.Sequential(nn.Linear(4, 3))
    model[0].register_forward_hook(lambda module, args, out: out * 2)
    assert names(assert_runs_like(model)) == ["linear", "mul"]


def test_tracing_twice_gives_equal_graphs() -> None:
    model = Stacked()
    assert traced(model).graph == traced(model).graph


def test_the_batch_of_the_example_is_in_the_shapes_and_in_no_argument() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2))
    small, large = (traced(model, torch.randn(n, 3, 4, 4)).graph for n in (3, 7))
    plain = [
        [{k: op[k] for k in op.arguments if op.position(k) is None} for op in graph.ops]
        for graph in (small, large)
    ]
    assert plain[0] == plain[1]
    assert [v.shape[0] for v in large.outputs] == [7]


@pytest.mark.parametrize(
    ("model", "x"),
    [
        (nn.LSTM(4, 3, num_layers=2, batch_first=True), torch.randn(2, 5, 4)),
        (nn.MultiheadAttention(4, 2, batch_first=True), tuple(torch.randn(3, 2, 3, 4))),
        (nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), torch.randn(2, 3, 4)),
        (nn.utils.parametrizations.weight_norm(nn.Linear(4, 3)), X),
        (Calling(lambda x: checkpoint(lambda y: y.relu() * 2, x, use_reentrant=False)), X),
        (Calling(lambda x: torch.stack(x.unbind(1), 0).sum(0)), X),
        (Calling(lambda x: x[:, None, [0, 2]].max(1).values), X),
        (Calling(lambda x: torch.var_mean(x, 1)), X),
    ],
)
def test_the_graph_of_a_model_computes_what_the_model_does(model: nn.Module, x: Any) -> None:
    assert_runs_like(model, x)


def test_a_trace_that_cannot_be_made_functional_is_refused_like_one_that_cannot_be_made() -> None:
    class Drawing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            # Its name is no name in Python, and source is written when the trace is made functional.
            drawn: Tensor = getattr(torch.ops.aten.random_, "from")(x, 1, None)
            return drawn

    with pytest.raises(ExportError, match=r"torch\.export cannot trace the model"):
        traced(Drawing())


class Refuses(nn.Module):
    def forward(this, x: Tensor) -> Tensor:  # noqa: N805  as some write it
        raise ValueError("not today")


class Checks(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise ValueError("not today")


@pytest.mark.parametrize("trace", [capture, export])
def test_error_names_the_module_that_raised(trace: Callable[..., object]) -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Sequential(Refuses()))
    with pytest.raises(ExportError) as found:
        trace(model, example_from(torch.ones(2, 3), None))
    assert found.value.module == "1.0"


@pytest.mark.parametrize("trace", [capture, export])
def test_error_tells_the_line_of_the_forward_that_raised(trace: Callable[..., object]) -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Sequential(Checks()))
    with pytest.raises(ExportError, match=r"1\.0 \(Checks\) at line \d+ of test_trace\.py raised ValueError"):
        trace(model, example_from(torch.ones(2, 3), None))
