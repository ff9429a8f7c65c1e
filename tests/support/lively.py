"""Random weights under which a model's output depends on its input and on every one of its constants.

As initialised, deep networks hide faults: their heads and layer scales are zero, biases are zero, BatchNorm
statistics are 0 and 1, and outputs hardly differ between inputs. `make_lively` draws every parameter anew
and then sets scales, offsets and running statistics from data, layer by layer in one forward pass, as LSUV
does (Mishkin and Matas, "All you need is a good init", 2016).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, TypeAlias

import torch
from attrs import frozen
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from tests.support.masking import Masks, Recipe

Inputs: TypeAlias = Tensor | tuple[Any, ...] | Mapping[str, Any]

# As large as what rides on it: with less, images of low contrast fade and others blow up in networks of SiLUs
# and squeeze-excitations, whose gain grows with the amplitude.
_BIAS_STD = 1.0
_TABLE_STD = 0.5
# A channel without variation in this batch, say a masked one, must not blow up the first input that has some:
# below this part of the mean variance it counts as having the others'.
_LEAST_RELATIVE_VARIANCE = 2e-1


def make_lively(model: nn.Module, example_inputs: Inputs, seed: int, recipe: Recipe | None = None) -> None:
    """Modify `model` in place, all parameters and running statistics, into a *lively* state made from `seed`.

    `example_inputs` is what the forward is called with: a tensor, a tuple of arguments or a mapping of
    keyword arguments, holding a batch (dimension 0) of at least two different samples; four and more
    calibrate better. `recipe(model)` gives the masks the model is going to meet: scales and statistics are
    then set on the masked activations, without which a deep network that loses half its filters in every
    layer hardly reacts any more. The weights themselves stay unmasked. Layers are scaled as a whole, so a
    ranking of rows within a layer is kept.

    Zeros that were in the weights are gone afterwards, so `torch.nn.utils.prune` comes later. Flags and
    hooks are as before, and the global RNG is not used.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        _randomize(model, generator)
        with _masked(model, recipe(model) if recipe else {}) as scales:
            _calibrate(model, example_inputs, _Draw(generator, scales))


@frozen(eq=False)
class _Draw:
    """What settling a layer takes and gives: where noise comes from; the factor on each weight, by id."""

    generator: torch.Generator
    scales: dict[int, Tensor]


@contextmanager
def _masked(model: nn.Module, masks: Masks) -> Iterator[dict[int, Tensor]]:
    """Mask the parameters for the time being; what was masked comes back times its parameter's factor."""
    scales: dict[int, Tensor] = {}
    originals = []
    for path, named in masks.items():
        for name, mask in named.items():
            parameter = model.get_submodule(path).get_parameter(name)
            originals.append((parameter, parameter.clone(), mask == 0))
            parameter.mul_(mask)
    try:
        yield scales
    finally:
        for parameter, original, removed in originals:
            parameter.copy_(torch.where(removed, original * scales.get(id(parameter), 1), parameter))


def _randomize(model: nn.Module, generator: torch.Generator) -> None:
    seen: set[int] = set()
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if id(parameter) not in seen and parameter.is_floating_point():
                seen.add(id(parameter))
                parameter.copy_(_drawn(module, name, parameter, generator))
        if isinstance(module, (nn.Embedding, nn.EmbeddingBag)) and module.padding_idx is not None:
            module.weight[module.padding_idx] = 0


def _drawn(module: nn.Module, name: str, parameter: Tensor, generator: torch.Generator) -> Tensor:
    """A new value for `parameter`, by its role: weight of a contraction, bias, gain, or table."""
    normal = _normal(parameter, generator)
    if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
        return normal
    if isinstance(module, (_ConvNd, nn.Linear)) and name == "weight":
        return normal / math.sqrt(parameter[0].numel())
    if "bias" in name and parameter.ndim == 1:
        return _BIAS_STD * normal
    if parameter.ndim == 0 or parameter.numel() == max(parameter.shape):
        return _uniform(parameter, generator, 0.5, 1.5)
    if "weight" in name:
        return normal / math.sqrt(parameter[0].numel())
    if parameter.ndim == 2 or parameter.shape[0] == 1:
        return _TABLE_STD * normal
    return normal / math.sqrt(parameter.shape[-2])


