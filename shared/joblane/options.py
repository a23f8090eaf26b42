"""What a caller may say of one task beside its declaration: bounds of its own, and words to find it by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from joblane.discovery import follower_of
from joblane.errors import MessageError
from joblane.json_values import check_text
from joblane.retry import LONGEST

if TYPE_CHECKING:
    from joblane.declaration import Task

MAX_RETENTION = timedelta(days=3650)
MAX_TAGS, MAX_TAG = 20, 100
MAX_DELAYS = 100


@dataclass(frozen=True, slots=True)
class Options:
    """Of one task. None: as declared. In seconds, as the message and the row hold them.

    ``timeout``: of an attempt. ``retry_delay``: one wait per failed attempt, the last repeated. ``deadline``: after
    it the task is given up, and a run is interrupted.
    """

    max_retry: int | None = None
    timeout: float | None = None
    retention: float | None = None
    retry_delay: Sequence[float] | None = None
    deadline: datetime | None = None
    tags: Sequence[str] = ()

    def encode(self) -> dict[str, Any]:
        """As in a message: only what is set."""
        given: dict[str, Any] = {name: getattr(self, name) for name in ("max_retry", "timeout", "retention")}
        given["retry_delay"] = list(self.retry_delay) if self.retry_delay else None
        given["deadline"] = self.deadline.isoformat() if self.deadline else None
        given["tags"] = list(self.tags) or None
        return {name: value for name, value in given.items() if value is not None}

    def allowed(self, task: Task[Any, Any]) -> int:
        """Runs that count."""
        return 1 + (task.max_retry if self.max_retry is None else self.max_retry)

    def retention_seconds(self, task: Task[Any, Any]) -> int:
        return int(task.retention.total_seconds() if self.retention is None else self.retention)

    def row(self, task: Task[Any, Any]) -> dict[str, Any]:
        """What the row's ``options`` hold: what no column does."""
        row: dict[str, Any] = {}
        if self.timeout is not None:
            row["timeout"] = self.timeout
        if self.retry_delay:
            row["retry_delay"] = list(self.retry_delay)
        if task.archived_to is not None:
            row["on_archived"] = follower_of(task)
        return row

    def within(self, task: Task[Any, Any]) -> Options:
        """Cut to the declaration's bounds: what a foreign sender may say."""
        return Options(
            max_retry=None if self.max_retry is None else min(self.max_retry, task.max_retry),
            timeout=None if self.timeout is None else min(self.timeout, task.timeout.total_seconds()),
            retention=None if self.retention is None else min(self.retention, task.retention.total_seconds()),
            retry_delay=self.retry_delay,
            deadline=self.deadline,
            tags=self.tags,
        )


NONE = Options()
"""What most tasks are told."""


# --- From a message ------------------------------------------------------------------------------------------------


def decode_options(fields: Mapping[str, Any]) -> Options:
    """Read a message's ``options``. Raises :class:`MessageError` with the field."""
    unknown = fields.keys() - {"max_retry", "timeout", "retention", "retry_delay", "deadline", "tags"}
    if unknown:
        raise MessageError(
            "options: holds what is none of max_retry, timeout, retention, retry_delay (in seconds), deadline, tags"
        )
    retry = fields.get("max_retry")
    if retry is not None and (isinstance(retry, bool) or not isinstance(retry, int) or not 0 <= retry <= 1000):
        raise MessageError("options.max_retry: a whole number, 0 or more, is required")
    delays = fields.get("retry_delay")
    if delays is not None:
        delays = delays if isinstance(delays, list) else [delays]
        if not 0 < len(delays) <= MAX_DELAYS:
            raise MessageError(f"options.retry_delay: 1 to {MAX_DELAYS} numbers of seconds are required")
        delays = [_seconds("retry_delay", delay, 0, LONGEST) for delay in delays]
    return Options(
        max_retry=retry,
        timeout=_seconds("timeout", fields.get("timeout"), 1, MAX_RETENTION),
        retention=_seconds("retention", fields.get("retention"), 0, MAX_RETENTION),
        retry_delay=delays,
        deadline=_deadline(fields.get("deadline")),
        tags=() if fields.get("tags") is None else _checked_tags(fields["tags"], "options.tags"),
    )


def _seconds(name: str, value: Any, low: float, high: timedelta) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high.total_seconds():
        raise MessageError(f"options.{name}: a number of seconds from {low} to {high.total_seconds():.0f} is required")
    return float(value)


def _deadline(value: Any) -> datetime | None:
    if value is None:
        return None
    try:
        deadline = datetime.fromisoformat(value) if isinstance(value, str) and len(value) <= 40 else None
        if deadline is not None and deadline.tzinfo is not None:
            return deadline.astimezone(UTC)
    except (ValueError, OverflowError):  # no time, or one that is out of the calendar in UTC
        pass
    raise MessageError("options.deadline: a time with its zone is required, for example '2030-01-31T12:00:00Z'")


def _checked_tags(tags: Any, where: str = "tags") -> Sequence[str]:
    if isinstance(tags, str) or not isinstance(tags, Sequence) or len(tags) > MAX_TAGS:
        raise MessageError(f"{where}: a list of at most {MAX_TAGS} strings is required")
    for tag in tags:
        if not isinstance(tag, str) or not 0 < len(tag) <= MAX_TAG:
            raise MessageError(f"{where}: strings of 1 to {MAX_TAG} characters are required")
        check_text(tag, where)
    return list(dict.fromkeys(tags))
