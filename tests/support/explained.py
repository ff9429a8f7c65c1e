"""Small models in which one known thing frees or keeps indices of a layer, with what is to be said of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from attrs import evolve, field, frozen
from torch import Tensor, nn


class Wired(nn.Module):
    """Named modules and a function that calls them, whose source stays: it lies in a tuple."""

    def __init__(self, run: Callable[..., Any], **modules: nn.Module) -> None:
        super().__init__()
        self.run = (run,)
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, x: Tensor) -> Any:
        return self.run[0](self, x)


@frozen
class Said:
    """One step that the explanation has to hold: words in it, the operator and the module that calls it."""

    words: str
    operator: str = ""
    path: str = ""


@frozen(eq=False)
class Case:
    """`masked` are, by parameter, rows (dimension 0) to mask, or with `columns` those of dimension 1.

    Of module `path`, `indices` of `axis` stay, or go, because of `why`, the root first.
    """

    name: str
    model: Callable[[], nn.Module]
    shape: tuple[int, ...]
    masked: Mapping[str, tuple[int, ...]]
    path: str
    indices: tuple[int, ...]
    why: tuple[Said, ...]
    axis: str = "makes"
    stays: bool = True
    columns: bool = False
    options: Mapping[str, Any] = field(factory=lambda: MappingProxyType({}))

    def masks(self, model: nn.Module) -> dict[str, Tensor]:
        parameters = dict(model.named_parameters())
        found = {}
        for name, indices in self.masked.items():
            found[name] = torch.ones_like(parameters[name])
            found[name].index_fill_(int(self.columns), torch.tensor(indices), 0.0)
        return found


IMAGES, ROWS, SEQUENCES = (2, 3, 8, 8), (2, 4), (2, 5, 8)
CONV, LINEAR, ADD = "aten.conv2d.default", "aten.linear.default", "aten.add.Tensor"


def _conv(inside: int, outside: int, kernel: int = 3, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(inside, outside, kernel, **options)


def _bright(module: nn.Module) -> nn.Module:
    """With biases that leave constants above 0."""
    with torch.no_grad():
        for index, bias in enumerate(b for n, b in module.named_parameters() if n.endswith("bias")):
            bias.copy_(torch.linspace(0.5, 1.0 + index, bias.numel()))
    return module


def _pooled(model: Any, x: Tensor) -> Tensor:
    return model.head(x.mean((2, 3)))


def _residual() -> nn.Module:
    block = Wired(lambda m, x: x + m.conv(x), conv=_conv(6, 6, padding=1))
    return Wired(
        lambda m, x: _pooled(m, m.block(m.stem(x))), stem=_conv(3, 6), block=block, head=nn.Linear(6, 2)
    )


class _Attention(nn.Module):
    """Two heads of four entries."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = 2
        self.q, self.k, self.v, self.out = (nn.Linear(8, 8) for _ in range(4))

    def _split(self, x: Tensor) -> Tensor:
        return x.view(x.shape[0], x.shape[1], self.heads, -1).transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (self._split(layer(x)) for layer in (self.q, self.k, self.v))
        y = F.scaled_dot_product_attention(q, k, v)
        return self.out(y.transpose(1, 2).flatten(2))


def _attention() -> nn.Module:
    return Wired(lambda m, x: m.attention(x), attention=_Attention())


def _chain(between: Callable[[Any, Tensor], Tensor], **modules: nn.Module) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        middle = Wired(between, **modules)
        return Wired(
            lambda m, x: m.last(m.middle(m.first(x))),
            first=nn.Linear(4, 8),
            middle=middle,
            last=nn.Linear(8, 2),
        )

    return build


def _padded() -> nn.Module:
    return _bright(
        Wired(
            lambda m, x: _pooled(m, m.second(torch.relu(m.first(x)))),
            first=_conv(3, 6),
            second=_conv(6, 4, padding=1),
            head=nn.Linear(4, 2),
        )
    )


def _grouped() -> nn.Module:
    return Wired(
        lambda m, x: _pooled(m, m.grouped(torch.tanh(m.before(x)))),
        before=_conv(3, 8),
        grouped=_conv(8, 8, groups=4),
        head=nn.Linear(8, 2),
    )


def _depthwise() -> nn.Module:
    return Wired(
        lambda m, x: _pooled(m, m.depth(m.point(x))),
        point=_conv(3, 6, 1),
        depth=_conv(6, 6, groups=6),
        head=nn.Linear(6, 2),
    )


def _tied() -> nn.Module:
    inner, head = nn.Linear(8, 8), nn.Linear(8, 8)
    head.weight = inner.weight
    return Wired(lambda m, x: m.head(torch.tanh(m.inner(x))), inner=inner, head=head)


