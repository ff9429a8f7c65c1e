"""Tests of `speedup.sparse`."""
