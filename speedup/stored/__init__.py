"""Safetensors on disk: what they hold, read piece by piece, and whether it is what was planned."""
