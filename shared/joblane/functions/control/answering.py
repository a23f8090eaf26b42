"""From a verified request to an operation of the inspector, and back.

API Gateway has verified the signature, and that IAM allows the caller this route, before it calls this function. The
route says which permission was verified: an operation that takes another is refused. Who asks is what API Gateway says
of the signer; nothing in a header or a body says it.
"""

from __future__ import annotations

import base64
import json
import os
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from joblane import errors, settings, telemetry
from joblane.discovery import discover
from joblane.inspector import wire
from joblane.inspector.errors import ActionError, BusyError, SelectionError
from joblane.inspector.inspector import Inspector
from joblane.inspector.permission import Permission
from joblane.inspector.scope import Scope
from joblane.record.database import Database
from joblane.sqs.client import Sqs

ROUTES: Mapping[str, Permission] = {f"POST /{permission}/{{operation}}": permission for permission in Permission}
"""The API's routes → the permission that IAM was asked for. There is no other route."""
MAX_ANSWER_BYTES = 4_500_000
"""Lambda answers with 6 MB at most, in which our text is quoted once more. Source: Lambda quotas."""
STATUSES: tuple[tuple[type[errors.JobError], int], ...] = (
    (errors.DatabaseUnavailableError, 503),
    (errors.UnknownTaskError, 404),
    (ActionError, 409),
    (BusyError, 409),
    (errors.TaskIdConflictError, 409),
    (errors.DuplicateTaskError, 409),
    (errors.EnqueueError, 422),
    (errors.UnreadablePayloadError, 422),
    (SelectionError, 422),
    (wire.ArgumentsError, 422),
    (errors.JobError, 400),
)
"""The first that fits. 5xx says that it may be over later."""


class Refusal(Exception):  # noqa: N818 - an answer, not a fault
    """The request ends here, before any operation."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Request:
    """One request, accepted. ``who``: the ARN of the signer, with the name of its session."""

    who: str
    operation: str
    permission: Permission
    arguments: bytes


def answer(event: Mapping[str, Any]) -> dict[str, Any]:
    """The one place where a request's end is decided, and told in one line without a value of it."""
    started, request, content = time.monotonic(), None, b""
    try:
        request = admit(event)
        content = wire.call(Inspector(replace(_scope(), who=request.who)), request.operation, request.arguments)
        status = 200
        if len(content) > MAX_ANSWER_BYTES:
            raise SelectionError("limit", f"the answer has {len(content):,} bytes, too many for one; ask for less")
    except Refusal as refusal:
        status, content = refusal.status, json.dumps({"message": str(refusal)}).encode()
    except errors.JobError as error:
        status = next(status for kind, status in STATUSES if isinstance(error, kind))
        content = json.dumps({"error": wire.encode_error(error)}).encode()
    except Exception as error:
        status, content = 500, b'{"message": "something went wrong here"}'
        telemetry.logger().error("request failed", extra={"error_type": type(error).__name__, "where": _where(error)})
    telemetry.logger().info(
        "request",
        extra={
            "route": f"/{request.permission}/{request.operation}" if request else "none",
            "status": status,
            "ms": int((time.monotonic() - started) * 1000),
            "who": request.who if request else None,
        },
    )
    headers = {"Content-Type": "application/json", "Cache-Control": "no-store"}
    return {"statusCode": status, "headers": headers, "body": content.decode()}


def admit(event: Mapping[str, Any]) -> Request:
    """Who asks for what. Raises :class:`Refusal`."""
    who = caller_of(event)
    verified = ROUTES.get(str(event.get("routeKey")))
    operation = str((event.get("pathParameters") or {}).get("operation"))
    taken = wire.operations().get(operation)
    if verified is None or taken is None:
        raise Refusal(404, "there is no such operation here")
    if taken is not verified:
        raise Refusal(403, f"{operation} takes the permission to {taken}: POST /{taken}/{operation}")
    return Request(who, operation, taken, _body(event))


def caller_of(event: Mapping[str, Any]) -> str:
    """The ARN of a verified signer; of an assumed role with the name of its session, which says who it is.

    Raises :class:`Refusal` where nobody was verified, and for the users of an identity pool, who share one name.
    """
    signer = event.get("requestContext", {}).get("authorizer", {}).get("iam") or {}
    arn = signer.get("userArn")
    if not isinstance(arn, str) or not arn:
        raise Refusal(403, "no signer was verified")
    if signer.get("cognitoIdentity"):
        raise Refusal(403, "users of an identity pool are not told apart; ask as a role or user of the account")
    return arn


def _body(event: Mapping[str, Any]) -> bytes:
    body = event.get("body") or "{}"
    return base64.b64decode(body) if event.get("isBase64Encoded") else str(body).encode()


@cache
def _scope() -> Scope:
    """The process's; nobody's yet."""
    return Scope(
        database=Database(settings.database_url(), prefix=settings.prefix()),
        sqs=Sqs(),
        prefix=settings.prefix(),
        tasks=discover(),
        who="",
        region=os.environ.get("AWS_REGION", ""),
    )


def _where(error: Exception) -> str:
    """File and line where it was raised; its text may hold values."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{'/'.join(frame.filename.split('/')[-3:])}:{frame.lineno}"
