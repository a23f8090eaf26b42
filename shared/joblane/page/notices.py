"""The result of an action, shown once on the page that follows it."""

from __future__ import annotations

import secrets
from collections import OrderedDict

KEPT = 100
"""Notices that are kept until their page is requested."""


class Notices:
    def __init__(self) -> None:
        self._texts: OrderedDict[str, str] = OrderedDict()

    def put(self, text: str) -> str:
        """Keep a notice. Returns the key for the next page."""
        key = secrets.token_urlsafe(8)
        self._texts[key] = text
        while len(self._texts) > KEPT:
            self._texts.popitem(last=False)
        return key

    def pop(self, key: str | None) -> str | None:
        return self._texts.pop(key, None) if key else None
