"""Checkpoints as folders of safetensors files, made smaller without a model in memory."""
