"""Sending, receiving and deleting messages in batches.

botocore is imported on first use, because that takes long. boto3, which takes as long again, is used if the program has
imported it.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property, partial, wraps
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, cast

from joblane.errors import SendError
from joblane.forking import follow_forks
from joblane.quotas import MAX_BATCH, MAX_LATER_VISIBILITY, MAX_MESSAGE_BYTES
from joblane.settings import SENDER
from joblane.sqs.message import TRACE_ATTRIBUTE, Attributes

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient
    from mypy_boto3_sqs.literals import QueueAttributeNameType
    from mypy_boto3_sqs.type_defs import MessageTypeDef

    from joblane.sqs.boto3_sender import Boto3Sender

T = TypeVar("T")
SEND_TRIES = 3
PAUSE_SECONDS = 30
"""The time without brief sends after SQS did not answer one. The sweep sends the messages."""
PAUSED = f"SQS did not answer within the last {PAUSE_SECONDS} s, so nothing was sent"
CONNECTIONS = 8
"""The most batches in flight at once."""
NO_SUCH_QUEUE = ("NonExistentQueue", "QueueDoesNotExist")
"""Parts of the error codes for a missing queue, in SQS's two protocols."""
NO_ANSWER = "no answer: "
"""The reason of a failed send begins with it if SQS did not answer: it accepted and refused nothing."""
UNREADABLE = "the answer of SQS does not name the message, which SQS may have accepted"


@dataclass(slots=True)
class Entry:
    """A message to send. ``delay_seconds`` 0 to 900; ``group``: the tenant, for SQS's fair queues.

    ``keeps_chain``: what a handler enqueues itself belongs to the chain of messages of its invocation. ``trace``: the
    trace header of the message that this one is a copy of, whose chain it belongs to. Any other message lets other work
    start, and begins a chain of its own, because Lambda stops the seventeenth invocation of a function in one chain.
    Source: Lambda, *Use Lambda recursive loop detection*.
    """

    queue: str
    body: str = field(repr=False)
    delay_seconds: int = 0
    group: str | None = None
    attributes: Attributes = field(default_factory=dict)
    keeps_chain: bool = False
    trace: str | None = None

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
        if self.trace:
            arguments["MessageSystemAttributes"] = {TRACE_ATTRIBUTE: {"DataType": "String", "StringValue": self.trace}}
        return arguments


def attribute_size(name: str, value: Mapping[str, Any]) -> int:
    content = value.get("BinaryValue") or value.get("StringValue", "").encode()
    return len(name.encode()) + len(value["DataType"].encode()) + len(content)


client_lock = threading.Lock()
"""boto3's default session is not thread-safe when it creates clients. Source: boto3, *Multithreading with
resources*."""


def _release(lock: threading.Lock) -> None:
    """Release the lock that another thread of the parent may have held."""
    if lock.locked():
        lock.release()


follow_forks(client_lock, _release)


def made_once(make: Callable[[Sqs], T]) -> cached_property[T]:
    """A property that the first thread makes while other threads wait for it."""

    @wraps(make)
    def made(sqs: Sqs) -> T:
        with sqs._making:
            if make.__name__ not in sqs.__dict__:
                sqs.__dict__[make.__name__] = make(sqs)
            value: T = sqs.__dict__[make.__name__]
            return value

    return cached_property(made)


