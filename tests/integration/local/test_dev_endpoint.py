"""The queues of `joblane dev` over HTTP: boto3 sees SQS, and a page in a browser is refused."""

from __future__ import annotations

import asyncio
import hashlib
import http.client
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from typing import Any, NamedTuple

import boto3
import pytest
import uvicorn
from botocore.config import Config
from botocore.exceptions import ClientError

from joblane.errors import NOT_IN_DEV
from joblane.local.dev.endpoint import Endpoint, config, listen
from joblane.local.dev.messages import md5_of_attributes
from joblane.local.dev.queues import DevQueues
from joblane.local.emulator import guarded
from joblane.local.ports import free_port
from joblane.local.tools import environment_of
from joblane.quotas import MAX_MESSAGE_BYTES
from joblane.sqs.client import Entry, Sqs
from tests.integration.local.test_guard import BROWSERS
from tests.patience import PATIENCE_SECONDS

LANE = "jobs-default-order-mail"
HALF = "x" * (MAX_MESSAGE_BYTES // 2 + 1)
NO_HEADERS: Mapping[str, str] = {}
TYPES = {"order:mail": {"lanes": [LANE], "visibility_seconds": 60.0, "max_receive_count": 2}}
ATTRIBUTES: dict[str, Any] = {
    "name": {"DataType": "String", "StringValue": "Ännie"},
    "count": {"DataType": "Number.int", "StringValue": "7"},
    "bytes": {"DataType": "Binary", "BinaryValue": b"\x00\xff"},
}


class Served(NamedTuple):
    """A running endpoint. ``call``: calls a function in its thread. ``shown``: the events that it has shown."""

    port: int
    shown: list[tuple[str, dict[str, Any]]]
    queues: DevQueues
    sqs: Any
    url: str
    call: Callable[[Callable[[], object]], None]


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    port, started = free_port(), threading.Event()
    known: dict[str, Any] = {}
    shown: list[tuple[str, dict[str, Any]]] = []

    async def main() -> None:
        queues = DevQueues("jobs", lambda queue: known["endpoint"].changed(queue))  # noqa: PLW0108 - made below
        queues.declare(TYPES)
        endpoint = known["endpoint"] = Endpoint(
            queues,
            port,
            lambda *asked: [{"message": str(asked[0]), "timestamp": 5}],
            lambda *event: shown.append(event),
        )
        endpoint.ready.set()
        known.update(
            queues=queues, loop=asyncio.get_running_loop(), server=uvicorn.Server(config(guarded(endpoint, port)))
        )
        listening = listen(port)
        started.set()
        await known["server"].serve([listening])

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    assert started.wait(PATIENCE_SECONDS)
    with environment_of(variables(port)):
        sqs = boto3.client("sqs")
        url = sqs.get_queue_url(QueueName=LANE)["QueueUrl"]
        yield Served(port, shown, known["queues"], sqs, url, known["loop"].call_soon_threadsafe)
        sqs.close()
    known["server"].should_exit = known["server"].force_exit = True
    thread.join(PATIENCE_SECONDS)
    assert not thread.is_alive()


@pytest.fixture(autouse=True)
def empty(served: Served) -> None:
    for queue in served.queues.queues.values():
        queue.clear()


def variables(port: int) -> dict[str, str]:
    return {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
    }


def received(served: Served, **options: Any) -> list[Any]:
    return list(served.sqs.receive_message(QueueUrl=served.url, MaxNumberOfMessages=10, **options).get("Messages", []))


def depth(served: Served, url: str | None = None) -> dict[str, str]:
    found = served.sqs.get_queue_attributes(QueueUrl=url or served.url, AttributeNames=["All"])["Attributes"]
    names = (
        "ApproximateNumberOfMessages",
        "ApproximateNumberOfMessagesNotVisible",
        "ApproximateNumberOfMessagesDelayed",
    )
    return {name: found[name] for name in names}


def test_a_message_arrives_with_attributes_group_and_the_digests_that_sdks_verify(served: Served) -> None:
    sent = served.sqs.send_message(
        QueueUrl=served.url, MessageBody="bödy", MessageAttributes=ATTRIBUTES, MessageGroupId="acme"
    )
    [message] = received(served, AttributeNames=["All"], MessageAttributeNames=["All"])
    assert message["MessageId"] == sent["MessageId"]
    assert message["Body"] == "bödy"
    assert message["MessageAttributes"] == ATTRIBUTES
    assert message["MD5OfBody"] == sent["MD5OfMessageBody"] == hashlib.md5("bödy".encode()).hexdigest()
    assert message["MD5OfMessageAttributes"] == sent["MD5OfMessageAttributes"] == md5_of_attributes(ATTRIBUTES)
    assert (message["Attributes"]["ApproximateReceiveCount"], message["Attributes"]["MessageGroupId"]) == ("1", "acme")
    served.sqs.change_message_visibility(
        QueueUrl=served.url, ReceiptHandle=message["ReceiptHandle"], VisibilityTimeout=0
    )
    [message] = received(served, MessageAttributeNames=["na.*", "count"])
    assert list(message["MessageAttributes"]) == ["count"]


def test_the_digest_of_attributes_is_that_of_another_implementation(served: Served) -> None:
    from moto.sqs.models import Message

    other = Message("id", "body", {})
    other.message_attributes = ATTRIBUTES
    assert md5_of_attributes(ATTRIBUTES) == other.attribute_md5


def test_a_batch_accepts_what_it_can_and_names_the_rest(served: Served) -> None:
    entries = [{"Id": "good", "MessageBody": "1"}, {"Id": "bad", "MessageBody": "2", "DelaySeconds": 901}]
    answer = served.sqs.send_message_batch(QueueUrl=served.url, Entries=entries)
    assert [item["Id"] for item in answer["Successful"]] == ["good"]
    [failed] = answer["Failed"]
    assert (failed["Id"], failed["Code"], failed["SenderFault"]) == ("bad", "InvalidParameterValue", True)


@pytest.mark.parametrize(
    ("operation", "options", "problem"),
    [
        ("send_message_batch", {"Entries": []}, "EmptyBatchRequest"),
        ("send_message_batch", {"Entries": [{"Id": str(n), "MessageBody": "x"} for n in range(11)]}, "TooManyEntries"),
        ("send_message_batch", {"Entries": [{"Id": "a", "MessageBody": "x"}] * 2}, "BatchEntryIdsNotDistinct"),
        ("send_message_batch", {"Entries": [{"Id": str(n), "MessageBody": HALF} for n in range(2)]}, "RequestTooLong"),
        ("send_message", {"MessageBody": HALF * 2}, "must be shorter than 1048576 bytes"),
        ("send_message", {"MessageBody": "\x00"}, "InvalidMessageContents"),
        ("send_message", {"MessageBody": "x", "DelaySeconds": 901}, "Must be between 0 and 900"),
        ("send_message", {"MessageBody": "x", "MessageGroupId": "with blank"}, "MessageGroupId"),
        (
            "send_message",
            {"MessageBody": "x", "MessageAttributes": {"a": {"DataType": "String", "StringValue": ""}}},
            "non-empty value",
        ),
    ],
)
def test_a_batch_and_a_message_are_refused_as_sqs_refuses_them(
    served: Served, operation: str, options: dict[str, Any], problem: str
) -> None:
    with pytest.raises(ClientError, match=problem):
        getattr(served.sqs, operation)(QueueUrl=served.url, **options)
    assert received(served) == []


def test_a_received_message_is_hidden_returned_and_deleted_by_its_receipt(served: Served) -> None:
    served.sqs.send_message(QueueUrl=served.url, MessageBody="one")
    [message] = received(served)
    receipt = message["ReceiptHandle"]
    assert received(served) == []
    assert depth(served)["ApproximateNumberOfMessagesNotVisible"] == "1"
    served.sqs.change_message_visibility(QueueUrl=served.url, ReceiptHandle=receipt, VisibilityTimeout=0)
    [again] = received(served)
    answer = served.sqs.delete_message_batch(
        QueueUrl=served.url,
        Entries=[{"Id": "1", "ReceiptHandle": again["ReceiptHandle"]}, {"Id": "2", "ReceiptHandle": "x"}],
    )
    assert [item["Id"] for item in answer["Successful"]] == ["1"]
    assert [item["Code"] for item in answer["Failed"]] == ["ReceiptHandleIsInvalid"]
    assert set(depth(served).values()) == {"0"}


def test_a_message_that_is_received_too_often_moves_to_the_dead_letters(served: Served) -> None:
    served.sqs.send_message(QueueUrl=served.url, MessageBody="one")
    assert [len(received(served, VisibilityTimeout=0)) for _ in range(3)] == [1, 1, 0]
    dead = served.sqs.get_queue_url(QueueName=f"{LANE}-dlq")["QueueUrl"]
    [message] = served.sqs.receive_message(QueueUrl=dead)["Messages"]
    served.sqs.delete_message(QueueUrl=dead, ReceiptHandle=message["ReceiptHandle"])
    assert set(depth(served, dead).values()) == {"0"}


def test_a_long_poll_ends_with_the_message_that_it_waits_for(served: Served) -> None:
    served.call(lambda: asyncio.get_running_loop().call_later(0.1, lambda: served.queues.send(Entry(LANE, "late"))))
    [message] = received(served, WaitTimeSeconds=20)
    assert message["Body"] == "late"
    served.sqs.send_message(QueueUrl=served.url, MessageBody="delayed", DelaySeconds=1)
    assert [found["Body"] for found in received(served, WaitTimeSeconds=20)] == ["delayed"]


def test_the_library_sends_by_its_own_way(served: Served) -> None:
    sqs = Sqs()
    assert sqs.send_many([Entry(LANE, str(number)) for number in range(25)]) == {}
    assert sqs.send_many([Entry(LANE, "again"), Entry(LANE, "")]).keys() == {1}
    assert depth(served)["ApproximateNumberOfMessages"] == "26"
    sqs.client.close()


@pytest.mark.parametrize(
    ("name", "advice"),
    [("jobs-default-no-such", "Is the type declared in a handler.py, and saved"), ("other-default", "JOBLANE_PREFIX")],
)
def test_a_missing_queue_is_named_with_what_to_do(served: Served, name: str, advice: str) -> None:
    with pytest.raises(served.sqs.exceptions.QueueDoesNotExist, match=f"{name}.*{advice}") as caught:
        served.sqs.get_queue_url(QueueName=name)
    assert caught.value.response["Error"]["Code"] == "AWS.SimpleQueueService.NonExistentQueue"


def test_an_event_of_a_task_is_accepted_and_shown(served: Served) -> None:
    served.shown.clear()
    with environment_of(variables(served.port)), closing(boto3.client("events")) as events:
        entry = {"Source": "joblane.jobs", "DetailType": "Task archived", "Detail": json.dumps({"id": "a:0:archived"})}
        answer = events.put_events(Entries=[{**entry, "EventBusName": "jobs-events"}] * 2)
        assert answer["FailedEntryCount"] == 0
        assert all(each["EventId"] for each in answer["Entries"])
        assert served.shown == [("Task archived", {"id": "a:0:archived"})] * 2
        # and what is not an event is refused whole
        for wrong in ({"Detail": "not json"}, {"Detail": "[]"}):
            with pytest.raises(ClientError, match="SerializationException"):
                events.put_events(Entries=[entry, {**entry, **wrong}])
        with pytest.raises(ClientError, match="a list of 1 to 10 events is required"):
            events.put_events(Entries=[entry] * 11)
    assert len(served.shown) == 2


@pytest.mark.parametrize(
    "call",
    [
        ("lambda", lambda client: client.list_functions()),
        ("scheduler", lambda client: client.list_schedules()),
        ("cloudformation", lambda client: client.describe_stacks()),
        ("sts", lambda client: client.get_caller_identity()),
        ("s3", lambda client: client.list_objects_v2(Bucket="exports")),
        ("secretsmanager", lambda client: client.get_secret_value(SecretId="x")),
        ("logs", lambda client: client.describe_log_groups()),
        ("sesv2", lambda client: client.get_account()),
    ],
    ids=lambda call: call[0],
)
def test_another_service_is_refused_with_a_sentence(served: Served, call: tuple[Any, Callable[[Any], object]]) -> None:
    client = boto3.client(call[0], config=Config(retries={"total_max_attempts": 1}, s3={"addressing_style": "path"}))
    with pytest.raises(ClientError, match="`joblane dev` has SQS only") as caught:
        call[1](client)
    assert caught.value.response["Error"]["Code"] == NOT_IN_DEV
    client.close()


def test_the_lines_of_a_log_group_are_found(served: Served) -> None:
    client = boto3.client("logs")
    [event] = client.filter_log_events(logGroupName="/aws/lambda/jobs-order-mail")["events"]
    assert event["message"] == "/aws/lambda/jobs-order-mail"
    client.close()


def answer_of(served: Served, operation: str, body: str, headers: Mapping[str, str] = NO_HEADERS) -> tuple[int, str]:
    """Send a request as it is. Return the status and the text of the answer."""
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=PATIENCE_SECONDS)
    with closing(connection):
        connection.request("POST", "/", body, {"X-Amz-Target": f"AmazonSQS.{operation}", **headers})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


