"""A job as its caller gives it: the task, the payload, and the options of this one call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, TypedDict

from joblane.declaration import Task
from joblane.errors import EnqueueError
from joblane.queues import Queue
from joblane.unique import OnConflict, Until

if TYPE_CHECKING:
    from joblane.payload import Payload
    from joblane.retry import RetryDelay


class JobOptions(TypedDict, total=False):
    """What may be said of a task as it is enqueued; :class:`Job` says what each means."""

    queue: Queue | None
    process_in: timedelta | None
    process_at: datetime | None
    task_id: str | None
    tenant: str | None
    headers: Mapping[str, str]
    owner: str | None
    tags: Sequence[str]
    max_retry: int | None
    timeout: timedelta | None
    deadline: datetime | None
    retention: timedelta | None
    retry_delay: RetryDelay | None
    unique_for: timedelta | None
    unique_key: str | None
    unique_until: Until | str | None
    on_conflict: OnConflict | str


ELSEWHERE = {
    "countdown": "process_in",
    "delay": "process_in",
    "eta": "process_at",
    "schedule_at": "process_at",
    "expires": "deadline",
    "retries": "max_retry",
    "max_retries": "max_retry",
    "time_limit": "timeout",
    "job_id": "task_id",
    "queue_name": "queue",
}
"""Names of other libraries → ours."""


def check_names(options: Mapping[str, object]) -> None:
    """Raise :class:`EnqueueError` for an option that there is not, with those that come near."""
    if not options.keys() - JobOptions.__annotations__.keys():
        return
    from difflib import get_close_matches

    for name in options.keys() - JobOptions.__annotations__.keys():
        near = [ELSEWHERE[name]] if name in ELSEWHERE else get_close_matches(name, JobOptions.__annotations__)
        hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(JobOptions.__annotations__)}"
        raise EnqueueError(name, f"there is no such option; {hint}")


@dataclass(slots=True)
class Job:
    """A task to be enqueued.

    ``queue``: one in which the type has a lane (default: its home). ``process_in``, ``process_at``: any distance up to
    ten years. ``task_id``: the caller's, printable ASCII, 200 characters at most. ``tenant``: for a fair share between
    tenants and to filter by; a hint, never an authorisation. ``owner``: whom it belongs to, from verified claims.
    ``tags``: words to find it by. ``headers``: handed to the handler.

    ``max_retry``, ``timeout``: within what the task declares. ``retention``, ``retry_delay`` (no function): in place of
    what it declares. ``deadline``: aware; after it the task is given up unrun, and a run is interrupted.

    ``unique_for``: how long the key is held at most. ``unique_key`` (default: queue and payload), ``unique_until`` and
    ``on_conflict``: see :mod:`joblane.unique`.
    """

    task: Task[Any, Any]
    payload: Payload
    queue: Queue | None = None
    process_in: timedelta | None = None
    process_at: datetime | None = None
    task_id: str | None = None
    tenant: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    owner: str | None = None
    tags: Sequence[str] = ()
    max_retry: int | None = None
    timeout: timedelta | None = None
    deadline: datetime | None = None
    retention: timedelta | None = None
    retry_delay: RetryDelay | None = None
    unique_for: timedelta | None = None
    unique_key: str | None = None
    unique_until: Until | str | None = None
    on_conflict: OnConflict | str = OnConflict.RAISE
