"""Signed texts: the cookies of a browser, and the notices in addresses."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from typing import Any

from joblane.page.security import equal


class Signer:
    """Signs and reads texts. ``key``: the secret key of the stage, 32 random bytes."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def token(self, purpose: str, text: str) -> str:
        """A text that only a holder of the key can make. Two purposes never have the same one."""
        key = hmac.digest(self._key, purpose.encode(), hashlib.sha256)
        return _encoded(hmac.digest(key, text.encode(), hashlib.sha256))

    def sign(self, purpose: str, value: dict[str, Any], seconds: float) -> str:
        """A text with ``value``, which can be read for ``seconds``."""
        kept = {**value, "until": int(time.time() + seconds)}
        text = json.dumps(kept, separators=(",", ":"), ensure_ascii=False)
        body = _encoded(text.encode(errors="surrogatepass"))
        return f"{body}.{self.token(purpose, body)}"

    def read(self, purpose: str, text: str) -> dict[str, Any] | None:
        """The value in a text; None if it was not signed for this purpose, or is too old."""
        body, _, token = text.partition(".")
        if not equal(token, self.token(purpose, body)):
            return None
        value: dict[str, Any] = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
        return value if value.pop("until") > time.time() else None


def _encoded(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()
