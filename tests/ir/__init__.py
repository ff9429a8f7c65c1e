"""Graphs, expressions of sizes and inputs as values."""
