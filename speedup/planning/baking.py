"""Which computed weights of a model are constants, so that the small model can hold them as plain weights.

A weight that `torch.nn.utils` computes from parameters is the same in each forward, unless the forward has a
hand in it. Whether it has, a forward shows: afterwards each weight is computed anew, and the model with plain
weights has to return the same. Where anything is otherwise, all stay computed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from speedup.building.comparison import Comparison
from speedup.errors import InputError, OutputError
from speedup.ir.inputs import Example
from speedup.ir.paths import join_path
from speedup.masks import Masks, apply_masks
from speedup.modules.copying import share_module
from speedup.modules.isolation import isolated
from speedup.modules.reparametrized import Computed, Plain, computed_weights, plain_copy, plain_names
from speedup.torch_api import tree_leaves, version_of

Reparametrized: TypeAlias = Literal["bake", "keep"]


def require_reparametrized(given: Any) -> None:
    """Raise unless it is one of the two.

    Raises:
        InputError: it is not.
    """
    if given not in get_args(Reparametrized):
        raise InputError(
            f"reparametrized={given!r} is neither {' nor '.join(map(repr, get_args(Reparametrized)))}"
        )


def bake(model: nn.Module, masks: Masks, calls: Sequence[Example]) -> tuple[Plain, Masks]:
    """`model` with its constant weights as plain parameters, and its masks by the names that these have.

    Computed weights stay so whose own parameters are masked (other than of `torch.nn.utils.prune`) or belong
    to something else too, and all where a forward shows that it has a hand in one.
    """
    chosen = _lasting(model, _free(model, computed_weights(model), masks))
    if not chosen:
        return Plain(model), masks
    plain = plain_copy(model, chosen)
    found = plain_names(masks, model, chosen, plain)
    renamed = masks if found.keys() == masks.keys() else Masks(found)
    with isolated():
        if not all(_is_alike(model, masks, plain.model, renamed, chosen, call) for call in calls):
            return Plain(model), masks
    return plain, renamed


def _free(model: nn.Module, found: Sequence[Computed], masks: Masks) -> tuple[Computed, ...]:
    """Those without whose originals nothing else misses a parameter, or a mask its own."""
    held = dict(model.named_parameters(remove_duplicate=False))
    holders: dict[int, set[str]] = {}
    for path, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            holders.setdefault(id(parameter), set()).add(join_path(path, name))
    masked = {id(held[name]) for name in masks}
    chosen = found
    while True:
        going = {name for one in chosen for name in one.sources}
        modules = {
            one.path
            for one in chosen
            for name in one.sources
            if name in held
            and (holders[id(held[name])] - going or (id(held[name]) in masked and not one.way.keeps_places))
        }
        if not modules:
            return tuple(chosen)
        chosen = tuple(one for one in chosen if one.path not in modules)


def _lasting(model: nn.Module, found: Sequence[Computed]) -> tuple[Computed, ...]:
    """Those that come out the same twice, and finite."""
    if not found:
        return ()
    with isolated(), torch.no_grad():
        trial = share_module(model).eval()
        fleeting = {one.path for one in found if not _is_lasting(one, trial)}
    return tuple(one for one in found if one.path not in fleeting)


def _is_lasting(one: Computed, model: nn.Module) -> bool:
    try:
        value, again = one.value_in(model), one.value_in(model)
    except Exception:  # a parametrization is anybody's code
        return False
    if value.is_meta:
        return True
    return torch.equal(value, again) and bool(torch.isfinite(value).all())


def _is_alike(
    model: nn.Module,
    masks: Masks,
    plain: nn.Module,
    renamed: Masks,
    chosen: Sequence[Computed],
    call: Example,
) -> bool:
    """Whether a forward leaves alone what weights are computed from, and the plain model does the same."""
    if any(tensor.is_meta for tensor in (*call.tensors, *model.parameters())):
        return True
    masked, candidate = apply_masks(model, masks).eval(), apply_masks(plain, renamed).eval()
    comparison = Comparison(masked, candidate, call, 0.0)
    try:
        before = _readings(chosen, masked)
        reference = comparison.reference(call.tensors)
        _run(masked, call)
    except Exception:  # what a model raises is told when it is traced
        return True
    if not _is_same(before, _readings(chosen, masked)):
        return False
    try:
        comparison.error(call.tensors, reference, None)
    except OutputError:
        return False
    return True


def _run(model: nn.Module, call: Example) -> None:
    args, kwargs = call.with_fresh_objects().call([tensor.clone() for tensor in call.tensors])
    with torch.no_grad():
        model(*args, **kwargs)


def _readings(chosen: Iterable[Computed], model: nn.Module) -> list[tuple[Tensor, list[tuple[Tensor, int]]]]:
    """Each weight, with the tensors that it is computed from and how often these were written to."""
    found = []
    for one in chosen:
        with torch.no_grad(), _Reading() as reading:
            value = one.value_in(model)
        found.append((value.clone(), [(tensor, version_of(tensor)) for tensor in reading.read.values()]))
    return found


def _is_same(before: Collection[Any], after: Collection[Any]) -> bool:
    return all(
        torch.equal(value, again)
        and len(read) == len(reread)
        and all(a is b and n == m for (a, n), (b, m) in zip(read, reread, strict=True))
        for (value, read), (again, reread) in zip(before, after, strict=True)
    )


class _Reading(TorchFunctionMode):
    """Collects the tensors that code reads and has not made itself."""

    def __init__(self) -> None:
        super().__init__()
        self.read: dict[int, Tensor] = {}
        self._made: dict[int, Tensor] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run `func`, noting its operands and results."""
        for leaf in tree_leaves((args, kwargs or {})):
            if isinstance(leaf, Tensor) and id(leaf) not in self._made:
                self.read[id(leaf)] = leaf
        result = func(*args, **(kwargs or {}))
        self._made |= {id(leaf): leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)}
        return result