class Sqs:
    """SQS by queue name. Queue URLs are cached."""

    covered: ClassVar[dict[str, tuple[float, float]]] = {}
    """Prefix → the times until which a wake-up of the sweep covers writes, by ``time.monotonic`` and by :meth:`now`.
    All clients of the process have it in common. See ``joblane/enqueue/wake.py``."""

    def __init__(self) -> None:
        self._making = threading.RLock()
        self._urls: dict[str, str] = {}
        self._paused_until = 0.0
        follow_forks(self, Sqs._after_fork)

    def _after_fork(self) -> None:
        """Make new clients on their next use."""
        self._making = threading.RLock()
        for name in ("client", "brief_client", "sender", "brief_sender"):
            self.__dict__.pop(name, None)

    def close(self) -> None:
        """Close the connections. The next use opens new ones."""
        for name in ("client", "brief_client"):
            if name in self.__dict__:
                self.__dict__[name].close()

    @made_once
    def client(self) -> SQSClient:
        return _client(connect_seconds=5, read_seconds=10, tries=SEND_TRIES)

    @made_once
    def brief_client(self) -> SQSClient:
        """The client of brief sends: a request is tried once, for at most 2 s."""
        return _client(connect_seconds=1, read_seconds=1, tries=1)

    @made_once
    def sender(self) -> Boto3Sender:
        """The sender of messages by :attr:`client`."""
        return _sender(self.client)

    @made_once
    def brief_sender(self) -> Boto3Sender:
        """The sender of messages by :attr:`brief_client`."""
        return _sender(self.brief_client)

    @property
    def is_paused(self) -> bool:
        """True for :data:`PAUSE_SECONDS` after SQS did not answer a brief send."""
        return time.monotonic() < self._paused_until

    def now(self) -> float:
        """Return the time in seconds since 1970, as the queues have it."""
        return time.time()

    def covers(self, prefix: str) -> bool:
        """True if a wake-up of the sweep covers a write that follows now, see :attr:`covered`."""
        until = self.covered.get(prefix)
        # the clock of the process stands still while Lambda has frozen it, and the other one can be set back
        return until is not None and time.monotonic() < until[0] and self.now() < until[1]

    def url(self, queue: str) -> str:
        """Return the queue's URL. Raises botocore's ``QueueDoesNotExist``."""
        return self._url(self.client, queue)

    def _url(self, client: SQSClient, queue: str) -> str:
        if queue not in self._urls:
            self._urls[queue] = client.get_queue_url(QueueName=queue)["QueueUrl"]
        return self._urls[queue]

    def attributes(self, queue: str, names: Sequence[QueueAttributeNameType]) -> Mapping[Any, str]:
        """Return attributes of a queue. Raises botocore's errors."""
        arguments = {"QueueUrl": self._url_of_sibling(queue), "AttributeNames": list(names)}
        attributes: Mapping[Any, str] = self.sender.send("GetQueueAttributes", arguments)["Attributes"]
        return attributes

    def _url_of_sibling(self, queue: str) -> str:
        """Return the queue's URL, from the URL of any other queue of the account: only the name differs.

        Nothing is kept, as the queue may not exist.
        """
        known = self._urls.get(queue) or next(iter(tuple(self._urls.values())), None)
        return self.url(queue) if known is None else f"{known.rpartition('/')[0]}/{queue}"

    def send(self, entry: Entry) -> str:
        """Send one message and return its SQS message id. Raises :class:`SendError`."""
        return self._send(entry, brief=False)

    def _send(self, entry: Entry, *, brief: bool) -> str:
        try:
            sender = self.brief_sender if brief else self.sender
            arguments = {"QueueUrl": self._url(sender.client, entry.queue), **entry.arguments()}
            send = partial(sender.send, "SendMessage", arguments, keeps_chain=entry.keeps_chain)
            answer = _on_open_connection(send)
        except Exception as error:  # boto3 raises errors of other types for some settings
            self._pause_after(error)
            raise SendError(f"{entry.queue}: {_text(error)}") from error
        if "MessageId" not in answer:
            raise SendError(f"{entry.queue}: {UNREADABLE}")
        message_id: str = answer["MessageId"]
        return message_id

    def send_many(self, entries: Sequence[Entry], *, brief: bool = False) -> dict[int, str]:
        """Send all entries and return the failures: position in ``entries`` → reason.

        A response with HTTP 200 may contain failures; they are sent again. At most 8 batches are in flight at once, and
        after one without an answer no further batch is tried.
        ``brief``: for a caller that must not wait, and messages that the sweep sends otherwise. Each request is tried
        once, and after one without an answer nothing is sent for :data:`PAUSE_SECONDS`.
        """
        if brief and self.is_paused:
            return dict.fromkeys(range(len(entries)), PAUSED)
        if len(entries) == 1:
            try:
                self._send(entries[0], brief=brief)
            except SendError as error:
                return {0: _why(error)}
            return {}
        batches = list(_batches(entries))
        if len(batches) < 2:
            return self._send_batch(entries, batches[0], brief=brief) if batches else {}
        unanswered: list[str] = []

        def send(batch: Sequence[int]) -> dict[int, str]:
            if unanswered:
                return dict.fromkeys(batch, unanswered[0])
            failures = self._send_batch(entries, batch, brief=brief)
            unanswered.extend(why for why in failures.values() if why.startswith(NO_ANSWER))
            return failures

        with ThreadPoolExecutor(min(CONNECTIONS, len(batches))) as threads:
            failures_by_batch = threads.map(send, batches)
            return {position: why for failures in failures_by_batch for position, why in failures.items()}

    def _pause_after(self, error: Exception) -> None:
        from botocore.exceptions import ConnectionError, HTTPClientError  # noqa: A004

        if isinstance(error, (ConnectionError, HTTPClientError)):  # no answer; a refusal has one
            self._paused_until = time.monotonic() + PAUSE_SECONDS

    def _send_batch(self, entries: Sequence[Entry], batch: Sequence[int], *, brief: bool) -> dict[int, str]:
        if brief and self.is_paused:
            return dict.fromkeys(batch, PAUSED)
        failed: dict[int, str] = {}
        waiting = list(batch)
        for attempt in range(1 if brief else SEND_TRIES):
            if attempt:
                time.sleep(0.1 * 2**attempt)
            try:
                sender = self.brief_sender if brief else self.sender
                first = entries[waiting[0]]
                url = self._url(sender.client, first.queue)
                messages = [{"Id": str(position), **entries[position].arguments()} for position in waiting]
                arguments = {"QueueUrl": url, "Entries": messages}
                send = partial(sender.send, "SendMessageBatch", arguments, keeps_chain=first.keeps_chain)
                answer = _on_open_connection(send)
            except Exception as error:  # boto3 raises errors of other types for some settings
                self._pause_after(error)
                return failed | dict.fromkeys(waiting, _why(error))
            refused = {int(item["Id"]): item for item in answer.get("Failed", [])}
            failed = {position: why for position, why in failed.items() if position not in waiting}
            named = refused.keys() | {int(item["Id"]) for item in answer.get("Successful", [])}
            failed |= {position: UNREADABLE for position in waiting if position not in named}
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
            except (BotoCoreError, ClientError, UnicodeError):  # UnicodeError: the trace header of the invocation
                continue


