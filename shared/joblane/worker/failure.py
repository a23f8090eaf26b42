"""What is kept of an error: its class, its text, where it was raised, and a fingerprint to group it by."""

from __future__ import annotations

import hashlib
import os
import re
import traceback as tracebacks
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from joblane.errors import storable, text_of

if TYPE_CHECKING:
    from joblane.redaction import Scrub

MAX_TRACEBACK = 8_000
MAX_ERRORS = 50
"""Of one failure, causes and members of groups together."""
LIBRARIES = (str(Path(__file__).parents[1]), str(Path(os.__file__).parent), "/opt/python/", "<")
"""Code that is not the project's: this library, Python's own, Lambda's layer of dependencies, and no file at all."""
CAUSED = "The above exception was the direct cause of the following exception:"
MEANWHILE = "During handling of the above exception, another exception occurred:"
"""Python's own words."""


@dataclass(frozen=True, slots=True)
class Failure:
    error_type: str
    error_message: str
    fingerprint: str
    traceback: str

    @classmethod
    def of(cls, type_: str, error: BaseException, scrub: Scrub) -> Failure:
        """``scrub``: takes out of texts what is not to be kept, see :mod:`joblane.redaction`."""
        name = type(error).__name__
        frames = tracebacks.extract_tb(error.__traceback__)
        own = [frame for frame in frames if _is_own(frame.filename)]
        where = f"{own[-1].filename.rpartition('/')[2]}:{own[-1].name}" if own else ""
        message = text_of(error, scrub)
        key = "|".join((type_, name, normalised(message), where))
        return cls(
            error_type=name,
            error_message=message,
            fingerprint=hashlib.sha256(key.encode(errors="replace")).hexdigest()[:16],
            traceback=storable("".join(_lines(error, scrub, set()))[-MAX_TRACEBACK:]),
        )


def _is_own(file: str) -> bool:
    """The project's own code, by which errors are told apart, and not a library that it called."""
    return not file.startswith(LIBRARIES) and "/site-packages/" not in file


# In this order: an address may stand in quotes, and hold numbers.
SPECIFICS = (
    (re.compile(r"[\w.+-]+@[\w-]+(\.[\w-]+)+|\b[a-z][a-z0-9+.-]*://[^\s'\"<>]+"), "@"),
    (re.compile(r"(?<!\w)(['\"`])(?:(?!\1).)*\1(?!\w)|“[^”]*”|‘[^’]*’"), "'…'"),
    (re.compile(r"\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d[\d:.,]*(Z|[+-]\d\d:?\d\d)?"), "#"),
    (re.compile(r"\b(0x)?[0-9a-f]*\d[0-9a-f]*(?:[-:.][0-9a-f]+)*\b|[0-9a-f-]{8,}|\d+", re.IGNORECASE), "#"),
)


def normalised(message: str) -> str:
    """What an error says of all of its kind: without quoted values, addresses, ids and numbers."""
    for pattern, sign in SPECIFICS:
        message = pattern.sub(sign, message)
    return message


def _lines(error: BaseException, scrub: Scrub, seen: set[int]) -> Iterator[str]:
    """As Python prints it: causes first, each with its frames; the errors' texts as :func:`text_of` tells them."""
    chain = _chain(error, seen)
    for position, one in enumerate(chain):
        if position:
            yield f"\n{CAUSED if one.__cause__ else MEANWHILE}\n\n"
        if one.__traceback__ is not None:
            yield "Traceback (most recent call last):\n"
            yield from tracebacks.format_tb(one.__traceback__)
        yield f"{type(one).__qualname__}: {text_of(one, scrub)}\n"
        yield from (f"{scrub(str(note))}\n" for note in getattr(one, "__notes__", ()))
        for number, member in enumerate(one.exceptions if isinstance(one, BaseExceptionGroup) else (), 1):
            if id(member) not in seen and len(seen) < MAX_ERRORS:
                yield f"\n{number} of the group:\n\n"
                yield from _lines(member, scrub, seen)


def _chain(error: BaseException, seen: set[int]) -> list[BaseException]:
    """The error and what it came of, first cause first. A loop that catches and raises makes them by the thousand."""
    chain: list[BaseException] = []
    one: BaseException | None = error
    while one is not None and id(one) not in seen and len(seen) < MAX_ERRORS:
        seen.add(id(one))
        chain.append(one)
        one = one.__cause__ or (None if one.__suppress_context__ else one.__context__)
    return chain[::-1]
