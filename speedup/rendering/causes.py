"""Why work stays that could go, summed over the model: in a user's words, with what would help."""

from __future__ import annotations

import re
from collections.abc import Iterable

from attrs import frozen

from speedup.ir.report import Blocker, Report

_ALIKE = "mask the same channels in all of them, as make_masks does"
_BIASES = "mask the bias and the norm behind a masked filter too, as make_masks does"


@frozen
class Kind:
    """Constraints that a user sees as one thing: those whose words `pattern` is found in.

    `help` is what would let go what they hold back; empty where nothing would.
    """

    pattern: str
    told: str
    help: str = ""


_UNTRACED = Kind(
    r"^code that could not be traced",
    "code that could not be traced and reads them",
    "plan.report.outside says which; control flow that depends on data is the usual cause",
)

# In the place of code that could not be traced too, where that is what the reason of a module is.
_QUANTISED = Kind(
    r"quantized\.\S+ has no rule",
    "quantised modules, and what is around them",
    "make the model small first, from weights in floating point, and quantise the small model",
)

# The first that fits counts. Words that a need has are read with the operator in front: `add needs them`.
KINDS: tuple[Kind, ...] = (
    Kind(r"^keep=", "modules that keep= names", "leave them out of keep="),
    Kind(
        r"^the model returns them",
        "outputs of the model, whose shapes stay",
        "mask other layers; what the model returns is never cut",
    ),
    Kind(
        r"belong to an input",
        "inputs of the model, whose shapes stay",
        "mask other layers; what the model is given is never cut",
    ),
    _UNTRACED,
    Kind(
        r"cannot become empty",
        "layers that are masked whole, of which one channel stays",
        "take such a module out of the model, or put nn.Identity() in its place",
    ),
    _QUANTISED,
    Kind(
        r"not at hand",
        "weights whose numbers are not at hand, which would take constants over",
        "plan with the weights, not on the meta device; or mask the biases behind masked weights too",
    ),
    Kind(
        r"has no rule",
        "operators without a rule",
        "pass rules=STANDARD | {operator: rule}; plan.unknown_operators names them",
    ),
    Kind(
        r"has a rule that failed",
        "operators whose rule failed",
        "plan.blockers says how; repair the rule if it is yours, and report it otherwise",
    ),
    Kind(
        r"out of sight|as a number that cannot follow|compares this size|in numbers how far"
        r"|insists on its sizes|number that the forward reads|size of its result|depends on its length"
        r"|depends on the input's size"
        r"|shape of another tensor",
        "sizes that the forward states as numbers or takes out of sight",
        "write x.shape[1] where the forward has a number or a float",
    ),
    Kind(
        r"tensor that the forward holds",
        "tensors that the forward holds itself",
        "register them as parameters or buffers of the module",
    ),
    Kind(
        r"with another call|something else reads",
        "weights that several calls share",
        "mask what all of these calls can do without",
    ),
    Kind(
        r"padded constant needs|near borders need|gated constants need",
        "constants that zero-padded convolutions or gates need, which a few channels carry",
        _BIASES,
    ),
    Kind(
        r"reads constants that|adds up constants|adds up products of constants|counts constants",
        "constants that their readers cannot take over",
        _BIASES,
    ),
    Kind(
        r"statistics (?!are taken over space)|has one entry per channel",
        "norms that take statistics over masked channels too",
        "mask whole groups of a GroupNorm, and the same features in all that writes to a LayerNorm's input",
    ),
    Kind(
        r"equal counts|equal parts|equal extent|weaves runs|one half with the other"
        r"|puts channels in another order",
        "grouped convolutions, chunks and shuffles, whose parts have to be alike",
        "mask as many channels in each part, as make_masks does",
    ),
    Kind(
        r"heads\b|the head's|dimensions it rearranges",
        "views that split channels into heads or parts",
        "mask whole heads (masks_from_heads), or the same channels of each part",
    ),
    Kind(
        r"units|gates and states|proj_size|hidden_size|one state per layer|each sequence|whole sequence",
        "recurrent layers, of which units go with all their gates",
        "mask units whole: the rows of all their gates, in both weights",
    ),
    Kind(
        r"^adds? ((works|needs|reads)\b|rows to)|^sub (works|needs|reads)\b",
        "skip connections and other sums whose operands were masked differently",
        _ALIKE,
    ),
    Kind(
        r"element by element|channel by channel|slope per channel|gives all of them one shape"
        r"|repeats each of its|repeats one of",
        "products and other joints of layers that were masked differently",
        _ALIKE,
    ),
    Kind(
        r"needs them$|reads them$|^(\w+ )?is gated$|\bties\b|is given constants|takes norms that",
        "layers that share channels with others that need them",
        _ALIKE,
    ),
    Kind(
        r"position|refers? to|looks up rows|elements by their number|where its data say|as its data say"
        r"|bounds are data|lengths are data|rolls",
        "operators that tell channels by their number (indexing, lookups)",
    ),
    Kind(r"windows of space|over space", "positions in space, which convolutions and pools need all"),
    Kind(
        r"whole dimension|all keys|is a loss|spectra|all of a matrix|counts elements|random number"
        r"|quantized|pairs real|vectors of three|extent 3|a row or a column for each|no plain sum",
        "operators that need a dimension whole",
    ),
)


@frozen
class Cause:
    """What one kind of constraint holds back, of all layers together.

    `at` is the module that it holds back most at, and how many others there are; empty for the model itself.
    """

    told: str
    help: str
    macs: int
    parameters: int
    at: str


def causes_of(report: Report) -> tuple[Cause, ...]:
    """What holds work back, the largest first. Together they hold back what the report says in all.

    Constraints are counted one at a time, so that of a weight both of whose dimensions are held back each
    has its part; here each has the share of the total that it has of their sum.
    """
    held: dict[Kind, list[Blocker]] = {}
    quantised = any("quantized" in one.reason for one in report.outside)
    for blocker in report.blockers:
        if blocker.macs or blocker.parameters:
            kind = kind_of(blocker.reason, blocker.operator)
            held.setdefault(_QUANTISED if kind == _UNTRACED and quantised else kind, []).append(blocker)
    asked = report.asked
    factors = [
        1.0 if total is None or not counted else total / counted
        for total, counted in (
            (None if asked is None else asked.macs, sum(b.macs for b in report.blockers)),
            (None if asked is None else asked.parameters, sum(b.parameters for b in report.blockers)),
        )
    ]
    found = (
        Cause(
            kind.told,
            kind.help,
            round(factors[0] * sum(b.macs for b in blockers)),
            round(factors[1] * sum(b.parameters for b in blockers)),
            _place(blockers),
        )
        for kind, blockers in held.items()
    )
    return tuple(sorted(found, key=lambda cause: (-cause.macs, -cause.parameters)))


def kind_of(words: str, operator: str) -> Kind:
    """The kind that a constraint is of: one of its own where its words are like no others."""
    said = words
    if words in ("needs them", "reads them"):
        said = f"{operator.split('.')[1].rstrip('_') if '.' in operator else operator} {words}"
    return next((kind for kind in KINDS if re.search(kind.pattern, said)), Kind("", words))


def _place(blockers: Iterable[Blocker]) -> str:
    first, *rest = dict.fromkeys(blocker.path for blocker in blockers)
    return f"{first or 'the forward'} and {len(rest)} more" if rest else first
