"""Doing what a request asks for once, however often it comes: the ``Idempotency-Key`` header.

The id of what a request makes follows from its key, so it is the same in every repetition; what was answered is
remembered in the transaction that did the work. A key belongs to its caller, tenant and route: nobody meets another's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, TypeVar
from uuid import UUID, uuid5

from aws_lambda_powertools.event_handler.openapi.params import Header
from pydantic import BaseModel

from functions.api.access import Caller
from functions.api.record import transaction
from functions.api.refusals import Refusal
from joblane import TaskIdConflictError
from joblane.enqueue.check import new_id
from joblane.json_values import canonical, digest
from saas import requests, users

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

NAME = "Idempotency-Key"
NAMESPACE = UUID("5f6e1d0c-6a52-4d0b-9f4e-0d6f1c7f2a31")
"""Any that nobody else uses."""

Key = Annotated[
    str | None,
    Header(
        alias=NAME,
        min_length=1,
        max_length=200,
        pattern="^[!-~]+$",
        description="The same request under the same key is done once and answered alike, for seven days.",
    ),
]
A = TypeVar("A", bound=BaseModel)


def once(
    make: Callable[[Session, UUID], A], answer: type[A], *, caller: Caller, route: str, key: str | None, body: BaseModel
) -> A:
    """Call ``make`` with a session and the id of what it is to make, or return what it answered before.

    ``route``: with its path's values. All that ``make`` writes and enqueues commits together, or not at all; with it
    the caller's address, as jobs write to who asked. Raises 422 where the key came with another body before, or its id
    is taken.
    """
    if key is None:
        with transaction() as session:
            return _make(make, session, UUID(new_id()), caller)
    request_id = id_of(caller, route, key)
    fingerprint = digest(body.model_dump(mode="json"))
    with transaction() as session:
        known = requests.begin(session, request_id, fingerprint)
        if known is None:
            made = _make(make, session, request_id, caller)
            requests.keep(session, request_id, made.model_dump(mode="json"))
            return made
    if known.fingerprint != fingerprint:
        raise used()
    return answer.model_validate(known.answer)


def _make(make: Callable[[Session, UUID], A], session: Session, id_: UUID, caller: Caller) -> A:
    try:
        made = make(session, id_)
    except TaskIdConflictError:
        raise used() from None
    if caller.email is not None:
        users.remember_address(session, caller.user_id, caller.email)
    return made


def id_of(caller: Caller, route: str, key: str) -> UUID:
    tenant = None if caller.tenant_id is None else str(caller.tenant_id)
    return uuid5(NAMESPACE, canonical([tenant, caller.user_id, route, key]))


def used() -> Refusal:
    """What the key stands for is there already: of another request, or of one that is not remembered any more."""
    return Refusal(422, "the key was used before", (NAME, "came with a request before; take a new one"))
