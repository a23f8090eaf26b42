"""How long tests wait for something that must happen. No test measures this time: a slow machine may need it."""

from joblane.record.driver.time_limits import TimeLimits

PATIENCE_SECONDS = 300
PATIENT = TimeLimits(connect=PATIENCE_SECONDS, lock=PATIENCE_SECONDS, statement=PATIENCE_SECONDS)
"""Time limits of many producers, and of producers on a slow machine, that can wait long for each other."""
