"""Models that are traced in parts: what the code between the parts reads, names and is given."""

from __future__ import annotations

from property_tests.faults.fault import Fault
from property_tests.faults.killers import ISLANDS, MERGING

FAULTS = (
    Fault(
        "parts: state that code outside of all parts reads is cut",
        "tracing.merging",
        "outputs = [*merger.outputs, *(merger.state[n] for n in read_elsewhere if n in merger.state)]",
        "outputs = [*merger.outputs]",
        (MERGING, ISLANDS),
    ),
    Fault(
        "parts: what code outside of all parts read in the example's run is cut",
        "tracing.islands",
        "names = {name for call in outer for name in call.reads}",
        "names = {name for call in outer for name in call.reads[:0]}",
        (f"{ISLANDS}::test_state_that_code_outside_of_islands_reads_does_not_change", ISLANDS),
    ),
    Fault(
        "parts: state of modules that are not called is cut",
        "tracing.islands",
        "            names.update(canonical[name] for name, _ in own)",
        "            names.update(canonical[name] for name, _ in own[:0])",
        (f"{ISLANDS}::test_state_shared_with_a_module_that_is_not_called_does_not_change", ISLANDS),
    ),
    Fault(
        "parts: attributes that code outside of all parts names are set",
        "tracing.merging",
        "_NAMES.findall(a.name)[-1] in named_elsewhere)",
        "_NAMES.findall(a.name)[-1] in ())",
        (MERGING, ISLANDS),
    ),
    Fault(
        "parts: a module that runs other code in another call is traced once",
        "tracing.islands",
        "        for call in _representatives(calls):\n            traced",
        "        for call in _representatives(calls)[:1]:\n            traced",
        (f"{ISLANDS}::test_calls_that_run_other_code_are_all_traced", ISLANDS),
    ),
    Fault(
        "parts: state that two parts share is cut for each",
        "tracing.merging",
        "if value.is_state and name in self.state:",
        "if value.is_state and name in ():",
        (MERGING,),
    ),
    Fault(
        "parts: what a part returns may shrink",
        "tracing.merging",
        "        self.outputs.extend(place.values(graph.outputs))",
        "        self.outputs.extend(())",
        (f"{ISLANDS}::test_inputs_and_outputs_of_an_island_stay_even_when_masked", ISLANDS),
    ),
    Fault(
        "parts: what a part is given may shrink",
        "tracing.merging",
        "        self.inputs.extend(place.values(graph.inputs))",
        "        self.inputs.extend(())",
        (f"{ISLANDS}::test_inputs_and_outputs_of_an_island_stay_even_when_masked", ISLANDS),
    ),
    Fault(
        "parts: sizes refer to the values of another part",
        "tracing.merging",
        "return SizeOf(self.moved[value].index, dim)",
        "return SizeOf(value, dim)",
        (MERGING,),
    ),
    Fault(
        "parts: a program is the same though something is broadcast in one run only",
        "tracing.merging",
        "tuple(n == 1 for n in v.shape))",
        "len(v.shape))",
        (MERGING, ISLANDS),
    ),
    Fault(
        "parts: calls with other constants are one program",
        "tracing.exploring",
        "same_numbers(one.tensors[name], other.tensors[name]) for name in constants",
        "name in one.tensors for name in constants",
        (f"{ISLANDS}::test_calls_with_other_constants_are_all_traced",),
    ),
)
