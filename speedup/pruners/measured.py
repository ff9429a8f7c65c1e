"""Scores that are measured while a copy of the model runs on data.

A batch is whatever a data loader gives; `run` says how to run the model on it. Batches are run in eval
mode, on the device that they are on, and read anew for each call, so that a generator would be used up:
pass a list or a data loader.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from attrs import frozen
from torch import Tensor, nn

from speedup.errors import PruningError
from speedup.ir.inputs import example_from
from speedup.pruners.channels import ScoredLayer
from speedup.pruners.scoring import rows_of

Run = Callable[[nn.Module, Any], Any]
Loss = Callable[[nn.Module, Any], Tensor]


def run_as_input(model: nn.Module, batch: Any) -> Any:
    """Call `model` on a batch that is an example input: a tensor, a tuple of arguments or a dict of them."""
    example = example_from(batch)
    args, kwargs = example.call(example.tensors)
    return model(*args, **kwargs)


@frozen(eq=False)
class ActiveShare:
    """The share of each channel's outputs that are above zero: 1 - APoZ, averaged over all batches.

    APoZ is the average percentage of zeros behind a ReLU: Hu et al., "Network Trimming: A Data-Driven Neuron
    Pruning Approach towards Efficient Deep Architectures", 2016. Taken is what a ReLU would leave of the
    layer's output or, where a BatchNorm follows, of that; other activations are treated alike. Layers whose
    output is no module's output have no score.

    Attributes:
        batches: inputs, all counted alike whatever their batch sizes.
        run: runs the model on one of them, by default as on an example input.
    """

    batches: Iterable[Any]
    run: Run = run_as_input

    def __call__(self, model: nn.Module, layers: Sequence[ScoredLayer]) -> Mapping[str, Tensor]:
        active: dict[str, Tensor] = {}
        seen: dict[str, int] = {}

        def watch(layer: ScoredLayer, output: Tensor) -> None:
            positive = _by_channel(output, layer) > 0
            active[layer.weight] = active.get(layer.weight, torch.zeros(())) + positive.double().sum(1).cpu()
            seen[layer.weight] = seen.get(layer.weight, 0) + positive.shape[1]

        with torch.no_grad(), _watching(model, layers, watch):
            for batch in _each(self.batches):
                self.run(model, batch)
        return {name: total / seen[name] for name, total in active.items()}


@frozen(eq=False)
class TaylorOutput:
    """How much the loss would change without a channel's output, to first order.

    The mean of output times gradient over positions, its size averaged over the samples: Molchanov et al.,
    "Pruning Convolutional Neural Networks for Resource Efficient Inference", ICLR 2017, equation 8; there
    with `Normalized`. Layers whose output is no module's output have no score.

    Attributes:
        batches: what `loss` takes.
        loss: from the model and a batch, a scalar that is a mean over samples or a sum.
    """

    batches: Iterable[Any]
    loss: Loss

    def __call__(self, model: nn.Module, layers: Sequence[ScoredLayer]) -> Mapping[str, Tensor]:
        totals: dict[str, Tensor] = {}
        outputs: list[tuple[ScoredLayer, Tensor]] = []
        samples: dict[str, int] = {}
        with torch.enable_grad(), _watching(model, layers, lambda *found: outputs.append(found)):
            for batch in _each(self.batches):
                outputs.clear()
                found = _gradients(self.loss(model, batch), [output for _, output in outputs])
                for (layer, output), gradient in zip(outputs, found, strict=True):
                    effect = _by_sample((output * gradient).detach(), layer)
                    name, size = layer.weight, effect.mean(2).abs().sum(0).cpu()
                    totals[name] = totals.get(name, torch.zeros(())) + size
                    samples[name] = samples.get(name, 0) + len(effect)
        return {name: total / samples[name] for name, total in totals.items()}


@frozen(eq=False)
class TaylorWeight:
    """How much the squared change of the loss would be without a filter's weights, to first order.

    The sum of (gradient x weight)^2 over the weights of a filter, averaged over batches: Molchanov et al.,
    "Importance Estimation for Neural Network Pruning", CVPR 2019, equations 6 and 8.

    Attributes:
        batches: what `loss` takes.
        loss: from the model and a batch, a scalar.
    """

    batches: Iterable[Any]
    loss: Loss

    def __call__(self, model: nn.Module, layers: Sequence[ScoredLayer]) -> Mapping[str, Tensor]:
        weights = {layer.weight: model.get_parameter(layer.weight).requires_grad_() for layer in layers}
        totals = {layer.weight: torch.zeros(layer.channels, dtype=torch.float64) for layer in layers}
        count = 0
        for batch in _each(self.batches):
            with torch.enable_grad():
                found = _gradients(self.loss(model, batch), list(weights.values()))
            for layer, gradient in zip(layers, found, strict=True):
                by_row = gradient.double().transpose(0, layer.dim).flatten(1)
                totals[layer.weight] += (by_row * rows_of(model, layer)).square().sum(1).cpu()
            count += 1
        return {name: total / count for name, total in totals.items()}


def _each(batches: Iterable[Any]) -> Iterator[Any]:
    empty = True
    for batch in batches:
        empty = False
        yield batch
    if empty:
        raise PruningError("the scores got no batch to measure on; pass a list or a data loader with some.")


def _gradients(loss: Tensor, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Of the scalar `loss` by each of `tensors`; zeros where it does not depend on one."""
    if not isinstance(loss, Tensor) or loss.numel() != 1 or not loss.requires_grad:
        kind = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise PruningError(f"the loss gave {kind}; return a scalar that depends on the model's output.")
    found = torch.autograd.grad(loss.reshape(()), tensors, allow_unused=True)
    return tuple(torch.zeros_like(t) if g is None else g for t, g in zip(tensors, found, strict=True))


@contextmanager
def _watching(
    model: nn.Module, layers: Sequence[ScoredLayer], watch: Callable[[ScoredLayer, Tensor], object]
) -> Iterator[None]:
    """Call `watch` with the output of each layer whenever it is computed."""

    def hook_of(layer: ScoredLayer) -> Callable[[nn.Module, Any, Any], Any]:
        def hook(module: nn.Module, args: Any, output: Any) -> Any:
            if not isinstance(output, Tensor):
                return None
            watch(layer, output)
            # What follows may write into it in place.
            return output.clone()

        return hook

    handles = [
        model.get_submodule(layer.output).register_forward_hook(hook_of(layer))
        for layer in layers
        if layer.output
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _by_channel(output: Tensor, layer: ScoredLayer) -> Tensor:
    """(channels, everything else)"""
    return output.movedim(layer.axis, 0).flatten(1)


def _by_sample(output: Tensor, layer: ScoredLayer) -> Tensor:
    """(samples, channels, positions) in float64; samples are the first dimension."""
    axis = layer.axis % output.ndim
    batched = output[None] if axis == 0 else output
    return (
        batched.double().movedim(layer.axis, 1).flatten(2)
        if batched.ndim > 2
        else batched.double()[..., None]
    )
