"""Values of redacted fields are removed from texts, in any notation."""

from __future__ import annotations

import base64
import html
import json
import subprocess
import sys
import textwrap
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Any
from urllib.parse import quote, quote_plus, urlencode
from uuid import UUID

import pytest
from pydantic import BaseModel, TypeAdapter, ValidationError

from joblane import Payload, Redacted, SkipRetry
from joblane.errors import MAX_TEXT, text_of
from joblane.tasks.redaction import MASK
from joblane.tasks.scrubbing import scrubbed, scrubber
from joblane.worker.outcome import Failure

TOKEN = "pl4nted'\"\\ü\n💥/+ &tail"


class Grade(StrEnum):
    TOP = "top-secret-grade"


class Login(Payload):
    user: str = "ann"
    token: Annotated[str, Redacted] = TOKEN


class Typed(Payload):
    at: Annotated[datetime, Redacted]
    amount: Annotated[Decimal, Redacted]
    number: Annotated[int, Redacted]
    share: Annotated[float, Redacted]
    id: Annotated[UUID, Redacted]
    grade: Annotated[Grade, Redacted]
    many: Annotated[dict[str, list[str]], Redacted]


def scrub_of(token: str) -> Callable[[str], str]:
    return scrubber(Login, {"token": token})


@pytest.mark.parametrize(
    "written",
    [
        str,
        repr,
        json.dumps,
        lambda value: json.dumps(value, ensure_ascii=False),
        lambda value: repr({"token": value}),
        lambda value: repr(repr(value.strip("'\\\""))),
        quote,
        quote_plus,
        lambda value: urlencode({"token": value}),
        lambda value: repr(value.encode()),
        str.upper,
        str.lower,
        str.title,
        html.escape,
        lambda value: html.escape(value, quote=False),
        lambda value: repr(repr(json.dumps(value))),
        lambda value: repr(Login(token=value)),
        lambda value: f"before{value}after",
    ],
)
def test_a_value_is_found_in_every_notation(written: Callable[[str], str]) -> None:
    text = f"it failed: {written(TOKEN)}, alas"
    found = scrub_of(TOKEN)(text)
    assert "pl4nted" not in found.lower()
    assert "tail" not in found.lower()
    assert found.startswith("it failed: ")
    assert found.endswith(", alas")


def test_values_of_other_types_are_found_in_their_python_and_json_notation() -> None:
    read = Typed(
        at=datetime(2026, 2, 3, 4, 5, tzinfo=UTC),
        amount=Decimal("1234.50"),
        number=987654,
        share=0.12345,
        id=UUID("0b5f8a5e-7a2b-4f0e-9b1a-3c8b1f6d2e4a"),
        grade=Grade.TOP,
        many={"the-key": ["the-item"]},
    )
    scrub = scrubber(Typed, read.model_dump(mode="json"), read)
    for value in (*dict(read).values(), *read.model_dump(mode="json").values()):
        for text in (str(value), repr(value), json.dumps(value, default=str)):
            found = scrub(text)
            assert MASK in found
            assert not any(part in found for part in ("2026", "1234", "9876", "12345", "0b5f", "secret", "the-"))
    assert scrub(f"{987654:,} pieces") == f"{MASK} pieces"


class Several(Payload):
    values: Annotated[list[str | bool | int | None], Redacted]


KEY = "-----BEGIN KEY-----\nMIIBOgIBAAJBAK\n-----END KEY-----"
PHRASE = "Traceback:\n  File one\n    the pass\nphrases"
LONG = [f"{n:04}-{'x' * 1000}" for n in range(1000)]


@pytest.mark.parametrize(
    ("values", "text", "found"),
    [
        (["abcd", "abcdefgh"], "abcdefgh abcd", f"{MASK} {MASK}"),
        (["abcd", "bcdefgh"], "<abcdefgh>", f"<{MASK}>"),
        ([KEY], "\n  | ".join(f"bad key {KEY}".splitlines()), f"bad key {MASK}\n  | {MASK}\n  | {MASK}"),
        (LONG, f"a {LONG[7]} b", f"a {MASK} b"),
        (["abc", True, 123, None], "abc True 123 None", "abc True 123 None"),
        (['the pass phrase\'s "w\u00f6rds"'], PHRASE, PHRASE),
    ],
    ids=["the longer one first", "overlapping", "each line", "many long ones", "short ones stay", "other lines stay"],
)
def test_values_are_removed_and_nothing_else(values: list[Any], text: str, found: str) -> None:
    assert scrubber(Several, {"values": values})(text) == found


