"""The work that follows a commit: limits to serve, children to release, dead letters to mark, messages to send.

It is collected while a batch or a transaction runs, and done once after the commit. Most commits have none. Each of its
statements commits by itself. The sweep does what fails, and what a process leaves that ends before.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from joblane import telemetry
from joblane.enqueue.wake import wake
from joblane.errors import JobError, text_of
from joblane.record.driver.database import DATABASE_ERRORS
from joblane.record.flow.free_slots import Call, LimitNames, Turn, delay, serve_in_steps
from joblane.record.flow.release import Release
from joblane.record.task.dead_letters import mark_dead_sent
from joblane.sqs.client import PAUSED, Sqs

NOT_DONE = "the work that follows a commit failed in the database; the sweep starts the tasks that may start"
NOT_MARKED = (
    "sent dead letters could not be marked in the database; the sweep sends them once more, with the same ids and "
    "generations, and the successors of their tasks"
)
MOST_LOGGED = 100


@dataclass(slots=True)
class FollowUp:
    """Collects what has to follow a commit. :meth:`act` does it."""

    delays: list[tuple[LimitNames, float]] = field(default_factory=list)
    """The limits of tasks that have raised RateLimited, and the seconds in which the widest of them starts nothing."""
    freed: list[LimitNames] = field(default_factory=list)
    """The limits of tasks that do not have their slots any more, or that wait for one: they are served."""
    changed: list[str] = field(default_factory=list)
    """The names of limits whose values have changed: they are served."""
    dead: list[tuple[str, int]] = field(default_factory=list)
    """The ids and generations of tasks whose dead letters were sent: they are marked, and their successors are sent."""
    ended: list[str] = field(default_factory=list)
    """Tasks that have ended: their children are released, or cancelled."""
    children: list[str] = field(default_factory=list)
    """Tasks that do not wait for one of their parents any more."""
    signalled: list[str] = field(default_factory=list)
    """Tasks that have a signal, for which they may wait."""

    def act(self, sqs: Sqs, prefix: str, call: Call, *, brief: bool = False) -> None:
        """Do it, and send the messages of the tasks that may start. A part that fails stops no other.

        Children are released for a limited time; the sweep, which is then woken, releases the others. ``brief``: as for
        :meth:`~joblane.sqs.client.Sqs.send_many`.
        """
        release = Release(self.ended, self.children) if self.ended or self.children else None
        for name, items, steps in self._parts(call, release, to_end=False):
            try:
                for turns in steps:
                    send_turns(sqs, prefix, turns, brief=brief)
            except (*DATABASE_ERRORS, JobError) as error:
                message = NOT_MARKED if items is self.dead else NOT_DONE
                telemetry.logger().warning(message, extra={"error": text_of(error), name: _names(items)[:MOST_LOGGED]})
        if release is not None and not release.is_done:
            wake(sqs, prefix)

    def steps(self, call: Call) -> Iterator[list[Turn]]:
        """Do it to its end, as the sweep does. Yield the tasks of each statement whose messages are to be sent."""
        release = Release(self.ended, self.children)
        return (turns for _, _, steps in self._parts(call, release, to_end=True) for turns in steps)

    def _parts(
        self, call: Call, release: Release | None, *, to_end: bool
    ) -> Iterator[tuple[str, Sequence[Any], Iterator[list[Turn]]]]:
        """Yield the parts in their order: the log field and the names of what each is about, and its steps."""
        if self.delays:
            yield "limits", self.delays, self._delay(call)
        if self.freed:
            yield "limits", self.freed, serve_in_steps(call, self.freed)
        if self.changed:
            yield "limits", self.changed, self._serve_changed(call)
        if self.dead:
            yield "task_ids", self.dead, self._mark(call)
        if self.signalled:
            yield "task_ids", self.signalled, self._wake(call)
        if release is not None:
            yield "task_ids", [*self.ended, *self.children], release.steps(call, to_end=to_end)

    def _delay(self, call: Call) -> Iterator[list[Turn]]:
        for limits, seconds in self.delays:
            call(partial(delay, limits=limits, seconds=seconds))
            yield []

    def _serve_changed(self, call: Call) -> Iterator[list[Turn]]:
        from joblane.record.flow.limit_changes import serve_changed  # no worker changes limits

        yield from serve_changed(call, self.changed)

    def _wake(self, call: Call) -> Iterator[list[Turn]]:
        from joblane.record.task.waits import MAX_WAKES  # most programs send no signals
        from joblane.record.task.waits import wake as wake_tasks

        ids = list(dict.fromkeys(self.signalled))
        for start in range(0, len(ids), MAX_WAKES):
            yield call(partial(wake_tasks, ids=ids[start : start + MAX_WAKES])) or []

    def _mark(self, call: Call) -> Iterator[list[Turn]]:
        yield call(partial(mark_dead_sent, dead_letters=self.dead)) or []


def _names(item: Any) -> list[str]:
    """Return the names within an item of a part."""
    if isinstance(item, str):
        return [item]
    return [name for each in item for name in _names(each)] if isinstance(item, Sequence) else []


def send_turns(sqs: Sqs, prefix: str, turns: Sequence[Turn], *, brief: bool = False) -> bool:
    """Send the messages of rows. Return False if SQS refuses some, for example because the function may not send them.

    The sweep sends those.
    """
    if not turns:
        return True
    entries = [turn.entry(prefix) for turn in turns]
    failed = sqs.send_many(entries, brief=brief)
    for position, why in [item for item in failed.items() if item[1] != PAUSED][:1]:
        telemetry.logger().warning(
            "messages of tasks that may start now could not be sent; the sweep sends them",
            extra={"messages": len(failed), "queue": entries[position].queue, "error": why},
        )
    return not failed
