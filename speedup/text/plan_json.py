"""Plans as JSON text and back. What a plan consists of says how it is written, field by field.

Where the obvious form would be long or inexact there is another: lists of indices are ranges, and long ones
stand once in a table, tensors are base64, numbers that JSON does not know are words. Each edit, layer and
operation has its own line.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import cattrs
from attrs import frozen
from cattrs.gen import make_dict_structure_fn, make_dict_unstructure_fn, override
from cattrs.strategies import configure_tagged_union

from speedup._stable import PLAN_KEY
from speedup.errors import PlanFormatError
from speedup.ir.edits import (
    CombineColumns,
    ConstantTensor,
    Edit,
    MergeColumns,
    SetAttribute,
    Slice,
    SliceGroups,
)
from speedup.ir.inputs import Example
from speedup.ir.report import Portion, Report, Step
from speedup.ir.tensor_text import (
    mask_from_text,
    mask_text,
    tensor_from_text,
    tensor_text,
)
from speedup.masks import Masks
from speedup.modules.fingerprints import Fingerprint, ModuleFingerprint, TensorFingerprint
from speedup.parts import Expected, ExpectedOp, PlanParts, Subject
from speedup.text.index_sets import IndexSets, indices_of_shared, shared_indices, table_in_use
from speedup.text.json_values import (
    add_values,
    call_from_json,
    json_of_call,
    require_list,
    value_from_json,
    value_to_json,
)
from speedup.text.plan_checks import faults

VERSION = 6
# Plans of these versions are read as well.
_READ = (1, 2, 3, 4, 5, VERSION)
# Dictionaries this far out have a line for each entry.
_OUTER = 3


def text_of(plan: PlanParts) -> str:
    """The plan as JSON text; equal plans of equal models give equal texts.

    Raises:
        PlanFormatError: the example input holds something that text cannot.
    """
    with table_in_use(IndexSets()) as table:
        content = _converter().unstructure(plan, PlanParts)
    body = {"format": PLAN_KEY, "version": VERSION, "indices": table.entries, **content}
    return _laid_out(body) + "\n"


def parts_of(text: str | bytes) -> PlanParts:
    """The parts of the plan that `text_of` wrote.

    Raises:
        PlanFormatError: says what is wrong with the text.
    """
    body = _parse(text)
    try:
        with table_in_use(IndexSets(require_list(body.pop("indices", None)))):
            plan = _converter().structure(body, PlanParts)
    except Exception as error:  # a converter raises what the constructors do
        first = cattrs.transform_error(error, path="plan")[0]
        raise PlanFormatError(
            f"the text is not what Plan.to_json wrote: {first}. Write it again, or plan again."
        ) from error
    fault = next(faults(plan), None)
    if fault is not None:
        raise PlanFormatError(f"the plan contradicts itself: {fault}. Write it again, or plan again.")
    return plan


def _parse(text: str | bytes) -> dict[str, Any]:
    try:
        body = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError, TypeError) as error:
        raise PlanFormatError(
            f"the text is no whole JSON document ({error}); it may be truncated. Pass all that Plan.to_json "
            "wrote."
        ) from error
    if not isinstance(body, dict) or body.get("format") != PLAN_KEY:
        raise PlanFormatError(
            f'the text is no plan: it does not say "format": "{PLAN_KEY}". Pass what Plan.to_json wrote.'
        )
    version = body.get("version")
    if type(version) is not int or version not in _READ:
        raise PlanFormatError(
            f"the plan is written in version {version!r} of the format, and this release of speedup reads "
            f"versions {', '.join(map(str, _READ))}. Use the release that wrote it, or plan again."
        )
    content = {key: value for key, value in body.items() if key not in ("format", "version")}
    if version < VERSION and "indices" in content:
        raise PlanFormatError(f"the plan has a table of indices, which version {version} does not know")
    for earlier in range(version, VERSION):
        if earlier in _STEPS:
            content = _STEPS[earlier](content)
    return content


def _from_version_1(content: dict[str, Any]) -> dict[str, Any]:
    """Version 1 knew one call of a model, and no assumptions; version 2 lacks a kind of edits at most, and in
    version 3 every new bias is called so.
    """
    subject, report = content.get("subject"), content.get("report")
    if not isinstance(subject, dict) or not isinstance(report, dict):
        return content
    return {
        **content,
        "subject": {**subject, "others": [], "found": []},
        "report": {**report, "assumptions": []},
    }


def _from_version_5(content: dict[str, Any]) -> dict[str, Any]:
    """Version 5 had no table of indices, and what it expected of operations was bound to a device."""
    expected = content.get("expected")
    if not isinstance(expected, dict) or not isinstance(expected.get("ops"), list):
        return {"indices": [], **content}
    ops = [_without_device(op) for op in expected["ops"]]
    return {"indices": [], **content, "expected": {**expected, "ops": ops}}


def _without_device(op: Any) -> Any:
    arguments = op.get("arguments") if isinstance(op, dict) else None
    if not isinstance(arguments, list):
        return op
    return {**op, "arguments": [a for a in arguments if not (isinstance(a, list) and a[:1] == ["device"])]}


# What makes the next version of a plan's content, by version.
_STEPS: Mapping[int, Callable[[dict[str, Any]], dict[str, Any]]] = {1: _from_version_1, 5: _from_version_5}


def _refuse(word: str) -> Any:
    raise ValueError(f"{word} is no JSON")


def _laid_out(value: Any, depth: int = 0) -> str:
    if isinstance(value, dict) and value and depth < _OUTER:
        lines = [f"{json.dumps(key)}: {_laid_out(part, depth + 1)}" for key, part in value.items()]
        return "{\n" + ",\n".join(lines) + "\n}"
    if isinstance(value, list | tuple) and depth < _OUTER and any(isinstance(part, dict) for part in value):
        return "[\n" + ",\n".join(_laid_out(part, _OUTER) for part in value) + "\n]"
    return json.dumps(value, separators=(",", ":"), allow_nan=False, ensure_ascii=False)


@frozen
class _Form:
    """How a field is written, if not as its type says."""

    write: Callable[[Any], Any]
    read: Callable[[Any], Any]


_INDICES = _Form(shared_indices, indices_of_shared)
_LISTS_OF_INDICES = _Form(
    lambda found: [shared_indices(one) for one in found],
    lambda given: tuple(indices_of_shared(one) for one in require_list(given)),
)
_VALUE = _Form(value_to_json, value_from_json)

# What the format calls them, which never changes.
_KINDS: Mapping[type, str] = {TensorFingerprint: "TensorStamp", ModuleFingerprint: "ModuleStamp"}

_FORMS: Mapping[type, Mapping[str, _Form]] = {
    Slice: {"indices": _INDICES},
    SliceGroups: {"rows": _INDICES, "columns": _LISTS_OF_INDICES},
    MergeColumns: {"columns": _INDICES},
    CombineColumns: {"into": _INDICES, "columns": _INDICES},
    Step: {"indices": _INDICES},
    Portion: {"indices": _INDICES},
    SetAttribute: {"before": _VALUE, "after": _VALUE},
    ExpectedOp: {"operands": _VALUE, "arguments": _VALUE},
    Expected: {"outputs": _VALUE},
}


@cache
def _converter() -> cattrs.Converter:
    converter = cattrs.Converter(forbid_extra_keys=True, omit_if_default=False)
    add_values(converter)
    _add(
        converter,
        ConstantTensor,
        lambda f: tensor_text(f.tensor),
        lambda given: ConstantTensor(tensor_from_text(given)),
    )
    _add(converter, Masks, _masks_to_json, _masks_from_json)
    _add(converter, Example, json_of_call, call_from_json)
    for kind, forms in _FORMS.items():
        written = {name: override(unstruct_hook=form.write) for name, form in forms.items()}
        read = {name: override(struct_hook=_reading(form)) for name, form in forms.items()}
        _add_fields(converter, kind, written, read)
    # Plans that do not know these are written as they were.
    _add_fields(converter, Report, {name: override(omit_if_default=True) for name in ("asked", "size")}, {})
    _leave_out(converter, TensorFingerprint, "address")
    _leave_out(converter, ModuleFingerprint, "address")
    configure_tagged_union(Edit, converter, tag_name="kind")
    configure_tagged_union(Fingerprint, converter, tag_name="kind", tag_generator=_KINDS.__getitem__)
    # What holds members of a union comes after it.
    _leave_out(
        converter,
        Subject,
        "model",
        "rules",
        "keep",
        "lowerings",
        fingerprints="stamps",
        value_independent="free",
    )
    return converter


def _leave_out(converter: cattrs.Converter, kind: type, *names: str, **in_files: str) -> None:
    """Fields that only mean something in the process that planned; others have another name `in_files`."""
    how = {name: override(omit=True) for name in names}
    how |= {name: override(rename=other) for name, other in in_files.items()}
    _add_fields(converter, kind, how, how)


def _reading(form: _Form) -> Callable[[Any, Any], Any]:
    return lambda given, _: form.read(given)


def _add(
    converter: cattrs.Converter, kind: type, write: Callable[[Any], Any], read: Callable[[Any], Any]
) -> None:
    converter.register_unstructure_hook(kind, write)
    converter.register_structure_hook(kind, lambda given, _: read(given))


def _add_fields(
    converter: cattrs.Converter, kind: type, written: Mapping[str, Any], read: Mapping[str, Any]
) -> None:
    converter.register_unstructure_hook(kind, make_dict_unstructure_fn(kind, converter, **written))
    converter.register_structure_hook(kind, make_dict_structure_fn(kind, converter, **read))


def _masks_to_json(masks: Masks) -> dict[str, Any]:
    return {name: mask_text(mask, shared_indices) for name, mask in masks.items()}


def _masks_from_json(given: Any) -> Masks:
    if not isinstance(given, dict):
        raise TypeError("masks are written by name")
    return Masks({name: mask_from_text(mask, indices_of_shared) for name, mask in given.items()})
