from __future__ import annotations

import torch
from torch import nn

from speedup.modules.fingerprints import TensorFingerprint, checksum, fingerprints_of

WORDS = (0, 1, 2, 3, 63, 4095, 4096, 4097, 9000)
DTYPES = (torch.float32, torch.float64, torch.float16, torch.int64, torch.bool)


def test_a_tensor_has_the_same_checksum_among_others_as_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    model = nn.Module()
    # More of few words than are taken together.
    for number, size in enumerate((*WORDS, *range(1, 90))):
        drawn = 50 * torch.randn(size, generator=generator)
        model.register_buffer(f"b{number}", drawn.to(DTYPES[number % len(DTYPES)]))
    model.register_buffer("turned", torch.randn(6, 8, generator=generator).t())
    model.register_buffer("part", torch.arange(40)[3:])
    model.register_buffer("meta", torch.empty(4, device="meta"))
    model.register_buffer("sparse", torch.eye(3).to_sparse())
    held = dict(model.named_buffers())
    found = [one for one in fingerprints_of(model) if isinstance(one, TensorFingerprint)]
    assert {one.name: one.checksum for one in found} == {n: checksum(t) for n, t in held.items()}
    assert len({one.checksum for one in found}) > 0.9 * len(found)


def test_a_word_that_changes_place_changes_the_checksum() -> None:
    model = nn.Module()
    model.register_buffer("first", torch.tensor([1, 2, 3]))
    model.register_buffer("second", torch.tensor([2, 1, 3]))
    first, second, *_ = fingerprints_of(model)
    assert isinstance(first, TensorFingerprint) and isinstance(second, TensorFingerprint)
    assert first.checksum != second.checksum
