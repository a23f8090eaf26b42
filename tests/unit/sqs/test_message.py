"""Messages: written compactly, read strictly, and refused without any payload value in the error."""

from __future__ import annotations

import json
import re
import string
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joblane.errors import MessageError
from joblane.json_values import MAX_DEPTH, canonical, check_tree, digest, needs_walk
from joblane.quotas import MAX_HEADERS
from joblane.sqs.message import MAX_ID, TENANT_PATTERN, TICK_ID_PATTERN, Message, check_headers, decode

SECRET = "hunter2"

texts = st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=20)
numbers = st.integers(-(10**40), 10**40) | st.floats(allow_nan=False, allow_infinity=False)
trees = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
payloads = st.dictionaries(texts, trees, max_size=5)
words = st.from_regex(r"[a-z][a-z0-9]{0,8}(_[a-z0-9]{1,5})?", fullmatch=True)
types = st.builds("{}:{}".format, words, words)
ids = st.text(string.digits + string.ascii_letters + string.punctuation, min_size=1, max_size=MAX_ID)
messages = st.builds(
    Message,
    type=types,
    id=st.none() | ids,
    payload=payloads,
    rec=st.booleans(),
    schema=st.none() | st.text("0123456789abcdef", min_size=12, max_size=12),
    enqueued_at=st.none() | st.floats(1, 1e10),
    headers=st.dictionaries(texts, texts, max_size=3),
    tick=st.none() | st.fixed_dictionaries({"schedule": st.just("0"), "at": st.text("0123456789T:-Z", max_size=30)}),
)


def refusal(body: str | dict[str, Any]) -> str:
    """Return the reason for which a body is refused."""
    with pytest.raises(MessageError) as caught:
        decode(body if isinstance(body, str) else json.dumps(body))
    assert SECRET not in str(caught.value)
    assert len(str(caught.value)) < 500
    return str(caught.value)


# --- Round trips ---------------------------------------------------------------------------------------------------


@given(messages)
def test_a_written_message_reads_as_the_same(message: Message) -> None:
    assert decode(message.encode()) == message


@given(messages)
def test_a_body_holds_only_characters_that_sqs_accepts(message: Message) -> None:
    assert not re.search("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", message.encode())


@given(payloads)
def test_a_body_with_forbidden_characters_is_checked_value_by_value(payload: dict[str, Any]) -> None:
    body = Message("a:b", payload=payload).encode()
    for odd in ("\0", "\ud800"):
        bad = json.dumps(json.loads(body) | {"payload": {"odd": odd}})
        assert needs_walk(bad)
        assert "PostgreSQL" in refusal(bad) or "surrogate" in refusal(bad)


def test_noncharacters_are_written_as_escapes_and_read_back() -> None:
    message = Message("a:b", payload={"text\uffff": "\ufffe\uffff é \U0001fffe"})
    assert "\\ufffe\\uffff é \U0001fffe" in message.encode()
    assert decode(message.encode()) == message


def test_a_recorded_message_without_a_payload_takes_it_from_the_row() -> None:
    message = Message("a:b", "1", rec=True)
    assert "payload" not in message.encode()
    assert decode(message.encode()).payload is None


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ('{"type":"a:b"}', Message("a:b", payload={})),
        ('{"type":"a:b","payload":null}', Message("a:b", payload={})),
        ('{"type":"a:b","rec":null}', Message("a:b", payload={})),
        ('{"type":"a:b","later":[1]}', Message("a:b", payload={})),
        ('{"type":"x:y","type":"a:b","payload":{"n":1,"n":2}}', Message("a:b", payload={"n": 2})),
        ('{"type":"a:b","payload":{"a":"\\ud83d\\ude00"}}', Message("a:b", payload={"a": "\U0001f600"})),
    ],
    ids=[
        *("no payload", "a null payload", "a null rec means no row", "an unknown field is ignored"),
        *("the last value of a repeated key counts", "an escaped surrogate pair"),
    ],
)
def test_an_external_message_is_read(body: str, message: Message) -> None:
    assert decode(body) == message


