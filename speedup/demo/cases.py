"""The demo's networks with a state in which every tensor matters, and the masks put on them.

All numbers come from private generators: the caller's random state is neither read nor moved.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import attrs
import torch
from torch import Tensor, nn

from speedup.demo.networks import LeNet, ResNet18

Masks = Mapping[str, Mapping[str, Tensor]]


@attrs.frozen(eq=False)
class DemoCase:
    """A masked model and what its input looks like.

    `masks` maps module path and parameter name to zeros and ones of the parameter's shape;
    `image` is the shape (channels, height, width) of one input.
    """

    name: str
    model: nn.Module
    masks: Masks
    image: tuple[int, int, int]

    def inputs(self, batch: int, seed: int) -> Tensor:
        """Random images (batch, channels, height, width), float32."""
        return _images((batch, *self.image), torch.Generator().manual_seed(seed))


def lenet() -> DemoCase:
    """LeNet whose conv1 has three of six filters masked, their biases left alive at +1.

    The masked filters put a constant 1 into conv2, which only its bias can absorb.
    """
    model = _lively(LeNet, seed=0)
    mask = torch.ones(6, 1, 5, 5)
    mask[:3] = 0
    return DemoCase("LeNet", model, {"conv1": {"weight": mask}}, (1, 28, 28))


def resnet18() -> DemoCase:
    """ResNet-18 with the smaller half of every convolution's filters masked, each layer on its own.

    Nothing makes the masks agree at the residual additions.
    """
    model = _lively(ResNet18, seed=1)
    return DemoCase("ResNet-18", model, _smaller_halves(model), (3, 224, 224))


def _smaller_halves(model: nn.Module) -> Masks:
    """Masks half of each convolution's filters, the ones with the smallest L1 norm."""
    convolutions = ((path, m) for path, m in model.named_modules() if isinstance(m, nn.Conv2d))
    return {path: {"weight": _larger_half(conv.weight.detach())} for path, conv in convolutions}


def _larger_half(weight: Tensor) -> Tensor:
    norms = weight.abs().sum(dim=(1, 2, 3))
    kept = norms.argsort(descending=True)[: len(norms) // 2]
    mask = torch.zeros_like(weight)
    mask[kept] = 1
    return mask


def _lively(architecture: Callable[[], nn.Module], seed: int) -> nn.Module:
    """`architecture()` in eval mode, with no parameter or buffer at a value that hides its role."""
    # Modules initialise themselves from the global generator; on the meta device they draw nothing.
    with torch.device("meta"):
        model = architecture()
    model = model.to_empty(device="cpu").eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            _fill(module, generator)
    return model


def _fill(module: nn.Module, generator: torch.Generator) -> None:
    match module:
        case nn.Conv2d() | nn.Linear():
            nn.init.kaiming_normal_(module.weight, generator=generator)
            if module.bias is not None:
                module.bias.fill_(1)
        case nn.BatchNorm2d(running_mean=Tensor() as mean, running_var=Tensor() as variance):
            module.weight.uniform_(0.5, 1.5, generator=generator)
            module.bias.normal_(0, 0.5, generator=generator)
            mean.normal_(0, 0.5, generator=generator)
            variance.uniform_(0.5, 1.5, generator=generator)
            if module.num_batches_tracked is not None:
                module.num_batches_tracked.fill_(1)


def _images(shape: tuple[int, int, int, int], generator: torch.Generator) -> Tensor:
    """Noise on coarse patches: to a network that averages over positions, all white noise looks alike."""
    coarse = torch.randn((*shape[:2], 4, 4), generator=generator)
    patches = nn.functional.interpolate(coarse, size=shape[2:], mode="nearest")
    return patches + 0.5 * torch.randn(shape, generator=generator)
