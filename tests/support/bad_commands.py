"""Command lines that cannot work, each with the exit code and the words of its one line."""

from __future__ import annotations

from pathlib import Path

import torch
from attrs import frozen

from speedup.cli.app import BAD_INPUT, FAILED
from tests.support.bad_calls import Evil, safetensors_of, saved

NETS = '''
import torch
from torch import nn

NUMBER = 3


def make():
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3))


def needs(width):
    return nn.Conv2d(3, width, 3)


def breaks():
    raise RuntimeError("no\\nsuch luck")


def text():
    return "a model"


class Raising(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(3, 3)

    def forward(self, x):
        raise ValueError("out of order")


class Branching(nn.Module):
    """With a gain it has one layer more."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 4, 3)
        self.side = nn.Conv2d(6, 6, 1)

    def forward(self, x, gain=None):
        x = torch.sigmoid(self.first(x))
        if gain is not None:
            x = x * gain + self.side(x)
        return self.last(x)


class Unstable(nn.Sequential):
    """What it computes changes from call to call."""

    calls = 0

    def forward(self, x):
        type(self).calls += 1
        return super().forward(x) * self.calls


def unstable():
    return Unstable(nn.Conv2d(3, 6, 3), nn.Conv2d(6, 4, 3))
'''


@frozen
class BadCommand:
    """`speedup ARGUMENTS` must end in `code` with one line that holds all of `words`.

    `{folder}` in the arguments is where `fill` has put the files.
    """

    arguments: str
    words: tuple[str, ...]
    code: int = BAD_INPUT


def fill(folder: Path) -> None:
    """Put the files that the command lines name into `folder`."""
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 6, 3), torch.nn.ReLU(), torch.nn.Conv2d(6, 4, 3))
    state = model.state_dict()
    (folder / "nets.py").write_text(NETS, encoding="utf-8")
    (folder / "broken.py").write_text("def make(:\n", encoding="utf-8")
    (folder / "state.pt").write_bytes(saved(state))
    (folder / "other.pt").write_bytes(saved({"fc.weight": torch.ones(2, 2)}))
    (folder / "cut.pt").write_bytes(saved(state, 300))
    (folder / "evil.pt").write_bytes(saved({"0.weight": Evil()}))
    (folder / "list.pt").write_bytes(saved([1, 2]))
    (folder / "cut.safetensors").write_bytes(safetensors_of(state, 40))
    (folder / "plain.safetensors").write_bytes(safetensors_of(state))
    (folder / "masks.pth").write_bytes(
        saved({"0.weight": torch.tensor([1, 0, 1, 0, 1, 1]).reshape(6, 1, 1, 1)})
    )
    (folder / "nan.pth").write_bytes(saved({"0.weight": torch.full((6, 1, 1, 1), float("nan"))}))
    (folder / "foreign.pth").write_bytes(saved({"conv9.weight": torch.ones(3)}))


_NET = "plan {folder}/nets.py:make --input 1x3x8x8"

