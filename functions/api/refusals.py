"""Answers that are no success, all of one shape. :data:`REFUSALS` says what each status means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from aws_lambda_powertools.event_handler import Response
from aws_lambda_powertools.event_handler.content_types import APPLICATION_JSON
from aws_lambda_powertools.event_handler.exceptions import NotFoundError
from aws_lambda_powertools.event_handler.openapi.exceptions import RequestValidationError
from pydantic import BaseModel

from joblane.errors import DatabaseUnavailableError
from joblane.record.connection import is_unavailable

RETRY_AFTER_SECONDS = 5
REFUSALS = {
    "400": "The request does not fit.",
    "401": "No claims, or claims that name nobody.",
    "403": "The caller's role does not allow it.",
    "404": "There is no such thing, or it is somebody else's.",
    "409": "It is there already, or in a state that rules this out.",
    "410": "It is kept no longer.",
    "413": "The body is too large.",
    "415": "The body is no JSON.",
    "422": "It fits and cannot be done, or the key came with another request before.",
    "500": "A fault of ours.",
    "503": "The database does not answer.",
}
"""Of the answers to a request, as the OpenAPI document has them."""


class Problem(BaseModel):
    """One field of a request and what is wrong with it."""

    field: str
    problem: str


class Refused(BaseModel):
    """The body of every answer that is no success."""

    success: bool = False
    message: str
    errors: list[Problem] = []


class Refusal(Exception):  # noqa: N818 - an answer, not a fault
    """Ends a request with an answer that is no success; what it has written is rolled back."""

    def __init__(
        self, status: int, message: str, *errors: tuple[str, str], headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.body = Refused(message=message, errors=[Problem(field=name, problem=why) for name, why in errors])
        self.headers = headers or {}


def bad_request(*errors: tuple[str, str]) -> Refusal:
    return Refusal(400, "the request does not fit", *errors)


def unauthorized() -> Refusal:
    return Refusal(401, "sign in first", headers={"WWW-Authenticate": "Bearer"})


def forbidden(why: str, *errors: tuple[str, str]) -> Refusal:
    return Refusal(403, why, *errors)


def not_found() -> Refusal:
    return Refusal(404, "not found")


def unavailable() -> Refusal:
    return Refusal(503, "try again in a moment", headers={"Retry-After": str(RETRY_AFTER_SECONDS)})


def refusal_of(error: Exception) -> Refusal | None:
    """What an error comes to; None for a fault of ours."""
    match error:
        case Refusal():
            return error
        case RequestValidationError():
            return bad_request(*map(_problem, error.errors()))
        case NotFoundError():
            return not_found()
        case DatabaseUnavailableError():
            return unavailable()
    return unavailable() if is_unavailable(error) else None


def answer(refusal: Refusal) -> Response[Any]:
    return Response(
        status_code=refusal.status,
        content_type=APPLICATION_JSON,
        body=refusal.body.model_dump(),
        headers=dict(refusal.headers),
    )


# --- What pydantic says of a field ---------------------------------------------------------------------------------

OF_THE_TOKEN = ("tenant_id", "user_id", "owner", "created_by", "invited_by", "roles", "role", "sub")
OWN_WORDS = {
    "extra_forbidden": "is not a field of this request",
    "missing": "is required",
    "uuid_parsing": "a UUID is required",
}
"""In place of pydantic's: some of those show the value."""
MAX_NAME = 100
"""Of a field that the sender made up."""


def _problem(error: Mapping[str, Any]) -> tuple[str, str]:
    where: Sequence[Any] = error["loc"]
    name = ".".join(str(part) for part in where[1:]) or str(where[0])
    if where[0] == "header":  # Powertools has its name in lower case
        name = name.title()
    kind = error["type"]
    if kind == "extra_forbidden" and name in OF_THE_TOKEN:
        return name, "cannot be given: who you are, and your tenant, come from your token"
    return name[:MAX_NAME], OWN_WORDS.get(kind, str(error["msg"]).removeprefix("Value error, "))
