"""A failed try is handed over to boto3 for its own message only. A botocore that is made otherwise sends by itself."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from types import FrameType, SimpleNamespace
from typing import Any

import pytest
from botocore import auth, handlers, httpsession, serialize
from botocore.retries import standard
from urllib3 import HTTPConnectionPool

from joblane.errors import TaskTimeout
from joblane.sqs.client import Sqs
from joblane.sqs.sender import Sender
from tests.fake_sqs import FakeSqs, Fault, refusal
from tests.unit.sqs.conftest import OPERATIONS, arguments_of, engaged

HALF = Fault(accepts=True, fails={0: False})
"""The answer that loses messages if it is given to another batch."""
LINES = 60
"""More than the lines of a send."""


@pytest.fixture
def sender(server: FakeSqs, by_boto3: list[str]) -> Sender:
    sqs = Sqs()
    engaged(sqs, by_boto3)
    assert isinstance(sqs.sender, Sender)
    return sqs.sender


def interrupting(line: int, passed: list[int]) -> Callable[..., Any]:
    """Return a tracer that raises an interrupt before a line of a send, counted from its first."""

    def trace(frame: FrameType, event: str, _: object) -> Any:
        if frame.f_code not in (Sender.send.__code__, Sender._before_send.__code__):
            return None
        if event == "line":
            passed.append(frame.f_lineno)
            if len(passed) == line:
                raise TaskTimeout
        return trace

    return trace


def test_an_interrupt_anywhere_leaves_no_result_for_the_next_message(sender: Sender, server: FakeSqs) -> None:
    interrupts = 0
    for line in range(1, LINES):
        server.faults = [HALF]
        before, passed = sys.gettrace(), list[int]()
        sys.settrace(interrupting(line, passed))
        try:
            sender.send("SendMessageBatch", arguments_of("SendMessageBatch", f"a{line}", f"b{line}"))
        except TaskTimeout:
            interrupts += 1
        finally:
            sys.settrace(before)
        # when boto3 sends the next batch
        server.faults = []
        answer = sender._by_boto3("SendMessageBatch", arguments_of("SendMessageBatch", f"c{line}", f"d{line}"))
        # then
        assert (len(answer["Successful"]), "Failed" in answer) == (2, False), passed
        assert server.accepted[f"c{line}"] == server.accepted[f"d{line}"] == 1
    assert 10 < interrupts < LINES - 1  # the last sends end before their interrupt


def test_a_message_that_is_sent_within_a_hand_over_has_its_own_answer(
    sender: Sender, server: FakeSqs, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given a signal handler that sends a batch by boto3 before boto3 has taken the result of the first one
    inner, outer = (arguments_of("SendMessageBatch", *bodies) for bodies in ("cd", "ab"))
    real, answers = Sender._by_boto3, []

    def interrupted(sender: Sender, *call: Any) -> Any:
        answers.append(real(sender, "SendMessageBatch", inner))
        return real(sender, *call)

    monkeypatch.setattr(Sender, "_by_boto3", interrupted)
    server.faults = [HALF]
    # when
    answer = sender.send("SendMessageBatch", outer)
    # then
    assert [one["Id"] for one in answer["Failed"]] == ["0"]
    assert [one["Id"] for one in answers[0]["Successful"]] == ["0", "1"]
    assert [server.accepted[body] for body in "abcd"] == [0, 1, 1, 1]


def test_a_tracer_of_urllib3_adds_its_header_to_each_send(
    sender: Sender, server: FakeSqs, by_boto3: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = HTTPConnectionPool.urlopen

    def traced(pool: HTTPConnectionPool, *args: Any, **options: Any) -> Any:  # as OpenTelemetry's does
        options["headers"] = {**options.get("headers", {}), "traceparent": "00-1-2-01"}
        return real(pool, *args, **options)

    monkeypatch.setattr(HTTPConnectionPool, "urlopen", traced)
    for operation in OPERATIONS:
        sender.send(operation, arguments_of(operation, "traced"))
    assert by_boto3 == []
    assert all(b"traceparent: 00-1-2-01\r\n" in request.head for request in server.requests[-2:])


@pytest.mark.parametrize("tokens", [(None, "new"), ("old", None), ("old", "new")])
def test_keys_with_a_token_replace_keys_without_one(
    tokens: tuple[str | None, str | None], server: FakeSqs, by_boto3: list[str]
) -> None:
    sqs, heads = Sqs(), []
    credentials = sqs.client._request_signer._credentials  # type: ignore[attr-defined]
    for token in tokens:
        credentials.token = token
        for _ in range(3):
            sqs.sender.send("SendMessage", arguments_of("SendMessage"))
            heads.append(server.requests[-1].head.decode())
        assert all((f"X-Amz-Security-Token: {token}\r\n" in head) == bool(token) for head in heads[-3:])
        assert all((";x-amz-security-token" in head) == bool(token) for head in heads[-3:])
    assert len(by_boto3) == (1 if all(tokens) else 2)


def no_header(params: Any, *, required: object) -> None: ...


def release(checker: Any, context: Any, http_response: Any, *, model: object, **_: object) -> None: ...


release.__module__ = standard.__name__  # a handler of botocore's events


def setup(session: Any, connection: Any, url: str, verify: Any, required: object = None) -> None:
    if required is None and sys._getframe(1).f_globals["__name__"] == "joblane.sqs.sender":
        raise TypeError("required")


COMPACT = SimpleNamespace(dumps=lambda body: json.dumps(body, separators=(",", ":")), loads=json.loads)
OTHERWISE = [
    (handlers, "add_recursion_detection_header", no_header),
    (standard.RetryQuotaChecker, "release_retry_quota", release),
    (httpsession.URLLib3Session, "_setup_ssl_cert", setup),
    (serialize, "json", COMPACT),
]


@pytest.mark.parametrize(("owner", "name", "other"), OTHERWISE, ids=lambda one: one if isinstance(one, str) else "")
def test_a_botocore_that_is_made_otherwise_makes_all_requests(
    owner: Any, name: str, other: Any, server: FakeSqs, by_boto3: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owner, name, other)
    sqs = Sqs()
    for number in range(3):
        sqs.sender.send("SendMessage", arguments_of("SendMessage", f"{number}"))
    assert len(by_boto3) == 3
    assert server.accepted == {"0": 1, "1": 1, "2": 1}


def test_keys_that_cannot_be_renewed_after_a_first_request_was_signed_do_not_fail_it(
    server: FakeSqs, by_boto3: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sqs = Sqs()
    real = auth.SigV4Auth.add_auth
    credentials = type(sqs.client._request_signer._credentials)  # type: ignore[attr-defined]

    def fails_later(signer: Any, request: Any) -> None:
        real(signer, request)
        monkeypatch.setattr(credentials, "get_frozen_credentials", lambda _: 1 / 0)

    monkeypatch.setattr(auth.SigV4Auth, "add_auth", fails_later)
    assert sqs.sender.send("SendMessage", arguments_of("SendMessage"))["MessageId"]
    assert by_boto3 == ["SendMessage"]


def test_an_error_of_one_message_is_not_that_of_the_next(sender: Sender, server: FakeSqs) -> None:
    server.faults = [refusal(403, "AccessDenied")]
    with pytest.raises(sender.client.exceptions.ClientError):
        sender.send("SendMessage", arguments_of("SendMessage", "refused"))
    assert sender._by_boto3("SendMessage", arguments_of("SendMessage", "next"))["MessageId"] == "id of next"
