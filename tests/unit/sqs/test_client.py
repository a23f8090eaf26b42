"""Sending: batches keep within SQS's limits, and failed messages are sent again or named."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError, EndpointConnectionError, ReadTimeoutError

from joblane.errors import SendError
from joblane.quotas import MAX_BATCH, MAX_MESSAGE_BYTES
from joblane.sqs.client import CONNECTIONS, NO_ANSWER, Entry, Sqs, _batches, attribute_size
from joblane.sqs.depth import call_for_queues, queue_depth_if_exists
from tests.patience import PATIENCE_SECONDS
from tests.sends import size_of
from tests.unit.conftest import Aws

QUEUE = "jobs-low-data-export"


def refused(operation: str, code: str = "AccessDenied") -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": "no"}}, operation)


@pytest.fixture
def waited(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The waits between tries, which take no time."""
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    return waited


@pytest.fixture
def answers(aws: Aws, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[list[str]]]:
    """Queue answers of SendMessageBatch: functions of the entries, or errors. Return the bodies of each request."""
    aws.make(QUEUE)

    def put(*rows: Callable[[list[Mapping[str, Any]]], list[dict[str, Any]]] | Exception) -> list[list[str]]:
        requests: list[list[str]] = []
        left = list(rows)

        def send(*, QueueUrl: str, Entries: list[Mapping[str, Any]]) -> dict[str, Any]:  # noqa: N803 - boto3's names
            requests.append([entry["MessageBody"] for entry in Entries])
            answer = left.pop(0)
            if isinstance(answer, Exception):
                raise answer
            failed = answer(Entries)
            ids = {item["Id"] for item in failed}
            return {
                "Successful": [{"Id": entry["Id"]} for entry in Entries if entry["Id"] not in ids],
                "Failed": failed,
            }

        monkeypatch.setattr(aws.sqs.client, "send_message_batch", send)
        return requests

    return put


def failing(*bodies: str, fault: bool = False) -> Callable[[list[Mapping[str, Any]]], list[dict[str, Any]]]:
    """An answer in which these bodies failed."""
    return lambda entries: [
        {"Id": entry["Id"], "Code": "InternalError", "SenderFault": fault}
        for entry in entries
        if entry["MessageBody"] in bodies
    ]


def entries(count: int) -> list[Entry]:
    return [Entry(QUEUE, str(number)) for number in range(count)]


# --- Batches -------------------------------------------------------------------------------------------------------


def test_25_messages_are_sent_in_three_requests(aws: Aws) -> None:
    aws.make(QUEUE)
    assert aws.sqs.send_many(entries(25)) == {}
    assert aws.sends.requests == 3
    assert sorted(message["Body"] for message in aws.received(QUEUE)) == sorted(str(number) for number in range(25))


def test_no_message_makes_no_request(aws: Aws) -> None:
    assert aws.sqs.send_many([]) == {}
    assert aws.sends.requests == 0


def test_each_queue_has_its_own_batches(aws: Aws) -> None:
    aws.make("one", "two")
    mixed = [Entry("one" if number % 2 else "two", str(number)) for number in range(20)]
    assert aws.sqs.send_many(mixed) == {}
    assert aws.sends.requests == 2
    assert {message["Body"] for message in aws.received("one")} == {str(number) for number in range(1, 20, 2)}


def test_a_batch_with_its_attributes_stays_below_a_mebibyte(aws: Aws) -> None:
    aws.make(QUEUE)
    attribute = {"note": {"DataType": "String", "StringValue": "é" * 1000}}
    big = [Entry(QUEUE, "x" * 200_000, attributes=attribute) for _ in range(12)]
    assert aws.sqs.send_many(big) == {}
    assert len(aws.received(QUEUE)) == 12


