"""Models of images whose forward branches on height, width or batch size, or counts by them.

All of the small ones start with two convolutions. Of `wide` two filters are masked with their biases, so that
they can always go; of `p` two without, so that what follows meets two constants, which become others where
something is padded, and at other sizes.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.support import vision
from tests.support.lively import Inputs
from tests.support.masking import random_row_masks
from tests.support.sized import MaskedRows, Size, Sized, normal

WIDTH = 6
_INPUTS = partial(normal, channels=3)
_GONE = {"wide": (2, 7)}
_CONSTANT = {"p": (1, 4)}
SIZES = ((8, 8), (9, 7), (5, 5), (7, 8), (12, 16), (13, 13))
SQUARES = ((8, 8), (5, 5), (7, 7), (12, 12), (13, 13))


class Images(nn.Module):
    """Maps (batch, 3, height, width) to whatever `middle` makes of 6 features a pixel, and those to 4.

    `middle` returns features in dimension 1.
    """

    def __init__(self, leaves: int = WIDTH) -> None:
        super().__init__()
        self.wide, self.p = nn.Conv2d(3, 10, 3, padding=1), nn.Conv2d(10, WIDTH, 3, padding=1)
        self.o = nn.Conv2d(leaves, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.middle(torch.tanh(self.p(torch.relu(self.wide(x)))), x)
        return self.o(y if y.ndim == 4 else y[..., None, None])

    def middle(self, y: Tensor, x: Tensor) -> Tensor:
        raise NotImplementedError


class Function(Images):
    """A function of the features and the input."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def middle(self, y: Tensor, x: Tensor) -> Tensor:
        return self.function(y, x)


def _pyramid(y: Tensor, x: Tensor) -> Tensor:
    """Pooled at as many levels as the shorter side allows."""
    total = y
    for level in range(1, int(math.log2(min(x.shape[2:]))) + 1):
        small = F.avg_pool2d(y, 2**level)
        total = total + F.interpolate(small, size=y.shape[2:], mode="nearest") / level
    return total


def _halved(y: Tensor, x: Tensor) -> Tensor:
    while min(y.shape[2:]) > 3:
        y = F.max_pool2d(y, 2) * 2
    return y.mean((2, 3))


def _with_coordinates(y: Tensor, x: Tensor) -> Tensor:
    rows, columns = (torch.linspace(-1, 1, n, dtype=y.dtype) for n in y.shape[2:])
    return y + rows[:, None] + columns


def _added_if_it_fits(y: Tensor, x: Tensor) -> Tensor:
    try:
        return y + F.interpolate(F.max_pool2d(y, 2), scale_factor=2)
    except RuntimeError:
        return y - 1


def _added_in_steps(y: Tensor, x: Tensor) -> Tensor:
    try:
        pooled = F.avg_pool2d(y, 2) * 2
        y = _added_twice(y, pooled)
    except RuntimeError:
        y = y - 1
    finally:
        y = y * 3
    return y


def _added_twice(y: Tensor, pooled: Tensor) -> Tensor:
    return y + pooled.repeat_interleave(2, 2).repeat_interleave(2, 3)


def _suppressed(y: Tensor, x: Tensor) -> Tensor:
    with contextlib.suppress(RuntimeError):
        y = torch.cat([y, y.repeat_interleave(2, 2)[:, :, ::4].repeat_interleave(2, 2)], 3)[..., 1:]
    return y


