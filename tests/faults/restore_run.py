"""A run whose database is restored, as docs/how-to/restore.md describes it.

In the middle of the storm a copy of the server is made, and no session of the original notices. The storm continues in
the original, with the same queues, which no restore takes back. Then everything in the original is paused, as an
operator does, and everything in the copy, as the migration of the deploy does. The functions are moved to the copy one
after the other: a run that is under way ends in the original, or is killed. While the copy is paused nothing may start
in it. After the resume all ends. Dead letters are sent back as `joblane redrive` does, and as the console of SQS does,
while their tasks live and after they have ended. Every row of the table in the page must hold, with an example.
"""

from __future__ import annotations

import json
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from types import MappingProxyType
from typing import Any

from joblane.inspector.actions.changes import change, entry_of
from joblane.inspector.bulk.dead_letters import DeadLetter, DeadLetterKind, identified, send_back
from joblane.inspector.filter import BulkAction, Filter
from joblane.local.postgres import Postgres
from joblane.names import lane_name
from joblane.record.driver.database import Database
from joblane.record.pauses import pause_everything
from joblane.record.row.states import LIVE, State
from joblane.sqs.client import Entry
from joblane.sqs.message import Received
from tests.faults.checker import Evidence, check
from tests.faults.mix import LIMITED, Act
from tests.faults.physical_copy import copy_of
from tests.faults.processes import fork_server
from tests.faults.queues import Message, Queues
from tests.faults.restore_rows import (
    ROWS,
    Holds,
    Table,
    changed_while_paused,
    generation_of,
    revive,
    rows_of,
    without_later,
)
from tests.faults.run import REDRIVEN_SHARE, Run
from tests.faults.worker import ALL_TASKS, PREFIX, SWEEP_LANE

BEFORE_COPY, COPY = 0.4, 0.6
"""The shares of the acts that are done at a redrive, and at the copy."""
PAUSED_JUMPS, PAUSED_HOURS = 4, 7
"""The time for which the copy is paused: several intervals of the sweep's schedule."""
HALF, EVERYTHING = 0.5, 1.0
LATE_MESSAGES, LATE_JOBS, LATE_SECONDS = 12, 8, 900
"""Messages of another program without a row, and jobs of a session, with SQS's longest delay, just before the move."""
OPEN = 6
"""Transactions that are open at the time of the copy. Half of them commit afterwards."""
REDRIVEN_AFTER_COPY = 0.7
ENOUGH_JOBS = 800
"""A run with so many jobs needs an example of each row."""
TWICE = "tasks with two dead letters of a generation"
ENQUEUE = """
select joblane.enqueue(type => 'mix:row', task_id => $1, payload => jsonb_build_object('nonce', $1::text, 'items', 1))
"""
RUN_SINCE = "select distinct task_id from joblane.runs where started_at >= $1::timestamptz"


