"""Units of recurrent layers: which are silent, which are read, and what makes up for constants."""

from __future__ import annotations

from property_tests.faults.fault import Fault
from property_tests.faults.killers import RECURRENT, dead, known, sliced, unchanging

FAULTS = (
    Fault(
        "recurrences: units that are read may go",
        "rules.recurrent",
        "        yield Pinned(unit_dim(cell), reason, needed)",
        "        yield from ()",
        (f"{RECURRENT}::test_a_layer_with_random_masks_becomes_smaller_and_stays_exact",),
    ),
    Fault(
        "recurrences: constants are dropped without a bias of the layer's own to take them",
        "rules.recurrent",
        "counts & ~columns.settled if _can_compensate(site, cell) else counts",
        "counts & ~columns.settled",
        (f"{RECURRENT}::test_constants_stay_without_a_bias_that_is_the_layers_own", RECURRENT),
    ),
    Fault(
        "recurrences: constants that vary along the sequence go into a bias",
        "rules.recurrent",
        "counts & ~columns.settled if _can_compensate(site, cell) else counts",
        "counts & False if _can_compensate(site, cell) else counts",
        (f"{RECURRENT}::test_a_constant_that_varies_along_the_sequence_stays", RECURRENT),
    ),
    Fault(
        "recurrences: an initial state is not tied to its units",
        "rules.recurrent",
        "            yield Equal((dim, *units), reason)",
        "            yield from ()",
        (
            f"{RECURRENT}::test_a_learnt_initial_state_shrinks_with_its_units",
            *sliced("lstm.input"),
            RECURRENT,
        ),
    ),
    Fault(
        "recurrences: a final state that is read is not tied to its units",
        "rules.recurrent",
        "        if any(read):",
        "        if all(read) and not any(read):",
        (*sliced("gru.input", "lstm.input", "gru_cell"), RECURRENT),
    ),
    Fault(
        "recurrences: the reset gate of a GRU does not stand between its biases",
        "rules.units",
        "silent = fixed & (value == 0) & (offset == 0)",
        "silent = fixed & (value + offset == 0)",
        (
            f"{RECURRENT}::test_opposite_biases_cancel_in_an_lstm_but_not_behind_the_reset_gate_of_a_gru",
            known(RECURRENT),
        ),
    ),
    Fault(
        "recurrences: a unit is silent though it reads one that is not",
        "rules.units",
        "smaller = candidates & ~(reads & ~candidates).any(1)",
        "smaller = candidates & ~(reads & candidates & ~candidates).any(1)",
        (known(RECURRENT), *unchanging("rnn_tanh.input", "lstm.input")),
    ),
    Fault(
        "recurrences: a unit that reads an input is constant",
        "rules.units",
        "known = known & ~(nonzero & ~columns.settled).any(1)",
        "known = known & ~(nonzero & ~columns.settled).all(1)",
        (known(RECURRENT), *unchanging("rnn_tanh.input")),
    ),
    Fault(
        "recurrences: only the last layer's units are read",
        "rules.units",
        "        above = demand.columns",
        "        above = demand.columns & False",
        (dead(RECURRENT), RECURRENT),
    ),
    Fault(
        "recurrences: what other gates read is not read",
        "rules.units",
        "return torch.where(units.zero[:, None], nonzero[shape.content], nonzero.any(0))",
        "return nonzero[shape.content]",
        (dead(RECURRENT), *sliced("lstm.input")),
    ),
)
