"""Random numbers of each kind, with whole channels that are 0 or the same, as rules look for them."""

from __future__ import annotations

import torch
from torch import Tensor

Shape = tuple[int, ...]
LEVELS = torch.tensor([0.0, 0.0, 0.5, 1.0, -1.5], dtype=torch.float64)


def mixed(shape: Shape, generator: torch.Generator) -> Tensor:
    """Normal numbers; a few levels; channels of 0 or of a level; or nothing but 0."""
    style = int(torch.randint(4, (), generator=generator))
    if style == 0:
        drawn = torch.randn(shape, generator=generator, dtype=torch.float64)
        return drawn * (torch.rand(shape, generator=generator) > 0.4)
    if style == 1:
        return LEVELS[torch.randint(5, shape, generator=generator)]
    if style == 2:
        return torch.zeros(shape, dtype=torch.float64)
    dim = int(torch.randint(max(len(shape), 1), (), generator=generator))
    extents = [n if d == dim else 1 for d, n in enumerate(shape)]
    drawn = torch.randn(shape, generator=generator, dtype=torch.float64)
    kept = torch.rand(extents, generator=generator) > 0.5
    return torch.where(kept, drawn, LEVELS[torch.randint(5, extents, generator=generator)])


def mixed_integers(shape: Shape, generator: torch.Generator) -> Tensor:
    """Small integers from 0 on."""
    return (mixed(shape, generator).abs() * 2).round().to(torch.int64)


def mixed_flags(shape: Shape, generator: torch.Generator) -> Tensor:
    """Booleans."""
    return mixed(shape, generator) > 0


def mixed_pairs(shape: Shape, generator: torch.Generator) -> Tensor:
    """Complex numbers."""
    return torch.complex(mixed(shape, generator), mixed(shape, generator))


def shares(shape: Shape, generator: torch.Generator) -> Tensor:
    """Numbers between 0 and 1."""
    return torch.rand(shape, generator=generator, dtype=torch.float64)


def definite(shape: Shape, generator: torch.Generator) -> Tensor:
    """Symmetric, positive definite matrices in the last two dimensions."""
    # A sampler is asked for a vector to see its dtype.
    root = mixed(shape if len(shape) > 1 else (*shape, 1), generator)
    return root @ root.mT + torch.eye(root.shape[-2], dtype=torch.float64)


def within(shape: Shape, generator: torch.Generator) -> Tensor:
    """Numbers between -1 and 1, such as positions in a picture."""
    return torch.rand(shape, generator=generator, dtype=torch.float64) * 2 - 1


def signs(shape: Shape, generator: torch.Generator) -> Tensor:
    """1 or -1."""
    return torch.randint(2, shape, generator=generator).double() * 2 - 1


def regions(shape: Shape, generator: torch.Generator) -> Tensor:
    """Boxes (n, 5) in pictures of 4 x 4 or more: which of two pictures, then left, top, right, bottom."""
    drawn = torch.randint(5, shape, generator=generator).double()
    drawn[..., 0] %= 2
    return drawn