ALL = {
    "no colon": BadCommand("plan torchvision.models --input 1x3x8x8", ("package.module:factory",)),
    "no factory": BadCommand("plan torchvision.models: --input 1x3x8x8", ("package.module:factory",)),
    "no such file": BadCommand("plan {folder}/none.py:make --input 1x3x8x8", ("there is no file", "none.py")),
    "no such module": BadCommand("plan no.such.module:make --input 1x3x8x8", ("ModuleNotFoundError", "'no'")),
    "no such name": BadCommand("plan {folder}/nets.py:mkae --input 1x3x8x8", ("'mkae'", "make")),
    "source that does not parse": BadCommand(
        "plan {folder}/broken.py:make --input 1x3x8x8", ("SyntaxError",)
    ),
    "not callable": BadCommand("plan {folder}/nets.py:NUMBER --input 1x3x8x8", ("'NUMBER' is int",)),
    "needs arguments": BadCommand("plan {folder}/nets.py:needs --input 1x3x8x8", ("TypeError", "width")),
    "a factory that raises": BadCommand(
        "plan {folder}/nets.py:breaks --input 1x3x8x8", ("RuntimeError: no",)
    ),
    "not a module": BadCommand("plan {folder}/nets.py:text --input 1x3x8x8", ("returned str",)),
    "a forward that raises": BadCommand("plan {folder}/nets.py:Raising --input 1x3", ("out of order",)),
    "a shape that is none": BadCommand("plan {folder}/nets.py:make --input 1,3,8,8", ("1x3x224x224",)),
    "a type that is none": BadCommand(_NET + ":float3", ("'float3'", "float32")),
    "a bound for floats": BadCommand(_NET + ":float32:9", ("a bound is for integers",)),
    "a bound of nothing": BadCommand(_NET + ":int64:0", ("below 0",)),
    "a shape that does not fit": BadCommand("plan {folder}/nets.py:make --input 1x5x8x8", ("Conv2d",)),
    "named and not named": BadCommand(_NET + " --input mask=1x8", ("name all inputs",)),
    "named twice": BadCommand(
        "plan {folder}/nets.py:make --input x=1x3x8x8 --input x=1x3x8x8", ("'x' is given twice",)
    ),
    "a name too late": BadCommand("plan {folder}/nets.py:make --input x=1x8 --input 1x8", ("comes after",)),
    "inputs from no file": BadCommand(
        "plan {folder}/nets.py:make --input {folder}/none.pt", ("no such file",)
    ),
    "inputs from a list": BadCommand(
        "plan {folder}/nets.py:make --input {folder}/list.pt", ("keyword arguments",)
    ),
    "a call of nothing": BadCommand(_NET + " --call ;", ("a call has no inputs", "--call")),
    "a call that is none": BadCommand(_NET + " --call 1,3,9,9", ("call '1,3,9,9': input", "1x3x224x224")),
    "a call of a type that is none": BadCommand(
        _NET + " --call 1x3x9x9 --call 1x3x8x8;1x3:int3", ("call '1x3x8x8;1x3:int3'", "'int3'")
    ),
    "a call that names an input twice": BadCommand(
        _NET + " --call x=1x3x8x8;x=1x3", ("call 'x=", "'x' is given twice")
    ),
    "a call named and not named": BadCommand(_NET + " --call 1x3x8x8;y=1x3", ("call ", "name all inputs")),
    "a call from no file": BadCommand(_NET + " --call {folder}/none.pt", ("call ", "no such file")),
    "a call from a list": BadCommand(_NET + " --call {folder}/list.pt", ("call ", "keyword arguments")),
    "a call that the model does not take": BadCommand(_NET + " --call 1x5x8x8", ("Conv2d",)),
    "a call of a report that is none": BadCommand(
        "report {folder}/nets.py:make --input 1x3x8x8 --call what --out {folder}/report.html",
        ("call 'what'",),
    ),
    "a call to compact that is none": BadCommand(
        "compact {folder}/nets.py:make --input 1x3x8x8 --call what --out {folder}/s.safetensors",
        ("call 'what'",),
    ),
    "a call to measure that is none": BadCommand(
        "bench {folder}/nets.py:make --input 1x3x8x8 --call what", ("call 'what'",)
    ),
    "a call with nothing behind it": BadCommand(_NET + " --call", ("--call",)),
    "no input": BadCommand("plan {folder}/nets.py:make", ("--input",)),
    "weights missing": BadCommand(_NET + " --weights {folder}/none.pt", ("there is no such file",)),
    "weights cut off": BadCommand(_NET + " --weights {folder}/cut.pt", ("cut.pt", "cannot be read")),
    "weights that run code": BadCommand(_NET + " --weights {folder}/evil.pt", ("refused",)),
    "weights that are a list": BadCommand(_NET + " --weights {folder}/list.pt", ("list", "no state dict")),
    "weights of another model": BadCommand(
        _NET + " --weights {folder}/other.pt", ("do not fit", "Sequential")
    ),
    "safetensors cut off": BadCommand(_NET + " --weights {folder}/cut.safetensors", ("cannot be read",)),
    "masks missing": BadCommand(_NET + " --masks {folder}/none.pth", ("none.pth",)),
    "masks with NaN": BadCommand(_NET + " --masks {folder}/nan.pth", ("nan", "Binarise")),
    "masks of another model": BadCommand(_NET + " --masks {folder}/foreign.pth", ("'conv9.weight'",)),
    "masks that run code": BadCommand(_NET + " --masks {folder}/evil.pt", ("refused",)),
    "keep of no module": BadCommand(_NET + " --keep 9", ("'9'",)),
    "align to nothing": BadCommand(_NET + " --align 0", ("--align",)),
    "explain of no module": BadCommand(_NET + " --explain layer9", ("'layer9'",)),
    "a plan into no folder": BadCommand(_NET + " --out {folder}/none/plan.json", ("none",)),
    "a plan into a file of tensors": BadCommand(_NET + " --out {folder}/plan.pt", ("plan.pt", ".json")),
    "a small model into a pickle": BadCommand(
        "compact {folder}/nets.py:make --input 1x3x8x8 --out {folder}/s.pt", ("s.pt", ".safetensors")
    ),
    "a device that is none": BadCommand(_NET + " --device nowhere", ("'nowhere'", "cpu")),
    "a floating-point type that is none": BadCommand(_NET + " --dtype int8", ("'int8'", "float64")),
    "a model into no folder": BadCommand(
        "compact {folder}/nets.py:make --input 1x3x8x8 --out {folder}/none/small.safetensors", ("none",)
    ),
    "a level that is none": BadCommand(
        "compact {folder}/nets.py:make --input 1x3x8x8 --verify fast --out {folder}/s.safetensors",
        ("'fast'",),
    ),
    "an output that is not equivalent": BadCommand(
        "compact {folder}/nets.py:unstable --input 1x3x8x8 --out {folder}/o.safetensors",
        ("what was planned",),
        FAILED,
    ),
    "a report of another kind": BadCommand(
        "report {folder}/nets.py:make --input 1x3x8x8 --out {folder}/report.docx", (".docx", ".html")
    ),
    "a model that is missing": BadCommand(
        "verify {folder}/nets.py:make {folder}/none.safetensors", ("none",)
    ),
    "a file without a plan": BadCommand("verify {folder}/nets.py:make {folder}/plain.safetensors", ("plan",)),
    "a small model cut off": BadCommand("verify {folder}/nets.py:make {folder}/cut.safetensors", ("cut",)),
}
USAGE = ("no input", "align to nothing", "a call with nothing behind it")
