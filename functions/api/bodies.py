"""Reads a request's body before its validation: it must be a JSON object that PostgreSQL can store."""

from __future__ import annotations

import json
from typing import Any, NoReturn

from aws_lambda_powertools.event_handler import APIGatewayHttpResolver, Response
from aws_lambda_powertools.event_handler.middlewares import NextMiddleware

from functions.api.access import PUBLIC
from functions.api.refusals import Refusal, bad_request
from joblane.errors import MessageError
from joblane.json_values import check_tree

MAX_BODY_BYTES = 64 * 1024
WITH_BODY = ("POST", "PUT", "PATCH")


def read_body(app: APIGatewayHttpResolver, next_middleware: NextMiddleware) -> Response[Any]:
    """Refuse a body that no route accepts: 413, 415, or 400 with the name of the field."""
    event = app.current_event
    if f"{app.request.method} {app.request.route}" in PUBLIC:
        return next_middleware(app)
    if app.request.method in WITH_BODY and event.body:
        kind = (event.headers.get("content-type") or "application/json").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise Refusal(415, "the body must be JSON, with Content-Type: application/json")
        if _size_bytes(event.body, bool(event.is_base64_encoded)) > MAX_BODY_BYTES:
            raise Refusal(413, f"the body may have {MAX_BODY_BYTES} bytes at most")
        try:
            body = json.loads(event.decoded_body or "", parse_constant=_refuse)
            json.dumps(body, allow_nan=False)
        except (ValueError, RecursionError):
            raise bad_request(("body", "is not JSON")) from None
        if not isinstance(body, dict):
            raise bad_request(("body", "a JSON object is required"))
        for name, value in body.items():
            _check(name, "body")
            _check(value, name)
    return next_middleware(app)


def _size_bytes(body: str, is_base64: bool) -> int:
    return len(body) * 3 // 4 - body[-2:].count("=") if is_base64 else len(body.encode("utf-8", "surrogatepass"))


def _check(value: Any, where: str) -> None:
    try:
        check_tree(value, where)
    except MessageError as error:
        raise bad_request((where, str(error).removeprefix(f"{where}: "))) from None


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")
