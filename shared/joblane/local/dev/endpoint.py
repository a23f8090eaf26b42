"""SQS over HTTP on 127.0.0.1, for the SDKs of any language, and for the page and the command line.

It speaks SQS's JSON protocol, and accepts the events that tasks send to EventBridge. Other services of AWS are not
there: each call gets an error that says so, in the form in which the SDKs read it. Source: SQS and EventBridge API
references; AWS JSON 1.0 and 1.1 protocols, Smithy.
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import uvicorn

from joblane.errors import NOT_IN_DEV
from joblane.local.deployment import ACCOUNT
from joblane.local.dev.messages import (
    AwsError,
    checked_entry,
    md5_of,
    md5_of_attributes,
    received,
    whole_number,
)
from joblane.local.dev.queues import NO_LIMIT, DevQueues
from joblane.local.errors import PortBusyError
from joblane.local.ministack import HEALTH_PATH
from joblane.local.ports import HOST
from joblane.local.stack import REGION
from joblane.names import dead_letter_name
from joblane.quotas import MAX_BATCH, MAX_MESSAGE_BYTES, MAX_VISIBILITY, QUEUE_RETENTION

MAX_REQUEST_BYTES = 16 << 20
"""A batch of 1 MiB, whose characters are escaped, and its attributes."""
MAX_WAIT_SECONDS = 20
"""Source: ReceiveMessage, SQS API reference."""
MAX_VISIBILITY_SECONDS = int(MAX_VISIBILITY.total_seconds())
SCOPE = re.compile(r"Credential=[^/]+/\d{8}/[^/]+/([a-z0-9-]+)/aws4_request")
UNKNOWN = "this service"
BATCH_ID = re.compile(r"[A-Za-z0-9_-]{1,80}")
QUERY_CODES = {"QueueDoesNotExist": "AWS.SimpleQueueService.NonExistentQueue"}
"""Codes that differ in SQS's older protocol. botocore shows those."""

Json = dict[str, Any]
Search = Callable[[str, int, int, str, int], list[Json]]
"""Log group, first and last time in ms, term, limit → events, as FilterLogEvents returns them."""
Show = Callable[[str, Json], None]
"""Detail-type and detail of an event of a task → nothing."""
MAX_EVENTS = 10
"""Source: PutEvents, EventBridge API reference."""


