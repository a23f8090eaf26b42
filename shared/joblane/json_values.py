"""What text and trees of JSON values may hold, so that Postgres and the wire can take them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from joblane.errors import MessageError

MAX_DEPTH = 64
"""Nested arrays and objects of a body. Far above any payload, far below what stops a parser."""


def check_text(text: str, where: str) -> None:
    """Raise :class:`MessageError` for what Postgres's text and jsonb cannot hold: NUL and lone surrogates."""
    if "\0" in text:
        raise MessageError(f"{where}: contains a NUL character, which Postgres cannot store")
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
    """Whether JSON text may hold what :func:`check_tree` refuses; most does not.

    In ASCII only an escape can make a NUL or a surrogate, and a tree is no deeper than it has brackets.
    """
    return not text.isascii() or "\\u" in text or text.count("{") + text.count("[") > MAX_DEPTH


def canonical(value: Any) -> str:
    """JSON with sorted keys and no spaces; raises ValueError for NaN and infinities, which JSON does not have."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True, allow_nan=False)


def digest(payload: Mapping[str, Any]) -> str:
    """32 hex characters that are equal for equal payloads, whatever the order of their keys."""
    return hashlib.sha256(canonical(payload).encode()).hexdigest()[:32]
