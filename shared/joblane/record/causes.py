"""The message of an error without what differs from task to task, by which equal errors are grouped."""

from __future__ import annotations

import re

MAX_SHOWN = 300
"""Characters of a cause's message."""

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


def shown(message: str) -> str:
    """Return the first line of an error without the ids and numbers of a single task."""
    return normalised(message.partition("\n")[0][: 10 * MAX_SHOWN])[:MAX_SHOWN]
