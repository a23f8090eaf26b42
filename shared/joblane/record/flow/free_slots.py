"""Serving limits: slots that have become free are given to the tasks that wait for them, see ``serve_limits.sql``."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from joblane.names import Queue, lane_name
from joblane.quotas import MAX_DELAY_SECONDS
from joblane.record.row.states import as_read
from joblane.record.sql_functions import VERSION
from joblane.sqs.client import Entry
from joblane.sqs.message import Message

if TYPE_CHECKING:
    from joblane.record.driver.connection import Connection

Call = Callable[[Callable[["Connection"], Any]], Any]
"""Gives a statement a connection, for a transaction of its own. It returns None if the statement cannot run now."""
LimitNames = Sequence[str | None]
"""The names of a task's limits: of its key, of its type, shared. None: it has no such limit."""
DELAY = f"select joblane.delay_limit_{VERSION}($1::text[], $2)"
SERVE = f"select joblane.serve_limits_{VERSION}($1)"
PAUSES_SECONDS = (0.01, 0.05, 0.25)
"""Waits before a limit is asked again whose waiting tasks are all locked by others, for example by an enqueue that
replaces one. After that the next end of a task, or the sweep, serves it."""


@dataclass(frozen=True, slots=True)
class Turn:
    """A task that may start, and whose message has to be sent. ``delay``: seconds until it is due."""

    id: str
    type: str
    queue: str
    tenant: str | None
    schema: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    delay: float = 0.0

    def entry(self, prefix: str) -> Entry:
        message = Message.of_row(self.type, self.id, self.schema, self.headers)
        lane = lane_name(prefix, as_read(Queue, self.queue), self.type)
        return Entry(lane, message.encode(), math.ceil(self.delay), self.tenant)


def delay(connection: Connection, limits: LimitNames, seconds: float) -> None:
    """Start no task of the widest of these limits within the next seconds."""
    connection.run(DELAY, list(limits), seconds)


def _distinct(limits: Iterable[LimitNames]) -> list[list[str | None]]:
    return [list(each) for each in dict.fromkeys(tuple(each) for each in limits)]


def serve(connection: Connection, freed: Iterable[LimitNames]) -> list[Turn]:
    """Serve limits in transactions of its own, after the commit of whatever freed their slots.

    Return the tasks whose messages are to be sent; the sweep sends those of a caller that dies before.
    """
    return [turn for turns in serve_in_steps(lambda step: step(connection), freed) for turn in turns]


def serve_in_steps(call: Call, freed: Iterable[LimitNames]) -> Iterator[list[Turn]]:
    """Serve limits as :func:`serve`, and yield the tasks of each statement: a raised limit may let any number start.

    If ``call`` returns None, no further step follows.
    """
    wanted = _distinct(freed)
    pauses = iter(PAUSES_SECONDS)
    while wanted:
        if (answer := call(partial(_serve, wanted))) is None:
            return
        turns = [Turn(**turn) for turn in answer["turns"]]
        yield [turn for turn in turns if turn.delay <= MAX_DELAY_SECONDS]
        wanted = _distinct([*answer["again"], *answer["later"]])
        if answer["later"] and not answer["again"] and not turns:
            if (pause := next(pauses, None)) is None:
                break
            time.sleep(pause)


def _serve(wanted: Sequence[LimitNames], connection: Connection) -> dict[str, Any]:
    ((answer,),) = connection.run(SERVE, json.dumps(wanted))
    return answer  # type: ignore[no-any-return]
