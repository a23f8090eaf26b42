"""Routes to create a tenant and to invite users."""

from __future__ import annotations

import json
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

from aws_lambda_powertools.event_handler.api_gateway import Router
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from functions.api.access import Who
from functions.api.bounds import check_invitations, check_tenants
from functions.api.once import Key, key_used, once
from functions.api.refusals import Refusal, forbidden, not_found
from functions.api.storage import enqueue
from functions.api.tracing import Trace
from functions.tenant_initialize.handler import TenantInitialize, tenant_initialize
from functions.user_invitation.handler import UserInvitation, user_invitation
from saas import invitations, mail, roles, tenants

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

MAX_METADATA_BYTES = 16 * 1024

router = Router()


def _short(metadata: dict[str, Any]) -> dict[str, Any]:
    if len(json.dumps(metadata).encode()) > MAX_METADATA_BYTES:
        raise ValueError(f"{MAX_METADATA_BYTES} bytes of JSON at most")
    return metadata


def _name(name: str) -> str:
    """The name is in the subject and the text of mails to anybody, where an address would become a link."""
    if not mail.is_one_line(name):
        raise ValueError("a visible line is required, without control or direction characters")
    if mail.has_address(name):
        raise ValueError("a name without an address of the web or of e-mail is required")
    return name


def _address(email: str) -> str:
    if not mail.is_address(email):
        raise ValueError("one e-mail address is required")
    return email


class NewTenant(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=255), AfterValidator(_name)]
    slug: Annotated[str, StringConstraints(pattern=r"^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$")] = Field(
        description="Lower-case letters, digits and inner hyphens, 63 characters at most; unique among tenants."
    )
    metadata: Annotated[dict[str, Any], AfterValidator(_short)] = Field(
        default={}, description="Passed to the services that initialise the tenant."
    )


class TenantCreated(BaseModel):
    success: bool = True
    message: str
    tenant_id: UUID
    task_id: str = Field(description="The task that initialises the tenant.")


class NewInvitation(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    email: Annotated[str, StringConstraints(strip_whitespace=True), AfterValidator(_address)]
    role_id: UUID = Field(description="A role of the tenant or of the system, and not above your own.")


class InvitationCreated(BaseModel):
    success: bool = True
    message: str
    invitation_id: UUID
    expires_at: datetime
    task_id: str = Field(description="The task that sends the mail and the reminder. It ends with the invitation.")


@router.post("/tenants", status_code=201, summary="Create a tenant", tags=["tenants"])
def create_tenant(body: NewTenant, caller: Who, key: Key = None, trace: Trace = None) -> TenantCreated:
    def create(session: Session, id_: UUID) -> TenantCreated:
        check_tenants(session, caller)
        created = tenants.create(
            session, id_, name=body.name, slug=body.slug, metadata=body.metadata, created_by=caller.user_id
        )
        if not created and tenants.load(session, id_) is not None:
            raise key_used()
        if not created:
            raise Refusal(409, "a tenant with this slug exists", ("slug", "is taken"))
        # the creator's token does not contain the new tenant yet, so the task has an owner and no tenant
        payload, tags = TenantInitialize(tenant_id=id_), [f"tenant:{id_}"]
        task_id = enqueue(tenant_initialize, payload, session, id_, caller, trace, tags=tags)
        return TenantCreated(message="the tenant is being initialized", tenant_id=id_, task_id=task_id)

    return once(create, TenantCreated, caller=caller, route="POST /tenants", key=key, body=body)


@router.post("/tenants/<tenant_id>/invitations", status_code=201, summary="Invite a user", tags=["tenants"])
def invite(
    tenant_id: UUID, body: NewInvitation, caller: Who, key: Key = None, trace: Trace = None
) -> InvitationCreated:
    def create(session: Session, id_: UUID) -> InvitationCreated:
        _check_open(session, tenant_id)
        role = roles.load(session, body.role_id, tenant_id)
        if role is None:
            raise Refusal(422, "the role does not exist", ("role_id", "is no role of this tenant and no system role"))
        if role.rank > caller.rank:
            raise forbidden("a role above your own cannot be granted", ("role_id", "is above your own role"))
        check_invitations(session, caller, tenant_id)
        expires_at = invitations.create(
            session, id_, tenant_id, email=body.email, role_id=role.id, invited_by=caller.user_id
        )
        if expires_at is None:
            raise key_used()
        payload = UserInvitation(invitation_id=id_)
        task_id = enqueue(user_invitation, payload, session, id_, caller, trace, tenant=str(tenant_id))
        return InvitationCreated(
            message="the invitation is being sent", invitation_id=id_, expires_at=expires_at, task_id=task_id
        )

    route = f"POST /tenants/{tenant_id}/invitations"
    return once(create, InvitationCreated, caller=caller, route=route, key=key, body=body)


def _check_open(session: Session, tenant_id: UUID) -> None:
    """Refuse an invitation to a closed tenant, because the job would not send the mail."""
    tenant = tenants.load(session, tenant_id)
    if tenant is None or tenant.status == "deleted":
        raise not_found()
    if tenant.status == "suspended":
        raise Refusal(409, "the tenant is suspended")
