"""Programs from one forward on tensors without data.

It gives what torch.export gives, which does far more around the forward; but it follows no numbers that are
read from inputs, and gives up where a forward reads one, or does what only export takes apart.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.func import functional_call

from speedup.torch_api import enable_python_dispatcher, exporting_state
from speedup.tracing.aliasing import written_back
from speedup.tracing.flat import Flat
from speedup.tracing.program import Program, has_calls_to_lower
from speedup.tracing.tape import GaveUpError, Recorder, Tape, is_plain


def capture_program(flat: Flat, inputs: Sequence[Tensor]) -> Program | None:
    """What the model of `flat` computes from `inputs`, in plain operators.

    None where that takes torch.export to find out.

    Raises:
        Exception: whatever the forward raises.
    """
    held = {**dict(flat.named_parameters()), **dict(flat.named_buffers())}
    if not all(map(is_plain, (*held.values(), *inputs))):
        return None
    tape = Tape(flat)
    state = {name: tape.take(name, tensor) for name, tensor in held.items()}
    given = tuple(tape.give(f"tensors_{number}", tensor) for number, tensor in enumerate(inputs))
    recorder = Recorder(tape)
    with exporting_state(), tape.fakes, enable_python_dispatcher(), tape.following(), recorder:
        try:
            returned = functional_call(flat, state, given)
            tape.end(returned)
        except GaveUpError:
            return None
    # The forward may have caught the error.
    if recorder.gave_up or flat.assigned or has_calls_to_lower(tape.graph):
        return None
    writes = written_back(tape.graph)
    if writes is None:
        return None
    state_names, constants = tape.state()
    return Program(tape.graph, state_names, constants, frozenset(), writes)
