"""The interface of workers: an invocation, received messages, and the messages that stay in the queue."""

from __future__ import annotations

import time
from collections.abc import Sequence

from joblane.sqs.message import Received
from joblane.worker.invocation import BatchResponse, Invocation, lambda_handler
from tests.builders.events import LambdaContext, event, record


def test_a_function_reads_its_event_and_context_and_writes_a_batch_response() -> None:
    calls: list[tuple[Sequence[Received], Invocation]] = []

    def handle(deliveries: Sequence[Received], invocation: Invocation) -> BatchResponse:
        calls.append((deliveries, invocation))
        response = BatchResponse()
        response.keep(deliveries[1], 7)
        response.keep(deliveries[1])
        return response

    records = [record({"type": "a:b", "id": str(number)}, "jobs-default-a-b") for number in range(3)]
    started = time.monotonic()
    answer = lambda_handler(handle)(event(*records), LambdaContext(seconds=60, aws_request_id="request"))

    assert answer == {"batchItemFailures": [{"itemIdentifier": records[1]["messageId"]}]}
    [(deliveries, invocation)] = calls
    assert [delivery.message_id for delivery in deliveries] == [each["messageId"] for each in records]
    assert invocation.id == "request"
    assert started < invocation.ends <= time.monotonic() + 60
