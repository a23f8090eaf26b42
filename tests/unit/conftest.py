"""Tests of every unit run alike on every machine: the same examples, no time limit. And SQS by moto, with its sends."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import settings
from moto import mock_aws

from joblane.queues import dead_letter_name
from joblane.sqs.client import Sqs
from tests.sends import Sends

settings.register_profile("unit", derandomize=True, deadline=None, max_examples=100)
settings.load_profile("unit")


@dataclass
class Aws:
    """Queues by name, and what was sent to them."""

    sqs: Sqs
    sends: Sends

    def make(self, *names: str) -> None:
        """Make queues, each with its dead letters."""
        for name in names:
            for queue in (name, dead_letter_name(name)):
                self.sqs.client.create_queue(QueueName=queue)

    def received(self, queue: str) -> list[Any]:
        """What is in a queue; it is taken out."""
        found: list[Any] = []
        while messages := self.sqs.client.receive_message(
            QueueUrl=self.sqs.url(queue), MaxNumberOfMessages=10, MessageAttributeNames=["All"], AttributeNames=["All"]
        ).get("Messages"):
            found += messages
        return found


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[Aws]:
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_SQS", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    with mock_aws():
        sqs = Sqs()
        yield Aws(sqs, Sends.of(sqs))
