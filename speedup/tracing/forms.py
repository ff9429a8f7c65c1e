"""What operators return for tensors without data, remembered: layers are many, their sizes few.

To run an operator takes many times as long as to make the tensor that it returns, as torch takes most of them
apart. A call of operands of the same forms, with the same other arguments, returns a tensor of the same form.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import torch
from attrs import frozen
from torch import Tensor

from speedup.torch_api import (
    FakeTensorMode,
    Overload,
    has_known_numbers,
    hollow_tensor,
    is_alias_of,
    is_fake,
    schema_of,
)

# What a cast of torch.autocast depends on is known for these.
_DEVICES = ("cpu", "cuda", "meta")
_AUTOCASTS = ("cpu", "cuda")
# A bound of what a process remembers.
_MOST_SEEN = 1 << 16
_PLAIN = (bool, int, float, complex, str, type(None))
_SETTINGS = (torch.dtype, torch.device, torch.layout, torch.memory_format)


@frozen
class Form:
    """All of a tensor without data that decides what operators make of it."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    @classmethod
    def of(cls, tensor: Tensor) -> Form:
        return cls(tuple(tensor.shape), tensor.stride(), tensor.dtype, tensor.device)


_seen: dict[Any, tuple[Form, ...]] = {}
"""The forms of results by operator and arguments, of all traces of a process."""


class Forms:
    """What operators return in one trace."""

    def __init__(self, fakes: FakeTensorMode) -> None:
        self._fakes = fakes

    def call(self, func: Overload, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """What `func` returns; it is run where none of its calls was of this form."""
        key = _key(func, args, kwargs)
        if key in _seen:
            made = tuple(map(self._hollow, _seen[key]))
            return made if len(made) > 1 else made[0]
        result = func(*args, **kwargs)
        results = result if isinstance(result, tuple) else (result,)
        if key is not None and all(_is_plain(r) and not _is_given(r, (args, kwargs)) for r in results):
            if len(_seen) >= _MOST_SEEN:
                _seen.clear()
            _seen[key] = tuple(map(Form.of, results))
        return result

    def _hollow(self, form: Form) -> Tensor:
        return hollow_tensor(form.shape, form.strides, form.dtype, form.device, self._fakes)


def _key(func: Overload, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """What the forms of results follow from; None where that is not known."""
    if not _returns_new(func) or torch.is_grad_enabled():
        return None
    try:
        key = func, _form(args), _form(kwargs)
    except _UnknownFormError:
        return None
    casts = (torch.is_autocast_enabled(d) and torch.get_autocast_dtype(d) for d in _AUTOCASTS)
    return *key, torch.get_default_dtype(), *casts


class _UnknownFormError(Exception):
    """A result may depend on more of an argument than its form."""


@cache
def _returns_new(func: Overload) -> bool:
    """Whether an operator of torch's own writes nothing, and returns tensors that are no views."""
    schema = schema_of(func)
    arguments = (*schema.arguments, *schema.returns)
    kinds = {str(one.type) for one in schema.returns}
    return func.namespace == "aten" and kinds == {"Tensor"} and all(a.alias_info is None for a in arguments)


def _is_plain(tensor: Any) -> bool:
    """Whether it is a tensor without data, of which nothing is put off and no number is known."""
    if not isinstance(tensor, Tensor) or not is_fake(tensor) or tensor.device.type not in _DEVICES:
        return False
    return not (tensor.is_conj() or tensor.is_neg() or has_known_numbers(tensor))


def _form(argument: Any) -> Any:
    """What an argument is as far as the form of a result goes."""
    if isinstance(argument, Tensor):
        if not _is_plain(argument):
            raise _UnknownFormError
        return Form.of(argument)
    if isinstance(argument, list | tuple):
        return tuple(map(_form, argument))
    if isinstance(argument, dict):
        return tuple((name, _form(one)) for name, one in argument.items())
    if type(argument) in _PLAIN:
        # 1 and True would be one key, and so would 1 and 1.0.
        return type(argument), argument
    if isinstance(argument, _SETTINGS):
        return argument
    raise _UnknownFormError


def _is_given(result: Tensor, argument: Any) -> bool:
    """Whether an operator has handed on a tensor that it was given, as it may where nothing is to be done."""
    return any(is_alias_of(result, one) for one in _tensors_in(argument))


def _tensors_in(argument: Any) -> Iterator[Tensor]:
    if isinstance(argument, Tensor):
        yield argument
    elif isinstance(argument, list | tuple):
        for one in argument:
            yield from _tensors_in(one)
    elif isinstance(argument, dict):
        yield from _tensors_in(tuple(argument.values()))