@pytest.mark.parametrize("headers", [*BROWSERS.values(), {"Host": "evil.example"}], ids=[*BROWSERS, "another host"])
def test_a_browser_and_another_host_are_refused(served: Served, headers: dict[str, str]) -> None:
    body = f'{{"QueueUrl": "{served.url}", "MessageBody": "forged"}}'
    assert answer_of(served, "SendMessage", body, headers)[0] == 403
    assert received(served) == []


@pytest.mark.parametrize(
    ("operation", "body"),
    [
        ("SendMessage", "["),
        ("ListQueues", "[" * 200_000),
        ("ListQueues", '{"QueueNamePrefix": 5}'),
        ("SendMessage", '{"QueueUrl": "/%s", "MessageBody": "a", "MessageAttributes": [1]}'),
        ("SendMessageBatch", '{"QueueUrl": "/%s", "Entries": [{"Id": "a", "MessageAttributes": "b"}]}'),
        *(
            ("SendMessage", f'{{"QueueUrl": "/%s", "MessageBody": "a", "MessageSystemAttributes": {given}}}')
            for given in ("5", '{"AWSTraceHeader": "x"}', '{"AWSTraceHeader": {"StringValue": 5}}')
        ),
        ("GetQueueAttributes", '{"QueueUrl": "/%s", "AttributeNames": 5}'),
    ],
)
def test_a_body_that_is_no_json_and_a_field_of_another_type_are_refused(
    served: Served, operation: str, body: str
) -> None:
    status, text = answer_of(served, operation, body.replace("%s", LANE))
    assert (status, "SerializationException" in text) == (400, True)
