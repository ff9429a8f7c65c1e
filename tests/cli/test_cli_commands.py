"""What the commands do with a model, its weights and a mask file."""

from __future__ import annotations

import ast
import importlib
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from typer.testing import CliRunner

from speedup import (
    Choices,
    Plan,
    apply_masks,
    load,
    load_plan,
    masks_from_file,
    materialize,
    plan_speedup,
    save,
)
from speedup.cli import app
from speedup.cli.examples import call_of
from speedup.cli.placing import placed_call, placed_model
from speedup.sparse.layers import SparseLinear
from tests.support.bad_commands import fill
from tests.support.repository import ROOT

SHAPE = "1x3x8x8"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    fill(tmp_path)
    return tmp_path


def run(line: str, folder: Path, code: int = 0) -> str:
    result = CliRunner().invoke(app, line.format(folder=folder).split())
    assert result.exit_code == code, result.output
    return result.stdout


def net(folder: Path) -> nn.Module:
    """The model of the files, with its weights."""
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3))
    model.load_state_dict(torch.load(folder / "state.pt", weights_only=True))
    return model.eval()


NET = "{folder}/nets.py:make --weights {folder}/state.pt"
PLANNED = f"{NET} --masks {{folder}}/masks.pth --input {SHAPE}"


def test_plan_prints_what_shrinks(folder: Path) -> None:
    said = run(f"plan {PLANNED}", folder)
    assert "Conv2d(3, 6) -> (3, 4)" in said
    assert said.splitlines()[0].endswith("of the MACs go")


def test_plan_explains_a_module(folder: Path) -> None:
    assert "Conv2d(3, 6) -> Conv2d(3, 4)" in run(f"plan {PLANNED} --explain 0", folder)


def test_plan_is_printed_or_written_whole_on_request(folder: Path) -> None:
    run(f"plan {PLANNED} --out {{folder}}/plan.json", folder)
    plan = Plan.from_json((folder / "plan.json").read_text())
    assert plan == Plan.from_json(run(f"plan {PLANNED} --out -", folder))
    assert plan.parameters_after < plan.parameters_before


def test_plan_as_json_is_a_small_summary(folder: Path) -> None:
    printed = run(f"plan {PLANNED} --json", folder)
    found = json.loads(printed)
    plan = Plan.from_json(run(f"plan {PLANNED} --out -", folder))
    assert len(printed) < 1500
    assert set(found) == {
        *("speedup", "torch", "warnings", "model", "verdict", "advice", "parameters", "macs", "bytes"),
        *("layers", "reasons", "assumptions", "unknown_operators"),
    }
    assert found["model"] == "Sequential"
    assert found["verdict"] == str(plan).splitlines()[0]
    assert found["parameters"] == {
        "before": plan.parameters_before,
        "after": plan.parameters_after,
        "asked": plan.parameters_before - plan.parameters_after,
        "held_back": 0,
    }
    assert found["bytes"] == {"before": 4 * plan.parameters_before, "after": 4 * plan.parameters_after}
    assert found["layers"] == {"all": 2, "changed": 2}


def test_summary_lists_reasons_with_what_would_help(folder: Path) -> None:
    torch.save({"2.weight": torch.tensor([1, 0, 1, 0]).reshape(4, 1, 1, 1)}, folder / "last.pth")
    (reason,) = json.loads(run(f"plan {NET} --masks {{folder}}/last.pth --input {SHAPE} --json", folder))[
        "reasons"
    ]
    assert "outputs of the model" in reason["reason"] and reason["help"]
    assert reason["macs"] > 0 and reason["parameters"] == 2 * 54 + 2


def test_latency_is_estimated_on_request(folder: Path) -> None:
    assert "ms, estimated" in run(f"plan {PLANNED} --latency", folder)
    told = json.loads(run(f"plan {PLANNED} --latency --json", folder))
    assert 0 < told["seconds"]["after"] < 1 and 0 < told["seconds"]["before"] < 1
    run(f"report {PLANNED} --latency --out {{folder}}/report.html", folder)
    assert "ms per forward, estimated" in (folder / "report.html").read_text(encoding="utf-8")


def test_an_explanation_may_be_json(folder: Path) -> None:
    said = run(f"plan {PLANNED} --explain 0", folder)
    found = json.loads(run(f"plan {PLANNED} --explain 0 --json", folder))
    assert found == {"path": "0", "explanation": said.rstrip("\n").split("\n")}


