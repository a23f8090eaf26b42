"""Clients of AWS's other services, for questions that may go unanswered: they give up early."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from joblane.sqs.client import client_lock

CONNECT_SECONDS, READ_SECONDS, TRIES = 2, 10, 2


def is_emulator() -> bool:
    """Whether AWS is an emulator here, as on the local stack: a console has nothing of it."""
    return bool(os.environ.get("AWS_ENDPOINT_URL"))


@contextmanager
def client(service: Any, region: str) -> Iterator[Any]:
    """Of this process's region where ``region`` is empty."""
    import boto3
    from botocore.config import Config

    config = Config(
        connect_timeout=CONNECT_SECONDS,
        read_timeout=READ_SECONDS,
        retries={"mode": "standard", "total_max_attempts": TRIES},
    )
    with client_lock:
        made = boto3.client(service, region_name=region or None, config=config)
    try:
        yield made
    finally:
        made.close()
