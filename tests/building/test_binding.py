"""A plan that was read back meets a model: which it takes, and what it says of others."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import nn

from speedup import (
    ArchitectureError,
    OtherWeightsError,
    Plan,
    StaleModelError,
    apply_masks,
    materialize,
    plan_speedup,
    verify,
)
from speedup.modules.fingerprints import checksum
from tests.support.saving_models import CASES, Headed, Residual, masks_of


def reread(name: str, masks: Mapping[str, object] | None = None) -> Plan:
    model = CASES[name].model()
    given = masks_of(name, model) if masks is None else masks
    return Plan.from_json(plan_speedup(model, CASES[name].example(), given).to_json())


@pytest.mark.parametrize("name", CASES)
def test_a_fresh_model_of_the_same_weights_is_made_small(name: str) -> None:
    plan = reread(name)
    small = materialize(plan, CASES[name].model())
    direct = materialize(
        plan_speedup(CASES[name].model(), CASES[name].example(), masks_of(name, CASES[name].model()))
    )
    for one, other in zip(small.state_dict().values(), direct.state_dict().values(), strict=True):
        assert torch.equal(one, other)
    assert verify(plan, small, model=CASES[name].model()).structure


def test_a_plan_of_masks_alone_takes_other_weights() -> None:
    plan = reread("attributes")
    fresh = CASES["attributes"].model(seed=5)
    small = materialize(plan, fresh)
    x = CASES["attributes"].example(seed=9)
    with torch.no_grad():
        want = apply_masks(fresh, masks_of("attributes", fresh))(x)
        assert torch.allclose(small(x), want, atol=1e-6)
    assert small.heads == 3


def test_a_plan_that_folded_constants_refuses_other_weights() -> None:
    with pytest.raises(
        OtherWeightsError, match=r"'conv1\.weight'.* and others hold other numbers.*plan this model"
    ):
        materialize(reread("residual"), CASES["residual"].model(seed=5))


def test_a_plan_of_zeros_in_the_weights_refuses_other_weights() -> None:
    def zeroed(seed: int) -> nn.Module:
        model: Any = CASES["attributes"].model(seed)
        with torch.no_grad():
            model.first.weight[3:6] = 0
            model.first.bias[3:6] = 0
        return model

    plan = Plan.from_json(plan_speedup(zeroed(0), CASES["attributes"].example()).to_json())
    assert materialize(plan, zeroed(0)).heads == 3
    with pytest.raises(OtherWeightsError):
        materialize(plan, zeroed(1))


def test_counters_that_nothing_reads_do_not_matter() -> None:
    model: Any = CASES["residual"].model()
    model.bn1.num_batches_tracked += 7
    small: Any = materialize(reread("residual"), model)
    assert small.bn1.num_batches_tracked == 7


def test_a_plan_made_without_data_takes_any_weights() -> None:
    model = CASES["attributes"].model()
    masks = masks_of("attributes", model)
    plan = plan_speedup(model.to("meta"), torch.empty(2, 6, device="meta"), masks)
    fresh = CASES["attributes"].model(seed=2)
    assert materialize(Plan.from_json(plan.to_json()), fresh).heads == 3
    assert materialize(plan, fresh).heads == 3


def wider(model: Residual) -> None:
    model.fc = nn.Linear(8, 5)


def other_class(model: Residual) -> None:
    model.bn2 = nn.SyncBatchNorm(8)  # type: ignore[assignment]


def other_setting(model: Residual) -> None:
    model.conv2.stride = (2, 2)


def doubled(model: Residual) -> None:
    model.double()


def tied(model: Residual) -> None:
    model.conv3.weight = model.conv2.weight


def without(model: Residual) -> None:
    del model.conv3


def more(model: Residual) -> None:
    model.extra = nn.Linear(1, 1)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (wider, r"tensor 'fc.weight' has shape \(5, 8\), planned was \(4, 8\)"),
        (other_class, "module 'bn2' has class .*SyncBatchNorm, planned was .*BatchNorm2d"),
        (other_setting, r"module 'conv2' has settings .*stride=\(2, 2\)"),
        (doubled, "has type torch.float64, planned was torch.float32"),
        (tied, "tensor 'conv3.weight' is tied to 'conv2.weight', planned was not tied"),
        (without, "tensor 'conv3.weight' is missing"),
        (more, "tensor 'extra.weight' was not planned"),
    ],
)
def test_another_architecture_is_refused(change: Callable[[nn.Module], None], words: str) -> None:
    model = CASES["residual"].model()
    change(model)
    with pytest.raises(ArchitectureError, match=words) as caught:
        materialize(reread("residual"), model)
    assert isinstance(caught.value, StaleModelError)


def test_an_attribute_that_is_set_must_be_what_it_was() -> None:
    model = Headed()
    model.heads = 6
    with pytest.raises(ArchitectureError, match="'heads' of module '' is 6, planned was 4"):
        materialize(reread("attributes"), model)


def test_the_planned_model_itself_may_be_passed() -> None:
    model = CASES["residual"].model()
    plan = plan_speedup(model, CASES["residual"].example(), masks_of("residual", model))
    given, kept = (m.get_submodule("conv2") for m in (materialize(plan, model), materialize(plan)))
    assert given.out_channels == kept.out_channels


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.int8, torch.bool])
def test_checksums_tell_order_sign_and_single_elements(dtype: torch.dtype) -> None:
    tensor = torch.tensor([1, 0, 0, 1, 1, 0, 1, 0, 1, 1, 0]).to(dtype)
    others = [tensor.flip(0), tensor.roll(1)]
    others += [tensor.index_fill(0, torch.tensor([n]), 1 - int(tensor[n])) for n in range(len(tensor))]
    if dtype.is_floating_point:
        others += [-tensor, tensor * torch.tensor([1, -1] + [1] * 9).to(dtype)]
    found = [checksum(one) for one in (tensor, *others)]
    assert len(set(found)) == len(found)
    assert checksum(tensor.clone()) == checksum(tensor)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
def test_checksums_tell_words_of_one_lane_apart(dtype: torch.dtype) -> None:
    tensor = torch.arange(1, 2**17 + 2).to(dtype)
    half, words = len(tensor) // 2, len(tensor) * dtype.itemsize // 4
    # As many elements as a lane is apart from the next word that it takes in.
    apart = words // 16 * 4 // dtype.itemsize
    pairs = [[0, apart], [1, 1 + 2 * apart], [7, 7 + apart, 7 + 2 * apart, 7 + 3 * apart]]
    others = [tensor.index_fill(0, torch.tensor(turned), -1) for turned in pairs]
    others += [tensor.index_copy(0, torch.tensor(turned), -tensor[torch.tensor(turned)]) for turned in pairs]
    others += [-tensor, tensor.roll(apart), tensor.roll(1), tensor.flip(0), torch.zeros_like(tensor)]
    others.append(torch.cat([tensor[half:], tensor[:half]]))
    others.append(torch.where(torch.arange(len(tensor)) % 2 == 1, -tensor, tensor))
    found = [checksum(one) for one in (tensor, *others)]
    assert len(set(found)) == len(found)
