"""The AWS CLI, in an environment of its own, and services that the emulator lacks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path

from tests.locked import environment
from tests.unit.saas.servers import HttpServer, status

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

    def accept(handler: BaseHTTPRequestHandler) -> None:
        quota = {**server.requests[-1].json, "Status": "PENDING", "Id": "1", "Value": 10.0}
        answer = json.dumps({"RequestedQuota": quota, "Quota": quota}).encode()
        status(200, answer, **{"Content-Type": "application/x-amz-json-1.1"})(handler)

    server = HttpServer([accept])
    with server.running():
        yield server.url


@contextmanager
def account_plan(kind: str) -> Iterator[str]:
    """Yield the address of a service that answers as the AWS Free Tier API does. ``kind``: ``FREE`` or ``PAID``."""
    state = {"accountId": "000000000000", "accountPlanType": kind, "accountPlanStatus": "ACTIVE"}
    answer = status(200, json.dumps(state).encode(), **{"Content-Type": "application/x-amz-json-1.0"})
    server = HttpServer([answer])
    with server.running():
        yield server.url
