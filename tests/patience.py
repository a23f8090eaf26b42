"""How long tests wait for something that must happen. No test measures this time: a slow machine may need it."""

from __future__ import annotations

import time
from collections.abc import Callable

from joblane.record.driver.time_limits import TimeLimits

PATIENCE_SECONDS = 300
PATIENT = TimeLimits(connect=PATIENCE_SECONDS, lock=PATIENCE_SECONDS, statement=PATIENCE_SECONDS)
"""Time limits of many producers, and of producers on a slow machine, that can wait long for each other."""


def await_true(condition: Callable[[], bool], otherwise: Callable[[], str]) -> None:
    """Wait until the condition is true. ``otherwise``: returns the message of the failure if it never is."""
    ends = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < ends, otherwise()
        time.sleep(0.03)
