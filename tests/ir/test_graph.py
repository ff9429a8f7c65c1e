"""The immutable graph spec: arguments of ops, size expressions, and who reads what."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import attrs
import pytest
import torch
from torch import nn

from speedup.ir.expressions import Arithmetic, Derived, SizeOf
from speedup.ir.graph import Frame, Graph, Op, Origin, Owner, Value, call_arguments, values_in

aten = torch.ops.aten
HALF = Arithmetic("floordiv", (SizeOf(0, 1), 2))
OWNER = Owner("layer", nn.Linear)


def value(index: int, *shape: int, origin: Origin = Origin.RESULT, name: str = "") -> Value:
    return Value(index, shape, torch.float32, origin, name)


def op(target: Any, results: tuple[Value, ...], index: int = 0, line: str = "", **arguments: Any) -> Op:
    file, _, number = line.partition(":")
    calls = (Frame(f"/some/{file}", "forward", 1, (int(number), 8, int(number), 12)),) if line else ()
    return Op(index, target, MappingProxyType(arguments), results, OWNER, calls)


X, Y, Z = value(0, 3, 16, origin=Origin.INPUT), value(1, 3, 16), value(2, 6, 16)
W = value(3, 4, 16, origin=Origin.PARAMETER, name="fc.weight")


def test_state_is_what_the_model_itself_holds() -> None:
    held = {origin: value(0, 1, origin=origin).is_state for origin in Origin}
    assert held == {
        Origin.INPUT: False,
        Origin.PARAMETER: True,
        Origin.BUFFER: True,
        Origin.CONSTANT: True,
        Origin.RESULT: False,
    }


def test_values_in_finds_nested_ones_in_order() -> None:
    assert list(values_in((Derived(8, HALF), X, (Y, (3,), 4)))) == [X, Y]


def test_an_op_lists_its_operands_in_schema_order_with_repetitions() -> None:
    joined = op(aten.cat.default, (Z,), tensors=(X, Y, X), dim=0)
    assert joined.operands == (X, Y, X)


def test_getitem_and_get_make_derived_numbers_concrete() -> None:
    cut = op(aten.narrow.default, (Y,), self=X, dim=1, start=0, length=Derived(8, HALF))
    assert cut["length"] == 8
    assert cut.get("length") == 8
    assert cut.arguments["length"] == Derived(8, HALF)


def test_get_falls_back_to_the_default_and_getitem_raises() -> None:
    cut = op(aten.relu.default, (Y,), self=X)
    assert cut.get("padding", (0,)) == (0,)
    assert cut.get("padding") is None
    with pytest.raises(KeyError):
        cut["padding"]


def test_position_counts_tensor_arguments_only() -> None:
    bias = value(4, 4, origin=Origin.PARAMETER, name="fc.bias")
    norm = op(
        aten.batch_norm.default,
        (Y,),
        input=X,
        weight=None,
        bias=bias,
        running_mean=W,
        running_var=Z,
        eps=1e-5,
    )
    positions = [norm.position(n) for n in ("input", "weight", "bias", "running_mean", "running_var")]
    assert positions == [0, None, 1, 2, 3]
    assert norm.position("eps") is None
    assert norm.position("no such argument") is None


def test_position_after_a_list_of_tensors_counts_each_of_them() -> None:
    picked = op(aten.index.Tensor, (Y,), indices=(None, X, Z), self=W)
    assert picked.position("indices") == 0
    assert picked.position("self") == 2


def test_result_is_the_only_result() -> None:
    assert op(aten.relu.default, (Y,), self=X).result is Y
    with pytest.raises(ValueError, match="too many values"):
        _ = op(aten.split.Tensor, (Y, Z), self=X).result


def test_a_label_names_operator_module_and_line() -> None:
    assert (
        op(aten.relu.default, (Y,), self=X, line="net.py:3").label == "aten.relu.default in layer (net.py:3)"
    )
    bare = attrs.evolve(op(aten.relu.default, (Y,), self=X), owner=Owner("", nn.Module))
    assert bare.label == "aten.relu.default in the model's forward"


def test_call_arguments_split_as_the_schema_does() -> None:
    call = op(aten.add.Tensor, (Y,), self=X, other=W, alpha=2)
    assert call_arguments(call, call.arguments) == ([X, W], {"alpha": 2})


def test_equal_ops_hash_equally_and_their_lines_do_not_count() -> None:
    a = op(aten.relu.default, (Y,), self=X, line="a.py:1")
    b = op(aten.relu.default, (Y,), self=X, line="b.py:2")
    assert a == b
    assert hash(a) == hash(b)


@pytest.mark.parametrize(
    "change",
    [
        {"arguments": MappingProxyType({"self": Y})},
        {"arguments": MappingProxyType({"self": X, "dim": 1})},
        {"target": aten.gelu.default},
        {"results": (Z,)},
        {"owner": Owner("other", nn.Linear)},
        {"index": 1},
    ],
)
def test_ops_differ_when_any_part_but_where_differs(change: dict[str, Any]) -> None:
    one = op(aten.relu.default, (Y,), self=X)
    assert attrs.evolve(one, **change) != one


def chain() -> Graph:
    """relu(x) -> y; cat(y, y, x) -> z; w is state that nothing reads."""
    first = op(aten.relu.default, (Y,), self=X)
    second = op(aten.cat.default, (Z,), index=1, tensors=(Y, Y, X), dim=0)
    return Graph((X, Y, Z, W), (first, second), (X,), (Z,))


def test_readers_hold_every_reading_in_order_once_per_use() -> None:
    assert chain().readers == ((0, 1), (1, 1), (), ())


def test_the_producer_is_the_op_that_computes_a_value() -> None:
    assert chain().producer == (None, 0, 1, None)


def test_an_unpacking_op_produces_all_its_results() -> None:
    parts = op(aten.unbind.int, (Y, Z), self=X, dim=0)
    assert Graph((X, Y, Z), (parts,), (X,), (Y, Z)).producer == (None, 0, 0)


def test_state_lists_parameters_buffers_and_constants() -> None:
    assert chain().state == (W,)


def test_graphs_of_equal_parts_are_equal_and_of_others_are_not() -> None:
    assert chain() == chain()
    assert attrs.evolve(chain(), outputs=(Y,)) != chain()
    assert attrs.evolve(chain(), opaque_roots=(SizeOf(0, 1),)) != chain()


@pytest.mark.parametrize(
    ("thing", "name"),
    [(X, "shape"), (HALF, "function"), (chain(), "ops"), (chain().ops[0], "index"), (OWNER, "path")],
)
def test_nothing_in_a_graph_can_be_rebound(thing: Any, name: str) -> None:
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        setattr(thing, name, None)


def test_the_arguments_of_an_op_cannot_be_written() -> None:
    with pytest.raises(TypeError):
        chain().ops[0].arguments["self"] = Y  # type: ignore[index]
