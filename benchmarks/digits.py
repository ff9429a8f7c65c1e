"""ResNet-18 trained on scikit-learn's digits: accuracy and latency against sparsity, masked and small.

The digits, 8 x 8, are enlarged to 3 x 32 x 32. At each sparsity, the filters of least L1 norm of every
convolution, with their BatchNorm's scales and shifts, are masked and the network is trained on for a while,
the masks in place. Section `digits`.
"""

from __future__ import annotations

import copy
from functools import partial

import torch
from attrs import frozen
from torch import Tensor, nn

from benchmarks.clock import Repeats, interleaved
from benchmarks.settings import Settings
from benchmarks.store import Row
from speedup import apply_masks, materialize, plan_speedup
from tests.support import vision
from tests.support.masking import Masks, l1_half_masks

SPARSITIES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
_TRAINING = 1437
_BATCH = 128


@frozen(eq=False)
class Images:
    """Images (n, 3, 32, 32) and their digits (n,)."""

    x: Tensor
    y: Tensor


def run(settings: Settings) -> None:
    """Train once, then mask, train on and compare at every sparsity."""
    torch.set_num_threads(settings.threads)
    training, test = digits()
    training = Images(training.x[:256], training.y[:256]) if settings.smoke else training
    model = _resnet()
    train(model, training, {}, epochs=1 if settings.smoke else 8, rate=0.05)
    for sparsity in SPARSITIES[4:5] if settings.smoke else SPARSITIES:
        settings.measure(
            "digits",
            f"{sparsity:.1f}",
            partial(_copied_row, model, sparsity, training, test, settings),
        )


def _copied_row(model: nn.Module, sparsity: float, training: Images, test: Images, settings: Settings) -> Row:
    return _row(copy.deepcopy(model), sparsity, training, test, settings)


def digits() -> tuple[Images, Images]:
    """Training and test images, the last fifth of the data for testing; values from 0 to 1."""
    from sklearn.datasets import load_digits

    found = load_digits()
    small = torch.tensor(found.images, dtype=torch.float32)[:, None] / 16
    x = nn.functional.interpolate(small, size=(32, 32), mode="bilinear").expand(-1, 3, -1, -1).contiguous()
    y = torch.tensor(found.target)
    return Images(x[:_TRAINING], y[:_TRAINING]), Images(x[_TRAINING:], y[_TRAINING:])


def train(model: nn.Module, data: Images, masks: Masks, epochs: int, rate: float) -> None:
    """Stochastic gradient descent with momentum; masked weights are kept at zero. Leaves eval mode."""
    named = dict(model.named_parameters())
    masked = [(named[f"{path}.{name}"], mask) for path, own in masks.items() for name, mask in own.items()]
    steps = epochs * (len(data.x) // _BATCH)
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=rate, total_steps=max(steps, 1) + 1)
    generator = torch.Generator().manual_seed(0)
    model.train()
    for _ in range(epochs):
        order = torch.randperm(len(data.x), generator=generator)
        for batch in order[: len(order) // _BATCH * _BATCH].split(_BATCH):
            loss = nn.functional.cross_entropy(model(data.x[batch]), data.y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            with torch.no_grad():
                for parameter, mask in masked:
                    parameter.mul_(mask)
    model.eval()


def _resnet() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = vision.torchvision_models().resnet18(num_classes=10)
    assert isinstance(model, nn.Module)
    return model


def _masks(model: nn.Module, sparsity: float) -> Masks:
    masks = l1_half_masks(model, sparsity)
    modules = dict(model.named_modules())
    for path, own in list(masks.items()):
        norm = path.replace("conv", "bn") if "conv" in path else path.removesuffix("0") + "1"
        if isinstance(modules.get(norm), nn.BatchNorm2d):
            rows = own["weight"][:, 0, 0, 0].clone()
            masks[norm] = {"weight": rows, "bias": rows}
    return masks


def _row(model: nn.Module, sparsity: float, training: Images, test: Images, settings: Settings) -> Row:
    masks = _masks(model, sparsity)
    train(model, training, masks, epochs=1 if settings.smoke else 3, rate=0.02)
    plan = plan_speedup(model, test.x[:2], masks)
    small, masked = materialize(plan), apply_masks(model, masks).eval()
    with torch.inference_mode():
        expected, found = masked(test.x), small(test.x)
    x = test.x[:_BATCH]
    calls = {"masked": lambda: masked(x), "small": lambda: small(x)}
    return {
        "sparsity": sparsity,
        "parameters_kept": plan.parameters_after / plan.parameters_before,
        "macs_kept": plan.macs_after / plan.macs_before,
        "accuracy_masked": float((expected.argmax(1) == test.y).double().mean()),
        "accuracy_small": float((found.argmax(1) == test.y).double().mean()),
        "predictions": len(test.y),
        "predictions_that_differ": int((expected.argmax(1) != found.argmax(1)).sum()),
        "largest_difference": float((expected - found).abs().max()),
        "latency": interleaved(calls, Repeats(3 if settings.smoke else 31), threads=settings.threads),
    }
