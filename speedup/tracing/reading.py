"""Python that reads numbers from the model's own tensors gets them: they do not depend on the input.

`float(self.scale)`, `if self.gate > 0`, `np.argwhere(self.indexes.cpu().numpy())` end a trace, whose tensors
have no data. Where what is read is computed from state and constants alone, it is computed at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import attrgetter, getitem
from typing import Any

import torch
from attrs import frozen
from torch import Tensor
from torch.fx import Graph, Node, map_arg

from speedup.ir.expressions import Expression
from speedup.ir.operators import operator_of
from speedup.torch_api import DisableTorchFunction, disable_current_modes, is_fake, tree_leaves, tree_map
from speedup.tracing.aliasing import storage_of, written_by
from speedup.tracing.provenance import notes_of
from speedup.tracing.tape import node_of

Values = Callable[[Tensor], Tensor]
"""From a tensor of a model to the numbers that count as its own."""


def as_it_is(tensor: Tensor) -> Tensor:
    """The numbers that a tensor holds."""
    return tensor


READING = frozenset(
    """
    __bool__ __int__ __float__ __index__ __complex__ __contains__ __format__ __repr__ __array__ numpy item
    tolist is_nonzero equal allclose nonzero argwhere unique unique_consecutive masked_select bincount
    """.split()
)
"""Names of functions whose result hangs on the numbers in their tensors, in what it is or how long it is."""


@frozen(eq=False)
class State:
    """The names of a model's tensors by their nodes in a trace, and their numbers by name."""

    names: Mapping[Node | None, str]
    numbers: Mapping[str, Callable[[], Tensor]]

    def find(self, arguments: Any, root: object) -> Reading | None:
        """How the tensors in `arguments` are computed; None where that takes more than the model's state.

        `root` holds the constants of the trace.
        """
        given = [leaf for leaf in tree_leaves(arguments) if isinstance(leaf, Tensor)]
        nodes = {id(tensor): node for tensor in given if (node := node_of(tensor)) is not None}
        if not given or any(is_fake(tensor) and id(tensor) not in nodes for tensor in given):
            return None
        computed = _computing(tuple(nodes.values()))
        if computed is None or any(n.op == "placeholder" and n not in self.names for n in computed):
            return None
        return Reading(self, nodes, computed, root)


@frozen(eq=False)
class Reading:
    """Numbers that Python asks for: the nodes of the tensors by identity, and those that compute them."""

    state: State
    nodes: Mapping[int, Node]
    computed: Sequence[Node]
    root: object

    @property
    def names(self) -> tuple[str, ...]:
        """The state that is read."""
        return tuple(self.state.names[node] for node in self.computed if node.op == "placeholder")

    @property
    def numbers(self) -> Iterator[tuple[Any, Expression]]:
        """The tracked numbers that went in."""
        given = (number for node in self.computed for number in notes_of(node).get("numbers", ()))
        return ((number, expression) for number, expression in given if expression is not None)

    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """What `func` returns of the numbers."""
        found: dict[Node, Any] = {}

        def real(leaf: Any) -> Any:
            return found[self.nodes[id(leaf)]] if id(leaf) in self.nodes else leaf

        with DisableTorchFunction(), disable_current_modes():
            for node in self.computed:
                found[node] = self._compute(node, found)
            return func(*tree_map(real, args), **tree_map(real, dict(kwargs)))

    def _compute(self, node: Node, found: Mapping[Node, Any]) -> Any:
        if node.op == "placeholder":
            return self.state.numbers[self.state.names[node]]().detach()
        if node.op == "get_attr":
            return attrgetter(str(node.target))(self.root).detach()
        args, kwargs = map_arg((node.args, node.kwargs), found.__getitem__)
        return node.target(*args, **kwargs)  # type: ignore[operator]


def positions(index: Any) -> Any:
    """An index of tensors with numbers in the place of truth values."""
    items = index if isinstance(index, tuple) else (index,)
    return tuple(
        part for item in items for part in (item.nonzero().unbind(1) if is_selection(item) else (item,))
    )


def is_selection(item: Any) -> bool:
    """Whether it is a tensor of truth values: what it selects hangs on how many are true."""
    return isinstance(item, Tensor) and item.dtype in (torch.bool, torch.uint8)


def _computing(wanted: Sequence[Node]) -> list[Node] | None:
    """The nodes that `wanted` are computed by, in order, those that write into what they read among them.

    None where that takes more than tensors without inputs, or random numbers.
    """
    if not wanted:
        return []
    graph = wanted[0].graph
    writers = _writers(graph)
    found: set[Node] = set()
    pending = list(wanted)
    while pending:
        node = pending.pop()
        if node in found:
            continue
        found.add(node)
        written = writers.get(storage_of(node), [])
        if node.op in ("placeholder", "get_attr"):
            # What a forward writes is another thing in the next call.
            if written:
                return None
            continue
        target = operator_of(node)
        if target is None and node.target is not getitem:
            return None
        if target is not None and torch.Tag.nondeterministic_seeded in target.tags:
            return None
        pending.extend((*node.all_input_nodes, *written))
    return [node for node in graph.nodes if node in found]


def _writers(graph: Graph) -> Mapping[Node, list[Node]]:
    """The nodes that write into a storage, by the node that made it."""
    found: dict[Node, list[Node]] = {}
    for node in graph.nodes:
        written = written_by(node)
        if written is not None:
            found.setdefault(storage_of(written), []).append(node)
    return found
