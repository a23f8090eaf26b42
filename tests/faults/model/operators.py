"""Operators: actions on tasks, cancels, pauses, limits, and redrives."""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from pg8000.exceptions import DatabaseError

from joblane.enqueue.wake import wake
from joblane.errors import JobError
from joblane.inspector.actions import changes
from joblane.inspector.filter import ALLOWED, BulkAction
from joblane.record.row.states import State
from joblane.tasks.limit import Rate
from tests.faults.days.samples import PREFIX
from tests.faults.model.processes import Process
from tests.faults.model.samples import TASKS
from tests.faults.model.starts import PAUSES, RATE_STEP_SECONDS

if TYPE_CHECKING:
    from tests.faults.model.producers import Producers
    from tests.faults.model.world import World

ACTIONS = (*BulkAction, BulkAction.RETRY)
CHANGED = ((0.3, "m:keyed"), (0.5, "model-pool"), (0.6, "m:keyed/"), (0.7, "m:rated"), (1, "a reset"))
"""A number up to which a change of a limit is drawn, and the limit."""
SOME = "select id from joblane.tasks where type like 'm:%' and state = any($1::text[]) order by id"
GENERATION = "select generation from joblane.tasks where id = $1 and state = 'cancelled'"
CANCEL = """
update joblane.tasks set state = 'cancelled', wait_kind = null, waits_for = null, place = null
 where id = $1 and state in ('scheduled', 'pending', 'retry') and finished_at is null
"""
IS_ASKED = "select 1 from joblane.tasks where id = $1 and type = 'm:asked'"


class Operators:
    """The acts of operators. ``changes_limits``: whether limits change in this seed."""

    def __init__(self, world: World, producers: Producers, *, changes_limits: bool) -> None:
        self._world, self._dice, self._seen, self._act = world, world.dice, world.seen, producers.act
        self._changes_limits = changes_limits

    def _some(self, action: BulkAction = BulkAction.CANCEL) -> list[str]:
        """Return recent tasks, or any with a state that allows an action."""
        recent = self._seen.ids[-80:]
        if not recent or self._dice.random() < 0.7:
            recent = [row[0] for row in self._world.observer.run(SOME, sorted(ALLOWED[action]))]
        return list(dict.fromkeys(self._dice.choice(recent) for _ in range(self._dice.randint(1, 5)))) if recent else []

    def action(self) -> None:
        """Run, retry, archive, delete or cancel some tasks. Some operators die before they send the messages."""
        action = self._dice.choice(ACTIONS)
        ids = self._some(action)
        if action is BulkAction.DELETE:  # it clears the payload, in which an ask has its number
            ids = [id_ for id_ in ids if not self._world.observer.run(IS_ASKED, id_)]
        if action is BulkAction.RUN:
            self._seen.by_hand.update(ids)
        completes = self._dice.random() < 0.7 or self._world.faults.is_calm

        def change(process: Process) -> None:
            connection = process.database.get()
            changed = changes.change(connection, action, ids, who="an operator")
            self._world.counts[f"tasks changed: {action}"] += len(changed)
            for each in changed:
                if action is BulkAction.CANCEL and each.after is State.CANCELLED:
                    self._note_cancelled(each.id)
            if completes:
                entries = {each.id: changes.entry_of(PREFIX, each) for each in changed if each.after is State.PENDING}
                changes.send(process.sqs, entries)
                changes.serve_freed(connection, process.sqs, PREFIX, changed)
            if self._dice.random() < 0.5:
                wake(process.sqs, PREFIX)

        self._act("an operator", change, "an operator")

    def cancel(self) -> None:
        for id_ in self._some()[:1]:

            def cancel(process: Process, id_: str = id_) -> None:
                self._world.counts["cancels"] += 1
                if process.client.cancel(id_) == "cancelled":
                    self._note_cancelled(id_)

            self._act("a cancel", cancel)

    def _note_cancelled(self, id_: str) -> None:
        for (generation,) in self._world.observer.run(GENERATION, id_):
            self._seen.cancelled[id_] = generation

    def cancel_through_sql(self) -> None:
        if not self._world.faults.is_calm:  # only the sweep releases the children
            for id_ in self._some()[:1]:
                with suppress(DatabaseError):  # the table refuses some changes by hand
                    self._world.observer.run(CANCEL, id_)

    def pause(self) -> None:
        """Pause a type, a tenant or a queue, or end all pauses."""
        scope, name = self._dice.choice(
            (("type", self._dice.choice(list(TASKS))), ("tenant", "a"), ("queue", "critical"))
        )
        resumes = self._dice.random() < 0.5

        def change(process: Process) -> None:
            connection = process.database.get()
            if resumes:
                connection.run("delete from joblane.pauses")
                wake(process.sqs, PREFIX)
            else:
                connection.run(
                    "insert into joblane.pauses (scope, name) values ($1, $2) on conflict do nothing", scope, name
                )
                for *pause, version in self._world.observer.run(PAUSES):
                    self._seen.pauses.setdefault((*pause, version), self._world.actors.number())
                self._world.counts["pauses"] += 1

        self._act("a pause", change, "an operator")

    def limits(self) -> None:
        if not self._changes_limits:
            return
        dice, seen = self._dice, self._seen
        what, value, key = dice.random(), dice.choice((0, 1, 2, 4)), str(dice.randint(0, 2))
        changed = next(name for most, name in CHANGED if what < most)
        if changed in seen.limits:
            seen.limits[changed].add(value)
        elif changed == "m:rated":
            seen.is_rate_known = False
        rate = Rate(1 + 29 * (value % 2), per=timedelta(seconds=10 * RATE_STEP_SECONDS))
        options: dict[str, dict[str, Any]] = {
            "m:keyed": {"max_total": value},
            "model-pool": {"total": value},
            "m:keyed/": {"key": key, "max_per_key": value},
            "m:rated": {"rate": rate},
        }

        def change(process: Process) -> None:
            limits = process.client.limits
            if changed in options:
                limits.set(changed.rstrip("/"), **options[changed])
            else:
                with suppress(JobError):
                    limits.reset(dice.choice(("m:keyed", "model-pool", "m:rated")))
            self._world.counts["changes of limits"] += 1

        self._act("a limit", change, "an operator")

    def redrive(self) -> None:
        for _, lane in self._world.lanes:
            self._world.queues.redrive(lane)
