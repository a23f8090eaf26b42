"""The rows of the table in docs/how-to/restore.md as rules on a :class:`~tests.faults.restore_run.RestoreRun`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from joblane.record.row.states import ENDED, LIVE, WAITING, State
from joblane.sqs.message import DEAD_ATTRIBUTE
from tests.faults.checker import Evidence
from tests.faults.queues import Message

if TYPE_CHECKING:
    from tests.faults.restore_run import RestoreRun

TASKS = """
select id, state, generation, deadline is not null, payload ->> 'nonce', dead_sent_at is not null, cleared
  from joblane.tasks where type like 'mix:%'
"""
PROBE = "probe-"
"""Start of the ids of the enqueues at the end of a run."""


@dataclass(frozen=True)
class Row:
    """A task at a time."""

    state: State
    generation: int
    has_deadline: bool
    nonce: str | None
    is_sent: bool
    is_cleared: bool

    @property
    def has_ended(self) -> bool:
        return self.state in ENDED


Table = Mapping[str, Row]


def rows_of(sql: Callable[..., list[list[Any]]]) -> dict[str, Row]:
    """Return the tasks of the mix, by id."""
    return {id_: Row(State(state), *rest) for id_, state, *rest in sql(TASKS)}


def generation_of(dead_letter: Message) -> int | None:
    """Return the generation of a dead letter; None: SQS has moved it."""
    found = dead_letter.attributes.get(DEAD_ATTRIBUTE)
    return None if found is None else int(found["StringValue"])


def revive(id_: str, before: int, after: int, dead: Mapping[tuple[str, int | None], int]) -> bool:
    """True if dead letters can revive the task from generation ``before`` to ``after``: it had one of each in between.

    The dead letter of a later generation stays in its lane while the task lives, and revives the task once that
    generation is archived.
    """
    return all((id_, generation) in dead for generation in range(before, after))


def without_later(copied: Table, found: Evidence) -> Evidence:
    """Return the facts without those of tasks that the copy does not know."""

    def known(ids: set[str]) -> set[str]:
        return {id_ for id_ in ids if id_ in copied or id_.startswith(PROBE)}

    return replace(
        found,
        mix=replace(found.mix, ticks=found.mix.ticks & copied.keys(), external={}),
        created=known(found.created),
        cancelled={
            id_: state
            for id_, state in found.cancelled.items()
            if id_ in copied and copied[id_].state is State.CANCELLED
        },
    )


def changed_while_paused(run: RestoreRun, now: Table) -> Iterator[str]:
    """Yield a line for each task that has done more than a pause permits: a run that is lost, and a message that is
    received, change the row, and no task runs."""
    for id_, row in now.items():
        before = run.copied.get(id_)
        if before is None:  # a message without a row got one, or an archived task its successor
            is_right = row.state in WAITING or row.state in (State.CANCELLED, State.ARCHIVED)
        elif before.state is State.ACTIVE:  # it is lost; if it has a message, the claim says so
            is_right = row.state is not State.COMPLETED
        elif before.state in WAITING:  # a parent that has ended cancels it
            is_right = row.state in WAITING or (row.state is State.CANCELLED and _waits(run, id_))
        elif before.state is State.ARCHIVED:  # a dead letter that was sent back before the move
            is_right = row.state is State.ARCHIVED or (row.state in WAITING and id_ in run.lanes_at_move)
        else:
            is_right = row.state is before.state
        if not is_right:
            yield f"{id_} was {before and before.state} at the copy, and is {row.state} although everything is paused"


def _waits(run: RestoreRun, id_: str) -> bool:
    return "after" in run.mix.jobs.get(id_, {"options": {}})["options"]


class Holds:
    """Each function yields the tasks for which the row of the table does not hold.

    ``seen``: the tasks that the last row is about.
    """

    def __init__(self, run: RestoreRun, final: Table, again: set[str]) -> None:
        self.copied, self.original, self.final, self.again = run.copied, run.original, final, again
        self._run = run
        self.seen: list[str] = []

    def how(self) -> Counter[str]:
        """Count who did the work for the tasks of the last row, after the move."""
        run, found = self._run, Counter[str]()
        of_nonce = {row.nonce: id_ for id_, row in self.final.items()}
        for id_ in (of_nonce.get(each, each) for each in self.seen):
            if id_ not in self.again:
                found["no run" if id_ in self.final else "no row"] += 1
            elif run.queues.sent_by_sweep[id_] > run.sent_by_sweep[id_]:
                found["ran, with a message of the sweep"] += 1
            else:
                found["ran, without the sweep"] += 1
            found["a message was in a lane at the move, and a claim acknowledged it"] += (
                id_ in run.lanes_at_move and id_ not in self.again
            )
        return found

    def _of(self, rule: Callable[[str], bool]) -> list[str]:
        self.seen = sorted(id_ for id_ in {*self.copied, *self.original} if rule(id_))
        return self.seen

    def gone(self) -> Iterator[str]:
        """Enqueued after the time, in a session."""
        jobs = self._run.mix.jobs
        for id_ in self._of(
            lambda id_: id_ not in self.copied and id_ in jobs and jobs[id_]["mode"] not in ("direct", "rollback")
        ):
            if id_ in self.final:
                yield id_

    def open(self) -> Iterator[str]:
        """Its transaction was open at the time, and committed after it."""
        self.seen = [id_ for id_ in self._run.open_at_copy if id_ in self.original]
        yield from (id_ for id_ in self._run.open_at_copy if id_ not in self.original or id_ in self.final)

    def gone_with_message(self) -> Iterator[str]:
        """The same, and its message was in a lane at the move, or was delayed there. The lanes are empty at the end."""
        gone = [*self.gone()]
        self.seen = [id_ for id_ in self.seen if id_ in self._run.lanes_at_move]
        yield from (id_ for id_ in self.seen if id_ in gone or id_ in self.again)

    def waiting(self) -> Iterator[str]:
        """Its message was without a row, and still in a queue: not received, or it waits for its next attempt."""
        ended = {row.nonce for row in self.final.values() if row.has_ended}
        self.seen = sorted(self._run.waiting)
        yield from (nonce for nonce in self.seen if nonce not in ended and not self._is_dead(nonce))

    def received(self) -> Iterator[str]:
        """It was without a row, and is gone: it was received in the original, after the time."""
        final = {row.nonce for row in self.final.values()}
        original = {row.nonce for row in self.original.values()}
        external = self._run.mix.external
        self.seen = sorted(nonce for nonce in external if nonce not in final and external[nonce])
        yield from (nonce for nonce in self.seen if nonce not in original and not self._is_dead(nonce))

    def _is_dead(self, nonce: str) -> bool:
        return any(nonce in dead_letter.body for _, dead_letter in self._run.queues.dead_letters())

    def _live_again(self, state: State) -> list[str]:
        return self._of(
            lambda id_: (
                id_ in self.copied
                and id_ in self.original
                and not self.copied[id_].has_ended
                and self.original[id_].state is state
            )
        )

    def _not_again(self, ids: list[str]) -> Iterator[str]:
        """Those that have not run again. A deadline, a parent or a cancel request may end them without a run."""
        for id_ in ids:
            row = self.final.get(id_)
            may_end = row is not None and (row.has_deadline or row.state is State.CANCELLED)
            was_lost = self.copied[id_].state is State.ACTIVE and row is not None and row.state is State.ARCHIVED
            if row is None or not row.has_ended or (id_ not in self.again and not may_end and not was_lost):
                yield id_

    def completed(self) -> Iterator[str]:
        return self._not_again(self._live_again(State.COMPLETED))

    def archived(self) -> Iterator[str]:
        """It has run again, and the dead letter of the original was in its queue at the move, for one generation."""
        ids = self._live_again(State.ARCHIVED)
        yield from self._not_again(ids)
        for id_ in ids:
            original = self.original[id_]
            was_redriven = (id_, original.generation) not in self._run.dead_at_move
            if original.is_sent and was_redriven and id_ not in self._run.lanes_at_move:
                yield id_

    def cancelled(self) -> Iterator[str]:
        return self._not_again(self._live_again(State.CANCELLED))

    def live(self) -> Iterator[str]:
        """It had not ended at either time."""
        ids = self._of(
            lambda id_: (
                id_ in self.copied
                and not self.copied[id_].has_ended
                and not (id_ in self.original and self.original[id_].has_ended)
            )
        )
        return self._not_again(ids)

    def ended(self) -> Iterator[str]:
        """Completed or cancelled before the time."""
        ids = self._of(lambda id_: id_ in self.copied and self.copied[id_].state in (State.COMPLETED, State.CANCELLED))
        return (
            id_
            for id_ in ids
            if id_ in self.again or id_ not in self.final or self.final[id_].state is not self.copied[id_].state
        )

    def redriven(self) -> Iterator[str]:
        """Archived before the time, and redriven after it: a redrive runs it again, even without a dead letter."""
        ids = self._of(
            lambda id_: (
                id_ in self.copied
                and self.copied[id_].state is State.ARCHIVED
                and self.copied[id_].is_sent
                and id_ in self.original
                and self.original[id_].generation > self.copied[id_].generation
            )
        )
        return (id_ for id_ in ids if id_ not in self.again or self.final[id_].state in LIVE)

    def archived_before(self) -> Iterator[str]:
        """Archived at both times: only a redrive runs it."""
        ids = self._of(
            lambda id_: (
                id_ in self.copied
                and self.copied[id_].state is State.ARCHIVED
                and self.original.get(id_) == self.copied[id_]
            )
        )
        return (id_ for id_ in ids if id_ not in self.final or self.final[id_].state in LIVE)


ROWS: Mapping[str, Callable[[Holds], Iterator[str]]] = {
    "enqueued after it, in a session": Holds.gone,
    "enqueued after it, and its message is in a queue": Holds.gone_with_message,
    "enqueued in a transaction that was open": Holds.open,
    "sent after it without a row, and its message is in a queue": Holds.waiting,
    "sent after it without a row, and its message is gone": Holds.received,
    "completed after it": Holds.completed,
    "archived after it": Holds.archived,
    "cancelled after it": Holds.cancelled,
    "redriven after it": Holds.redriven,
    "archived before it": Holds.archived_before,
    "waiting or running": Holds.live,
    "completed or cancelled before it": Holds.ended,
}
"""Row of the table in docs/how-to/restore.md → its rule."""
