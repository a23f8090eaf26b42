"""boto3 as users have it: without moto, and without this machine's settings for AWS."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore import handlers, loaders, session
from moto.core.models import botocore_stubber

from joblane.sqs.client import Sqs
from joblane.sqs.sender import Sender

OPERATIONS = ("SendMessage", "SendMessageBatch")


@cache
def loader() -> loaders.Loader:
    """The reader of botocore's descriptions of services, which keeps what it has read."""
    return loaders.create_loader()


@pytest.fixture
def plain_boto3(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Give the test's clients no handler of moto, and no settings but a region and keys."""
    for name in list(os.environ):
        if name.startswith(("AWS_", "_X_AMZN", "JOBLANE_")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    for name in ("CONFIG_FILE", "SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(f"AWS_{name}", str(tmp_path / name))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    own = [spec for spec in handlers.BUILTIN_HANDLERS if spec[1] is not botocore_stubber]
    monkeypatch.setattr(handlers, "BUILTIN_HANDLERS", own)
    monkeypatch.setattr(session, "create_loader", lambda *_: loader())
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)


@pytest.fixture
def by_boto3(plain_boto3: None, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Record the operations that senders leave to boto3. The sender makes all others itself."""
    operations: list[str] = []
    real = Sender._by_boto3

    def recorded(sender: Sender, operation: str, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        operations.append(operation)
        return real(sender, operation, arguments)

    monkeypatch.setattr(Sender, "_by_boto3", recorded)
    return operations


def arguments_of(operation: str, *bodies: str) -> dict[str, Any]:
    """Return the arguments of a send of these messages."""
    messages = [{"MessageBody": body} for body in bodies or ("one",)]
    if operation == "SendMessage":
        return {"QueueUrl": "https://sqs/1/jobs", **messages[0]}
    entries = [{"Id": str(position), **message} for position, message in enumerate(messages)]
    return {"QueueUrl": "https://sqs/1/jobs", "Entries": entries}


def engaged(sqs: Sqs, by_boto3: list[str]) -> None:
    """Send until the sender makes the requests of both operations, by both clients."""
    for sender in (sqs.sender, sqs.brief_sender):
        for operation in OPERATIONS:
            sender.send(operation, arguments_of(operation, "warm"))
    assert by_boto3 == list(OPERATIONS) * 2
    by_boto3.clear()
