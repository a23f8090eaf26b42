"""The AWS CLI, in an environment of its own, and a service that the emulator lacks."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from joblane.local.ports import HOST
from tests.locked import environment

PROGRAM = """#!/bin/sh
[ "$1" = sqs ] && set -- "$@" --endpoint-url "$AWS_ENDPOINT_URL"
exec {aws} "$@"
"""
"""Version 1 ignores the variable for SQS in most regions. Source: aws-cli issue 8737."""


def installed_aws_cli() -> Path:
    """Return the folder of the program ``aws``, installed from its lock if it is missing or older."""
    target = environment("aws-cli")
    programs = target / "programs"
    programs.mkdir(exist_ok=True)
    (programs / "aws").write_text(PROGRAM.format(aws=target / "bin" / "aws"), encoding="utf-8")
    (programs / "aws").chmod(0o755)
    return programs


@contextmanager
def service_quotas() -> Iterator[str]:
    """Yield the address of a service that accepts every request to raise a quota."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])) or "{}")
            quota = {**asked, "Status": "PENDING", "Id": "1", "Value": 10.0}
            answer = json.dumps({"RequestedQuota": quota, "Quota": quota}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/x-amz-json-1.1")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer((HOST, 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://{HOST}:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
