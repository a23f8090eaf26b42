"""Senders over boto3 as users have it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from joblane.sqs.boto3_sender import Boto3Sender
from joblane.sqs.client import Sqs
from tests.fake_sqs import FakeSqs
from tests.plain_boto3 import use_plain_boto3

OPERATIONS = ("SendMessage", "SendMessageBatch")


@pytest.fixture
def plain_boto3(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    use_plain_boto3(monkeypatch, tmp_path)


@pytest.fixture
def server(plain_boto3: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeSqs]:
    with FakeSqs.running() as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        yield server


@pytest.fixture
def by_boto3(plain_boto3: None, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Record the operations that senders leave to boto3. The sender makes all others itself."""
    operations: list[str] = []
    real = Boto3Sender._by_boto3

    def recorded(sender: Boto3Sender, operation: str, *arguments: Any, **named: Any) -> Mapping[str, Any]:
        operations.append(operation)
        return real(sender, operation, *arguments, **named)

    monkeypatch.setattr(Boto3Sender, "_by_boto3", recorded)
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


def send_three(sqs: Sqs) -> None:
    """Send three messages, each by a request of its own."""
    for _ in range(3):
        sqs.sender.send("SendMessage", arguments_of("SendMessage"))
