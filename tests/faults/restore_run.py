"""A run whose database is restored, as docs/how-to/restore.md describes it.

In the middle of the storm a copy of the database is made. The storm continues in the original, with the same queues,
which no restore takes back. Then everything in the original is paused, as an operator does, and everything in the copy,
as the migration of the deploy does. The functions are moved to the copy one after the other. While the copy is paused
nothing may start in it. After the resume all ends, and every row of the table in the page must hold.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from joblane.names import lane_name
from joblane.record.driver.database import Database
from joblane.record.pauses import pause_everything
from joblane.record.row.states import ENDED, State
from joblane.sqs.message import DEAD_ATTRIBUTE
from tests.conftest import administer
from tests.faults.checker import Evidence, check
from tests.faults.processes import fork_server
from tests.faults.queues import Message
from tests.faults.run import REDRIVEN_SHARE, Run
from tests.faults.worker import ALL_TASKS, PREFIX, SWEEP_LANE

HALF = 0.5
PAUSED_JUMPS, PAUSED_HOURS = 4, 7
"""The time for which the copy is paused: several intervals of the sweep's schedule."""
EVERYTHING = 1.0
TWICE = "tasks with two dead letters of a generation"
TASKS = """
select id, state, generation, deadline is not null, payload ->> 'nonce', dead_sent_at is not null
  from joblane.tasks where type like 'mix:%'
"""
RUN_SINCE = "select distinct task_id from joblane.runs where started_at >= $1::timestamptz"
Table = Mapping[str, "Row"]


@dataclass(frozen=True)
class Row:
    """A task at a time."""

    state: State
    generation: int
    has_deadline: bool
    nonce: str | None
    is_sent: bool

    @property
    def has_ended(self) -> bool:
        return self.state in ENDED


