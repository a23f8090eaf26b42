"""Tests of every unit run alike on every machine: the same examples, and no clock that a busy one fails by."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("unit", derandomize=True, deadline=None, max_examples=100)
settings.load_profile("unit")
