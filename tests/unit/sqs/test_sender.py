"""When the sender leaves a request to boto3, and what it keeps for threads and processes."""

from __future__ import annotations

import functools
import gc
import json
import os
import signal
import socket
import threading
import unittest.mock
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import suppress
from typing import Any, cast

import boto3
import pytest
from botocore import client as botocore_client
from botocore import endpoint, httpsession
from botocore.stub import Stubber
from moto.core.models import botocore_stubber

from joblane import MessageClient, settings
from joblane.sqs.client import CONNECTIONS, Entry, Sqs, client_lock
from joblane.sqs.sender import EVENTS
from tests.fake_sqs import FakeSqs, refusal
from tests.patience import PATIENCE_SECONDS
from tests.samples import Sample, sample_one
from tests.unit.conftest import Aws
from tests.unit.sqs.conftest import OPERATIONS, arguments_of, engaged, send_three

QUEUE = "jobs-default-sample-one"
CALLS = [
    (botocore_client.BaseClient, "_make_api_call"),
    (endpoint.Endpoint, "make_request"),
    (httpsession.URLLib3Session, "send"),
]


@pytest.fixture
def sqs(server: FakeSqs, by_boto3: list[str]) -> Sqs:
    """Queues whose senders make the requests themselves."""
    sqs = Sqs()
    engaged(sqs, by_boto3)
    sqs.sender.send("SendMessage", arguments_of("SendMessage"))
    assert by_boto3 == []
    return sqs


