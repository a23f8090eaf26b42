"""The claim decides, for every message of a batch, whether its task runs now. It takes one round trip.

The function of ``claim.sql`` locks each task's row, in the order of the ids, and decides on what it has locked. All
times come from the database's clock. Each branch of the function has a row of this table as its comment, in the same
order: the first row that applies decides.

A *waiting* row is ``scheduled``, ``pending``, ``held`` or ``retry``. A *recorded* message has ``rec``: its row was
written before the message was sent. An external message or a tick is *new* if its task has no row. It inserts its own
row, which counts as waiting and due. A *due tick* is a waiting row too: the sweep has made it, and it takes its unique
key at its first claim, as a new row does.

============================================  ========================================  ================================
row                                           message                                   verdict
============================================  ========================================  ================================
locked by another transaction                 any                                       ``locked``: no change
none                                          recorded                                  ``gone``: rolled back,
                                                                                        acknowledge
none                                          tick that its schedule does not run       inserted as cancelled;
                                                                                        ``ended``
none, or due tick                             key taken earlier in the batch            ``claim_alone``: no change
none, or due tick                             unique key taken                          cancelled; ``ended``
any                                           another type, or external with another    ``conflict``: no change, send as
                                              payload                                   dead letter
``completed``, ``cancelled``                  any                                       ``ended``: acknowledge
``archived``, dead letter not sent            other message                             ``send_dead_letter``,
                                                                                        acknowledge
``archived``                                  other message                             ``obsolete``: acknowledge
``archived``, unique key taken                dead letter of this generation            ``taken``: send as dead letter
``archived``, paused                          dead letter of this generation            revived, the row waits;
                                                                                        ``paused``
``archived``, has a limit                     dead letter of this generation            revived; ``wait``
``archived``                                  dead letter of this generation            revived; ``run``
``active``, a run of this claim               repeated after a lost answer              ``run``: no change
``active``, lease valid                       any                                       ``leased``: no change
``active``, lease over, cancel requested      any                                       cancelled; ``ended``
``active``, lease over, no attempts left      any                                       archived; ``archived``
``active``, lease over, past its deadline     any                                       archived; ``archived``
``active``, lease over, paused                any                                       waiting; ``paused``
``active``, lease over                        in a batch                                waiting; ``claim_alone``
``active``, lease over, slots taken back      any                                       waiting; ``claim_alone``
``active``, lease over                        alone                                     the run was lost; ``run``
waiting, a parent cancels it                  any                                       cancelled; ``ended``
waiting, a parent is open                     any                                       the row waits; ``held``
waiting, paused                               any                                       ``paused``: the row waits
waiting, past its deadline                    any                                       archived; ``archived``
waiting, not due yet                          any                                       ``wait``
waiting, ``claim_alone`` is set               in a batch                                ``claim_alone``
waiting, due, has its slots or no limit       any                                       ``run``
waiting, due, its limits are locked           any                                       ``locked``: no change
waiting, due, gets no slot                    any                                       the row waits; ``held``
waiting, due, gets a later time by a rate     any                                       the row is due later; ``wait``
waiting, due, gets its slots                  any                                       ``run``
============================================  ========================================  ================================

*Parents*: see ``open_parents.sql``. *Slots*: a row passes its limits one after the other, see ``pass_limits.sql``. It
has its slots already if ``serve_limits.sql`` has given them to it. The locks of limits are taken before those of rows.
*Paused*: its type, queue or tenant is paused, or another function runs its type, see :func:`park`. A lost run that was
claimed in a batch does not count as an attempt. If the database cannot store a new row, the verdict is ``refused``; if
another transaction holds its id or unique key and does not end, ``locked``.
"""

from __future__ import annotations

import json
import math
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from pg8000.exceptions import DatabaseError, InterfaceError

from joblane.errors import EnqueueError, sqlstate
from joblane.names import full_schedule_name
from joblane.record.driver.connection import LOCK_NOT_AVAILABLE
from joblane.record.driver.values import read_json
from joblane.record.row.new import document
from joblane.record.row.options import AS_DECLARED, TaskOptions
from joblane.record.sql_functions import VERSION
from joblane.sqs.message import TICK_ID_PATTERN, TICK_ID_REFUSED
from joblane.sqs.tick import is_early
from joblane.tasks.options import NONE

if TYPE_CHECKING:
    from joblane.names import Queue
    from joblane.record.driver.connection import Connection
    from joblane.record.flow.free_slots import LimitNames
    from joblane.sqs.message import Message
    from joblane.sqs.traceparent import Span
    from joblane.tasks.task import Task


