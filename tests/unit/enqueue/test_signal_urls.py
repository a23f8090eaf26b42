"""The tokens in the addresses of signals: only a stage's keys make them, and each has one spelling."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import string
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from joblane.enqueue import signal_urls
from joblane.enqueue.signal_urls import MAX_CHARACTERS, PREFIX, Address, read_token, signal_url
from joblane.errors import SignalError
from joblane.settings import SIGNAL_BASE_URL, SIGNAL_KEYS, MissingSettingError
from joblane.testing.process import SIGNAL_SETTINGS

DECLARED = (SIGNAL_KEYS, SIGNAL_BASE_URL)
BASE, OLD, NEW = "https://api.example.com/v1", "an-old-key-" + "o" * 32, "a-new-key-" + "n" * 32
ALPHABET = string.ascii_letters + string.digits + "-_"
ONE_VALUE = Address("invoice-7", "approval", {"b": 1, "a": [True, None, "é"]})
ANY_VALUE = Address("invoice-7", "approval")


@pytest.fixture(autouse=True)
def _settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SIGNAL_BASE_URL, BASE)
    monkeypatch.setenv(SIGNAL_KEYS, OLD)


def token_of(address: Address, stage: str = "jobs") -> str:
    base, _, token = signal_url(DECLARED, stage, address).rpartition("/signals/")
    assert base == BASE
    return token


def signed(*content: Any, key: str = OLD, stage: str = "jobs", purpose: bytes = signal_urls.PURPOSE) -> str:
    """Return a token as this test makes it."""
    text = json.dumps(content, separators=(",", ":"), ensure_ascii=False).encode()
    mac = hmac.new(key.encode(), purpose + b"\0" + stage.encode() + b"\0" + text, hashlib.sha256).digest()
    return f"v1.{base64.urlsafe_b64encode(mac + text).decode().rstrip('=')}"


def forged(token: str) -> Iterator[str]:
    """Each change of one character and of one bit, each cut, and other spellings."""
    encoded = token.removeprefix(PREFIX)
    for position in range(len(encoded)):
        for other in ALPHABET:
            if other != encoded[position]:
                yield f"{PREFIX}{encoded[:position]}{other}{encoded[position + 1 :]}"
    raw = base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4))
    for bit in range(len(raw) * 8):
        changed = bytearray(raw)
        changed[bit // 8] ^= 1 << bit % 8
        yield PREFIX + base64.urlsafe_b64encode(changed).decode().rstrip("=")
    yield from (token[:length] for length in range(len(token)))
    yield from (token[start:] for start in range(1, len(token)))
    yield from (f"{token}{more}" for more in ("=", "==", "A", "AAAA", "\n", " ", "/", "%00", "\0", "é"))
    yield from (f"{PREFIX}\n{encoded}", f" {token}", f"v2.{encoded}", f"V1.{encoded}", encoded, f"{PREFIX}{token}")
    yield from (token.replace("-", "+").replace("_", "/"), token.swapcase(), PREFIX + raw.hex())
    yield PREFIX + base64.urlsafe_b64encode(raw[signal_urls.MAC_BYTES :]).decode().rstrip("=")
    yield token + "A" * MAX_CHARACTERS


@pytest.mark.parametrize("address", [ONE_VALUE, ANY_VALUE, Address("i", "s", None), Address("x" * 200, '"' * 100)])
def test_a_token_says_what_it_was_made_for_each_time(address: Address) -> None:
    token = token_of(address)
    assert read_token("jobs", token) == address
    assert {token_of(address) for _ in range(3)} == {token}
    assert token.isascii()
    assert not token.strip(f"{ALPHABET}.")


def test_a_token_is_signed_with_hmac_sha256_for_its_purpose_and_stage() -> None:
    assert token_of(ANY_VALUE) == signed("invoice-7", "approval")
    assert token_of(ONE_VALUE) == signed("invoice-7", "approval", {"a": [True, None, "é"], "b": 1})
    assert read_token("jobs", signed("invoice-7", "approval", purpose=b"joblane signal address v2")) is None
    assert read_token("jobs", signed("invoice-7", "approval", key=NEW)) is None


def test_of_two_spellings_of_a_value_the_token_is_the_same() -> None:
    assert token_of(Address("i", "s", {"b": 1, "a": 2})) == token_of(Address("i", "s", {"a": 2, "b": 1}))


@pytest.mark.parametrize("address", [ONE_VALUE, ANY_VALUE, Address("i", "s", 10), Address("i", "s", 100)])
def test_a_forged_token_is_refused(address: Address) -> None:
    """The lengths of the four leave 0, 1 and 2 bytes in the last group of base 64."""
    token = token_of(address)
    assert not {other for other in forged(token) if other != token and read_token("jobs", other) is not None}


@pytest.mark.plants
@pytest.mark.parametrize("fault", ["no signature", "any spelling", "the start of a signature"])
def test_a_planted_fault_is_found(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    token = token_of(ANY_VALUE)
    if fault == "any spelling":
        monkeypatch.setattr(signal_urls, "_encode", lambda _: Anything())
    else:
        compare = {"no signature": lambda *_: True, "the start of a signature": lambda a, b: b.startswith(a[:31])}
        monkeypatch.setattr(hmac, "compare_digest", compare[fault])
    found = set()
    for other in forged(token):
        try:
            found.add(read_token("jobs", other))
        except (ValueError, TypeError):  # the content is no longer JSON
            found.add(ANY_VALUE)
    assert found != {None}


class Anything:
    """Equal to each text."""

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, _: object) -> bool:
        return True


def test_a_token_of_another_stage_is_foreign() -> None:
    token = token_of(ANY_VALUE, "jobs-prod")
    assert read_token("jobs-prod", token) == ANY_VALUE
    assert {read_token(stage, token) for stage in ("jobs", "jobs-dev", "", "jobs-prod\0", "jobs-pro")} == {None}


def test_the_first_key_signs_and_all_are_accepted_until_one_is_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    old = token_of(ANY_VALUE)
    monkeypatch.setenv(SIGNAL_KEYS, f" {OLD}\n{NEW} ")  # a step before: processes with the old setting accept all
    assert token_of(ANY_VALUE) == old
    monkeypatch.setenv(SIGNAL_KEYS, f"{NEW} {OLD}")
    new = token_of(ANY_VALUE)
    assert new == signed("invoice-7", "approval", key=NEW)
    assert read_token("jobs", old) == read_token("jobs", new) == ANY_VALUE
    monkeypatch.setenv(SIGNAL_KEYS, NEW)
    assert (read_token("jobs", old), read_token("jobs", new)) == (None, ANY_VALUE)


# --- Refusals ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "field", "problem"),
    [
        (
            {SIGNAL_KEYS: "short " + OLD},
            SIGNAL_KEYS,
            "key 1 of 2 has 5 characters, and at least 32 random characters are",
        ),
        ({SIGNAL_KEYS: f"{OLD} {'x' * 31}"}, SIGNAL_KEYS, "key 2 of 2 has 31 characters"),
        ({SIGNAL_BASE_URL: "http://api.example.com"}, SIGNAL_BASE_URL, "https://HOST, with or without a path, is"),
        ({SIGNAL_BASE_URL: "https://"}, SIGNAL_BASE_URL, "https://HOST"),
        ({SIGNAL_BASE_URL: "https://a.example/?x=1"}, SIGNAL_BASE_URL, "https://HOST"),
        ({SIGNAL_BASE_URL: "https://me@a.example"}, SIGNAL_BASE_URL, "https://HOST"),
        ({SIGNAL_BASE_URL: f"https://a.example/{'x' * 2000}"}, SIGNAL_BASE_URL, "the address would have 2,"),
    ],
)
def test_a_wrong_setting_is_refused_without_its_value(
    settings: dict[str, str], field: str, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SignalError) as caught:
        signal_url(DECLARED, "jobs", ANY_VALUE)
    assert caught.value.field == field
    assert caught.value.problem.startswith(problem)
    assert not any(part in str(caught.value) for part in settings.get(SIGNAL_KEYS, "").split())
    if field == SIGNAL_KEYS:
        with pytest.raises(SignalError, match=problem):
            read_token("jobs", "anything")


@pytest.mark.parametrize("value", ["", " \n"])
@pytest.mark.parametrize(
    ("name", "text"),
    [
        (SIGNAL_KEYS, "the secret key that signs the addresses of signals.*secrets.token_urlsafe"),
        (SIGNAL_BASE_URL, "third parties reach the route of signals.*=https://api.example.com$"),
    ],
)
def test_a_setting_without_a_value_is_named(name: str, text: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(MissingSettingError, match=f"^{name} is not set: .*{text}"):
        signal_url(DECLARED, "jobs", ANY_VALUE)


@pytest.mark.parametrize("declared", [(), (SIGNAL_KEYS,), (SIGNAL_BASE_URL,)])
def test_a_setting_that_the_task_does_not_declare_is_named(declared: tuple[str, ...]) -> None:
    with pytest.raises(SignalError, match=r'does not declare this setting; write environment=\["JOBLANE_SIGNAL_KEYS"'):
        signal_url(declared, "jobs", ANY_VALUE)


@pytest.mark.parametrize(
    ("address", "field", "problem"),
    [
        (Address("i", "é"), "signal", "1 to 100 printable ASCII characters are required"),
        (Address("i", "s", object()), "value", "a value that JSON can hold is required: a string, a finite number"),
        (
            Address("i", "s", [float("nan")]),
            "value",
            "a value that JSON can hold is required: a string, a finite number",
        ),
        (Address("i", "s", "a\0"), "value", "contains a NUL character"),
        (Address("i", "s", "x" * 1450), "value", "the address would have 2,"),
    ],
)
def test_a_wrong_argument_is_refused(address: Address, field: str, problem: str) -> None:
    with pytest.raises(SignalError) as caught:
        signal_url(DECLARED, "jobs", address)
    assert (caught.value.field, caught.value.problem[: len(problem)]) == (field, problem)


def test_an_address_has_at_most_2000_characters() -> None:
    room = MAX_CHARACTERS - len(signal_url(DECLARED, "jobs", Address("i", "s", "")))
    lengths = set()
    for length in range(room * 3 // 4 - 3, room * 3 // 4 + 3):
        try:
            lengths.add(len(signal_url(DECLARED, "jobs", Address("i", "s", "x" * length))))
        except SignalError:
            break
    assert MAX_CHARACTERS - 2 <= max(lengths) <= MAX_CHARACTERS


@pytest.mark.parametrize("base", ["https://api.example.com:8443/a/", "http://localhost:8000", "http://127.0.0.1"])
def test_a_base_may_have_a_port_and_a_path(base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SIGNAL_BASE_URL, base)
    assert signal_url(DECLARED, "jobs", ANY_VALUE).startswith(f"{base.rstrip('/')}/signals/v1.")


def test_the_settings_of_the_kit_are_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SIGNAL_SETTINGS.items():
        monkeypatch.setenv(name, value)
    assert signal_url(DECLARED, "jobs", ANY_VALUE).startswith("https://signals.test/signals/v1.")


def test_a_handler_that_makes_no_address_imports_nothing_for_it() -> None:
    code = (
        "import sys, joblane.worker.worker, joblane.handler.waits; print('joblane.enqueue.signal_urls' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout == b"False\n"
