"""Runs the operation of a verified request on the Inspector, and returns the answer.

Before API Gateway calls this function, it has verified the signature and that IAM allows the route to the caller. The
route determines the verified permission: an operation that needs another permission is refused. The caller's identity
comes only from API Gateway, never from a header or a body. The one exception is the function of the stage's page: from
its role, which no other identity has, a header with a verified person is believed, and required.
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

from pg8000.exceptions import Error as PostgresError

from joblane import errors, settings, telemetry
from joblane.inspector import wire
from joblane.inspector.errors import (
    ActionError,
    BusyError,
    DatabaseAsleepError,
    RoleError,
    SelectionError,
    UnknownBatchError,
    UnknownBulkError,
)
from joblane.inspector.inspector import Inspector
from joblane.inspector.permission import ROUTES, Permission
from joblane.inspector.person import HEADER, PAGE_ROLE, Person
from joblane.inspector.scope import Scope
from joblane.record.driver.advice import advice_for
from joblane.record.driver.connection import is_unavailable
from joblane.record.driver.database import Database
from joblane.record.driver.login import LoginError
from joblane.record.driver.waking import connect_patiently
from joblane.sqs.client import Sqs
from joblane.tasks.discovery import discover

MAX_ANSWER_BYTES = 4_500_000
"""Lambda's limit is 6 MB, and JSON escapes in the text need additional bytes. Source: Lambda quotas."""
WAKING_SECONDS = 12
"""The time in which an action starts tries to connect. The last one ends 5 s later (``TRY_SECONDS``), before the page
of the stage stops waiting (20 s), and most of the function's 29 s are left for the action if the database is awake."""
STATUSES: tuple[tuple[type[errors.JobError], int], ...] = (
    (errors.DatabaseUnavailableError, 503),
    (errors.UnknownTaskError, 404),
    (errors.UnknownScheduleError, 404),
    (UnknownBatchError, 404),
    (UnknownBulkError, 404),
    (RoleError, 403),
    (ActionError, 409),
    (BusyError, 409),
    (errors.TaskIdConflictError, 409),
    (errors.DuplicateTaskError, 409),
    (errors.FieldError, 422),
    (errors.UnreadablePayloadError, 422),
    (wire.ArgumentsError, 422),
    (errors.JobError, 400),
)
"""Status of an error: the first matching class. With 5xx a later request may succeed."""


class Refusal(Exception):  # noqa: N818 - an answer, not a fault
    """A request that is refused before any operation."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Request:
    """An accepted request. ``who``: the ARN of the signer, with the name of its session; if the page acts for a
    ``person``, ``oidc:`` and the person's name."""

    who: str
    operation: str
    permission: Permission
    arguments: bytes
    person: Person | None = None


def answer(event: Mapping[str, Any]) -> dict[str, Any]:
    """Answer a request, and log it in one line without its values. All results are decided here."""
    started, request, content = time.monotonic(), None, b""
    try:
        request = accept(event)
        if request.person is not None:
            request.person.check(request.operation, request.permission)
        if request.permission is not Permission.VIEW:
            connect_first(_scope().database)
        content = wire.call(Inspector(replace(_scope(), who=request.who)), request.operation, request.arguments)
        status = 200
        if len(content) > MAX_ANSWER_BYTES:
            raise SelectionError(
                "limit", f"the answer has {len(content):,} bytes, and the limit is {MAX_ANSWER_BYTES:,}; select less"
            )
    except Refusal as refusal:
        status, content = refusal.status, json.dumps({"message": str(refusal)}).encode()
    except errors.JobError as error:
        status = next(status for kind, status in STATUSES if isinstance(error, kind))
        content = json.dumps({"error": wire.encode_error(error)}).encode()
    except Exception as error:
        status, content = 500, b'{"message": "internal error"}'
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


def connect_first(database: Database) -> None:
    """Connect before an action, so that the action finds the database awake, or never starts.

    A query needs no such care: it may be repeated. Some queries do not use the database at all.

    Raises :class:`DatabaseAsleepError`, after which the client repeats the action, and
    :class:`~joblane.errors.DatabaseUnavailableError` for a refused login.
    """
    try:
        connect_patiently(database, WAKING_SECONDS)
    except LoginError as error:
        raise errors.DatabaseUnavailableError(f"the database is unavailable: {error}. Nothing was done") from error
    except (PostgresError, OSError) as error:
        if (advice := advice_for(error)) is not None:
            text = f"the database is unavailable: {errors.text_of(error)}; {advice}. Nothing was done"
            raise errors.DatabaseUnavailableError(text) from error
        if is_unavailable(error):  # any other error comes again in the action, which translates it
            raise DatabaseAsleepError(
                f"the database does not answer: {errors.text_of(error)}. Nothing was done. A database that was asleep"
                " takes 15 to 30 seconds to start, and longer after a day"
            ) from error


def accept(event: Mapping[str, Any]) -> Request:
    """Return the caller and the operation of a request. Raises :class:`Refusal`."""
    who = caller_of(event)
    person = person_of(event, who)
    verified = ROUTES.get(str(event.get("routeKey")))
    operation = str((event.get("pathParameters") or {}).get("operation"))
    needed = wire.operations().get(operation)
    if verified is None or needed is None:
        raise Refusal(404, "there is no such operation")
    if needed is not verified:
        raise Refusal(403, f"{operation} needs the permission to {needed}: POST /{needed}/{operation}")
    who = who if person is None else f"oidc:{person.name}"
    return Request(who, operation, needed, _body(event), person)


def caller_of(event: Mapping[str, Any]) -> str:
    """Return the ARN of the verified signer. The ARN of an assumed role has the name of its session.

    Raises :class:`Refusal` without a verified signer, and for users of an identity pool, who share one ARN.
    """
    signer = event.get("requestContext", {}).get("authorizer", {}).get("iam") or {}
    arn = signer.get("userArn")
    if not isinstance(arn, str) or not arn:
        raise Refusal(403, "no signer was verified")
    if signer.get("cognitoIdentity"):
        raise Refusal(403, "users of an identity pool share one identity; use a role or a user of the account")
    return arn


def person_of(event: Mapping[str, Any], who: str) -> Person | None:
    """Return the person that the page of the stage calls for; None if another identity calls for itself.

    Raises :class:`Refusal` if another identity names a person, and if the page names none.
    """
    given = next((text for name, text in (event.get("headers") or {}).items() if name.lower() == HEADER.lower()), None)
    page = os.environ.get(PAGE_ROLE)
    if not page or not who.startswith(page):
        if given is not None:
            raise Refusal(403, f"only the page of the stage may send {HEADER}")
        return None
    try:
        return Person.of_header(given or "")
    except ValueError as error:
        raise Refusal(403, f"{HEADER} of the page is not valid: {error}") from None


def _body(event: Mapping[str, Any]) -> bytes:
    body = event.get("body") or "{}"
    return base64.b64decode(body) if event.get("isBase64Encoded") else str(body).encode()


@cache
def _scope() -> Scope:
    """Return the scope of this process, without a caller."""
    return Scope(
        database=Database(settings.database_url(), prefix=settings.prefix()),
        sqs=Sqs(),
        prefix=settings.prefix(),
        tasks=discover(),
        who="",
        region=os.environ.get("AWS_REGION", ""),
    )


def _where(error: Exception) -> str:
    """Return file and line where the error was raised. Its text is not logged, because it may contain values."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{'/'.join(frame.filename.split('/')[-3:])}:{frame.lineno}"
