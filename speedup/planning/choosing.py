"""Which lowerings a plan may use: ways to let masked channels go that coupling or borders would hold back."""

from __future__ import annotations

import difflib
from collections.abc import Collection
from typing import Final, Literal, TypeAlias

from speedup.errors import InputError

CARRIERS: Final = "carriers"

SHUFFLES: Final = "shuffles"

ROWS: Final = "rows"

FILLS: Final = "fills"

GATES: Final = "gates"

MAPS: Final = "maps"

LOWERINGS: Final = (CARRIERS, SHUFFLES, ROWS, FILLS, GATES, MAPS)
"""All there are.

carriers: of constant channels that differ near borders, behind padded windows, a few carry the others, whose
    weights are added to theirs. Costs nothing.
shuffles: a view, a transpose and a view, which put channels in another order, become one selection, so that
    any channel may go and not only the same ones of every group. Costs a call less, for what it moves.
rows: of a residual sum, the branch computes only the rows that follow the input; they are added to their
    places, and the constants of the others once for all. Costs a call more.
fills: before an op that needs all rows though some are constants, as a norm over groups of channels or a view
    that splits heads, only the rows that follow the input are computed, and the constants put in. Costs a
    call more, and all rows are written once more.
gates: channels that are constants but for a factor each, as behind squeeze and excitation, go; what they add
    to the layers that read them is put together of a few constant channels and the factors. Costs some calls
    and two small products more.
maps: with carriers. In their place, what constant channels that differ near borders add to the convolution
    that reads them becomes a map that is added to its result. Costs some calls and a sum more.
"""

Lowerings: TypeAlias = Literal["auto", "none"] | Collection[str]


def resolve_lowerings(given: Lowerings) -> frozenset[str]:
    """The names of those that may be used.

    Raises:
        InputError: one is not known.
    """
    if isinstance(given, str):
        if given not in ("auto", "none"):
            raise InputError(
                f'lowerings={given!r} is neither "auto" nor "none"; to name some, pass a set: {{{given!r}}}'
            )
        return frozenset(LOWERINGS if given == "auto" else ())
    for name in given:
        if name not in LOWERINGS:
            near = difflib.get_close_matches(str(name), LOWERINGS, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(LOWERINGS)}"
            raise InputError(f"lowerings names {name!r}, which is none; {hint}")
    return frozenset(given)
