"""Networks around operators that were wrong once: each is checked in every run."""

from __future__ import annotations

from property_tests.around.case import OperatorCase

FOUND: tuple[OperatorCase, ...] = ()