# --- Refusals ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"v": 2}, "v: "),
        ({"v": True}, "v: "),
        ({"v": "1"}, "v: "),
        ({"v": None}, "v: "),
        ({"v": [SECRET]}, "v: "),
        ({"type": None}, "type: "),
        ({"type": 3}, "type: "),
        ({"type": [SECRET]}, "type: "),
        ({"type": SECRET}, "type: "),
        ({"type": "Data:export"}, "type: "),
        ({"type": "data:export:more"}, "type: "),
        ({"type": "data:export\n"}, "type: "),
        ({"type": "data__x:export"}, "type: "),
        ({"type": "_data:export"}, "type: "),
        ({"type": "dáta:export"}, "type: "),
        ({"type": "data:" + "e" * 100}, "type: "),
        ({"id": ""}, "id: "),
        ({"id": 7}, "id: must be 1 to 200"),
        ({"id": SECRET + " x"}, "id: "),
        ({"id": SECRET + "é"}, "id: "),
        ({"id": SECRET + "\n"}, "id: "),
        ({"id": "x" * 201}, "id: "),
        ({"payload": SECRET}, "payload: must be an object"),
        ({"payload": [SECRET]}, "payload: must be an object"),
        ({"payload": 1.5}, "payload: must be an object"),
        ({"payload": False}, "payload: must be an object"),
        ({"rec": 1}, "rec: must be true or false"),
        ({"rec": "true"}, "rec: must be true or false"),
        ({"schema": 1}, "schema: must be a string of at most 100 characters"),
        ({"schema": SECRET * 20}, "schema: must be a string of at most 100 characters"),
        ({"enqueued_at": "now"}, "enqueued_at: must be seconds since 1970"),
        ({"enqueued_at": True}, "enqueued_at: must be seconds since 1970"),
        ({"enqueued_at": -1}, "enqueued_at: must be seconds since 1970"),
        ({"enqueued_at": 10**400}, "enqueued_at: must be seconds since 1970"),
        ({"headers": [SECRET]}, "headers: must be at most 32 strings"),
        ({"headers": {"a": 1}}, "headers: must be at most 32 strings"),
        ({"headers": {"a": {"b": SECRET}}}, "headers: must be at most 32 strings"),
        ({"headers": {"a": SECRET * 200}}, "headers: must be at most 32 strings"),
        ({"headers": {SECRET * 20: ""}}, "headers: must be at most 32 strings"),
        ({"headers": {str(n): "" for n in range(MAX_HEADERS + 1)}}, "headers: must be at most 32 strings"),
        ({"tick": "x"}, "tick: must be an object of two strings"),
        ({"tick": {}}, "tick: "),
        ({"tick": {"schedule": "0"}}, "tick: "),
        ({"tick": {"schedule": "0", "at": 3}}, "tick: "),
        ({"tick": {"schedule": SECRET + ":", "at": ""}}, "tick: "),
        ({"tick": {"schedule": "", "at": ""}}, "tick: "),
    ],
)
def test_a_refusal_names_the_field_and_not_the_value(change: dict[str, Any], field: str) -> None:
    assert refusal({"type": "data:export", "payload": {"password": SECRET}} | change).startswith(field)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("", "body: not JSON (EOF while parsing a value at line 1 column 0)"),
        (" ", "body: not JSON (EOF while parsing a value at line 1 column 1)"),
        (SECRET, "body: not JSON (expected value at line 1 column 1)"),
        ("\ufeff{}", "body: not JSON"),
        ('{"type":"a:b"', "body: not JSON (EOF while parsing an object at line 1 column 13)"),
        ('{"type":"a:b"}{}', "body: not JSON (trailing characters at line 1 column 15)"),
        (f"{{'type':'{SECRET}'}}", "body: not JSON"),
        (f'{{"type":"a:b","payload":{{"a":"{SECRET}\n"}}}}', "body: not JSON (control character"),
        (f'"{SECRET}"', "body: must be a JSON object"),
        (f'["{SECRET}"]', "body: must be a JSON object"),
        ("null", "body: must be a JSON object"),
        ("7", "body: must be a JSON object"),
        ('{"type":"a:b","payload":{"a":NaN}}', "body: not JSON (expected value"),
        ('{"type":"a:b","payload":{"a":-Infinity}}', "body: not JSON (invalid number"),
        ('{"type":"a:b","payload":{"a":1e999}}', "body: contains a number outside the range of a double"),
        ('{"type":"a:b","payload":{"a":' + "9" * 5000 + "}}", "body: not JSON (number out of range"),
        ('{"type":"a:b","payload":{"a":"\\u0000"}}', "body: contains a NUL character"),
        ('{"type":"a:b","payload":{"\\u0000":1}}', "body: contains a NUL character"),
        ('{"type":"a:b","payload":{"a":["\\ud800"]}}', "body: contains a lone surrogate"),
        ('{"type":"a:b","headers":{"\\udfff":""}}', "body: contains a lone surrogate"),
        ('{"type":"a:b","payload":{"a":"\ud800"}}', "body: contains a lone surrogate"),
        ('{"type":"a:b","payload":' + '{"a":' * 64 + "1" + "}" * 65, "body: nested deeper than 64 levels"),
        ('{"type":"a:b","payload":{"a":' + "[" * 900 + "]" * 900 + "}}", "body: nested deeper than 64 levels"),
        ("[" * 500_000, "body: nested deeper than 64 levels"),
        ('{"a":' * 200_000, "body: nested deeper than 64 levels"),
    ],
)
def test_an_unreadable_body_is_refused_with_the_reason(body: str, why: str) -> None:
    assert refusal(body).startswith(why)


