"""Waits and signals of one task in the database, without a worker."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest

from joblane.names import Queue
from joblane.record.driver.connection import Connection
from joblane.record.row.states import State
from joblane.record.sql_functions import FUNCTIONS
from joblane.record.task.claim import Claim, arrival, claim
from joblane.record.task.finish import Finish, finish
from joblane.record.task.stop import Stop
from joblane.record.task.waits import SIGNAL, signal_document, wake
from joblane.sqs.message import Message
from tests.builders.rows import TOKEN
from tests.samples import sample_one
from tests.world import World

HOUR = 3600.0
APPROVAL = Stop("approval", "approval", HOUR)
LEASE = timedelta(seconds=60)


def stop_of(run: int = 1, stop: Stop = APPROVAL, id_: str = "it") -> Finish:
    return Finish(id_, TOKEN, run, "waiting", State.SCHEDULED, counted=False, stop=stop, duration_ms=7)


def stopped(connection: Connection, end: Finish, *, waits: bool = False) -> Finish | None:
    """Record a stop. Return its end, or None if it was not recorded."""
    return end if finish(connection, [end], waits=waits) else None


def send(connection: Connection, name: str = "approval", value: str = "1", id_: str = "it") -> bool | None:
    ((accepted,),) = connection.run(SIGNAL, signal_document(id_, name, value))
    return accepted  # type: ignore[no-any-return]


def woken(connection: Connection, *ids: str) -> list[str]:
    return [turn.id for turn in wake(connection, ids=ids or ["it"])]


def claimed(world: World, id_: str = "it") -> Claim:
    arrived = arrival(sample_one, Message(sample_one.type, id_, rec=True), id_, Queue.DEFAULT)
    return claim(world.database.get(), [arrived], LEASE, "request", TOKEN)[id_]


def unheard(world: World) -> list[str]:
    return [name for (name,) in world.run("select name from joblane.task_signals where not heard order by name")]


def seconds_to(world: World, column: str) -> float:
    [[seconds]] = world.run(f"select extract(epoch from {column} - clock_timestamp())::float8 from joblane.tasks")
    return float(seconds)


Others = Callable[[], Connection]


def check_plant(world: World, function: str, old: str, new: str, check: Callable[[], None]) -> None:
    """Check that a test finds a fault in a function: ``new`` in place of ``old``."""
    text = FUNCTIONS[function]
    assert old in text, "the function has changed: the fault can no longer be planted by this text"
    world.run(text.replace(old, new))
    with pytest.raises(AssertionError):
        check()
