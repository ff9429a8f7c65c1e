"""Numbers, words, tuples and the arguments of calls in JSON's terms, with nothing lost on the way."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, get_args, get_origin

import cattrs
import torch
from cattrs.cols import homogenous_tuple_structure_factory
from cattrs.gen import make_hetero_tuple_structure_fn
from torch import Tensor

from speedup.errors import PlanFormatError
from speedup.ir.inputs import Example, Sketch, drawn_example, sketch_of
from speedup.ir.tensor_text import (
    shape_from_text,
    tensor_from_text,
    tensor_text,
    type_from_text,
    type_text,
)

_WORDS: Mapping[str, float] = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}
# Longer inputs of floating-point numbers are sketched.
_SHORT = 1024


def require_list(given: Any) -> list[Any]:
    """`given`, if it is a list.

    Raises:
        TypeError: it is not.
    """
    found: list[Any] = _exactly(list, given)
    return found


def _exactly(kind: type, given: Any, _: Any = None) -> Any:
    if type(given) is not kind:
        raise TypeError(f"{json.dumps(given)[:40]} is no {kind.__name__}")
    return given


def value_to_json(value: Any) -> Any:
    """A number, a word, None, or tuples of these."""
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}
    if isinstance(value, tuple):
        return [value_to_json(part) for part in value]
    return value


def value_from_json(given: Any) -> Any:
    """What `value_to_json` wrote.

    Raises:
        TypeError: it is something else.
    """
    if isinstance(given, list):
        return tuple(value_from_json(part) for part in given)
    return _number(given) if isinstance(given, dict) else given


def _number(given: Any, _: Any = None) -> float:
    if isinstance(given, dict) and list(given) == ["float"] and given["float"] in _WORDS:
        return _WORDS[given["float"]]
    number: float = _exactly(float, given)
    return number


def add_values(converter: cattrs.Converter) -> None:
    """Let a converter take values of exactly the declared types, and tuples from lists only."""
    for kind in (int, str, bool):
        converter.register_structure_hook(kind, partial(_exactly, kind))
    converter.register_unstructure_hook(float, value_to_json)
    converter.register_structure_hook(float, _number)
    converter.register_unstructure_hook(torch.dtype, type_text)
    converter.register_structure_hook(torch.dtype, lambda given, _: type_from_text(given))

    @converter.register_structure_hook_factory(_is_tuple)
    def from_list(kind: Any, converter: cattrs.Converter) -> Callable[[Any, Any], Any]:
        is_uniform = get_args(kind)[-1] is Ellipsis
        make = homogenous_tuple_structure_factory if is_uniform else make_hetero_tuple_structure_fn
        inner: Callable[[Any, Any], Any] = make(kind, converter)
        return lambda given, wanted: inner(require_list(given), wanted)

    @converter.register_structure_hook_factory(_is_set)
    def set_from_list(kind: Any, converter: cattrs.Converter) -> Callable[[Any, Any], Any]:
        members: Any = tuple[(*get_args(kind), ...)]  # type: ignore[misc]
        return lambda given, _: frozenset(converter.structure(given, members))

    @converter.register_unstructure_hook_factory(_is_set)
    def set_in_order(kind: Any, converter: cattrs.Converter) -> Callable[[Any], Any]:
        return lambda found: sorted(converter.unstructure(one) for one in found)


def _is_tuple(kind: Any) -> bool:
    return get_origin(kind) is tuple


def _is_set(kind: Any) -> bool:
    return get_origin(kind) is frozenset


def json_of_call(example: Example) -> dict[str, Any]:
    """The arguments of a call. Long tensors of floating-point numbers are sketched, others written whole.

    Raises:
        PlanFormatError: an argument is of another kind.
    """
    args, kwargs = example.template
    return {
        "args": [_argument_to_json(argument) for argument in args],
        "kwargs": {name: _argument_to_json(argument) for name, argument in kwargs.items()},
    }


def call_from_json(given: Any) -> Example:
    """The call that `json_of_call` wrote; tensors that were sketched are drawn.

    Raises:
        TypeError, ValueError: it is something else.
    """
    if not isinstance(given, dict) or set(given) != {"args", "kwargs"}:
        raise TypeError("a call is written as args and kwargs")
    keywords = _exactly(dict, given["kwargs"])
    return drawn_example(
        [_argument_from_json(argument) for argument in require_list(given["args"])],
        {name: _argument_from_json(argument) for name, argument in keywords.items()},
    )


def _argument_to_json(argument: Any) -> Any:
    match argument:
        case Sketch(shape, dtype, mean, spread):
            numbers = {"mean": value_to_json(mean), "spread": value_to_json(spread)}
            return {"sketch": {"dtype": type_text(dtype), "shape": list(shape), **numbers}}
        case Tensor():
            is_float = argument.is_floating_point() or argument.is_complex()
            if argument.is_meta or (is_float and argument.numel() > _SHORT):
                return _argument_to_json(sketch_of(argument))
            return {"tensor": tensor_text(argument)}
        case torch.dtype():
            return {"dtype": type_text(argument)}
        case bool() | int() | float() | str() | None:
            return value_to_json(argument)
    if type(argument) is list:
        return [_argument_to_json(part) for part in argument]
    if type(argument) is tuple:
        return {"tuple": [_argument_to_json(part) for part in argument]}
    if type(argument) is dict and all(isinstance(name, str) for name in argument):
        return {"dict": {name: _argument_to_json(part) for name, part in argument.items()}}
    raise PlanFormatError(
        f"the example input holds a {type(argument).__name__}, which cannot be written as text. Plan with "
        "tensors, numbers and strings, in lists, tuples and dicts."
    )


def _argument_from_json(given: Any) -> Any:
    if isinstance(given, list):
        return [_argument_from_json(part) for part in given]
    if not isinstance(given, dict):
        return given
    (kind, content), *rest = given.items() or [("", None)]
    match kind, content:
        case _ if rest:
            raise ValueError("an argument is written as one of tensor, sketch, tuple, dict, dtype, float")
        case "tensor", _:
            return tensor_from_text(content)
        case "sketch", {"dtype": dtype, "shape": shape, "mean": mean, "spread": spread}:
            return Sketch(shape_from_text(shape), type_from_text(dtype), _number(mean), _number(spread))
        case "tuple", list():
            return tuple(_argument_from_json(part) for part in content)
        case "dict", dict():
            return {name: _argument_from_json(part) for name, part in content.items()}
        case "dtype", _:
            return type_from_text(content)
    return _number(given)
