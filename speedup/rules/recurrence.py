"""What a recurrent operator is: its cells by layer and direction, its states, its outputs.

A stack of layers, each with a *cell* per direction, is one operator: `lstm`, `gru`, `rnn_tanh`,
`rnn_relu`; a single step of one cell is another (`lstm_cell`, ...). Both are described here in
the same terms, the step as a recurrence that the forward may unroll: what is said of its units
holds for any number of steps.
"""

from __future__ import annotations

from collections.abc import Iterator

from attrs import frozen

from speedup.ir.graph import Op, Value

# Operator name without `_cell`: how many gates its weights hold, and which of them is the content.
_GATES = {"lstm": (4, 2), "gru": (3, 2), "rnn_tanh": (1, 0), "rnn_relu": (1, 0)}


def gate_count(op: Op) -> int:
    """How many gates the weights of a recurrent operator hold."""
    return _GATES[op.name.removesuffix("_cell")][0]


def first_weights(op: Op) -> tuple[Value, Value]:
    """`weight_ih` and `weight_hh` of the first layer, or of the only cell."""
    given = op.arguments
    first: tuple[Value, Value] = given["params"][:2] if "params" in given else (given["w_ih"], given["w_hh"])
    return first


@frozen(eq=False)
class Cell:
    """The weights of one layer and direction: (gates * hidden, inputs) and (gates * hidden, hidden)."""

    weight_ih: Value
    weight_hh: Value
    bias_ih: Value | None
    bias_hh: Value | None

    @property
    def weights(self) -> tuple[Value, ...]:
        """All that is there, gates along dimension 0."""
        return tuple(w for w in (self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh) if w is not None)


@frozen(eq=False)
class Recurrence:
    """How an op's operands take part. `layers` holds each layer's cells, one per direction.

    `initial` and `final` are (h,) or (h, c): (layers * directions, batch, hidden) of a stack,
    (batch, hidden) of a step. `output` is (.., .., directions * hidden); a step has none.
    """

    kind: str
    data: Value
    layers: tuple[tuple[Cell, ...], ...]
    initial: tuple[Value, ...]
    final: tuple[Value, ...]
    output: Value | None

    @property
    def gates(self) -> int:
        return _GATES[self.kind][0]

    @property
    def content(self) -> int:
        """The gate without which nothing enters a unit."""
        return _GATES[self.kind][1]

    @property
    def hidden(self) -> int:
        return self.cells[0].weight_hh.shape[1]

    @property
    def directions(self) -> int:
        return len(self.layers[0])

    @property
    def cells(self) -> tuple[Cell, ...]:
        """All cells, in the order of the states' rows."""
        return tuple(cell for layer in self.layers for cell in layer)

    def placed(self) -> Iterator[tuple[int, int, Cell]]:
        """(layer, direction, cell) of every cell, in the order of the states' rows."""
        for number, cells in enumerate(self.layers):
            for direction, cell in enumerate(cells):
                yield number, direction, cell


def describe_recurrence(op: Op) -> Recurrence | None:
    """The recurrence that `op` computes; None when it is of a kind that is not modelled here."""
    kind = op.name.removesuffix("_cell")
    states = 2 if kind == "lstm" else 1
    data, initial = op.operands[0], op.operands[1 : 1 + states]
    weights = op.operands[1 + states :]
    if op.name.endswith("_cell"):
        if op.position("b_ih") is None and op.position("b_hh") is not None:
            return None
        shape = Recurrence(kind, data, ((_cell(weights),),), initial, op.results, None)
        return shape if data.ndim == 2 and _is_plain(shape) else None
    if op["train"] and op["dropout"]:
        return None
    directions, count = 1 + op["bidirectional"], 4 if op["has_biases"] else 2
    if len(weights) != op["num_layers"] * directions * count:
        return None
    cells = [_cell(weights[n : n + count]) for n in range(0, len(weights), count)]
    layers = tuple(tuple(cells[n : n + directions]) for n in range(0, len(cells), directions))
    shape = Recurrence(kind, data, layers, initial, op.results[1:], op.results[0])
    return shape if data.ndim == 3 and _is_plain(shape) else None


def _cell(weights: tuple[Value, ...]) -> Cell:
    biases = (*weights[2:4], None, None)
    return Cell(weights[0], weights[1], biases[0], biases[1])


def _is_plain(shape: Recurrence) -> bool:
    """Whether states are as wide as the gates: they are not with `proj_size`."""
    rows = shape.gates * shape.hidden
    return all(c.weight_hh.shape == (rows, shape.hidden) for c in shape.cells)