class RestoreRun(Run):
    """The run. ``copied``: the tasks at the time of the copy. ``original``: those that the stage has left."""

    jumps_with_faults = 6  # so that messages and live tasks are left for the copy
    least_first_runs = 0.0  # after the move the sweep sends what lives again

    copied: Table = MappingProxyType({})
    original: Table = MappingProxyType({})
    started_before = 0
    """The starts in the copy, when it was made."""
    resumed_at = ""
    waiting: frozenset[str] = frozenset()
    """The nonces of messages that were in a lane when the stage was moved, and had no row in their producer."""

    @property
    def _copy_url(self) -> str:
        return f"{self._url}_copy"

    # --- The parts of the run --------------------------------------------------------------------------------------

    def _during_storm(self, progress: float) -> None:
        if progress < HALF or self.copied:
            return
        name = self._url.rpartition("/")[2]
        for statement in (
            f"alter database {name} allow_connections false",
            f"select pg_terminate_backend(pid) from pg_stat_activity where datname = '{name}'",
            f"create database {name}_copy template {name}",
            f"alter database {name} allow_connections true",
        ):
            self._administer(statement)
        with Database(self._copy_url) as copy:
            self.copied = _tasks(copy.get().run)
            [[self.started_before]] = copy.get().run("select count(*)::int from public.starts")

    def _administer(self, statement: str) -> None:
        """Run a statement. A session that has not ended yet lets a copy fail."""
        for _ in range(50):
            try:
                administer(self._server, statement)
            except Exception:
                time.sleep(0.1)
            else:
                return
        administer(self._server, statement)

    def _after_storm(self, stack: ExitStack, endpoint: str) -> None:
        pause_everything(self._observer.get(), "before the restore", "operator")
        self._observer.drop()
        original, self._observer = self._observer, Database(self._copy_url)
        self.clock.move_forward(0)  # the copy has the clock of its time
        self._pause_copy()
        folder = self._folder / "copy"
        folder.mkdir(exist_ok=True)
        address = stack.enter_context(fork_server(folder, self._copy_url, endpoint, self._plant))
        for slot in self.slots:  # one after the other, as a deploy changes the functions
            slot.process.move(address)
            time.sleep(0.1)
        for producer in self.producers:  # they have done all acts
            producer.process.move(address)
            producer.process.close()
        self._until(lambda: self.queues.in_flight == 0 or self._is_moved())
        self.original = _tasks(original.get().run)
        original.drop()
        self.waiting = frozenset(self._without_row())
        self._be_paused()
        self.sql("delete from joblane.pauses")
        [[self.resumed_at]] = self.sql("select clock_timestamp()::text")
        self._sweep()

    def _pause_copy(self) -> None:
        pause_everything(self._observer.get(), "the stage uses the restored copy", "deploy")

    def _is_moved(self) -> bool:
        """True if no session uses the original."""
        name = self._url.rpartition("/")[2]
        found = self.sql("select count(*) from pg_stat_activity where datname = $1 and pid <> pg_backend_pid()", name)
        return found == [[0]]

    def _without_row(self) -> Iterator[str]:
        for _, message in self.queues.waiting(SWEEP_LANE):
            try:
                fields = json.loads(message.body)
                if not fields.get("rec"):
                    yield fields["payload"]["nonce"]
            except (ValueError, KeyError, TypeError):  # a tick, or garbage
                continue

    def _be_paused(self) -> None:
        """Live with pauses through several sweeps. Nothing starts."""
        for _ in range(PAUSED_JUMPS):
            self._until(self._idle)
            self.clock.move_forward(3600 * PAUSED_HOURS)
            self._sweep()
        self._until(self._idle)
        [[started]] = self.sql("select count(*)::int from public.starts")
        if started != self.started_before:
            self.result.wrong.append(f"{started - self.started_before} runs began in the copy while it was paused")

    def _calm(self) -> None:
        """Send every dead letter back once more after all has ended. Of two of a generation one has an effect."""
        super()._calm()
        before = _tasks(self.sql)
        dead_letters = Counter(
            (dead_letter.about, _generation(dead_letter))
            for queue, dead_letter in self.queues.dead_letters()
            if dead_letter.about in before and (queue, dead_letter) not in self.queues.redriven
        )
        twice = {about for (about, generation), number in dead_letters.items() if number > 1 and generation is not None}
        self.result.counts[TWICE] += len(twice)
        self._redrive_all(EVERYTHING, again=True)
        self._drain()
        for id_, row in _tasks(self.sql).items():
            if id_ in before and row.generation > before[id_].generation + 1:
                self.result.wrong.append(f"its dead letter was redriven twice: {self.evidence().history(id_)}")

    def _redrive(self) -> None:
        if self.original:
            self._redrive_all(REDRIVEN_SHARE, again=False)
        else:
            super()._redrive()

    def _redrive_all(self, share: float, *, again: bool) -> None:
        """Send dead letters back as `joblane redrive` does: none of another generation than its row has, so none
        of a run that the copy does not know."""
        rows = _tasks(self.sql)

        def wanted(dead_letter: Message) -> bool:
            return dead_letter.about not in rows or _generation(dead_letter) in (
                None,
                rows[dead_letter.about].generation,
            )

        for task in ALL_TASKS.values():
            for queue in task.lanes:
                self.queues.redrive(lane_name(PREFIX, queue, task.type), share, again=again, wanted=wanted)

    # --- The rules -------------------------------------------------------------------------------------------------

    def evidence(self) -> Evidence:
        """Return the facts of the copy: what producers know of later tasks is not in it."""
        found = super().evidence()
        if not self.original:
            return found

        def known(ids: set[str]) -> set[str]:
            return {id_ for id_ in ids if id_ in self.copied or id_.startswith("probe-")}

        mix = replace(found.mix, ticks=found.mix.ticks & self.copied.keys(), external={})
        cancelled = {
            id_: state
            for id_, state in found.cancelled.items()
            if id_ in self.copied and self.copied[id_].state is State.CANCELLED
        }
        return replace(
            found,
            mix=mix,
            created=known(found.created),
            replaced=found.replaced,
            cancelled=cancelled,
        )

    def _violations(self) -> list[str]:
        evidence, final = self.evidence(), _tasks(self.sql)
        again = {id_ for (id_,) in self.sql(RUN_SINCE, self.resumed_at)}
        table = Holds(self, final, again)
        wrong = check(evidence)
        for row, rule in ROWS.items():
            ids = list(rule(table))
            self.result.counts[f"row: {row}"] += table.seen
            wrong += [f"{row}: {evidence.history(id_)}" for id_ in ids[:12]]
        return wrong


