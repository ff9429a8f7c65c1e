"""The small model is not what the plan says, or the given one is not what it was."""

from __future__ import annotations

from property_tests.faults.fault import Fault
from property_tests.faults.killers import (
    COPYING,
    IMAGES,
    ISLANDS,
    MATERIALIZE,
    NATIVE,
    NETWORKS,
    OTHERS,
    PLANNER,
    TRACE,
)

FAULTS = (
    Fault(
        "building: a slice keeps the neighbours of what it should",
        "cutting.tensors",
        "block.index_select(dim, torch.tensor(indices, device=block.device))",
        "block.index_select(dim, (torch.tensor(indices, device=block.device) - 1) % block.shape[dim])",
        (OTHERS,),
    ),
    Fault(
        "building: masks are not applied",
        "cutting.tensors",
        "torch.where(_rows_of(self.mask, rows).to(block.device), block, zero)",
        "torch.where(_rows_of(self.mask, rows).to(block.device), block, block + zero)",
        (OTHERS,),
    ),
    Fault(
        "building: buffers are not sliced",
        "planning.editing",
        "if value.origin is Origin.CONSTANT:",
        "if value.origin in (Origin.CONSTANT, Origin.BUFFER):",
        (IMAGES,),
    ),
    Fault(
        "building: a constant is taken from a bias and not added to it",
        "cutting.tensors",
        "(to_double(block) + added)",
        "(to_double(block) - added)",
        (OTHERS, IMAGES),
    ),
    Fault(
        "building: a carrier loses its own weights",
        "cutting.tensors",
        "(carriers.double() + carried)",
        "(0 * carriers.double() + carried)",
        (IMAGES, MATERIALIZE),
    ),
    Fault(
        "building: rows of a grouped weight take the columns of the group before",
        "rules.absorption",
        "tuple(per_group[r // height] for r in kept_rows)",
        "tuple(per_group[r // height - 1] for r in kept_rows)",
        (IMAGES, MATERIALIZE),
    ),
    Fault(
        "building: a new bias can always be trained",
        "building.applying",
        "requires_grad=weight.requires_grad",
        "requires_grad=True",
        (MATERIALIZE,),
    ),
    Fault(
        "building: out_features tells the old size",
        "rules.contraction",
        '{"in_features": columns, "out_features": rows}',
        '{"in_features": columns}',
        (f"{NATIVE}::test_features_of_linear_layers_match_their_weights", *NETWORKS),
    ),
    Fault(
        "building: frozen parameters come out trainable",
        "modules.copying",
        "return data.requires_grad_(old.requires_grad and (is_parameter or old.is_leaf))",
        "return data.requires_grad_(is_parameter)",
        (OTHERS, COPYING),
    ),
    Fault(
        "building: tensors that stay as they are are shared with the model",
        "modules.copying",
        "    return _copy(model, tensors, {**cleaned, **replaced}, required=replaced)",
        "    return _copy(model, tensors, {**tensors, **cleaned, **replaced}, required=replaced)",
        (OTHERS, COPYING),
    ),
    Fault(
        "building: a weight that two parts share has a name for each",
        "tracing.trace",
        "first.setdefault(id(tensor), name) for name, tensor in held}",
        "name for name, tensor in held}",
        (
            f"{ISLANDS}::test_state_shared_by_two_islands_is_cut_alike",
            f"{ISLANDS}::test_state_shared_with_a_module_that_is_not_called_does_not_change",
        ),
    ),
    Fault(
        "purity: the given model is put into eval mode",
        "tracing.trace",
        "clone = _clone(model).eval()",
        "clone = _clone(model.eval())",
        (OTHERS,),
    ),
    Fault(
        "purity: the model is traced itself, and its attributes are replaced",
        "tracing.trace",
        "clone = _clone(model).eval()",
        "clone = model.eval()",
        (OTHERS,),
    ),
    Fault(
        "purity: the global random state moves on",
        "modules.isolation",
        "    with torch.random.fork_rng(devices=devices):\n        yield",
        "    torch.rand(())\n    yield",
        (OTHERS, TRACE),
    ),
    Fault(
        "purity: masks are written into the model's weights",
        "cutting.tensors",
        "block = self._with_values(_rows(tensor, kept), kept)",
        "block = self._with_values(_rows(tensor.mul_(1 if self.mask is None else self.mask), kept), kept)",
        (OTHERS,),
    ),
    Fault(
        "purity: a stale model is built all the same",
        "building.binding",
        "    if changed:\n",
        "    if changed and not changed:\n",
        (MATERIALIZE, PLANNER),
    ),
)
