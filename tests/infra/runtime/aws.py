"""AWS for processes: a server that records each signed request and passes it to moto."""

from __future__ import annotations

import json
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

from botocore.awsrequest import AWSPreparedRequest
from botocore.compat import HTTPHeaders
from moto import mock_aws
from moto.core.models import botocore_stubber

CREDENTIAL = re.compile(r"Credential=([^/]+)/\d+/([\w-]+)/([\w-]+)/aws4_request")
"""In a header, or, with other slashes, in a signed link."""
KEY = "AKIA"
"""Access keys begin with this; the name of the caller follows."""
HOSTS = {"ses": "email"}
"""Service in a signature → the first label of its host, where they differ."""


UNKNOWN_TO_MOTO = {
    "/v2/email/account": {"ProductionAccessEnabled": True, "SendingEnabled": True, "EnforcementStatus": "HEALTHY"}
}


@dataclass(frozen=True)
class Call:
    """A request. ``caller``: who signed it."""

    caller: str
    region: str
    service: str
    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Aws:
    """``endpoint``: the value of ``AWS_ENDPOINT_URL`` for the processes."""

    endpoint: str
    calls: list[Call] = field(default_factory=list)
    connections: set[socket.socket] = field(default_factory=set)

    def close_connections(self) -> None:
        """Close the open connections of all clients."""
        for connection in list(self.connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


@contextmanager
def serving() -> Iterator[Aws]:
    """Serve an empty account on this machine. Tests change it with boto3 in their own process."""
    with mock_aws(), ThreadingHTTPServer(("127.0.0.1", 0), _Request) as server:
        server.daemon_threads = True
        aws = server.aws = Aws(f"http://127.0.0.1:{server.server_port}")  # type: ignore[attr-defined]
        server.lock = threading.Lock()  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield aws
        finally:
            server.shutdown()
            thread.join()


class _Request(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        super().setup()
        self.server.aws.connections.add(self.connection)  # type: ignore[attr-defined]

    def finish(self) -> None:
        self.server.aws.connections.discard(self.connection)  # type: ignore[attr-defined]
        super().finish()

    def handle(self) -> None:
        with suppress(ConnectionError):  # the client was killed
            super().handle()

    def _answer(self) -> None:
        body = self._body()
        signed = CREDENTIAL.search(self.headers.get("Authorization") or unquote(self.path))
        assert signed, f"{self.path} has no signature"
        key, region, service = signed.groups()
        call = Call(key.removeprefix(KEY), region, service, self.command, self.path, dict(self.headers.items()), body)
        self.server.aws.calls.append(call)  # type: ignore[attr-defined]
        url = f"https://{HOSTS.get(service, service)}.{region}.amazonaws.com{self.path}"
        headers = HTTPHeaders()
        for name, value in self.headers.items():
            headers[name] = value
        request = AWSPreparedRequest(self.command, url, headers, body, stream_output=False)
        with self.server.lock:  # type: ignore[attr-defined]
            try:
                status, answered, content = botocore_stubber.process_request(request)  # type: ignore[misc]
            except NotImplementedError:
                status, answered, content = 200, {}, json.dumps(UNKNOWN_TO_MOTO[self.path])
        content = content.encode() if isinstance(content, str) else content
        self.send_response(status)
        for name, value in answered.items():
            if name.lower() not in ("content-length", "transfer-encoding", "date", "server"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = _answer  # noqa: N815 - names of the base class

    def _body(self) -> bytes:
        if self.headers.get("Expect"):
            self.send_response_only(100)
            self.end_headers()
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", "0")))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Say nothing."""