class _Words(nn.Module):
    """An embedding whose table is the head's weight."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(8, 4), nn.Linear(4, 8, bias=False)
        self.head.weight = self.table.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.table((x > 0).long()))


def _shared() -> nn.Module:
    return Wired(lambda m, x: m.layer(torch.relu(m.layer(x))), layer=nn.Linear(8, 8))


def _recurrent() -> nn.Module:
    return Wired(
        lambda m, x: m.head(m.layer(x)[0]), layer=nn.LSTM(8, 6, 2, batch_first=True), head=nn.Linear(6, 2)
    )


def _island() -> nn.Module:
    def run(m: Any, x: Tensor) -> Tensor:
        x = m.inner(x)
        return m.head(x) if float(x.sum()) > 0 else m.head(-x)

    return Wired(run, inner=nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8)), head=nn.Linear(8, 2))


def _normed() -> nn.Module:
    return _bright(
        Wired(
            lambda m, x: _pooled(m, m.norm(m.conv(x))),
            conv=_conv(3, 6),
            norm=nn.BatchNorm2d(6),
            head=nn.Linear(6, 2),
        )
    )


def _twice_read() -> nn.Module:
    return Wired(
        lambda m, x: m.one(y := m.first(x)) + m.two(y),
        first=nn.Linear(4, 6),
        one=nn.Linear(6, 2),
        two=nn.Linear(6, 2),
    )


def _joined() -> nn.Module:
    return Wired(
        lambda m, x: m.last(torch.cat([m.left(x), m.right(x)], 1)),
        left=nn.Linear(4, 3),
        right=nn.Linear(4, 3),
        last=nn.Linear(6, 2),
    )


def _halves(m: Any, x: Tensor) -> Tensor:
    first, second = x.chunk(2, 1)
    return torch.cat([torch.tanh(first), second], 1)


def _literal(m: Any, x: Tensor) -> Tensor:
    # A shape that a call makes is a number that no rewriting can follow.
    return x.view(*sorted((-1, 8)))


def _gathered(m: Any, x: Tensor) -> Tensor:
    return x.gather(1, torch.arange(8).flip(0).expand(x.shape[0], -1))


def _scattered(m: Any, x: Tensor) -> Tensor:
    return torch.zeros_like(x).scatter_add(1, (x > 0).long(), x)


_ROWS2 = {"first.weight": (2,), "first.bias": (2,)}
_NORM = "layer_norm takes statistics over this dimension"
_NUMBER = Said("states this size as a number that cannot follow", "aten.view.default", "middle")
_CARRIED = Said("a padded constant needs one channel to carry it", CONV, "second")

STAYING = (
    Case(
        "residual conflict", _residual, IMAGES, {"block.conv.weight": (1, 3)}, "block.conv", (1, 3),
        (Said("needs them", CONV, "stem"), Said("add works element by element", ADD, "block")),
    ),
    Case(
        "a head that is not whole", _attention, SEQUENCES,
        {f"attention.{n}.{p}": (1,) for n in ("q", "k") for p in ("weight", "bias")}, "attention.q", (1,),
        (Said("needs them", LINEAR, "attention.q"),
         Said("view ties the dimensions it rearranges", "aten.view.default", "attention")),
    ),
    Case(
        "entries that the scale of attention counts", _attention, SEQUENCES,
        {f"attention.{n}.{p}": (1, 5) for n in ("q", "k") for p in ("weight", "bias")}, "attention.q",
        (1, 5),
        (Said("attention scale depends on the head's extent",
              "aten.scaled_dot_product_attention.default", "attention"),
         Said("view ties the dimensions it rearranges", "aten.view.default", "attention")),
    ),
    Case("padded constant", _padded, IMAGES, {"first.weight": (2,)}, "first", (2,), (_CARRIED,)),
    Case(
        "tied weight", _tied, SEQUENCES, {"inner.weight": (3,), "inner.bias": (3,)}, "inner", (3,),
        (Said("the model returns them"), Said("shares inner.weight with another call", LINEAR, "head")),
    ),
    Case(
        "softmax axis", _chain(lambda m, x: x.softmax(1)), ROWS, _ROWS2, "first", (2,),
        (Said("softmax runs along the whole dimension", "aten.softmax.int", "middle"),),
    ),
    Case(
        "unknown operator", _chain(lambda m, x: torch.cummax(x, 1).values), ROWS, _ROWS2, "first", (2,),
        (Said("aten.cummax.default has no rule", "aten.cummax.default", "middle"),),
        options={"without": torch.ops.aten.cummax},
    ),
    Case(
        "model output", _chain(lambda m, x: x), ROWS, {"last.weight": (1,)}, "last", (1,),
        (Said("the model returns them"),),
    ),
    Case(
        "group counts", _grouped, IMAGES, {"grouped.weight": (1, 2), "grouped.bias": (1, 2, 4)}, "grouped",
        (1, 2),
        (Said("needs them", CONV, "grouped"),
         Said("groups of a convolution must have equal counts", CONV, "grouped")),
    ),
    Case(
        "equal chunks", _chain(_halves), ROWS, _ROWS2, "first", (2,),
        (Said("needs them", LINEAR, "first"),
         Said("chunk cuts into equal parts", "aten.chunk.default", "middle")),
        options={"keep_source": True},
    ),
    Case(
        "pinned by keep=", _chain(lambda m, x: m.inner(x), inner=nn.Linear(8, 8)), ROWS, _ROWS2, "first",
        (2,), (Said("keep='middle.inner' was asked for", LINEAR, "middle.inner"),),
        options={"keep": ("middle.inner",)},
    ),
    Case("literal in source", _chain(_literal), ROWS, _ROWS2, "first", (2,), (_NUMBER,)),
    Case(
        "LayerNorm width", _chain(lambda m, x: m.norm(x), norm=nn.LayerNorm((5, 8))), (2, 5, 4), _ROWS2,
        "first", (2,), (Said(_NORM, "aten.layer_norm.default", "middle.norm"),),
    ),
    Case(
        "head tied to an embedding", _Words, SEQUENCES, {"table.weight": (5,)}, "head", (5,),
        (Said("the model returns them"),),
    ),
    Case(
        "shared module", _shared, SEQUENCES, {"layer.weight": (3,), "layer.bias": (3,)}, "layer", (3,),
        (Said("the model returns them"),),
    ),
    Case(
        "the last channel", _padded, IMAGES,
        {"second.weight": tuple(range(4)), "second.bias": tuple(range(4))}, "second", (0,),
        (Said("a dimension cannot become empty: one index stays"),),
    ),
    Case(
        "gathered positions", _chain(_gathered), ROWS, _ROWS2, "first", (2,),
        (Said("positions", "aten.gather.default", "middle"),),
    ),
    Case(
        "scattered positions", _chain(_scattered), ROWS, _ROWS2, "first", (2,),
        (Said("positions", "aten.scatter_add.default", "middle"),),
    ),
    Case(
        "recurrent hidden units", _recurrent, SEQUENCES,
        {f"layer.{n}_l0": tuple(range(1, 24, 6)) for n in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")},
        "layer", (1,),
        (Said("needs them", "aten.lstm.input", "layer"),
         Said("lstm ties its gates and states to its units", "aten.lstm.input", "layer"),
         Said("lstm has one hidden_size for all layers and directions", "aten.lstm.input", "layer")),
        axis="units of l0",
    ),
    Case(
        "island boundary", _island, ROWS, {"inner.2.weight": (4,)}, "inner.2", (4,),
        (Said("code that could not be traced reads them"),),
    ),
    Case(
        "size out of sight", _chain(lambda m, x: x / float(x.shape[1]) ** 0.5), ROWS, _ROWS2, "first", (2,),
        (Said("takes this size out of sight"),),
    ),
    Case(
        "what another layer reads", _twice_read, ROWS, {"one.weight": (3,)}, "one", (3,),
        (Said("reads them", LINEAR, "two"),), axis="reads", columns=True,
    ),
)  # fmt: skip

_GOING = (
    Case("masked filter", _normed, IMAGES, {"conv.weight": (2,)}, "conv", (2,),
         (Said("masked in conv.weight", CONV, "conv"), Said("folded into bias of head", LINEAR, "head"))),
    Case("masked scale", _normed, IMAGES, {"norm.weight": (4,)}, "conv", (4,),
         (Said("masked in norm.weight", "aten.batch_norm.default", "norm"),)),
    Case("constants for a carrier", _padded, IMAGES, {"first.weight": (1, 2)}, "first", (1,),
         (Said("masked in first.weight", CONV, "first"),
          Said("folded into channel 2 of what second reads", CONV, "second"))),
    Case("columns that read a constant", _normed, IMAGES, {"conv.weight": (2,)}, "head", (2,),
         (Said("masked in conv.weight", CONV, "conv"), Said("folded into bias of head", LINEAR, "head")),
         axis="reads"),
    Case("unread channels", _depthwise, IMAGES, {"head.weight": (0, 5)}, "depth", (0, 5),
         (Said("masked in head.weight", LINEAR, "head"),), columns=True),
    Case("depthwise filter of what is read no more", _depthwise, IMAGES, {"head.weight": (0, 5)}, "point",
         (0, 5), (Said("masked in head.weight", LINEAR, "head"),), columns=True),
    Case("depthwise filter", _depthwise, IMAGES, {"depth.weight": (3,)}, "point", (3,),
         (Said("masked in depth.weight", CONV, "depth"),)),
    Case("part of a concatenation", _joined, ROWS, {"last.weight": (4,)}, "right", (1,),
         (Said("masked in last.weight", LINEAR, "last"),), columns=True),
    Case("whole head", _attention, SEQUENCES, {"attention.out.weight": (4, 5, 6, 7)}, "attention", (1,),
         (Said("masked in attention.out.weight", LINEAR, "attention.out"),), axis="heads", columns=True),
    Case("query of a head that is read no more", _attention, SEQUENCES,
         {"attention.out.weight": (4, 5, 6, 7)}, "attention.v", (4, 5, 6, 7),
         (Said("masked in attention.out.weight", LINEAR, "attention.out"),), columns=True),
    Case("recurrent units", _recurrent, SEQUENCES,
         {f"layer.{n}_l{k}": tuple(range(1, 24, 6)) for k in (0, 1)
          for n in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}, "layer", (1,),
         (Said("masked in layer.weight_ih_l0", "aten.lstm.input", "layer"),), axis="units of l0"),
)  # fmt: skip

GOING = tuple(evolve(case, stays=False) for case in _GOING)
