"""Latency, measured side by side."""
