"""The README's commands and its example are what is run, word for word."""

from __future__ import annotations

import importlib.util
import re
import runpy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import speedup
from speedup.demo.cases import lenet
from tests.support.repository import README, ROOT, example_run_by


def _commands() -> Callable[[str], tuple[str, ...]]:
    spec = importlib.util.spec_from_file_location("readme_commands", ROOT / ".ci" / "readme_commands.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.commands


def test_readme_holds_two_commands_that_set_themselves_up() -> None:
    commands = _commands()(README)

    assert len(commands) == 2
    for command in commands:
        assert command.startswith("python3 -m venv .venv && .venv/bin/pip install")
        assert "-c constraints.txt" in command
    assert commands[0].endswith("speedup demo")
    assert "-m pytest" in commands[1]


def test_first_screen_is_a_sentence_an_install_line_an_example_a_figure_and_numbers() -> None:
    screen = README.split("\nFrom a checkout", 1)[0]
    blocks = re.findall(r"^```(\w+)\n", screen, re.MULTILINE)

    assert blocks == ["sh", "python", "text"]
    assert "pip install torch-speedup\n" in screen
    assert screen.count("\n") < 55
    assert len(re.findall(r"\*\*[\d.e%-]+\*\*", screen)) == 3
    last_command = README.index(_commands()(README)[1])
    assert README[:last_command].count("\n") < 70


def test_links_work_where_only_the_page_is() -> None:
    """The index shows the README alone: nothing relative can be followed or drawn there."""
    targets = re.findall(r"\]\(([^)]+)\)", README)
    headings = {
        re.sub(r"[^\w -]", "", line.lstrip("# ").lower()).replace(" ", "-")
        for line in README.splitlines()
        if line.startswith("#")
    }

    assert [target for target in targets if not target.startswith(("https://", "#"))] == []
    assert {target[1:] for target in targets if target.startswith("#")} <= headings


def test_every_python_block_is_run_or_has_said_why_not() -> None:
    """A block without a mark is a few lines that others complete; each is at least Python."""
    for mark, code in re.findall(r"^(.*)\n```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL):
        compile(code, "README.md", "exec")
        ran = re.search(r"run by (\S+)", mark)
        assert ran is None or (ROOT / ran[1]).is_file()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "```sh\ntrue\n```\n```sh\ntrue\n```\n",
        "<!-- run by .ci/run -->\n```sh\ntrue\n```\n",
        "<!-- run by .ci/run -->\n```sh\ntrue\n```\n" * 3,
        "<!-- run by .ci/run -->\n```sh\ntrue\ntrue\n```\n" * 2,
        "<!-- run by .ci/run -->\n```sh\n```\n" * 2,
        "<!-- run by .ci/run -->\nsome words\n```sh\ntrue\n```\n" * 2,
    ],
    ids=["none", "unmarked", "one", "three", "two lines", "empty", "not adjacent"],
)
def test_anything_but_two_one_line_commands_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"README\.md"):
        _commands()(text)


def test_first_example_runs_as_it_stands(capsys: pytest.CaptureFixture[str]) -> None:
    """Pasted into a new process it needs nothing but the package."""
    example = re.search(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    assert example is not None
    names: dict[str, object] = {}

    exec(example[1], names)

    small = names["small"]
    assert isinstance(small, nn.Sequential)
    assert [small[0].out_channels, small[3].out_channels] == [32, 64]
    assert "of the parameters" in capsys.readouterr().out


def test_what_is_said_of_saving_runs_as_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    example = re.search(r"^## Saving$.*?^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    assert example is not None
    case = lenet()
    plan = speedup.plan_speedup(case.model, case.inputs(1, seed=0), case.masks)
    small = speedup.materialize(plan)
    names: dict[str, object] = {"plan": plan, "small": small, "make_model": lambda: lenet().model}
    monkeypatch.chdir(tmp_path)

    exec(example[1], names)

    again = names["again"]
    assert isinstance(again, nn.Module)
    x = case.inputs(3, seed=1)
    assert torch.equal(again(x), small(x))


def test_sources_of_masks_run_as_they_stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    case = lenet()
    torch.save(case.masks, "masks.pth")
    layer = nn.TransformerEncoderLayer(8, 4, 16)
    names: dict[str, object] = {
        "model": case.model,
        "x": case.inputs(1, seed=0),
        "pruned": case.model,
        "zeroed": case.model,
        "vit": nn.ModuleDict({"encoder": nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)}),
    }

    exec(example_run_by(__file__, "masks_from_zeros"), names)

    masks = names["masks"]
    assert isinstance(masks, dict)
    assert int(masks["conv1.weight"].sum()) == 3


def test_plan_of_several_calls_runs_as_it_stands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    example = re.search(
        r"^## Several calls, every size$.*?^```python\n(.*?)^```$.*?^```text\n(.*?)^```$",
        README,
        re.MULTILINE | re.DOTALL,
    )
    assert example is not None
    (tmp_path / "example.py").write_text(example[1], encoding="utf-8")

    names = runpy.run_path(str(tmp_path / "example.py"))

    assert capsys.readouterr().out == example[2]
    model, small = names["model"], names["small"]
    assert isinstance(model, nn.Module) and isinstance(small, nn.Module)
    assert small.get_submodule("up").out_features == 24
    masked = speedup.apply_masks(model, names["masks"]).eval()
    for past, length in ((0, 3), (0, 12), (2, 1), (8, 1), (8, 30)):
        call = {"ids": torch.randint(100, (2, length)), "past": torch.randn(2, past, 16) if past else None}
        for small_one, masked_one in zip(small(**call), masked(**call), strict=True):
            torch.testing.assert_close(small_one, masked_one, rtol=1e-4, atol=1e-5)


def test_every_error_named_exists() -> None:
    for name in set(re.findall(r"`(\w+Error)`", README)) - {"ValueError", "TypeError", "KeyError"}:
        assert issubclass(getattr(speedup, name), speedup.SpeedupError)
