"""Rehearse a plan: does the small model's own code run as planned? Asked before any weight is touched.

What a plan sets on modules and writes into their source, the forward may also use where the trace
could not see it, as in `range(self.heads)`. So the small model is traced without its weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from speedup.building.applying import hollow_copy
from speedup.building.expected import actual_trace, first_difference
from speedup.errors import ExportError, SpeedupError
from speedup.ir.edits import Edit
from speedup.ir.inputs import Example
from speedup.parts import Expected
from speedup.tracing.islands import Islands, retrace


def rehearse(
    model: nn.Module,
    calls: Sequence[Example],
    islands: Islands | None,
    edits: Sequence[Edit],
    expected: Expected,
    changed: frozenset[str],
    read: Mapping[str, Tensor],
) -> frozenset[str]:
    """Those of the modules `changed` by attributes or source that had better stay as they are.

    `read` are, by name, the tensors whose numbers Python code of the forward reads. Empty when the
    small model's trace is as `expected`, or when nothing was changed in this way.
    """
    if not changed:
        return frozenset()
    try:
        graph = retrace(hollow_copy(model, edits, filled=read), calls, islands).graph
        difference = first_difference(expected, actual_trace(graph, expected.opaque))
    except ExportError as error:
        return _alike(_around(error.module, changed), changed, model) or changed
    except SpeedupError:
        return changed
    if difference is None:
        return frozenset()
    return _around(difference.path, changed) or changed


def _around(path: str | None, changed: frozenset[str]) -> frozenset[str]:
    """Those of the modules `changed` that are, or hold, the one at `path`."""
    return frozenset(one for one in changed if path is not None and _is_around(one, path))


def _alike(paths: frozenset[str], changed: frozenset[str], model: nn.Module) -> frozenset[str]:
    """Those of the modules `changed` of the same classes as those at `paths`: each would take a rehearsal."""
    kinds = {type(model.get_submodule(path)) for path in paths}
    return frozenset(path for path in changed if type(model.get_submodule(path)) in kinds)


def _is_around(outer: str, inner: str) -> bool:
    return outer == inner or not outer or inner.startswith(f"{outer}.")
