"""Measurements to run by hand, each a module: `python -m benchmarks.zoo`. They share `tests.support`."""
