"""Two networks with masks, compacted and measured: what `speedup demo` runs."""

from speedup.demo.run import Outcome, demo_outcomes, run_demo

__all__ = ["Outcome", "demo_outcomes", "run_demo"]
