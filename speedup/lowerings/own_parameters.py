"""What a rewritten forward reads of its module: constants of channels that are not computed."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from itertools import count

import torch
from torch import Tensor

STREAM_BIAS = "stream_bias"
CONSTANT_ROWS = "constant_rows"
GATED_ROWS = "gated_rows"
BORDER_MAP = "border_map"

_STEMS = (STREAM_BIAS, CONSTANT_ROWS, GATED_ROWS, BORDER_MAP)


def own_names(stem: str) -> Iterator[str]:
    """What a module may call its parameters of one kind, in order."""
    return (stem if number == 1 else f"{stem}_{number}" for number in count(1))


def is_own_name(name: str) -> bool:
    """Whether it is one of `own_names`, of any kind."""
    return re.fullmatch(rf"({'|'.join(_STEMS)})(_\d+)?", name) is not None


def indices_told(constants: Tensor, kept: Tensor) -> Tensor:
    """Of all indices of a dimension (bool vector), those whose constant such a parameter holds.

    `constants` has a number for each of those that are `kept` (bool vector).
    """
    found = torch.zeros_like(kept)
    found[kept] = constants != 0
    return found


def is_own_parameter(node: ast.expr) -> bool:
    """Whether `node` reads what a plan may have given the module: not what it does, nor what others hold."""
    match node:
        case ast.Attribute(value=ast.Name(), attr=name):
            return is_own_name(name)
    return False
