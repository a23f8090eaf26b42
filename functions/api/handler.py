"""The HTTP API's function: it answers an HTTP API event."""

from datetime import timedelta
from typing import Any

from joblane.settings import SIGNAL_KEYS
from joblane.tasks.function import Function

FUNCTION = Function(
    description="Answers the platform's HTTP API",
    timeout=timedelta(seconds=29),  # API Gateway's limit is 30
    memory_mb=512,
    enqueue=("tenant:initialize", "user:invitation", "data:export", "report:generate"),
    reads=("exports",),
    environment=(SIGNAL_KEYS,),
)


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    from functions.api.app import app  # not at the top: the discovery of tasks imports this module, too

    return app().resolve(event, context)
