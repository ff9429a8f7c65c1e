"""The forward's own numbers: attributes that are set, calls that are restated, branches."""

from __future__ import annotations

from property_tests.faults.fault import Fault
from property_tests.faults.killers import (
    ATTRIBUTES,
    COUPLING,
    FITTING,
    ISLANDS,
    PHRASING,
    REWRITING,
    SOLVING,
    sliced,
)

FAULTS = (
    Fault(
        "forward: a branch that would change is not looked at",
        "forwards.fitting",
        "missing: list[Constraint] = list(_flipped_guards(analysis))",
        "missing: list[Constraint] = []",
        (FITTING, COUPLING),
    ),
    Fault(
        "forward: a size that left the trace's sight may change",
        "planning.coupling",
        "            yield Pinned((root.value, root.dim), escape)",
        "            yield from ()",
        (COUPLING, ATTRIBUTES),
    ),
    Fault(
        "forward: an attribute that left the trace's sight is set all the same",
        "forwards.fitting",
        "{r: r.number for r in analysis.graph.escaped if isinstance(r, AttributeOf)}",
        "{r: r.number for r in () if isinstance(r, AttributeOf)}",
        (f"{ISLANDS}::test_an_attribute_that_code_outside_of_islands_names_does_not_change",),
    ),
    Fault(
        "forward: branches are not asked whether new numbers suit them",
        "forwards.fitting",
        "equations += [Equation(g.expression, g.outcome) for g in analysis.graph.guards]",
        "equations += []",
        (f"{ATTRIBUTES}::test_a_number_that_a_branch_needs_stays_and_those_of_other_modules_are_set",),
    ),
    Fault(
        "forward: calls that no attribute helps are forgotten where one is set",
        "forwards.fitting",
        "if op.index in before or _reads(op, attributes)]",
        "if _reads(op, attributes)]",
        (f"{ATTRIBUTES}::test_a_number_is_set_where_others_have_to_be_written",),
    ),
    Fault(
        "forward: attributes of torch's own layers are solved for like any other",
        "forwards.fitting",
        "    fixed.update(_of_layers(analysis, first))\n",
        "",
        (f"{ATTRIBUTES}::test_numbers_of_layers_tell_what_they_hold_and_nothing_else",),
    ),
    Fault(
        "forward: attributes are found for products only",
        "forwards.solving",
        'case (("floordiv" | "truediv"), 0):\n            yield wanted * other',
        'case (("floordiv" | "truediv"), 0):\n            yield wanted',
        (SOLVING,),
    ),
    Fault(
        "forward: numbers that contradict an equation count as its solution",
        "forwards.solving",
        "if _value(equation.expression, lookup) != equation.wanted:",
        "if _value(equation.expression, lookup) is None:",
        (SOLVING,),
    ),
    Fault(
        "forward: a new number is taken where the old one would do",
        "forwards.solving",
        "for candidate in dict.fromkeys((*inverted, unknown.number)):",
        "for candidate in dict.fromkeys((*inverted, unknown.number + 1)):",
        (SOLVING,),
    ),
    Fault(
        "forward: source is rewritten though a second call needs other numbers",
        "forwards.rewriting",
        "if len(said) == 1 and None not in said}",
        "if said}",
        (REWRITING,),
    ),
    Fault(
        "forward: source is rewritten though another call of it cannot be",
        "forwards.rewriting",
        "if len(said) == 1 and None not in said}",
        "if len(said - {None}) == 1}",
        (FITTING,),
    ),
    Fault(
        "forward: the batch size of the example is written down as a number",
        "forwards.phrasing",
        "return all(not analysis.kept.is_full((r.value, r.dim)) for r in sizes)",
        "return True",
        (FITTING,),
    ),
    Fault(
        "forward: a mean is divided by one too few",
        "forwards.phrasing",
        'f" / {total})"',
        'f" / {total - 1})"',
        (PHRASING,),
    ),
    Fault(
        "forward: a call is not held against what it has to move",
        "forwards.fitting",
        "    return list(_moved_otherwise(op, before, after, analysis))",
        "    return []",
        (*sliced("roll"), PHRASING),
    ),
    Fault(
        "forward: a config that modules share is changed for all of them",
        "modules.attributes",
        "    made = copy.copy(value)\n",
        "    made = value\n",
        (ATTRIBUTES,),
    ),
)
