"""Faults of traces: what a plain forward writes down, and when it says that it does not know."""

from __future__ import annotations

from property_tests.faults.fault import Fault
from property_tests.faults.killers import FORMS, PLANNED_AGAIN, TRACES

FAULTS: tuple[Fault, ...] = (
    Fault(
        "traces: a forward that catches the tape's error is believed",
        "tracing.captured",
        "if recorder.gave_up or flat.assigned",
        "if flat.assigned",
        (TRACES,),
    ),
    Fault(
        "traces: a buffer that gets another tensor is overlooked",
        "tracing.captured",
        "recorder.gave_up or flat.assigned or ",
        "recorder.gave_up or ",
        (TRACES,),
    ),
    Fault(
        "traces: a tensor of unknown origin is a constant",
        "tracing.tape",
        "if is_fake(tensor) or not is_plain(tensor):",
        "if not is_plain(tensor):",
        (TRACES,),
    ),
    Fault(
        "traces: what follows from the data comes out as an error of the forward",
        "tracing.tape",
        "except (GaveUpError, *DependsOnDataError) as error:",
        "except GaveUpError as error:",
        (TRACES,),
    ),
    Fault(
        "traces: calls belong to the module that ran last",
        "tracing.tape",
        "            finally:\n                self._running.pop()\n",
        "            finally:\n                pass\n",
        (TRACES,),
    ),
    Fault(
        "traces: constants that nobody reads are state",
        "tracing.tape",
        "            unread = _made_in_vain(node)\n",
        "            unread: list[Node] = []\n",
        (TRACES,),
    ),
    Fault(
        "traces: a number read from a constant is an operator's result",
        "tracing.tape",
        "        if not isinstance(result, bool | int | float):\n",
        "        if True:\n",
        (TRACES,),
    ),
    Fault(
        "traces: what is written in place keeps its old name",
        "tracing.tape",
        "            self._nodes[result] = node\n",
        "            self._nodes.setdefault(result, node)\n",
        (TRACES,),
    ),
    Fault(
        "traces: tensors without data are in one piece",
        "torch_api",
        "torch.empty_strided(shape, strides, dtype=tensor.dtype",
        "torch.empty(shape, dtype=tensor.dtype",
        ("tests/test_torch_api.py::test_torch_has_it_and_it_does_what_it_is_taken_for[fake_like]",),
    ),
    Fault(
        "traces: the call of modules stays replaced after an error",
        "tracing.tape",
        "        try:\n            yield\n        finally:\n            nn.Module.__call__ = plain",
        "        if True:\n            yield\n            nn.Module.__call__ = plain",
        (TRACES,),
    ),
    Fault(
        "traces: a further plan goes by the numbers that the model had",
        "planning.traced",
        "held[name].detach() if name in held else t for",
        "t for",
        (PLANNED_AGAIN,),
    ),
    Fault(
        "traces: a further plan takes another architecture",
        "planning.traced",
        "        if changed:\n",
        "        if not changed:\n            pass\n        elif len(changed) > 9:\n",
        (PLANNED_AGAIN,),
    ),
    Fault(
        "traces: what Python read holds for all masks",
        "planning.traced",
        "None if found.trace.graph.consulted else found",
        "found",
        (PLANNED_AGAIN,),
    ),
    Fault(
        "traces: plain weights are planned as computed ones were traced",
        "planning.planner",
        "request.traced if request.model is request.given else None",
        "request.traced",
        (PLANNED_AGAIN,),
    ),
    Fault(
        "forms: a tensor that is handed on is taken for a new one",
        "tracing.forms",
        "_is_plain(result) and not _is_given(result, (args, kwargs)):",
        "_is_plain(result):",
        (FORMS,),
    ),
    Fault(
        "forms: the type of numbers does not count",
        "tracing.forms",
        "        return type(argument), argument\n",
        "        return argument\n",
        (FORMS,),
    ),
    Fault(
        "forms: casts of autocast do not count",
        "tracing.forms",
        "return *key, torch.get_default_dtype(), *casts",
        "return *key, torch.get_default_dtype()",
        (FORMS,),
    ),
    Fault(
        "forms: strides do not count",
        "tracing.forms",
        "return cls(tuple(tensor.shape), tensor.stride(), tensor.dtype, tensor.device)",
        "return cls(tuple(tensor.shape), (), tensor.dtype, tensor.device)",
        (FORMS,),
    ),
    Fault(
        "forms: results are remembered where gradients are followed",
        "tracing.forms",
        "if not self._is_new[func] or torch.is_grad_enabled():",
        "if not self._is_new[func]:",
        (FORMS,),
    ),
)
