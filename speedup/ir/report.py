"""What a plan tells about itself: layers before and after, what stays and why, totals."""

from __future__ import annotations

from attrs import frozen


@frozen
class Layer:
    """One module that holds parameters, before and after.

    `before` and `after` are its constructor-like descriptions, counts are in elements and in
    multiply-accumulates for the example input.
    """

    path: str
    kind: str
    before: str
    after: str
    parameters_before: int
    parameters_after: int
    macs_before: int
    macs_after: int
    notes: tuple[str, ...] = ()

    @property
    def is_changed(self) -> bool:
        return (
            self.before != self.after or bool(self.notes) or self.parameters_before != self.parameters_after
        )


@frozen
class Blocked:
    """`count` constant or unread channels of a layer that stay nevertheless, and the reason."""

    path: str
    count: int
    of: int
    reason: str


@frozen
class Misaligned:
    """A layer that computes ("out") or reads ("in") `kept` of `of` channels although `wanted` were asked for.

    In a grouped layer these count within one group.
    """

    path: str
    side: str
    kept: int
    of: int
    wanted: int

    def __str__(self) -> str:
        """In one line."""
        verb = "computes" if self.side == "out" else "reads"
        reason = "there are no more" if self.kept == self.of else "more than the missing would come along"
        return f"{verb} {self.kept} channels where {self.wanted} are wanted: {reason}"


@frozen
class Alignment:
    """What growing layers to the widths that `to` asks for adds to the plan without it.

    `channels` are those that layers compute more; `parameters` and `macs` are (without, with) totals.
    """

    to: str
    channels: int
    parameters: tuple[int, int]
    macs: tuple[int, int]
    missed: tuple[Misaligned, ...] = ()

    def __str__(self) -> str:
        """In one line."""
        changes = (f"{_grown(*self.parameters)} parameters", f"{_grown(*self.macs)} MACs")
        words = f"Aligned to {self.to}: {', '.join(changes)}, +{self.channels} channels"
        return f"{words}; not reached: {len(self.missed)} width(s)" if self.missed else words


def _grown(before: int, after: int) -> str:
    return f"+{after / before - 1:.1%}" if before else "+0%"


@frozen
class Blocker:
    """A constraint that keeps channels which nothing else asks for, and what they cost.

    `operator` is the ATen operator that imposes it (`aten.add.Tensor`), empty for the model's boundary;
    `path` the module whose forward calls it, empty for the model itself. `layers` are the modules that
    make the `channels` held back. `macs` and `parameters` are what these layers and the readers of the
    channels would lose were the channels gone: see `Plan.blockers` for how they are counted.
    """

    reason: str
    operator: str
    path: str
    layers: tuple[str, ...]
    channels: int
    macs: int
    parameters: int


@frozen
class Choice:
    """A way to let more go at one place of the source, and why the plan does not take it, if so.

    `lowering` is its name in `lowerings=`; `operator` the ATen operator that is then stated otherwise, called
    by the forward of module `path` at `where` (`file.py:12`). `channels` need not be computed then, which
    saves `macs` multiply-accumulates for the example: of several shuffles each has an equal share.
    `why_not` is empty where it is taken.
    """

    lowering: str
    path: str
    operator: str
    where: str
    channels: int
    macs: int
    why_not: str = ""

    @property
    def is_taken(self) -> bool:
        return not self.why_not


@frozen
class Asked:
    """What masks and zeros in the weights ask for, and what of it stays, over the whole model.

    Of the `weights` of layers, counted in elements without biases, `zero` are masked or zero, of which
    `sliced` are in rows, columns or other slices that hold nothing else: these alone can go. `masks` is the
    number of parameters with a mask. `parameters` and `macs` are held back: the small model would lose them
    besides, had each of its layers only the rows and columns that it needs by itself.
    """

    masks: int
    weights: int
    zero: int
    sliced: int
    parameters: int
    macs: int


@frozen
class Step:
    """One link of an explanation: what `operator`, called by the forward of module `path`, does.

    `indices` are those that it is about, where it has its say. At the boundary of the model `operator`
    and `path` are empty. `is_need`: it is no constraint, the indices are simply needed there.
    """

    words: str
    operator: str = ""
    path: str = ""
    indices: tuple[int, ...] = ()
    is_need: bool = False


@frozen
class Portion:
    """Indices of one axis of a module that go, or that could go but stay, for one reason.

    `axis` is "makes" (result channels, rows of the weight), "reads" (input channels, its columns),
    "units" (of a recurrent layer; of one of a stack "units of l0") or "heads" (of an attention); `of` its
    extent. `why` starts at the root: of what goes with the mask, the zeros or the
    disuse that freed it, followed by what makes up for it; of what stays with the need or the pin,
    followed by the constraints that carry it here.
    """

    path: str
    axis: str
    of: int
    indices: tuple[int, ...]
    stays: bool
    why: tuple[Step, ...]


@frozen
class Member:
    """A module of the model, with or without parameters."""

    path: str
    kind: str


@frozen
class Junction:
    """A call of an operator without parameters that reads several layers, such as a residual addition.

    `path` is the module whose forward calls it; `name` is unlike that of any layer or other junction.
    """

    name: str
    path: str
    operator: str


@frozen
class Inside:
    """A module that was planned on its own, between inputs and outputs that stay, and for how many kinds
    of calls.
    """

    path: str
    kind: str
    calls: int


@frozen
class Outside:
    """A module that stays as it is apart from the islands in it, and the reason."""

    path: str
    kind: str
    reason: str


@frozen
class Report:
    """The whole of it. `parameters` and `macs` are (before, after) totals of the model.

    A model that cannot be traced as a whole is planned in `islands`; each kind of call of these counts
    once in `macs`. Modules that belong to none are `outside`. `links` are (source, reader) pairs of paths of
    layers and names of junctions. `assumptions` are what the plan relies on about sizes, a line each.
    `choices` are shuffles, rows and fills that are taken, or would let more go but do not pay. `size` is what
    parameters and buffers take, in bytes, before and after. Plans of earlier releases know neither `asked`
    nor `size`.
    """

    layers: tuple[Layer, ...]
    blocked: tuple[Blocked, ...]
    unknown_operators: tuple[str, ...]
    parameters: tuple[int, int]
    macs: tuple[int, int]
    islands: tuple[Inside, ...] = ()
    outside: tuple[Outside, ...] = ()
    alignment: Alignment | None = None
    blockers: tuple[Blocker, ...] = ()
    portions: tuple[Portion, ...] = ()
    members: tuple[Member, ...] = ()
    links: tuple[tuple[str, str], ...] = ()
    junctions: tuple[Junction, ...] = ()
    assumptions: tuple[str, ...] = ()
    choices: tuple[Choice, ...] = ()
    asked: Asked | None = None
    size: tuple[int, int] | None = None
