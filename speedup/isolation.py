"""Running a model without leaving traces: random state restored, internal warnings kept quiet."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def isolated() -> Iterator[None]:
    """Restore the global random state of the CPU and of all devices in use on leaving."""
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    with torch.random.fork_rng(devices=devices):
        yield


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the deprecation warnings that export's own internals raise from the user."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def unfused() -> Iterator[None]:
    """Keep torch.nn's transformer layers from the fused kernels that hide what they compute."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
