"""How a model of transformers is built and called: a configuration, and what random inputs are made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, TypeAlias

import attrs
import torch
from attrs import frozen
from torch import Tensor

from tests.support import vision

Call: TypeAlias = dict[str, Tensor]

# Of every model that reads text.
VOCABULARY = 50


@frozen
class Sample:
    """What random inputs are drawn from: how many samples, how large each one, in which floating dtype."""

    batch: int
    size: int
    seed: int
    dtype: torch.dtype

    @property
    def generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed)


def ids(sample: Sample, length: int | None = None) -> Tensor:
    # The first few ids are padding, beginning and end to most models.
    shape = (sample.batch, length or sample.size)
    return torch.randint(4, VOCABULARY, shape, generator=sample.generator)


def tokens(sample: Sample) -> Call:
    return {"input_ids": ids(sample)}


def padded_tokens(sample: Sample) -> Call:
    """Tokens with padding after the first sample's half, and a mask that says so."""
    mask = torch.ones(sample.batch, sample.size, dtype=torch.long)
    mask[0, sample.size // 2 :] = 0
    return {"input_ids": ids(sample), "attention_mask": mask}


def text_pair(sample: Sample) -> Call:
    return {"input_ids": ids(sample), "decoder_input_ids": ids(sample, 7)}


def pixels(sample: Sample) -> Call:
    return {"pixel_values": vision.images(sample.batch, sample.size, sample.seed, sample.dtype)}


def pixels_and_tokens(sample: Sample) -> Call:
    return pixels(sample) | {"input_ids": ids(sample, 9)}


def spectrogram(sample: Sample) -> Call:
    shape = (sample.batch, 8, sample.size)
    features = torch.randn(shape, generator=sample.generator, dtype=torch.float64).to(sample.dtype)
    return {"input_features": features, "decoder_input_ids": ids(sample, 7)}


def waveform(sample: Sample) -> Call:
    shape = (sample.batch, sample.size)
    return {
        "input_values": torch.randn(shape, generator=sample.generator, dtype=torch.float64).to(sample.dtype)
    }


def _read_only(options: Mapping[str, Any]) -> Mapping[str, Any]:
    return MappingProxyType(options)


@frozen
class Case:
    """How one class is built and called.

    Attributes:
        config: the class of its configuration, in transformers.
        options: the configuration's arguments.
        call: makes the arguments of a call.
        size: sequence length, or height and width in pixels, at which the class is checked.
        other: a second size that the same model takes; None where it is built for one size only.
    """

    config: str
    options: Mapping[str, Any] = attrs.field(converter=_read_only, hash=False)
    call: Callable[[Sample], Call] = tokens
    size: int = 9
    other: int | None = 12
