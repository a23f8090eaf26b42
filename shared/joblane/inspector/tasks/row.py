"""The row of one task whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import TYPE_CHECKING, Any

from joblane.errors import UnknownTaskError
from joblane.sqs.message import ID_PATTERN

if TYPE_CHECKING:
    from joblane.record.connection import Connection


@dataclass(frozen=True, slots=True)
class Record:
    """Columns of ``tasks`` by their names. ``now``: the database's clock as it was read."""

    id: str
    type: str
    queue: str
    state: str
    tenant: str | None
    owner: str | None
    tags: Sequence[str]
    payload: Any
    result: Any
    headers: Mapping[str, str]
    options: Mapping[str, Any]
    attempts: int
    allowed: int
    runs: int
    generation: int
    company: int
    suspect: bool
    used_ms: int
    created_at: datetime
    due_at: datetime
    deadline: datetime | None
    sent_at: datetime | None
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
    now: datetime


COLUMNS = ", ".join(each.name for each in fields(Record)[:-1])
READ = f"select {COLUMNS}, clock_timestamp() from joblane.tasks where id = $1"


def check_id(id_: str) -> str:
    """Raises :class:`UnknownTaskError` for what no id can be: no row has it, and the database may not take it."""
    if not isinstance(id_, str) or not ID_PATTERN.fullmatch(id_):
        raise UnknownTaskError(str(id_))
    return id_


def read(connection: Connection, id_: str) -> Record:
    """Raises :class:`UnknownTaskError`."""
    rows = connection.run(READ, check_id(id_))
    if not rows:
        raise UnknownTaskError(id_)
    return Record(*rows[0])
