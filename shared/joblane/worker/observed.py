"""Runs under observers, such as :mod:`joblane.otel`. Most workers have none, and do not import this.

An observer that fails costs no run: its error is logged.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextvars import copy_context
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from joblane.tasks.event_kinds import OBSERVERS
from joblane.worker.flush import logged
from joblane.worker.run import Run, ms_since

if TYPE_CHECKING:
    from joblane.names import Queue
    from joblane.sqs.message import Received
    from joblane.tasks.payload import Payload
    from joblane.worker.invocation import Invocation
    from joblane.worker.run import Runner


@dataclass(slots=True)
class ObservedRun(Run):
    """A run that its observers see."""

    claim_ms: int = 0
    """The duration of its claim."""
    observed: list[tuple[Any, Any]] = field(default_factory=list)
    """Each observer of the run with its state."""
    error: BaseException | None = None
    """The exception that has ended the run."""
    payload: Payload | None = None
    """The payload of a run that has ended by an exception, as the handler got it. None: it could not be read."""

    def execute(self, runner: Runner, queue: Queue, invocation: Invocation) -> None:
        """Execute the run in a context of its own, which no later run sees."""
        copy_context().run(self._execute, runner, queue, invocation)

    def _execute(self, runner: Runner, queue: Queue, invocation: Invocation) -> None:
        about = {"queue": queue, "request_id": invocation.id, "claim_ms": self.claim_ms}
        for observer in OBSERVERS:
            with logged(observer):
                self.observed.append((observer, observer.begin(runner.task, self.claim, self.received, **about)))
        try:
            Run.execute(self, runner, queue, invocation)
        finally:
            for observer, state in reversed(self.observed):
                with logged(observer):
                    observer.leave(state, self.claim, self.end, self.error, self.payload)
            self.error = None  # its frames keep the run
            if self.recorded or self.end is None:
                self.report(None)

    def note_error(self, error: BaseException, payload: Payload | None) -> None:
        self.error, self.payload = error, payload

    def report(self, milliseconds: int | None) -> None:
        """Report the end. ``milliseconds``: the duration of the statement; None: the run has committed itself.

        A run whose end could not be recorded is lost, as one without a lease.
        """
        end = self.end if self.recorded else None
        observed, self.observed = self.observed, []
        for observer, state in observed:
            with logged(observer):
                observer.end(state, self.claim, end, milliseconds)


class Observing:
    """The part of a batch of observed runs that measures its statements."""

    def _claim(self, deliveries: Mapping[str, Received]) -> list[Run] | None:
        started = time.perf_counter()
        runs: list[Run] | None = super()._claim(deliveries)  # type: ignore[misc]
        for run in runs or ():
            assert isinstance(run, ObservedRun)
            run.claim_ms = ms_since(started)
        return runs

    def _record(self, runs: Sequence[Run]) -> None:
        started = time.perf_counter()
        super()._record(runs)  # type: ignore[misc]
        for run in runs:
            assert isinstance(run, ObservedRun)
            run.report(ms_since(started))