def test_the_deepest_accepted_body_has_64_levels() -> None:
    inside = MAX_DEPTH - 1  # the body itself is a level
    assert decode('{"type":"a:b","payload":' + '{"a":' * inside + "1" + "}" * (inside + 1)).type == "a:b"


@given(st.text() | st.binary().map(lambda raw: raw.decode("latin-1")) | trees.map(json.dumps))
def test_any_text_is_read_or_refused(body: str) -> None:
    with suppress(MessageError):
        decode(body)


@given(st.dictionaries(st.sampled_from([*Message.__slots__, "v"]), trees).map(json.dumps))
def test_any_values_of_the_known_fields_are_read_or_refused(body: str) -> None:
    try:
        message = decode(body)
    except MessageError:
        return
    assert decode(message.encode()) == message


# --- Headers, trees, digests ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("odd", ["a\0", "\ud800"])
def test_headers_are_checked_in_names_and_values(odd: str) -> None:
    for headers in ({"name": odd}, {odd: "value"}):
        with pytest.raises(MessageError, match=r"^headers: contains a"):
            check_headers(headers)


def test_a_tree_is_checked_in_keys_and_values() -> None:
    for tree in ({"a": [{"b": "\0"}]}, {"a": {"\0": 1}}):
        with pytest.raises(MessageError, match=r"^payload: contains a NUL"):
            check_tree(tree)


@given(payloads, st.randoms(use_true_random=False))
def test_digests_do_not_depend_on_the_order_of_keys(payload: dict[str, Any], random: Any) -> None:
    def shuffled(value: Any) -> Any:
        if isinstance(value, dict):
            items = [(key, shuffled(item)) for key, item in value.items()]
            random.shuffle(items)
            return dict(items)
        return [shuffled(item) for item in value] if isinstance(value, list) else value

    assert digest(shuffled(payload)) == digest(payload)
    assert len(digest(payload)) == 32


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": 1}, {"a": "1"}),
        ({"a": 1}, {"a": True}),
        ({"a": 1}, {"a": 1.0}),
        ({"a": None}, {}),
        ({"a": [1, 2]}, {"a": [2, 1]}),
        ({"a": {"b": 1}}, {"a": {"b": 1, "c": None}}),
    ],
)
def test_different_values_have_different_digests(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert digest(one) != digest(other)


@pytest.mark.parametrize("odd", [float("nan"), float("inf")])
def test_nan_and_infinity_have_no_canonical_form(odd: float) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        canonical({"a": odd})


# --- Patterns ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tenant", ["a", "A-z_0", "x" * 128, "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"])
def test_a_tenant_may_hold_any_character_of_a_message_group_id(tenant: str) -> None:
    assert TENANT_PATTERN.fullmatch(tenant)


@pytest.mark.parametrize("tenant", ["", " ", "a b", "é", "a\n", "x" * 129, "a\0"])
def test_a_tenant_holds_no_other_character(tenant: str) -> None:
    assert not TENANT_PATTERN.fullmatch(tenant)


def test_tick_ids_are_recognised() -> None:
    assert TICK_ID_PATTERN.fullmatch("data:export:nightly:2026-01-31T02:00Z")
    assert TICK_ID_PATTERN.fullmatch("system_user:expiry:0:2026-01-31T02:00Z")
    assert not TICK_ID_PATTERN.fullmatch("data:export:nightly:2026-01-31")
    assert not TICK_ID_PATTERN.fullmatch("jobs:sweep:woken:018f3c6e-0000-7000-8000-000000000000")
