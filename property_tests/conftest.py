"""Hypothesis profiles: ci (the default) is bounded and repeatable, dev is quick, nightly is long.

`HYPOTHESIS_PROFILE` selects one; `SPEEDUP_EXAMPLES` sets how many examples nightly tries.
"""

from __future__ import annotations

import logging
import os

import torch
from hypothesis import HealthCheck, settings

# Networks are big as Hypothesis' examples go; and most of an example's time is spent in torch.export.
_COMMON = settings(
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

# Shrinking one failure takes seconds, telling several apart takes minutes: that is for the night.
settings.register_profile("ci", _COMMON, max_examples=150, derandomize=True, report_multiple_bugs=False)
settings.register_profile("dev", _COMMON, max_examples=30, report_multiple_bugs=False)
settings.register_profile("nightly", _COMMON, max_examples=int(os.environ.get("SPEEDUP_EXAMPLES", "2000")))
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

# pytest hangs a handler on every logger that does not propagate; one on this logger makes torch.export
# write down each tensor that it sees, page after page in the report of every failure.
logging.getLogger("torch.__trace").propagate = True

# The tensors are tiny: threads would only wait for one another.
torch.set_num_threads(1)
