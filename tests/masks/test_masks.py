from __future__ import annotations

import copy
import hashlib
import os
import pathlib
import pickle
import sys
import warnings
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

from speedup.errors import (
    MaskDeviceError,
    MaskError,
    MaskFileError,
    MaskShapeError,
    MaskTargetError,
    MaskValueError,
    SpeedupError,
    UnknownNameError,
)
from speedup.masks import Masks, apply_masks, resolve_masks

ROWS = torch.tensor([True, False, True, True])
FILTERS = ROWS.view(4, 1, 1, 1)


class Net(nn.Module):
    """Two layers with every kind of tensor a mask could be aimed at."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, bias=False)
        self.bn = nn.BatchNorm2d(4)
        self.encoder = nn.ModuleDict({"layer": nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 4))})
        self.scale = nn.Parameter(torch.ones(4))
        self.loose = torch.ones(4)


class Tied(nn.Module):
    """An embedding and a head that share their weight."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(6, 4)
        self.head = nn.Linear(4, 6)
        self.head.weight = self.embedding.weight


class Halved(nn.Module):
    """A parametrization."""

    def forward(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor / 2


def bits(tensor: torch.Tensor) -> tuple[Any, ...]:
    """All that must not change about a tensor: identity, version and every bit."""
    raw = tensor.detach().contiguous().view(torch.uint8) if tensor.ndim else tensor.detach().clone()
    return id(tensor), tensor._version, tensor.dtype, tuple(tensor.shape), raw.tolist()


def snapshot(model: nn.Module) -> list[tuple[Any, ...]]:
    tensors = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    attributes = [(id(m), key, id(value)) for m in model.modules() for key, value in vars(m).items()]
    grads = [(name, id(p.grad)) for name, p in model.named_parameters()]
    return [*((name, *bits(t)) for name, t in tensors), *attributes, *grads]


def test_no_masks_are_an_empty_mapping() -> None:
    assert dict(Masks()) == {}
    assert resolve_masks(Net(), None) == Masks() == resolve_masks(Net(), {})


def test_masks_behave_as_a_mapping() -> None:
    masks = Masks({"a": ROWS, "b": ~ROWS})
    assert (list(masks), len(masks), "a" in masks, "c" in masks) == (["a", "b"], 2, True, False)
    assert torch.equal(masks["a"], ROWS)
    with pytest.raises(KeyError):
        masks["c"]


def test_masks_are_immutable() -> None:
    masks = Masks({"a": ROWS})
    with pytest.raises(AttributeError):
        masks.digest = ""  # type: ignore[misc]
    with pytest.raises(TypeError):
        masks["a"] = ROWS  # type: ignore[index]
    with pytest.raises(TypeError):
        masks._keep["a"] = ROWS  # type: ignore[index]
    assert not hasattr(masks, "__dict__")


def test_masks_own_their_tensors() -> None:
    given = ROWS.clone()
    masks = Masks({"a": given})
    given.fill_(True)
    assert torch.equal(masks["a"], ROWS)
    assert masks == Masks({"a": ROWS})


def test_equal_content_makes_equal_masks_in_any_order() -> None:
    one, other = Masks({"a": ROWS, "b": ~ROWS}), Masks({"b": ~ROWS, "a": ROWS.clone()})
    assert one == other
    assert hash(one) == hash(other)
    assert one.digest == other.digest
    assert len({one, other}) == 1


@pytest.mark.parametrize(
    "other",
    [
        Masks(),
        Masks({"b": ROWS}),
        Masks({"a": ~ROWS}),
        Masks({"a": ROWS.view(2, 2)}),
        Masks({"a": ROWS, "b": ROWS}),
        {"a": ROWS},
        "a",
    ],
)
def test_different_content_makes_different_masks(other: object) -> None:
    assert Masks({"a": ROWS}) != other


def test_a_digest_does_not_run_names_and_shapes_into_each_other() -> None:
    flat = torch.zeros(1, dtype=torch.bool)
    assert Masks({"a": flat, "b": flat}) != Masks({"a (1,) \0001 b": flat})


def test_a_digest_is_the_same_in_every_process() -> None:
    content = b"1 a (4,) \x01\x00\x01\x01" + b"1 b (2, 2) \x01\x01\x00\x01"
    transposed = torch.tensor([[True, False], [True, True]]).t()
    assert Masks({"b": transposed, "a": ROWS}).digest == hashlib.sha256(content).hexdigest()


def test_a_mask_of_ones_is_dropped() -> None:
    assert len(Masks({"a": torch.ones(4, dtype=torch.bool), "b": torch.ones(0, dtype=torch.bool)})) == 0


def test_masks_refuse_what_is_not_bool() -> None:
    with pytest.raises(MaskError, match=r"'a' is torch\.float32, not bool; use resolve_masks"):
        Masks({"a": torch.zeros(3)})


@pytest.mark.parametrize("twin", [copy.deepcopy, copy.copy, lambda m: pickle.loads(pickle.dumps(m))])
def test_masks_survive_copying_and_pickling(twin: Callable[[Masks], Masks]) -> None:
    masks = Masks({"a": ROWS})
    assert twin(masks) == masks


def test_masks_print_short() -> None:
    masks = Masks({"a": ROWS})
    assert repr(masks) == f"Masks(1 masked parameters, digest={masks.digest[:12]}...)"


@pytest.mark.parametrize(
    "given",
    [
        {"conv.weight": FILTERS},
        {"conv": {"weight": FILTERS}},
        {"conv": {"weight": FILTERS, "bias": None}, "bn.weight": None},
        {"": {"conv.weight": FILTERS}},
        OrderedDict(conv=OrderedDict(weight=FILTERS)),
        Masks({"conv.weight": FILTERS}),
    ],
)
def test_every_form_of_dict_is_accepted(given: Any) -> None:
    assert resolve_masks(Net(), given) == Masks({"conv.weight": FILTERS})


def test_forms_can_be_mixed_and_names_can_be_dotted() -> None:
    given = {
        "encoder": {"layer.1.bias": ROWS},
        "conv": {"weight": FILTERS},
        "scale": ROWS,
        "": {"bn.bias": ROWS},
    }
    resolved = resolve_masks(Net(), given)
    # In the model's order, whatever that of the dict.
    assert list(resolved) == ["scale", "conv.weight", "bn.bias", "encoder.layer.1.bias"]


@pytest.mark.parametrize(
    "dtype",
    [torch.bool, torch.uint8, torch.int64, torch.float32, torch.float64, torch.half, torch.bfloat16,
     torch.float8_e4m3fn, torch.uint16],
)  # fmt: skip
def test_every_dtype_is_accepted(dtype: torch.dtype) -> None:
    assert resolve_masks(Net(), {"conv.weight": FILTERS.to(dtype)}) == Masks({"conv.weight": FILTERS})


@pytest.mark.parametrize(
    "given",
    [
        [1, 0, 1, 1],
        (True, False, True, True),
        np.array([1.0, 0.0, 1.0, 1.0]),
        nn.Parameter(ROWS.float()),
        ROWS.float().to_sparse(),
        torch.tensor([1.0, -0.0, 1.0, 1.0]),
    ],
)
def test_lists_arrays_and_special_tensors_are_accepted(given: Any) -> None:
    resolved = resolve_masks(Net(), {"scale": given})
    assert resolved == Masks({"scale": ROWS})
    assert type(resolved["scale"]) is torch.Tensor
    assert not resolved["scale"].requires_grad


def test_a_read_only_array_is_read_without_a_warning() -> None:
    array = np.array([1.0, 0.0, 1.0, 1.0])
    array.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(resolve_masks(Net(), {"scale": array})) == 1


@pytest.mark.parametrize("given", [0, False, torch.tensor(0.0), np.float32(0)])
def test_a_scalar_masks_the_whole_parameter(given: Any) -> None:
    resolved = resolve_masks(Net(), {"conv.weight": given, "scale": 1})
    assert resolved == Masks({"conv.weight": torch.zeros(1, 1, 1, 1, dtype=torch.bool)})


def test_a_scalar_parameter_takes_a_scalar_mask() -> None:
    model: Any = nn.Module()
    model.gain = nn.Parameter(torch.tensor(2.0))
    assert resolve_masks(model, {"gain": 0})["gain"].shape == ()
    assert apply_masks(model, {"gain": 0}).gain.item() == 0


@pytest.mark.parametrize("shape", [(4, 3, 3, 3), (1, 3, 1, 1), (4, 3, 1, 3)])
def test_a_mask_of_columns_keeps_its_compact_shape(shape: tuple[int, ...]) -> None:
    mask = torch.zeros(shape)
    mask[:, 1] = 1
    assert resolve_masks(Net(), {"conv.weight": mask})["conv.weight"].shape == shape


@pytest.mark.parametrize("shape", [(4, 3, 3, 3), (4, 1, 1, 1), (4, 3, 1, 3)])
def test_a_mask_of_whole_rows_is_the_same_in_every_shape(shape: tuple[int, ...]) -> None:
    resolved = resolve_masks(
        Net(),
        {
            "conv.weight": FILTERS.float()
            .expand(4, 3, 3, 3)[: shape[0], : shape[1], : shape[2], : shape[3]]
            .clone()
        },
    )
    assert resolved == Masks({"conv.weight": FILTERS})
    assert resolved["conv.weight"].shape == (4, 1, 1, 1)


def test_an_expanded_mask_is_held_compact() -> None:
    resolved = resolve_masks(Net(), {"conv.weight": FILTERS.expand(4, 3, 3, 3)})
    assert resolved == Masks({"conv.weight": FILTERS})


def test_a_mask_of_ones_resolves_to_nothing() -> None:
    assert len(resolve_masks(Net(), {"conv.weight": torch.ones(4, 3, 3, 3), "scale": 1})) == 0


def test_resolved_masks_come_back_as_the_same_object() -> None:
    model = Net()
    resolved = resolve_masks(model, {"conv.weight": FILTERS, "scale": ROWS})
    assert resolve_masks(model, resolved) is resolved


def test_resolved_masks_are_checked_against_another_model() -> None:
    with pytest.raises(UnknownNameError, match=r"'conv.weight'"):
        resolve_masks(Tied(), Masks({"conv.weight": FILTERS}))
    with pytest.raises(MaskShapeError, match=r"'scale' has shape \(5,\), its parameter \(4,\)"):
        resolve_masks(Net(), Masks({"scale": torch.zeros(5, dtype=torch.bool)}))


def test_a_tied_parameter_is_named_by_its_first_name() -> None:
    mask = torch.ones(6, 1)
    mask[2] = 0
    expected = Masks({"embedding.weight": mask.bool()})
    assert resolve_masks(Tied(), {"head.weight": mask}) == expected
    assert resolve_masks(Tied(), Masks({"head.weight": mask.bool()})) == expected


def test_two_masks_for_a_tied_parameter_keep_what_both_keep() -> None:
    rows, columns = torch.ones(6, 1), torch.ones(1, 4)
    rows[2] = columns[0, 1] = 0
    resolved = resolve_masks(Tied(), {"head": {"weight": rows}, "embedding.weight": columns})
    assert resolved == Masks({"embedding.weight": rows.bool() & columns.bool()})


def test_a_shared_module_can_be_masked_under_either_name() -> None:
    model = nn.Module()
    model.first = nn.Linear(4, 4)
    model.second = model.first
    resolved = resolve_masks(model, {"second": {"bias": ROWS}})
    assert list(resolved) == ["first.bias"]


def test_a_pruned_parameter_is_masked_at_its_original() -> None:
    model = Net()
    prune.random_unstructured(model.conv, "weight", amount=0.5)
    resolved = resolve_masks(model, {"conv": {"weight": FILTERS}})
    assert list(resolved) == ["conv.weight_orig"]
    assert list(resolve_masks(nn.Sequential(model.conv)[0], {"weight": FILTERS})) == ["weight_orig"]


def _parametrized() -> nn.Module:
    model = Net()
    parametrize.register_parametrization(model.conv, "weight", Halved())
    return model


def _weight_normed() -> nn.Module:
    model = Net()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        nn.utils.weight_norm(model.conv)
    return model


def _parametrized_by_weight_norm() -> nn.Module:
    model = Net()
    parametrizations.weight_norm(model.conv)
    return model


def _spectral_normed() -> nn.Module:
    model = Net()
    nn.utils.spectral_norm(model.conv)
    return model


@pytest.mark.parametrize(
    ("build", "sources"),
    [
        (_parametrized, ["conv.parametrizations.weight.original"]),
        (
            _parametrized_by_weight_norm,
            ["conv.parametrizations.weight.original0", "conv.parametrizations.weight.original1"],
        ),
        (_weight_normed, ["conv.weight_g", "conv.weight_v"]),
        (_spectral_normed, ["conv.weight_orig"]),
    ],
)
def test_a_computed_weight_is_refused_in_favour_of_its_source(
    build: Callable[[], nn.Module], sources: list[str]
) -> None:
    model = build()
    with pytest.raises(MaskTargetError, match=r"'conv.weight': it is computed") as caught:
        resolve_masks(model, {"conv.weight": FILTERS})
    assert " or ".join(map(repr, sources)) in str(caught.value)
    assert "remove_parametrizations" in str(caught.value)
    assert list(resolve_masks(model, {sources[-1]: FILTERS})) == [sources[-1]]


def test_a_parametrized_root_is_refused_alike() -> None:
    model = nn.Linear(4, 4)
    parametrize.register_parametrization(model, "weight", Halved())
    with pytest.raises(MaskTargetError, match=r"Mask 'parametrizations.weight.original'"):
        resolve_masks(model, {"weight": torch.zeros(4, 4)})


LONG = nn.Sequential(*(nn.Linear(2, 2) for _ in range(6)))


@pytest.mark.parametrize(
    ("given", "kind", "parts"),
    [
        ({"cnv.weight": FILTERS}, UnknownNameError, ["'cnv.weight'", "did you mean 'conv.weight' or"]),
        ({"cnv": {"weight": FILTERS}}, UnknownNameError, ["no module 'cnv'", "did you mean 'conv'?"]),
        ({"conv.weight": {"weight": FILTERS}}, UnknownNameError, ["no module 'conv.weight'", "'conv'"]),
        (
            {"conv": {"wieght": FILTERS}},
            UnknownNameError,
            ["mask for 'conv.wieght'", "Conv2d has no parameter", "mean 'weight'? There are 1: 'weight'."],
        ),
        ({"bn.gamma": ROWS}, UnknownNameError, ["BatchNorm2d has no parameter", "2: 'weight', 'bias'."]),
        ({"encoder.layer.7.bias": ROWS}, UnknownNameError, ["'encoder.layer.7.bias'", "did you mean"]),
        ({"conv.bias": ROWS}, UnknownNameError, ["made without 'bias' (it is None)", "Drop this mask"]),
        ({"conv": FILTERS}, UnknownNameError, ["'conv': it is a module", "{'conv': {'weight': mask}}"]),
        ({"encoder": {"layer": {"1.bias": ROWS}}}, UnknownNameError, ["'encoder.layer': it is a module"]),
        ({"": FILTERS}, UnknownNameError, ["'': it is a module"]),
        ({"zzzzz": FILTERS}, UnknownNameError, ["'zzzzz'", "Net has no parameter", "There are 8: 'scale', "]),
        ({"bn.running_mean": ROWS}, MaskTargetError, ["'bn.running_mean': it is a buffer"]),
        ({"bn": {"running_var": ROWS}}, MaskTargetError, ["'bn.running_var': it is a buffer"]),
        ({"loose": ROWS}, MaskTargetError, ["'loose': it is a plain tensor attribute"]),
        (
            {"conv.weight": ROWS},
            MaskShapeError,
            ["'conv.weight' has shape (4,), its parameter (4, 3, 3, 3)", "use mask.reshape(4, 1, 1, 1)."],
        ),
        (
            {"encoder.layer.1.weight": ROWS},
            MaskShapeError,
            ["'encoder.layer.1.weight' has shape (4,)", "mask.reshape(4, 1) or mask.reshape(1, 4)."],
        ),
        (
            {"conv.weight": torch.zeros(4, 3)},
            MaskShapeError,
            ["mask.reshape(4, 3, 1, 1) or mask.reshape(4, 1, 3, 1) or mask.reshape(4, 1, 1, 3)."],
        ),
        ({"conv.weight": torch.zeros(1)}, MaskShapeError, ["shape (1,)", "mask.reshape(1, 1, 1, 1)"]),
        ({"conv.weight": torch.zeros(5)}, MaskShapeError, ["shape (5,)", "of its parameter's size or 1."]),
        ({"conv.weight": torch.zeros(3, 4, 3, 3)}, MaskShapeError, ["(3, 4, 3, 3)", "(4, 3, 3, 3)", "or 1."]),
        ({"scale": torch.zeros(1, 4)}, MaskShapeError, ["(1, 4)", "(4,)", "or 1."]),
        ({"scale": torch.zeros(0)}, MaskShapeError, ["(0,)", "(4,)"]),
        (
            {"scale": torch.tensor([1.0, 0.0, 0.5, 2.0])},
            MaskValueError,
            ["'scale' holds 0.5 at index (2,)", "2 of its 4 elements", "mask > 0.5"],
        ),
        ({"scale": torch.tensor([1.0, float("nan"), 1, 0])}, MaskValueError, ["holds nan at index (1,)"]),
        ({"scale": torch.tensor([1.0, 1, 1, float("inf")])}, MaskValueError, ["holds inf at index (3,)"]),
        ({"scale": torch.tensor([1, -1, 0, 0])}, MaskValueError, ["holds -1 at index (1,)", "1 of its 4"]),
        (
            {"conv.weight": torch.eye(3).repeat(4, 1, 1).view(4, 1, 3, 3) + torch.eye(3)},
            MaskValueError,
            ["holds 2.0 at index (0, 0, 0, 0)", "12 of its 36"],
        ),
        ({"scale": 2}, MaskValueError, ["holds 2 at index (0,)"]),
        ({"scale": ROWS.to("meta")}, MaskDeviceError, ["'scale' is on 'meta', its parameter on 'cpu'"]),
        ({"scale": "1011"}, MaskError, ["'scale': pass a tensor, not a str"]),
        ({"scale": object()}, MaskError, ["'scale': pass a tensor, not a object"]),
        ({"scale": [[1], [1, 0]]}, MaskError, ["'scale': pass a tensor, not a list"]),
        ({"conv": {"weight": {"mask": ROWS}}}, MaskError, ["'conv.weight': pass a tensor, not a dict"]),
        ({3: ROWS}, MaskError, ["a name must be a str, not int (3)"]),
        ([FILTERS], MaskError, ["pass a dict, a path, Masks or None, not a list"]),
        (FILTERS, MaskError, ["pass a dict, a path, Masks or None, not a Tensor"]),
    ],
)  # fmt: skip
def test_a_bad_mask_is_refused_with_its_reason(given: Any, kind: type[MaskError], parts: list[str]) -> None:
    model = Net()
    before = snapshot(model)
    with pytest.raises(kind) as caught:
        resolve_masks(model, given)
    assert type(caught.value) is kind
    assert isinstance(caught.value, ValueError)
    for part in parts:
        assert part in str(caught.value)
    assert snapshot(model) == before


def test_a_long_list_of_names_is_cut() -> None:
    with pytest.raises(UnknownNameError, match=r"There are 12: '0.weight', ('[\d.a-z]+', ){6}'3.bias'\.$"):
        resolve_masks(LONG, {"#": ROWS})


def test_a_module_without_parameters_says_so() -> None:
    with pytest.raises(UnknownNameError, match=r"There are 0: none"):
        resolve_masks(nn.Sequential(nn.ReLU()), {"0.weight": ROWS})


def test_an_uninitialised_parameter_is_refused() -> None:
    model = nn.Sequential(nn.LazyLinear(4))
    with pytest.raises(MaskTargetError, match=r"'0.weight': it is uninitialised; run the model once first"):
        resolve_masks(model, {"0.weight": torch.zeros(4, 4)})


def test_a_meta_parameter_takes_a_mask_on_the_cpu() -> None:
    model = Net().to("meta")
    resolved = resolve_masks(model, {"scale": ROWS, "conv.weight": FILTERS.tolist()})
    assert {mask.device.type for mask in resolved.values()} == {"cpu"}
    masked = apply_masks(model, resolved)
    assert masked.scale.device.type == "meta"


def test_a_mask_without_values_is_refused_even_for_a_meta_parameter() -> None:
    with pytest.raises(MaskDeviceError, match=r"on 'meta', its parameter on 'meta'; make the mask on 'cpu'"):
        resolve_masks(Net().to("meta"), {"scale": ROWS.to("meta")})


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_mask_on_another_device_is_refused() -> None:
    model = Net().cuda()
    with pytest.raises(
        MaskDeviceError, match=r"'scale' is on 'cpu', its parameter on 'cuda:0'; make the mask on"
    ):
        resolve_masks(model, {"scale": ROWS})
    with pytest.raises(MaskDeviceError, match=r"'scale' is on 'cuda:0', its parameter on 'cpu'"):
        resolve_masks(Net(), {"scale": ROWS.cuda()})


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_masks_from_files_and_lists_are_moved_to_their_parameter(path: pathlib.Path) -> None:
    model = Net().cuda()
    torch.save({"scale": ROWS.cuda()}, path)
    for given in (path, {"scale": ROWS.tolist()}):
        resolved = resolve_masks(model, given)
        assert resolved["scale"].is_cuda
        # The device is no part of what a mask says.
        assert resolved == Masks({"scale": ROWS})
        assert torch.equal(apply_masks(model, resolved).scale, ROWS.cuda().float())


def test_the_default_device_does_not_matter() -> None:
    model = Net()
    with torch.device("meta"):
        assert resolve_masks(model, {"scale": [1, 0, 1, 1]}) == Masks({"scale": ROWS})


@pytest.fixture
def path(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "masks.pt"


@pytest.mark.parametrize("as_type", [str, pathlib.Path])
def test_a_saved_dict_is_read(path: pathlib.Path, as_type: Callable[[pathlib.Path], Any]) -> None:
    torch.save({"conv": {"weight": FILTERS, "bias": None}, "scale": ROWS.float()}, path)
    assert resolve_masks(Net(), as_type(path)) == Masks({"conv.weight": FILTERS, "scale": ROWS})


def test_a_safetensors_file_is_read(path: pathlib.Path) -> None:
    path = path.with_suffix(".safetensors")
    save_file({"conv.weight": FILTERS.contiguous(), "scale": ROWS.half()}, path)
    assert resolve_masks(Net(), path) == Masks({"conv.weight": FILTERS, "scale": ROWS})


def test_safetensors_is_asked_for_only_where_it_is_needed(
    path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    torch.save({"scale": ROWS}, path)
    assert len(resolve_masks(Net(), path)) == 1
    with pytest.raises(MaskFileError, match=r"pip install safetensors"):
        resolve_masks(Net(), path.with_suffix(".safetensors"))


def test_masks_from_a_file_for_a_meta_model_stay_on_the_cpu(path: pathlib.Path) -> None:
    torch.save({"scale": ROWS}, path)
    assert resolve_masks(Net().to("meta"), path)["scale"].device.type == "cpu"


class Bomb:
    """Runs a command when it is unpickled."""

    def __init__(self, target: pathlib.Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.target}",)


def test_an_unsafe_pickle_is_refused_and_not_executed(path: pathlib.Path) -> None:
    target = path.with_name("executed")
    torch.save({"scale": Bomb(target)}, path)
    with pytest.raises(MaskFileError) as caught:
        resolve_masks(Net(), path)
    for part in [
        repr(str(path)),
        "nothing in it was executed",
        "posix.system",
        "torch.save({parameter_name:",
    ]:
        assert part in str(caught.value)
    assert "weights_only" not in str(caught.value)
    assert not target.exists()


@pytest.mark.parametrize("content", [nn.Linear(2, 2), {"scale": np.ones(4)}])
def test_a_pickle_of_other_objects_is_refused(path: pathlib.Path, content: object) -> None:
    torch.save(content, path)
    with pytest.raises(
        MaskFileError, match=r"was refused, and nothing in it was executed: it holds [\w.]+\. Save"
    ):
        resolve_masks(Net(), path)


@pytest.mark.parametrize("content", [[ROWS], ROWS, 3, None])
def test_a_file_of_something_else_than_a_dict_is_refused(path: pathlib.Path, content: object) -> None:
    torch.save(content, path)
    with pytest.raises(MaskFileError, match=rf"holds {type(content).__name__}, no dict\. Save masks"):
        resolve_masks(Net(), path)


@pytest.mark.parametrize("name", ["absent.pt", "absent.safetensors"])
def test_a_missing_file_is_named(tmp_path: pathlib.Path, name: str) -> None:
    with pytest.raises(MaskFileError, match=rf"{name}' cannot be opened: No such file.*Check the path"):
        resolve_masks(Net(), tmp_path / name)


def test_a_folder_is_no_mask_file(tmp_path: pathlib.Path) -> None:
    with pytest.raises(MaskFileError, match=r"cannot be opened: Is a directory"):
        resolve_masks(Net(), tmp_path)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_truncated_file_is_refused_wherever_it_ends(path: pathlib.Path, legacy: bool) -> None:
    torch.save({"scale": ROWS}, path, _use_new_zipfile_serialization=not legacy)
    whole = path.read_bytes()
    for length in range(0, len(whole) - 1, 37):
        path.write_bytes(whole[:length])
        with pytest.raises(MaskFileError, match=r"damaged, truncated|was refused") as caught:
            resolve_masks(Net(), path)
        assert repr(str(path)) in str(caught.value)
        assert caught.value.__cause__ is not None


@pytest.mark.parametrize("content", [b"", b"hello, world\n", b"\x00" * 100, b"{}"])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_file_of_another_kind_is_refused(path: pathlib.Path, content: bytes, suffix: str) -> None:
    path = path.with_suffix(suffix)
    path.write_bytes(content)
    with pytest.raises(MaskFileError, match=r"damaged, truncated or of another kind|was refused"):
        resolve_masks(Net(), path)


def test_a_bad_mask_in_a_file_is_refused_like_any_other(path: pathlib.Path) -> None:
    torch.save({"scale": torch.full((4,), 0.5)}, path)
    with pytest.raises(MaskValueError, match=r"'scale' holds 0.5"):
        resolve_masks(Net(), path)


def test_resolving_leaves_model_and_masks_untouched() -> None:
    model = Net().train()
    model.scale.grad = torch.ones(4)
    given: dict[str, Any] = {
        "conv": {"weight": FILTERS.float()},
        "scale": ROWS.clone(),
        "bn.bias": ROWS.long(),
    }
    tensors = [given["conv"]["weight"], given["scale"], given["bn.bias"]]
    before = snapshot(model), [bits(t) for t in tensors], list(given), torch.random.get_rng_state()
    resolved = resolve_masks(model, given)
    apply_masks(model, given)
    assert snapshot(model) == before[0]
    assert [bits(t) for t in tensors] == before[1]
    assert list(given) == before[2]
    assert torch.equal(torch.random.get_rng_state(), before[3])
    assert resolved["scale"].data_ptr() != given["scale"].data_ptr()


def test_a_masked_parameter_is_zero_where_its_mask_says_so() -> None:
    model = Net()
    masked = apply_masks(model, {"conv": {"weight": FILTERS}, "scale": ROWS.int()})
    assert torch.equal(masked.conv.weight, model.conv.weight * FILTERS)
    assert torch.equal(masked.scale, model.scale * ROWS)


def test_nothing_else_differs_in_the_masked_model() -> None:
    model = Net().eval()
    model.bn.train()
    model.conv.weight.requires_grad_(False)
    model.encoder.register_forward_hook(print)
    masked = apply_masks(model, {"conv.weight": FILTERS})
    assert [(n, type(m), m.training) for n, m in masked.named_modules()] == [
        (n, type(m), m.training) for n, m in model.named_modules()
    ]
    assert list(masked.encoder._forward_hooks.values()) == [print]
    for (name, old), (other_name, new) in zip(
        model.state_dict(keep_vars=True).items(), masked.state_dict(keep_vars=True).items(), strict=True
    ):
        assert (name, type(old), old.dtype, old.requires_grad) == (
            other_name,
            type(new),
            new.dtype,
            new.requires_grad,
        )
        assert name == "conv.weight" or torch.equal(old, new)
        assert old.data_ptr() != new.data_ptr()


def test_a_masked_nan_or_minus_zero_becomes_zero() -> None:
    model = Net()
    with torch.no_grad():
        model.scale[:] = torch.tensor([float("nan"), float("inf"), -0.0, -1.0])
    masked = apply_masks(model, {"scale": 0})
    assert masked.scale.view(torch.int32).tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.bfloat16, torch.float8_e4m3fn, torch.complex64, torch.int8, torch.bool]
)
def test_the_dtype_of_a_masked_parameter_stays(dtype: torch.dtype) -> None:
    model = nn.Module()
    model.table = nn.Parameter(torch.ones(4).to(dtype), requires_grad=False)
    masked = apply_masks(model, {"table": ROWS})
    assert masked.table.dtype is dtype
    assert torch.equal(masked.table.to(torch.complex64), ROWS.to(torch.complex64))


@pytest.mark.parametrize("mask", [FILTERS, FILTERS.expand(4, 3, 3, 3).contiguous()])
def test_the_memory_format_of_a_masked_parameter_stays(mask: torch.Tensor) -> None:
    model = Net().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    masked = apply_masks(model, {"conv.weight": mask})
    assert masked.conv.weight.stride() == model.conv.weight.stride() != (27, 9, 3, 1)


def test_a_tied_parameter_stays_tied_when_masked() -> None:
    masked = apply_masks(Tied(), {"head.weight": 0})
    assert masked.head.weight is masked.embedding.weight
    assert not masked.head.weight.any()


def test_a_pruned_model_can_be_masked_further() -> None:
    model: Any = nn.Sequential(nn.Linear(5, 4))
    prune.l1_unstructured(model[0], "weight", amount=0.5)
    masked = apply_masks(model, {"0.weight": ROWS.view(4, 1)})
    x = torch.randn(2, 5)
    expected = nn.functional.linear(
        x, model[0].weight_orig * model[0].weight_mask * ROWS.view(4, 1), model[0].bias
    )
    torch.testing.assert_close(masked(x), expected)


def test_no_masks_make_a_plain_copy() -> None:
    model = Net()
    masked = apply_masks(model, None)
    assert masked is not model
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), masked.parameters(), strict=True))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_model_that_cannot_be_copied_is_named() -> None:
    model = nn.Sequential(torch.jit.script(nn.Linear(2, 2)))
    with pytest.raises(SpeedupError, match=r"the copy of '0\.weight' is not the tensor that was asked for"):
        apply_masks(model, {"0.weight": 0})


def test_a_mask_is_read_in_a_few_tensor_operations() -> None:
    model = nn.Module()
    model.table = nn.Parameter(torch.zeros(1000), requires_grad=False)
    mask = (torch.arange(1000) % 2).float()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        resolve_masks(model, {"table": mask})
    assert sum(event.count for event in profile.key_averages()) < 40
