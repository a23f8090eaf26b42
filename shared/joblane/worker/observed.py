"""The calls of observers around a run, such as :mod:`joblane.otel`. Most workers have none, and do not import this.

An observer that fails costs no run: its error is logged.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import copy_context
from typing import TYPE_CHECKING, Any

from joblane import telemetry
from joblane.errors import text_of
from joblane.tasks.event_kinds import OBSERVERS

if TYPE_CHECKING:
    from joblane.names import Queue
    from joblane.worker.invocation import Invocation
    from joblane.worker.run import Run, Runner

FLUSH_SECONDS = 0.5
"""The longest time that an invocation waits for the observers after its end."""


def execute(run: Run, runner: Runner, queue: Queue, invocation: Invocation, claim_ms: int) -> None:
    """Execute a run under observation, in a context of its own, which no later run sees.

    ``claim_ms``: the duration of the claim.
    """
    copy_context().run(_execute, run, runner, queue, invocation, claim_ms)


def _execute(run: Run, runner: Runner, queue: Queue, invocation: Invocation, claim_ms: int) -> None:
    run.observed = observed = []
    for observer in OBSERVERS:
        with _logged(observer):
            about = {"queue": queue, "request_id": invocation.id, "claim_ms": claim_ms}
            observed.append((observer, observer.begin(runner.task, run.claim, run.received, **about)))
    try:
        run.execute(runner, queue, invocation)
    finally:
        for observer, state in reversed(observed):
            with _logged(observer):
                observer.leave(state, run.claim, run.error)
        run.error = None  # its frames keep the run
        if run.recorded or run.end is None:
            finish([run], None)


def finish(runs: Sequence[Run], milliseconds: int | None) -> None:
    """Report the ends of runs. ``milliseconds``: the duration of the statement; None: the run has committed itself."""
    for run in runs:
        observed, run.observed = run.observed, ()
        for observer, state in observed:
            with _logged(observer):
                observer.end(state, run.claim, run.end, milliseconds)


def flush(ends: float) -> None:
    """Wait for the observers until ``ends``, a value of ``time.monotonic()``, and at most :data:`FLUSH_SECONDS`."""
    ends = min(ends, time.monotonic() + FLUSH_SECONDS)
    for observer in OBSERVERS:
        with _logged(observer):
            observer.flush(ends - time.monotonic())


@contextmanager
def _logged(observer: Any) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        fields = {"observer": type(observer).__module__, "error": text_of(error)}
        telemetry.logger().warning("a run could not be observed", extra=fields)
