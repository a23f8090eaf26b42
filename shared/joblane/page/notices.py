"""What an action has done, told once on the page that follows it."""

from __future__ import annotations

import secrets
from collections import OrderedDict

KEPT = 100
"""Notices whose page never came are forgotten."""


class Notices:
    def __init__(self) -> None:
        self._texts: OrderedDict[str, str] = OrderedDict()

    def leave(self, text: str) -> str:
        """Returns the key under which the next page finds it."""
        key = secrets.token_urlsafe(8)
        self._texts[key] = text
        while len(self._texts) > KEPT:
            self._texts.popitem(last=False)
        return key

    def take(self, key: str | None) -> str | None:
        return self._texts.pop(key, None) if key else None
