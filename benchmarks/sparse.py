"""Masks of single weights: the small model with the sparse kernels that were chosen, over the masked one.

Section `sparse`. Of all weights of linear layers and convolutions those of least magnitude, in units of
their layer's spread, are masked. Beside it run what torch offers by itself (`to_sparse_csr` on the weight of
each linear layer, and `F.linear`) and, where onnxruntime can be imported, the dense masked model in that. A
row says how many layers gain, the errors in float32 against float64 of both, on which share of the layers'
time a second measurement decides alike, and the bytes of the saved model beside the dense one's.

`--only` takes models, and also single rows, such as `bert_12_layers, 0.9, batch 8`.
"""

from __future__ import annotations

import copy
import io
import tempfile
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks import architectures
from benchmarks.clock import interleaved, repeats_within
from benchmarks.settings import Settings
from benchmarks.store import Row
from speedup import Choices, Plan, apply_masks, materialize, plan_speedup, save, tune
from speedup.ir.inputs import leaves_of

MLP, SMALL_MLP = "mlp_4x2048", "mlp_2x256"
MODELS = (MLP, architectures.BERT, "vit_b_16", "mobilenet_v2", "resnet50")
SPARSITIES = (0.8, 0.9, 0.95, 0.98)
BATCHES = (1, 8, 32)
_SECONDS = 12.0
_FEWEST_ROUNDS, _MOST_ROUNDS = 3, 15


def run(settings: Settings) -> None:
    """Measure every model at every sparsity and batch size; one row for each."""
    names = (SMALL_MLP,) if settings.smoke else MODELS
    for name in names:
        for sparsity in (0.9,) if settings.smoke else SPARSITIES:
            for batch in (8,) if settings.smoke else BATCHES:
                key = f"{name}, {sparsity:g}, batch {batch}"
                if not settings.only or name in settings.only or key in settings.only:
                    settings.measure("sparse", key, partial(_row, name, sparsity, batch, settings))


def unstructured(model: nn.Module, sparsity: float) -> dict[str, Tensor]:
    """Masks of the least magnitudes of all layers together, each layer's in units of its spread."""
    weights = {
        f"{path}.weight".lstrip("."): layer.weight.detach()
        for path, layer in model.named_modules()
        if isinstance(layer, nn.Linear | nn.Conv2d)
    }
    scores = {name: weight.abs() / weight.std() for name, weight in weights.items()}
    everything = torch.cat([score.flatten() for score in scores.values()])
    limit = everything.kthvalue(max(1, round(sparsity * everything.numel()))).values
    return {name: score > limit for name, score in scores.items()}


def _row(name: str, sparsity: float, batch: int, settings: Settings) -> Row:
    torch.set_num_threads(settings.threads)
    model, x = _built(name), _inputs(name, batch)
    masks = unstructured(model, sparsity)
    plan = plan_speedup(model, x, masks)
    masked = apply_masks(model, masks).eval()
    seconds = 0.05 if settings.smoke else _SECONDS / 2
    within = repeats_within(seconds, partial(_call, masked, x), least=_FEWEST_ROUNDS)
    measure = partial(tune, plan, x, threads=settings.threads, rounds=min(_MOST_ROUNDS, within.rounds))
    choices = measure()
    small = materialize(plan, choices=choices).eval()
    calls: dict[str, Callable[[], object]] = {
        kind: partial(_call, one, x) for kind, one in (("masked", masked), ("small", small))
    }
    latency = interleaved(calls, within, threads=settings.threads)
    return {
        "latency": latency,
        "others": _others(masked, x, settings),
        "layers": [len(choices.chosen), sum(bool(layer.candidates) for layer in choices.layers)],
        "layer_seconds": sum(layer.seconds for layer in choices.layers),
        "kernels": sorted({layer.kernel for layer in choices.chosen}),
        "errors": _errors(masked, small, x),
        "agreement": choices.agreement(measure()),
        "bytes": _bytes(plan, choices),
    }


def _built(name: str) -> nn.Module:
    if name not in (MLP, SMALL_MLP):
        return architectures.build(name)
    depth, width = (4, 2048) if name == MLP else (2, 256)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = (part for _ in range(depth) for part in (nn.Linear(width, width), nn.ReLU()))
        return nn.Sequential(*layers).eval()


