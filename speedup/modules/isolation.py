"""Running a model without leaving traces or making in vain: random state restored, messages kept quiet."""

from __future__ import annotations

import io
import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr

import torch

from speedup.torch_api import fx_config, use_lazy_graph_module


@contextmanager
def isolated() -> Iterator[None]:
    """Restore the global random state of the CPU and of all devices in use on leaving."""
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    with torch.random.fork_rng(devices=devices):
        yield


@contextmanager
def quiet() -> Iterator[None]:
    """Keep what export's own internals have to say from the user: warnings, and log messages and
    graphs on stderr when a model cannot be exported. The error that it raises says enough.
    """
    silenced = logging.root.manager.disable
    with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.disable(max(silenced, logging.ERROR))
        try:
            yield
        finally:
            logging.disable(silenced)


@contextmanager
def unfused() -> Iterator[None]:
    """Keep torch.nn's transformer layers from the fused kernels that hide what they compute."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


@contextmanager
def uncompiled() -> Iterator[None]:
    """Let what a forward has compiled, flex_attention too, run as it is written: a compiler would compile
    those who watch the forward along with it.
    """
    # Where neither is loaded nothing is compiled, and what sets the stance takes seconds to load.
    if not any(name in sys.modules for name in ("torch._dynamo", "torch.nn.attention.flex_attention")):
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield


@contextmanager
def lean() -> Iterator[None]:
    """Keep export from making what nobody here reads: stack traces of nodes, source of graph modules.

    They are a quarter of its time.
    """
    before = fx_config.do_not_emit_stack_traces
    fx_config.do_not_emit_stack_traces = True
    try:
        with use_lazy_graph_module(True):
            yield
    finally:
        fx_config.do_not_emit_stack_traces = before
