"""Calls of the library that cannot work, each with the error that it must end in."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from attrs import frozen
from torch import Tensor, nn

from speedup import errors, materialize, plan_speedup
from speedup.measuring.latency import latency_table, measure_widths

X = torch.ones(2, 3, 8, 8)


@frozen
class Bad:
    """`call(model, folder)` must raise `error`, and its message hold all of `words`."""

    name: str
    error: type[errors.SpeedupError]
    words: tuple[str, ...]
    call: Callable[[nn.Module, Path], object]
    make: Callable[[], nn.Module] | None = None


class Net(nn.Module):
    """Two convolutions with a BatchNorm, a computed weight, a buffer and a plain tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.second = nn.Conv2d(6, 4, 3, bias=False)
        self.normed = nn.utils.parametrizations.weight_norm(nn.Linear(4, 5))
        self.scale = torch.ones(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.normed(self.second(self.norm(self.first(x)).relu()).mean((2, 3)) * self.scale)


class Raising(nn.Module):
    """Its forward raises whatever it was given."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 3)
        self.error = error

    def forward(self, x: Tensor) -> Tensor:
        raise self.error


def planned(x: Any = X, masks: Any = None, **options: Any) -> Callable[[nn.Module, Path], object]:
    """A call of `plan_speedup`."""
    return lambda model, folder: plan_speedup(model, x, masks, **options)


def masked(**masks: Any) -> Callable[[nn.Module, Path], object]:
    """A call with masks by parameter name, `__` standing for the dot."""
    return planned(masks={name.replace("__", "."): mask for name, mask in masks.items()})


def _changed(change: Callable[[nn.Module], object]) -> Callable[[nn.Module, Path], object]:
    """Materializing a model that changed since it was planned."""

    def call(model: nn.Module, folder: Path) -> object:
        plan = plan_speedup(model, X)
        change(model)
        return materialize(plan)

    return call


def _with_weight(value: float) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        model = Net()
        with torch.no_grad():
            model.first.weight[0, 0, 0, 0] = value
        return model

    return make


def _write_zeros(model: nn.Module) -> None:
    with torch.no_grad():
        model.get_parameter("first.weight").zero_()


def _swap_layer(model: nn.Module) -> None:
    model.second = nn.Conv2d(6, 4, 1, bias=False, device="meta")


def _with_hole(value: float, dtype: torch.dtype = torch.float32) -> Tensor:
    mask = torch.ones(6, 3, 3, 3, dtype=dtype)
    mask[1, 2, 0, 0] = value
    return mask


class Evil:
    """Whoever unpickles it runs code."""

    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("this must never run",)


def file_of(content: bytes, name: str = "masks.pth") -> Callable[[nn.Module, Path], object]:
    """A call with a mask file of these bytes."""

    def call(model: nn.Module, folder: Path) -> object:
        path = folder / name
        path.write_bytes(content)
        return plan_speedup(model, X, path)

    return call


def saved(content: object, cut: int | None = None) -> bytes:
    """What `torch.save` writes, up to byte `cut`."""
    stream = io.BytesIO()
    torch.save(content, stream)
    return stream.getvalue()[:cut]


def safetensors_of(tensors: dict[str, Tensor], cut: int | None = None) -> bytes:
    """What safetensors writes, up to byte `cut`."""
    from safetensors.torch import save

    return save(tensors)[:cut]


GOOD = {"first.weight": torch.ones(6, 1, 1, 1)}

INPUTS = (
    Bad("no input", errors.InputError, ("NoneType", "pass what the forward takes"), planned(None)),
    Bad("a number", errors.InputError, ("int", "a tensor"), planned(3)),
    Bad("no tensor in it", errors.InputError, ("holds no tensor", "torch.randn"), planned((1, 2))),
    Bad("an empty tuple", errors.InputError, ("holds no tensor",), planned(())),
    Bad("too many channels", errors.ExportError, ("first", "Conv2d"), planned(torch.ones(2, 5, 8, 8))),
    Bad(
        "another dtype",
        errors.ExportError,
        ("first", "types have to go with those of the model's parameters (float32), as after x.to"),
        planned(X.double()),
    ),
    Bad(
        "model and input the wrong way round",
        errors.ModelError,
        ("the model is Tensor", "plan_speedup(model, x)"),
        lambda m, f: plan_speedup(X, m),  # type: ignore[arg-type]
    ),
    Bad(
        "what holds a model",
        errors.ModelError,
        ("SimpleNamespace", "pass its .model, a Net"),
        lambda m, f: plan_speedup(SimpleNamespace(model=m), X),  # type: ignore[arg-type]
    ),
    Bad(
        "measured on a device that is not there",
        errors.InputError,
        ("device='cuda:63' cannot be measured on", "'cpu'"),
        lambda m, f: latency_table(plan_speedup(m, X), device="cuda:63"),
    ),
    Bad(
        "measured on no device",
        errors.InputError,
        ("device='gpu' cannot be measured on",),
        lambda m, f: measure_widths(plan_speedup(m, X), device="gpu"),
    ),
    Bad("another rank", errors.ExportError, ("first", "[7]"), planned(torch.ones(7))),
    Bad("an unknown keyword", errors.ExportError, ("'y'",), planned({"y": X})),
    Bad("an argument too many", errors.ExportError, ("Net",), planned((X, X))),
    Bad(
        "keep of no module",
        errors.UnknownModuleError,
        ("'secnd'", "did you mean 'second'"),
        planned(keep=["secnd"]),
    ),
    Bad(
        "verify of no level",
        errors.InputError,
        ("'fast'", "structure"),
        lambda m, f: materialize(plan_speedup(m, X), verify="fast"),  # type: ignore[arg-type]
    ),
    Bad(
        "explain of no module",
        errors.UnknownModuleError,
        ("'third'",),
        lambda m, f: plan_speedup(m, X).explain("third"),
    ),
)
MODELS = (
    Bad("a function", errors.ModelError, ("function",), lambda m, f: plan_speedup(torch.relu, X)),  # type: ignore[arg-type]
    Bad("a class", errors.ModelError, ("class Net", "Net(...)"), lambda m, f: plan_speedup(Net, X)),  # type: ignore[arg-type]
    Bad(
        "a script module",
        errors.ModelError,
        ("Script",),
        planned(),
        lambda: torch.jit.script(nn.Sequential(nn.Conv2d(3, 4, 1))),
    ),
    Bad(
        "an uninitialised layer",
        errors.ModelError,
        ("run the model once",),
        planned(),
        lambda: nn.Sequential(nn.LazyConv2d(4, 1)),
    ),
    Bad(
        "a weight that is NaN",
        errors.NonFiniteWeightError,
        ("'first.weight'", "finite"),
        planned(),
        _with_weight(float("nan")),
    ),
    Bad(
        "a weight that is inf",
        errors.NonFiniteWeightError,
        ("'first.weight'", "Repair"),
        planned(),
        _with_weight(float("-inf")),
    ),
    Bad(
        "a forward that raises",
        errors.ExportError,
        ("Raising", "out of order"),
        planned(),
        lambda: Raising(ValueError("out of order")),
    ),
    Bad("a forward that is missing", errors.ExportError, ("Module",), planned(), nn.Module),
    Bad(
        "a forward that runs out of memory",
        errors.ExportError,
        ("Raising",),
        planned(),
        lambda: Raising(MemoryError("no room")),
    ),
    Bad(
        "weights that changed",
        errors.StaleModelError,
        ("first.weight", "Plan it again"),
        _changed(_write_zeros),
    ),
    Bad("a layer that was swapped", errors.StaleModelError, ("second",), _changed(_swap_layer)),
    Bad("a layer that is gone", errors.StaleModelError, ("norm",), _changed(lambda m: delattr(m, "norm"))),
    Bad("a dtype that changed", errors.StaleModelError, ("first.weight",), _changed(lambda m: m.double())),
)
MASKS = (
    Bad("masks of no kind", errors.MaskError, ("list",), planned(masks=[1, 2])),
    Bad("a name that is a number", errors.MaskError, ("int",), planned(masks={3: torch.ones(6)})),
    Bad(
        "an unknown module",
        errors.UnknownNameError,
        ("'frst'", "did you mean 'first'"),
        planned(masks={"frst": {"weight": torch.ones(6)}}),
    ),
    Bad(
        "an unknown parameter",
        errors.UnknownNameError,
        ("'weigth'", "did you mean"),
        masked(first__weigth=torch.ones(6)),
    ),
    Bad(
        "a module's name for a tensor",
        errors.UnknownNameError,
        ("it is a module",),
        masked(first=torch.ones(6)),
    ),
    Bad(
        "a bias that is None",
        errors.UnknownNameError,
        ("made without 'bias'",),
        masked(second__bias=torch.ones(4)),
    ),
    Bad("a buffer", errors.MaskTargetError, ("a buffer",), masked(norm__running_mean=torch.ones(6))),
    Bad("a plain tensor", errors.MaskTargetError, ("a plain tensor attribute",), masked(scale=torch.ones(4))),
    Bad(
        "a computed weight",
        errors.MaskTargetError,
        ("computed", "parametrizations.weight.original"),
        masked(normed__weight=torch.ones(5, 4)),
    ),
    Bad(
        "another shape",
        errors.MaskShapeError,
        ("(5, 3, 3, 3)", "(6, 3, 3, 3)"),
        masked(first__weight=torch.ones(5, 3, 3, 3)),
    ),
    Bad(
        "another rank",
        errors.MaskShapeError,
        ("mask.reshape(6, 1, 1, 1)",),
        masked(first__weight=torch.ones(6)),
    ),
    Bad(
        "too many dimensions",
        errors.MaskShapeError,
        ("'norm.weight'",),
        masked(norm__weight=torch.ones(6, 1)),
    ),
    Bad(
        "NaN", errors.MaskValueError, ("nan", "(1, 2, 0, 0)"), masked(first__weight=_with_hole(float("nan")))
    ),
    Bad("inf", errors.MaskValueError, ("inf",), masked(first__weight=_with_hole(float("inf")))),
    Bad("a half", errors.MaskValueError, ("0.5", "Binarise"), masked(first__weight=_with_hole(0.5))),
    Bad("minus one", errors.MaskValueError, ("-1",), masked(first__weight=_with_hole(-1.0))),
    Bad(
        "an integer above one",
        errors.MaskValueError,
        ("7",),
        masked(first__weight=_with_hole(7, torch.int64)),
    ),
    Bad("text", errors.MaskError, ("str",), masked(first__weight="all")),
    Bad("a ragged list", errors.MaskError, ("list",), masked(norm__weight=[[1], [0, 1]])),
    Bad(
        "another device",
        errors.MaskDeviceError,
        ("'meta'", "'cpu'"),
        masked(first__weight=torch.ones(6, 3, 3, 3, device="meta")),
    ),
)
MASK_FILES = (
    Bad(
        "no such file",
        errors.MaskFileError,
        ("no_such.pth",),
        lambda m, f: plan_speedup(m, X, f / "no_such.pth"),
    ),
    Bad("a folder", errors.MaskFileError, ("mask file",), lambda m, f: plan_speedup(m, X, f)),
    Bad("an empty file", errors.MaskFileError, ("masks.pth",), file_of(b"")),
    Bad("noise", errors.MaskFileError, ("masks.pth",), file_of(bytes(range(256)) * 4)),
    Bad("a truncated file", errors.MaskFileError, ("masks.pth",), file_of(saved(GOOD, 400))),
    Bad(
        "a pickle that runs code",
        errors.MaskFileError,
        ("refused", "torch.save"),
        file_of(saved({"first.weight": Evil()})),
    ),
    Bad("a bare pickle", errors.MaskFileError, ("masks.pth",), file_of(pickle.dumps(Evil()))),
    Bad("a whole model", errors.MaskFileError, ("refused",), file_of(saved(nn.Linear(2, 2)))),
    Bad("a list", errors.MaskFileError, ("list", "no dict"), file_of(saved([torch.ones(6)]))),
    Bad("a tensor", errors.MaskFileError, ("Tensor", "no dict"), file_of(saved(torch.ones(6)))),
    Bad(
        "NaN in a file",
        errors.MaskValueError,
        ("nan",),
        file_of(saved({"first.weight": _with_hole(float("nan"))})),
    ),
    Bad(
        "masks of another model",
        errors.UnknownNameError,
        ("'layer1.weight'",),
        file_of(saved({"layer1.weight": torch.ones(3)})),
    ),
    Bad(
        "truncated safetensors",
        errors.MaskFileError,
        ("m.safetensors",),
        file_of(safetensors_of(GOOD, 30), "m.safetensors"),
    ),
    Bad(
        "noise as safetensors",
        errors.MaskFileError,
        ("m.safetensors",),
        file_of(b"\xff" * 64, "m.safetensors"),
    ),
    Bad(
        "safetensors under another name", errors.MaskFileError, ("masks.pth",), file_of(safetensors_of(GOOD))
    ),
)

GROUPS = {"input": INPUTS, "model": MODELS, "mask": MASKS, "mask file": MASK_FILES}