def _calibrate(model: nn.Module, example_inputs: Inputs, draw: _Draw) -> None:
    """One forward pass in eval mode; every layer, at its first call, is settled on what really reaches it."""
    uses = Counter(id(parameter) for _, parameter in model.named_parameters(remove_duplicate=False))
    with ExitStack() as stack:
        stack.enter_context(_in_eval_mode(model))
        stack.enter_context(torch.random.fork_rng(devices=[]))
        for module in model.modules():
            if isinstance(module, _BatchNorm) and module.running_mean is not None:
                hook = module.register_forward_pre_hook(_once(_settle_statistics, draw))
                stack.callback(hook.remove)
            elif (affine := _last_affine(module)) is not None and uses[id(affine[0])] == 1:
                hook = module.register_forward_hook(_once(_settle_affine, draw))
                stack.callback(hook.remove)
        call(model, example_inputs)


def call(model: nn.Module, inputs: Inputs) -> None:
    """Call `model` with what is a tensor, a tuple of arguments or a mapping of keyword arguments."""
    if isinstance(inputs, Tensor):
        model(inputs)
    elif isinstance(inputs, Mapping):
        model(**inputs)
    else:
        model(*inputs)


@contextmanager
def _in_eval_mode(model: nn.Module) -> Iterator[None]:
    flags = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in flags:
            module.training = training


def _once(settle: Callable[..., Any], draw: _Draw) -> Callable[..., Any]:
    called = False

    def hook(module: nn.Module, *values: Any) -> Any:
        nonlocal called
        if called:
            return None
        called = True
        return settle(module, *values, draw)

    return hook


def _settle_statistics(module: _BatchNorm, args: tuple[Any, ...], draw: _Draw) -> None:
    """Running statistics = those of the batch, then perturbed, so that nothing comes out quite centred."""
    assert module.running_mean is not None and module.running_var is not None
    others = [dim for dim in range(args[0].ndim) if dim != 1]
    mean, variance = args[0].mean(others), args[0].var(others, correction=0)
    varying = variance > _LEAST_RELATIVE_VARIANCE * variance.mean()
    typical = variance[varying].mean() if varying.any() else torch.ones_like(variance[0])
    variance = torch.where(varying, variance, typical)
    module.running_mean.copy_(mean + 0.2 * variance.sqrt() * _normal(mean, draw.generator))
    module.running_var.copy_(variance * _uniform(variance, draw.generator, 1.0, 1.5))


def _settle_affine(module: nn.Module, args: tuple[Any, ...], output: Any, draw: _Draw) -> Any:
    """Scale the weight for outputs of unit variation, centre them by the bias, and return them."""
    affine = _last_affine(module)
    if affine is None:
        return None
    weight, bias = affine
    values: Tensor = output[0] if isinstance(output, tuple) else output
    dim = values.ndim - (len(module.kernel_size) + 1 if isinstance(module, _ConvNd) else 1)
    shape = [-1 if at == dim else 1 for at in range(values.ndim)]
    response = values if bias is None else values - bias.view(shape)
    mean = response.mean([at for at in range(values.ndim) if at != dim], keepdim=True)
    scale = 1 / _variation(response, mean)
    weight.mul_(scale)
    draw.scales[id(weight)] = scale
    settled = response * scale
    if bias is not None:
        bias.copy_(_BIAS_STD * _normal(bias, draw.generator) - scale * mean.flatten())
        settled = settled + bias.view(shape)
    return (settled, *output[1:]) if isinstance(output, tuple) else settled


def _variation(response: Tensor, mean: Tensor) -> Tensor:
    """How much `response` varies between samples; at least a part of how it varies at all, and of its size.

    The bounds keep the network from amplifying differences that are tiny beside what they ride on, and with
    them its own rounding.
    """
    size = response.square().mean().sqrt()
    anywhere = (response - mean).square().mean().sqrt()
    between_samples = (response - response.mean(0, keepdim=True)).square().mean().sqrt()
    variation = torch.stack([between_samples, anywhere / 4, size / 8]).max()
    return variation if variation > 0 else torch.ones_like(variation)


def _last_affine(module: nn.Module) -> tuple[nn.Parameter, nn.Parameter | None] | None:
    """Weight and bias of the affine map that `module` ends in; None if none or a parametrized one."""
    owner = module.out_proj if isinstance(module, nn.MultiheadAttention) else module
    if not isinstance(owner, (_ConvNd, nn.Linear)):
        return None
    parameters = dict(owner.named_parameters(recurse=False))
    return (parameters["weight"], parameters.get("bias")) if "weight" in parameters else None


def _normal(like: Tensor, generator: torch.Generator) -> Tensor:
    # Drawn in float64 whatever the model's dtype, so that a seed means the same model in each.
    return torch.randn(like.shape, generator=generator, dtype=torch.float64).to(like)


def _uniform(like: Tensor, generator: torch.Generator, low: float, high: float) -> Tensor:
    drawn = torch.rand(like.shape, generator=generator, dtype=torch.float64)
    return (low + (high - low) * drawn).to(like)
