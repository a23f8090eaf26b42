"""The options of a task in its message and its row: its own limits instead of the declared ones, and its tags."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, PlainSerializer, PlainValidator, WithJsonSchema

from joblane.tasks.job import OPTIONS
from joblane.tasks.task import Task

EARLIEST, LATEST = datetime(1973, 1, 1, tzinfo=UTC), datetime(9999, 12, 30, tzinfo=UTC)


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
    raise ValueError(OPTIONS["deadline"].must)


def _within(name: str) -> Any:
    low, high = OPTIONS[name].bounds
    return Field(ge=low, le=high)


Seconds = Annotated[float, _within("retry_delay")]
TAGS = OPTIONS["tags"]


@dataclass(frozen=True, slots=True)
class Options:
    """The options of one task, in seconds, as the message and the row have them. None: as the task declares.

    ``timeout``: time of an attempt. ``retry_delay``: a wait for each failed attempt, the last repeated. ``deadline``:
    after it the task is archived, and a run is interrupted.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(strict=True, extra="forbid")

    max_retry: Annotated[int, _within("max_retry")] | None = None
    timeout: Annotated[float, _within("timeout")] | None = None
    retention: Annotated[float, _within("retention")] | None = None
    retry_delay: (
        Annotated[
            list[Seconds],
            Field(min_length=1, max_length=OPTIONS["retry_delay"].most),
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
        Sequence[Annotated[str, Field(min_length=TAGS.low, max_length=TAGS.high)]],
        Field(max_length=TAGS.most),
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
        given = {name: value for name in DECLARED if (value := getattr(self, name)) is not None}
        return replace(self, **{name: min(value, declared(task, name)) for name, value in given.items()})


def declared(task: Task[Any, Any], name: str) -> Any:
    """Return the JSON value that a task declares for an option of :data:`DECLARED`."""
    return OPTIONS[name].values.to_json(getattr(task, name))


DECLARED = tuple(name for name, option in OPTIONS.items() if option.declared)
"""The options whose maximum, in a message, is what the task declares."""
MUST = {each.name: OPTIONS[each.name].must for each in fields(Options)}
"""Option of a message → its values in words, for refusals and for the JSON Schema."""
NONE = Options()
"""The options of most tasks: as the task declares."""
