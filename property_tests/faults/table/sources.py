"""Source that is rewritten: where that may be done, and what the new source says."""

from __future__ import annotations

from property_tests.faults.fault import Fault
from property_tests.faults.killers import (
    ATTRIBUTES,
    FEATURES,
    FITTING,
    FUNCTIONAL,
    PHRASING,
    REWRITING,
    REWRITTEN,
    SOLVING,
)

FAULTS = (
    Fault(
        "sources: a module that was to be kept is rewritten",
        "forwards.rewriting",
        'if any(op.owner.path == k or op.owner.path.startswith(f"{k}.") for k in self.kept):',
        'if any(op.owner.path == f"{k}." for k in self.kept):',
        (f"{REWRITING}::test_a_number_that_is_passed_on_is_replaced_where_the_module_may_change",),
    ),
    Fault(
        "sources: the class's forward is rewritten though the instance has its own",
        "forwards.rewriting",
        '_last_name(frame) == "forward" and "forward" not in vars(module)',
        '_last_name(frame) == "forward"',
        (f"{REWRITING}::test_a_forward_of_the_instance_keeps_no_other_module_from_being_rewritten",),
    ),
    Fault(
        "sources: a function that another module calls too is rewritten for both",
        "modules.rewritten",
        "names[helper.name] = build_function(helper, plain.__globals__[helper.name], None)",
        "plain.__globals__[helper.name] = build_function(helper, plain.__globals__[helper.name], None)",
        (REWRITTEN,),
    ),
    Fault(
        "sources: default arguments are lost",
        "modules.rewritten",
        "inner.__defaults__, inner.__kwdefaults__ = plain.__defaults__, plain.__kwdefaults__",
        "inner.__defaults__, inner.__kwdefaults__ = None, None",
        (REWRITTEN,),
    ),
    Fault(
        "sources: what was rewritten before is forgotten",
        "modules.rewritten",
        "    known = {f.name: f for f in old}\n",
        "    known: dict[str, Rewritten] = {}\n",
        (REWRITTEN, REWRITING),
    ),
    Fault(
        "sources: pieces are taken along the first dimension",
        "lowerings.take_indices",
        "{':, ' * self.dim}",
        "",
        (PHRASING,),
    ),
    Fault(
        "sources: a split is told its sizes but not along what",
        "lowerings.split_sizes",
        'f"{list(self.sizes)}, dim={self.dim}"',
        'f"{list(self.sizes)}"',
        (PHRASING,),
    ),
    Fault(
        "sources: a norm is not told what is gone",
        "lowerings.partial_layer_norm",
        'told = ", ".join(f"{name}={value!r}"',
        'told = ", ".join(f"{name}={0 if name != \'total\' else value!r}"',
        (PHRASING, FEATURES),
    ),
    Fault(
        "sources: calls that need restating are taken as they stand",
        "forwards.native",
        "analysis.sizes, analysis.kept):\n        return False\n    given",
        "analysis.sizes, analysis.kept):\n        pass\n    given",
        (FEATURES, REWRITING),
    ),
    Fault(
        "sources: a partial norm forgets the mean in what is gone",
        "lowerings.partial_layer_norm",
        "rest = dropped_squares - 2 * dropped_sum * mean + dropped * mean.square()",
        "rest = dropped_squares + dropped * mean.square()",
        (FUNCTIONAL, FEATURES),
    ),
    Fault(
        "sources: a number is solved for without what else it says",
        "forwards.solving",
        "        for number in by_attribute.get(pending.pop(), ()):",
        "        for number in by_attribute.get(pending.pop(), ())[:1]:",
        (SOLVING, ATTRIBUTES),
    ),
    Fault(
        "sources: an integer in a list is set in its first place",
        "modules.attributes",
        "    key: Any = int(steps[0]) if type(value) in (tuple, list) else steps[0]",
        "    key: Any = 0 if type(value) in (tuple, list) else steps[0]",
        (ATTRIBUTES,),
    ),
    Fault(
        "sources: numbers that follow the batch are written down",
        "forwards.phrasing",
        "return is_set and not may_count_batch(op, name, place, analysis)",
        "return is_set",
        (FITTING,),
    ),
)
