"""ONNX: the small model exported, run by onnxruntime, beside the file of the full one."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from torch import nn

from speedup import apply_masks, materialize, plan_speedup
from speedup.demo.cases import resnet18
from speedup.recipes.made import Made


def run_in_onnxruntime() -> Made:
    """A masked ResNet-18 -> the small one's ONNX file, compared with the masked model in torch."""
    import onnxruntime

    case = resnet18()
    model, x = case.model.eval(), case.inputs(1, seed=0)
    plan = plan_speedup(model, x, case.masks)
    small = materialize(plan)

    with tempfile.TemporaryDirectory() as folder:
        before, after = Path(folder) / "full.onnx", Path(folder) / "small.onnx"
        sizes = _write_onnx(model, x, before), _write_onnx(small, x, after)
        session = onnxruntime.InferenceSession(after, providers=["CPUExecutionProvider"])
        (outputs,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})

    with torch.no_grad():
        return Made(plan, apply_masks(model, case.masks)(x), torch.from_numpy(outputs), sizes)


def _write_onnx(model: nn.Module, x: torch.Tensor, path: Path) -> float:
    """Write a model to one file; its size in 10^6 bytes."""
    torch.onnx.export(model, (x,), path, dynamo=True, external_data=False, verbose=False)
    return path.stat().st_size / 1e6