class Holds:
    """The rows of the table in the page, each as a function that yields the tasks for which it does not hold.

    ``seen``: the tasks that the last row is about.
    """

    def __init__(self, run: RestoreRun, final: Table, again: set[str]) -> None:
        self.copied, self.original, self.final, self.again = run.copied, run.original, final, again
        self._run = run
        self.seen = 0

    def _of(self, rule: Callable[[str], bool]) -> list[str]:
        found = sorted(id_ for id_ in {*self.copied, *self.original} if rule(id_))
        self.seen = len(found)
        return found

    def gone(self) -> Iterator[str]:
        """Enqueued after the time, in a session."""
        jobs = self._run.mix.jobs
        later = self._of(lambda id_: id_ not in self.copied and id_ in jobs and jobs[id_]["mode"] != "direct")
        return (id_ for id_ in later if id_ in self.final)

    def waiting(self) -> Iterator[str]:
        """Its message was without a row, and still in a queue."""
        ended = {row.nonce for row in self.final.values() if row.has_ended}
        dead = [dead_letter.body for _, dead_letter in self._run.queues.dead_letters()]
        self.seen = len(self._run.waiting)
        for nonce in sorted(self._run.waiting):
            if nonce not in ended and not any(nonce in body for body in dead):
                yield nonce

    def received(self) -> Iterator[str]:
        """An external message that is gone was received in the original, after the time."""
        known = {row.nonce for row in (*self.final.values(), *self.original.values())}
        dead = [dead_letter.body for _, dead_letter in self._run.queues.dead_letters()]
        final = {row.nonce for row in self.final.values()}
        self.seen = 0
        for nonce in sorted(self._run.mix.external):
            self.seen += nonce not in final
            if nonce not in known and not any(nonce in body for body in dead):
                yield nonce

    def _lives_again(self, state: State) -> Iterator[str]:
        """Ended so after the time: it lived again, and has ended in a new run."""
        ids = self._of(
            lambda id_: (
                id_ in self.copied
                and id_ in self.original
                and not self.copied[id_].has_ended
                and self.original[id_].state is state
            )
        )
        for id_ in ids:
            row = self.final.get(id_)
            if (
                row is None
                or not row.has_ended
                or (id_ not in self.again and not row.has_deadline and row.state is not State.CANCELLED)
            ):
                yield id_

    def completed(self) -> Iterator[str]:
        return self._lives_again(State.COMPLETED)

    def archived(self) -> Iterator[str]:
        return self._lives_again(State.ARCHIVED)

    def cancelled(self) -> Iterator[str]:
        return self._lives_again(State.CANCELLED)

    def live(self) -> Iterator[str]:
        """It had not ended at either time."""
        ids = self._of(
            lambda id_: (
                id_ in self.copied
                and not self.copied[id_].has_ended
                and not (id_ in self.original and self.original[id_].has_ended)
            )
        )
        return (id_ for id_ in ids if id_ not in self.final or not self.final[id_].has_ended)

    def ended(self) -> Iterator[str]:
        """Completed or cancelled before the time."""
        ids = self._of(lambda id_: id_ in self.copied and self.copied[id_].state in (State.COMPLETED, State.CANCELLED))
        return (id_ for id_ in ids if id_ not in self.final or self.final[id_].state is not self.copied[id_].state)

    def redriven(self) -> Iterator[str]:
        """Archived before the time, and redriven after it: it is archived again, and its dead letter is gone."""
        ids = self._of(
            lambda id_: (
                id_ in self.copied
                and self.copied[id_].state is State.ARCHIVED
                and self.copied[id_].is_sent
                and id_ in self.original
                and self.original[id_].generation > self.copied[id_].generation
            )
        )
        return (id_ for id_ in ids if id_ not in self.final or not self.final[id_].has_ended)


ROWS: Mapping[str, Callable[[Holds], Iterator[str]]] = {
    "enqueued after it, in a session": Holds.gone,
    "sent after it without a row, and not received yet": Holds.waiting,
    "sent after it without a row, and received": Holds.received,
    "completed after it": Holds.completed,
    "archived after it": Holds.archived,
    "cancelled after it": Holds.cancelled,
    "redriven after it": Holds.redriven,
    "waiting or running": Holds.live,
    "completed or cancelled before it": Holds.ended,
}
"""Row of the table in docs/how-to/restore.md → its rule."""


def _generation(dead_letter: Message) -> int | None:
    """Return the generation of a dead letter; None: SQS has moved it."""
    found = dead_letter.attributes.get(DEAD_ATTRIBUTE)
    return None if found is None else int(found["StringValue"])


def _tasks(sql: Callable[..., list[list[Any]]]) -> dict[str, Row]:
    return {id_: Row(State(state), *rest) for id_, state, *rest in sql(TASKS)}
