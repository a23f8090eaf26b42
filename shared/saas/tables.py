"""The platform's tables in SQLAlchemy Core. The migrations create them; a test compares both.

These are no mapped classes: the jobs read a few columns of many rows, and mapping takes start-up time.
"""

from __future__ import annotations

from sqlalchemy import (
    Boolean,
    Column,
    DateTime,
    ForeignKey,
    Index,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB, UUID

SCHEMA = "saas"

metadata = MetaData(schema=SCHEMA)


def _id() -> Column[object]:
    return Column("id", UUID(), primary_key=True, server_default=text("gen_random_uuid()"))


def _time(name: str) -> Column[object]:
    return Column(name, DateTime(timezone=True))


def _now(name: str) -> Column[object]:
    return Column(name, DateTime(timezone=True), nullable=False, server_default=text("now()"))


def _string(name: str, length: int, *, unique: bool = False, nullable: bool = False) -> Column[object]:
    return Column(name, String(length), unique=unique or None, nullable=nullable)


def _status(default: str) -> Column[object]:
    return Column("status", String(20), nullable=False, server_default=default)


def _flag(name: str, default: str) -> Column[object]:
    return Column(name, Boolean, nullable=False, server_default=text(default))


def _metadata() -> Column[object]:
    return Column("metadata", JSONB, nullable=False, server_default="{}")


def _tenant_id(*, nullable: bool = False) -> Column[object]:
    return Column("tenant_id", UUID(), ForeignKey(f"{SCHEMA}.tenants.id", ondelete="CASCADE"), nullable=nullable)


def _role_id() -> Column[object]:
    return Column("role_id", UUID(), ForeignKey(f"{SCHEMA}.roles.id"), nullable=False)


tenants = Table(
    "tenants",
    metadata,
    _id(),
    _string("name", 255),
    _string("slug", 255, unique=True),
    _status("pending"),
    _metadata(),
    _string("created_by", 255),
    _now("created_at"),
    _now("updated_at"),
    _time("deleted_at"),
)
"""``status``: pending, active, suspended, deleted. ``deleted_at``: time of the soft delete."""
Index("tenants_creator", tenants.c.created_by, tenants.c.created_at)
Index("tenants_deleted", tenants.c.deleted_at, postgresql_where=tenants.c.deleted_at.is_not(None))

roles = Table(
    "roles",
    metadata,
    _id(),
    _string("name", 100),
    _string("type", 20),
    Column("description", Text),
    _tenant_id(nullable=True),
    _flag("is_system", "false"),
    _now("created_at"),
    _now("updated_at"),
    Index("roles_tenant", "tenant_id"),
)
"""``tenant_id`` null: a system role."""

tenant_members = Table(
    "tenant_members",
    metadata,
    _id(),
    _tenant_id(),
    _string("user_id", 255),
    _role_id(),
    _status("active"),
    _string("invited_by", 255, nullable=True),
    _time("joined_at"),
    _now("created_at"),
    _now("updated_at"),
    UniqueConstraint("tenant_id", "user_id"),
    Index("tenant_members_role", "role_id"),
)
"""``user_id``: the identity provider's id, a text. ``status``: active, inactive, pending."""

user_invitations = Table(
    "user_invitations",
    metadata,
    _id(),
    _tenant_id(),
    _string("email", 255),
    _string("invited_by", 255),
    _role_id(),
    _string("token", 255, unique=True),
    _status("pending"),
    _time("accepted_at"),
    Column("expires_at", DateTime(timezone=True), nullable=False),
    _now("created_at"),
    _now("updated_at"),
    Index("user_invitations_tenant", "tenant_id", "id"),
    Index("user_invitations_role", "role_id"),
    Index("user_invitations_inviter", "invited_by", "created_at"),
)
"""``status``: pending, accepted, expired, cancelled. ``token``: a secret; anyone who has it can accept."""
Index(
    "user_invitations_expiry",
    user_invitations.c.expires_at,
    postgresql_where=user_invitations.c.status == "pending",
)

report_schedules = Table(
    "report_schedules",
    metadata,
    Column(
        "tenant_id", UUID(), ForeignKey(f"{SCHEMA}.tenants.id", ondelete="CASCADE"), primary_key=True, nullable=False
    ),
    Column("name", String(40), primary_key=True),
    Column("day", String(9), nullable=False),
    Column("time", String(5), nullable=False),
    Column("timezone", String(64), nullable=False),
    _string("created_by", 255),
    _now("created_at"),
    _now("updated_at"),
)
"""Weekly reports that tenants have set up. ``time``: ``HH:MM`` in the time zone."""

system_users = Table(
    "system_users",
    metadata,
    _id(),
    _string("name", 100, unique=True),
    _string("application_name", 100),
    _string("email", 255, unique=True),
    _string("user_id", 255, unique=True),
    Column("description", Text),
    _string("service_type", 20),
    _flag("is_active", "true"),
    _flag("is_primary", "false"),
    _time("expires_at"),
    _time("grace_period_at"),
    _time("grace_warned_for"),
    _string("created_by", 255),
    _time("last_used_at"),
    _metadata(),
    _now("created_at"),
    _now("updated_at"),
)
"""``service_type``: worker, integration, cron, api. ``grace_warned_for``: ``grace_period_at`` of the last warning."""
Index("system_users_expiry", system_users.c.expires_at, postgresql_where=system_users.c.is_active)
Index(
    "system_users_grace",
    system_users.c.grace_period_at,
    postgresql_where=system_users.c.grace_period_at.is_not(None),
)

user_addresses = Table(
    "user_addresses",
    metadata,
    Column("user_id", String(255), primary_key=True),
    _string("email", 255),
    _now("updated_at"),
)
"""E-mail addresses of users."""

api_requests = Table(
    "api_requests",
    metadata,
    Column("id", UUID(), primary_key=True),
    _string("fingerprint", 64),
    Column("answer", JSONB, nullable=False, server_default="{}"),
    _now("created_at"),
    Index("api_requests_age", "created_at"),
)
"""Requests with an ``Idempotency-Key``. ``id`` is derived from the caller, the route and the key."""
