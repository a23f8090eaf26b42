"""SQS's JSON protocol over the simulated queues, on a port, for boto3 in the worker processes.

It refuses calls, entries and changes of visibility where the dice say so, and at times takes a message and says
nothing.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.faults.dice import Dice
from tests.faults.fates import SENDER, SWEEP
from tests.faults.queues import Queues, subject

CALL_REFUSED = 0.03
ENTRY_REFUSED = 0.04
DEAD_LETTER_REFUSED = 0.15
"""Sends of dead letters are refused more often, because a dead letter could be lost for good."""
UNAVAILABLE = 0.005
"""The share of calls that are answered by 503, after which boto3 tries again."""
ANSWER_LOST = 0.01


class RefusedError(Exception):
    def __init__(self, code: str, status: int = 400) -> None:
        super().__init__(code)
        self.code, self.status = code, status


class LostError(Exception):
    """The call has its effect, and its answer is lost."""


class Api:
    """The calls that the library makes."""

    def __init__(self, queues: Queues, dice: Dice) -> None:
        self._queues = queues
        self._dice = dice

    def call(self, name: str, arguments: dict[str, Any], sender: str) -> dict[str, Any]:
        match name:
            case "GetQueueUrl":
                if not self._queues.knows(arguments["QueueName"]):
                    raise RefusedError("QueueDoesNotExist")
                return {"QueueUrl": f"http://queues/{arguments['QueueName']}"}
            case "GetQueueAttributes":
                counts = self._queues.counted(_queue(arguments))
                return {"Attributes": dict(zip(arguments["AttributeNames"], map(str, counts), strict=True))}
            case "SendMessage":
                return self._send(_queue(arguments), arguments, sender)
            case "SendMessageBatch":
                return self._send_batch(_queue(arguments), arguments["Entries"], sender)
            case "ChangeMessageVisibilityBatch":
                return self._set_visibility(_queue(arguments), arguments["Entries"])
        raise RefusedError("InvalidAction")

    def _send(self, queue: str, arguments: dict[str, Any], sender: str) -> dict[str, Any]:
        about = subject(arguments["MessageBody"])
        self._may_refuse("send", queue, about)
        answer = {"MessageId": self._take(queue, arguments, sender)}
        if self._dice.chance(ANSWER_LOST, "answer lost", queue, about):
            self._queues.counts["answers of SQS lost"] += 1
            raise LostError
        return answer

    def _send_batch(self, queue: str, entries: list[dict[str, Any]], sender: str) -> dict[str, Any]:
        self._may_refuse("batch", queue, subject(entries[0]["MessageBody"]))
        successful, failed = [], []
        for entry in entries:
            about = subject(entry["MessageBody"])
            if self._dice.chance(ENTRY_REFUSED, "entry", queue, about):
                self._queues.counts["sends refused"] += 1
                fault = self._dice.roll("fault", about) < 0.5
                failed.append({"Id": entry["Id"], "SenderFault": fault, "Code": "Refused", "Message": "by the dice"})
            else:
                successful.append({"Id": entry["Id"], "MessageId": self._take(queue, entry, sender)})
        return {"Successful": successful, "Failed": failed}

    def _set_visibility(self, queue: str, entries: list[dict[str, Any]]) -> dict[str, Any]:
        self._may_refuse("visibility", queue, entries[0]["ReceiptHandle"].partition("-")[0])
        successful, failed = [], []
        for entry in entries:
            receipt = entry["ReceiptHandle"]
            refused = self._dice.chance(ENTRY_REFUSED, "visibility", receipt.partition("-")[0])
            self._queues.counts["visibilities refused"] += refused
            if not refused and self._queues.set_visibility(queue, receipt, entry["VisibilityTimeout"]):
                successful.append({"Id": entry["Id"]})
            else:
                failed.append({"Id": entry["Id"], "SenderFault": True, "Code": "ReceiptHandleIsInvalid"})
        return {"Successful": successful, "Failed": failed}

    def _take(self, queue: str, arguments: dict[str, Any], sender: str) -> str:
        return self._queues.send(
            queue,
            arguments["MessageBody"],
            delay=arguments.get("DelaySeconds", 0),
            group=arguments.get("MessageGroupId"),
            attributes=arguments.get("MessageAttributes"),
            by_sweep=sender == SWEEP,
        )

    def _may_refuse(self, call: str, queue: str, about: str) -> None:
        share = DEAD_LETTER_REFUSED if queue.endswith("-dlq") else CALL_REFUSED
        if self._dice.chance(share, call, queue, about):
            self._queues.counts["calls of SQS refused"] += 1
            raise RefusedError("Refused")
        if self._dice.chance(UNAVAILABLE, "unavailable", call, queue, about):
            self._queues.counts["calls of SQS refused"] += 1
            raise RefusedError("ServiceUnavailable", 503)


def _queue(arguments: dict[str, Any]) -> str:
    return str(arguments["QueueUrl"].rpartition("/")[2])


@contextmanager
def serve(api: Api) -> Iterator[str]:
    """Yield the address of ``api``."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            name = self.headers["X-Amz-Target"].rpartition(".")[2]
            try:
                arguments = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            except ValueError:  # its client was killed in the middle of it
                self.close_connection = True
                return
            try:
                self._answer(200, api.call(name, arguments, self.headers[SENDER] or ""))
            except RefusedError as error:
                self._answer(error.status, {"__type": f"com.amazonaws.sqs#{error.code}", "message": "by the dice"})
            except LostError:
                self.close_connection = True

        def _answer(self, status: int, answer: dict[str, Any]) -> None:
            body = json.dumps(answer).encode()
            head = (
                f"HTTP/1.1 {status} Answer\r\nContent-Type: application/x-amz-json-1.0\r\nContent-Length: {len(body)}"
            )
            with suppress(OSError):  # its client was killed
                self.wfile.write(head.encode() + b"\r\n\r\n" + body)

        def handle(self) -> None:
            with suppress(OSError):
                super().handle()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
