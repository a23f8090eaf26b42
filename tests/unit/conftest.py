"""Settings of the unit tests: the same examples on every machine, no time limit. The fixture ``aws`` is SQS by moto."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import settings

from joblane.names import dead_letter_name
from joblane.sqs.client import Sqs
from tests import fast_typer
from tests.sends import Sends
from tests.world import mocked_aws

fast_typer.accelerate()

settings.register_profile("unit", derandomize=True, deadline=None, max_examples=100)
settings.load_profile("unit")


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    """A wake-up that SQS refuses is tried again until the process ends, also in the tests that follow."""
    before = set(threading.enumerate())
    yield
    left = {thread.name for thread in threading.enumerate() if thread not in before}
    assert "joblane-wake" not in left, "a wake-up was refused"


@dataclass
class Aws:
    """SQS by moto. ``sends``: the requests that sent messages."""

    sqs: Sqs
    sends: Sends

    def make(self, *names: str) -> None:
        """Create queues, each with its dead-letter queue."""
        for name in names:
            for queue in (name, dead_letter_name(name)):
                self.sqs.client.create_queue(QueueName=queue)

    def received(self, queue: str) -> list[Any]:
        """Receive all messages of a queue."""
        received: list[Any] = []
        while messages := self.sqs.client.receive_message(
            QueueUrl=self.sqs.url(queue), MaxNumberOfMessages=10, MessageAttributeNames=["All"], AttributeNames=["All"]
        ).get("Messages"):
            received += messages
        return received


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[Aws]:
    with mocked_aws(monkeypatch):
        sqs = Sqs()
        yield Aws(sqs, Sends.of(sqs))
