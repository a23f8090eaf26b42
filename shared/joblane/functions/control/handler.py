"""The control API's function: it runs the Inspector operation of an HTTP API event and returns the answer."""

from datetime import timedelta
from typing import Any

from joblane.tasks.function import Function

FUNCTION = Function(
    description="Runs operators' requests, with their IAM identities",
    timeout=timedelta(seconds=29),  # API Gateway's limit is 30
    memory_mb=512,
    inspects=True,
)


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    # not at the top: the discovery of tasks imports this module, too
    from joblane.functions.control.answering import answer

    return answer(event)
