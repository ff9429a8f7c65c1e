"""Example calls of operators, made from their schemas.

`calls_of` fills an operator's parameters by their types and names and tries tensors of some shapes and
dtypes until the operator runs on them. Where that is not enough, `call_hints` holds what to pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice, product
from typing import Any

import torch

from speedup.rules import Operator
from tests.support.call_hints import HINTS
from tests.support.samplers import mixed, mixed_flags, mixed_integers, mixed_pairs
from tests.support.soundness import Case, Sampler, Shape, Tensors, direct_case

Overload = torch._ops.OpOverload

LIMIT = 3
# By the position of the tensor in the call; the last one serves all that follow.
SHAPES: tuple[tuple[Shape, ...], ...] = (
    ((2, 3, 4),),
    ((2, 3, 4), (3, 1), (4,)),
    ((3, 1), (2, 3, 4), (1, 4)),
    ((2, 4, 3, 6),),
    ((4, 4),),
    ((6,),),
    ((2, 3, 2, 4, 4),),
)
SAMPLERS: tuple[Sampler, ...] = (mixed, mixed_integers, mixed_flags, mixed_pairs)
NAMED: Mapping[str, Any] = {
    "dim": 1,
    "dtype": torch.float64,
    "train": False,
    "rounding_mode": "floor",
    "approximate": "none",
}
TYPED: Mapping[str, Any] = {
    "int": 1,
    "float": 0.5,
    "bool": False,
    "number": 0.5,
    "Device": torch.device("cpu"),
}
# Which of these a call has by default and which it is given is tried in turn.
VARIED: Mapping[str, tuple[Any, ...]] = {"dim": (1, 0), "dims": ([1, 2], [1]), "keepdim": (True,)}


def overloads_of(key: Operator | str) -> tuple[Overload, ...]:
    """The overloads that the key of a table of rules stands for and that a functional graph may hold."""
    if isinstance(key, str):
        namespace, name = key.split("::")
        found = getattr(getattr(torch.ops, namespace), name, None)
        return () if found is None else overloads_of(found)
    if isinstance(key, Overload):
        return (key,)
    every = tuple(getattr(key, name) for name in key.overloads())
    return tuple(o for o in every if _is_traced(o)) or every


def _is_traced(overload: Overload) -> bool:
    """Whether the overload works on tensors and writes to none; others only serve TorchScript."""
    schema = overload._schema
    types = [str(p.type) for p in schema.arguments]
    tensors = [t for t in (*types, *(str(r.type) for r in schema.returns)) if "Tensor" in t]
    return (
        bool(tensors)
        and not schema.is_mutable
        and not any("Dimname" in str(p.type) or p.is_out for p in schema.arguments)
        and not any("prim" in overload._overloadname or t in ("List[t]", "Dict[str, t]") for t in types)
        and torch._C._dispatch_has_kernel(overload._name)
    )


def calls_of(overload: Overload) -> list[Case]:
    """Up to `LIMIT` example calls, or all hinted ones, that the operator runs on."""
    name = overload._schema.name.removeprefix("aten::")
    qualified = f"{name}.{overload._overloadname or 'default'}"
    hints = HINTS.get(qualified, HINTS.get(name))
    if hints is None:
        return list(islice(_attempts(overload), LIMIT))
    found = [_attempt(overload, hint, (mixed,), SHAPES[0], {}) for hint in hints]
    return [one for one in found if one is not None]


def _attempts(overload: Overload) -> Iterator[Case]:
    for sampler in SAMPLERS:
        worked = False
        for shapes, variation in _combinations(overload):
            one = _attempt(overload, {}, (sampler,), shapes, variation)
            if one is not None:
                worked = True
                yield one
        if worked:
            return


def _combinations(overload: Overload) -> Iterator[tuple[Sequence[Shape], Mapping[str, Any]]]:
    variations: list[Mapping[str, Any]] = [{}]
    for parameter in overload._schema.arguments:
        name = "dims" if parameter.name == "dim" and "List" in str(parameter.type) else parameter.name
        variations += [{parameter.name: value} for value in VARIED.get(name, ())]
    if len(variations) == 1:
        yield from product(SHAPES, variations)
        return
    yield from ((SHAPES[0], one) for one in variations)
    yield from ((shapes, variations[0]) for shapes in SHAPES[3:])


def _attempt(
    overload: Overload,
    hint: Mapping[str, Any],
    samplers: Sequence[Sampler],
    shapes: Sequence[Shape],
    variation: Mapping[str, Any],
) -> Case | None:
    """The call with these choices; None if the operator does not take them."""
    supply = iter((*shapes, *[shapes[-1]] * 8))
    positional: list[Any] = []
    keywords: dict[str, Any] = {}
    for parameter in overload._schema.arguments:
        if parameter.name in hint:
            value = hint[parameter.name]
        elif parameter.name in variation:
            value = variation[parameter.name]
        elif parameter.has_default_value():
            value = parameter.default_value
        else:
            value = _value(parameter, supply, samplers[0])
        if parameter.kwarg_only:
            keywords[parameter.name] = value
        else:
            positional.append(value)
    try:
        return direct_case(overload, *positional, **keywords)
    except (RuntimeError, IndexError, ValueError, TypeError, NotImplementedError):
        if hint:
            raise
        return None


def _value(parameter: torch.Argument, supply: Iterator[Shape], sampler: Sampler) -> Any:
    kind = str(parameter.type)
    if kind == "Tensor":
        return Tensors(next(supply), sampler)
    if kind == "List[Tensor]":
        shape = next(supply)
        return [Tensors(shape, sampler), Tensors(shape, sampler)]
    if parameter.name in NAMED:
        return NAMED[parameter.name]
    if kind.startswith("Optional"):
        return None
    if kind == "number" and sampler is not mixed:
        return 2
    return TYPED.get(kind, [1] if kind.startswith("List") else None)
