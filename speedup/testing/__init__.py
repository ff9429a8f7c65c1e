"""Property tests of your own models: masks and inputs to draw, networks to draw, and one assertion.

Needs Hypothesis, which the extra `test` brings: `pip install speedup[test]`.
"""

from importlib.util import find_spec

if find_spec("hypothesis") is None:
    raise ImportError(
        "speedup.testing needs Hypothesis; install the extra `test`: pip install 'speedup[test]'"
    )

from speedup.testing.assertion import assert_equivalent
from speedup.testing.habits import masks_for
from speedup.testing.inputs import inputs_like
from speedup.testing.masks import MaskSpec, Scattered, Slices, Whole, mask_argument
from speedup.testing.networks import Input, Network, lively, networks, sample_call, sample_inputs
from speedup.testing.source import expression
from speedup.testing.spec import Spec
from speedup.testing.strategies import Case, cases, source_of

__all__ = [
    "Case",
    "Input",
    "MaskSpec",
    "Network",
    "Scattered",
    "Slices",
    "Spec",
    "Whole",
    "assert_equivalent",
    "cases",
    "expression",
    "inputs_like",
    "lively",
    "mask_argument",
    "masks_for",
    "networks",
    "sample_call",
    "sample_inputs",
    "source_of",
]
