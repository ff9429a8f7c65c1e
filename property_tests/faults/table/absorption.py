"""Constants that are dropped and booked wrongly."""

from __future__ import annotations

from property_tests.faults.fault import Fault
from property_tests.faults.killers import FIXED_POSITIONS, IMAGES, MATERIALIZE, NETWORKS, RECURRENT, SEQUENCES

FAULTS = (
    Fault(
        "absorption: the running mean is charged with the wrong sign",
        "rules.absorption",
        "BiasTarget(mean.name, -1.0,",
        "BiasTarget(mean.name, 1.0,",
        (f"{MATERIALIZE}::test_running_mean_takes_constants_where_there_is_no_bias", IMAGES),
    ),
    Fault(
        "absorption: a running mean is charged though another op reads the result too",
        "rules.absorption",
        "if len(readers) != 1 or result in site.graph.outputs:",
        "if not readers or result in site.graph.outputs:",
        (f"{MATERIALIZE}::test_running_mean_takes_no_constants_of_what_not_only_the_norm_gets",),
    ),
    Fault(
        "absorption: a running mean is charged though the result is returned too",
        "rules.absorption",
        "if len(readers) != 1 or result in site.graph.outputs:",
        "if len(readers) != 1:",
        (f"{MATERIALIZE}::test_running_mean_takes_no_constants_of_what_not_only_the_norm_gets",),
    ),
    Fault(
        "absorption: the border of a padded convolution is uniform",
        "rules.absorption",
        "bias_target_of(site) if usable and not borders else None",
        "bias_target_of(site) if usable else None",
        (IMAGES, MATERIALIZE),
    ),
    Fault(
        "absorption: padding='same' has no border",
        "rules.contraction",
        "return any(n > 1 for n in weight.shape[2:])",
        "return False",
        (f"{MATERIALIZE}::test_padded_constants_are_carried_by_one_channel_at_any_resolution",),
    ),
    Fault(
        "absorption: a transposed convolution has no border",
        "rules.contraction",
        "border = transposed or _has_border(op, weight)",
        "border = _has_border(op, weight)",
        (MATERIALIZE, IMAGES),
    ),
    Fault(
        "absorption: a constant that varies over positions goes into a bias",
        "rules.absorption",
        "by_bias = counts & uniform if bias_target is not None",
        "by_bias = counts if bias_target is not None",
        (FIXED_POSITIONS, *NETWORKS),
    ),
    Fault(
        "absorption: a carrier may stand in another group",
        "rules.absorption",
        "family = left & alike & (group == group[first])",
        "family = left & alike",
        (MATERIALIZE, IMAGES),
    ),
    Fault(
        "absorption: a carrier's factor is inverted",
        "rules.absorption",
        "profiles[gone, peak] / profiles[into, peak]",
        "profiles[into, peak] / profiles[gone, peak]",
        (IMAGES, MATERIALIZE),
    ),
    Fault(
        "absorption: channels that are no multiples share a carrier",
        "rules.absorption",
        "alike = (normal - normal[first]).abs().amax(1) <= tolerance",
        "alike = (normal - normal[first]).abs().amin(1) <= tolerance",
        (FIXED_POSITIONS, *NETWORKS),
    ),
    Fault(
        "absorption: no carrier is asked for",
        "rules.absorption",
        "yield Carrier(dim, compensation.families, compensation.magnitude, rows, shape.groups, reason)",
        "yield from ()",
        (IMAGES, MATERIALIZE),
    ),
    Fault(
        "absorption: a grouped carrier changes its first row only",
        "rules.absorption",
        "(group * height, (group + 1) * height)",
        "(group * height, group * height + 1)",
        (MATERIALIZE, IMAGES),
    ),
    Fault(
        "absorption: a new bias is as long as before",
        "rules.absorption",
        "ConstantTensor(delta[rows])",
        "ConstantTensor(delta)",
        (f"{MATERIALIZE}::test_new_bias_has_the_length_of_the_rows_that_stay", IMAGES),
    ),
    Fault(
        "absorption: a tied weight's layer gets a new bias",
        "rules.absorption",
        "if shape.bias is None and site.may_add_bias and site.counterparts(shape.weight):",
        "if shape.bias is None and site.may_add_bias:",
        (f"{MATERIALIZE}::test_module_called_twice_gets_no_bias_for_constants_of_one_call",),
    ),
    Fault(
        "absorption: a bias that two calls read is charged by one",
        "ir.graph",
        "return readers if readers == (op.index,) else ()",
        "return (op.index,)",
        (f"{MATERIALIZE}::test_bias_of_two_layers_is_not_charged_with_constants_of_one",),
    ),
    Fault(
        "absorption: constants that stay are compensated for too",
        "rules.absorption",
        "constants = torch.where(compensation.by_bias & ~columns, compensation.value, zero)",
        "constants = torch.where(compensation.by_bias, compensation.value, zero)",
        NETWORKS,
    ),
    Fault(
        "absorption: constants that nothing compensates for go",
        "rules.absorption",
        "yield Pinned(dim, reason, compensation.uncompensated)",
        "yield from ()",
        NETWORKS,
    ),
    Fault(
        "absorption: constants of a recurrent layer go without compensation",
        "rules.recurrent",
        "yield from _into_bias(site, cell, cell.bias_ih, layers[number].columns, kept)",
        "yield from ()",
        (RECURRENT, SEQUENCES),
    ),
)
