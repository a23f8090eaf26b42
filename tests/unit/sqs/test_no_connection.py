"""SQS that cannot be reached: one brief send waits for it, and those of the next seconds do not."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from botocore.exceptions import BotoCoreError, ConnectTimeoutError, EndpointConnectionError, ReadTimeoutError

from joblane.sqs.client import PAUSED, Entry, Sqs


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("error", [ConnectTimeoutError, EndpointConnectionError, ReadTimeoutError])
def test_a_send_without_a_connection_pauses_the_next_ones(
    monkeypatch: pytest.MonkeyPatch, error: type[BotoCoreError], number: int
) -> None:
    tries: list[str] = []

    def unreachable(_sqs: Sqs, _client: object, queue: str) -> str:
        tries.append(queue)
        raise error(endpoint_url="https://sqs.eu-west-1.amazonaws.com")

    monkeypatch.setattr(Sqs, "_url", unreachable)
    sqs = Sqs()
    vars(sqs)["brief_sender"] = SimpleNamespace(client=None)
    entries = [Entry("low", "{}")] * number

    first, second = (sqs.send_many(entries, brief=True) for _ in range(2))

    assert (len(first), second) == (number, dict.fromkeys(range(number), PAUSED))
    assert tries == ["low"]
