"""Sending, receiving and deleting messages in batches. boto3 is imported on first use, because that takes 280 ms."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from joblane.errors import SendError
from joblane.limits import MAX_BATCH, MAX_LATER_VISIBILITY, MAX_MESSAGE_BYTES

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient
    from mypy_boto3_sqs.type_defs import MessageTypeDef

SEND_TRIES = 3
Attributes = Mapping[str, Mapping[str, Any]]
CONNECTIONS = 8
"""The most batches in flight at once."""
NO_SUCH_QUEUE = ("NonExistentQueue", "QueueDoesNotExist")
"""Parts of the error codes for a missing queue, in SQS's two protocols."""


@dataclass(slots=True)
class Entry:
    """A message to send. ``delay_seconds`` 0 to 900; ``group``: the tenant, for SQS's fair queues."""

    queue: str
    body: str
    delay_seconds: int = 0
    group: str | None = None
    attributes: Attributes = field(default_factory=dict)

    @property
    def size(self) -> int:
        """The bytes that count against SQS's limit: the body, and names, types and values of attributes."""
        size = len(self.body) if self.body.isascii() else len(self.body.encode())
        if self.attributes:
            size += sum(attribute_size(name, value) for name, value in self.attributes.items())
        return size

    def arguments(self) -> dict[str, Any]:
        arguments: dict[str, Any] = {"MessageBody": self.body}
        if self.delay_seconds:
            arguments["DelaySeconds"] = self.delay_seconds
        if self.group:
            arguments["MessageGroupId"] = self.group
        if self.attributes:
            arguments["MessageAttributes"] = dict(self.attributes)
        return arguments


def attribute_size(name: str, value: Mapping[str, Any]) -> int:
    content = value.get("BinaryValue") or value.get("StringValue", "").encode()
    return len(name.encode()) + len(value["DataType"].encode()) + len(content)


client_lock = threading.Lock()
"""boto3's default session is not thread-safe when it creates clients. Source: boto3, *Multithreading with
resources*."""