class RestoreRun(Run):
    """The run. ``copied``: the tasks at the time of the copy. ``original``: those that the stage has left."""

    jumps_with_faults = 6  # so that messages and live tasks are left for the copy
    least_first_runs = 0.0  # after the move the sweep sends what lives again
    kinds = LIMITED

    copied: Table = MappingProxyType({})
    original: Table = MappingProxyType({})
    started_before = 0
    """The starts in the copy, when it was made."""
    resumed_at = ""
    lanes_at_move: frozenset[str] = frozenset()
    """The subjects of the messages that were in a lane when the stage was moved."""
    waiting: frozenset[str] = frozenset()
    """The nonces of those without a row in their producer."""
    dead_at_move: Mapping[tuple[str, int | None], int] = MappingProxyType(Counter())
    """Subject and generation → dead letters in the queues when the stage was moved."""
    sent_by_sweep: Mapping[str, int] = MappingProxyType(Counter())
    """Subject → messages that the sweep had sent when the stage was resumed."""
    open_at_copy: tuple[str, ...] = ()
    """Tasks that were enqueued in a transaction that was open at the copy, and committed after it."""
    _copy: Postgres | None = None
    _is_redriven = False

    def close(self) -> None:
        super().close()
        if self._copy is not None:
            self._copy.stop()
            shutil.rmtree(self._copy.folder)

    # --- The parts of the run --------------------------------------------------------------------------------------

    def _during_storm(self, progress: float) -> None:
        if progress >= BEFORE_COPY and not self._is_redriven:
            self._is_redriven = True
            self._redrive()
        if progress >= COPY and not self.copied:
            self._make_copy()

    def _make_copy(self) -> None:
        with ExitStack() as stack:
            opened = []
            for number in range(OPEN):
                connection = stack.enter_context(Database(self._url)).get()
                connection.execute_simple("begin")
                connection.run(ENQUEUE, f"open-{number}")
                opened.append(connection)
            self._copy = copy_of(self._server, self._folder / "copied")
            for connection in opened[::2]:
                connection.commit()
        self.open_at_copy = tuple(f"open-{number}" for number in range(0, OPEN, 2))
        with Database(self._copy_url) as copy:
            self.copied = rows_of(copy.get().run)
            [[self.started_before]] = copy.get().run("select count(*)::int from public.starts")

    @property
    def _copy_url(self) -> str:
        assert self._copy is not None, "the copy is not made yet"
        return self._copy.database_url(self._url.rpartition("/")[2])

    def _after_storm(self, stack: ExitStack, endpoint: str) -> None:
        self._send_late()
        pause_everything(self._observer.get(), "before the restore", "operator")
        self._observer.drop()
        original, self._observer = self._observer, Database(self._copy_url)
        self.clock.move_forward(0)  # the copy has the clock of its time
        folder = self._folder / "copy"
        folder.mkdir(exist_ok=True)
        address = stack.enter_context(fork_server(folder, self._copy_url, endpoint, self._plant))
        self._move(lambda: self._move_functions(address))
        self._until(lambda: self.queues.in_flight == 0)
        self.original = rows_of(original.get().run)
        original.drop()
        self._be_paused()
        self._resume()
        [[self.resumed_at]] = self.sql("select clock_timestamp()::text")
        self.sent_by_sweep = Counter(self.queues.sent_by_sweep)
        self._sweep()

    def _move(self, move_functions: Any) -> None:
        """Deploy: the migration pauses the copy, then the functions are moved."""
        self._pause_copy()
        self._note_messages()
        move_functions()

    def _move_functions(self, address: Any) -> None:
        """Move one after the other, as a deploy does, the first of them while its run is under way."""
        for number, slot in enumerate(self.slots):
            slot.process.move(address, kills=number % 2 == 1)
            time.sleep(0.1)
        for producer in self.producers:  # they have done all acts
            producer.process.move(address, kills=True)

    def _send_late(self) -> None:
        for number in range(LATE_MESSAGES):
            nonce = f"late-{number}"
            fields = {"type": "mix:row", "payload": {"nonce": nonce, "items": 1}}
            fields |= {"id": f"late-id-{number}"} if number % 2 else {}
            queue = lane_name(PREFIX, ALL_TASKS["mix:row"].queue, "mix:row")
            self.mix.external[nonce] = True
            self.queues.send(queue, json.dumps(fields), delay=LATE_SECONDS)
        jobs: list[Act] = [
            {
                "id": f"late-job-{number}",
                "type": "mix:row",
                "payload": {"nonce": f"late-job-{number}", "items": 1},
                "options": {"process_in": LATE_SECONDS},
            }
            for number in range(LATE_JOBS)
        ]
        self.mix.jobs |= {job["id"]: job | {"mode": "session"} for job in jobs}
        self.producers[0].do({"produce": "session", "jobs": jobs})
        self._until(lambda: self.producers[0].pending == 0)

    def _pause_copy(self) -> None:
        pause_everything(self._observer.get(), "the stage uses the restored copy", "deploy")

    def _resume(self) -> None:
        self.sql("delete from joblane.pauses")

    def _note_messages(self) -> None:
        in_lanes = [message for _, message in self.queues.waiting(SWEEP_LANE)]
        self.lanes_at_move = frozenset(message.about for message in in_lanes)
        self.waiting = frozenset(_nonces_without_row(in_lanes))
        self.dead_at_move = self._dead_generations()

    def _be_paused(self) -> None:
        """Live with pauses through several sweeps. Nothing starts, and nothing ends that could run."""
        for _ in range(PAUSED_JUMPS):
            self._until(self._idle)
            self.clock.move_forward(3600 * PAUSED_HOURS)
            self._sweep()
        self._until(self._idle)
        [[started]] = self.sql("select count(*)::int from public.starts")
        if started != self.started_before:
            self.result.wrong.append(f"{started - self.started_before} runs began in the copy while it was paused")
        self.result.wrong += changed_while_paused(self, rows_of(self.sql))

    def _calm(self) -> None:
        """Let all end, with redrives: of some dead letters while their tasks live, of all of them afterwards, twice."""
        self.dice.on = False
        self._redrive_as_joblane(REDRIVEN_SHARE)
        self._redrive_in_console(REDRIVEN_SHARE)
        self._drain()
        self._count_twice()
        self._redrive_and_compare(lambda: self._redrive_in_console(HALF))
        self._redrive_and_compare(self._redrive_obsolete, most=0)
        self._redrive_and_compare(lambda: self._redrive_in_console(EVERYTHING))
        self._redrive_and_compare(lambda: self._redrive_as_joblane(EVERYTHING), most=1)
        self._redrive_and_compare(lambda: self._redrive_in_console(EVERYTHING))

    def _redrive_and_compare(self, redrive: Callable[[], None], most: int | None = None) -> None:
        """Send dead letters back, and let all end.

        ``most``: revivals of a task; None: one, or its dead letters of consecutive generations, as the console of SQS
        sends all of them back.
        """
        before, dead = rows_of(self.sql), self._dead_generations()
        redrive()
        self._drain()
        self.result.wrong += [
            f"its dead letters revived it {row.generation - before[id_].generation} times in a redrive: "
            f"{self.evidence().history(id_)}"
            for id_, row in rows_of(self.sql).items()
            if id_ in before
            and row.generation > before[id_].generation + (1 if most is None else most)
            and not (most is None and revive(id_, before[id_].generation, row.generation, dead))
        ]

    def _dead_generations(self) -> Counter[tuple[str, int | None]]:
        """Count the dead letters in the queues, by subject and generation."""
        return Counter(
            (dead_letter.about, generation_of(dead_letter))
            for dead_letters in self.queues.present_dead().values()
            for dead_letter in dead_letters
        )

    def _count_twice(self) -> None:
        present = self._dead_generations()
        again = [about for about, generation in present if generation is not None and present[about, generation] > 1]
        self.result.counts[TWICE] += len(again)

    # --- Redrives --------------------------------------------------------------------------------------------------

    def _redrive(self) -> None:
        for task in ALL_TASKS.values():
            for queue in task.lanes:
                share = REDRIVEN_AFTER_COPY if self.copied else REDRIVEN_SHARE
                self.queues.redrive(lane_name(PREFIX, queue, task.type), share)

    def _redrive_in_console(self, share: float, wanted: Callable[[Message], bool] = lambda _: True) -> None:
        """Move dead letters back, whatever their rows are, as StartMessageMoveTask does."""
        for task in ALL_TASKS.values():
            for queue in task.lanes:
                name = lane_name(PREFIX, queue, task.type)
                moved = self.queues.redrive(name, share, again=True, wanted=wanted)
                self.result.counts["redriven in the console"] += moved

    def _redrive_obsolete(self) -> None:
        """Move the dead letters of earlier generations back."""
        rows = rows_of(self.sql)

        def is_obsolete(dead_letter: Message) -> bool:
            generation = generation_of(dead_letter)
            row = rows.get(dead_letter.about)
            self.result.counts["obsolete dead letters redriven"] += (
                found := row is not None and generation is not None and generation != row.generation
            )
            return found

        self._redrive_in_console(EVERYTHING, is_obsolete)

    def _redrive_as_joblane(self, share: float) -> None:
        """Retry archived rows, then handle each dead letter by its kind, as `jobs:bulk` does."""

        def chosen(id_: str | None) -> bool:
            return share == EVERYTHING or self.dice.roll("joblane redrive", id_) < share

        connection = self._observer.get()
        sender = RedriveSender(self.queues)
        archived = [id_ for id_, row in rows_of(self.sql).items() if row.state is State.ARCHIVED and row.is_sent]
        changed = change(connection, BulkAction.RETRY, [*filter(chosen, archived)], who="operator")
        sender.send_many([entry_of(PREFIX, row) for row in changed if row.after is State.PENDING])
        self.result.counts["joblane redrive: archived rows retried"] += len(changed)
        for queue, messages in self.queues.present_dead().items():
            deliveries = [Received.read(message.record(queue, self.clock.ahead)) for message in messages]
            found = [one for one in identified(connection, ALL_TASKS, deliveries) if chosen(one.id)]
            for one in found:
                self.result.counts[f"joblane redrive: {one.kind} dead letters"] += 1
            if not found:
                continue
            sent = send_back(sender, PREFIX, ALL_TASKS, Filter(), found, room=len(found))  # type: ignore[arg-type]
            self.result.wrong += [
                f"the dead letter of a task that lives was sent back: {self.evidence().history(str(one.id))}"
                for one in found
                if one.delivery.receipt not in sent.kept and one.kind is DeadLetterKind.MOVED and _lives(one)
            ]

    # --- The rules -------------------------------------------------------------------------------------------------

    def evidence(self) -> Evidence:
        """Return the facts of the copy: what producers know of later tasks is not in it."""
        found = super().evidence()
        return without_later(self.copied, found) if self.original else found

    def _violations(self) -> list[str]:
        evidence, final = self.evidence(), rows_of(self.sql)
        again = {id_ for (id_,) in self.sql(RUN_SINCE, self.resumed_at)}
        table = Holds(self, final, again)
        wrong = check(evidence)
        for row, rule in ROWS.items():
            ids = list(rule(table))
            self.result.counts[f"row: {row}"] += len(table.seen)
            for how, number in table.how().items():
                self.result.counts[f"row: {row}: {how}"] += number
            wrong += [f"{row}: {evidence.history(id_)}" for id_ in ids[:12]]
            if not table.seen and len(self.mix.jobs) + len(self.mix.external) >= ENOUGH_JOBS:
                wrong.append(f"no example of the row: {row}")
        return wrong


class RedriveSender:
    """The part of :class:`joblane.sqs.client.Sqs` that a redrive uses."""

    def __init__(self, queues: Queues) -> None:
        self._queues = queues

    def send_many(self, entries: list[Entry]) -> dict[int, str]:
        for entry in entries:
            self._queues.send(entry.queue, entry.body, group=entry.group, attributes=entry.attributes)
        return {}

    def delete_many(self, queue: str, receipts: list[str]) -> None:
        self._queues.take_dead(queue, receipts)


def _lives(dead_letter: DeadLetter) -> bool:
    """True for the dead letter of a task that is live in the copy; SQS may have moved a message of such a task."""
    row = dead_letter.row
    return row is not None and row.state in LIVE and dead_letter.delivery.dead_generation is not None


def _nonces_without_row(messages: list[Message]) -> Iterator[str]:
    for message in messages:
        try:
            fields = json.loads(message.body)
            if not fields.get("rec"):
                yield fields["payload"]["nonce"]
        except (ValueError, KeyError, TypeError):  # a tick, or garbage
            continue
