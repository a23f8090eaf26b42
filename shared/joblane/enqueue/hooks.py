"""The calls of hooks for each enqueue, see :func:`joblane.tasks.hooks.enqueueing`. Most programs have none, and do not
import this."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from dataclasses import replace
from types import MappingProxyType
from typing import NoReturn

from joblane.errors import EnqueueError
from joblane.tasks.event_kinds import ENQUEUEING
from joblane.tasks.job import Job
from joblane.tasks.task import Task


class ReadJob(Job):
    """A job that a hook reads. Its payload is frozen too."""

    __slots__ = ()

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise EnqueueError(name, "a hook of an enqueue changes only the headers and tags that it gets")


def with_hooks(job: Job) -> Job:
    """Return a job with the headers and tags that the hooks have added. Raises their exceptions.

    A job whose task, headers or tags have a wrong type stays as it is: its check refuses it.
    """
    has_types = isinstance(job.task, Task) and isinstance(job.headers, Mapping)
    if not has_types or isinstance(job.tags, str) or not isinstance(job.tags, (list, tuple)):
        return job
    headers, tags = dict(job.headers), list(job.tags)
    read = copy(job)
    read.headers, read.tags = MappingProxyType(headers), tuple(tags)
    object.__setattr__(read, "__class__", ReadJob)
    for hook in ENQUEUEING:
        hook.function(read, headers, *[tags] * hook.takes_tags)
        for name, value in headers.items():
            if not isinstance(name, str) or not isinstance(value, str):
                raise EnqueueError(
                    "headers", f"the hook {hook.name} sets {name!r}: a string is required, not {_of(value)}"
                )
        if wrong := [tag for tag in tags if not isinstance(tag, str)]:
            raise EnqueueError("tags", f"the hook {hook.name} adds a tag: a string is required, not {_of(wrong[0])}")
    return replace(job, headers=headers, tags=tags)


def _of(value: object) -> str:
    return type(value).__name__
