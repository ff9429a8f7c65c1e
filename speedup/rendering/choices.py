"""What was done so that more goes, and what was not, in words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from speedup.ir.report import Choice
from speedup.rendering.counts import short_count


def lowering_lines(choices: Sequence[Choice]) -> Iterator[str]:
    """A line for what is done, and one for what would not pay; none where there is nothing to tell."""
    for verb, some in (
        ("So that more goes:", [one for one in choices if one.is_taken]),
        ("Would not pay or cannot be said:", [one for one in choices if not one.is_taken]),
    ):
        if some:
            names = dict.fromkeys(one.lowering for one in some)
            yield f"{verb} {', '.join(_places(name, some) for name in names)}"


def choice_line(choice: Choice) -> str:
    """What one choice is about, and why it is not taken, if so."""
    where = f"{choice.operator} at {choice.where}" if choice.where else choice.operator
    channels = "1 channel" if choice.channels == 1 else f"{choice.channels:,} channels"
    what = f"{choice.lowering}, {channels} fewer: {choice.macs:,} MACs less ({where})"
    return what if choice.is_taken else f"not done: {what}; {choice.why_not}"


def _places(name: str, choices: Sequence[Choice]) -> str:
    own = [one for one in choices if one.lowering == name]
    places = "1 place" if len(own) == 1 else f"{len(own)} places"
    return f"{name} at {places} (-{short_count(sum(one.macs for one in own))} MACs)"
