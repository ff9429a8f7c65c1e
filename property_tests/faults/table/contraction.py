"""Ties between weights and what they read and write: products, groups, recurrences, norms of weights."""

from __future__ import annotations

from property_tests.faults.fault import Fault
from property_tests.faults.killers import (
    FEATURES,
    GROUPS,
    IMAGES,
    OTHERS,
    RECURRENT,
    REPARAMETRIZED,
    exact_around,
    sliced,
)

FAULTS = (
    Fault(
        "coupling: a bias is not tied to its rows",
        "rules.contraction",
        "yield from equal(reason, rows, (shape.weight, shape.row_dim), *bias)",
        "yield from equal(reason, rows, (shape.weight, shape.row_dim))",
        (OTHERS, IMAGES),
    ),
    Fault(
        "coupling: columns of a weight are not tied to the data",
        "rules.contraction",
        "yield from equal(reason, columns, (shape.weight, shape.column_dim))",
        "yield from ()",
        (OTHERS, IMAGES),
    ),
    Fault(
        "coupling: a depthwise weight is not tied to its channels",
        "rules.contraction",
        "yield from equal(reason, rows, columns, (shape.weight, 0), *bias)",
        "yield from equal(reason, rows, (shape.weight, 0), *bias)",
        (GROUPS,),
    ),
    Fault(
        "coupling: groups of a convolution lose different numbers of channels",
        "rules.contraction",
        "yield Balanced(dims, shape.groups, reason, fixed=not changeable)",
        "yield from ()",
        (GROUPS,),
    ),
    Fault(
        "coupling: a grouped weight that is called twice shrinks for one call",
        "rules.contraction",
        "    together = site.counterparts(weight)\n    if not together:\n        shared",
        "    together = site.counterparts(weight) or (site.op.index,)\n    if not together:\n        shared",
        (GROUPS,),
    ),
    Fault(
        "coupling: constants in a product of two activations are dropped",
        "rules.product",
        "yield Pinned((a.index, a.ndim - 1), sums, left & right)",
        "yield from ()",
        (exact_around("matmul_over_channels", "constants"),),
    ),
    Fault(
        "coupling: the inner dimensions of two factors are not tied",
        "rules.product",
        "yield from equal(reason, (a, a.ndim - 1), (b, b.ndim - 2))",
        "yield from ()",
        sliced("bmm", "matmul"),
    ),
    Fault(
        "coupling: gates of a recurrent layer are laid out unit by unit",
        "rules.recurrent",
        "index = torch.arange(rows) % shape.hidden",
        "index = torch.arange(rows) // shape.gates",
        (*sliced("lstm.input", "rnn_tanh.input"), RECURRENT),
    ),
    Fault(
        "coupling: layers and directions keep different numbers of units",
        "rules.recurrent",
        "yield Counted(tuple(dict.fromkeys(sized)), one_size)",
        "yield from ()",
        (*sliced("lstm.input", "rnn_tanh.input"), RECURRENT),
    ),
    Fault(
        "coupling: a constant unit goes although the recurrence reads it",
        "rules.recurrent",
        "live & ~units.zero & (~units.constant | recurrent)",
        "live & ~units.zero & ~units.constant",
        (f"{RECURRENT}::test_a_unit_whose_bias_is_alive_stays", RECURRENT),
    ),
    Fault(
        "coupling: a layer's columns are not tied to the units before it",
        "rules.recurrent",
        "yield from _side_by_side(shape, before, first, reason)",
        "yield from ()",
        (f"{RECURRENT}::test_layers_and_directions_keep_different_units_but_equally_many", RECURRENT),
    ),
    Fault(
        "coupling: the lengths of a weight under weight_norm are not tied to its rows",
        "rules.reparametrized",
        "yield from equal(reason, (shape.v, shape.axis), (shape.g, shape.axis), *lengths)",
        "yield from ()",
        (f"{REPARAMETRIZED}::test_directions_and_lengths_of_the_same_rows_stay",),
    ),
    Fault(
        "coupling: features that differ between positions count as constants of a LayerNorm",
        "rules.layer_norm",
        " & ~any_along(value != first, data.ndim - 1, extent)",
        "",
        (*sliced("layer_norm"), FEATURES),
    ),
    Fault(
        "coupling: RMSNorm folds into a weight that is not its own",
        "rules.layer_norm",
        "if not own or not together or len(_last(site.op)) != 1:",
        "if not own or len(_last(site.op)) != 1:",
        (FEATURES,),
    ),
)
