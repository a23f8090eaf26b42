"""The calls of observers around a run, such as :mod:`joblane.otel`. Most workers have none, and do not import this.

An observer that fails costs no run: its error is logged.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import copy_context
from typing import TYPE_CHECKING

from joblane.tasks.event_kinds import OBSERVERS
from joblane.worker.flush import logged

if TYPE_CHECKING:
    from joblane.names import Queue
    from joblane.worker.invocation import Invocation
    from joblane.worker.run import Run, Runner


def execute(run: Run, runner: Runner, queue: Queue, invocation: Invocation, claim_ms: int) -> None:
    """Execute a run under observation, in a context of its own, which no later run sees.

    ``claim_ms``: the duration of the claim.
    """
    copy_context().run(_execute, run, runner, queue, invocation, claim_ms)


def _execute(run: Run, runner: Runner, queue: Queue, invocation: Invocation, claim_ms: int) -> None:
    run.observed, run.error, run.payload = [], None, None
    observed = run.observed
    for observer in OBSERVERS:
        with logged(observer):
            about = {"queue": queue, "request_id": invocation.id, "claim_ms": claim_ms}
            observed.append((observer, observer.begin(runner.task, run.claim, run.received, **about)))
    try:
        run.execute(runner, queue, invocation)
    finally:
        for observer, state in reversed(observed):
            with logged(observer):
                observer.leave(state, run.claim, run.end, run.error, run.payload)
        run.error = None  # its frames keep the run
        if run.recorded or run.end is None:
            finish([run], None)


def finish(runs: Sequence[Run], milliseconds: int | None) -> None:
    """Report the ends of runs. ``milliseconds``: the duration of the statement; None: the run has committed itself.

    A run whose end could not be recorded is lost, as one without a lease.
    """
    for run in runs:
        end = run.end if run.recorded else None
        observed, run.observed = run.observed, ()
        for observer, state in observed:
            with logged(observer):
                observer.end(state, run.claim, end, milliseconds)
