"""What a report tells about one module, as text that a person reads at a glance."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence

from speedup.errors import UnknownModuleError
from speedup.ir.report import Layer, Portion, Report, Step
from speedup.rendering.choices import choice_line, lowering_lines

_RANGES, _REASONS, _LAYERS = 6, 8, 12
_AXES = {
    "makes": "channels it makes",
    "reads": "channels it reads",
}


def explanation(report: Report, path: str, calls: Sequence[str] = ()) -> str:
    """The lines about module `path`; `calls` are those of its forward that are stated otherwise.

    Raises:
        UnknownModuleError: there is no such module.
    """
    layers = [layer for layer in report.layers if layer.path == path]
    lines = [line for layer in layers for line in _layer(layer)]
    lines += [f"    {call}" for call in calls]
    below = [layer for layer in report.layers if layer.path != path and _is_below(layer.path, path)]
    kinds = [member.kind for member in report.members if member.path == path]
    if not lines and not kinds and not below:
        raise UnknownModuleError(_unknown(report, path))
    if below:
        lines += _container(report, path, kinds, below)
    elif not lines:
        lines.append(f"{path or '(model)'}: {kinds[0]} holds no parameters")
    lines += _axes(report, path)
    if not below:
        lines += _imposed(report, path)
    lines += [f"  {choice_line(one)}" for one in report.choices if one.path == path]
    lines += [f"  {line}" for line in lowering_lines(report.choices)] if not path else []
    lines += [f"  not planned itself: {one.reason}" for one in report.outside if one.path == path]
    return "\n".join(lines)


def ranges(indices: Sequence[int], limit: int = _RANGES) -> str:
    """`3-7, 12`: ascending indices as at most `limit` ranges.

    >>> ranges((3, 4, 5, 6, 7, 12))
    '3-7, 12'
    >>> ranges((0, 2, 4, 6), limit=2)
    '0, 2 and 2 more'
    """
    runs: list[tuple[int, int]] = []
    for index in indices:
        if runs and runs[-1][1] == index - 1:
            runs[-1] = runs[-1][0], index
        else:
            runs.append((index, index))
    shown = ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs[:limit])
    rest = sum(b - a + 1 for a, b in runs[limit:])
    return f"{shown} and {rest} more" if rest else shown


def _layer(layer: Layer) -> Iterator[str]:
    name = layer.path or "(model)"
    if layer.before == layer.after:
        yield f"{name}: {layer.before} stays as it is"
    else:
        yield f"{name}: {layer.before} -> {layer.after}"
    yield from (f"  {note}" for note in layer.notes)


def _is_below(path: str, container: str) -> bool:
    return not container or path.startswith(f"{container}.")


def _unknown(report: Report, path: str) -> str:
    known = [member.path for member in report.members if member.path]
    near = difflib.get_close_matches(path, known, 3)
    listed = ", ".join(layer.path for layer in report.layers[:5])
    meant = f"; did you mean {', '.join(map(repr, near))}?" if near else ""
    return f"the plan knows no module {path!r}{meant}; it knows {listed}, ... (see plan.layers)"


def _container(report: Report, path: str, kinds: Sequence[str], below: Sequence[Layer]) -> Iterator[str]:
    changed = [layer for layer in below if layer.is_changed]
    kind, some = kinds[0] if kinds else "module", "layer" if len(below) == 1 else "layers"
    yield f"{path or '(model)'}: {kind} of {len(below)} {some}, of which {len(changed)} change"
    if path:
        totals = [
            (
                sum(getattr(one, f"{n}_before") for one in below),
                sum(getattr(one, f"{n}_after") for one in below),
            )
            for n in ("parameters", "macs")
        ]
    else:
        totals = [report.parameters, report.macs]
    for name, (before, after) in zip(("parameters", "MACs"), totals, strict=True):
        share = f" ({after / before:.0%})" if before else ""
        yield f"  {name} {before:,} -> {after:,}{share}"
    for layer in changed[:_LAYERS]:
        yield f"  {layer.path}: {layer.before} -> {layer.after}"
    if len(changed) > _LAYERS:
        yield f"  and {len(changed) - _LAYERS} more"
    held = [b for b in report.blockers if any(one == path or _is_below(one, path) for one in b.layers)]
    for blocker in held[:3]:
        yield (
            f"  held back, {blocker.channels:,} {_counted(blocker.channels)}: "
            f"{blocker.reason}{_at(blocker.operator, blocker.path)}"
        )
    if len(held) > 3:
        yield f"  and {len(held) - 3} more constraints (plan.blockers() ranks all)"


def _axes(report: Report, path: str) -> Iterator[str]:
    own = [portion for portion in report.portions if portion.path == path]
    for axis in dict.fromkeys((p.axis, p.of) for p in own):
        portions = [p for p in own if (p.axis, p.of) == axis]
        gone = len({i for p in portions if not p.stays for i in p.indices})
        yield f"  {_AXES.get(axis[0], axis[0])}: {axis[1]} -> {axis[1] - gone}"
        for portion in portions[:_REASONS]:
            yield from _portion(portion)
        if len(portions) > _REASONS:
            yield f"    and {len(portions) - _REASONS} more reasons"


def _portion(portion: Portion) -> Iterator[str]:
    count = len(portion.indices)
    root, *rest = portion.why
    if not portion.stays:
        yield f"    {ranges(portion.indices)} gone: {_freed(root)}"
        yield from (f"      {_freed(step)}" for step in rest)
        return
    verb = "could go but stays" if count == 1 else "could go but stay"
    yield f"    {ranges(portion.indices)} {verb}: {_root(root)}"
    yield from (f"      by way of: {_step(step)}" for step in rest)


def _root(step: Step) -> str:
    if not step.is_need:
        return _step(step)
    what = f"{_counted(len(step.indices))} {ranges(step.indices)}"
    return f"{step.path or 'the forward'} {step.words.replace('them', what)} ({step.operator})"


def _counted(number: int) -> str:
    return "channel" if number == 1 else "channels"


def _freed(step: Step) -> str:
    # The name of a parameter says where it is.
    return step.words if step.path in step.words else _step(step)


def _step(step: Step) -> str:
    return f"{step.words}{_at(step.operator, step.path)}"


def _at(operator: str, path: str) -> str:
    if not operator:
        return ""
    return f" ({operator} in {path or 'the forward'})"


def _imposed(report: Report, path: str) -> Iterator[str]:
    """What this module's own calls keep elsewhere."""
    for blocker in report.blockers:
        if blocker.path == path and blocker.operator and blocker.channels:
            more = f" and {len(blocker.layers) - 3} more" if len(blocker.layers) > 3 else ""
            what = (
                f"{blocker.channels:,} {_counted(blocker.channels)} of {', '.join(blocker.layers[:3])}{more}"
            )
            yield f"  keeps {what}: {blocker.reason} ({blocker.operator})"