# --- Requests that boto3 makes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("brief", [False, True])
def test_no_socket_opens_under_moto(brief: bool, aws: Aws, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("a socket opens")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    aws.make(QUEUE)
    for count in (1, 2, 25) * 3:
        assert aws.sqs.send_many([Entry(QUEUE, str(number)) for number in range(count)], brief=brief) == {}
    assert len(aws.received(QUEUE)) == 3 * 28


def wrapped(real: Callable[..., Any], seen: list[Any]) -> Any:
    @functools.wraps(real)
    def wrapper(*args: Any, **options: Any) -> Any:
        seen.append(args)
        return real(*args, **options)

    return wrapper


def mocked(real: Callable[..., Any], seen: list[Any]) -> Any:
    def call(*args: Any, **options: Any) -> Any:
        seen.append(args)
        return real(*args, **options)

    return unittest.mock.create_autospec(real, side_effect=call)


class Proxy:
    """An object that is taken for the function it wraps, and equals it, as those of the package wrapt."""

    def __init__(self, real: Callable[..., Any], seen: list[Any]) -> None:
        self._real, self._seen = real, seen

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        return type(self._real)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def __eq__(self, other: object) -> bool:
        return bool(self._real == other)

    def __hash__(self) -> int:
        return hash(self._real)

    def __get__(self, instance: object, owner: type) -> Any:
        return self if instance is None else functools.partial(self, instance)

    def __call__(self, *args: Any, **options: Any) -> Any:
        self._seen.append(args)
        return self._real(*args, **options)


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call[1])
@pytest.mark.parametrize("wrap", [wrapped, mocked, Proxy])
def test_a_tracer_that_wraps_the_calls_of_boto3_sees_each_send(
    wrap: Callable[..., Any], call: tuple[type, str], sqs: Sqs, server: FakeSqs, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(*call, wrap(getattr(*call), seen))
    for operation in OPERATIONS * 2:
        sqs.sender.send(operation, arguments_of(operation, "traced"))
    assert len(seen) == 4
    assert server.accepted["traced"] == 4


@pytest.mark.parametrize("event", EVENTS)
def test_a_handler_of_an_event_sees_each_send(event: str, server: FakeSqs, by_boto3: list[str]) -> None:
    for name in (f"{event}.sqs.SendMessage", f"{event}.sqs", f"{event}.*.SendMessage", event):
        by_boto3.clear()
        sqs, handler = Sqs(), unittest.mock.Mock(return_value=None)
        sqs.client.meta.events.register(name, handler)
        send_three(sqs)
        assert handler.call_count == len(by_boto3) == 3


def test_a_handler_that_comes_later_sees_each_send_from_then_on(sqs: Sqs, by_boto3: list[str]) -> None:
    for event in ("before-send.sqs.SendMessage", "after-call"):
        handler = unittest.mock.Mock(return_value=None)
        sqs.client.meta.events.register(event, handler)
        send_three(sqs)
        assert handler.call_count == 3
        sqs.client.meta.events.unregister(event, handler)


def test_a_handler_of_another_operation_leaves_the_sends_to_the_sender(sqs: Sqs, by_boto3: list[str]) -> None:
    sqs.client.meta.events.register("before-send.sqs.ReceiveMessage", lambda **_: None)
    send_three(sqs)
    assert by_boto3 == ["SendMessage"]


def test_a_client_that_moto_patches_later_sends_nothing_to_the_network(sqs: Sqs, server: FakeSqs) -> None:
    sqs.client.meta.events.register("before-send", cast("Any", botocore_stubber))  # as moto's patch_client does
    requests = len(server.requests)
    with pytest.MonkeyPatch.context() as patch:
        answer = unittest.mock.Mock(return_value=(200, {}, b'{"MessageId": "by moto"}'))
        patch.setattr(botocore_stubber, "process_request", answer)
        patch.setattr(botocore_stubber, "enabled", True)
        assert sqs.sender.send("SendMessage", arguments_of("SendMessage"))["MessageId"] == "by moto"
    assert len(server.requests) == requests


def test_a_stub_of_botocore_answers_the_sends(sqs: Sqs, server: FakeSqs) -> None:
    requests = len(server.requests)
    with Stubber(sqs.client) as stub:
        for _ in range(2):
            stub.add_response("send_message", {"MessageId": "by the stub"})
            assert sqs.sender.send("SendMessage", arguments_of("SendMessage"))["MessageId"] == "by the stub"
    assert len(server.requests) == requests


def test_a_binary_attribute_is_sent_by_boto3(sqs: Sqs, server: FakeSqs, by_boto3: list[str]) -> None:
    binary = {"raw": {"DataType": "Binary", "BinaryValue": b"\0\1"}}
    sqs.sender.send("SendMessage", {**arguments_of("SendMessage"), "MessageAttributes": binary})
    assert by_boto3 == ["SendMessage"]
    assert server.requests[-1].body["MessageAttributes"]["raw"]["BinaryValue"] == "AAE="


@pytest.mark.parametrize(("value", "own"), [("boto3", 0), ("", 2), ("fast", 2)])
def test_one_setting_leaves_all_sends_to_boto3(
    value: str, own: int, server: FakeSqs, by_boto3: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(settings.SENDER, value)
    sqs = Sqs()
    send_three(sqs)
    assert len(by_boto3) == 3 - own


def test_a_request_that_is_signed_otherwise_is_left_to_boto3(
    server: FakeSqs, by_boto3: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # given a signer that this module does not know
    monkeypatch.setattr("botocore.auth.SigV4Auth.signature", lambda *_: "0" * 64)
    sqs = Sqs()
    send_three(sqs)
    assert len(by_boto3) == 3


def test_the_request_of_a_second_try_is_not_copied(
    server: FakeSqs, by_boto3: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # given a sender that comes between two tries of boto3
    sqs = Sqs()
    monkeypatch.setattr("time.sleep", lambda _seconds: sqs.sender)
    server.faults = [refusal(500, "InternalError")]
    sqs.client.send_message(**arguments_of("SendMessage"))
    assert b"attempt=2" in server.requests[-1].head
    # when it sends
    send_three(sqs)
    # then each request is a first try
    assert by_boto3 == ["SendMessage"]
    assert all(b"attempt=1" in request.head for request in server.requests[-3:])


def test_the_keys_are_those_of_the_client_whatever_the_default_session_is(
    server: FakeSqs, by_boto3: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sqs = Sqs()
    assert sqs.client
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    send_three(sqs)
    assert by_boto3 == ["SendMessage"]
    assert all(b"Credential=AKIDEXAMPLE/" in request.head for request in server.requests)


# --- Threads and processes -----------------------------------------------------------------------------------------


def test_the_result_of_a_failed_try_is_for_its_own_thread(
    sqs: Sqs, server: FakeSqs, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given another thread that sends the same message by boto3, after the sender's try and before boto3's
    message = arguments_of("SendMessage", "same")
    answers: list[Any] = []
    real = sqs.sender._by_boto3

    def after_another(*arguments: Any) -> Any:
        thread = threading.Thread(target=lambda: answers.append(sqs.client.send_message(**message)))
        thread.start()
        thread.join()
        return real(*arguments)

    monkeypatch.setattr(sqs.sender, "_by_boto3", after_another)
    monkeypatch.setattr("time.sleep", lambda _seconds: None)
    # when
    server.faults = [refusal(500, "InternalError")]
    answers.append(sqs.sender.send("SendMessage", message))
    # then
    assert [answer["ResponseMetadata"]["RetryAttempts"] for answer in answers] == [0, 1]
    assert server.accepted["same"] == 2


THREADS, EACH, OF_CHILD = 16, 100, 20


def enqueue_in_threads(jobs: MessageClient, name: str, each: int, middle: threading.Barrier | None = None) -> list[Any]:
    """Start threads that enqueue tasks with ids that begin with ``name``, and wait twice in the middle."""

    def enqueue(thread: int) -> None:
        for number in range(each):
            if middle and number == each // 2:
                middle.wait(PATIENCE_SECONDS)
                middle.wait(PATIENCE_SECONDS)
            jobs.enqueue(sample_one, Sample(), task_id=f"{name}-{thread}-{number}")

    threads = [threading.Thread(target=enqueue, args=(thread,)) for thread in range(THREADS)]
    for thread in threads:
        thread.start()
    return threads


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("brief", [False, True])
def test_threads_and_a_forked_process_share_no_socket_and_leak_none(
    brief: bool, server: FakeSqs, by_boto3: list[str]
) -> None:
    # given threads that enqueue tasks
    jobs, middle = MessageClient(), threading.Barrier(THREADS + 1)
    engaged(jobs._sqs, by_boto3)
    if brief:
        jobs._sqs.send = functools.partial(jobs._sqs._send, brief=True)  # type: ignore[method-assign]
    threads = enqueue_in_threads(jobs, "parent", EACH, middle)
    # when the process is forked in the middle, and the child enqueues as well
    middle.wait(PATIENCE_SECONDS)  # every connection is in the pool
    child = os.fork()
    if not child:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(60)
        for thread in enqueue_in_threads(jobs, "child", OF_CHILD):
            thread.join()
        os._exit(len(by_boto3) > THREADS * OF_CHILD // 2)
    middle.wait(PATIENCE_SECONDS)
    for thread in threads:
        thread.join()
    assert os.waitpid(child, 0)[1] == 0
    # then every task was sent once, each process had its own sockets, and the pool keeps a limited number
    assert by_boto3 == []
    peers: dict[str, set[int]] = defaultdict(set)
    ids = Counter[str]()
    for request in server.requests:
        for message in request.messages:
            id_ = "warm" if message == "warm" else str(json.loads(message)["id"])
            ids[id_] += 1
            peers[id_.partition("-")[0]].add(request.peer)
    assert {ids.pop("warm"), *ids.values()} == {4, 1}
    assert len(ids) == THREADS * (EACH + OF_CHILD)
    assert not peers["parent"] & peers["child"]
    assert server.wait_for_open(2 * (CONNECTIONS + 2))
    # and the client leaves none
    del jobs
    gc.collect()
    assert server.wait_for_open(0)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_while_a_client_is_made_does_not_block_the_child(server: FakeSqs) -> None:
    with client_lock:
        child = os.fork()
        if not child:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(5)
            failed = True
            with suppress(BaseException):
                failed = bool(Sqs().send_many([Entry(QUEUE, "of the child")]))
            os._exit(failed)
        assert os.waitpid(child, 0)[1] == 0
    assert server.accepted["of the child"] == 1


def test_sends_keep_no_objects(sqs: Sqs, server: FakeSqs) -> None:
    def send(count: int) -> int:
        for _ in range(count):
            for operation in OPERATIONS:
                sqs.sender.send(operation, arguments_of(operation))
        server.requests.clear()
        gc.collect()
        return len(gc.get_objects())

    assert abs(send(60) - send(20)) < 40  # of 80 sends
