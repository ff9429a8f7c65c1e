"""Sets of indices as tests write them."""

from __future__ import annotations

import torch
from torch import Tensor


def bits(text: str) -> Tensor:
    """ "101" as a bool vector."""
    return torch.tensor([c == "1" for c in text], dtype=torch.bool)
