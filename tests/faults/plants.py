"""Planted bugs that a run must find. Each breaks one promise of the library, only in the worker processes."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any
from uuid import uuid4

from pg8000.exceptions import Error as PostgresError

from joblane.enqueue import insert
from joblane.handler.steps import Steps
from joblane.record.driver.database import Database
from joblane.record.row.conditions import EARLY_SECONDS
from joblane.record.row.transitions import DUE_SWEEP
from joblane.record.sql_functions import FUNCTIONS, VERSION
from joblane.record.task import checkpoints, claim, finish
from joblane.record.task.dead_letters import mark_dead_sent
from joblane.sqs.client import Entry, Sqs
from joblane.tasks.task import Task
from joblane.worker.worker import Batch

VARIABLE = "FAULTS_PLANT"
"""The variable that names the bugs, with commas. Only the suite's worker process reads it."""


def fence() -> None:
    """A run finishes without a check of the lease."""
    _replace_function(finish, "finish", "t.state = 'active' and t.lease_token = x.token", "true")


def token() -> None:
    """A run finishes if the task is active, even if another run holds it."""
    _replace_function(finish, "finish", "t.state = 'active' and t.lease_token = x.token", "t.state = 'active'")


def due() -> None:
    """A message claims its task before it is due."""
    early = f"(case when t.passed is null then interval '{EARLY_SECONDS} s' else '0' end)"
    _replace_function(claim, "claim", f"t.due_at > clock + {early}", "false")


def dead_letter_order() -> None:
    """A dead letter is marked as sent, and its message acknowledged, before it is sent."""

    def send_dead_letters(self: Any) -> None:
        runs, self._dead = self._dead, []
        worker = self._worker
        with suppress(PostgresError, OSError):
            mark_dead_sent(worker.database.get(), [(run.claim.id, run.claim.generation) for run in runs])
        worker.sqs.send_many([self._dead_letter(run, (run.end or run.claim).reason or "archived") for run in runs])

    setattr(Batch, "_send_dead_letters", send_dead_letters)  # noqa: B010 - in the place of a method


def outbox() -> None:
    """A new row is never due for the sweep."""
    _replace_function(insert, "insert", DUE_SWEEP, "null")


def unique_index() -> None:
    """Two live tasks can have the same unique key."""
    database = Database(os.environ["DATABASE_URL"])
    database.get().run("drop index joblane.tasks_unique")
    database.drop()


def overlap() -> None:
    """Ticks of a schedule may overlap."""

    key_of_message = Task.key_of_message

    def without_schedule(task: Any, queue: str, payload: Any, _: str | None) -> Any:
        return key_of_message(task, queue, payload, None)

    setattr(Task, "key_of_message", without_schedule)  # noqa: B010 - in the place of a method


def cancelled() -> None:
    """A run finishes although its task has a cancel request."""
    _replace_function(finish, "finish", "and (t.cancel_requested_at is null or x.state = 'cancelled')", "")


def unsent() -> None:
    """A client sends no message, so that the sweep sends all."""
    send_many = Sqs.send_many

    def without_brief_ones(self: Any, entries: Sequence[Entry], *, brief: bool = False) -> dict[int, str]:
        return dict.fromkeys(range(len(entries)), "a planted bug") if brief else send_many(self, entries)

    setattr(Sqs, "send_many", without_brief_ones)  # noqa: B010 - in the place of a method


def step_before() -> None:
    """A step is stored before its call."""
    begin = Steps._begin

    def store(self: Any, name: str, function: Any) -> str | None:
        if (stored := begin(self, name, function)) is None:
            self.loops.work.keep(partial(checkpoints.mark_step, name=name, value=f'"{self.loops.task_id} {name}"'))
        return stored

    setattr(Steps, "_begin", store)  # noqa: B010 - in the place of a method


def step_key() -> None:
    """Each attempt of a step has another key."""
    setattr(Steps, "_key", lambda self, name: str(uuid4()))  # noqa: B010 - in the place of a method


PLANTS: dict[str, Callable[[], None]] = {
    plant.__name__.replace("_", "-"): plant
    for plant in (
        fence,
        token,
        due,
        dead_letter_order,
        outbox,
        unique_index,
        overlap,
        cancelled,
        unsent,
        step_before,
        step_key,
    )
}


def _replace_function(module: Any, name: str, old: str, new: str) -> None:
    """Create the function with the bug under another name, and let this process call it."""
    assert old in FUNCTIONS[name], f"{name} has changed: the bug can no longer be planted by this text"
    function, planted = f"joblane.{name}_{VERSION}", f"joblane.{name}_planted"
    with Database(os.environ["DATABASE_URL"]) as database:
        database.get().run(FUNCTIONS[name].replace(old, new).replace(function, planted))
    setattr(module, name.upper(), getattr(module, name.upper()).replace(function, planted))
