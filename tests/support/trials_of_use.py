"""Trials of a model in Python: saved, copied, converted, run and trained."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from speedup.ir.inputs import tensors_of
from speedup.modules.copying import copy_module
from speedup.modules.reparametrized import as_planned
from tests.support.calling import arguments, cast, outputs, require_close
from tests.support.measure import MakeInputs

_BATCH_SIZES = (1, 3, 7)
_TRAINING_BATCH = 4
_ROUNDING = 1e-12
# Random networks of a hundred layers lose this much in single precision.
_SINGLE_PRECISION = 1e-3


def pickled(model: nn.Module, original: nn.Module, make_inputs: MakeInputs) -> None:
    """The whole module, by torch.save and torch.load."""
    _require_equal_models(model, _reloaded(model, weights_only=False), make_inputs)


def state_dict(model: nn.Module, original: nn.Module, make_inputs: MakeInputs) -> None:
    """The weights alone, loaded without pickled code into a copy that held others."""
    fresh = copy_module(model, {})
    with torch.no_grad():
        for tensor in (*fresh.parameters(), *_saved_buffers(fresh)):
            tensor.zero_()
    fresh.load_state_dict(_reloaded(model.state_dict(), weights_only=True))
    _require_equal_models(model, fresh, make_inputs)


def deep_copied(model: nn.Module, original: nn.Module, make_inputs: MakeInputs) -> None:
    copied = copy.deepcopy(model)
    shared = {t.data_ptr() for t in model.parameters()} & {t.data_ptr() for t in copied.parameters()}
    assert not shared - {0}, f"{len(shared)} parameters share storage with their copies"
    _require_equal_models(model, copied, make_inputs)


def other_dtype(model: nn.Module, original: nn.Module, make_inputs: MakeInputs) -> None:
    """`.to(torch.float32)`, as which all parameters and outputs come."""
    single, inputs = copy_module(model, {}).to(torch.float32), make_inputs(3, 1)
    found = outputs(single, cast(inputs, torch.float32))
    wide = {t.dtype for t in (*single.parameters(), *found) if t.is_floating_point()} - {torch.float32}
    assert not wide, f"some tensors are still {wide}"
    require_close(outputs(model, inputs), found, _SINGLE_PRECISION)


def batch_sizes(model: nn.Module, original: nn.Module, make_inputs: MakeInputs) -> None:
    """Batches of 1, 3 and 7, whose outputs have the original's shapes and dtypes."""
    for batch in _BATCH_SIZES:
        inputs = make_inputs(batch, batch)
        expected, found = ([(t.shape, t.dtype) for t in outputs(m, inputs)] for m in (original, model))
        assert expected == found, f"at batch {batch} the outputs are {found}, not {expected}"


def modes(model: nn.Module, original: nn.Module, make_inputs: MakeInputs) -> None:
    """`train()` and `eval()` reach every module, and leave the function as it was."""
    flipped = copy_module(model, {})
    for training in (True, False):
        flipped.train(training)
        others = [path for path, module in flipped.named_modules() if module.training is not training]
        assert not others, f"train({training}) did not reach {others[0]!r}"
    _require_equal_models(model, flipped, make_inputs)


def training_step(model: nn.Module, original: nn.Module, make_inputs: MakeInputs) -> None:
    """One step of SGD in train mode: every parameter that learns in the original learns, outputs move."""
    learner, inputs = copy_module(model, {}), make_inputs(_TRAINING_BATCH, 1)
    gradients = _gradients(learner, inputs)
    # What `torch.nn.utils` computed there is a plain weight here.
    alike = as_planned(original, dict(model.named_parameters())).model
    missing = _gradients(copy_module(alike, {}), inputs).keys() - gradients.keys()
    assert not missing, f"no gradient reaches {sorted(missing)}"
    infinite = [name for name, gradient in gradients.items() if not bool(gradient.isfinite().all())]
    assert not infinite, f"the gradients of {infinite} are not finite"
    before = outputs(learner.eval(), inputs)
    torch.optim.SGD(learner.parameters(), lr=1e-2).step()
    after = outputs(learner, inputs)
    moved = any(not torch.equal(one, other) for one, other in zip(before, after, strict=True))
    assert moved, "the step did not change the outputs"


USE_TRIALS: dict[str, Callable[[nn.Module, nn.Module, MakeInputs], None]] = {
    "pickle": pickled,
    "state_dict": state_dict,
    "deepcopy": deep_copied,
    "float32": other_dtype,
    "batches": batch_sizes,
    "modes": modes,
    "training": training_step,
}


def _gradients(model: nn.Module, inputs: Any) -> dict[str, Tensor]:
    """Gradients by parameter name after one backward pass in train mode, the same dropout every time."""
    args, kwargs = arguments(inputs)
    torch.manual_seed(0)
    results = tensors_of(model.train()(*args, **kwargs))
    loss = torch.stack([t.square().mean() for t in results if t.requires_grad]).sum()
    assert bool(loss.isfinite()), f"the loss is {float(loss)}"
    loss.backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def _reloaded(item: Any, weights_only: bool) -> Any:
    file = io.BytesIO()
    torch.save(item, file)
    file.seek(0)
    return torch.load(file, weights_only=weights_only)


def _saved_buffers(model: nn.Module) -> list[Tensor]:
    saved = model.state_dict().keys()
    return [buffer for name, buffer in model.named_buffers() if name in saved]


def _require_equal_models(model: nn.Module, other: nn.Module, make_inputs: MakeInputs) -> None:
    """Weights to the last bit; outputs to rounding, as LSTMs round by how their weights lie in memory."""
    expected, found = model.state_dict(), other.state_dict()
    assert expected.keys() == found.keys(), f"the weights differ in {sorted(expected.keys() ^ found.keys())}"
    changed = [name for name, tensor in expected.items() if not _same(tensor, found[name])]
    assert not changed, f"the weights {changed} differ"
    inputs = make_inputs(3, 1)
    require_close(outputs(model, inputs), outputs(other, inputs), _ROUNDING)


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return one.dtype == other.dtype and one.shape == other.shape and torch.equal(one, other)
    return bool(one == other)
