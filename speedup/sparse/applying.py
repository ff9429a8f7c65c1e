"""Choices applied to a model, and the way back; which layers of a model can have a sparse weight at all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from speedup.errors import ForeignChoicesError
from speedup.modules.attention import IN_PROJ, OUT_PROJ, MultiheadAttention
from speedup.modules.copying import share_module
from speedup.modules.fingerprints import checksum
from speedup.sparse.choices import Choices
from speedup.sparse.layers import sparse_class_of
from speedup.sparse.machine import this_machine
from speedup.sparse.measured import Candidate
from speedup.sparse.weight import SparseModule
from speedup.torch_api import parameters_of


def unpacked_model(model: nn.Module) -> nn.Module:
    """A copy of `model` with the same tensors, in which attention calls its projections as layers."""
    copied = share_module(model)
    for path, module in list(copied.named_modules()):
        if isinstance(module, nn.MultiheadAttention):
            for name in (IN_PROJ, OUT_PROJ):
                unpack_layer(copied, f"{path}.{name}".lstrip("."))
    return copied


def unpack_layer(model: nn.Module, path: str) -> None:
    """Where `path` is of a projection of attention, make that a layer which is called, in place."""
    owner, _, name = path.rpartition(".")
    parent = dict(model.named_modules()).get(owner)
    if name not in (IN_PROJ, OUT_PROJ) or not isinstance(parent, nn.MultiheadAttention):
        return
    if MultiheadAttention.can_adopt(parent):
        MultiheadAttention.adopt(parent)
    if name == IN_PROJ and isinstance(parent, MultiheadAttention) and parent.in_proj_weight is not None:
        parent.unpack()


def is_packed(model: nn.Module, path: str) -> bool:
    """Whether a layer is a projection that attention has packed in a parameter of its own otherwise."""
    owner, _, name = path.rpartition(".")
    return name == IN_PROJ and isinstance(model.get_submodule(owner), MultiheadAttention)


def sparse_capable(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The layers, by path, whose weight may become sparse: nobody else has it, and nothing computes it.

    Layers whose forward was replaced are left out. Of an `unpacked_model`, projections of attention are
    among them.
    """
    names = Counter(id(p) for _, p in model.named_parameters(remove_duplicate=False))
    for path, module in model.named_modules():
        if sparse_class_of(module) is None or "forward" in vars(module):
            continue
        weight = parameters_of(module).get("weight")
        if weight is not None and names[id(weight)] == 1 and not weight.is_meta:
            yield path, module


def pattern_of(weight: Tensor) -> int:
    """A number that follows from where a weight is zero."""
    return checksum((weight.detach() != 0).flatten())


def with_kernels(model: nn.Module, choices: Choices) -> nn.Module:
    """`model` with the chosen sparse kernels in place, or what takes its place where it is itself a layer.

    Raises:
        ForeignChoicesError: the choices were measured on another machine, for another type or another model;
            of unchecked ones: a layer is missing or of another shape.
    """
    layers = dict(sparse_capable(unpacked_model(model)))
    fault = _unfit(layers, choices) or (_foreign(layers, choices) if choices.is_checked else None)
    if fault is not None:
        raise ForeignChoicesError(
            f"these choices are not for this: {fault}. Measure again with tune(plan, x), or pass "
            "choices.unchecked() to take them all the same."
        )
    return put_kernels(model, choices)


def put_kernels(model: nn.Module, choices: Choices) -> nn.Module:
    """The same for choices that were measured on this very model: nothing is checked."""
    for choice in choices.chosen:
        assert choice.chosen is not None
        unpack_layer(model, choice.path)
        layer = model.get_submodule(choice.path)
        model = replaced_layer(model, layer, sparse_layer_of(layer, choice.chosen))
    return unfused_layers(model)


def unfused_layers(model: nn.Module) -> nn.Module:
    """`model`, in which transformer layers of torch that hold sparse weights call their parts, in place.

    Else they would hand the dense weights to a kernel of their own. Encoders of such layers leave padded
    sequences padded, as only that kernel takes them cut.
    """
    for module in model.modules():
        is_sparse = any(isinstance(child, SparseModule) for child in module.modules())
        if is_sparse and isinstance(module, nn.TransformerEncoderLayer):
            module.activation_relu_or_gelu = 0
        elif is_sparse and isinstance(module, nn.TransformerEncoder):
            module.use_nested_tensor = False
    return model


def sparse_layer_of(layer: nn.Module, candidate: Candidate) -> SparseModule:
    """`layer` with the candidate's kernel."""
    kind = sparse_class_of(layer)
    assert kind is not None
    return kind.made_from(layer, candidate.kernel, candidate.side, candidate.is_ordered)


def replaced_layer(model: nn.Module, old: nn.Module, new: nn.Module) -> nn.Module:
    """`model`, changed in place: `new` is wherever `old` was. The very layer is replaced itself."""
    if model is old:
        return new
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if child is old:
                setattr(parent, name, new)
    return model


def dense_model(model: nn.Module) -> nn.Module:
    """A copy of `model` whose layers with sparse weights are layers of torch again, all else shared with it.

    `model` itself where there are none.
    """
    if not any(isinstance(module, SparseModule) for module in model.modules()):
        return model
    copied = share_module(model)
    for module in list(copied.modules()):
        if isinstance(module, SparseModule):
            copied = replaced_layer(copied, module, module.dense())
    for module in copied.modules():
        MultiheadAttention.release(module)
    return copied


def _unfit(layers: dict[str, nn.Module], choices: Choices) -> str | None:
    for choice in choices.chosen:
        if choice.path not in layers:
            return f"there is no layer {choice.path!r} that can have a sparse weight"
        shape = tuple(weight_of(layers[choice.path]).shape)
        if shape != choice.shape:
            return f"the weight of {choice.path!r} is of shape {shape}, measured was {choice.shape}"
        assert choice.chosen is not None
        if any(extent % choice.chosen.side for extent in shape[:2]):
            return f"the weight of {choice.path!r} is not of blocks of {choice.chosen.side}"
    return None


def _foreign(layers: dict[str, nn.Module], choices: Choices) -> str | None:
    for choice in choices.layers:
        layer = layers.get(choice.path)
        if layer is None or pattern_of(weight_of(layer)) != choice.pattern:
            return f"the weight of {choice.path!r} has its zeros elsewhere"
    for choice in choices.chosen:
        weight = weight_of(layers[choice.path])
        found = str(weight.dtype).removeprefix("torch.")
        if found != choices.dtype:
            return f"the model is of {found}, measured was {choices.dtype}"
        differences = list(choices.machine.differences(this_machine(weight.device)))
        if differences:
            return ", ".join(differences)
    return None


def weight_of(layer: nn.Module) -> Tensor:
    """The weight of a layer that can have a sparse one."""
    weight = layer.weight
    assert isinstance(weight, torch.Tensor)
    return weight


def matrix_of(layer: nn.Module) -> Tensor:
    """The weight of a layer that can have a sparse one, as (outputs, inputs), without gradient."""
    kind = sparse_class_of(layer)
    assert kind is not None
    return kind.as_matrix(weight_of(layer).detach())
