"""Masks from every source, and what is wrong with those that do not fit."""