class Verdict(StrEnum):
    """The claim's decision on a message. The table above lists the conditions."""

    RUN = "run"
    CLAIM_ALONE = "claim_alone"
    WAIT = "wait"
    HELD = "held"
    """A limit has no slot for the task, or a parent is open: the message is acknowledged, and the row waits."""
    LEASED = "leased"
    PAUSED = "paused"
    """The message is acknowledged. The row waits for the end of a pause, or for the sweep, which sends its message to
    the type's present lane."""
    GONE = "gone"
    ENDED = "ended"
    """The task is completed or cancelled."""
    ARCHIVED = "archived"
    """This claim archived the task. Handled like ``send_dead_letter``, and logged here because no run logs it."""
    SEND_DEAD_LETTER = "send_dead_letter"
    OBSOLETE = "obsolete"
    """A copy of a message or dead letter of an archived task that does not bring the task back."""
    TAKEN = "taken"
    CONFLICT = "conflict"
    LOCKED = "locked"
    """Another transaction holds the row, its id or its unique key. The claim waits half a second for all of these."""
    REFUSED = "refused"
    """The database cannot store the message. The reason says why."""


@dataclass(slots=True)
class Claim:
    """The decision on one message. ``token`` fences the finish. The counts include the run that begins."""

    id: str
    verdict: Verdict
    token: str
    run: int
    attempt: int
    max_attempts: int
    snoozes: int
    generation: int
    wait_seconds: int
    """Seconds until the row is due, or until the end of a lease that another run holds, rounded up; 0 or more."""
    waited_ms: int
    """Milliseconds since the task was due; 0 if another run holds it."""
    payload: Any
    schema: str | None
    headers: dict[str, str]
    options: TaskOptions
    deadline: float | None
    """A time of ``time.monotonic()``."""
    used_ms: int
    """Milliseconds that earlier runs of this attempt of a resumable task used."""
    reason: str | None
    mismatch_seconds: float | None
    limits: LimitNames | None = None
    """The names of its limits: of its key, of its type, shared. None: it has no limit."""
    serve: bool = False
    """These limits have to be served after the claim: it has freed slots of them, or the task waits for one."""
    release: bool = False
    """This claim has ended the task, which has children, or it has left the task waiting for its parents."""
    batch: str | None = None
    """The id of the batch of which the task is a member."""
    depth: int = 0
    """The number of enqueues by runs that led to the task."""
    events: Sequence[str] = ()
    """The kinds of events that its type declares."""
    problem: str | None = None
    """The fault of a row that was written by SQL without the table's checks: its run fails. None: it has none."""
    span: Span | None = None
    """The span of the run, if :mod:`joblane.otel` has made one. None: it derives from the headers."""


LACKS_MESSAGES = (
    "the answer of a claim lacks messages: a function of another schema may have replaced one of PostgreSQL's own; "
    "run `joblane doctor`, which checks the search_path"
)
CENTURY_SECONDS = 3_155_760_000.0
CLAIM = f"select joblane.claim_{VERSION}($1, $2, $3, $4)"
CLAIM_ONE = f"select joblane.claim_one_{VERSION}($1, $2, $3, $4, $5)"
CLAIMS = (CLAIM, CLAIM_ONE)


EARLY_TICK = "MessageError: tick: it is for a time after the message was sent, and only the scheduler sends ticks"


def refusal(task: Task[Any, Any], message: Message, tenant: str | None, sent_at: float) -> str | None:
    """Return the reason why a message cannot be claimed as one of ``task``. None: it can.

    ``sent_at``: seconds since 1970.
    """
    if message.type not in task.types:
        return f"MessageError: type: this is a lane of {task.type!r}, not of {message.type!r}"
    if message.tick is not None and is_early(message.tick, sent_at):
        return EARLY_TICK
    if message.rec:
        return None if message.id else "MessageError: id: a message that says rec has the id of its row"
    if TICK_ID_PATTERN.fullmatch(message.id or ""):
        return TICK_ID_REFUSED
    if task.flow is not None and task.flow.key:
        try:
            task.flow.row(task.type, task.as_written(message.payload or {}), tenant)
        except EnqueueError as error:
            return f"MessageError: {error}"
    return None


def arrival(
    task: Task[Any, Any],
    message: Message,
    id_: str,
    queue: Queue,
    *,
    tenant: str | None = None,
    dead_generation: int | None = None,
    unique: bool = True,
) -> dict[str, Any]:
    """Return the claim's input for one message. For an external message or a tick it holds the columns of a new row.

    ``dead_generation``: the generation on a dead letter; None for any other message. ``unique``: False to take no
    unique key, even if the type declares one.
    """
    item: dict[str, Any] = {"id": id_, "type": message.type, "rec": message.rec, "dead_generation": dead_generation}
    if task.flow is not None:
        item["limits"] = []
    if message.rec:
        return item
    options = message.options.within(task) if message.options else NONE
    schedule = message.tick["schedule"] if message.tick else None
    item |= document(
        id_,
        task,
        queue,
        message.payload,
        options,
        tenant=tenant,
        schema=message.schema,
        headers=message.headers,
        limits={} if task.flow is None else task.flow.row(task.type, task.as_written(message.payload or {}), tenant),
        unique=task.key_of_message(queue, message.payload or {}, schedule) if unique else None,
        rest=None if schedule is None else {"schedule": full_schedule_name(task.type, schedule)},
    )
    item["type"] = message.type  # it may be a former type of the task
    return item


