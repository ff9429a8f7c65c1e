"""Tests of mask makers."""
