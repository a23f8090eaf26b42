"""The server's side of Lambda's Runtime API, for one execution environment.

Source: Lambda, *Using the Lambda runtime API for custom runtimes*.
"""

from __future__ import annotations

import queue
import threading
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

REGION: Final = "eu-central-1"
ACCOUNT = "123456789012"
API = "/2018-06-01/runtime"


@dataclass
class Invocation:
    """``answer``: the kind, ``response`` or ``error``, and the body."""

    event: bytes
    deadline_ms: int
    function: str
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    answer: queue.SimpleQueue[tuple[str, bytes]] = field(default_factory=queue.SimpleQueue)


class RuntimeApi(ThreadingHTTPServer):
    """Lambda's side: it gives the next invocation to the client, and takes its answers.

    ``started``: gets ``next`` when the client asks for its first invocation, or the body of its initialisation error.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Client)
        self.pending: queue.SimpleQueue[Invocation | None] = queue.SimpleQueue()
        self.running: dict[str, Invocation] = {}
        self.started: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server_port}"

    def close(self) -> None:
        self.pending.put(None)
        self.shutdown()
        self._thread.join()
        self.server_close()


class _Client(BaseHTTPRequestHandler):
    server: RuntimeApi
    protocol_version = "HTTP/1.1"

    def handle(self) -> None:
        with suppress(ConnectionError):  # the client was killed
            super().handle()

    def do_GET(self) -> None:
        assert self.path == f"{API}/invocation/next"
        self.server.started.put(b"next")
        invocation = self.server.pending.get()
        if invocation is None:
            self.close_connection = True
            return
        self.server.running[invocation.id] = invocation
        headers = {
            "Lambda-Runtime-Aws-Request-Id": invocation.id,
            "Lambda-Runtime-Deadline-Ms": str(invocation.deadline_ms),
            "Lambda-Runtime-Invoked-Function-Arn": f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:{invocation.function}",
            "Lambda-Runtime-Trace-Id": "Root=1-5bef4de7-ad49b0e87f6ef6c87fc2e700;Parent=9a9197af755a6419;Sampled=0",
            "Content-Type": "application/json",
        }
        self._respond(200, invocation.event, headers)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == f"{API}/init/error":
            self.server.started.put(body)
        else:
            id_, _, kind = self.path.removeprefix(f"{API}/invocation/").partition("/")
            self.server.running.pop(id_).answer.put((kind, body))
        self._respond(202, b'{"status":"OK"}', {})

    def _respond(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Say nothing."""