def claim(
    connection: Connection,
    arrivals: Sequence[Mapping[str, Any]],
    lease: timedelta | None,
    request_id: str,
    token: str | None = None,
) -> dict[str, Claim]:
    """Decide on at most 10 messages of one type, one per id, and return a claim for each id.

    ``arrivals``: values of :func:`arrival`. ``token``: the runs' token, a UUID that no other claim has had. Only with
    the same token a claim whose answer was lost can be repeated without the loss of an attempt. None: a new one.

    ``lease`` None parks the tasks, because another function runs their type now: no run starts and no attempt is spent,
    as if the type were paused. A waiting task stays in its row, a new one is inserted, and the next sweep sends their
    messages to the type's present lane.

    Raises pg8000's ``DatabaseError``; it has then changed nothing. It raises ``InterfaceError`` for an answer without
    one of the messages, which only a function that replaces one of PostgreSQL's own can cause.
    """
    token, seconds = token or str(uuid.uuid4()), None if lease is None else str(lease.total_seconds())
    answers = None
    if seconds is not None and len(arrivals) == 1 and may_be_ordinary(arrivals[0]):
        id_, type_ = arrivals[0]["id"], arrivals[0]["type"]
        try:
            ((answers,),) = connection.run(CLAIM_ONE, id_, type_, token, seconds, request_id)
        except DatabaseError as error:  # claim.sql waits for a locked row, and has a verdict for it
            if sqlstate(error) != LOCK_NOT_AVAILABLE:
                raise
        if isinstance(answers, list) and not isinstance(answers[0], dict):
            first = dict(zip(FIRST_RUN, answers, strict=True)) | {"id": id_, "verdict": Verdict.RUN, "run": 1}
            return {id_: _claim(first, token)}
    if not isinstance(answers, list):  # or the payload has thousands of levels
        document = json.dumps(arrivals, ensure_ascii=False)
        ((answers,),) = connection.run(CLAIM, document, token, seconds, request_id)
    if len(answers or ()) != len(arrivals):
        raise InterfaceError(LACKS_MESSAGES)
    read = (answer | {name: _read(answer[name]) for name in DOCUMENTS} for answer in answers)
    return {answer["id"]: _claim(answer, token) for answer in read}


def may_be_ordinary(arrival: Mapping[str, Any]) -> bool:
    """True if ``claim_one.sql`` may claim a message: of a recorded task without limits, and no dead letter."""
    return arrival["rec"] and arrival["dead_generation"] is None and "limits" not in arrival


FIRST_RUN = (
    "attempt", "max_attempts", "generation", "payload", "schema", "headers", "options", "wait", "batch", "depth",
    "events",
)  # fmt: skip
"""The answer of ``claim_one.sql``."""


def _claim(answer: Mapping[str, Any], token: str) -> Claim:
    left, headers, given = answer.get("left"), answer["headers"] or {}, answer["options"]
    wait, mismatch = answer["wait"] or 0, answer.get("mismatch")
    options, problem = AS_DECLARED, None
    if headers or given:  # most tasks have neither
        try:
            options = _checked(headers, given)
        except ValueError as error:
            headers, problem = {}, str(error)
    if isinstance(wait, str) or abs(wait) > CENTURY_SECONDS:
        wait = _seconds(wait)
    return Claim(
        id=answer["id"],
        verdict=Verdict(answer["verdict"]),
        token=token,
        run=answer["run"] or 0,
        attempt=answer["attempt"] or 0,
        max_attempts=answer["max_attempts"] or 0,
        snoozes=answer.get("snoozes") or 0,
        generation=answer["generation"] or 0,
        wait_seconds=max(0, math.ceil(wait)),
        waited_ms=max(0, int(wait * -1000)),
        payload=answer["payload"],
        schema=answer["schema"],
        headers=headers,
        options=options,
        deadline=None if left is None else time.monotonic() + _seconds(left),
        used_ms=answer.get("used_ms") or 0,
        reason=answer.get("reason"),
        mismatch_seconds=None if mismatch is None else _seconds(mismatch),
        limits=answer.get("limits"),
        serve=answer.get("serve") or False,
        release=answer.get("release") or False,
        batch=answer["batch"],
        depth=answer["depth"] or 0,
        events=answer["events"] or (),
        problem=problem,
    )


DOCUMENTS = ("payload", "headers", "options")
"""They come as text: with thousands of levels they would make the answer of a batch unreadable."""


def _read(text: str | None) -> Any:
    return {} if text == "{}" else None if text is None else read_json(text)


def _seconds(given: float | str) -> float:
    """Return the distance of a time, of at most a century. That of an infinite time is text."""
    return min(max(float(given), -CENTURY_SECONDS), CENTURY_SECONDS)


def _checked(headers: Any, options: Any) -> TaskOptions:
    """Return the options. Raises ValueError with the first fault in what a worker reads."""
    if not isinstance(headers, dict) or not all(isinstance(value, str) for value in headers.values()):
        raise ValueError("headers: an object of strings is required")
    return TaskOptions.read(options)
