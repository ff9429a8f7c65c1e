"""Weights that `torch.nn.utils` computes anew before each forward, and copies that hold them as plain ones.

A pruned weight is `weight_orig * weight_mask`; `parametrize`, `weight_norm` and `spectral_norm` compute
others. Of each, the originals stand for the weight as parameters of the model; other tensors may take part.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, TypeVar

import torch
from attrs import frozen
from torch import Tensor, nn
from torch.nn.utils import parametrize, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm, SpectralNormLoadStateDictPreHook
from torch.nn.utils.weight_norm import WeightNorm

from speedup.ir.paths import is_within, join_path
from speedup.modules.copying import share_module
from speedup.modules.layouts import laid_out_like
from speedup.torch_api import load_pre_hooks_of, parameters_of, pre_hooks_of, pruned_name_of

_HookT = TypeVar("_HookT", WeightNorm, SpectralNorm)
# An attribute, its originals, and what else it is computed from.
_Found = tuple[str, tuple[str, ...], tuple[str, ...]]


@frozen(eq=False)
class Way:
    """One of torch's ways to compute a weight.

    Attributes:
        found_in: of a module, each attribute that is computed so, its originals, and what else counts.
        value: of a module and such an attribute, the tensor in eval mode. Tensors stay as they are.
        end: take all that computes the attribute away from a module, in place, the attribute included.
        keeps_places: an element of the weight is zero wherever that of its one original is.
    """

    found_in: Callable[[nn.Module], Iterable[_Found]]
    value: Callable[[nn.Module, str], Tensor]
    end: Callable[[nn.Module, str], None]
    keeps_places: bool = False


@frozen(eq=False)
class Computed:
    """A weight that module `path` computes; `originals` and `others` are names in the model."""

    path: str
    attribute: str
    originals: tuple[str, ...]
    others: tuple[str, ...]
    way: Way

    @property
    def name(self) -> str:
        """The weight's name in the model, which that of a plain weight is too."""
        return join_path(self.path, self.attribute)

    @property
    def sources(self) -> tuple[str, ...]:
        """The names of all tensors that it is computed from."""
        return (*self.originals, *self.others)

    def value_in(self, model: nn.Module) -> Tensor:
        """The weight in eval mode, of a model whose flags may change."""
        return self.way.value(model.get_submodule(self.path), self.attribute)


@frozen(eq=False)
class Plain:
    """A model some of whose computed weights are plain parameters; `made` are the names of these.

    It shares all other tensors with the model that it was made from, or is that model.
    """

    model: nn.Module
    made: frozenset[str] = frozenset()


def computed_weights(model: nn.Module) -> tuple[Computed, ...]:
    """The weights of `model` that torch.nn.utils computes, without computed sources of others."""
    found: list[Computed] = []
    for path, module in model.named_modules():
        inner = (one for one in found if is_within(path, f"{one.path}.parametrizations".lstrip(".")))
        if next(inner, None) is None:
            found += _computed_by(path, module)
    return tuple(found)


def _computed_by(path: str, module: nn.Module) -> Iterator[Computed]:
    for way in _WAYS:
        for attribute, originals, others in way.found_in(module):
            first, rest = (tuple(join_path(path, name) for name in part) for part in (originals, others))
            yield Computed(path, attribute, first, rest, way)


def plain_copy(model: nn.Module, chosen: Collection[Computed]) -> Plain:
    """A copy of `model` in which the `chosen` weights are plain; all other tensors are those of `model`.

    Of a parametrized module all are chosen or none. Where two are computed from the same originals and come
    out the same, they are one parameter. Without any, it is `model` itself.
    """
    if not chosen:
        return Plain(model)
    copied = share_module(model)
    held = _tensors_of(copied)
    given = [(one, _plain_tensor(one, copied, held)) for one in chosen]
    for one in chosen:
        one.way.end(copied.get_submodule(one.path), one.attribute)
    first: dict[tuple[int, ...], list[Tensor]] = {}
    for one, tensor in given:
        alike = first.setdefault(tuple(id(held[name]) for name in one.originals), [])
        tied = next((other for other in alike if _is_same(other, tensor)), tensor)
        alike.append(tied)
        _give(copied.get_submodule(one.path), one.attribute, tied)
    return Plain(copied, frozenset(one.name for one in chosen))


def as_planned(model: nn.Module, names: Collection[str]) -> Plain:
    """`model` as a plan about tensors of these `names` has it: those weights are plain that it names."""
    return plain_copy(model, [one for one in computed_weights(model) if one.name in names])


def plain_names(
    masks: Mapping[str, Tensor], model: nn.Module, chosen: Iterable[Computed], plain: Plain
) -> Mapping[str, Tensor]:
    """`masks`, of parameters of `model`, as those of `plain`, where the `chosen` weights are plain.

    A mask of an original whose places the weight keeps becomes one of the weight.
    """
    first = {id(tensor): name for name, tensor in model.named_parameters()}
    held, own = _tensors_of(model), _tensors_of(plain.model)
    canonical = {id(tensor): name for name, tensor in plain.model.named_parameters()}
    found = {name: mask for name, mask in masks.items() if name in own}
    for one in chosen:
        mask = masks.get(first[id(held[one.originals[0]])]) if one.way.keeps_places else None
        if mask is not None:
            name = canonical[id(own[one.name])]
            found[name] = found[name] & mask if name in found else mask
    return MappingProxyType(found)


def _tensors_of(model: nn.Module) -> Mapping[str, Tensor]:
    parameters = model.named_parameters(remove_duplicate=False)
    return {**dict(parameters), **dict(model.named_buffers(remove_duplicate=False))}


