"""Checks of text and JSON values against the limits of PostgreSQL and SQS."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from joblane.errors import MessageError

MAX_DEPTH = 64
"""The most levels of nested arrays and objects in a body. A parser can read far more."""


def check_text(text: str, where: str) -> None:
    """Raise :class:`MessageError` for NUL and lone surrogates, which PostgreSQL's text and jsonb cannot store."""
    if "\0" in text:
        raise MessageError(f"{where}: contains a NUL character, which PostgreSQL cannot store")
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        raise MessageError(f"{where}: contains a lone surrogate, which is not text")


def check_tree(value: Any, where: str = "payload", depth: int = 1) -> None:
    """Check every string of a JSON value by :func:`check_text`, and its depth."""
    if isinstance(value, str):
        check_text(value, where)
    elif isinstance(value, (dict, list)):
        if depth > MAX_DEPTH:
            raise MessageError(f"{where}: nested deeper than {MAX_DEPTH} levels")
        for item in value if isinstance(value, list) else [*value.keys(), *value.values()]:
            check_tree(item, where, depth + 1)


def needs_walk(text: str) -> bool:
    """True if JSON text may contain a value that :func:`check_tree` refuses. Most texts do not.

    In ASCII text a NUL or a surrogate needs an escape, and a tree cannot be deeper than its number of brackets.
    """
    return not text.isascii() or "\\u" in text or text.count("{") + text.count("[") > MAX_DEPTH


def canonical(value: Any) -> str:
    """Return JSON with sorted keys and no spaces. Raises ValueError for NaN and infinities, which JSON lacks."""
    return _CANONICAL.encode(value)


_CANONICAL = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), sort_keys=True, allow_nan=False)


def digest(payload: Mapping[str, Any]) -> str:
    """Return a digest of 32 hex characters. It does not depend on the order of keys."""
    return hashlib.sha256(canonical(payload).encode()).hexdigest()[:32]
