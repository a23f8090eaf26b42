"""A task's row with all its columns."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, TypeVar

from joblane.errors import UnknownTaskError
from joblane.names import Queue
from joblane.record.driver.connection import Connection
from joblane.record.row.conditions import PAUSED, SKIPPED_TICK
from joblane.record.row.states import LEVELS, Passed, State, WaitKind, as_read
from joblane.sqs.message import ID_PATTERN

View = TypeVar("View")


@dataclass(frozen=True, slots=True)
class Record:
    """The columns of ``tasks`` by their names.

    ``paused``: True if the task's type, queue or tenant is. ``is_skipped_tick``: the value of ``SKIPPED_TICK``.
    ``now``: the time by the database's clock.
    """

    id: str
    type: str
    queue: Queue
    state: State
    tenant: str | None
    owner: str | None
    tags: list[str]
    payload: Any
    schema: str | None
    result: Any
    headers: Mapping[str, str]
    options: Mapping[str, Any]
    attempts: int
    max_attempts: int
    runs: int
    generation: int
    batch_size: int
    claim_alone: bool
    used_ms: int
    created_at: datetime
    due_at: datetime
    deadline: datetime | None
    sweep_at: datetime | None
    lease_until: datetime | None
    mismatch_since: datetime | None
    cancel_requested_at: datetime | None
    finished_at: datetime | None
    dead_sent_at: datetime | None
    expire_at: datetime | None
    cleared: bool
    unique_key: str | None
    replay_of: str | None
    reason: str | None
    error_type: str | None
    error_message: str | None
    fingerprint: str | None
    key_limit: str | None
    total_limit: str | None
    shared_limit: str | None
    ordered: bool | None
    first_due_at: datetime | None
    seq: int | None
    passed: Passed | None
    wait_kind: WaitKind | None
    waits_for: str | None
    place: float | None
    batch: str | None
    callback_of: str | None
    enqueued_by: str | None
    after: list[str] | None
    on_parent_dead: str | None
    schedule: str | None
    tick_key: str | None
    asks: int | None
    longest_seconds: float | None
    events: list[str] | None
    on_archived: Mapping[str, Any] | None
    paused: bool
    is_skipped_tick: bool
    now: datetime

    @property
    def between_invocations(self) -> bool:
        """True if an attempt has started in one invocation and continues in the next."""
        return self.state in (State.PENDING, State.HELD) and self.used_ms > 0

    @property
    def has_time(self) -> bool:
        """True if it waits for the time that the rate of a limit, or a delay of the limit, has given it."""
        return self.state is State.PENDING and self.due_at > self.now and self.passed in TIMES

    @property
    def is_scheduled(self) -> bool:
        """True if it waits for a time that has not come."""
        return self.state is State.SCHEDULED and self.due_at > self.now

    @property
    def is_limited(self) -> bool:
        """True if it is held by a limit or its order, and not by its parents."""
        return self.state is State.HELD and self.wait_kind is not WaitKind.PARENTS

    def into(self, view: Callable[..., View], **own: Any) -> View:
        """A ``view`` of this row: fields of the same name come from the row, all other fields from ``own``."""
        names = {each.name for each in fields(view)} - own.keys()  # type: ignore[arg-type]
        return view(**{name: getattr(self, name) for name in names}, **own)


def shown_tags(tags: Iterable[object]) -> tuple[str, ...]:
    """The tags of a row. SQL without the table's check can write null, and a list of lists."""
    return tuple(str(tag or "") for tag in tags)


TIMES = frozenset(level.time for level in LEVELS.values())
COLUMNS = ", ".join(f"t.{each.name}" for each in fields(Record)[:-3])
READ = f"""
select {COLUMNS}, {PAUSED.format(row="t")}, {SKIPPED_TICK}, clock_timestamp() from joblane.tasks t where t.id = $1
"""


def check_id(id_: str) -> str:
    """Return ``id_``. Raises :class:`UnknownTaskError` if it cannot be an id: the database might refuse such a text."""
    if not isinstance(id_, str) or not ID_PATTERN.fullmatch(id_):
        raise UnknownTaskError(str(id_))
    return id_


def read(connection: Connection, id_: str, *, lock: bool = False) -> Record:
    """Read one row. ``lock``: lock it until the transaction ends. Raises :class:`UnknownTaskError`."""
    rows = connection.run(f"{READ} for no key update of t" if lock else READ, check_id(id_))
    if not rows:
        raise UnknownTaskError(id_)
    _, type_, queue, state, *rest = rows[0]
    record = Record(id_, type_, as_read(Queue, queue), as_read(State, state), *rest)
    words = {
        "passed": record.passed and as_read(Passed, record.passed),
        "wait_kind": record.wait_kind and as_read(WaitKind, record.wait_kind),
    }
    # SQL without the table's check can write other JSON
    empty: dict[str, Any] = {name: {} for name in ("headers", "options") if not isinstance(getattr(record, name), dict)}
    return record.into(Record, **words, **empty)
