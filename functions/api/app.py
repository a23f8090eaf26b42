"""The API: its routes, and the middlewares of every request.

answer → authorize → read_body → validation of the request → the route → validation of the answer
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

from functions.api import exports, invitations, refusals, reports, signals, storage, tasks, tenants
from functions.api.access import PUBLIC, ROUTES, authorize
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
    """Return the API of this process."""
    # The validation is added here, because Powertools' own validation would run before the authorization.
    api = APIGatewayHttpResolver(debug=False)
    api.use(
        [
            answer,
            authorize,
            read_body,
            OpenAPIRequestValidationMiddleware(),
            OpenAPIResponseValidationMiddleware(has_response_validation_error=True),
        ]
    )
    for module in (tenants, invitations, exports, reports, tasks, signals):
        api.include_router(module.router)

    @api.get("/openapi.json", summary="This document", tags=["openapi"])
    def openapi() -> dict[str, Any]:
        return document(api)

    return api


def answer(api: APIGatewayHttpResolver, next_middleware: NextMiddleware) -> Response[Any]:
    """Answer every request, its errors included, and log it in one line without its values."""
    started = time.monotonic()
    try:
        response = next_middleware(api)
    except Exception as error:
        response = refusals.answer(_refusal(error, api))
    response.headers["Cache-Control"] = "no-store"
    caller = api.context.get("caller")
    telemetry.logger().info(
        "request",
        extra={
            "route": _route(api),
            "status": response.status_code,
            "ms": int((time.monotonic() - started) * 1000),
            "tenant_id": str(caller.tenant_id) if caller and caller.tenant_id else None,
            "request_id": api.current_event.request_context.request_id,
            **log_fields(api.current_event.headers.get(HEADER)),
        },
    )
    return response


def _refusal(error: Exception, api: APIGatewayHttpResolver) -> Refusal:
    refusal = refusals.refusal_of(error)
    if refusal is None:
        telemetry.logger().error(
            "request failed",
            extra={"route": _route(api), "error_type": type(error).__name__, "where": _where(error)},
        )
        refusal = Refusal(500, "internal error")
    elif refusal.status == 503:
        telemetry.logger().warning("database or schedule unavailable", extra={"error": text_of(error)})
        storage.database().drop()
    return refusal


def _route(api: APIGatewayHttpResolver) -> str:
    """Return the route as in the table. A path without a route is not logged, because it may contain anything."""
    route = f"{api.request.method} {api.request.route}"
    return route if route in ROUTES or route in PUBLIC else "none"


def _where(error: Exception) -> str:
    """Return the project's last file and line in a traceback. The error's text may contain the request's values."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if any(part in frame.filename for part in OWN_CODE) and "site-packages" not in frame.filename
    ]
    return f"{'/'.join(frames[-1].filename.split('/')[-3:])}:{frames[-1].lineno}" if frames else ""