def test_a_value_that_cannot_be_printed_is_ignored() -> None:
    class Mute:
        def __str__(self) -> str:
            raise RuntimeError("no")

    class Odd(Payload, arbitrary_types_allowed=True):
        a: Annotated[Mute | str | int, Redacted]

    assert scrubber(Odd, Odd(a=Mute()), {"a": "word"}, Odd(a=10**5000))("a word") == f"a {MASK}"


def test_headers_except_traceparent_and_plain_words_are_removed() -> None:
    scrub = scrubber(BaseModel, {}, headers={"key": "hdr-12345678", "traceparent": "00-abcdefgh", "lang": "german"})
    assert scrub("hdr-12345678 00-abcdefgh german") == f"{MASK} 00-abcdefgh german"


def test_strings_inside_a_json_value_are_scrubbed() -> None:
    assert scrubbed(scrub_of("pl4nted"), {"pl4nted": ["a pl4nted b", 7]}) == {MASK: [f"a {MASK} b", 7]}


def test_without_redacted_fields_a_text_is_unchanged() -> None:
    class Bare(Payload):
        token: str

    assert scrubber(Bare, {"token": "pl4nted"}) is str


def test_no_part_remains_of_a_value_that_a_library_shortened() -> None:
    # given: pydantic, which prints the beginning and the end of a long value
    secret = "".join(f"{n:03}x" for n in range(60))
    with pytest.raises(ValidationError) as raised:
        TypeAdapter(int).validate_python(secret)
    assert secret[:20] in str(raised.value)
    found = scrub_of(secret)(str(raised.value))
    assert secret[:6] not in found
    assert secret[-6:] not in found
    assert "input_type=str" in found


# --- Stored errors -------------------------------------------------------------------------------------------------


SECRET = "pl4nted-value"


def fail(error: BaseException) -> Failure:
    try:
        raise error
    except BaseException as raised:
        return Failure.of("some:work", raised, scrub_of(SECRET))


def whole(failure: Failure) -> str:
    return repr(failure)


def test_the_class_the_message_and_the_traceback_of_a_failure_hold_no_value() -> None:
    failure = fail(type(f"No{SECRET}", (ValueError,), {})(f"bad {SECRET}"))
    assert (failure.error_type, failure.error_message) == (f"No{MASK}", f"bad {MASK}")
    assert failure.traceback.endswith(f"No{MASK}: bad {MASK}\n")
    assert "pl4nted" not in whole(failure)


def test_causes_contexts_notes_and_groups_of_a_failure_hold_no_value() -> None:
    try:
        try:
            try:
                raise KeyError(SECRET)
            except KeyError:
                raise LookupError(f"no {SECRET}")  # noqa: B904 - its context is the point
        except LookupError as error:
            raise SkipRetry(f"gave up {SECRET}") from error
    except SkipRetry as error:
        error.add_note(f"note {SECRET}")
        failure = fail(ExceptionGroup(f"all {SECRET}", [error]))
    assert "pl4nted" not in whole(failure)
    for part in ("KeyError", "LookupError", "SkipRetry", "note", "ExceptionGroup", "direct cause", "During handling"):
        assert part in failure.traceback


def test_errors_that_cause_each_other_are_kept_once_each() -> None:
    one, other = ValueError("one"), ValueError("other")
    one.__cause__, other.__cause__ = other, one
    assert fail(one).traceback.count("ValueError: one") == 1


def test_failures_that_differ_only_in_a_redacted_value_have_one_fingerprint() -> None:
    def fingerprint(token: str) -> str:
        return Failure.of("some:work", ValueError(f"bad {token}"), scrub_of(token)).fingerprint

    assert fingerprint("some-word") == fingerprint("another-word")


def failure_of(error: BaseException, secret: str) -> str:
    """Return everything that is stored of an error of a task whose token is ``secret``."""
    failure = Failure.of("sample:one", error, scrub_of(secret))
    return failure.error_message + failure.traceback


