"""What people see and give: forms of masks, overviews, reasons in words, goals, estimates, several rounds."""

from __future__ import annotations

from property_tests.faults.fault import Fault
from property_tests.faults.killers import CAUSES, ESTIMATES, GOALS, MASK_FORMS, OVERVIEW, SAVING, VERIFYING

FAULTS = (
    Fault(
        "faces: any parameter called a mask is one of torch.nn.utils.prune",
        "masks.forms",
        'pruned = [name for name in names if f"{name}_orig" in held]',
        "pruned = names",
        (f"{MASK_FORMS}::test_a_parameter_that_is_called_a_mask_is_one", MASK_FORMS),
    ),
    Fault(
        "faces: a prefix that some keys have is a wrapper's",
        "masks.forms",
        "if given and all(wrapped) and",
        "if given and any(wrapped) and",
        (f"{MASK_FORMS}::test_a_prefix_of_some_keys_is_none", MASK_FORMS),
    ),
    Fault(
        "faces: a model's own module is taken for a wrapper",
        "masks.forms",
        'prefix.removesuffix(".") not in modules',
        "prefix not in modules",
        (f"{MASK_FORMS}::test_a_model_that_has_a_module_of_that_name_keeps_it", MASK_FORMS),
    ),
    Fault(
        "faces: the state of a pruned model is not looked for within a checkpoint",
        "masks.forms",
        "*(value for value in given.values() if isinstance(value, Mapping))",
        "*()",
        (f"{MASK_FORMS}::test_masks_are_found_in_the_state_of_a_pruned_model", MASK_FORMS),
    ),
    Fault(
        "faces: what is asked for leaves out what is held back",
        "rendering.overview",
        "part(before - after + held)",
        "part(before - after)",
        (f"{OVERVIEW}::test_totals_are_asked_gone_and_held_back", OVERVIEW),
    ),
    Fault(
        "faces: scattered zeros are told where there are none",
        "rendering.overview",
        "asked.zero > asked.sliced",
        "asked.zero >= asked.sliced",
        (f"{OVERVIEW}::test_nothing_is_said_of_zeros_where_all_are_in_slices", OVERVIEW),
    ),
    Fault(
        "faces: the reasons beyond the fifth are counted with all others",
        "rendering.overview",
        "_shares(more, report)",
        "_shares(causes, report)",
        (f"{OVERVIEW}::test_no_more_than_five_reasons_are_listed", OVERVIEW),
    ),
    Fault(
        "faces: modules that change otherwise are told as one",
        "rendering.folding",
        "return label, child.parameters, child.macs, tuple(map(_key, filter(_is_told, child.children)))",
        "return (label,)",
        (f"{OVERVIEW}::test_counts_of_the_tree_add_up", OVERVIEW),
    ),
    Fault(
        "faces: the tree is a level deeper than asked for",
        "rendering.folding",
        "if levels > 1 and inner.changed",
        "if levels > 0 and inner.changed",
        (f"{OVERVIEW}::test_the_tree_is_as_deep_as_is_asked_for", OVERVIEW),
    ),
    Fault(
        "faces: reasons hold back more in sum than is held back",
        "rendering.causes",
        "1.0 if total is None or not counted else total / counted",
        "1.0",
        (f"{CAUSES}::test_causes_add_up_to_what_is_held_back_in_all", CAUSES),
    ),
    Fault(
        "faces: the least reason comes first",
        "rendering.causes",
        "(-cause.macs, -cause.parameters)",
        "(cause.macs, cause.parameters)",
        (f"{CAUSES}::test_constraints_of_a_kind_are_added_up_and_the_largest_comes_first", CAUSES),
    ),
    Fault(
        "faces: needs are told without the operator that has them",
        "rendering.causes",
        'if words in ("needs them", "reads them"):',
        "if words in ():",
        (f"{CAUSES}::test_constraints_are_told_in_a_user_s_words", CAUSES),
    ),
    Fault(
        "faces: a goal is met as soon as some masks meet it",
        "pruners.goals",
        "if goal.limit - reached <= goal.near:",
        "if goal.limit >= reached:",
        (f"{GOALS}::test_the_first_rung_that_meets_the_goal_is_found", GOALS),
    ),
    Fault(
        "faces: a goal is searched without regard to what was measured",
        "pruners.goals",
        "factor = ladder.estimate(rung) / max(reached, 1e-12)",
        "factor = 1.0",
        (f"{GOALS}::test_the_first_rung_that_meets_the_goal_is_found", GOALS),
    ),
    Fault(
        "faces: what goes with a channel stays in the estimate of a goal",
        "pruners.channels",
        "kept = self.units.kept_without(self._dropped(numbers))\n\n",
        "kept = self.units.kept_without(self._dropped(numbers[:1]))\n\n",
        (f"{GOALS}::test_goals_are_met_by_few_plans", GOALS),
    ),
    Fault(
        "faces: a call that is stated otherwise is timed as if it were not",
        "measuring.layer_calls",
        "if op.index in analysis.restated:",
        "if op.index in ():",
        (f"{ESTIMATES}::test_sums_that_are_stated_otherwise_count_as_they_were", ESTIMATES),
    ),
    Fault(
        "faces: the first of several rounds is forgotten",
        "files.saving",
        "for plan in self.earlier:",
        "for plan in self.earlier[1:]:",
        (f"{SAVING}::test_a_file_may_hold_several_rounds",),
    ),
    Fault(
        "faces: a trained small model is called a wrong one",
        "building.verifying",
        "if name in planned and not _is_equal(tensor, planned[name])]",
        "if name in planned and tensor.shape != planned[name].shape]",
        (f"{VERIFYING}::test_a_trained_small_model_is_told_from_a_wrong_one",),
    ),
)