def _seen_in_pairs(y: Tensor, x: Tensor) -> Tensor:
    batch, channels, height, width = y.shape
    try:
        return y.view(batch, channels, height // 2, 2, width // 2, 2).amax((3, 5))
    except (RuntimeError, ValueError):
        return y * 2 - 1


def _reflected_if_large(y: Tensor, x: Tensor) -> Tensor:
    """Fails at the example's size."""
    try:
        return F.pad(y, (9, 9, 9, 9), mode="reflect")[:, :, 3:-3, 3:-3] * 3 + 1
    except RuntimeError:
        return y - 1


def _with_row_if_there(y: Tensor, x: Tensor) -> Tensor:
    try:
        y = y + y[:, :, 8][:, :, None]
    except IndexError as error:
        y = y - len(error.args)
    else:
        y = y + 2
    return y


FUNCTIONS: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "added if it fits": _added_if_it_fits,
    "added in steps": _added_in_steps,
    "suppressed": _suppressed,
    "seen in pairs": _seen_in_pairs,
    "reflected if large": _reflected_if_large,
    "with a row if there": _with_row_if_there,
    "padded to even": lambda y, x: F.avg_pool2d(F.pad(y, (0, x.shape[3] % 2, 0, x.shape[2] % 2)), 2),
    "padded to even if odd": lambda y, x: F.avg_pool2d(F.pad(y, (0, 1)) if x.shape[3] % 2 else y, 2),
    "reflected unless small": lambda y, x: F.avg_pool2d(
        F.pad(y, (3, 3, 3, 3), mode="reflect" if min(x.shape[2:]) > 6 else "constant"), 3
    ),
    "padded average": lambda y, x: F.avg_pool2d(y, 3, 2, padding=x.shape[3] % 2),
    "pooled to half": lambda y, x: F.adaptive_avg_pool2d(y, (x.shape[2] // 2, x.shape[3] // 2)),
    "largest of quarters": lambda y, x: F.adaptive_max_pool2d(y, (max(1, x.shape[2] // 4), 1)),
    "summed, not averaged": lambda y, x: F.avg_pool2d(y, 2) * (x.shape[2] * x.shape[3]),
    "above a number of elements": lambda y, x: torch.tanh(y) if x.numel() // len(x) > 300 else y,
    "below a number of pixels": lambda y, x: y if x.shape[2] * x.shape[3] >= 50 else y * 2,
    "sum over pixels": lambda y, x: y.sum((2, 3)),
    "aspect": lambda y, x: y * (x.shape[2] / x.shape[3]),
    "wider than high": lambda y, x: y.transpose(2, 3) + 1 if x.shape[3] > x.shape[2] else y,
    "large": lambda y, x: F.max_pool2d(y, 2) * 2 if x.shape[2] * x.shape[3] > 100 else y,
    "back to the input's size": lambda y, x: F.interpolate(
        F.max_pool2d(y, 2), size=x.shape[2:], mode="bilinear"
    ),
    "scaled by a factor": lambda y, x: F.interpolate(y, scale_factor=16 / x.shape[2], mode="nearest"),
    "levels": _pyramid,
    "halved": _halved,
    "coordinates": _with_coordinates,
    "centre": lambda y, x: y.cumsum(3)[:, :, x.shape[2] // 2, x.shape[3] // 2],
    "corner of the table": lambda y, x: F.pad(y, (1, 1, 1, 1))[:, :, : x.shape[2], : x.shape[3]],
    "local response": lambda y, x: F.local_response_norm(y, 3) * y.shape[2],
    "unfolded": lambda y, x: F.fold(F.unfold(y, 3, padding=1), x.shape[2:], 3, padding=1),
}
SQUARE_FUNCTIONS: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "pooled by its width": lambda y, x: F.avg_pool2d(y, y.size(3)).flatten(1),
    "pooled by its width, padded": lambda y, x: F.avg_pool2d(y, y.size(3), padding=1),
    "transposed": lambda y, x: torch.triu(y) @ y.transpose(2, 3),
}


class Merge(Images):
    """Swin's patch merging: padded where odd, then four neighbours put together."""

    def __init__(self) -> None:
        super().__init__(5)
        self.r = nn.Linear(4 * WIDTH, 5, bias=False)

    def middle(self, y: Tensor, x: Tensor) -> Tensor:
        y = y.permute(0, 2, 3, 1)
        height, width = y.shape[1:3]
        if height % 2 == 1 or width % 2 == 1:
            y = F.pad(y, (0, 0, 0, width % 2, 0, height % 2))
        y = torch.cat([y[:, i::2, j::2] for i in (0, 1) for j in (0, 1)], -1)
        return self.r(y).permute(0, 3, 1, 2)


class MergeWithNorm(Merge):
    """The same with the norm between, and the padding always written out."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * WIDTH)

    def middle(self, y: Tensor, x: Tensor) -> Tensor:
        y = F.pad(y, (0, y.shape[3] % 2, 0, y.shape[2] % 2)).permute(0, 2, 3, 1)
        y = torch.cat([y[:, i::2, j::2] for j in (0, 1) for i in (0, 1)], -1)
        return self.r(self.norm(y)).permute(0, 3, 1, 2)


class Windows(Images):
    """SAM's block: padded to whole windows, attention in each, put together and cut."""

    def __init__(self, window: int = 4) -> None:
        super().__init__()
        self.window, self.heads = window, 2
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def middle(self, y: Tensor, x: Tensor) -> Tensor:
        windows, padded = self.partition(y.permute(0, 2, 3, 1))
        q, k, v = self.qkv(windows).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-1, -2)).softmax(-1)
        windows = self.proj((weights @ v).transpose(1, 2).flatten(2))
        return y + self.unpartition(windows, padded, y.shape[2:]).permute(0, 3, 1, 2)

    def partition(self, y: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Windows (batch * windows, window * window, features), and the padded size."""
        batch, height, width, features = y.shape
        w = self.window
        below, right = (w - height % w) % w, (w - width % w) % w
        if below > 0 or right > 0:
            y = F.pad(y, (0, 0, 0, right, 0, below))
        height, width = height + below, width + right
        y = y.view(batch, height // w, w, width // w, w, features)
        return y.permute(0, 1, 3, 2, 4, 5).reshape(-1, w * w, features), (height, width)

    def unpartition(self, windows: Tensor, padded: tuple[int, int], size: Size) -> Tensor:
        """The inverse, with the padding cut off."""
        (height, width), w = padded, self.window
        batch = windows.shape[0] // (height * width // w // w)
        y = windows.view(batch, height // w, width // w, w, w, -1).permute(0, 1, 3, 2, 4, 5)
        y = y.reshape(batch, height, width, -1)
        if padded != tuple(size):
            y = y[:, : size[0], : size[1]].contiguous()
        return y


class ShiftedWindows(Windows):
    """The same on a rolled map, if that is larger than a window."""

    def middle(self, y: Tensor, x: Tensor) -> Tensor:
        shift = self.window // 2 if min(y.shape[2:]) > self.window else 0
        if shift:
            y = torch.roll(y, (-shift, -shift), (2, 3))
        y = super().middle(y, x)
        return torch.roll(y, (shift, shift), (2, 3)) if shift else y


class Anchors(Images):
    """YOLO's head: a grid of anchors kept as long as the shape of the map does not change."""

    shape: torch.Size | None = None

    def __init__(self) -> None:
        super().__init__()
        self.anchors, self.strides = torch.empty(0), torch.empty(0)
        self.box, self.score = nn.Conv2d(WIDTH, 4, 1), nn.Conv2d(WIDTH, 2, 1)

    def middle(self, y: Tensor, x: Tensor) -> Tensor:
        if self.shape != y.shape:
            self.anchors, self.strides = self.made(y, x.shape[2] / y.shape[2])
            self.shape = y.shape
        low, high = self.box(y).flatten(2).chunk(2, 1)
        centre, extent = self.anchors + (high - low) / 2, low + high
        boxes = torch.cat([centre, extent], 1) * self.strides
        return torch.cat([boxes, self.score(y).flatten(2).sigmoid()], 1).unflatten(2, y.shape[2:])

    def made(self, y: Tensor, stride: float) -> tuple[Tensor, Tensor]:
        """Centres (2, pixels) and strides (1, pixels)."""
        rows, columns = (torch.arange(n, dtype=y.dtype) + 0.5 for n in y.shape[2:])
        grid = torch.stack(torch.meshgrid(columns, rows, indexing="xy")).flatten(1)
        return grid, torch.full_like(grid[:1], 2 * stride)


class SameConv(Images):
    """timm's padding as TensorFlow does it: by the size, stride and kernel, more of it behind."""

    def __init__(self, stride: int = 2) -> None:
        super().__init__()
        self.stride, self.kernel = stride, 3
        self.weight = nn.Parameter(torch.zeros(WIDTH, WIDTH, 3, 3))

    def middle(self, y: Tensor, x: Tensor) -> Tensor:
        rows, columns = self.lacking(y.shape[2]), self.lacking(y.shape[3])
        y = F.pad(y, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2))
        return torch.relu(F.conv2d(y, self.weight, None, self.stride))

    def lacking(self, size: int) -> int:
        """How much padding a side of `size` needs."""
        return max((math.ceil(size / self.stride) - 1) * self.stride + self.kernel - size, 0)


class ImagePositions(Images):
    """A table of 8 x 8 positions, stretched where the map is of another size, as DINO does."""

    def __init__(self) -> None:
        super().__init__()
        self.pos = nn.Parameter(torch.zeros(1, 64, WIDTH))

    def middle(self, y: Tensor, x: Tensor) -> Tensor:
        pos: Tensor = self.pos
        if y.shape[2] * y.shape[3] != pos.shape[1] or y.shape[2] != y.shape[3]:
            pos = pos.reshape(1, 8, 8, -1).permute(0, 3, 1, 2)
            pos = F.interpolate(pos, size=y.shape[2:], mode="bicubic").flatten(2).transpose(1, 2)
        return torch.sigmoid(y.flatten(2).transpose(1, 2) + pos).transpose(1, 2).unflatten(2, y.shape[2:])


class UNet(Images):
    """One level down and up again; what the upper map lacks of the lower one is padded."""

    def __init__(self) -> None:
        super().__init__(2 * WIDTH)
        self.down, self.up = nn.Conv2d(WIDTH, WIDTH, 3, padding=1), nn.ConvTranspose2d(WIDTH, WIDTH, 2, 2)

    def middle(self, y: Tensor, x: Tensor) -> Tensor:
        up = self.up(torch.relu(self.down(F.max_pool2d(y, 2))))
        rows, columns = y.shape[2] - up.shape[2], y.shape[3] - up.shape[3]
        up = F.pad(up, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2))
        return torch.relu(torch.cat([y, up], 1))


class Tiles(Images):
    """Tiles of five pixels, each convolved on its own and put back."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(WIDTH, WIDTH, 3, padding=1)

    def middle(self, y: Tensor, x: Tensor) -> Tensor:
        rows = [
            torch.cat([torch.relu(self.conv(y[:, :, i : i + 5, j : j + 5])) for j in self.at(y.shape[3])], 3)
            for i in self.at(y.shape[2])
        ]
        return torch.cat(rows, 2)

    def at(self, size: int) -> range:
        """Where tiles begin."""
        return range(0, size, 5)


class TwoRoads(Images):
    """Another layer above ten pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.small, self.large = nn.Conv2d(WIDTH, WIDTH, 1), nn.Conv2d(WIDTH, WIDTH, 3, padding=1)

    def middle(self, y: Tensor, x: Tensor) -> Tensor:
        return torch.relu(self.large(y) if x.shape[-1] > 10 else self.small(y))


class Rounds(Images):
    """A layer as often as four goes into the width."""

    def __init__(self) -> None:
        super().__init__()
        self.again = nn.Conv2d(WIDTH, WIDTH, 1)

    def middle(self, y: Tensor, x: Tensor) -> Tensor:
        for _ in range(x.shape[-1] // 4):
            y = torch.relu(self.again(y))
        return y


class NormOfBatches(Images):
    """A norm that a batch of one goes without."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(WIDTH)

    def middle(self, y: Tensor, x: Tensor) -> Tensor:
        return self.norm(y) if x.shape[0] > 1 else y


class Pyramid(Images):
    """PSPNet's module: bins of several sizes, those larger than the map left out of the sum."""

    def __init__(self) -> None:
        super().__init__()
        self.bins = (1, 2, 6)
        self.convs = nn.ModuleList(nn.Conv2d(WIDTH, WIDTH, 1) for _ in self.bins)

    def middle(self, y: Tensor, x: Tensor) -> Tensor:
        size = y.shape[2:]
        for bins, conv in zip(self.bins, self.convs, strict=True):
            if bins < min(size):
                pooled = torch.relu(conv(F.adaptive_avg_pool2d(y, bins)))
                y = y + F.interpolate(pooled, size=size, mode="bilinear", align_corners=False)
        return y


class AsManyPlaces(Images):
    """Pairs of columns, one padded where they are odd; the features of all places are read by one layer.

    So the model takes but few sizes, and refuses those nearest to the example's.
    """

    def __init__(self) -> None:
        super().__init__()
        self.places = nn.Linear(WIDTH * 32, WIDTH)

    def middle(self, y: Tensor, x: Tensor) -> Tensor:
        if y.shape[-1] % 2:
            y = F.pad(y, (0, 1))
        pairs: Tensor = y.unflatten(-1, (-1, 2))
        result: Tensor = self.places(pairs.mean(-1).flatten(1))
        return result


class Detection(Images):
    """DETR's encoder layer: sines of the positions that the padding mask leaves, and attention over those."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, 2, batch_first=True)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:  # type: ignore[override]
        y = torch.tanh(self.p(torch.relu(self.wide(x))))
        tokens, where = y.flatten(2).transpose(1, 2), self.sines(mask).flatten(1, 2).to(y.dtype)
        query = tokens + where
        tokens = self.attention(query, query, tokens, key_padding_mask=mask.flatten(1), need_weights=False)[0]
        return self.o(tokens.transpose(1, 2).unflatten(2, x.shape[2:]))

    def sines(self, mask: Tensor) -> Tensor:
        """(batch, height, width, features)."""
        rows, columns = (~mask).cumsum(1).double(), (~mask).cumsum(2).double()
        rows = rows / (rows[:, -1:, :] + 1e-6) * 2 * math.pi
        columns = columns / (columns[:, :, -1:] + 1e-6) * 2 * math.pi
        rates = 10.0 ** -torch.arange(3, dtype=torch.float64)
        return torch.cat([(columns[..., None] * rates).sin(), (rows[..., None] * rates).cos()], 3)


class OwnMask(Detection):
    """The same for images that nothing is padded in: the mask is made of zeros of their size."""

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        if mask is None:
            mask = torch.zeros(x.shape[0], *x.shape[2:], dtype=torch.bool)
        return super().forward(x, mask)


def padded_images(size: Size, batch: int, seed: int) -> Inputs:
    """Images, and masks that are true in the last column of the first and the last row of the second."""
    mask = torch.zeros(batch, *size, dtype=torch.bool)
    mask[0, :, -1] = True
    mask[1:2, -1] = True
    return {"x": normal(size, batch, seed, channels=3), "mask": mask}


def _swin() -> nn.Module:
    return vision.torchvision_models().SwinTransformer(
        patch_size=[2, 2], embed_dim=12, depths=[1, 2], num_heads=[2, 3], window_size=[4, 4], num_classes=5
    )


def _swin_v2() -> nn.Module:
    swin = vision.torchvision_models().swin_transformer
    return swin.SwinTransformer(
        patch_size=[2, 2],
        embed_dim=12,
        depths=[2, 1],
        num_heads=[2, 3],
        window_size=[4, 4],
        num_classes=5,
        block=swin.SwinTransformerBlockV2,
        downsample_layer=swin.PatchMergingV2,
    )


def _convnext() -> nn.Module:
    convnext = vision.torchvision_models().convnext
    settings = [convnext.CNBlockConfig(12, 24, 1), convnext.CNBlockConfig(24, None, 1)]
    return convnext.ConvNeXt(settings, num_classes=5)


def _third_of_rows(model: nn.Module) -> dict[str, dict[str, Tensor]]:
    return random_row_masks(model, 0.34, seed=11)


class _Doubled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Conv2d(WIDTH, WIDTH, 1, groups=WIDTH)

    def forward(self, y: Tensor) -> Tensor:
        return self.inner(y) + F.interpolate(F.max_pool2d(y, 2), scale_factor=2)


class Failing(Images):
    """Goes on without a module whose forward raises, and which another follows."""

    def __init__(self) -> None:
        super().__init__()
        self.doubled, self.after = _Doubled(), nn.Conv2d(WIDTH, WIDTH, 1)

    def middle(self, y: Tensor, x: Tensor) -> Tensor:
        try:
            y = self.doubled(y)
        except RuntimeError:
            y = y - 1
        return self.after(torch.relu(y))


_CLASSES: Mapping[str, tuple[Callable[[], nn.Module], Mapping[str, Any]]] = {
    "a module that fails": (Failing, {}),
    "patch merging": (Merge, {}),
    "patch merging with a norm": (MergeWithNorm, {}),
    "windows": (Windows, {}),
    "shifted windows": (ShiftedWindows, {"sizes": (*SIZES, (4, 4), (3, 5))}),
    "anchors": (Anchors, {"constant": {"box": (1,)}}),
    "same padding": (SameConv, {}),
    "same padding, stride 3": (partial(SameConv, 3), {}),
    "positions of images": (ImagePositions, {}),
    "skip connection": (UNet, {"gone": {"down": (0, 2)}}),
    "tiles": (Tiles, {"constant": {"conv": (0, 3)}}),
    "two roads": (TwoRoads, {"constant": {"small": (0,), "large": (0, 5)}}),
    "two roads, example large": (
        TwoRoads,
        {"constant": {"small": (0,), "large": (0, 5)}, "sizes": ((12, 12), (8, 8), (11, 10))},
    ),
    "rounds": (Rounds, {"constant": {"again": (2,)}}),
    "norm of larger batches": (NormOfBatches, {}),
    "norm of larger batches, example of one": (NormOfBatches, {"example_batch": 1}),
    "pyramid": (Pyramid, {"constant": {"convs.0": (1,), "convs.2": (1, 4)}}),
    "as many places": (AsManyPlaces, {"sizes": ((8, 8), (8, 7), (16, 4), (16, 3))}),
    "padding mask": (Detection, {"make_inputs": padded_images}),
    "own padding mask": (OwnMask, {}),
}


def _sized(
    make: Callable[[], nn.Module],
    sizes: tuple[Size, ...] = SIZES,
    constant: Mapping[str, tuple[int, ...]] | None = None,
    gone: Mapping[str, tuple[int, ...]] | None = None,
    make_inputs: Callable[[Size, int, int], Inputs] = _INPUTS,
    **options: Any,
) -> Sized:
    recipe = MaskedRows({**_CONSTANT, **(constant or {})}, {**_GONE, **(gone or {})})
    return Sized(make, recipe, make_inputs, sizes, **options)


IMAGE_CASES: Mapping[str, Sized] = {
    **{name: _sized(partial(Function, function)) for name, function in FUNCTIONS.items()},
    **{name: _sized(partial(Function, function), SQUARES) for name, function in SQUARE_FUNCTIONS.items()},
    **{name: _sized(make, **options) for name, (make, options) in _CLASSES.items()},
}
TORCHVISION_CASES: Mapping[str, Sized] = {
    name: Sized(make, _third_of_rows, _INPUTS, sizes)
    for name, make, sizes in (
        ("Swin", _swin, ((32, 32), (33, 27), (18, 18), (24, 40), (47, 47))),
        ("Swin V2", _swin_v2, ((32, 32), (33, 27), (18, 18), (24, 40))),
        ("Swin, example of odd maps", _swin, ((22, 22), (32, 32), (33, 27))),
        ("ConvNeXt", _convnext, ((32, 32), (33, 39), (8, 8), (47, 24))),
    )
}