@pytest.mark.parametrize("between", ["\0", "\x01", "\x7f", "\x9b"])
def test_a_value_with_control_characters_in_between_does_not_come_back(between: str) -> None:
    secret = "s3cret-t0ken-of-acme"
    error = ValueError(f"bad login: {between.join(secret)}")
    error.add_note(between.join(secret))
    assert secret not in failure_of(error, secret)


def test_the_beginning_of_a_value_is_removed_without_an_ellipsis_too() -> None:
    """CPython shows the first 200 characters of a text that is not a number."""
    secret = "".join(f"{n:03}x" for n in range(90))
    with pytest.raises(ValueError, match="invalid literal") as raised:
        int(secret)
    assert secret[:16] not in failure_of(raised.value, secret)


def test_a_value_that_is_cut_at_the_longest_text_leaves_no_part() -> None:
    secret = "".join(f"{n:03}x" for n in range(60))
    for before in range(MAX_TEXT - 240, MAX_TEXT, 7):
        assert secret[:6] not in text_of(ValueError("-" * before + secret), scrub_of(secret))


ADVERSE = """
import resource, sys
resource.setrlimit(resource.RLIMIT_CPU, (20, 20))
sys.path[:0] = ["shared"]
from tests.unit.tasks.test_redaction_scrub import Login, Many, failure_of, scrubber
secret = "a" * 840_000
failure_of(ValueError("…".join([secret[:300]] * 3_000)), secret)
failure_of(ValueError("aaaaaab..." * 100_000), secret)
many = [f"a{number:05}" for number in range(40_000)]
scrubber(Many, {"many": many})(" ".join(many)[:300_000])
"""


class Many(Payload):
    many: Annotated[list[str], Redacted]


def test_texts_made_of_large_values_are_scrubbed_in_bounded_time() -> None:
    """The limit is generous: a search that grows with the product of two sizes takes minutes."""
    done = subprocess.run([sys.executable, "-c", ADVERSE], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_work_on_a_text_grows_with_the_size_of_the_values() -> None:
    steps = []
    for size in (10_000, 20_000, 40_000):
        scrub = scrub_of("ab" * size)
        scrub("…".join(["ab" * 100] * 4))
        steps.append(scrub.steps)  # type: ignore[attr-defined]
    assert 1.8 < steps[1] / steps[0] < 2.2
    assert 1.8 < steps[2] / steps[1] < 2.2


def test_a_text_that_takes_too_many_steps_is_masked_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    secret, text = "abcdefghij" * 20, "it failed: …" + "abcdefg…" * 50 + "the end"
    assert scrub_of(secret)(text).endswith("the end")
    monkeypatch.setattr("joblane.tasks.scrubbing.MAX_STEPS", 1_000)
    assert scrub_of(secret)(text) == MASK


SECRET_TEXT = 'the pass phrase\'s "w\u00f6rds"'


@pytest.mark.parametrize(
    "written",
    [
        base64.b64encode(SECRET_TEXT.encode()).decode(),
        base64.urlsafe_b64encode(b"ann:" + SECRET_TEXT.encode() + b":x").decode(),
        base64.b64encode(SECRET_TEXT.encode("utf-16-le")).decode(),
        SECRET_TEXT.encode().hex(),
        SECRET_TEXT.encode("utf-16-le").hex().upper(),
        repr(SECRET_TEXT.encode("utf-16-le")),
        json.dumps(SECRET_TEXT.encode("utf-16-le").decode("latin-1")),
        textwrap.fill(SECRET_TEXT, 12),
        "\n    ".join(SECRET_TEXT[at : at + 7] for at in range(0, len(SECRET_TEXT), 7)),
    ],
)
def test_encoded_and_broken_values_leave_two_characters_at_an_end_at_most(written: str) -> None:
    """In base64 the characters at the ends are encoded together with their neighbours."""
    left = scrub_of(SECRET_TEXT)(f"it was\n{written}\nhere").partition("it was\n")[2].rpartition("\nhere")[0]
    assert MASK in left
    assert len(left.replace(MASK, "")) <= 12
    assert not any(SECRET_TEXT[at : at + 3] in left for at in range(len(SECRET_TEXT) - 2))
