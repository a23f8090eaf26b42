"""The API put together: its routes, and what every request passes on its way to one.

answer → admit → read_body → validation of the request → the route → validation of the answer
"""

from __future__ import annotations

import time
import traceback
from functools import cache
from typing import Any

from aws_lambda_powertools.event_handler import APIGatewayHttpResolver, Response
from aws_lambda_powertools.event_handler.middlewares import NextMiddleware
from aws_lambda_powertools.event_handler.middlewares.openapi_validation import (
    OpenAPIRequestValidationMiddleware,
    OpenAPIResponseValidationMiddleware,
)

from functions.api import exports, record, refusals, tasks, tenants
from functions.api.access import ROUTES, admit
from functions.api.bodies import read_body
from functions.api.document import document
from functions.api.refusals import Refusal
from functions.api.tracing import log_fields
from joblane import telemetry
from joblane.errors import text_of
from joblane.sqs.traceparent import HEADER

OWN_CODE = ("/functions/", "/shared/")


@cache
def app() -> APIGatewayHttpResolver:
    """The process's."""
    # Validation is put in by hand: Powertools' own place for it is before the question who asks.
    made = APIGatewayHttpResolver(debug=False)
    made.use(
        [
            answer,
            admit,
            read_body,
            OpenAPIRequestValidationMiddleware(),
            OpenAPIResponseValidationMiddleware(has_response_validation_error=True),
        ]
    )
    for module in (tenants, exports, tasks):
        made.include_router(module.router)

    @made.get("/openapi.json", summary="This document", tags=["openapi"])
    def openapi() -> dict[str, Any]:
        return document(made)

    return made


def answer(made: APIGatewayHttpResolver, next_middleware: NextMiddleware) -> Response[Any]:
    """The one place where every request's end is decided, and told in one line without a value of it."""
    started = time.monotonic()
    try:
        response = next_middleware(made)
    except Exception as error:
        response = refusals.answer(_refusal(error, made))
    response.headers["Cache-Control"] = "no-store"
    caller = made.context.get("caller")
    telemetry.logger().info(
        "request",
        extra={
            "route": _route(made),
            "status": response.status_code,
            "ms": int((time.monotonic() - started) * 1000),
            "tenant_id": str(caller.tenant_id) if caller and caller.tenant_id else None,
            "request_id": made.current_event.request_context.request_id,
            **log_fields(made.current_event.headers.get(HEADER)),
        },
    )
    return response


def _refusal(error: Exception, made: APIGatewayHttpResolver) -> Refusal:
    refusal = refusals.refusal_of(error)
    if refusal is None:
        telemetry.logger().error(
            "request failed",
            extra={"route": _route(made), "error_type": type(error).__name__, "where": _where(error)},
        )
        refusal = Refusal(500, "something went wrong here")
    elif refusal.status == 503:
        telemetry.logger().warning("database unavailable", extra={"error": text_of(error)})
        record.database().drop()
    return refusal


def _route(made: APIGatewayHttpResolver) -> str:
    """As in the table; the path of no route may hold anything, and is not logged."""
    route = f"{made.request.method} {made.request.route}"
    return route if route in ROUTES else "none"


def _where(error: Exception) -> str:
    """The last of our own lines that an error passed; its text may hold values of the request."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if any(part in frame.filename for part in OWN_CODE) and "site-packages" not in frame.filename
    ]
    return f"{'/'.join(frames[-1].filename.split('/')[-3:])}:{frames[-1].lineno}" if frames else ""
