"""SQS over HTTP/1.1 for sends, which fails as a test says."""

from __future__ import annotations

import json
import socket
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Self

from tests.patience import PATIENCE_SECONDS


@dataclass(frozen=True)
class Fault:
    """A reply of the server, or no reply, to a request that sends messages.

    ``status`` and ``body``: the reply; a ``body`` of None is that of a success. ``accepts``: the server keeps the
    messages, whatever it replies. ``fails``: positions of the batch that fail, and whether the sender is at fault.
    ``sends``: the bytes of the reply that are sent before the connection is closed. ``hangs``: no reply.
    ``then_closes``: the connection is closed after the reply.
    """

    status: int = 200
    body: bytes | None = None
    accepts: bool = False
    fails: Mapping[int, bool] = field(default_factory=dict)
    sends: int | None = None
    hangs: bool = False
    then_closes: bool = False


SUCCESS = Fault(accepts=True)


@dataclass(frozen=True)
class Request:
    """A request as the server received it."""

    operation: str
    head: bytes
    body: Mapping[str, Any]
    peer: int
    """Port of the client."""

    @property
    def messages(self) -> list[str]:
        entries = self.body.get("Entries", [self.body])
        return [entry["MessageBody"] for entry in entries] if self.operation.startswith("SendMessage") else []


class FakeSqs:
    """Every queue exists. ``faults`` are the replies to the next sends; after them each send succeeds."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        """The sends."""
        self.accepted: Counter[str] = Counter()
        """How often each message was accepted."""
        self.connections = 0
        self.faults: list[Fault] = []
        self._lock = threading.Condition()
        self._open: set[socket.socket] = set()
        self._closing: set[socket.socket] = set()
        """Connections that are closed after the reply that is being sent."""
        self._end = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._threads = [threading.Thread(target=self._accept, args=(self._listener,))]
        self._threads[0].start()

    @classmethod
    @contextmanager
    def running(cls) -> Iterator[Self]:
        server = cls()
        try:
            yield server
        finally:
            server._end.set()
            server.stop()
            for thread in server._threads:
                thread.join()

    def wait_for_open(self, most: int) -> bool:
        """Wait until clients keep at most so many connections open. False if they do not."""
        with self._lock:
            return self._lock.wait_for(lambda: len(self._open) <= most, PATIENCE_SECONDS)

    def wait_for_closed(self) -> None:
        """Wait until the connections are closed that close after their reply, so that no request meets the moment."""
        with self._lock:
            assert self._lock.wait_for(lambda: not self._closing, PATIENCE_SECONDS)

    def stop(self) -> None:
        """Refuse new connections, and close the open ones."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.close_connections()

    def close_connections(self) -> None:
        """Close the connections that clients keep."""
        with self._lock:
            for each in self._open:
                with suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                connection, (_, port) = listener.accept()
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                with self._lock:
                    self.connections += 1
                    self._open.add(connection)
                thread = threading.Thread(target=self._serve, args=(connection, port), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _serve(self, connection: socket.socket, port: int) -> None:
        with suppress(OSError), connection, connection.makefile("rb") as stream:
            while (request := _read(stream, port)) and (reply := self._reply(request)) is not None:
                data, stays = reply
                if not stays:
                    with self._lock:
                        self._closing.add(connection)
                connection.sendall(data)
                if not stays:
                    connection.shutdown(socket.SHUT_RDWR)
                    break
        with self._lock:
            self._open.discard(connection)
            self._closing.discard(connection)
            self._lock.notify_all()

    def _reply(self, request: Request) -> tuple[bytes, bool] | None:
        """Return the bytes of the reply, and whether the connection stays open; None for no reply."""
        if request.operation == "GetQueueUrl":
            return _http(200, {"QueueUrl": f"{self.url}/000000000000/{request.body['QueueName']}"}), True
        with self._lock:
            self.requests.append(request)
            fault = self.faults.pop(0) if self.faults else SUCCESS
            messages = enumerate(request.messages)
            kept = [message for position, message in messages if fault.accepts and position not in fault.fails]
            self.accepted.update(kept)
        if fault.hangs:
            self._end.wait()
            return None
        data = _http(fault.status, _success(request, fault.fails) if fault.body is None else fault.body)
        return data[: fault.sends], fault.sends is None and not fault.then_closes


def _read(stream: BinaryIO, port: int) -> Request | None:
    lines = []
    while (line := stream.readline()) not in (b"\r\n", b""):
        lines.append(line)
    if not lines:
        return None
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines[1:])}
    body = json.loads(stream.read(int(headers[b"content-length"])))
    return Request(headers[b"x-amz-target"].decode().partition(".")[2], b"".join(lines), body, port)


def _success(request: Request, fails: Mapping[int, bool]) -> Mapping[str, Any]:
    if request.operation == "SendMessage":
        return {"MessageId": f"id of {request.messages[0]}", "MD5OfMessageBody": "0" * 32}
    entries = list(enumerate(request.body["Entries"]))
    failed = [
        {"Id": entry["Id"], "Code": "InternalError", "Message": "no", "SenderFault": fails[position]}
        for position, entry in entries
        if position in fails
    ]
    done = [
        {"Id": entry["Id"], "MessageId": f"id of {entry['MessageBody']}", "MD5OfMessageBody": "0" * 32}
        for position, entry in entries
        if position not in fails
    ]
    return {"Successful": done, "Failed": failed} if failed else {"Successful": done}


def _http(status: int, body: Mapping[str, Any] | bytes) -> bytes:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = f"HTTP/1.1 {status} x\r\nContent-Type: application/x-amz-json-1.0\r\nContent-Length: {len(data)}\r\n\r\n"
    return head.encode() + data


def refusal(status: int, code: str, message: str = "no") -> Fault:
    """Refuse a request as SQS does."""
    return Fault(status, json.dumps({"__type": f"com.amazonaws.sqs#{code}", "message": message}).encode())