class Endpoint:
    """An ASGI application. ``ready``: set when the queues are known; requests wait for it.

    ``show``: gets each event of a task.
    """

    def __init__(self, queues: DevQueues, port: int, search: Search, show: Show) -> None:
        self.ready = asyncio.Event()
        self._queues = queues
        self._port = port
        self._search, self._show = search, show
        self._changed: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self._operations: dict[str, Callable[[Json], Any]] = {
            "GetQueueUrl": self._queue_url,
            "ListQueues": self._list_queues,
            "GetQueueAttributes": self._queue_attributes,
            "SendMessage": self._send_message,
            "SendMessageBatch": self._send_batch,
            "ReceiveMessage": self._receive_message,
            "DeleteMessage": self._delete_message,
            "DeleteMessageBatch": partial(self._each, self._delete_message),
            "ChangeMessageVisibility": self._change_visibility,
            "ChangeMessageVisibilityBatch": partial(self._each, self._change_visibility),
            "PurgeQueue": self._purge,
        }

    def changed(self, queue: str) -> None:
        """Wake the requests that wait for a message of the queue."""
        if queue in self._changed:
            self._changed.pop(queue).set()

    async def __call__(self, scope: Json, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        if scope["path"] == HEALTH_PATH:
            await _answer(send, 200, {"services": {"sqs": "running"}})
            return
        body = await _read(receive)
        service, _, operation = headers.get("x-amz-target", "").partition(".")
        try:
            if body is None:
                raise AwsError("RequestEntityTooLarge", f"a request can have {MAX_REQUEST_BYTES} bytes", 413)
            await self.ready.wait()
            if service == "AmazonSQS" and operation in self._operations:
                self._queues.trace = headers.get("x-amzn-trace-id")  # SQS makes it an attribute of the sent messages
                answer = self._operations[operation](_json(body))
                await _answer(send, 200, await answer if asyncio.iscoroutine(answer) else answer)
            elif headers.get("x-amz-target") == "Logs_20140328.FilterLogEvents":
                await _answer(send, 200, self._log_events(_json(body)))
            elif headers.get("x-amz-target") == "AWSEvents.PutEvents":
                await _answer(send, 200, self._put_events(_json(body)))
            else:
                raise _not_here(service, operation, headers)
        except AwsError as error:
            await _refuse(send, error, headers)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            text = f"A field of the request is not of its type: {type(error).__name__}: {error}"
            await _refuse(send, AwsError("SerializationException", text), headers)

    # --- Queues ----------------------------------------------------------------------------------------------------

    def _name(self, given: Json) -> str:
        """Return the name of the request's queue. Raises :class:`AwsError` if it does not exist."""
        return self._existing(str(given.get("QueueUrl") or "").rpartition("/")[2])

    def _existing(self, name: str) -> str:
        if name not in self._queues.rules:
            raise AwsError("QueueDoesNotExist", self._queues.unknown(name))
        return name

    def _url(self, name: str) -> str:
        return f"http://127.0.0.1:{self._port}/{ACCOUNT}/{name}"

    def _queue_url(self, given: Json) -> Json:
        return {"QueueUrl": self._url(self._existing(str(given.get("QueueName") or "")))}

    def _list_queues(self, given: Json) -> Json:
        start = given.get("QueueNamePrefix") or ""
        return {"QueueUrls": [self._url(name) for name in sorted(self._queues.rules) if name.startswith(start)]}

    def _queue_attributes(self, given: Json) -> Json:
        name, rule = self._name(given), self._queues.rules[self._name(given)]
        arn = f"arn:aws:sqs:{REGION}:{ACCOUNT}:"
        known = {
            **self._queues.attributes(name, ()),
            "VisibilityTimeout": str(int(rule.visibility_seconds)),
            "MessageRetentionPeriod": str(int(QUEUE_RETENTION.total_seconds())),
            "MaximumMessageSize": str(MAX_MESSAGE_BYTES),
            "DelaySeconds": "0",
            "ReceiveMessageWaitTimeSeconds": "0",
            "QueueArn": arn + name,
        }
        if rule.max_receives < NO_LIMIT:
            policy = {"deadLetterTargetArn": arn + dead_letter_name(name), "maxReceiveCount": rule.max_receives}
            known["RedrivePolicy"] = json.dumps(policy)
        names = given.get("AttributeNames") or []
        return {"Attributes": {key: value for key, value in known.items() if "All" in names or key in names}}

    def _purge(self, given: Json) -> Json:
        self._queues.queues[self._name(given)].clear()
        return {}

    # --- Messages --------------------------------------------------------------------------------------------------

    def _send_message(self, given: Json) -> Json:
        entry = checked_entry(self._name(given), given)
        answer = {"MessageId": self._queues.send(entry), "MD5OfMessageBody": md5_of(entry.body)}
        if entry.attributes:
            answer["MD5OfMessageAttributes"] = md5_of_attributes(entry.attributes)
        return answer

    def _send_batch(self, given: Json) -> Json:
        name = self._name(given)
        size = sum(checked_entry(name, item, whole=False).size for item in _entries(given))
        if size > MAX_MESSAGE_BYTES:
            text = f"Batch requests cannot be longer than {MAX_MESSAGE_BYTES} bytes. You have sent {size} bytes."
            raise AwsError("BatchRequestTooLong", text)
        return self._each(self._send_message, given)

    async def _receive_message(self, given: Json) -> Json:
        name = self._name(given)
        most = whole_number(given, "MaxNumberOfMessages", 1, MAX_BATCH, 1)
        seconds = whole_number(given, "VisibilityTimeout", 0, MAX_VISIBILITY_SECONDS, None)
        ends = time.time() + (whole_number(given, "WaitTimeSeconds", 0, MAX_WAIT_SECONDS, 0) or 0)
        while True:
            changed = self._changed[name]
            if messages := self._queues.receive_some(name, most or 1, seconds):
                return {"Messages": [received(message, given) for message in messages]}
            if (left := ends - time.time()) <= 0:
                return {}
            visible_at = self._queues.next_visible_at(name)
            if visible_at is not None:
                left = min(left, max(0.01, visible_at - time.time()))
            try:
                await asyncio.wait_for(changed.wait(), left)
            except TimeoutError:
                continue

    def _delete_message(self, given: Json) -> Json:
        name = self._name(given)
        if (message := self._queues.find(name, _receipt(given))) is not None:
            self._queues.delete(message)
        return {}

    def _change_visibility(self, given: Json) -> Json:
        name, receipt = self._name(given), _receipt(given)
        if given.get("VisibilityTimeout") is None:
            raise AwsError("MissingParameter", "The request must contain the parameter VisibilityTimeout.")
        seconds = whole_number(given, "VisibilityTimeout", 0, MAX_VISIBILITY_SECONDS, 0)
        if self._queues.find(name, receipt) is not None:
            self._queues.set_visibility(name, {receipt: seconds or 0})
        return {}

    def _each(self, operation: Callable[[Json], Json], given: Json) -> Json:
        """Do the operation for each entry of a batch, and return the batch's answer.

        An entry that is refused does not stop others.
        """
        queue = {"QueueUrl": self._name(given)}
        done, failed = [], []
        for item in _entries(given):
            try:
                done.append({"Id": item["Id"], **operation({**queue, **item})})
            except AwsError as error:
                failed.append({"Id": item["Id"], "Code": error.code, "Message": error.text, "SenderFault": True})
        return {"Successful": done, **({"Failed": failed} if failed else {})}

    # --- Logs ------------------------------------------------------------------------------------------------------

    def _log_events(self, given: Json) -> Json:
        now = int(time.time() * 1000)
        term = str(given.get("filterPattern") or "").strip('"')
        start, end = int(given.get("startTime") or 0), int(given.get("endTime") or now)
        return {"events": self._search(str(given.get("logGroupName")), start, end, term, 10_000)}

    # --- Events ----------------------------------------------------------------------------------------------------

    def _put_events(self, given: Json) -> Json:
        entries = given.get("Entries")
        if not isinstance(entries, list) or not 1 <= len(entries) <= MAX_EVENTS:
            raise AwsError("ValidationException", f"Entries: a list of 1 to {MAX_EVENTS} events is required.")
        events = [(str(entry["DetailType"]), _json(str(entry["Detail"]).encode())) for entry in entries]
        for detail_type, detail in events:
            self._show(detail_type, detail)
        return {"FailedEntryCount": 0, "Entries": [{"EventId": str(uuid.uuid4())} for _ in events]}


def _entries(given: Json) -> list[Json]:
    entries = given.get("Entries")
    if not isinstance(entries, list) or not entries:
        raise AwsError("EmptyBatchRequest", "There should be at least one entry in the request.")
    if len(entries) > MAX_BATCH:
        text = f"Maximum number of entries per request are {MAX_BATCH}. You have sent {len(entries)}."
        raise AwsError("TooManyEntriesInBatchRequest", text)
    ids = [str(item.get("Id")) if isinstance(item, dict) else "" for item in entries]
    if not all(BATCH_ID.fullmatch(id_) for id_ in ids):
        raise AwsError("InvalidBatchEntryId", "A batch entry id has 1 to 80 letters, digits, hyphens and underscores.")
    if len(set(ids)) < len(ids):
        raise AwsError("BatchEntryIdsNotDistinct", "Two entries of the batch have the same id.")
    return entries


def _receipt(given: Json) -> str:
    receipt = given.get("ReceiptHandle")
    if not isinstance(receipt, str) or not receipt.startswith("receipt-"):
        raise AwsError("ReceiptHandleIsInvalid", "The input receipt handle is invalid.")
    return receipt


# --- HTTP ----------------------------------------------------------------------------------------------------------


class Server(uvicorn.Server):
    """A server that leaves the signals to the command."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave each signal to its handler of this process."""
        yield


def listen(port: int) -> socket.socket:
    """Listen on the port of the queues. Raises :class:`PortBusyError`."""
    try:
        return socket.create_server((HOST, port), backlog=128)
    except OSError as error:
        raise PortBusyError("The queues of `joblane dev`", port, "JOBLANE_AWS_PORT") from error


def config(app: Any) -> uvicorn.Config:
    """Return the settings of the server, without an access log."""
    return uvicorn.Config(
        app,
        access_log=False,
        log_level="error",
        lifespan="off",
        ws="none",
        http="h11",
        loop="asyncio",
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=75,
    )


async def _read(receive: Any) -> bytes | None:
    """Return the request's body; None if it is too large."""
    body = bytearray()
    while True:
        message = await receive()
        body += message.get("body", b"")
        if len(body) > MAX_REQUEST_BYTES:
            return None
        if not message.get("more_body"):
            return bytes(body)


def _json(body: bytes) -> Json:
    try:
        found = json.loads(body or b"{}")
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise AwsError("SerializationException", "The body is not a JSON object.")
    return found


def _not_here(service: str, operation: str, headers: Mapping[str, str]) -> AwsError:
    if service == "AmazonSQS":
        return AwsError("UnsupportedOperation", f"The queues of `joblane dev` have no operation {operation}.")
    scope = SCOPE.search(headers.get("authorization", ""))
    name = scope[1] if scope else service or UNKNOWN
    if name == "sqs":
        text = "`joblane dev` speaks SQS's JSON protocol: use a version of the SDK from 2024 or newer."
        return AwsError("UnsupportedOperation", text)
    variable = re.sub(r"\W", "_", name).upper() if name != UNKNOWN else "…"
    text = (
        f"`joblane dev` has SQS only, and not {name}. `joblane up` starts an emulator of other services; or set "
        f"AWS_ENDPOINT_URL_{variable} to your own before `joblane dev`."
    )
    return AwsError(NOT_IN_DEV, text)


async def _refuse(send: Any, error: AwsError, headers: Mapping[str, str]) -> None:
    """Answer with an error in the form of the request's protocol."""
    if "x-amz-target" in headers:
        query = f"{QUERY_CODES.get(error.code, error.code)};Sender"
        document = {"__type": f"com.amazonaws.sqs#{error.code}", "message": error.text}
        await _answer(send, error.status, document, ("x-amzn-query-error", query))
    elif "json" in headers.get("content-type", "json") and "/s3/" not in headers.get("authorization", ""):
        await _answer(send, error.status, {"message": error.text}, ("x-amzn-errortype", error.code))
    else:
        from xml.sax.saxutils import escape

        inner = f"<Code>{error.code}</Code><Message>{escape(error.text)}</Message>"
        whole = (
            f"<Error>{inner}</Error>"
            if "/s3/" in headers.get("authorization", "")
            else (f"<ErrorResponse><Error><Type>Sender</Type>{inner}</Error><RequestId>dev</RequestId></ErrorResponse>")
        )
        await _answer(send, error.status, whole.encode(), ("content-type", "text/xml"))


async def _answer(send: Any, status: int, document: Json | bytes, *more: tuple[str, str]) -> None:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    headers = {
        "content-type": "application/x-amz-json-1.0",
        "content-length": str(len(body)),
        "x-amzn-requestid": str(uuid.uuid4()),
        **dict(more),
    }
    raw = [(name.encode(), value.encode("latin-1", "replace")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": body})
