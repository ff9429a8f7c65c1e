"""torchvision's detection operators in plain PyTorch, for a torchvision whose extension does not load.

`provide()` gives `torchvision::nms` and `torchvision::roi_align` an implementation on the CPU and lets
torchvision believe that its extension is there. Where the extension did load, nothing is done.
"""

from __future__ import annotations

import functools
import importlib

import torch
from torch import Tensor

from tests.support.vision import torchvision_models

_ROI_ALIGN = (
    "roi_align(Tensor input, Tensor rois, float spatial_scale, int pooled_height, int pooled_width, "
    "int sampling_ratio, bool aligned) -> Tensor"
)
# The implementations last as long as their Library object.
_LIBRARIES: list[torch.library.Library] = []


@functools.cache
def provide() -> None:
    """Make torchvision's detectors run here, in any floating-point dtype."""
    torchvision_models()
    extension = importlib.import_module("torchvision.extension")
    if extension._has_ops():
        return
    library = torch.library.Library("torchvision", "FRAGMENT")
    library.define(_ROI_ALIGN)
    library.impl("nms", nms, "CPU")
    library.impl("roi_align", roi_align, "CPU")
    _LIBRARIES.append(library)
    for name in ("torchvision.extension", "torchvision.ops.boxes", "torchvision.ops.roi_align"):
        module = importlib.import_module(name)
        module._assert_has_ops = lambda: None  # type: ignore[attr-defined]
        module._has_ops = lambda: True  # type: ignore[attr-defined]


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """The boxes (n, 4) that no better one overlaps by more than `iou_threshold`, best first."""
    order = scores.argsort(descending=True, stable=True)
    overlaps = (_overlaps(boxes[order]) > iou_threshold).tolist()
    kept: list[int] = []
    for box in range(len(order)):
        if not any(overlaps[better][box] for better in kept):
            kept.append(box)
    return order[torch.tensor(kept, dtype=torch.int64)]


def _overlaps(boxes: Tensor) -> Tensor:
    """Intersection over union of all pairs."""
    low = torch.maximum(boxes[:, None, :2], boxes[None, :, :2])
    high = torch.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    common = (high - low).clamp(min=0).prod(2)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    return common / (areas[:, None] + areas[None, :] - common)


def roi_align(
    features: Tensor, rois: Tensor, scale: float, height: int, width: int, samples: int, aligned: bool
) -> Tensor:
    """Means of bilinear samples over a grid in each region: (regions, channels, height, width)."""
    pooled = [_pooled(features, roi, scale, (height, width), samples, aligned) for roi in rois]
    return torch.stack(pooled) if pooled else features.new_zeros(0, features.shape[1], height, width)


def _pooled(
    features: Tensor, roi: Tensor, scale: float, bins: tuple[int, int], samples: int, aligned: bool
) -> Tensor:
    offset = 0.5 if aligned else 0.0
    left, top, right, bottom = (float(edge) * scale - offset for edge in roi[1:])
    sizes = [bottom - top, right - left]
    if not aligned:
        sizes = [max(size, 1.0) for size in sizes]
    counts = [samples if samples > 0 else max(1, -int(-s // n)) for s, n in zip(sizes, bins, strict=True)]
    ys, xs = (
        start + (torch.arange(n * count, dtype=features.dtype) + 0.5) * (size / (n * count))
        for start, size, n, count in zip((top, left), sizes, bins, counts, strict=True)
    )
    sampled = _bilinear(features[int(roi[0])], ys, xs)
    return sampled.unflatten(2, (bins[1], counts[1])).unflatten(1, (bins[0], counts[0])).mean((2, 4))


def _bilinear(image: Tensor, ys: Tensor, xs: Tensor) -> Tensor:
    """`image` (channels, height, width) at the grid `ys` x `xs`; zero more than a pixel outside."""
    rows, columns = (_weights(at, extent) for at, extent in zip((ys, xs), image.shape[1:], strict=True))
    return rows @ image @ columns.T


def _weights(at: Tensor, extent: int) -> Tensor:
    """The interpolation as a matrix (samples, extent)."""
    inside = (at >= -1) & (at <= extent)
    distance = (at.clamp(0, extent - 1)[:, None] - torch.arange(extent, dtype=at.dtype)).abs()
    return (1 - distance).clamp(min=0) * inside[:, None]