def _text(error: Exception) -> str:
    from joblane.sqs.advice import explained

    return str(error) if isinstance(error, SendError) else explained(error)


def _why(error: Exception) -> str:
    from botocore.exceptions import ClientError

    text = _text(error)
    return text if isinstance(error.__cause__ or error, (ClientError, SendError)) else f"{NO_ANSWER}{text}"


def _on_open_connection(call: Callable[[], T]) -> T:
    """Call once more if SQS had closed the connection that was kept since the last call."""
    try:
        return call()
    except Exception as error:
        from botocore.exceptions import ConnectionClosedError

        if not isinstance(error, ConnectionClosedError):
            raise
    return call()


def _client(*, connect_seconds: int, read_seconds: int, tries: int) -> SQSClient:
    from botocore.config import Config

    config = Config(
        connect_timeout=connect_seconds,
        read_timeout=read_seconds,
        max_pool_connections=CONNECTIONS + 2,
        retries={"mode": "standard", "total_max_attempts": tries},
        tcp_keepalive=True,
        parameter_validation=False,  # every field is checked before
    )
    with client_lock:
        # boto3 and botocore themselves read AWS_DEFAULT_REGION alone
        region = os.environ.get("AWS_REGION") or None
        if "boto3" in sys.modules:  # its default session may have settings of the program
            import boto3

            return boto3.client("sqs", region_name=region, config=config)
        from botocore.session import get_session

        return cast("SQSClient", get_session().create_client("sqs", region_name=region, config=config))


def _sender(client: SQSClient) -> Boto3Sender:
    """Return the fast sender, or boto3's if a name that the fast one imports is missing."""
    from joblane.sqs.boto3_sender import Boto3Sender, log_fallback, log_untested

    log_untested()
    if os.environ.get(SENDER) == "boto3":
        return Boto3Sender(client)
    try:
        from joblane.sqs.sender import Sender
    except Exception as error:
        log_fallback(error)
        return Boto3Sender(client)
    return Sender(client)


def _batches(entries: Sequence[Entry]) -> Iterator[list[int]]:
    """Yield batches of positions: one queue, one kind of chain, at most 10 messages and 1 MiB.

    SQS refuses a larger message by itself.
    """
    open_batches: dict[tuple[str, bool], tuple[list[int], int]] = {}
    for position, entry in enumerate(entries):
        entry_size, key = entry.size, (entry.queue, entry.keeps_chain)
        batch, size = open_batches.get(key, ([], 0))
        if batch and (len(batch) == MAX_BATCH or size + entry_size > MAX_MESSAGE_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(position)
        open_batches[key] = (batch, size + entry_size)
    yield from (batch for batch, _ in open_batches.values())
