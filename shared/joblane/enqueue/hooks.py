"""The calls of hooks for each enqueue, see :func:`joblane.tasks.hooks.enqueueing`. Most programs have none, and do not
import this."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from types import MappingProxyType
from typing import Any, NoReturn

from pydantic import BaseModel

from joblane.errors import EnqueueError
from joblane.tasks.event_kinds import ENQUEUEING
from joblane.tasks.job import Job
from joblane.tasks.task import Task

ONLY = "a hook of an enqueue changes only the headers and tags that it gets"
COPIED = [each.name for each in fields(Job) if each.name not in ("payload", "headers", "tags", "after")]
CHANGES = (
    *("__setitem__", "__delitem__", "__iadd__", "__imul__", "__ior__", "__iand__", "__isub__", "__ixor__"),
    *("append", "extend", "insert", "remove", "pop", "clear", "sort", "reverse", "popitem", "setdefault", "update"),
    *("add", "discard", "difference_update", "intersection_update", "symmetric_difference_update"),
)
"""The methods that change a list, a dict or a set."""


def _refuse(*_: object, **__: object) -> NoReturn:
    raise EnqueueError("payload", ONLY)


def _read_only(kind: type[Any]) -> type[Any]:
    """Return a subclass of a container whose values refuse changes. A copy of a value is of the class itself."""
    methods: dict[str, Any] = {name: _refuse for name in CHANGES if hasattr(kind, name)}
    return type(kind.__name__, (kind,), methods | {"__slots__": (), "__reduce__": lambda self: (kind, (kind(self),))})


READ_ONLY = {kind: _read_only(kind) for kind in (list, dict, set)}


def read_only(value: Any) -> Any:
    """Return a copy of a payload, or of a value in it, whose lists, dicts and sets refuse changes."""
    if isinstance(value, BaseModel):
        copied = value.model_copy()
        copied.__dict__.update({name: read_only(each) for name, each in copied.__dict__.items()})
        return copied
    kind = type(value)
    if kind is dict:
        return READ_ONLY[kind]({key: read_only(each) for key, each in value.items()})
    if kind in READ_ONLY or kind is tuple:
        return READ_ONLY.get(kind, kind)(map(read_only, value))
    return value


class ReadJob(Job):
    """A job that a hook reads. It copies the payload if a hook reads it: ``seen``, or None."""

    __slots__ = ("given", "seen")

    def __init__(self, job: Job, headers: Mapping[str, str], tags: list[str]) -> None:
        values = {name: getattr(job, name) for name in COPIED}
        values |= {"headers": MappingProxyType(headers), "tags": tuple(tags), "after": read_only(job.after)}
        for name, value in {**values, "given": job.payload, "seen": None}.items():
            object.__setattr__(self, name, value)

    def __getattr__(self, name: str) -> Any:
        if name != "payload":
            raise AttributeError(name)
        payload = read_only(self.given)
        for each in ("payload", "seen"):
            object.__setattr__(self, each, payload)
        return payload

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise EnqueueError(name, ONLY)


def with_hooks(job: Job) -> Job:
    """Return a job with the headers and tags that the hooks have added. Raises their exceptions.

    A job whose task, headers or tags have a wrong type stays as it is: its check refuses it.
    """
    has_types = isinstance(job.task, Task) and isinstance(job.headers, Mapping)
    if not has_types or isinstance(job.tags, str) or not isinstance(job.tags, (list, tuple)):
        return job
    headers, tags = dict(job.headers), list(job.tags)
    read = ReadJob(job, headers, tags)
    for hook in ENQUEUEING:
        hook.function(read, headers, *[tags] * hook.takes_tags)
        if read.seen is not None and read.seen != job.payload:  # a model in the payload, which is not frozen
            raise EnqueueError("payload", f"the hook {hook.name} changes it; {ONLY}")
        for name, value in headers.items():
            if not isinstance(name, str) or not isinstance(value, str):
                what, wrong = (repr(name), value) if isinstance(name, str) else (f"the name {name!r}", name)
                raise EnqueueError(
                    "headers", f"the hook {hook.name} sets {what}: a string is required, not {_of(wrong)}"
                )
        if refused := [tag for tag in tags if not isinstance(tag, str)]:
            raise EnqueueError("tags", f"the hook {hook.name} adds a tag: a string is required, not {_of(refused[0])}")
    return replace(job, headers=headers, tags=tags)


def _of(value: object) -> str:
    return type(value).__name__