def test_plan_shows_all_layers_or_as_many_levels_as_asked_for(folder: Path) -> None:
    assert "What shrinks" in run(f"plan {PLANNED} --table", folder)
    assert "Conv2d(3, 6) -> (3, 4)" in run(f"plan {PLANNED} --depth 1", folder)


def test_plan_takes_keyword_arguments_and_keeps_modules(folder: Path) -> None:
    kept = Plan.from_json(
        run(f"plan {PLANNED} --keep 0 --out -".replace("--input ", "--input input="), folder)
    )
    assert kept.parameters_after == kept.parameters_before


def large(folder: Path) -> Path:
    """The model's weights as a checkpoint in two files."""
    (folder / "large").mkdir()
    state = net(folder).state_dict()
    places = {name: f"model-{int(name[0]) // 2 + 1:05}-of-00002.safetensors" for name in state}
    for file in set(places.values()):
        save_file({n: t for n, t in state.items() if places[n] == file}, folder / "large" / file)
    (folder / "large/model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    return folder / "large"


@pytest.mark.parametrize("how", ["a plan's file", "a model without weights"])
def test_compact_makes_a_checkpoint_smaller(how: str, folder: Path) -> None:
    checkpoint = f"--checkpoint {large(folder)} --out {{folder}}/small --json"
    if how == "a plan's file":
        run(f"plan {PLANNED} --out {{folder}}/plan.json", folder)
        run(f"compact {checkpoint} --plan {{folder}}/plan.json --max-shard-size 1KB", folder)
    else:
        # Biases without a mask stay constant numbers, which a model without weights does not have.
        masks = torch.load(folder / "masks.pth", weights_only=True)
        torch.save({**masks, "0.bias": masks["0.weight"].reshape(6)}, folder / "both.pth")
        run(
            f"compact {{folder}}/nets.py:make --masks {{folder}}/both.pth --input {SHAPE} {checkpoint}",
            folder,
        )
    plan = Plan.from_json((folder / "small/speedup_plan.json").read_bytes())
    wanted = plan.apply(net(folder).state_dict())
    assert plan.parameters_after < plan.parameters_before
    found: dict[str, Any] = {}
    for file in (folder / "small").glob("*.safetensors"):
        found |= load_file(file)
    assert set(found) == set(wanted) and all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_compact_says_how_the_folder_is_loaded(folder: Path) -> None:
    run(f"plan {PLANNED} --uniform 2 --out {{folder}}/plan.json", folder)
    plan = Plan.from_json((folder / "plan.json").read_bytes())
    assert plan.report.alignment is not None and plan.report.alignment.to == "uniform(2)"
    line = f"compact --checkpoint {large(folder)} --out {{folder}}/small --plan {{folder}}/plan.json"
    assert "no config has its sizes (config.json names no class of transformers)" in run(line, folder)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("compact --out {folder}/small", "name the model and its --input"),
        (f"plan {PLANNED} --uniform 4 --align 4", "--uniform aligns widths too"),
        ("compact --checkpoint {folder}/large --out {folder}/small", "name the model and its --input"),
        (f"compact {NET} --checkpoint {{folder}}/large --out {{folder}}/small", "--weights is for a model"),
        (f"compact {PLANNED} --plan x.json --out {{folder}}/small", "--plan is for --checkpoint"),
        ("compact --sparse --checkpoint {folder}/large --out {folder}/small", "--sparse is for a model"),
        (f"compact {PLANNED} --threads 1 --out {{folder}}/small.safetensors", "pass that too"),
        (
            f"compact {PLANNED} --sparse --choices {{folder}}/c.txt --out {{folder}}/small.safetensors",
            "choices is written as .json",
        ),
        ("compact a:b --plan x.json --checkpoint x --out {folder}/small", "and not both"),
        (
            "compact --plan {folder}/none.json --checkpoint x --out {folder}/small",
            "cannot be read: No such file",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(line: str, words: str, folder: Path) -> None:
    result = CliRunner().invoke(app, line.format(folder=folder).split())
    assert result.exit_code == 2 and words in result.stderr
    assert not (folder / "small").exists()


def test_compact_writes_what_loads_again_bit_for_bit_in_another_process(folder: Path) -> None:
    said = json.loads(run(f"compact {PLANNED} --out {{folder}}/small.safetensors --json", folder))
    assert said["parameters"]["after"] < said["parameters"]["before"]
    assert said["file"] == str(folder / "small.safetensors") and "same outputs" in said["verification"]
    small = load(
        folder / "small.safetensors", lambda: nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3))
    )
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(3))
    torch.save(x, folder / "x.pt")
    masked = apply_masks(net(folder), folder / "masks.pth")
    with torch.no_grad():
        torch.testing.assert_close(small.eval()(x), masked(x))
        program = (
            "import sys, torch; sys.path.insert(0, sys.argv[1]); import nets, speedup\n"
            "small = speedup.load(sys.argv[1] + '/small.safetensors', nets.make).eval()\n"
            "x = torch.load(sys.argv[1] + '/x.pt', weights_only=True)\n"
            "torch.save(small(x).detach(), sys.argv[1] + '/y.pt')\n"
        )
        subprocess.run([sys.executable, "-c", program, str(folder)], check=True, cwd=ROOT)
        assert torch.equal(torch.load(folder / "y.pt", weights_only=True), small(x))