def test_batches_hold_every_message_once_and_keep_within_the_limits() -> None:
    numbers = random.Random(7)
    many = [
        Entry(numbers.choice("abc"), "é" * numbers.choice([1, 10, 1000, 100_000, MAX_MESSAGE_BYTES // 2]))
        for _ in range(300)
    ]
    batches = list(_batches(many))
    assert sorted(position for batch in batches for position in batch) == list(range(300))
    for batch in batches:
        assert len(batch) <= 10
        assert len({many[position].queue for position in batch}) == 1
        assert sum(many[position].size for position in batch) <= MAX_MESSAGE_BYTES


def test_the_size_of_an_entry_is_the_size_that_sqs_counts() -> None:
    attributes: dict[str, dict[str, Any]] = {
        "näme": {"DataType": "String", "StringValue": "é"},
        "raw": {"DataType": "Binary.gif", "BinaryValue": b"\0\1\2"},
        "count": {"DataType": "Number.custom", "StringValue": "7"},
    }
    entry = Entry(QUEUE, "é€😀", attributes=attributes)
    assert entry.size == 9 + (5 + 6 + 2) + (3 + 10 + 3) + (5 + 13 + 1)
    assert entry.size == size_of(entry.arguments())
    assert attribute_size("a", attributes["raw"]) == 14


def test_a_message_carries_its_delay_group_and_attributes(aws: Aws) -> None:
    aws.make(QUEUE)
    aws.sqs.send(Entry(QUEUE, "body", 5, "acme", {"n": {"DataType": "Number", "StringValue": "1"}}))
    (sent,) = aws.sends.to(QUEUE)
    assert (sent["MessageBody"], sent["DelaySeconds"], sent["MessageGroupId"]) == ("body", 5, "acme")
    assert sent["MessageAttributes"]["n"]["StringValue"] == "1"


def test_unset_fields_are_not_sent(aws: Aws) -> None:
    assert Entry(QUEUE, "body").arguments() == {"MessageBody": "body"}


# --- Failures ------------------------------------------------------------------------------------------------------


REFUSED = refused("SendMessageBatch")
FAULTY = failing("0", fault=True)


def mixed(given: list[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return FAULTY(given) + failing("1")(given)


@pytest.mark.parametrize(
    ("replies", "sent", "failed"),
    [
        ([failing("1", "3"), failing("3"), failing()], ["01234", "13", "3"], {}),
        ([failing("1")] * 3, ["01234", "1", "1"], {1: "InternalError: "}),
        ([failing("1", fault=True)], ["01234"], {1: "InternalError: "}),
        ([mixed, failing()], ["01234", "1"], {0: "InternalError: "}),
        ([mixed, REFUSED], ["01234", "1"], {0: "InternalError: ", 1: "AccessDenied"}),
        ([failing("2"), REFUSED], ["01234", "2"], {2: "AccessDenied"}),
        ([REFUSED], ["01234"], dict.fromkeys(range(5), "AccessDenied")),
    ],
    ids=[
        *("failed entries are sent again", "three tries", "a sender's fault is not sent again", "a fault and a resend"),
        *("a fault and a refused resend", "a refused resend", "a refused request"),
    ],
)
def test_failed_entries_are_sent_again_and_named_with_their_reason(
    replies: list[Any], sent: list[str], failed: dict[int, str], answers: Any, aws: Aws, waited: list[float]
) -> None:
    requests = answers(*replies)
    found = aws.sqs.send_many(entries(5))
    assert found.keys() == failed.keys()
    assert all(why in found[position] for position, why in failed.items())
    assert ["".join(bodies) for bodies in requests] == sent
    assert waited == [0.2, 0.4][: len(sent) - 1]


def test_a_failed_batch_does_not_stop_the_other_batches(aws: Aws, monkeypatch: pytest.MonkeyPatch) -> None:
    aws.make("one")
    mixed = [Entry(("one", "missing")[number % 2], str(number)) for number in range(30)]
    for first in (mixed, mixed[1:]):
        failed = aws.sqs.send_many(first)
        assert sorted(first[position].body for position in failed) == sorted(str(number) for number in range(1, 30, 2))
        assert "NonExistentQueue" in next(iter(failed.values())) or "does not exist" in next(iter(failed.values()))


def test_after_a_request_without_an_answer_the_waiting_batches_are_not_tried(
    aws: Aws, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given an SQS that does not answer any of the requests in flight
    aws.make(QUEUE)
    requests: list[str] = []
    in_flight = threading.Barrier(CONNECTIONS)

    def silent(**_: Any) -> None:
        requests.append(QUEUE)
        in_flight.wait(PATIENCE_SECONDS)
        raise ReadTimeoutError(endpoint_url="https://sqs")

    monkeypatch.setattr(aws.sqs.client, "send_message_batch", silent)
    # when
    failed = aws.sqs.send_many(entries(50 * MAX_BATCH))
    # then
    assert len(requests) == CONNECTIONS
    assert sorted(failed) == list(range(50 * MAX_BATCH))
    assert all(why.startswith(NO_ANSWER) for why in failed.values())


@pytest.mark.parametrize("count", [1, 2, 25])
def test_a_missing_queue_or_a_missing_region_fails_the_messages_and_raises_nothing(
    count: int, aws: Aws, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(aws.sqs.send_many(entries(count))) == count
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    failed = Sqs().send_many(entries(count))
    assert len(failed) == count
    assert "region" in failed[0]


@pytest.mark.parametrize("count", [1, 2])
def test_a_failure_of_an_unavailable_sqs_names_the_queue(count: int, aws: Aws, monkeypatch: pytest.MonkeyPatch) -> None:
    def unavailable(**_: Any) -> None:
        raise EndpointConnectionError(endpoint_url="https://sqs")

    aws.make(QUEUE)
    for name in ("send_message", "send_message_batch"):
        monkeypatch.setattr(aws.sqs.client, name, unavailable)
    failed = aws.sqs.send_many(entries(count))
    assert "Could not connect" in failed[count - 1]
    with pytest.raises(SendError, match=f"{QUEUE}: Could not connect"):
        aws.sqs.send(Entry(QUEUE, "x"))


def test_the_address_of_a_queue_is_requested_once(aws: Aws, monkeypatch: pytest.MonkeyPatch) -> None:
    aws.make(QUEUE)
    requests: list[str] = []
    real = aws.sqs.client.get_queue_url

    def counted(*, QueueName: str) -> Any:  # noqa: N803
        requests.append(QueueName)
        return real(QueueName=QueueName)

    monkeypatch.setattr(aws.sqs.client, "get_queue_url", counted)
    for _ in range(3):
        aws.sqs.send(Entry(QUEUE, "x"))
    assert requests == [QUEUE]


def test_the_depths_of_queues_need_one_address(aws: Aws, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"{QUEUE}-{number}" for number in range(3)]
    aws.make(*names)
    aws.sqs.send(Entry(names[1], "x"))
    sqs, requests = Sqs(), list[str]()
    real = sqs.client.get_queue_url

    def counted(*, QueueName: str) -> Any:  # noqa: N803
        requests.append(QueueName)
        return real(QueueName=QueueName)

    monkeypatch.setattr(sqs.client, "get_queue_url", counted)
    found = call_for_queues(sqs, lambda name: queue_depth_if_exists(sqs, name), [*names, "gone"])
    assert {name: depth and depth.all for name, depth in found.items()} == {
        names[0]: 0,
        names[1]: 1,
        names[2]: 0,
        "gone": None,
    }
    assert requests == names[:1]
    assert call_for_queues(sqs, lambda name: name, []) == {}


def test_creating_an_sqs_object_opens_no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_DEFAULT_REGION", raising=False)
    assert "client" not in vars(Sqs())


def test_threads_that_send_at_the_same_time_make_one_client(aws: Aws, monkeypatch: pytest.MonkeyPatch) -> None:
    aws.make(QUEUE)
    inside, most, calls = 0, 0, 0
    real = boto3.client

    def slow_client(*args: Any, **options: Any) -> Any:
        nonlocal inside, most, calls
        calls += 1
        inside += 1
        most = max(most, inside)
        time.sleep(0.02)
        made = real(*args, **options)
        inside -= 1
        return made

    monkeypatch.setattr(boto3, "client", slow_client)
    fresh, barrier = Sqs(), threading.Barrier(6)

    def send(_: int) -> dict[int, str]:
        barrier.wait()
        return fresh.send_many([Entry(QUEUE, "x")])

    with ThreadPoolExecutor(6) as threads:
        failed = list(threads.map(send, range(6)))
    assert failed == [{}] * 6
    assert most == 1, "boto3's default session is not thread-safe"
    assert calls == 1, "the threads share one client"


# --- Visibility ----------------------------------------------------------------------------------------------------


def test_visibility_is_set_in_batches_and_cut_to_the_range_of_sqs(aws: Aws, monkeypatch: pytest.MonkeyPatch) -> None:
    aws.make(QUEUE)
    requests: list[list[Mapping[str, Any]]] = []
    monkeypatch.setattr(
        aws.sqs.client,
        "change_message_visibility_batch",
        lambda *, QueueUrl, Entries: requests.append(Entries),  # noqa: N803
    )
    monkeypatch.setattr(
        aws.sqs.client,
        "change_message_visibility",
        lambda *, QueueUrl, **entry: requests.append([entry]),  # noqa: N803
    )
    aws.sqs.set_visibility(QUEUE, {str(number): 60 for number in range(19)} | {"long": 10**6, "past": -5})
    assert [len(batch) for batch in requests] == [10, 10, 1]
    times = {entry["ReceiptHandle"]: entry["VisibilityTimeout"] for batch in requests for entry in batch}
    assert (times["0"], times["long"], times["past"]) == (60, 42_300, 0)


def test_a_refused_visibility_is_ignored(aws: Aws) -> None:
    aws.sqs.set_visibility("missing", {"receipt": 5})
    aws.make(QUEUE)
    aws.sqs.set_visibility(QUEUE, {"no such receipt": 5})
