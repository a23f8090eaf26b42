"""The wait of an invocation for its observers, such as :mod:`joblane.otel`, and the log of an observer that fails."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from joblane import telemetry
from joblane.background import FLUSH_SECONDS
from joblane.errors import text_of
from joblane.tasks.event_kinds import OBSERVERS


def flush(ends: float) -> None:
    """Wait for the observers until ``ends``, a value of ``time.monotonic()``, and at most :data:`FLUSH_SECONDS`."""
    ends = min(ends, time.monotonic() + FLUSH_SECONDS)
    for observer in OBSERVERS:
        with logged(observer):
            observer.flush(ends - time.monotonic())


@contextmanager
def logged(observer: Any) -> Iterator[None]:
    """Log the error of an observer: it costs no run."""
    try:
        yield
    except Exception as error:
        fields = {"observer": type(observer).__module__, "error": text_of(error)}
        telemetry.logger().warning("a run could not be observed", extra=fields)
