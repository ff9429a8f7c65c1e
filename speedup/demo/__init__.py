"""Two networks with masks, compacted and measured: what `speedup demo` runs."""

from speedup.demo.run import run_demo

__all__ = ["run_demo"]
