"""Weights that torch.nn.utils computes in the older way, by hooks."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

from torch import nn


def hooked(name: str) -> Callable[..., nn.Module]:
    """The function `name` of torch.nn.utils without its warning that there is a newer one."""

    def wrap(module: nn.Module, **options: Any) -> nn.Module:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result: nn.Module = getattr(nn.utils, name)(module, **options)
            return result

    return wrap
