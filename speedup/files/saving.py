"""Small models in files: tensors as safetensors, the plan beside them as text, nothing pickled.

A small model is its planned model's class with smaller tensors, so a file holds the tensors and the plan,
and loading makes the model by its own constructor, without weights, and applies the plan's shapes to it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from warnings import catch_warnings, simplefilter

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from speedup._stable import EARLIER_PLANS_KEY, PLAN_KEY, SPARSE_KEY, TRAITS_KEYS
from speedup.building.applying import change_modules, hollow_copy
from speedup.building.binding import plain_model, require_architecture
from speedup.building.pretrained import let_save
from speedup.cutting.planned import shapes_fault
from speedup.errors import FileWriteError, ModelError, PlanFormatError, SavedModelError
from speedup.files.sparse_records import (
    SparseRecord,
    plain_shapes,
    records_from_text,
    records_text,
    sparse_records,
    with_sparse_layers,
)
from speedup.files.traits import Traits, traits_from_text, traits_of, traits_text
from speedup.ir.edits import NewBias
from speedup.modules.copying import copy_module, every_tensor
from speedup.modules.fingerprints import fingerprints_of
from speedup.modules.isolation import isolated
from speedup.plan import Plan
from speedup.sparse.weight import VALUES
from speedup.writing import StrPath, replacing


def save(small: nn.Module, plan: Plan | Sequence[Plan], path: StrPath) -> None:
    """Write a small model to a safetensors file, from which `load` makes it again in any process.

    The file holds every parameter and buffer, trained on or not, also buffers that a state dict leaves out,
    each under its first name; and, as text, the plan (see `Plan.to_json`), which modules are in training
    mode and which parameters require gradients. Sparse weights (of `materialize(plan, choices=...)`) are
    written as such, and are so again when they are loaded, on whatever machine. It does not hold hooks or
    attributes that were set after construction. It is written beside `path` and then put in its place, so
    that a failure leaves the old file as it was.

    Args:
        small: what `materialize(plan)` returned; it may since have been trained, moved or cast.
        plan: its plan; of a model that was made smaller several times all plans, the first one first. `load`
            then takes what makes the model as it was before the first.
        path: the file, by convention `*.safetensors`.

    Raises:
        SavedModelError: `small` is not of this plan, or the file cannot be written in this format.
        FileWriteError: the folder is missing or cannot be written to.
        PlanFormatError: the plan's example input holds something that text cannot.
    """
    *earlier, plan = [plan] if isinstance(plan, Plan) else plan
    state = _state_of(small)
    records = sparse_records(small)
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    fault = shapes_fault(plain_shapes(shapes, records), plan)
    if fault is not None:
        raise SavedModelError(
            f"the model is not what this plan makes: {fault}. Pass the plan's own small model."
        )
    without_data = [name for name, tensor in state.items() if tensor.is_meta]
    if without_data:
        raise SavedModelError(f"tensor {without_data[0]!r} has no data (it is on the meta device) to save")
    texts = {PLAN_KEY: plan.to_json(), TRAITS_KEYS[0]: traits_text(traits_of(small))}
    if records:
        texts[SPARSE_KEY] = records_text(records)
    if earlier:
        texts[EARLIER_PLANS_KEY] = json.dumps([one.to_json() for one in earlier])
    try:
        with replacing(path) as written:
            save_file({name: _own_storage(tensor) for name, tensor in state.items()}, written, texts)
            # What cannot be read, because the text is too long for a header, replaces nothing.
            with _open(written, "cpu"):
                pass
    except FileWriteError:
        raise
    except Exception as error:
        raise SavedModelError(f"{os.fspath(path)!r} cannot be written: {_in_words(error)}") from error


def load(
    path: StrPath, make_model: Callable[[], nn.Module], *, device: torch.device | str = "cpu"
) -> nn.Module:
    """The small model that `save` wrote: its outputs are those of the saved one, bit for bit.

    `make_model` is called on the meta device, where tensors have no data, so that the full model takes no
    memory; then the tensors are read one by one. If it cannot run there, or what it computes is not all in
    the file (tensors that are neither parameters nor buffers), it is called again for real.

    Trusted are `make_model` and the code that it runs, not the file: nothing in it is unpickled or imported,
    and the forwards that the plan rewrites must be those of the model's own classes with other numbers, or
    a call in the place of one that states sizes. A file can make a model wrong, but not run code of its own.

    Args:
        path: a file that `save` wrote.
        make_model: makes a model like the planned one, with any weights, as the function or the class did
            that made it: `lambda: Net(config)`. Of a file with several plans, like that of the first.
        device: where the tensors go.

    Raises:
        SavedModelError: the file is missing, truncated, not of `save`, or its tensors are not the plan's.
        PlanFormatError: its plan is of another version, or damaged.
        ArchitectureError: `make_model` makes something else than was planned.
        ForeignSourceError: the plan's source is not that of the model's classes.
        ModelError: `make_model` is no function, or returns no module.
    """
    if isinstance(make_model, nn.Module) or not callable(make_model):
        raise ModelError(
            f"make_model is a {type(make_model).__name__}; pass a function that makes the model as it was "
            "before, such as its class, or lambda: Net(config)"
        )
    with torch.inference_mode(mode=False), torch.no_grad(), isolated(), _open(path, device) as file:
        plan, traits, records = _read_plan(file, path), _read_traits(file, path), _read_records(file, path)
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        fault = shapes_fault(plain_shapes(shapes, records), plan) or traits.fault(shapes)
        if fault is not None:
            raise SavedModelError(f"{os.fspath(path)!r} does not hold what its plan makes: {fault}")
        earlier = _read_earlier(file, path)
        source = _Source(file, plan, earlier, traits, records, torch.device(device))
        small = _without_weights(source, make_model)
        if small is None:
            with torch.device(device):
                model = make_model()
            small = source.assemble(model)
        let_save(small, plan)
    return small


def load_plan(path: StrPath) -> Plan:
    """The plan in a file that `save` wrote; it has no model.

    Raises:
        SavedModelError, PlanFormatError: as of `load`.
    """
    with _open(path, "cpu") as file:
        return _read_plan(file, path)


def count_rounds(path: StrPath) -> int:
    """Of how many plans, one after the other, the small model in a file that `save` wrote came out.

    Raises:
        SavedModelError, PlanFormatError: as of `load`.
    """
    with _open(path, "cpu") as file:
        return len(_read_earlier(file, path)) + 1


class _Source:
    """An open file, and how to fill a model of the planned architecture from it."""

    def __init__(
        self,
        file: Any,
        plan: Plan,
        earlier: Sequence[Plan],
        traits: Traits,
        records: tuple[SparseRecord, ...],
        device: torch.device,
    ) -> None:
        self.file, self.plan, self.traits, self.records, self.device = file, plan, traits, records, device
        self.earlier = earlier
        self.sparse = {record.dense_name("weight"): record for record in records}
        self.biases = {record.dense_name("bias"): record.name("bias") for record in records}

    def assemble(self, model: nn.Module) -> nn.Module:
        if not isinstance(model, nn.Module):
            raise ModelError(f"make_model returned {type(model).__name__}; it must make a torch.nn.Module")
        for plan in self.earlier:
            model = hollow_copy(_like_planned(plan, model), plan.edits)
        model = _like_planned(self.plan, model)
        with torch.device(self.device):
            replacements = {id(tensor): self._read(name) for name, tensor in _state_of(model).items()}
            small = copy_module(model, replacements)
            change_modules(small, self.plan.edits)
            for edit in self.plan.edits:
                if isinstance(edit, NewBias):
                    bias = nn.Parameter(self._read(edit.name))
                    small.get_submodule(edit.path).register_parameter(edit.attribute, bias)
            try:
                small = with_sparse_layers(small, self.records, self.file.keys(), self._read)
            except ValueError as error:
                raise SavedModelError(f"the file is damaged: {error}. Save it again.") from error
            self.traits.give(small)
        return small

    def _read(self, name: str) -> Tensor:
        if name in self.sparse:
            # A place for the pieces, which take it at the end.
            record = self.sparse[name]
            return torch.empty(record.shape, dtype=self.file.get_tensor(record.name(VALUES)).dtype)
        tensor: Tensor = self.file.get_tensor(self.biases.get(name, name))
        strides = self.traits.strides.get(name)
        if strides is None:
            # What was read may be a part of the file's own memory.
            return tensor.clone()
        return torch.empty_strided(tensor.shape, strides, dtype=tensor.dtype).copy_(tensor)


def _like_planned(plan: Plan, model: nn.Module) -> nn.Module:
    """`model` with constant weights as plain parameters, which is what the plan is about."""
    plain = plain_model(plan, model).model
    require_architecture(plan, plain, fingerprints_of(plain), dtypes=False)
    return plain


def _without_weights(source: _Source, make_model: Callable[[], nn.Module]) -> nn.Module | None:
    """The small model, without ever making the full one; None if that cannot be."""
    try:
        with catch_warnings(), torch.device("meta"):
            simplefilter("ignore")
            model = make_model()
        small = source.assemble(model)
    except (
        Exception
    ):  # constructors raise anything where they look at numbers; for real, it may be raised again
        return None
    return None if any(tensor.is_meta for tensor in every_tensor(small)) else small


def _state_of(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers, each under its first name."""
    state: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if id(tensor) not in seen:
            seen.add(id(tensor))
            state[name] = tensor
    return state


