"""The messages of the tasks that the end of others lets start."""

from __future__ import annotations

from collections.abc import Sequence

from joblane import telemetry
from joblane.record.flow.free_slots import Turn
from joblane.sqs.client import Sqs


def send_turns(sqs: Sqs, prefix: str, turns: Sequence[Turn]) -> None:
    """Send messages. The sweep sends those that SQS refuses, for example because the function may not send them."""
    entries = [turn.entry(prefix) for turn in turns]
    failed = sqs.send_many(entries)
    for position, why in list(failed.items())[:1]:
        telemetry.logger().warning(
            "messages of tasks that may start now could not be sent; the sweep sends them",
            extra={"messages": len(failed), "queue": entries[position].queue, "error": why},
        )