def _plain_tensor(one: Computed, model: nn.Module, held: Mapping[str, Tensor]) -> Tensor:
    """The weight as a tensor of its own: a parameter where an original is one."""
    with torch.no_grad():
        value = one.value_in(model).detach().clone()
    originals = [held[name] for name in one.originals]
    if one.way.keeps_places:
        value = laid_out_like(value, originals[0])
    if not any(isinstance(tensor, nn.Parameter) for tensor in originals):
        return value
    return nn.Parameter(value, requires_grad=any(tensor.requires_grad for tensor in originals))


def _is_same(one: Tensor, other: Tensor) -> bool:
    alike = one.shape == other.shape and one.dtype == other.dtype
    return alike and not one.is_meta and torch.equal(one, other)


def _give(module: nn.Module, attribute: str, tensor: Tensor) -> None:
    if isinstance(tensor, nn.Parameter):
        # Not registered, but set: recurrent layers then know of it.
        setattr(module, attribute, tensor)
    else:
        module.register_buffer(attribute, tensor)


def _if_held(
    module: nn.Module, attribute: str, originals: tuple[str, ...], others: tuple[str, ...]
) -> Iterator[_Found]:
    """The attribute, unless an original is computed itself, as where one of weight_norm's was pruned."""
    own = parameters_of(module)
    if all(own.get(name) is not None for name in originals):
        yield attribute, originals, others


def _hook(module: nn.Module, kind: type[_HookT], attribute: str) -> _HookT:
    """The hook of a kind that computes an attribute of `module`, which it calls its `name`."""
    hooks = (hook for hook in pre_hooks_of(module).values() if isinstance(hook, kind))
    return next(hook for hook in hooks if hook.name == attribute)


def _pruned(module: nn.Module) -> Iterator[_Found]:
    for hook in pre_hooks_of(module).values():
        if isinstance(hook, BasePruningMethod):
            name = pruned_name_of(hook)
            yield from _if_held(module, name, (f"{name}_orig",), (f"{name}_mask",))


def _pruned_value(module: nn.Module, attribute: str) -> Tensor:
    hooks = (hook for hook in pre_hooks_of(module).values() if isinstance(hook, BasePruningMethod))
    hook: Any = next(hook for hook in hooks if pruned_name_of(hook) == attribute)
    value: Tensor = hook.apply_mask(module)
    return value


def _end_pruning(module: nn.Module, attribute: str) -> None:
    # `prune.remove` would write to the original, which is not this module's alone.
    hooks = pre_hooks_of(module)
    for key, hook in [*hooks.items()]:
        if isinstance(hook, BasePruningMethod) and pruned_name_of(hook) == attribute:
            del hooks[key]
    for name in (f"{attribute}_orig", f"{attribute}_mask"):
        delattr(module, name)
    vars(module).pop(attribute, None)


def _weight_normed(module: nn.Module) -> Iterator[_Found]:
    for hook in pre_hooks_of(module).values():
        if isinstance(hook, WeightNorm):
            yield from _if_held(module, hook.name, (f"{hook.name}_g", f"{hook.name}_v"), ())


def _weight_normed_value(module: nn.Module, attribute: str) -> Tensor:
    value: Tensor = _hook(module, WeightNorm, attribute).compute_weight(module)
    return value


def _end_weight_norm(module: nn.Module, attribute: str) -> None:
    remove_weight_norm(module, attribute)
    delattr(module, attribute)


def _spectral_normed(module: nn.Module) -> Iterator[_Found]:
    for hook in pre_hooks_of(module).values():
        if isinstance(hook, SpectralNorm):
            vectors = (f"{hook.name}_u", f"{hook.name}_v")
            yield from _if_held(module, hook.name, (f"{hook.name}_orig",), vectors)


def _spectral_normed_value(module: nn.Module, attribute: str) -> Tensor:
    return _hook(module, SpectralNorm, attribute).compute_weight(module, do_power_iteration=False)


def _end_spectral_norm(module: nn.Module, attribute: str) -> None:
    remove_spectral_norm(module, attribute)
    delattr(module, attribute)
    # torch leaves the hook that would ask a state dict for the originals, since it is wrapped.
    hooks = load_pre_hooks_of(module)
    for key, hook in [*hooks.items()]:
        own = getattr(hook, "hook", hook)
        if isinstance(own, SpectralNormLoadStateDictPreHook) and own.fn.name == attribute:
            del hooks[key]


def _parametrized(module: nn.Module) -> Iterator[_Found]:
    if not parametrize.is_parametrized(module):
        return
    assert isinstance(module.parametrizations, nn.ModuleDict), "this is what is_parametrized asks"
    for attribute, computing in module.parametrizations.items():
        held = _tensors_of(computing)
        names = {name: f"parametrizations.{attribute}.{name}" for name in held}
        own = tuple(full for name, full in names.items() if "." not in name)
        yield attribute, own, tuple(full for full in names.values() if full not in own)


def _parametrized_value(module: nn.Module, attribute: str) -> Tensor:
    assert isinstance(module.parametrizations, nn.ModuleDict), "it was found to be parametrized"
    value: Tensor = module.parametrizations[attribute].eval()()
    return value


def _end_parametrization(module: nn.Module, attribute: str) -> None:
    assert isinstance(module.parametrizations, nn.ModuleDict), "it was found to be parametrized"
    del module.parametrizations[attribute]
    if not module.parametrizations:
        del module.parametrizations
        # Its class was made for it, from the one that it had before.
        module.__class__ = type(module).__bases__[0]


_WAYS = (
    Way(_pruned, _pruned_value, _end_pruning, keeps_places=True),
    Way(_weight_normed, _weight_normed_value, _end_weight_norm),
    Way(_spectral_normed, _spectral_normed_value, _end_spectral_norm),
    Way(_parametrized, _parametrized_value, _end_parametrization),
)