def test_compact_measures_sparse_kernels_on_request(folder: Path) -> None:
    (folder / "thin.py").write_text(
        "import torch\n"
        "def make():\n"
        "    model = torch.nn.Sequential(torch.nn.Linear(64, 48), torch.nn.Linear(48, 32)).eval()\n"
        "    generator = torch.Generator().manual_seed(0)\n"
        "    with torch.no_grad():\n"
        "        for p in model.parameters():\n"
        "            p.copy_(torch.randn(p.shape, generator=generator))\n"
        "        model[0].weight *= torch.rand(48, 64, generator=generator) > 0.9\n"
        "    return model\n"
    )
    line = "compact {folder}/thin.py:make --input 4x64 --sparse --threads 1 --out {folder}/s.safetensors"
    said = run(f"{line} --choices {{folder}}/choices.json", folder)
    choices = Choices.load(folder / "choices.json")
    assert choices.verdict in " ".join(said.split())
    assert "Linear(64" in said, said
    assert [layer.path for layer in choices.layers] == ["0"]
    found = json.loads(run(f"{line} --json", folder))["sparse"]
    assert [layer["path"] for layer in found["layers"]] == ["0"]
    assert found["verdict"].startswith("unstructured: 89% of the weights of 1 layer are zero; measured: ")
    again = load(
        folder / "s.safetensors", lambda: nn.Sequential(nn.Linear(64, 48), nn.Linear(48, 32))
    ).get_submodule("0")
    assert isinstance(again, SparseLinear) == (found["layers"][0]["kernel"] != "dense")


def test_compact_says_what_was_verified(folder: Path) -> None:
    line = f"compact {PLANNED} --out {{folder}}/small.safetensors"
    assert "same outputs as the masked model" in run(line, folder)
    assert "outputs were not compared" in run(f"{line} --verify structure", folder)
    assert "not verified" in run(f"{line} --verify none", folder)


def test_verify_finds_a_saved_model_equivalent(folder: Path) -> None:
    run(f"compact {PLANNED} --out {{folder}}/small.safetensors", folder)
    said = json.loads(run(f"verify {NET} {{folder}}/small.safetensors --json", folder))
    assert said["equivalent"] is True
    assert said["error"] < 1e-4
    assert "equivalent" in run(f"verify {NET} {{folder}}/small.safetensors", folder)


def test_verify_ends_with_one_for_a_model_that_was_tampered_with(folder: Path) -> None:
    run(f"compact {PLANNED} --out {{folder}}/small.safetensors", folder)
    path = folder / "small.safetensors"
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        texts = file.metadata()
    tensors["0.bias"][0] += 1.0
    save_file(tensors, path, texts)
    run(f"verify {NET} {{folder}}/small.safetensors", folder, code=1)


def test_verify_refuses_other_weights(folder: Path) -> None:
    run(f"compact {PLANNED} --out {{folder}}/small.safetensors", folder)
    run("verify {folder}/nets.py:make {folder}/small.safetensors", folder, code=2)


def test_verify_says_what_a_model_of_two_rounds_is_compared_with(folder: Path) -> None:
    model, first = net(folder), masks_from_file(folder / "masks.pth")
    plan = plan_speedup(model, torch.ones(1, 3, 16, 16), first)
    small = materialize(plan)
    further = plan_speedup(small, torch.ones(1, 3, 16, 16))
    save(materialize(further), [plan, further], folder / "rounds.safetensors")
    line = f"verify {NET} {{folder}}/rounds.safetensors".format(folder=folder)
    result = CliRunner().invoke(app, line.split())
    assert result.exit_code == 2
    said = " ".join(result.output.split())
    assert "is of 2 rounds" in said and "model=that_model" in said


