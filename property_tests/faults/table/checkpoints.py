"""A plan is applied to tensors that are not in its model: states, optimizers, files."""

from __future__ import annotations

from property_tests.faults.fault import Fault
from property_tests.faults.killers import CHECKPOINTS, CUTTING, DEVICES, OPTIMIZERS, STATES, TEXTS

FAULTS = (
    Fault(
        "cutting: rows that are read by themselves take the masks of the first ones",
        "cutting.tensors",
        "return tensor if not tensor.ndim or tensor.shape[0] == 1 else _rows(tensor, rows)",
        "return tensor[: len(rows)]",
        (f"{CUTTING}::test_pieces_are_the_whole",),
    ),
    Fault(
        "cutting: of a group's rows all take multiples of columns",
        "cutting.tensors",
        "return ((rows >= limits[0]) & (rows < limits[1])).nonzero().reshape(-1)",
        "return torch.arange(len(rows))",
        (f"{CUTTING}::test_pieces_are_the_whole",),
    ),
    Fault(
        "cutting: each piece of a grouped weight begins with the first group",
        "cutting.tensors",
        "columns[first : first + len(block)]",
        "columns[: len(block)]",
        (f"{CUTTING}::test_pieces_are_the_whole",),
    ),
    Fault(
        "cutting: rows that are added to others are read in pieces",
        "cutting.blocks",
        "if not source.shape or change.needs_all_rows:",
        "if not source.shape:",
        (f"{CUTTING}::test_pieces_are_the_whole",),
    ),
    Fault(
        "cutting: rows that go are read",
        "cutting.blocks",
        "((steps < 1) | (steps > gap))",
        "(steps < 1)",
        (f"{CUTTING}::test_rows_that_go_are_not_read",),
    ),
    Fault(
        "states: numbers that the plan depends on are not looked at",
        "cutting.planned",
        "return self.canonical(name) not in self.plan.subject.value_independent",
        "return False",
        (f"{STATES}::test_a_plan_with_constants_is_for_its_own_numbers_alone",),
    ),
    Fault(
        "states: what is packed is cut as numbers are",
        "cutting.planned",
        "if dtype != planned.dtype and not (dtype in _FLOATS and planned.dtype in _FLOATS):",
        "if dtype != planned.dtype and not dtype.is_floating_point:",
        (f"{STATES}::test_a_wrong_state_is_refused",),
    ),
    Fault(
        "states: a bias that is new is left out",
        "cutting.states",
        "for edit in () if canonical in met else planned.new_biases(canonical):",
        "for edit in ():",
        (f"{STATES}::test_it_is_what_materialize_gives",),
    ),
    Fault(
        "optimizers: constants are added to moments",
        "cutting.optimizers",
        "planned.slices(name).whole(value.detach())",
        "planned.change(name, shape, value.dtype).whole(value.detach())",
        (f"{OPTIMIZERS}::test_moments_are_cut_as_their_parameters_and_nothing_is_folded_into_them",),
    ),
    Fault(
        "optimizers: moments of what masks zero are kept",
        "cutting.tensors",
        "return TensorChange(self.mask, tuple(",
        "return TensorChange(None, tuple(",
        (f"{OPTIMIZERS}::test_moments_of_masked_entries_that_stay_are_zero",),
    ),
    Fault(
        "optimizers: a new bias comes last",
        "cutting.planned",
        "next((e for e in new if self._module_order[e.path] < here), None)",
        "next((e for e in new if self._module_order[e.path] < here - 10**9), None)",
        (f"{OPTIMIZERS}::test_a_new_bias_joins_the_group_of_its_weight",),
    ),
    Fault(
        "optimizers: any optimizer with the settings of Adam is taken for it",
        "cutting.optimizers",
        "if form.settings <= settings and found <= form.moments | form.counts:",
        "if form.settings <= settings:",
        (f"{OPTIMIZERS}::test_states_of_other_libraries_are_refused_by_their_entries",),
    ),
    Fault(
        "checkpoints: an index may list less than a shard holds",
        "checkpoints.stored",
        'for names, words in ((listed - held, "does not hold"), (held - listed, "holds besides")):',
        'for names, words in ((listed - held, "does not hold"),):',
        (f"{CHECKPOINTS}::test_a_source_that_is_not_right_is_refused_and_nothing_written",),
    ),
    Fault(
        "checkpoints: a part of a model passes for the model",
        "checkpoints.compacting",
        "if missing is not None:",
        "if missing is None and met is None:",
        (f"{CHECKPOINTS}::test_a_part_of_a_model_is_not_the_model",),
    ),
    Fault(
        "checkpoints: tensors lie where they come",
        "checkpoints.shards",
        "ordered = sorted(tensors, key=lambda tensor: -tensor.dtype.itemsize)",
        "ordered = sorted(tensors, key=lambda tensor: tensor.dtype.itemsize)",
        (f"{CHECKPOINTS}::test_tensors_of_several_types_lie_where_they_can_be_mapped",),
    ),
    Fault(
        "checkpoints: a failure leaves what was written",
        "writing",
        "            shutil.rmtree(unfinished, ignore_errors=True)\n",
        "",
        (f"{CHECKPOINTS}::test_a_failure_leaves_nothing",),
    ),
    Fault(
        "checkpoints: a folder that another process writes is taken from it",
        "writing",
        "fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)",
        "fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)",
        (f"{CHECKPOINTS}::test_a_process_that_ends_in_between_leaves_no_folder_that_looks_whole",),
    ),
    Fault(
        "checkpoints: sets of indices come back one further",
        "text.index_sets",
        "return tuple(flags.reshape(-1).nonzero().reshape(-1).tolist())",
        "return tuple((flags.reshape(-1).nonzero().reshape(-1) + 1).tolist())",
        (f"{TEXTS}::test_sets_of_indices_are_given_back_in_their_order",),
    ),
    Fault(
        "building: a trace tells where its tensors were made",
        "building.expected",
        '_NOT_COMPARED = ("bias", "device")',
        '_NOT_COMPARED = ("bias",)',
        (f"{DEVICES}::test_a_plan_without_data_is_for_the_model_with_its_weights",),
    ),
)
