"""The state of an optimizer of the planned model becomes one for the small model's parameters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any

import torch
from attrs import frozen
from torch import Tensor

from speedup.cutting.boxes import changed_where_it_lies, is_sharded
from speedup.cutting.planned import PlannedTensors
from speedup.errors import OptimizerStateError
from speedup.modules.plannable import require_plain_tensor
from speedup.parts import PlanParts


@frozen
class _Form:
    """An optimizer that treats each entry of a parameter by itself.

    It is known by the `settings` that its groups have. Of a parameter's state `moments` have an entry for
    each of the parameter's, and `counts` are numbers of steps.
    """

    names: str
    settings: frozenset[str]
    moments: frozenset[str]
    counts: frozenset[str] = frozenset()


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_FORMS = (
    _Form(
        "Adam and AdamW",
        _words("betas eps amsgrad maximize"),
        _words("exp_avg exp_avg_sq max_exp_avg_sq"),
        _words("step"),
    ),
    _Form("SGD", _words("momentum dampening nesterov"), _words("momentum_buffer")),
    _Form(
        "RMSprop",
        _words("alpha centered momentum"),
        _words("square_avg momentum_buffer grad_avg"),
        _words("step"),
    ),
)

# By a word of their settings or of their state, optimizers whose state cannot follow, and why.
_REFUSED = (
    (
        _words("row_var col_var exp_avg_sq_row exp_avg_sq_col beta2_decay clip_threshold"),
        "is Adafactor's, which keeps means over whole rows and columns: the small model's are others",
    ),
    (
        _words("ns_steps ns_coefficients"),
        "is Muon's, whose steps depend on a whole matrix at once: the small one's would be others",
    ),
    (
        _words("preconditioner preconditioners precondition_frequency GG Q shampoo_beta"),
        "is of the kind of Shampoo, which keeps products of whole rows and columns",
    ),
    (
        _words("state1 state2 absmax1 qmap1"),
        "is packed in 8 bits with a scale for each block, and blocks do not follow channels",
    ),
    (
        _words("history_size old_dirs"),
        "is L-BFGS's, which keeps steps of all parameters at once",
    ),
)


def apply_to_optimizer(
    plan: PlanParts, state: Mapping[str, Any], names: Sequence[str] | None
) -> dict[str, Any]:
    """See `Plan.apply_optimizer`."""
    groups, states = _parts(state)
    name_of = _names_by_key(groups, names)
    form = _form_of(groups, states)
    planned = PlannedTensors(plan)
    _require_parameters(planned, name_of)
    keys: dict[str, Any] = {}
    new_groups: list[dict[str, Any]] = []
    for group in groups:
        listed = [*planned.places([name_of[key] for key in group["params"]])]
        for name in listed:
            # Numbered anew, as new biases come in between; names stay.
            keys.setdefault(name, name if _is_by_name(groups) else len(keys))
        new_groups.append({**group, "params": [keys[name] for name in listed], "param_names": listed})
    with torch.no_grad():
        new_states = {
            keys[name_of[key]]: _entries(planned, form, name_of[key], entries)
            for key, entries in states.items()
        }
    return {**state, "state": new_states, "param_groups": new_groups}


def _parts(state: Mapping[str, Any]) -> tuple[list[Mapping[str, Any]], Mapping[Any, Mapping[str, Any]]]:
    groups, states = state.get("param_groups"), state.get("state")
    if not isinstance(groups, list) or not isinstance(states, Mapping):
        raise OptimizerStateError(
            "this is no optimizer's state: it has no 'state' and 'param_groups'. Pass what "
            "optimizer.state_dict() returns."
        )
    return groups, states


def _is_by_name(groups: Sequence[Mapping[str, Any]]) -> bool:
    return all(isinstance(key, str) for group in groups for key in group["params"])


def _names_by_key(groups: Sequence[Mapping[str, Any]], names: Sequence[str] | None) -> dict[Any, str]:
    """The parameters' names, by what the state calls them."""
    keys = [key for group in groups for key in group["params"]]
    if names is None:
        named = [group.get("param_names") for group in groups]
        if _is_by_name(groups):
            names = keys
        elif all(found is not None for found in named):
            names = [name for found in named for name in found or ()]
        else:
            raise OptimizerStateError(
                "the state does not name its parameters. Pass their names in the order in which the "
                "optimizer was given them, as in names=[name for name, _ in model.named_parameters()], or "
                "make the optimizer from model.named_parameters()."
            )
    names = [*names]
    if len(names) != len(keys):
        raise OptimizerStateError(
            f"there are {len(names)} names for {len(keys)} parameters of the optimizer. Pass the name of "
            "each, in the order in which it was given them."
        )
    twice = next((name for number, name in enumerate(names) if name in names[:number]), None)
    if twice is not None:
        raise OptimizerStateError(f"parameter {twice!r} is named twice. Name each parameter once.")
    return dict(zip(keys, names, strict=True))


def _form_of(groups: Sequence[Mapping[str, Any]], states: Mapping[Any, Mapping[str, Any]]) -> _Form:
    found = {entry for entries in states.values() for entry in entries}
    settings = frozenset.intersection(*(frozenset(group) for group in groups)) if groups else frozenset()
    for form in _FORMS:
        if form.settings <= settings and found <= form.moments | form.counts:
            return form
    raise _refusal(found, settings)


def require_entrywise(found: Set[str]) -> None:
    """Raise unless the state of one of the known optimizers has the entries `found` of a parameter.

    Raises:
        OptimizerStateError: says why another's cannot follow.
    """
    if not any(found <= form.moments | form.counts for form in _FORMS):
        raise _refusal(found, frozenset())


def _refusal(found: Set[str], settings: Set[str]) -> OptimizerStateError:
    known = ", ".join(form.names for form in _FORMS)
    why = next((reason for words, reason in _REFUSED if words & (found | settings)), None)
    if why is None:
        why = (
            f"is of a kind that is not known, with the entries {', '.join(sorted(map(str, found))) or 'none'}"
        )
    return OptimizerStateError(
        f"the optimizer's state {why}. What can follow is the state of {known}; start another optimizer anew "
        "for the small model."
    )


def _require_parameters(planned: PlannedTensors, name_of: Mapping[Any, str]) -> None:
    for name in name_of.values():
        if planned.fingerprints[planned.canonical(name)].role not in ("parameter", None):
            raise OptimizerStateError(f"{name!r} is a buffer, which no optimizer changes. Name parameters.")


def _entries(
    planned: PlannedTensors, form: _Form, name: str, entries: Mapping[str, Any]
) -> Mapping[str, Any]:
    return dict(_followed(planned, form, name, entries))


def _followed(
    planned: PlannedTensors, form: _Form, name: str, entries: Mapping[str, Any]
) -> Iterator[tuple[str, Any]]:
    shape = planned.fingerprints[planned.canonical(name)].shape
    for entry, value in entries.items():
        if not isinstance(value, Tensor):
            yield entry, value
            continue
        if not is_sharded(value):
            require_plain_tensor(f"{name}: {entry}", value)
        if entry in form.counts:
            yield entry, value.clone()
        elif tuple(value.shape) != shape:
            raise OptimizerStateError(
                f"{entry!r} of parameter {name!r} is of shape {tuple(value.shape)}, and the parameter was "
                f"planned with shape {shape}. Pass the state of an optimizer of the planned model, and the "
                "names in its order."
            )
        else:
            # An entry's gradient is the same whether constants were added to it or not, so only slices count.
            yield entry, changed_where_it_lies(value.detach(), planned.slices(name).whole)
