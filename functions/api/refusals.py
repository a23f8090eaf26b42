"""Answers to refused and failed requests, all in the same format. :data:`REFUSALS` describes each status."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from aws_lambda_powertools.event_handler import Response
from aws_lambda_powertools.event_handler.content_types import APPLICATION_JSON
from aws_lambda_powertools.event_handler.exceptions import NotFoundError
from aws_lambda_powertools.event_handler.openapi.exceptions import RequestValidationError
from pydantic import BaseModel

from joblane.errors import DatabaseUnavailableError, ScheduleError
from joblane.record.driver.connection import is_unavailable

RETRY_AFTER_SECONDS = 5
REFUSALS = {
    "400": "The request is not valid.",
    "401": "There are no claims, or they identify no caller.",
    "403": "The caller's role does not allow it.",
    "404": "It does not exist, or it belongs to another caller.",
    "409": "It exists already, or its state does not allow this.",
    "410": "It has expired.",
    "413": "The body is too large.",
    "415": "The body is not JSON.",
    "422": "The request is valid and cannot be executed, or its key was used by another request.",
    "429": "Too much was created in 24 hours, or the rate limit is exceeded.",
    "500": "Internal error.",
    "503": "The database does not answer, or another change has not ended.",
}
"""Status → description in the OpenAPI document."""


class Problem(BaseModel):
    """A field of a request and its problem."""

    field: str
    problem: str


class Refused(BaseModel):
    """The body of the answer to a refused or failed request."""

    success: bool = False
    message: str
    errors: list[Problem] = []


class Refusal(Exception):  # noqa: N818 - an answer, not a fault
    """Ends a request with a refusal. Its changes are rolled back."""

    def __init__(
        self, status: int, message: str, *errors: tuple[str, str], headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.body = Refused(message=message, errors=[Problem(field=name, problem=why) for name, why in errors])
        self.headers = headers or {}


def bad_request(*errors: tuple[str, str]) -> Refusal:
    return Refusal(400, "the request is not valid", *errors)


def unauthorized() -> Refusal:
    return Refusal(401, "sign in first", headers={"WWW-Authenticate": "Bearer"})


def forbidden(why: str, *errors: tuple[str, str]) -> Refusal:
    return Refusal(403, why, *errors)


def not_found() -> Refusal:
    return Refusal(404, "not found")


def unavailable() -> Refusal:
    return Refusal(503, "try again in a moment", headers={"Retry-After": str(RETRY_AFTER_SECONDS)})


def refusal_of(error: Exception) -> Refusal | None:
    """Return the refusal for an error, or None for an internal error."""
    match error:
        case Refusal():
            return error
        case RequestValidationError():
            return bad_request(*map(_problem, error.errors()))
        case NotFoundError():
            return not_found()
        case DatabaseUnavailableError() | ScheduleError(field="name"):  # the name is valid: another change holds it
            return unavailable()
    return unavailable() if is_unavailable(error) else None


def answer(refusal: Refusal) -> Response[Any]:
    return Response(
        status_code=refusal.status,
        content_type=APPLICATION_JSON,
        body=refusal.body.model_dump(),
        headers=dict(refusal.headers),
    )


# --- Pydantic's errors ---------------------------------------------------------------------------------------------

OF_THE_TOKEN = ("tenant_id", "user_id", "owner", "created_by", "invited_by", "roles", "role", "sub")
TEXTS = {
    "extra_forbidden": "is not a field of this request",
    "missing": "is required",
    "uuid_parsing": "a UUID is required",
}
"""Texts that replace pydantic's, some of which show the value."""
MAX_NAME = 100
"""Characters of a field's name, which the sender may have invented."""


def _problem(error: Mapping[str, Any]) -> tuple[str, str]:
    where: Sequence[Any] = error["loc"]
    name = ".".join(str(part) for part in where[1:]) or str(where[0])
    if where[0] == "header":  # Powertools writes its name in lower case
        name = name.title()
    kind = error["type"]
    if kind == "extra_forbidden" and name in OF_THE_TOKEN:
        return name, "is not accepted: your identity and your tenant come from your token"
    return name[:MAX_NAME], TEXTS.get(kind, str(error["msg"]).removeprefix("Value error, "))
