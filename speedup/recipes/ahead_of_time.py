"""torch.export and AOTInductor: a package of compiled code that runs without the model's own."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from torch import nn

from speedup import apply_masks, make_masks, materialize, plan_speedup
from speedup.demo.networks import LeNet
from speedup.pruners import Norm
from speedup.recipes.made import Made
from speedup.torch_api import compile_package, load_package


def compile_ahead() -> Made:
    """A masked LeNet -> a compiled package of the small one; needs a C++ compiler."""
    model, x = LeNet().eval(), torch.randn(1, 1, 28, 28)
    masks = make_masks(model, x, Norm(), 0.5)
    plan = plan_speedup(model, x, masks)
    small = materialize(plan)

    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        before, after = (_package(m, x, Path(folder) / f"{n}.pt2") for n, m in enumerate((model, small)))
        outputs = load_package(str(after))(x)
        sizes = before.stat().st_size / 1e6, after.stat().st_size / 1e6
    return Made(plan, apply_masks(model, masks)(x).detach(), outputs, sizes)


def _package(model: nn.Module, x: torch.Tensor, path: Path) -> Path:
    compile_package(torch.export.export(model, (x,)), package_path=str(path))  # torch._inductor's
    return path
