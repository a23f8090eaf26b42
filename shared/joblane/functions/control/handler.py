"""The control API's Lambda: one HTTP API event in, one operation of the inspector, one answer out."""

from datetime import timedelta
from typing import Any

from joblane.function import Function

FUNCTION = Function(
    description="Lets operators look and act, as whom IAM knows them",
    timeout=timedelta(seconds=29),  # API Gateway hangs up after 30
    memory_mb=512,
    inspects=True,
)


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    from joblane.functions.control.answering import (
        answer,  # with the first request: whoever looks for tasks imports this too
    )

    return answer(event)
