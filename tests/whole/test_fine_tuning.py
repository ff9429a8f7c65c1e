"""Small models are trained on as others are: what holds their weights, averages them, and starts again."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from speedup import Plan, apply_masks, load, make_masks, materialize, plan_speedup, save
from speedup.pruners import Norm
from tests.support import transformers_models
from tests.support.repository import example_run_by

X = torch.randn(16, 6, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """A residual network; with labels it returns its loss, as models of Hugging Face do."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.up = nn.Linear(6, 12), nn.Linear(12, 24)
        self.norm, self.down, self.head = nn.BatchNorm1d(24), nn.Linear(24, 12), nn.Linear(12, 3)

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Any:
        x = torch.relu(self.stem(x))
        x = self.head(x + self.down(torch.relu(self.norm(self.up(x)))))
        return x if labels is None else {"loss": nn.functional.cross_entropy(x, labels), "logits": x}


def data() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(4, 16, 6, generator=generator)
    return [(part, part[:, :3].argmax(1)) for part in x]


@pytest.fixture
def planned() -> tuple[nn.Module, Plan]:
    torch.manual_seed(0)
    model = Net().eval()
    return model, plan_speedup(model, X, make_masks(model, X, Norm(), parameters=0.5))


def test_the_recipe_of_the_readme_runs_as_it_stands(
    planned: tuple[nn.Module, Plan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model, plan = planned
    names: dict[str, Any] = {"Net": Net, "model": model, "plan": plan, "x": X, "data": data(), "epochs": 6}

    exec(example_run_by(__file__), names)

    small, again, smaller = names["small"], names["again"], names["smaller"]
    assert names["losses"][-1] < names["losses"][0]
    for name, tensor in small.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor)
    assert 0 < _count(smaller) < _count(small) < _count(model)
    both = load("smaller.safetensors", Net)
    assert torch.equal(both.eval()(X), smaller.eval()(X))
    assert not torch.equal(names["average"].module(X), again.eval()(X))


def _count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_averaged_weights_follow_a_plan_of_masks_alone() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    keep = torch.arange(8) < 5
    plan = plan_speedup(model, X, {"0": {"weight": keep[:, None], "bias": keep}})
    average = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.5)
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    average.update_parameters(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2.0)
    average.update_parameters(model)
    small = materialize(plan, average.module, verify="none")
    assert small.load_state_dict(plan.apply(average.module.state_dict()))
    masked = apply_masks(average.module, plan.subject.masks)
    torch.testing.assert_close(small(X), masked(X))


def test_the_trainer_of_hugging_face_trains_saves_and_resumes(
    planned: tuple[nn.Module, Plan], tmp_path: Path
) -> None:
    pytest.importorskip("accelerate")
    if not transformers_models.available():
        pytest.skip("transformers is not installed")
    transformers: Any = importlib.import_module("transformers")
    _, plan = planned
    small: Any = materialize(plan)
    save(small, plan, tmp_path / "small.safetensors")
    rows = [{"x": x, "labels": y} for xs, ys in data() for x, y in zip(xs, ys, strict=True)]

    def trainer(model: nn.Module, epochs: int) -> Any:
        settings = transformers.TrainingArguments(
            output_dir=str(tmp_path / "run"),
            num_train_epochs=epochs,
            save_strategy="epoch",
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
        )
        return transformers.Trainer(model=model, args=settings, train_dataset=rows)

    trainer(small, 1).train()
    fresh: Any = load(tmp_path / "small.safetensors", Net)
    found = trainer(fresh, 2).train(resume_from_checkpoint=True)
    assert found.global_step == 2 * 8
    assert fresh.up.out_features == small.up.out_features
    assert not torch.equal(fresh.up.weight, small.up.weight)


def test_a_scheduler_and_an_optimizer_go_on_where_they_were(planned: tuple[nn.Module, Plan]) -> None:
    model, plan = planned
    before = torch.optim.AdamW(model.parameters(), 0.01)
    steps = torch.optim.lr_scheduler.StepLR(before, 2, 0.5)
    state = [before.state_dict(), steps.state_dict()]
    small = materialize(plan)
    optimizer = torch.optim.AdamW(small.parameters(), 0.01)
    optimizer.load_state_dict(plan.apply_optimizer(state[0], [name for name, _ in model.named_parameters()]))
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)
    scheduler.load_state_dict(state[1])
    _step(small, optimizer, scheduler.step)
    _step(small, optimizer, scheduler.step)
    assert scheduler.get_last_lr() == [0.005]
    assert optimizer.param_groups[0]["lr"] == 0.005


def _step(model: nn.Module, optimizer: torch.optim.Optimizer, then: Callable[[], object]) -> None:
    optimizer.zero_grad()
    model(X).square().mean().backward()
    optimizer.step()
    then()
