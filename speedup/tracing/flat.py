"""The forward as a function of tensors alone, watched while it runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from speedup.ir.inputs import Example, leaves_of, tensors_of
from speedup.modules.copying import named_tensors
from speedup.tracing.module_stack import follow_modules
from speedup.tracing.numbers import number_type
from speedup.tracing.provenance import follow_numbers, mark_opaque
from speedup.tracing.reading import State
from speedup.tracing.tape import node_of
from speedup.tracing.tracking import Tracking


class Flat(nn.Module):
    """Takes and returns flat tensors, so that any structure of inputs and outputs can be traced.

    `catches` says that the forward goes on after that of a module has raised.
    """

    def __init__(
        self,
        model: nn.Module,
        example: Example,
        tracking: Tracking,
        catches: bool,
        read: Mapping[str, Callable[[], Tensor]],
    ) -> None:
        super().__init__()
        self.model = model
        self._example = example
        self._tracking = tracking
        self._catches = catches
        self._read = read

    @property
    def assigned(self) -> bool:
        """Whether the forward has put another tensor in the place of a buffer."""
        return bool(self._tracking.record.assigned)

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """All tensors that the model returns, then numbers that it has read, then new buffers."""
        if self._catches:
            follow_modules()
        args, kwargs = self._example.call(tensors)
        before = _buffers(self.model)
        nodes = {node_of(tensor): name for name, tensor in named_tensors(self.model) if name in self._read}
        self._tracking.state = State(nodes, self._read)
        with self._tracking, follow_numbers(self._tracking.record):
            output = self.model(*args, **kwargs)
        assigned = {n: t for n, t in _buffers(self.model).items() if n in before and t is not before[n]}
        self._tracking.record.assigned.update(dict.fromkeys(assigned))
        leaves = [leaf for _, leaf in leaves_of(output)]
        for leaf in leaves:
            mark_opaque(leaf)
        # Numbers that were read from tensors have to come out right as well.
        numbers = (torch.scalar_tensor(leaf) for leaf in leaves if number_type(leaf) is not None)
        checked = self._tracking.record.checked
        return (*tensors_of(output), *numbers, *assigned.values(), *checked)


def _buffers(model: nn.Module) -> Mapping[str, Tensor]:
    return dict(model.named_buffers(remove_duplicate=False))
