"""Clients of further AWS services, with short timeouts: their answers are optional."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from joblane.sqs.client import client_lock

CONNECT_SECONDS, READ_SECONDS, TRIES = 2, 10, 2


def is_emulator() -> bool:
    """True if AWS is an emulator, as on the local stack; there is no console for it."""
    return bool(os.environ.get("AWS_ENDPOINT_URL"))


@contextmanager
def client(service: Any, region: str) -> Iterator[Any]:
    """A client of ``service``, in the process's region if ``region`` is empty."""
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
