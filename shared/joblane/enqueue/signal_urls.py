"""Addresses by which third parties signal: ``BASE/signals/TOKEN``.

A token names the task and the signal, and can name the only value that it sends. Anyone can read it, and only a process
with a key can make it. It has no time: it ends with the task. Only functions that use addresses import this module.
"""

from __future__ import annotations

import base64
import hmac
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from joblane.enqueue.signals import check_target, json_text
from joblane.errors import SignalError
from joblane.json_values import canonical
from joblane.settings import SIGNAL_BASE_URL, SIGNAL_KEYS, MissingSettingError, Settings

PREFIX = "v1."
"""The first part of each token: the version of its form."""
PURPOSE = b"joblane signal address v1"
"""The first part of what is signed, so that no signature of another kind is one of a token."""
MAX_CHARACTERS = 2_000
"""The maximum length of an address. Source: browsers and mail programs accept 2,083 characters at least, the limit of
Internet Explorer: Microsoft Support, *Maximum URL length is 2,083 characters in Internet Explorer*."""
MIN_KEY_CHARACTERS = 32
MAC_BYTES = 32
BASE = re.compile(r"(https://[\w.-]+|http://(localhost|127\.0\.0\.1))(:\d{1,5})?(/[\w.~%/-]*)?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Address:
    """The content of a token. ``value``: the only value that it sends; ``...``: any value."""

    task_id: str
    signal: str
    value: Any = ...


def signal_url(declared: Sequence[str], stage: str, address: Address) -> str:
    """Return an address. ``declared``: the names of settings that the task declares. ``stage``: its prefix.

    Raises :class:`SignalError`, and :class:`MissingSettingError`.
    """
    for name in (SIGNAL_KEYS, SIGNAL_BASE_URL):
        if name not in declared:
            both = f'environment=["{SIGNAL_KEYS}", "{SIGNAL_BASE_URL}"]'
            raise SignalError(name, f"the task does not declare this setting; write {both} into its declaration")
    check_target(address.task_id, address.signal)
    content: list[Any] = [address.task_id, address.signal]
    if address.value is not ...:
        content.append(json.loads(json_text(address.value)))
    settings = Settings(declared)
    base = settings.get(SIGNAL_BASE_URL, "").strip()
    if not base:
        purpose = "the address at which third parties reach the route of signals, without /signals"
        raise MissingSettingError(SIGNAL_BASE_URL, purpose, "https://api.example.com")
    if not BASE.fullmatch(base):
        raise SignalError(
            SIGNAL_BASE_URL,
            "https://HOST, with or without a path, is required, for example https://api.example.com; http:// is only "
            "for localhost",
        )
    text = canonical(content).encode()
    token = _encode(_sign(_keys(settings)[0], stage, text) + text)
    url = f"{base.rstrip('/')}/signals/{PREFIX}{token}"
    if len(url) > MAX_CHARACTERS:
        raise SignalError(
            SIGNAL_BASE_URL if address.value is ... else "value",
            f"the address would have {len(url):,} characters, and at most {MAX_CHARACTERS:,} are safe in mails and "
            "browsers; shorten it",
        )
    return url


def read_token(stage: str, token: str) -> Address | None:
    """Return the content of a token of this stage. None: no key of the stage has signed it.

    Raises :class:`SignalError`, and :class:`MissingSettingError`, for the setting with the keys.
    """
    keys = _keys(Settings([SIGNAL_KEYS]))
    if len(token) > MAX_CHARACTERS or not token.startswith(PREFIX):
        return None
    encoded = token.removeprefix(PREFIX)
    try:
        signed = base64.b64decode(f"{encoded}{'=' * (-len(encoded) % 4)}", altchars=b"-_", validate=True)
    except ValueError:
        return None
    mac, text = signed[:MAC_BYTES], signed[MAC_BYTES:]
    is_ours = any(hmac.compare_digest(mac, _sign(key, stage, text)) for key in keys)
    if not is_ours or _encode(signed) != encoded:  # several strings decode to the same bytes
        return None
    return Address(*json.loads(text))


def _keys(settings: Mapping[str, str]) -> list[str]:
    """Return the keys. The first one signs."""
    keys = settings.get(SIGNAL_KEYS, "").split()
    if not keys:
        purpose = "the secret key that signs the addresses of signals"
        example = "$(python -c 'import secrets; print(secrets.token_urlsafe(32))')"
        raise MissingSettingError(SIGNAL_KEYS, purpose, example)
    for position, key in enumerate(keys, 1):
        if len(key) < MIN_KEY_CHARACTERS:
            raise SignalError(
                SIGNAL_KEYS,
                f"key {position} of {len(keys)} has {len(key)} characters, and at least {MIN_KEY_CHARACTERS} random "
                "characters are required; spaces separate keys. Make one: python -c 'import secrets; "
                "print(secrets.token_urlsafe(32))'",
            )
    return keys


def _sign(key: str, stage: str, text: bytes) -> bytes:
    return hmac.digest(key.encode(), b"\0".join((PURPOSE, stage.encode(), text)), "sha256")


def _encode(signed: bytes) -> str:
    return base64.urlsafe_b64encode(signed).rstrip(b"=").decode()
