"""A model to try, and what to call it with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from types import MappingProxyType

import torch
from attrs import frozen
from torch import Tensor, nn

from tests.support import vision
from tests.support.lively import Inputs
from tests.support.measure import MakeInputs


@frozen
class Case:
    """How to build a model in float32, and (batch, seed) -> what it is called with in float64."""

    build: Callable[[], nn.Module]
    inputs: MakeInputs


def built(case: Case) -> nn.Module:
    """The model of `case` in float64 and eval mode, its weights random but always the same."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return case.build().double().eval()


def images(size: int) -> MakeInputs:
    """Images (batch, 3, size, size)."""
    return partial(vision.doubles, size)


def volumes(channels: int, *size: int) -> MakeInputs:
    """Random tensors (batch, channels, *size), each sample with an offset of its own."""

    def make(batch: int, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        shape = (batch, channels, *size)
        fine = torch.randn(shape, generator=generator, dtype=torch.float64)
        offset = torch.randn((batch, channels, *[1] * len(size)), generator=generator, dtype=torch.float64)
        return 0.8 * fine + 0.6 * offset

    return make


def tokens(vocabulary: int, length: int) -> MakeInputs:
    """Token numbers (batch, length)."""

    def make(batch: int, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return torch.randint(1, vocabulary, (batch, length), generator=generator)

    return make


def several(*parts: MakeInputs) -> MakeInputs:
    """A tuple of arguments, one from each of `parts`."""
    return lambda batch, seed: tuple(part(batch, seed + 7000 * at) for at, part in enumerate(parts))


def named(**parts: MakeInputs) -> MakeInputs:
    """Keyword arguments, one from each of `parts`."""

    def make(batch: int, seed: int) -> Inputs:
        return {name: part(batch, seed + 7000 * at) for at, (name, part) in enumerate(parts.items())}

    return make


def read_only(cases: Iterable[tuple[str, Case]]) -> Mapping[str, Case]:
    return MappingProxyType(dict(cases))
