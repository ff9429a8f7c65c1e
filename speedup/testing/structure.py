"""What a small model must have in common with the model that it was made from, besides its outputs."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn


def foreign_traits(small: nn.Module, model: nn.Module) -> Iterator[str]:
    """Each way, in words, in which `small` is not the same build as `model` with smaller tensors."""
    modules, own = dict(model.named_modules()), dict(small.named_modules())
    if own.keys() != modules.keys():
        yield f"modules came or went: {', '.join(sorted(own.keys() ^ modules.keys()))}"
        return
    for name, module in modules.items():
        where = f"module {name!r}" if name else "the model"
        # A drop-in is a subclass of what it stands for.
        if not isinstance(own[name], type(module)):
            yield f"{where} is {type(own[name]).__name__}, not {type(module).__name__}"
        if own[name].training != module.training:
            yield f"{where} has training={own[name].training}, not {module.training}"
    yield from _foreign_parameters(small, model)
    shared = _storages(small) & _storages(model)
    if shared:
        yield f"{len(shared)} storages are shared by the small model and the given one"


def _foreign_parameters(small: nn.Module, model: nn.Module) -> Iterator[str]:
    parameters = dict(model.named_parameters())
    for name, parameter in small.named_parameters():
        original = parameters.get(name)
        if original is None:
            # Absorbed constants may need a bias where there was none.
            if name.rpartition(".")[2] != "bias":
                yield f"parameter {name!r} is new"
            continue
        sizes, given = tuple(parameter.shape), tuple(original.shape)
        fits = len(sizes) == len(given) and all(0 < new <= old for new, old in zip(sizes, given, strict=True))
        if not fits and sizes != given:
            yield f"parameter {name!r} of shape {given} became {sizes}"
        if parameter.requires_grad != original.requires_grad:
            yield f"parameter {name!r} has requires_grad={parameter.requires_grad}"
        if parameter.dtype != original.dtype:
            yield f"parameter {name!r} is {parameter.dtype}, not {original.dtype}"


def _storages(model: nn.Module) -> set[int]:
    # The address of an empty tensor is 0 and says nothing.
    tensors = [*model.parameters(), *model.buffers()]
    return {tensor.untyped_storage().data_ptr() for tensor in tensors if tensor.numel()}