def test_bench_measures_the_masked_model_beside_the_small_ones(folder: Path) -> None:
    measured = json.loads(run(f"bench {PLANNED} --align 1 --align 2 --threads 1 --json", folder))
    assert [row["align"] for row in (measured["masked"], *measured["small"])] == [None, 1, 2]
    assert all(0 < row["low"] <= row["median"] <= row["high"] for row in measured["small"])
    assert measured["conditions"]["threads"] == 1
    assert measured["noisy"] is (measured["spread"] > 0.15)
    assert measured["best_align"] in (1, 2)


GIVEN = f"{NET} --input {SHAPE}"


@pytest.mark.parametrize("name", ["made.pth", "made.safetensors"])
def test_prune_writes_masks_that_meet_a_goal(name: str, folder: Path) -> None:
    said = run(f"prune {GIVEN} --macs 0.7 --out {{folder}}/{name}", folder)
    assert said.splitlines()[-1].endswith(f"{name}: written; masks of 2 parameters")
    planned = f"plan {GIVEN} --masks {{folder}}/{name}"
    assert run(planned, folder).splitlines()[0] == said.splitlines()[0]
    macs = json.loads(run(f"{planned} --json", folder))["macs"]
    assert 0.5 < macs["after"] / macs["before"] <= 0.7
    assert masks_from_file(folder / name).keys() == {"0.weight", "0.bias"}


def test_prune_takes_scores_shares_and_what_stays(folder: Path) -> None:
    line = f"prune {GIVEN} --out {{folder}}/made.pth"
    told = json.loads(run(f"{line} --sparsity 0.5 --score fpgm --scope global --json", folder))
    assert told["file"].endswith("made.pth") and told["masks"] == "masks of 2 parameters"
    assert told["parameters"]["after"] < told["parameters"]["before"]
    # Half of all ten channels; those of the last layer, which the model returns, cannot go.
    assert int(masks_from_file(folder / "made.pth")["0.bias"].sum()) == 1
    assert "masks of 0 parameters" in run(f"{line} --sparsity 0.5 --skip 0", folder)
    run(f"{line} --latency-ms 1000", folder)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("", "give one of sparsity, macs, parameters, latency_ms"),
        ("--macs 0.001", "cannot be met"),
        ("--macs 0.5 --score best", "choose one of l1, l2, fpgm, slimming, random"),
        ("--macs 0.5 --scope all", "pass 'layer' or 'global'"),
    ],
)
def test_prune_says_what_it_cannot_do(options: str, says: str, folder: Path) -> None:
    line = f"prune {GIVEN} --out {{folder}}/made.pth {options}".format(folder=folder)
    result = CliRunner().invoke(app, line.split())
    assert result.exit_code == 2
    assert says in result.stderr
    assert not (folder / "made.pth").exists()


def test_report_is_a_page_or_a_figure(folder: Path) -> None:
    run(f"report {PLANNED} --out {{folder}}/report.html", folder)
    assert (folder / "report.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    pytest.importorskip("matplotlib")
    run(f"report {PLANNED} --out {{folder}}/report.svg", folder)
    assert "<svg" in (folder / "report.svg").read_text(encoding="utf-8")


def test_the_package_can_be_run_as_a_module() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "speedup", "--help"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    assert "compact" in done.stdout


_ASKS_FOR_HELP = """
import sys
from speedup.cli import app
try:
    app({line!r}.split())
except SystemExit as ended:
    code = ended.code
print({{"code": code, "loaded": [name for name in ("torch", "numpy") if name in sys.modules]}})
"""


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("--help", 0),
        *((f"{one} --help", 0) for one in ("prune", "plan", "compact", "verify", "report", "bench", "demo")),
        ("plan --unheard-of", 2),
        ("compact --json", 2),
    ],
)
def test_help_and_usage_are_told_without_torch(line: str, code: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _ASKS_FOR_HELP.format(line=line)],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    assert ast.literal_eval(done.stdout.splitlines()[-1]) == {"code": code, "loaded": []}


BRANCHING = "{folder}/nets.py:Branching --input x=1x3x8x8"


def test_a_plan_is_made_for_further_calls(folder: Path) -> None:
    line = f"plan {BRANCHING} --out - --call x=1x3x9x9 --call x=1x3x8x8;gain=1x6x1x1"
    plan = Plan.from_json(run(line, folder))
    shapes = [[tuple(t.shape) for t in call.tensors] for call in plan.subject.others]
    assert shapes == [[(1, 3, 9, 9)], [(1, 3, 8, 8), (1, 6, 1, 1)]]
    assert "side" in [layer.path for layer in plan.layers]
    alone = Plan.from_json(run(f"plan {BRANCHING} --out -", folder))
    assert alone.subject.others == ()


