"""A place: one Lambda function that runs several task types."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from joblane.errors import DeclarationError
from joblane.names import TYPE_PATTERN, Queue
from joblane.quotas import BATCH_SIZES, CONCURRENCIES, DEFAULT_MEMORY_MB, MEMORY_MB

PLACE_PATTERN = re.compile(r"[a-z][a-z0-9]{0,19}")
"""A place has no hyphen in its name, and the slug of a type always has one. So the names of their resources differ."""
RESERVED = frozenset({*Queue, "dlq", "router", "migrate", "control", "page", "events", "webhook", "cron"})
"""Names of the library's own functions and queues."""


@dataclass(frozen=True)
class Lambda:
    """A Lambda function for several task types. Give it to each of them: ``@task(…, runs_on=WEB)``.

    The types share the function's lane in each queue, its memory, its concurrency and its permissions: the function may
    do what any of them declares. Its timeout is the longest of its types. Declare it in a module that every handler can
    import, next to the handlers: ``functions/places.py``.

    Raises:
        DeclarationError: a field has a wrong type or is out of its range.
    """

    name: str
    """Last part of the names of function and lanes: ``PREFIX-web``, ``PREFIX-default-web``. A lower-case letter, then
    lower-case letters and digits, 20 at most."""
    memory_mb: int = DEFAULT_MEMORY_MB
    """Memory of the function, in MB. Range: 128 to 10240."""
    batch_size: int = 1
    """Maximum number of messages in one invocation, of any of its types. They run one after the other. Range: 1 to
    10."""
    max_concurrency: int | None = None
    """Maximum number of concurrent invocations for each lane. None: the lane's share of the stage's
    ``concurrency_budget``. Range: 2 to 1000."""
    image: str | None = None
    """Name of the container image in the stage's ``images``: letters and digits, as ``name``. None: the zip files of
    the other functions."""
    drains: tuple[str, ...] = ()
    """Types that had functions of their own until now. The place still receives from their former lanes, so that no
    message stays there. Remove a type when its lanes are empty."""

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not PLACE_PATTERN.fullmatch(self.name):
            raise DeclarationError(
                f"Lambda {self.name!r}: name: a lower-case letter, then lower-case letters and digits, 20 at most, is "
                "required, for example 'web'"
            )
        what = self.what
        if self.name in RESERVED:
            raise DeclarationError(f"{what}: name: it is a name of the library's own resources; choose another")
        for name, values in (("memory_mb", MEMORY_MB), ("batch_size", BATCH_SIZES), ("max_concurrency", CONCURRENCIES)):
            value = getattr(self, name)
            if name == "max_concurrency" and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value not in values:
                raise DeclarationError(
                    f"{what}: {name}: an integer from {values.start} to {values.stop - 1} is required, not {value!r}"
                )
        if self.image is not None and (not isinstance(self.image, str) or not PLACE_PATTERN.fullmatch(self.image)):
            raise DeclarationError(
                f"{what}: image: the name of an image in the stage's `images` is required, a lower-case letter, then "
                f"lower-case letters and digits, 20 at most, for example 'web', not {self.image!r}"
            )
        object.__setattr__(self, "drains", _drains(what, self.drains))

    @property
    def what(self) -> str:
        """Its name in error messages."""
        return f"Lambda {self.name!r}"


def _drains(what: str, types: Any) -> tuple[str, ...]:
    if isinstance(types, str) or not isinstance(types, Iterable):
        raise DeclarationError(f"{what}: drains: a tuple of types is required, for example ('mail:send',)")
    given: tuple[Any, ...] = tuple(types)
    for type_ in given:
        if not isinstance(type_, str) or not TYPE_PATTERN.fullmatch(type_):
            raise DeclarationError(f"{what}: drains: {type_!r} is not a type, such as 'mail:send'")
    return given
