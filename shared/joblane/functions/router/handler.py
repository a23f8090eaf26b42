"""The router's function: it forwards messages from the front doors to the lanes."""

import os
from functools import cache
from typing import Any

from joblane import settings
from joblane.sqs.client import Sqs
from joblane.worker.invocation import lambda_handler
from joblane.worker.router import Router
from joblane.worker.routes import decode


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    return lambda_handler(_router().handle)(event, context)


@cache
def _router() -> Router:
    return Router(decode(os.environ["JOBLANE_ROUTES"]), Sqs(), settings.prefix())
