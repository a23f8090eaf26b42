"""Idempotent requests: the ``Idempotency-Key`` header.

The id of the created object is derived from the key, so it is the same in every repetition. The answer is stored in the
transaction of the request. A key belongs to its caller, tenant and route, and does not conflict with those of others.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, TypeVar
from uuid import UUID, uuid5

from aws_lambda_powertools.event_handler.openapi.params import Header
from pydantic import BaseModel

from functions.api.access import Caller
from functions.api.refusals import Refusal
from functions.api.storage import transaction
from joblane import TaskIdConflictError
from joblane.enqueue.check import new_id
from joblane.json_values import canonical, digest
from saas import requests, users

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

NAME = "Idempotency-Key"
NAMESPACE = UUID("5f6e1d0c-6a52-4d0b-9f4e-0d6f1c7f2a31")
"""A random namespace for these ids."""

Key = Annotated[
    str | None,
    Header(
        alias=NAME,
        min_length=1,
        max_length=200,
        pattern="^[!-~]+$",
        description="Requests with the same key are executed once and get the same answer, for seven days.",
    ),
]
A = TypeVar("A", bound=BaseModel)


def once(
    make: Callable[[Session, UUID], A], answer: type[A], *, caller: Caller, route: str, key: str | None, body: BaseModel
) -> A:
    """Call ``make`` with a session and the id of the object to create, or return its stored answer.

    ``route``: with the values of its path. All changes and enqueues of ``make`` are committed together, with the
    caller's e-mail address, which jobs use. Raises 422 if the key was used with another body, or its id exists.
    """
    if key is None:
        with transaction() as session:
            return _make(make, session, UUID(new_id()), caller)
    request_id = id_of(caller, route, key)
    fingerprint = digest(body.model_dump(mode="json"))
    with transaction() as session:
        known = requests.begin(session, request_id, fingerprint)
        if known is None:
            created = _make(make, session, request_id, caller)
            requests.keep(session, request_id, created.model_dump(mode="json"))
            return created
    if known.fingerprint != fingerprint:
        raise key_used()
    return answer.model_validate(known.answer)


def _make(make: Callable[[Session, UUID], A], session: Session, id_: UUID, caller: Caller) -> A:
    try:
        created = make(session, id_)
    except TaskIdConflictError:
        raise key_used() from None
    if caller.email is not None:
        users.remember_address(session, caller.user_id, caller.email)
    return created


def id_of(caller: Caller, route: str, key: str) -> UUID:
    tenant = None if caller.tenant_id is None else str(caller.tenant_id)
    return uuid5(NAMESPACE, canonical([tenant, caller.user_id, route, key]))


def key_used() -> Refusal:
    """Return the refusal for a key whose object exists, of another request or of a request that is not stored now."""
    return Refusal(422, "the key was used before", (NAME, "was used by an earlier request; use a new key"))
