"""Plans, files and mask makers that are asked for what cannot be, each with the error that it must end in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from speedup import Plan, errors, load, make_masks, masks_from_heads, materialize, plan_speedup, save
from speedup.pruners import Norm
from tests.support.bad_calls import GOOD, Bad, Net, X, planned, safetensors_of


def _fresh(make: Callable[[], nn.Module]) -> nn.Module:
    """Another one, made without drawing from the random numbers of the process."""
    with torch.random.fork_rng(devices=[]):
        return make()


def _text(change: Callable[[str], str]) -> Callable[[nn.Module, Path], object]:
    """Reading a plan whose text was changed."""
    return lambda model, folder: Plan.from_json(change(plan_speedup(model, X).to_json()))


def _read_back(model: nn.Module) -> Plan:
    return Plan.from_json(plan_speedup(model, X, {"first.weight": _rows()}).to_json())


def _rows() -> Tensor:
    return (torch.arange(6) > 1).reshape(6, 1, 1, 1)


def _loaded(
    make: Callable[[], Any], change: Callable[[bytes], bytes] = bytes
) -> Callable[[nn.Module, Path], object]:
    """Loading a saved model, the file's content changed before."""

    def call(model: nn.Module, folder: Path) -> object:
        plan, path = plan_speedup(model, X, {"first.weight": _rows()}), folder / "m.safetensors"
        save(materialize(plan, verify="none"), plan, path)
        path.write_bytes(change(path.read_bytes()))
        return load(path, make)

    return call


def _saved_with(plan_of: Callable[[nn.Module], Plan], *parts: str) -> Callable[[nn.Module, Path], object]:
    return lambda m, f: save(materialize(plan_speedup(m, X), verify="none"), plan_of(m), f.joinpath(*parts))


def _instance() -> Any:
    """A model in the place of what makes one."""
    return _fresh(Net)


class Wider(Net):
    """Of another architecture."""

    def __init__(self) -> None:
        super().__init__()
        self.second = nn.Conv2d(6, 4, 5, bias=False)


PLANS = (
    Bad(
        "a model in the place of its class",
        errors.ModelError,
        ("make_model is a Net", "such as its class"),
        lambda m, f: load(f / "m.safetensors", _instance()),
    ),
    Bad(
        "a state in the place of a class",
        errors.ModelError,
        ("make_model is a dict",),
        lambda m, f: load(f / "m.safetensors", {}),  # type: ignore[arg-type]
    ),
    Bad("no text", errors.PlanFormatError, ("truncated",), lambda m, f: Plan.from_json("")),
    Bad("no JSON", errors.PlanFormatError, ("JSON",), lambda m, f: Plan.from_json("plan: yes")),
    Bad("something else", errors.PlanFormatError, ("speedup.plan",), lambda m, f: Plan.from_json("[1, 2]")),
    Bad("half of a plan", errors.PlanFormatError, ("truncated",), _text(lambda text: text[: len(text) // 2])),
    Bad(
        "another version",
        errors.PlanFormatError,
        ("version", "99"),
        _text(lambda text: text.replace('"version": 6', '"version": 99')),
    ),
    Bad(
        "a part that is missing",
        errors.PlanFormatError,
        ("edits",),
        _text(lambda text: text.replace('"edits"', '"changes"')),
    ),
    Bad(
        "no model",
        errors.UnboundPlanError,
        ("materialize(plan, model",),
        lambda m, f: materialize(_read_back(m)),
    ),
    Bad(
        "another architecture",
        errors.ArchitectureError,
        ("second.weight",),
        lambda m, f: materialize(_read_back(m), _fresh(Wider)),
    ),
    Bad(
        "other weights",
        errors.OtherWeightsError,
        ("weights", "plan this model again"),
        lambda m, f: materialize(_read_back(m), _fresh(Net)),
    ),
    Bad(
        "a report of another kind",
        errors.ReportFormatError,
        (".docx", ".html"),
        lambda m, f: plan_speedup(m, X).write_report(f / "plan.docx"),
    ),
    Bad(
        "a report into no folder",
        errors.FileWriteError,
        ("none",),
        lambda m, f: plan_speedup(m, X).write_report(f / "none" / "plan.html"),
    ),
    Bad("an alignment to nothing", errors.InputError, ("align", "0"), planned(align=0)),
)
SAVED = (
    Bad(
        "a folder that is missing",
        errors.FileWriteError,
        ("none",),
        _saved_with(lambda m: plan_speedup(m, X), "none", "s"),
    ),
    Bad(
        "the plan of another model",
        errors.SavedModelError,
        ("first.weight", "own small model"),
        _saved_with(lambda m: plan_speedup(m, X, {"first.weight": _rows()}), "m.safetensors"),
    ),
    Bad(
        "a file that is missing",
        errors.SavedModelError,
        ("no.safetensors",),
        lambda m, f: load(f / "no.safetensors", Net),
    ),
    Bad(
        "a file cut off", errors.SavedModelError, ("truncated",), _loaded(Net, lambda content: content[:-40])
    ),
    Bad(
        "a header cut off",
        errors.SavedModelError,
        ("truncated",),
        _loaded(Net, lambda content: content[:100]),
    ),
    Bad(
        "a file without a plan",
        errors.SavedModelError,
        ("no plan",),
        _loaded(Net, lambda content: safetensors_of(GOOD)),
    ),
    Bad("a constructor of another model", errors.ArchitectureError, ("second",), _loaded(Wider)),
    Bad("a constructor of no model", errors.ModelError, ("make_model",), _loaded(lambda: None)),
)
MAKERS = (
    Bad("a share above one", errors.PruningError, ("2.0",), lambda m, f: make_masks(m, X, Norm(), 2.0)),
    Bad(
        "a share for no layer",
        errors.UnknownModuleError,
        ("third",),
        lambda m, f: make_masks(m, X, Norm(), {"third": 0.5}),
    ),
    Bad(
        "heads of no module",
        errors.UnknownNameError,
        ("third",),
        lambda m, f: masks_from_heads(m, {"third": [0]}),
    ),
    Bad(
        "heads of a convolution",
        errors.MaskError,
        ("first",),
        lambda m, f: masks_from_heads(m, {"first": [0]}),
    ),
)
GROUPS = {"plan": PLANS, "file": SAVED, "maker": MAKERS}
