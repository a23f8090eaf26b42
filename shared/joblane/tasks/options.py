"""The options of one task: its own limits instead of the declared ones, and its tags."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, PlainSerializer, PlainValidator, WithJsonSchema

from joblane.tasks.retry import LONGEST
from joblane.tasks.task import MAX_RETENTION, Task

MAX_TAGS, MAX_TAG = 20, 100
MAX_DELAYS = 100
EARLIEST, LATEST = datetime(1973, 1, 1, tzinfo=UTC), datetime(9999, 12, 30, tzinfo=UTC)
_MOST_SECONDS = int(MAX_RETENTION.total_seconds())
MUST = {
    "max_retry": "must be a whole number, 0 or more",
    "timeout": f"must be a number of seconds from 1 to {_MOST_SECONDS}",
    "retention": f"must be a number of seconds from 0 to {_MOST_SECONDS}",
    "retry_delay": f"must be seconds, one number or a list of 1 to {MAX_DELAYS}",
    "deadline": "must be a time with its zone, for example '2030-01-31T12:00:00Z'",
    "tags": f"must be a list of at most {MAX_TAGS} strings of 1 to {MAX_TAG} characters",
}
"""Field → the text that describes its values, in refusals and in the JSON Schema."""


def is_storable(moment: datetime) -> bool:
    """True if the driver can read the time back in any zone of a session.

    In earlier years some zones have seconds, and at the end of the year 9999 an eastern zone is in the year 10000.
    """
    return EARLIEST <= moment < LATEST


def _deadline(value: Any) -> datetime:
    try:
        deadline = datetime.fromisoformat(value) if isinstance(value, str) and len(value) <= 40 else None
        if deadline is not None and deadline.tzinfo is not None:
            deadline = deadline.astimezone(UTC)
            if is_storable(deadline):
                return deadline
    except (ValueError, OverflowError):  # no time, or a time outside of the calendar in UTC
        pass
    raise ValueError(MUST["deadline"])


Seconds = Annotated[float, Field(ge=0, le=LONGEST.total_seconds())]


@dataclass(frozen=True, slots=True)
class Options:
    """The options of one task, in seconds, as the message and the row have them. None: as the task declares.

    ``timeout``: time of an attempt. ``retry_delay``: a wait for each failed attempt, the last repeated. ``deadline``:
    after it the task is archived, and a run is interrupted.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(strict=True, extra="forbid")

    max_retry: Annotated[int, Field(ge=0, le=1000)] | None = None
    timeout: Annotated[float, Field(ge=1, le=_MOST_SECONDS)] | None = None
    retention: Annotated[float, Field(ge=0, le=_MOST_SECONDS)] | None = None
    retry_delay: (
        Annotated[
            list[Seconds],
            Field(min_length=1, max_length=MAX_DELAYS),
            BeforeValidator(
                lambda value: value if isinstance(value, list) else [value],
                json_schema_input_type=Seconds | list[Seconds],
            ),
        ]
        | None
    ) = None
    deadline: (
        Annotated[
            datetime,
            PlainValidator(_deadline),
            PlainSerializer(datetime.isoformat),
            WithJsonSchema({"type": "string", "format": "date-time"}),
        ]
        | None
    ) = None
    tags: Annotated[
        Sequence[Annotated[str, Field(min_length=1, max_length=MAX_TAG)]],
        Field(max_length=MAX_TAGS),
        AfterValidator(lambda tags: list(dict.fromkeys(tags))),
        BeforeValidator(lambda tags: [] if tags is None else tags),
    ] = ()

    def max_attempts(self, task: Task[Any, Any]) -> int:
        """Return the number of attempts."""
        return task.max_attempts if self.max_retry is None else self.max_retry + 1

    def retention_seconds(self, task: Task[Any, Any]) -> int:
        return int(task.retention.total_seconds() if self.retention is None else self.retention)

    def within(self, task: Task[Any, Any]) -> Options:
        """Return the options cut to what the task declares, for an external producer."""
        return replace(
            self,
            max_retry=None if self.max_retry is None else min(self.max_retry, task.max_retry),
            timeout=None if self.timeout is None else min(self.timeout, task.timeout.total_seconds()),
            retention=None if self.retention is None else min(self.retention, task.retention.total_seconds()),
        )


NONE = Options()
"""The options of most tasks: as the task declares."""
