"""A rule that fails costs what it would have told, never the plan: its operator is kept, with the reason."""

from __future__ import annotations

import traceback
from types import MappingProxyType

from speedup.ir.graph import Op
from speedup.rules import Rules
from speedup.rules.kept import keeping
from speedup.rules.site import Site


def op_at(error: Exception) -> Op | None:
    """The op that was looked at when `error` came up; None where it was none."""
    found = None
    for frame, _ in traceback.walk_tb(error.__traceback__):
        op, site = frame.f_locals.get("op"), frame.f_locals.get("site")
        op = site.op if isinstance(site, Site) else op
        found = op if isinstance(op, Op) else found
    return found


def keeping_failed(rules: Rules, op: Op, error: Exception) -> Rules:
    """`rules`, but that they keep what `op` calls, as its rule failed with `error`."""
    said = (str(error).strip().splitlines() or ["no message"])[0]
    where = f" at {op.where}" if op.where else ""
    kept = keeping(f"has a rule that failed{where}: {type(error).__name__}: {said}")
    return MappingProxyType({**rules, op.target: kept})
