"""LoRA adapters: the small model with the cut one is the masked model with the large one in its weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.func import functional_call

from speedup import (
    AdapterError,
    ArchitectureError,
    FileWriteError,
    Plan,
    apply_masks,
    materialize,
    plan_speedup,
)
from tests.support.cut_cases import planned, without

RANK, SCALE = 3, 0.7
Masks = dict[str, Tensor]
PREFIX = "base_model.model."


class Transposed(nn.Module):
    """A layer whose weight lists inputs first, as GPT-2's do."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.rand(inputs, outputs)), nn.Parameter(torch.rand(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight + self.bias


def of_layers(*layers: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(*layers)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.rand(parameter.shape) - 0.4)
    return model.double().eval()


def linear() -> tuple[nn.Module, Tensor, Masks]:
    masks = {"0.weight": without((8, 5), 0, 1, 4), "0.bias": without((8,), 0, 1, 4)}
    return of_layers(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3)), torch.randn(2, 5), masks


def columns() -> tuple[nn.Module, Tensor, Masks]:
    """Nothing reads what goes."""
    model = of_layers(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3))
    return model, torch.randn(2, 5), {"2.weight": without((3, 8), 1, 0, 5, 6)}


def zeroed() -> tuple[nn.Module, Tensor, Masks]:
    """Rows that are masked and stay, since the model returns them; and columns that the sum before needs."""
    masks = {"2.weight": without((4, 8), 0, 2) * without((4, 8), 1, 3), "2.bias": without((4,), 0, 2)}
    masks["0.weight"] = without((8, 5), 0, 1) * without((8, 5), 1, 4)
    return of_layers(nn.Linear(5, 8), nn.Softmax(-1), nn.Linear(8, 4)), torch.randn(2, 5), masks


def transposed() -> tuple[nn.Module, Tensor, Masks]:
    masks = {"0.weight": without((6, 8), 1, 1, 4, 7), "0.bias": without((8,), 0, 1, 4, 7)}
    return of_layers(Transposed(6, 8), nn.Tanh(), Transposed(8, 8)), torch.randn(2, 6), masks


def table() -> tuple[nn.Module, Tensor, Masks]:
    masks = {"0.weight": without((7, 6), 1, 0, 2)}
    return of_layers(nn.Embedding(7, 6), nn.Linear(6, 4, bias=False)), torch.randint(0, 7, (2, 3)), masks


def convolutions() -> tuple[nn.Module, Tensor, Masks]:
    masks = {"0.weight": without((6, 3, 3, 3), 0, 1, 5), "0.bias": without((6,), 0, 1, 5)}
    model = of_layers(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 2, 1))
    return model, torch.randn(2, 3, 5, 5), masks


CASES: dict[str, Callable[[], tuple[nn.Module, Tensor, Masks]]] = {
    make.__name__: make for make in (linear, columns, zeroed, transposed, table, convolutions)
}


def adapter_of(model: nn.Module) -> dict[str, Tensor]:
    """Factors for every layer, by the names of peft's files."""
    torch.manual_seed(1)
    found: dict[str, Tensor] = {}
    for path, layer in model.named_children():
        match layer:
            case nn.Embedding():
                found[f"{PREFIX}{path}.lora_embedding_A"] = torch.randn(RANK, layer.num_embeddings)
                found[f"{PREFIX}{path}.lora_embedding_B"] = torch.randn(layer.embedding_dim, RANK)
            case nn.Conv2d():
                found[f"{PREFIX}{path}.lora_A.weight"] = torch.randn(RANK, *layer.weight.shape[1:])
                found[f"{PREFIX}{path}.lora_B.weight"] = torch.randn(layer.out_channels, RANK, 1, 1)
            case nn.Linear() | Transposed():
                rows, inner = layer.weight.shape[:: -1 if isinstance(layer, Transposed) else 1]
                found[f"{PREFIX}{path}.lora_A.weight"] = torch.randn(RANK, inner)
                found[f"{PREFIX}{path}.lora_B.weight"] = torch.randn(rows, RANK)
    return {name: tensor.double() for name, tensor in found.items()}


def merged(model: nn.Module, adapter: dict[str, Tensor]) -> dict[str, Tensor]:
    """The model's state with the adapter in its weights."""
    state = dict(model.state_dict())
    for path, layer in model.named_children():
        for kind in ("lora_A.weight", "lora_embedding_A"):
            first = adapter.get(f"{PREFIX}{path}.{kind}")
            if first is None:
                continue
            second = adapter[f"{PREFIX}{path}.{kind.replace('A', 'B')}"]
            delta = (second.flatten(1) @ first.flatten(1)).reshape(len(second), *first.shape[1:])
            turned = isinstance(layer, nn.Embedding | Transposed)
            state[f"{path}.weight"] = state[f"{path}.weight"] + SCALE * (delta.t() if turned else delta)
    return state


def require_same(model: nn.Module, plan: Plan, masks: Masks, adapter: dict[str, Tensor], x: Tensor) -> None:
    small = materialize(plan)
    cut = plan.apply_adapter(adapter, fan_in_fan_out=isinstance(next(model.children()), Transposed))
    assert list(cut) == list(adapter)
    with_adapter = {
        name: value * masks.get(name, torch.ones(())) for name, value in merged(model, adapter).items()
    }
    wanted = functional_call(model, with_adapter, x)
    found = functional_call(small, merged(small, cut), x)
    assert (found - wanted).abs().max() < 1e-12
    apart = (
        functional_call(apply_masks(model, masks), dict(apply_masks(model, masks).state_dict()), x) - wanted
    )
    assert apart.abs().max() > 1e-3


