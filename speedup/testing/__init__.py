"""Property tests of your own models: masks and inputs to draw, networks to draw, and one assertion.

What draws needs Hypothesis, which the extra `testing` brings: `pip install 'torch-speedup[testing]'`. The
assertion and the masks that it takes do without.
"""

from importlib.util import find_spec
from typing import TYPE_CHECKING

from speedup.testing.assertion import assert_equivalent
from speedup.testing.masks import MaskSpec, Scattered, Slices, Whole, mask_argument
from speedup.testing.source import expression
from speedup.testing.spec import Spec

if TYPE_CHECKING or find_spec("hypothesis") is not None:
    from speedup.testing.habits import masks_for
    from speedup.testing.inputs import inputs_like
    from speedup.testing.networks import Input, Network, lively, networks, sample_call, sample_inputs
    from speedup.testing.strategies import Case, cases, source_of
else:

    def __getattr__(name: str) -> object:
        if name in __all__:
            raise ImportError(
                f"speedup.testing.{name} needs Hypothesis; install the extra `testing`: "
                "pip install 'torch-speedup[testing]'"
            )
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


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
