"""The stored form of an error: class, text, traceback, and a fingerprint that groups equal errors."""

from __future__ import annotations

import hashlib
import os
import re
import traceback as tracebacks
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from joblane.errors import MAX_TEXT, shortened, storable, text_of

if TYPE_CHECKING:
    from joblane.tasks.scrubbing import Scrub

MAX_TRACEBACK = 8_000
MAX_ERRORS = 50
"""The most errors of one traceback, including causes and members of exception groups."""
NOT_PROJECT_CODE = (str(Path(__file__).parents[1]), str(Path(os.__file__).parent), "/opt/python/", "<")
"""Prefixes of files outside of the project: this library, the standard library, Lambda's layers, and code without a
file."""
CAUSE_LINE = "The above exception was the direct cause of the following exception:"
CONTEXT_LINE = "During handling of the above exception, another exception occurred:"
"""Python's own lines between two tracebacks."""


@dataclass(frozen=True, slots=True)
class Failure:
    error_type: str
    error_message: str
    fingerprint: str
    traceback: str

    @classmethod
    def of(cls, type_: str, error: BaseException, scrub: Scrub) -> Failure:
        """``scrub``: removes redacted values from strings, see :mod:`joblane.tasks.scrubbing`."""
        name = scrub(type(error).__name__)
        stack = tracebacks.extract_tb(error.__traceback__)
        frames = [frame for frame in stack if is_project_code(frame.filename)]
        where = f"{frames[-1].filename.rpartition('/')[2]}:{frames[-1].name}" if frames else ""
        message = text_of(error, scrub)
        key = "|".join((type_, name, normalised(message), where))
        return cls(
            error_type=name,
            error_message=message,
            fingerprint=hashlib.sha256(key.encode(errors="replace")).hexdigest()[:16],
            traceback=storable(_traceback(error, scrub)),
        )


def _traceback(error: BaseException, scrub: Scrub) -> str:
    """Return the last :data:`MAX_TRACEBACK` characters of the traceback. Only their texts are scrubbed."""
    kept: list[str] = []
    size = 0
    for part in reversed(list(_parts(error, scrub, set()))):
        text = part if isinstance(part, str) else part()
        kept.append(text)
        size += len(text)
        if size >= MAX_TRACEBACK:
            break
    return "".join(reversed(kept))[-MAX_TRACEBACK:]


def is_project_code(file: str) -> bool:
    """True for the project's own code. The fingerprint uses the innermost such frame, not one in a library."""
    return not file.startswith(NOT_PROJECT_CODE) and "/site-packages/" not in file


# The order matters: an address may be quoted, and may contain numbers.
VARIABLE_PARTS = (
    (re.compile(r"[\w.+-]+@[\w-]+(\.[\w-]+)+|\b[a-z][a-z0-9+.-]*://[^\s'\"<>]+"), "@"),
    (re.compile(r"(?<!\w)(['\"`])(?:(?!\1).)*\1(?!\w)|“[^”]*”|‘[^’]*’"), "'…'"),
    (re.compile(r"\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d[\d:.,]*(Z|[+-]\d\d:?\d\d)?"), "#"),
    (re.compile(r"\b(0x)?[0-9a-f]*\d[0-9a-f]*(?:[-:.][0-9a-f]+)*\b|[0-9a-f-]{8,}|\d+", re.IGNORECASE), "#"),
)


def normalised(message: str) -> str:
    """Replace the quoted values, addresses, ids and numbers in an error message, so that equal errors compare equal."""
    for pattern, placeholder in VARIABLE_PARTS:
        message = pattern.sub(placeholder, message)
    return message


Part = str | Callable[[], str]
"""A part of a traceback, or a function that returns it, because only the last parts are used."""


def _parts(error: BaseException, scrub: Scrub, seen: set[int]) -> Iterator[Part]:
    """Yield the traceback as Python prints it, causes first, with the errors' texts from :func:`text_of`."""
    for position, link in enumerate(_chain(error, seen)):
        if position:
            yield f"\n{CAUSE_LINE if link.__cause__ else CONTEXT_LINE}\n\n"
        if link.__traceback__ is not None:
            yield "Traceback (most recent call last):\n"
            yield from tracebacks.format_tb(link.__traceback__)
        yield partial(_line, link, scrub)
        for note in getattr(link, "__notes__", ()):
            yield partial(_note, note, scrub)
        for number, member in enumerate(link.exceptions if isinstance(link, BaseExceptionGroup) else (), 1):
            if id(member) not in seen and len(seen) < MAX_ERRORS:
                yield f"\n{number} of the group:\n\n"
                yield from _parts(member, scrub, seen)


def _line(error: BaseException, scrub: Scrub) -> str:
    return f"{scrub(type(error).__qualname__)}: {text_of(error, scrub)}\n"


def _note(note: object, scrub: Scrub) -> str:
    return f"{scrub(shortened(str(note), MAX_TEXT))}\n"


def _chain(error: BaseException, seen: set[int]) -> list[BaseException]:
    """Return the error and its causes, first cause first. A loop that catches and raises makes thousands of them."""
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and id(link) not in seen and len(seen) < MAX_ERRORS:
        seen.add(id(link))
        chain.append(link)
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
    return chain[::-1]
