"""The HTTP API's Lambda: one HTTP API event in, one answer out."""

from datetime import timedelta
from typing import Any

from joblane.function import Function

FUNCTION = Function(
    description="Answers the platform's HTTP API",
    timeout=timedelta(seconds=29),  # API Gateway hangs up after 30
    memory_mb=512,
    enqueue=("tenant:initialize", "user:invitation", "data:export"),
    reads=("exports",),
)


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    from functions.api.app import app  # with the first request: whoever looks for tasks imports this module too

    return app().resolve(event, context)