def _own_storage(tensor: Tensor) -> Tensor:
    """The tensor for writing: in its logical order, and sharing nothing with others."""
    tensor = tensor.detach()
    is_alone = tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
    return tensor.contiguous() if is_alone else tensor.clone(memory_format=torch.contiguous_format)


@contextmanager
def _open(path: StrPath, device: torch.device | str) -> Iterator[Any]:
    try:
        opened = safe_open(os.fspath(path), framework="pt", device=str(device))
    except FileNotFoundError as error:
        raise SavedModelError(f"there is no file {os.fspath(path)!r}. Check the path.") from error
    except Exception as error:
        raise SavedModelError(
            f"{os.fspath(path)!r} is truncated, damaged or no safetensors file ({_in_words(error)})"
        ) from error
    with opened as file:
        yield file


def _read_plan(file: Any, path: StrPath) -> Plan:
    text = (file.metadata() or {}).get(PLAN_KEY)
    if text is None:
        raise SavedModelError(
            f"{os.fspath(path)!r} holds tensors, but no plan: it was not written by speedup.save. Load such "
            "a file with load_state_dict."
        )
    try:
        return Plan.from_json(text)
    except PlanFormatError as error:
        raise PlanFormatError(f"{os.fspath(path)!r}: {error}") from error


def _read_earlier(file: Any, path: StrPath) -> tuple[Plan, ...]:
    try:
        texts = json.loads((file.metadata() or {}).get(EARLIER_PLANS_KEY, "[]"))
        return tuple(Plan.from_json(text) for text in texts)
    except (TypeError, ValueError) as error:
        raise PlanFormatError(f"{os.fspath(path)!r}: of the plans before its own, {error}") from error


def _read_traits(file: Any, path: StrPath) -> Traits:
    try:
        said = file.metadata() or {}
        return traits_from_text(next((said[key] for key in TRAITS_KEYS if key in said), ""))
    except ValueError as error:
        raise SavedModelError(f"{os.fspath(path)!r} is damaged: {error}. Save it again.") from error


def _read_records(file: Any, path: StrPath) -> tuple[SparseRecord, ...]:
    try:
        return records_from_text((file.metadata() or {}).get(SPARSE_KEY, "[]"))
    except ValueError as error:
        raise SavedModelError(f"{os.fspath(path)!r} is damaged: {error}. Save it again.") from error


def _in_words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
