"""A failed send: as many requests, messages and retries as boto3 makes, and boto3's errors."""

from __future__ import annotations

import re
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import pytest
from botocore.exceptions import (
    ClientError,
    ConnectionClosedError,
    ConnectTimeoutError,
    EndpointConnectionError,
    HTTPClientError,
    ProxyConnectionError,
    ReadTimeoutError,
    SSLError,
)
from botocore.retries import quota, standard
from urllib3 import HTTPConnectionPool, Timeout
from urllib3 import exceptions as errors

from joblane import settings
from joblane.errors import SendError
from joblane.sqs.client import UNREADABLE, Entry, Sqs
from joblane.sqs.sender import Template
from tests.fake_sqs import SUCCESS, FakeSqs, Fault, refusal
from tests.unit.sqs.conftest import OPERATIONS, arguments_of, engaged

QUEUE = "jobs-low-data-export"
INTERNAL = [refusal(500, "InternalError")]
BUSY = [refusal(503, "ThrottlingException", "Rate exceeded")]
FAULTS = {
    "an internal error": (INTERNAL, 2),
    "internal errors": (INTERNAL * 3, 3),
    "an error without a body": ([Fault(500, b"")], 2),
    "an error that looks like a success": ([Fault(500, b'{"MessageId": "1", "Successful": []}')], 2),
    "errors of a load balancer": ([Fault(502, b"<html>Bad Gateway</html>")] * 3, 3),
    "throttling": (BUSY, 2),
    "throttling for long": (BUSY * 3, 3),
    "throttling with HTTP 400": ([refusal(400, "ThrottlingException")] * 2, 3),
    "a missing queue": ([refusal(400, "QueueDoesNotExist", "The specified queue does not exist.")], 1),
    "a message that SQS refuses": ([refusal(400, "InvalidMessageContents")], 1),
    "a refused signature": ([refusal(403, "InvalidSignatureException", "The signature does not match")], 1),
    "an expired token": ([refusal(403, "ExpiredTokenException", "The security token is expired")], 1),
    "a clock that is wrong": ([refusal(403, "InvalidSignatureException", "Signature expired: 1 is before 2")], 1),
    "a refused access": ([refusal(403, "AccessDenied")], 1),
    "a redirect": ([Fault(307, b"")], 1),
    "a connection closed before the answer": ([Fault(sends=0)], 2),
    "a connection closed before the answer, after the message": ([Fault(sends=0, accepts=True)], 2),
    "connections that are closed": ([Fault(sends=0)] * 3, 3),
    "an answer that ends in its first line": ([Fault(sends=5, accepts=True)], 2),
    "an answer that ends in its headers": ([Fault(sends=50, accepts=True)], 1),
    "an answer that ends in its body": ([Fault(sends=100, accepts=True)], 1),
    "an answer that is not JSON": ([Fault(body=b"<html>", accepts=True)], 1),
    "an answer that is not an object": ([Fault(body=b"[]", accepts=True)], 1),
    "an empty answer": ([Fault(body=b"", accepts=True)], 1),
    "an answer without a message id": ([Fault(body=b"{}", accepts=True)], 1),
    "an answer that closes the connection": ([Fault(accepts=True, then_closes=True)], 1),
    "no fault": ([SUCCESS], 1),
}
BATCH_FAULTS = {
    "half a batch": ([Fault(accepts=True, fails={0: False, 2: False})], 1),
    "half a batch, by the sender's fault": ([Fault(accepts=True, fails={1: True})], 1),
    "a whole batch": ([Fault(accepts=True, fails=dict.fromkeys(range(4), False))], 1),
    "an error, then half a batch": ([*INTERNAL, Fault(accepts=True, fails={0: False})], 2),
}


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Record the bodies of the requests that senders make themselves."""
    bodies: list[bytes] = []
    real = Template.send

    def recorded(template: Template, headers: Mapping[str, str], body: bytes) -> tuple[int, Any, bytes]:
        bodies.append(body)
        return real(template, headers, body)

    monkeypatch.setattr(Template, "send", recorded)
    return bodies


@dataclass
class Sides:
    """The same queues by the sender, and by boto3 alone. ``own``: the requests that the sender made itself."""

    ours: Sqs
    theirs: Sqs
    server: FakeSqs
    own: list[bytes]

    def compare(self, send: Callable[[Sqs], Any], faults: Sequence[Fault] = (), own: int = 1) -> Mapping[str, Any]:
        """Send with the same faults by both. Return what both did. ``own``: how often the sender tries itself."""
        outcomes = []
        for sqs, tries in ((self.theirs, 0), (self.ours, own)):
            self.server.faults, self.server.accepted, self.server.requests = list(faults), Counter(), []
            self.own.clear()
            connections = self.server.connections
            result = outcome_of(send, sqs)
            self.server.wait_for_closed()
            assert len(self.own) == tries
            outcomes.append(
                {
                    "result": result,
                    "requests": [request.messages for request in self.server.requests],
                    "accepted": self.server.accepted,
                    "connections": self.server.connections - connections,
                }
            )
        theirs, ours = outcomes
        assert ours == theirs
        return ours


def outcome_of(send: Callable[[Sqs], Any], sqs: Sqs) -> Any:
    try:
        answer = send(sqs)
    except Exception as error:
        cause, text = error.__cause__, re.sub("0x[0-9a-f]+", "", str(error))
        return type(error), text, getattr(error, "response", None), isinstance(error, SendError) and type(cause)
    return {name: value for name, value in answer.items() if name != "ResponseMetadata"}


def reads_short_answers(real: Callable[..., Any]) -> Callable[..., Any]:
    """Give an option that an older boto3 lacks: with urllib3 2 it sends again after an answer that ends too early."""
    return lambda *arguments, **options: real(*arguments, **{"enforce_content_length": False, **options})


@pytest.fixture
def sides(by_boto3: list[str], own: list[bytes], monkeypatch: pytest.MonkeyPatch) -> Iterator[Sides]:
    monkeypatch.setattr(time, "sleep", lambda _seconds: None)
    monkeypatch.setattr(HTTPConnectionPool, "urlopen", reads_short_answers(HTTPConnectionPool.urlopen))
    with FakeSqs.running() as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        ours, theirs = Sqs(), Sqs()
        for sqs in (ours, theirs):
            engaged(sqs, by_boto3)
            sqs.url(QUEUE)
            monkeypatch.setenv(settings.SENDER, "boto3")
        yield Sides(ours, theirs, server, own)


def sending(operation: str, attribute: str) -> Callable[[Sqs], Any]:
    bodies = ("a", "b", "c", "d")[: 1 if operation == "SendMessage" else 4]
    return lambda sqs: getattr(sqs, attribute).send(operation, arguments_of(operation, *bodies))


each_sender = pytest.mark.parametrize("attribute", ["sender", "brief_sender"])
each_operation = pytest.mark.parametrize("operation", OPERATIONS)


@each_operation
@each_sender
def test_a_fault_has_the_outcome_that_it_has_with_boto3(attribute: str, operation: str, sides: Sides) -> None:
    faults = FAULTS | (BATCH_FAULTS if operation == "SendMessageBatch" else {})
    for name, (script, requests) in faults.items():
        outcome = sides.compare(sending(operation, attribute), script)
        assert len(outcome["requests"]) == (requests if attribute == "sender" else 1), name


@each_operation
@each_sender
def test_a_send_without_an_answer_ends_after_the_tries_of_boto3(attribute: str, operation: str, sides: Sides) -> None:
    for sqs in (sides.ours, sides.theirs):
        pools = getattr(sqs, attribute).client._endpoint.http_session._manager.pools
        for key in pools.keys():  # noqa: SIM118 - urllib3's container cannot be iterated
            pools[key].timeout = Timeout(connect=5, read=0.1)
    outcome = sides.compare(sending(operation, attribute), [Fault(hangs=True)] * 3)
    assert outcome["result"][0] is ReadTimeoutError
    assert len(outcome["requests"]) == (3 if attribute == "sender" else 1)


@each_operation
@each_sender
def test_a_refused_connection_is_the_error_of_boto3(attribute: str, operation: str, sides: Sides) -> None:
    sides.server.stop()
    assert sides.compare(sending(operation, attribute))["result"][0] is EndpointConnectionError


@each_operation
@each_sender
def test_a_kept_connection_that_the_server_closed_is_replaced(
    attribute: str, operation: str, sides: Sides, by_boto3: list[str]
) -> None:
    sides.server.close_connections()
    outcome = sides.compare(sending(operation, attribute))
    assert (len(outcome["requests"]), outcome["connections"]) == (1, 1)
    assert by_boto3 == [operation]  # of boto3's side only


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (errors.SSLError("no"), SSLError),
        (errors.NewConnectionError(cast("Any", "pool"), "no"), EndpointConnectionError),
        (socket.gaierror("no"), EndpointConnectionError),
        (errors.ProxyError("no", OSError("refused")), ProxyConnectionError),
        (errors.ConnectTimeoutError("no"), ConnectTimeoutError),
        (errors.ReadTimeoutError(cast("Any", "pool"), "url", "no"), ReadTimeoutError),
        (errors.ProtocolError("no"), ConnectionClosedError),
        (errors.ClosedPoolError(cast("Any", "pool"), "no"), HTTPClientError),
        (OSError("no"), HTTPClientError),
    ],
    ids=lambda one: type(one).__name__ if isinstance(one, Exception) else "",
)
def test_an_error_of_urllib3_is_the_error_of_boto3(
    error: Exception, expected: type[Exception], sides: Sides, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(HTTPConnectionPool, "urlopen", fails)
    assert sides.compare(sending("SendMessage", "brief_sender"))["result"][0] is expected


def test_the_quota_of_retries_is_used_and_refilled_as_with_boto3(sides: Sides) -> None:
    def failures(count: int) -> list[int]:
        outcomes = [sides.compare(sending("SendMessage", "sender"), INTERNAL * 3) for _ in range(count)]
        return [len(outcome["requests"]) for outcome in outcomes]

    # given an outage that uses up the quota: of 500 by 35 retries of 14, or by 100 of 5 with an older botocore
    cost: int = standard.RetryQuotaChecker._RETRY_COST  # type: ignore[attr-defined]
    tries, rest = divmod(quota.RetryQuota.INITIAL_CAPACITY, cost)
    assert failures(tries // 2 + 4) == [3] * (tries // 2) + ([2] if tries % 2 else [1]) + [1] * 3
    # when as many sends succeed as two retries cost, less the remainder
    for _ in range(2 * cost - rest):
        sides.compare(sending("SendMessage", "sender"))
    # then
    assert failures(2) == [3, 1]


# --- Queues by name ------------------------------------------------------------------------------------------------

ENTRIES = [Entry(QUEUE, body) for body in "abcdefghij"]


@pytest.mark.parametrize("brief", [False, True])
def test_failures_of_many_messages_are_those_of_boto3(brief: bool, sides: Sides) -> None:
    def send(count: int) -> Callable[[Sqs], Any]:
        return lambda sqs: sqs.send_many(ENTRIES[:count], brief=brief)

    half = Fault(accepts=True, fails={0: False, 3: True})
    again = 0 if brief else 1
    assert set(sides.compare(send(10), [half], own=1 + again)["result"]) == ({0, 3} if brief else {3})
    assert set(sides.compare(send(10), [half, half], own=1 + 2 * again)["result"]) == ({0, 3} if brief else {3})
    assert set(sides.compare(send(10), INTERNAL * 3)["result"]) == set(range(10))
    assert set(sides.compare(send(1), INTERNAL * 3)["result"]) == {0}
    closed = sides.compare(send(2), [Fault(sends=0)] * 6, own=2)
    assert set(closed["result"]) == {0, 1}
    assert sides.ours.is_paused


@pytest.mark.parametrize("brief", [False, True])
def test_a_message_that_an_answer_does_not_name_has_failed_and_is_not_sent_again(brief: bool, sides: Sides) -> None:
    for answer in (Fault(body=b"{}", accepts=True), Fault(sends=100, accepts=True)):
        for count in (1, 10):
            outcome = sides.compare(partial(Sqs.send_many, entries=ENTRIES[:count], brief=brief), [answer])
            assert set(outcome["result"]) == set(range(count))
            assert all(UNREADABLE in why for why in outcome["result"].values())
            assert len(outcome["requests"]) == 1
    assert not sides.ours.is_paused


def test_the_error_of_a_single_message_is_that_of_boto3(sides: Sides) -> None:
    outcome = sides.compare(lambda sqs: {"id": sqs.send(ENTRIES[0])}, [refusal(403, "AccessDenied")])
    assert outcome["result"][0] is SendError
    assert outcome["result"][3] is ClientError