def test_inputs_of_a_call_have_spaces_or_semicolons_between_them() -> None:
    for text in ("ids=1x2:int64:9 past=1x4", "ids=1x2:int64:9;past=1x4", " ids=1x2:int64:9 ;  past=1x4 "):
        call = call_of(text)
        assert (call["ids"].shape, call["past"].shape) == ((1, 2), (1, 4))
    assert [one.shape for one in call_of("1x2 3x4")] == [(1, 2), (3, 4)]
    assert call_of("1x2").shape == (1, 2)


def test_a_call_may_be_a_file_of_tensors(folder: Path) -> None:
    torch.save({"x": torch.ones(1, 3, 8, 8), "gain": torch.ones(6, 1, 1)}, folder / "with gain.pt")
    assert call_of(f"{folder}/with gain.pt").keys() == {"x", "gain"}
    torch.save({"x": torch.ones(1, 3, 8, 8), "gain": torch.ones(6, 1, 1)}, folder / "gain.pt")
    said = run(f"plan {BRANCHING} --call {{folder}}/gain.pt --explain=side", folder)
    assert said.startswith("side: Conv2d(6, 6)")


@pytest.mark.parametrize("command", ["compact", "report", "bench"])
def test_every_command_that_plans_takes_calls(
    command: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = importlib.import_module("speedup.cli.subject")
    planned, seen = module.plan_speedup, []

    def watched(*given: Any, **options: Any) -> Plan:
        seen.append(options["others"])
        made: Plan = planned(*given, **options)
        return made

    monkeypatch.setattr(module, "plan_speedup", watched)
    options = {
        "compact": "--out {folder}/small.safetensors",
        "report": "--out {folder}/report.html",
        "bench": "--align 1 --threads 1",
    }
    run(f"{command} {BRANCHING} --call x=1x3x8x8;gain=6x1x1 {options[command]}", folder)
    ((call,),) = seen
    assert call["gain"].shape == (6, 1, 1)
    if command == "compact":
        assert len(load_plan(folder / "small.safetensors").subject.others) == 1


@pytest.mark.parametrize("command", ["plan", "compact", "report", "bench"])
def test_help_tells_of_further_calls(command: str) -> None:
    assert "--call" in CliRunner().invoke(app, [command, "--help"]).stdout


def test_lowerings_are_chosen_by_name(folder: Path) -> None:
    for chosen in ("auto", "none", "carriers", "carriers,shuffles"):
        assert "Conv2d(3, 6) -> (3, 4)" in run(f"plan {PLANNED} --lowerings {chosen}", folder)
    result = CliRunner().invoke(app, f"plan {PLANNED} --lowerings carrier".format(folder=folder).split())
    assert result.exit_code == 2
    assert "did you mean 'carriers'" in " ".join(result.output.split())


def examples() -> list[str]:
    """Every command line that help shows, each once, in the order in which they build on one another."""
    texts = [CliRunner().invoke(app, [*command, "-h"], env={"COLUMNS": "300"}).stdout for command in HELPED]
    lines = [
        " ".join(found.split()) for text in texts for found in re.findall(r"(speedup \w+ \S+\.py:.*)", text)
    ]
    order = ["prune", "plan", "compact", "verify", "report", "bench"]
    return sorted(dict.fromkeys(lines), key=lambda line: order.index(line.split()[1]))


HELPED: list[list[str]] = [[], ["prune"], ["plan"], ["compact"], ["verify"], ["report"], ["bench"]]


def test_examples_of_all_commands_are_found() -> None:
    assert {line.split()[1] for line in examples()} == {
        "prune",
        "plan",
        "compact",
        "verify",
        "report",
        "bench",
    }


def test_the_examples_of_the_help_work_one_after_the_other(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    (folder / "net.py").write_text((folder / "nets.py").read_text())
    torch.save(net(folder).state_dict(), "net.pt")
    told = [line for line in examples() if "ids=" not in line]
    assert len(told) >= 4
    for line in told:
        result = CliRunner().invoke(app, shlex.split(line.replace("32x3x32x32", "2x3x8x8"))[1:])
        assert result.exit_code == 0, (line, result.output)
    assert {"small.safetensors", "report.html"} <= {path.name for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("line", "known"),
    [
        ("compact {net} --out {folder}/x.pt", ".safetensors"),
        ("compact {net} --out {folder}/x", ".safetensors"),
        ("plan {net} --out {folder}/x.pt", ".json"),
        ("prune {given} --macs 0.5 --out {folder}/x.json", ".pt or .pth or .safetensors"),
        ("report {net} --out {folder}/x.txt", ".html or .htm or .svg or .png or .pdf"),
    ],
)
def test_a_file_is_what_its_name_says_or_is_refused(line: str, known: str, folder: Path) -> None:
    before = sorted(folder.iterdir())
    line = line.replace("{net}", PLANNED).replace("{given}", GIVEN)
    result = CliRunner().invoke(app, line.format(folder=folder).split())
    assert result.exit_code == 2
    assert result.stderr.startswith("error: --out ") and f"is written as {known};" in result.stderr
    assert sorted(folder.iterdir()) == before


@pytest.mark.parametrize("command", ["prune", "compact", "report", "bench"])
def test_weights_that_nobody_trained_are_warned_of(command: str, folder: Path) -> None:
    options = {
        "prune": "--sparsity 0.5 --out {folder}/made.pth",
        "compact": "--masks {folder}/masks.pth --out {folder}/small.safetensors",
        "report": "--masks {folder}/masks.pth --out {folder}/report.html",
        "bench": "--masks {folder}/masks.pth --align 1 --threads 1 --rounds 2",
    }
    masked = f"--input {SHAPE} {options[command]}"
    for model, is_warned in (("{folder}/nets.py:make", True), (NET, False)):
        result = CliRunner().invoke(app, f"{command} {model} {masked}".format(folder=folder).split())
        assert result.exit_code == 0, result.output
        assert (
            f"warning: the weights are freshly initialised, as {folder}/nets.py:make" in result.stderr
        ) is is_warned
    found = json.loads(run(f"{command} {{folder}}/nets.py:make {masked} --json", folder))
    assert [warning.split(",")[0] for warning in found["warnings"]] == ["the weights are freshly initialised"]


SEEDED = """
import torch
from nets import make


def seeded():
    torch.manual_seed(0)
    return make()


MADE = make()
"""


@pytest.mark.parametrize("name", ["seeded", "MADE"])
def test_weights_that_are_always_the_same_are_not(name: str, folder: Path) -> None:
    (folder / "seeded.py").write_text(SEEDED)
    line = f"report {folder}/seeded.py:{name} --input {SHAPE} --out {folder}/report.html"
    assert "warning" not in CliRunner().invoke(app, line.split()).stderr


def test_a_type_holds_for_the_model_its_inputs_and_what_is_written(folder: Path) -> None:
    line = f"compact {PLANNED} --dtype float64 --out {{folder}}/small.safetensors --json"
    found = json.loads(run(line, folder))
    assert found["bytes"]["after"] == 8 * found["parameters"]["after"]
    with safe_open(folder / "small.safetensors", framework="pt") as file:
        assert {file.get_tensor(name).dtype for name in file.keys()} == {torch.float64}  # noqa: SIM118
    said = json.loads(run(f"verify {NET} {{folder}}/small.safetensors --dtype float64 --json", folder))
    assert said["error"] < 1e-12


def test_a_device_holds_for_the_model_and_its_inputs(folder: Path) -> None:
    whole = Plan.from_json(run(f"plan {PLANNED} --out -", folder))
    assert Plan.from_json(run(f"plan {PLANNED} --device cpu --out -", folder)) == whole
    call = placed_call(call_of("x=1x3;n=1x2:int64:9"), torch.device("meta"), torch.float64)
    assert {name: (t.is_meta, t.dtype) for name, t in call.items()} == {
        "x": (True, torch.float64),
        "n": (True, torch.int64),
    }
    assert all(p.is_meta for p in placed_model(net(folder), torch.device("meta"), None).parameters())


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("--device nowhere", "device 'nowhere' cannot be used here"),
        ("--device cuda:99", "device 'cuda:99' cannot be used here"),
        ("--dtype int8", "no floating-point type 'int8'; choose one of float32"),
    ],
)
def test_places_and_types_that_there_are_not_say_so(option: str, words: str, folder: Path) -> None:
    result = CliRunner().invoke(app, f"plan {PLANNED} {option}".format(folder=folder).split())
    assert result.exit_code == 2
    assert words in result.stderr and result.stderr.count("\n") == 1
