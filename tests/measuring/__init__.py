"""Latency: what is measured and what is chosen from it."""
