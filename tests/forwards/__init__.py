"""Calls that are fitted to smaller tensors."""