def _inputs(name: str, batch: int) -> Any:
    if name not in (MLP, SMALL_MLP):
        return architectures.inputs(name, batch, 0)
    width = 2048 if name == MLP else 256
    return torch.randn(batch, width, generator=torch.Generator().manual_seed(0))


def _call(model: nn.Module, x: Any) -> Any:
    return model(**x) if isinstance(x, dict) else model(x)


def _others(masked: nn.Module, x: Any, settings: Settings) -> dict[str, Any]:
    """Latencies of the dense masked model again, beside what torch and ONNX Runtime make of it."""
    calls: dict[str, Callable[[], object]] = {"masked": partial(_call, masked, x)}
    calls["torch_csr"] = partial(_call, _with_csr(masked), x)
    if find_spec("onnxruntime") is not None and find_spec("onnxscript") is not None:
        calls["onnxruntime"] = _in_onnxruntime(masked, x, settings.threads)
    seconds = 0.05 if settings.smoke else _SECONDS / 3
    # The slowest of them as a rule.
    repeats = repeats_within(seconds, calls["torch_csr"], least=3)
    return interleaved(calls, repeats, threads=settings.threads)


class _CsrLinear(nn.Module):
    """What a user of torch alone writes."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.bias = layer.bias
        self.sparse = layer.weight.detach().to_sparse_csr()

    def forward(self, x: Tensor) -> Tensor:
        # It transposes the weight, which tensors of inference mode do not allow.
        with torch.inference_mode(mode=False), torch.no_grad():
            flat = x.reshape(-1, x.shape[-1]).clone()
            return F.linear(flat, self.sparse, self.bias).view(*x.shape[:-1], -1)


def _with_csr(masked: nn.Module) -> nn.Module:
    model = copy.deepcopy(masked)
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            # Others than plain layers are read by their parents, which do not take this.
            if type(child) is nn.Linear:
                setattr(parent, name, _CsrLinear(child))
    return model


def _in_onnxruntime(masked: nn.Module, x: Any, threads: int) -> Callable[[], object]:
    import onnxruntime

    args, kwargs = ((), x) if isinstance(x, dict) else ((x,), {})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.onnx")
        program = torch.onnx.export(masked, args, kwargs=kwargs, dynamo=True, verbose=False)
        assert program is not None
        program.save(path)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    given = list(x.values()) if isinstance(x, dict) else [x]
    names = [one.name for one in session.get_inputs()]
    feed = {name: one.numpy() for name, one in zip(names, given, strict=True)}
    return lambda: session.run(None, feed)


def _errors(masked: nn.Module, small: nn.Module, x: Any) -> dict[str, float]:
    """Largest differences, relative to the largest output: of both to float64, and of both in float64."""
    wide = {name: part.double() if part.is_floating_point() else part for name, part in _named(x).items()}
    wide_x = wide if isinstance(x, dict) else wide[""]
    with torch.inference_mode():
        wanted = _call(copy.deepcopy(masked).double(), wide_x)
        found = {"small": _call(small, x), "masked": _call(masked, x)}
        found["float64"] = _call(copy.deepcopy(small).double(), wide_x)
    return {name: _error(one, wanted) for name, one in found.items()}


def _named(x: Any) -> dict[str, Tensor]:
    return dict(x) if isinstance(x, dict) else {"": x}


def _error(found: Any, wanted: Any) -> float:
    pairs = zip(leaves_of(found), leaves_of(wanted), strict=True)
    tensors = [(a, b) for (_, a), (_, b) in pairs if isinstance(a, Tensor) and isinstance(b, Tensor)]
    return max(float((a.double() - b.double()).abs().max() / b.double().abs().max()) for a, b in tensors)


def _bytes(plan: Plan, choices: Choices) -> dict[str, int]:
    """Of the saved small model, as chosen and dense; the plan that is saved with it left out."""
    models = {"small": choices, "dense": None}
    text = len(io.BytesIO(plan.to_json().encode()).getvalue())
    sizes = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, chosen in models.items():
            path = Path(folder, f"{name}.safetensors")
            save(materialize(plan, verify="none", choices=chosen), plan, path)
            sizes[name] = path.stat().st_size - text
    return sizes
