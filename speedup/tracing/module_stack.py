"""The modules that torch.fx believes to be in, kept right where one raises and another catches that."""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Mapping
from copy import copy
from types import FrameType
from typing import Any, cast

from torch.fx import Tracer

from speedup.torch_api import get_proxy_mode

_ENTERS = Tracer.call_module.__code__


def is_confused(error: BaseException | None) -> bool:
    """Whether torch.fx found itself in another module than it believed: it does not leave one that raises."""
    return isinstance(error, AssertionError) and str(error).startswith("Unexpected key")


def follow_modules() -> None:
    """From here on, let the trace under way leave modules that raise; it looks at every running frame."""
    mode = get_proxy_mode()
    if mode is not None:
        mode.tracer.module_stack = _Stack(mode.tracer.module_stack)


class _Stack(OrderedDict[str, Any]):
    """As many modules as are being called, which torch.fx enters and leaves by items."""

    def __init__(self, entered: Mapping[str, Any]) -> None:
        super().__init__()
        for name, module in entered.items():
            super().__setitem__(name, module)

    def __setitem__(self, name: str, module: Any) -> None:
        self._leave(_depth() - 1)
        super().__setitem__(name, module)

    def __reduce__(self) -> tuple[Any, ...]:
        # Copies, which nodes of the graph get, stay as they are.
        self._leave(_depth())
        return OrderedDict, (list(self.items()),)

    def copy(self) -> OrderedDict[str, Any]:  # type: ignore[override]
        return copy(self)

    def popitem(self, last: bool = True) -> tuple[str, Any]:
        self._leave(_depth())
        return super().popitem(last)

    def _leave(self, depth: int) -> None:
        while len(self) > depth:
            super().popitem()


def _depth() -> int:
    """How many modules are being called."""
    found, frame = 0, cast("FrameType | None", sys._getframe(1))
    while frame is not None:
        found += frame.f_code is _ENTERS
        frame = frame.f_back
    return found