@pytest.mark.parametrize("case", CASES)
def test_small_model_with_its_adapter_is_the_masked_one_with_the_large(case: str) -> None:
    model, x, masks = CASES[case]()
    x = x.double() if x.is_floating_point() else x
    plan = plan_speedup(model, x, masks)
    for batch in (x, x[:1]):
        require_same(model, plan, masks, adapter_of(model), batch)
    if case != "zeroed":
        assert plan.parameters_after < plan.parameters_before


def linear_plan() -> tuple[nn.Module, Plan]:
    model, x, masks = linear()
    return model, plan_speedup(model, x.double(), masks)


@pytest.mark.parametrize("name", ["default", "my_adapter"])
def test_names_of_a_model_with_several_adapters_are_known(name: str) -> None:
    model, plan = linear_plan()
    saved = adapter_of(model)
    live = {key.replace(".weight", f".{name}.weight"): value for key, value in saved.items()}
    for one, other in zip(plan.apply_adapter(live).values(), plan.apply_adapter(saved).values(), strict=True):
        assert torch.equal(one, other)


def test_what_is_saved_whole_is_cut_as_the_state_is() -> None:
    model, plan = linear_plan()
    state = model.state_dict()
    saved = {
        f"{PREFIX}2.weight": state["2.weight"],
        f"{PREFIX}0.modules_to_save.default.bias": state["0.bias"],
        f"{PREFIX}0.base_layer.weight": state["0.weight"],
    }
    found = [*plan.apply_adapter(saved).values()]
    small = plan.apply(state)
    for value, name in zip(found, ("2.weight", "0.bias", "0.weight"), strict=True):
        assert torch.equal(value, small[name])


def write(folder: Path, adapter: dict[str, Tensor], **config: Any) -> Path:
    folder.mkdir()
    save_file(adapter, folder / "adapter_model.safetensors")
    said = {"peft_type": "LORA", "r": RANK, "target_modules": ["0"], **config}
    (folder / "adapter_config.json").write_text(json.dumps(said))
    return folder


def test_folders_become_folders(tmp_path: Path) -> None:
    model, x, masks = transposed()
    plan = plan_speedup(model, x.double(), masks)
    source = write(tmp_path / "large", adapter_of(model), fan_in_fan_out=True)
    found = plan.apply_adapter(source, tmp_path / "small")
    assert found[f"{PREFIX}2.lora_A.weight"].shape == (RANK, 5)
    written = load_file(tmp_path / "small" / "adapter_model.safetensors")
    assert all(torch.equal(written[name], value) for name, value in found.items())
    config = "adapter_config.json"
    assert (tmp_path / "small" / config).read_text() == (source / config).read_text()
    with pytest.raises(FileWriteError, match="is there already"):
        plan.apply_adapter(source, tmp_path / "small")


@pytest.mark.parametrize(
    ("config", "words"),
    [({"peft_type": "IA3"}, "of the kind IA3"), ({"use_dora": True}, "lora_magnitude_vector")],
)
def test_other_kinds_of_folders_are_refused(config: dict[str, Any], words: str, tmp_path: Path) -> None:
    model, plan = linear_plan()
    with pytest.raises(AdapterError, match=words):
        plan.apply_adapter(write(tmp_path / "x", adapter_of(model), **config))


def test_damaged_folders_are_refused(tmp_path: Path) -> None:
    model, plan = linear_plan()
    with pytest.raises(AdapterError, match=r"adapter_config.json' cannot be read"):
        plan.apply_adapter(tmp_path)
    source = write(tmp_path / "x", adapter_of(model))
    (source / "adapter_model.safetensors").write_bytes(b"no")
    with pytest.raises(AdapterError, match=r"adapter_model.safetensors' is missing or damaged"):
        plan.apply_adapter(source)


@pytest.mark.parametrize(
    ("adapter", "words"),
    [
        ({"0.lora_magnitude_vector": torch.ones(8)}, "DoRA"),
        ({"0.lora_E": torch.ones(3, 1)}, "no factor of a LoRA"),
        ({"0.ia3_l.default": torch.ones(8, 1)}, "no factor of a LoRA"),
        ({"9.lora_A.weight": torch.ones(3, 5)}, "for another model: .*no tensor '9.weight'"),
        ({"0.lora_A.weight": torch.ones(3, 8)}, r"shape \(3, 8\), which does not fit '0.weight'"),
        ({"0.lora_B.weight": torch.ones(8)}, r"shape \(8,\), which does not fit"),
    ],
)
def test_what_does_not_follow_is_refused(adapter: dict[str, Tensor], words: str) -> None:
    with pytest.raises(AdapterError, match=words):
        linear_plan()[1].apply_adapter(adapter)


def test_modules_of_another_shape_are_refused() -> None:
    with pytest.raises(ArchitectureError, match=r"'2.weight' is of shape \(4, 8\)"):
        linear_plan()[1].apply_adapter({"2.modules_to_save.default.weight": torch.ones(4, 8)})


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("folded", "constants were computed from it"),
        ("sliced", "the mask of '2.weight' zeroes single entries"),
    ],
)
def test_plans_with_which_an_adapter_does_not_go_are_refused(case: str, words: str) -> None:
    plan = planned(case)[1]
    with pytest.raises(AdapterError, match=words):
        plan.apply_adapter({"2.lora_A.weight": torch.ones(2, 8)})


def test_groups_that_keep_other_columns_are_refused() -> None:
    with pytest.raises(AdapterError, match=r"of '2.weight' each group keeps other columns"):
        planned("grouped")[1].apply_adapter({"2.lora_A.weight": torch.ones(2, 4, 3, 3)})