class Sqs:
    """SQS by queue name. Queue URLs are cached."""

    def __init__(self) -> None:
        self._urls: dict[str, str] = {}

    @cached_property
    def client(self) -> SQSClient:
        import boto3
        from botocore.config import Config

        config = Config(
            connect_timeout=5,
            read_timeout=10,
            max_pool_connections=CONNECTIONS + 2,
            retries={"mode": "standard", "max_attempts": SEND_TRIES},
            tcp_keepalive=True,
            parameter_validation=False,  # every field is checked before
        )
        with client_lock:
            return boto3.client("sqs", config=config)

    def url(self, queue: str) -> str:
        """Return the queue's URL. Raises botocore's ``QueueDoesNotExist``."""
        if queue not in self._urls:
            self._urls[queue] = self.client.get_queue_url(QueueName=queue)["QueueUrl"]
        return self._urls[queue]

    def send(self, entry: Entry) -> str:
        """Send one message and return its SQS message id. Raises :class:`SendError`."""
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            return self.client.send_message(QueueUrl=self.url(entry.queue), **entry.arguments())["MessageId"]
        except (BotoCoreError, ClientError) as error:
            raise SendError(f"{entry.queue}: {error}") from error

    def send_many(self, entries: Sequence[Entry]) -> dict[int, str]:
        """Send all entries and return the failures: position in ``entries`` → reason.

        A response with HTTP 200 may contain failures; they are sent again. At most 8 batches are in flight at once.
        """
        if len(entries) == 1:
            try:
                self.send(entries[0])
            except SendError as error:
                return {0: str(error)}
            return {}
        batches = list(_batches(entries))
        if len(batches) < 2:
            return self._send_batch(entries, batches[0]) if batches else {}
        with ThreadPoolExecutor(min(CONNECTIONS, len(batches))) as threads:
            failures_by_batch = threads.map(lambda batch: self._send_batch(entries, batch), batches)
            return {position: why for failures in failures_by_batch for position, why in failures.items()}

    def _send_batch(self, entries: Sequence[Entry], batch: Sequence[int]) -> dict[int, str]:
        from botocore.exceptions import BotoCoreError, ClientError

        failed: dict[int, str] = {}
        waiting = list(batch)
        for attempt in range(SEND_TRIES):
            if attempt:
                time.sleep(0.1 * 2**attempt)
            try:
                answer = self.client.send_message_batch(
                    QueueUrl=self.url(entries[waiting[0]].queue),
                    Entries=[{"Id": str(position), **entries[position].arguments()} for position in waiting],  # type: ignore[typeddict-item]
                )
            except (BotoCoreError, ClientError) as error:
                return failed | {position: str(error) for position in waiting}
            refused = {int(item["Id"]): item for item in answer.get("Failed", [])}
            failed = {position: why for position, why in failed.items() if position not in waiting}
            failed |= {position: f"{item['Code']}: {item.get('Message', '')}" for position, item in refused.items()}
            waiting = [position for position, item in refused.items() if not item["SenderFault"]]
            if not waiting:
                break
        return failed

    def set_visibility(self, queue: str, receipts: Mapping[str, int]) -> None:
        """Set visibility timeouts: receipt handle → seconds, limited to SQS's maximum.

        A refusal is ignored, because the message returns after the queue's own visibility timeout.
        """
        longest = int(MAX_LATER_VISIBILITY.total_seconds())
        self._in_batches(
            queue,
            "change_message_visibility",
            [
                {"ReceiptHandle": receipt, "VisibilityTimeout": max(0, min(seconds, longest))}
                for receipt, seconds in receipts.items()
            ],
        )

    def receive_many(self, queue: str, visibility_seconds: int, *, wait_seconds: int = 0) -> list[MessageTypeDef]:
        """Receive at most 10 messages with all attributes, hidden for ``visibility_seconds``.

        Raises botocore's errors.
        """
        return self.client.receive_message(
            QueueUrl=self.url(queue),
            MaxNumberOfMessages=MAX_BATCH,
            VisibilityTimeout=visibility_seconds,
            WaitTimeSeconds=wait_seconds,
            AttributeNames=["All"],
            MessageAttributeNames=["All"],
        ).get("Messages", [])

    def delete_many(self, queue: str, receipts: Sequence[str]) -> None:
        """Delete messages. A refusal is ignored: the message is delivered again, like any duplicate."""
        self.url(queue)  # a missing queue raises; a refusal does not
        self._in_batches(queue, "delete_message", [{"ReceiptHandle": receipt} for receipt in receipts])

    def _in_batches(self, queue: str, call: str, items: Sequence[dict[str, Any]]) -> None:
        """Call the client's method ``call`` for one item, or its batch form for up to 10. Refusals are ignored."""
        from botocore.exceptions import BotoCoreError, ClientError

        for start in range(0, len(items), MAX_BATCH):
            batch = items[start : start + MAX_BATCH]
            try:
                url = self.url(queue)
                if len(batch) == 1:
                    getattr(self.client, call)(QueueUrl=url, **batch[0])
                else:
                    entries = [{"Id": str(number), **item} for number, item in enumerate(batch)]
                    getattr(self.client, f"{call}_batch")(QueueUrl=url, Entries=entries)
            except (BotoCoreError, ClientError):
                continue


def _batches(entries: Sequence[Entry]) -> Iterator[list[int]]:
    """Yield batches of positions: one queue, at most 10 messages and 1 MiB. SQS refuses a larger message by itself."""
    open_batches: dict[str, tuple[list[int], int]] = {}
    for position, entry in enumerate(entries):
        entry_size = entry.size
        batch, size = open_batches.get(entry.queue, ([], 0))
        if batch and (len(batch) == MAX_BATCH or size + entry_size > MAX_MESSAGE_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(position)
        open_batches[entry.queue] = (batch, size + entry_size)
    yield from (batch for batch, _ in open_batches.values())
