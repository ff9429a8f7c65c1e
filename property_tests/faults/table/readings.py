"""Python that reads numbers from tensors while the model is traced."""

from __future__ import annotations

from property_tests.faults.fault import Fault

_READING = "tests/tracing/test_reading.py"
_CHECKS = "tests/tracing/test_checks.py"
_SELECTIONS = "tests/rules/test_selections.py"

FAULTS = (
    Fault(
        "readings: a check is the other way round",
        "tracing.checks",
        "yield from _truths(operand, not wanted)",
        "yield from _truths(operand, wanted)",
        (f"{_CHECKS}::test_a_check_of_data_lets_channels_go",),
    ),
    Fault(
        "readings: one of two that will do is taken to be what it must",
        "tracing.checks",
        "case ast.BoolOp() | ast.IfExp() | ast.NamedExpr():\n            yield None",
        "case ast.BoolOp() | ast.IfExp() | ast.NamedExpr():\n            yield wanted",
        (f"{_CHECKS}::test_what_may_be_either_is_no_check",),
    ),
    Fault(
        "readings: what is checked is not read",
        "tracing.flat",
        "return (*tensors_of(output), *numbers, *assigned.values(), *checked)",
        "return (*tensors_of(output), *numbers, *assigned.values())",
        (f"{_CHECKS}::test_what_is_checked_is_read",),
    ),
    Fault(
        "readings: data of an activation is not followed",
        "tracing.tracking",
        "        if func == _DATA:\n",
        "        if func == _SHAPE:\n",
        (f"{_READING}::test_data_is_followed_like_what_is_detached",),
    ),
    Fault(
        "readings: Python gets the numbers of the model without masks",
        "planning.planner",
        "found = found or survey(request.model, request.calls, values=request.masked)",
        "found = survey(request.model, request.calls)",
        (f"{_READING}::test_python_gets_the_numbers_of_the_masked_model",),
    ),
    Fault(
        "readings: what the forward has written is read",
        "tracing.reading",
        "            if written:\n                return None\n",
        "",
        (f"{_READING}::test_what_the_forward_writes_is_not_read",),
    ),
    Fault(
        "readings: what the forward writes afterwards is read",
        "tracing.trace",
        "    require_steady(graph)\n    _require_informative",
        "    _require_informative",
        (f"{_READING}::test_what_the_forward_writes_is_not_read",),
    ),
    Fault(
        "readings: what is written into a constant is not read",
        "tracing.reading",
        "pending.extend((*node.all_input_nodes, *written))",
        "pending.extend(node.all_input_nodes)",
        (f"{_READING}::test_python_gets_the_numbers_of_state",),
    ),
    Fault(
        "readings: random numbers are read",
        "tracing.reading",
        "if target is not None and torch.Tag.nondeterministic_seeded in target.tags:",
        "if target is None and node.target is not getitem:",
        (f"{_READING}::test_numbers_that_follow_the_input_are_not_read",),
    ),
    Fault(
        "readings: numbers that follow from sizes are the same at all sizes",
        "tracing.tracking",
        "        for number, expression in found.numbers:\n",
        "        for number, expression in ():\n",
        (f"{_READING}::test_numbers_of_sizes_that_python_reads_may_be_others",),
    ),
    Fault(
        "readings: what Python read may be cut",
        "tracing.freeze",
        "(result for _, result in freezer.written), *consulted)",
        "(result for _, result in freezer.written))",
        (f"{_READING}::test_what_python_read_stays_whole",),
    ),
    Fault(
        "readings: a plan that hangs on numbers holds for others",
        "planning.planner",
        "unread = frozenset(named) - read - consulted",
        "unread = frozenset(named) - read",
        (f"{_READING}::test_what_python_read_is_relied_on_and_said",),
    ),
    Fault(
        "readings: that numbers are relied on is not said",
        "tracing.islands",
        "(*assumptions, *_relied_on(joined.graph))",
        "tuple(assumptions)",
        (f"{_READING}::test_what_python_read_is_relied_on_and_said",),
    ),
    Fault(
        "readings: the small model is rehearsed on zeros",
        "planning.rehearsal",
        "hollow_copy(model, edits, filled=read)",
        "hollow_copy(model, edits)",
        (f"{_READING}::test_numbers_are_read_where_the_source_is_rewritten",),
    ),
    Fault(
        "readings: numbers of a selection stay where channels go",
        "rules.indexing",
        "    return all(kept.is_full(end) for end in ends)\n",
        "    return True\n",
        (_SELECTIONS,),
    ),
    Fault(
        "readings: a list selects what it did of fewer channels",
        "rules.indexing",
        "read = restrict_index(selected.index, kept[ends[0]], kept[ends[1]])",
        "read = selected.index[kept[ends[1]]]",
        (_SELECTIONS,),
    ),
)
