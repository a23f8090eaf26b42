"""Identity and permissions of callers: the identity comes only from the authorizer, the permissions from one table.

Before an API Gateway HTTP API calls this function, it has verified the token, and puts its claims into
``requestContext.authorizer.jwt.claims``. With the IAM authorizer it has verified the signature, and puts the principal
into ``requestContext.authorizer.iam``. Headers and bodies do not affect the identity.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any
from uuid import UUID

from aws_lambda_powertools.event_handler import APIGatewayHttpResolver, Request, Response
from aws_lambda_powertools.event_handler.depends import Depends
from aws_lambda_powertools.event_handler.middlewares import NextMiddleware

from functions.api.refusals import forbidden, not_found, unauthorized
from saas import mail
from saas.roles import Rank, rank_of

EVERYBODY = frozenset(Rank)
"""Every signed-in caller."""
ADMINS = frozenset({Rank.ADMIN, Rank.OWNER})

ROUTES: Mapping[str, frozenset[Rank]] = {
    "POST /tenants": EVERYBODY,
    "POST /tenants/{tenant_id}/invitations": ADMINS,
    "DELETE /tenants/{tenant_id}/invitations/{invitation_id}": ADMINS,
    "POST /invitations/accept": EVERYBODY,
    "POST /exports": ADMINS,
    "GET /exports/{task_id}": ADMINS,
    "GET /reports/schedules": ADMINS,
    "GET /reports/schedules/{name}": ADMINS,
    "PUT /reports/schedules/{name}": ADMINS,
    "DELETE /reports/schedules/{name}": ADMINS,
    "GET /tasks/{task_id}": EVERYBODY,
    "GET /openapi.json": EVERYBODY,
}
"""Route → ranks that may use it. Other routes are not found."""
PUBLIC = ("GET /signals/{token}", "HEAD /signals/{token}", "POST /signals/{token}")
"""Routes without a caller. A stage has them if it has the setting ``JOBLANE_SIGNAL_KEYS``."""

SUBJECT = re.compile(r"[!-~]{1,200}")
"""Format of a task's ``owner``."""
ASSUMED_ROLE = re.compile(r"(arn:[a-z-]+:sts::\d{12}:assumed-role/[^/]+)/[^/]+")
"""The caller chooses the last part, the name of the session. Source: IAM, *IAM identifiers*."""
UNQUOTED_LIST = re.compile(r"\[(.*)\]", re.DOTALL)
BETWEEN_NAMES = re.compile(r"[\s,]+")


@dataclass(frozen=True, slots=True)
class Caller:
    """The caller. ``tenant_id`` None: signed in, without a tenant. ``email`` None: no verified address.

    ``is_service``: a role or user of the account, and no user of the platform.
    """

    user_id: str
    tenant_id: UUID | None
    rank: Rank
    email: str | None = field(repr=False)
    is_service: bool = False

    @property
    def tenant(self) -> UUID:
        """The tenant. Every caller with a role has one."""
        if self.tenant_id is None:
            raise forbidden("this needs a tenant, and you are signed in without one")
        return self.tenant_id


def authorize(app: APIGatewayHttpResolver, next_middleware: NextMiddleware) -> Response[Any]:
    """Check the caller before the body is read: 401, 403, or 404 for a path of another tenant."""
    route = f"{app.request.method} {app.request.route}"
    if route in PUBLIC:
        return next_middleware(app)
    authorizer = app.current_event.request_context.authorizer
    principal = authorizer.get("iam")
    caller = service_of(principal) if principal else caller_of(authorizer.jwt_claim)
    app.append_context(caller=caller)
    allowed = ROUTES.get(route)
    if allowed is None:
        raise not_found()
    if caller.rank not in allowed:
        raise forbidden("your role does not allow this")
    tenant_id = app.request.path_parameters.get("tenant_id")
    if tenant_id is not None and (caller.tenant_id is None or _uuid(tenant_id) != caller.tenant_id):
        raise not_found()
    return next_middleware(app)


def _caller(request: Request) -> Caller:
    caller: Caller = request.context["caller"]
    return caller


Who = Annotated[Caller, Depends(_caller)]
"""The type of a route's parameter that receives the caller."""


# --- Principals ----------------------------------------------------------------------------------------------------


def service_of(principal: Mapping[str, Any]) -> Caller:
    """Return the caller of a verified signature: a role or user of the account, by its ARN, without a tenant.

    IAM has no tenants, and a tenant that a service names is not verified. So a service may use only the routes for
    everybody. A role is one caller in all its sessions. Raises 401 without an ARN, and 403 for the users of an identity
    pool, who share a role and would see each other's tasks.
    """
    arn = principal.get("userArn")
    if not isinstance(arn, str):
        raise unauthorized()
    if principal.get("cognitoIdentity"):
        raise forbidden("users of an identity pool share one identity; call as a role or user of the account")
    assumed = ASSUMED_ROLE.fullmatch(arn)
    name = assumed[1] if assumed else arn
    if not SUBJECT.fullmatch(name):
        raise forbidden("the ARN of a caller may have 200 characters at most")
    return Caller(name, None, Rank.GUEST, None, is_service=True)


# --- Claims --------------------------------------------------------------------------------------------------------


def caller_of(claims: Mapping[str, Any]) -> Caller:
    """Return the caller of verified claims: ``sub``, ``tenant_id``, ``roles``, ``email`` and ``email_verified``.

    Unknown roles are ignored, and the highest role counts. An address counts only if ``email_verified`` is true. Raises
    401 for claims without a valid ``sub`` or with an invalid ``tenant_id``.
    """
    subject = claims.get("sub")
    if not isinstance(subject, str) or not SUBJECT.fullmatch(subject):
        raise unauthorized()
    named, tenant_id = claims.get("tenant_id"), None
    if named:
        tenant_id = _uuid(named)
        if tenant_id is None:
            raise unauthorized()
    rank = rank_of(*_role_names(claims.get("roles"))) if tenant_id else None
    return Caller(subject, tenant_id, rank or Rank.GUEST, _email(claims))


def _email(claims: Mapping[str, Any]) -> str | None:
    email = claims.get("email")
    if str(claims.get("email_verified")).lower() != "true":
        return None
    return email.strip() if isinstance(email, str) and mail.is_address(email) else None


def _role_names(roles: object) -> Sequence[str]:
    """Return the names in a claim: a list, its JSON, a single name, or the form of an HTTP API, ``[admin member]``.

    In the last form two names look like a name with a space, so it counts only if every word is a known name.
    """
    if isinstance(roles, str) and (unquoted := UNQUOTED_LIST.fullmatch(roles.strip())):
        try:
            roles = json.loads(roles)
        except (ValueError, RecursionError):
            words = [word for word in BETWEEN_NAMES.split(unquoted[1]) if word]
            return words if all(rank_of(word) for word in words) else []
    if isinstance(roles, list):
        return [role for role in roles if isinstance(role, str)]
    return [roles] if isinstance(roles, str) else []


def _uuid(value: object) -> UUID | None:
    try:
        return UUID(value) if isinstance(value, str) else None
    except ValueError:
        return None
