"""The platform's tables: tenants with their roles, members, invitations and report schedules, system users, users'
addresses, and the stored answers of the HTTP API."""

from __future__ import annotations

from alembic import op

revision = "0001"
down_revision = None

TENANTS = """
create table saas.tenants (
    id         uuid primary key default gen_random_uuid(),
    name       varchar(255) not null,
    slug       varchar(255) not null unique,
    status     varchar(20) not null default 'pending' check (status in ('pending', 'active', 'suspended', 'deleted')),
    metadata   jsonb not null default '{}',
    created_by varchar(255) not null,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    deleted_at timestamptz
)
"""

# A role without a tenant is a system role, and may be granted in every tenant.
ROLES = """
create table saas.roles (
    id          uuid primary key default gen_random_uuid(),
    name        varchar(100) not null,
    type        varchar(20) not null,
    description text,
    tenant_id   uuid references saas.tenants (id) on delete cascade,
    is_system   boolean not null default false,
    created_at  timestamptz not null default now(),
    updated_at  timestamptz not null default now()
)
"""

# The identity provider stores the users. Its ids need not be UUIDs.
TENANT_MEMBERS = """
create table saas.tenant_members (
    id         uuid primary key default gen_random_uuid(),
    tenant_id  uuid not null references saas.tenants (id) on delete cascade,
    user_id    varchar(255) not null,
    role_id    uuid not null references saas.roles (id),
    status     varchar(20) not null default 'active' check (status in ('active', 'inactive', 'pending')),
    invited_by varchar(255),
    joined_at  timestamptz,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    unique (tenant_id, user_id)
)
"""

USER_INVITATIONS = """
create table saas.user_invitations (
    id          uuid primary key default gen_random_uuid(),
    tenant_id   uuid not null references saas.tenants (id) on delete cascade,
    email       varchar(255) not null,
    invited_by  varchar(255) not null,
    role_id     uuid not null references saas.roles (id),
    token       varchar(255) not null unique,
    status      varchar(20) not null default 'pending'
                    check (status in ('pending', 'accepted', 'expired', 'cancelled')),
    accepted_at timestamptz,
    expires_at  timestamptz not null,
    created_at  timestamptz not null default now(),
    updated_at  timestamptz not null default now()
)
"""

# When a tenant's own weekly report is written. The library's schedule of the same report is written with the row.
REPORT_SCHEDULES = """
create table saas.report_schedules (
    tenant_id  uuid not null references saas.tenants (id) on delete cascade,
    name       varchar(40) not null,
    day        varchar(9) not null,
    time       varchar(5) not null,
    timezone   varchar(64) not null,
    created_by varchar(255) not null,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    primary key (tenant_id, name)
)
"""

# `grace_warned_for` is the `grace_period_at` of the last warning; a new grace period needs a new warning.
SYSTEM_USERS = """
create table saas.system_users (
    id               uuid primary key default gen_random_uuid(),
    name             varchar(100) not null unique,
    application_name varchar(100) not null,
    email            varchar(255) not null unique,
    user_id          varchar(255) not null unique,
    description      text,
    service_type     varchar(20) not null check (service_type in ('worker', 'integration', 'cron', 'api')),
    is_active        boolean not null default true,
    is_primary       boolean not null default false,
    expires_at       timestamptz,
    grace_period_at  timestamptz,
    grace_warned_for timestamptz,
    created_by       varchar(255) not null,
    last_used_at     timestamptz,
    metadata         jsonb not null default '{}',
    created_at       timestamptz not null default now(),
    updated_at       timestamptz not null default now()
)
"""

# E-mail addresses: copies of the identity provider's verified addresses, so that a job needs no call.
USER_ADDRESSES = """
create table saas.user_addresses (
    user_id    varchar(255) primary key,
    email      varchar(255) not null,
    updated_at timestamptz not null default now()
)
"""

# One row per Idempotency-Key of a caller and route, with a digest of the request and its answer. It is committed with
# the request's changes.
API_REQUESTS = """
create table saas.api_requests (
    id          uuid primary key,
    fingerprint varchar(64) not null,
    answer      jsonb not null default '{}',
    created_at  timestamptz not null default now()
)
"""

# Members are read in pages by the index of their unique key. With an index on `role_id`, deleting a role reads no whole
# table.
INDEXES = (
    "create index roles_tenant on saas.roles (tenant_id)",
    "create index tenant_members_role on saas.tenant_members (role_id)",
    "create index user_invitations_tenant on saas.user_invitations (tenant_id, id)",
    "create index user_invitations_role on saas.user_invitations (role_id)",
    "create index user_invitations_inviter on saas.user_invitations (invited_by, created_at)",
    "create index tenants_creator on saas.tenants (created_by, created_at)",
    "create index system_users_expiry on saas.system_users (expires_at) where is_active",
    "create index system_users_grace on saas.system_users (grace_period_at) where grace_period_at is not null",
    "create index api_requests_age on saas.api_requests (created_at)",
    "create index user_invitations_expiry on saas.user_invitations (expires_at) where status = 'pending'",
    "create index tenants_deleted on saas.tenants (deleted_at) where deleted_at is not null",
)


TABLES = (
    TENANTS,
    ROLES,
    TENANT_MEMBERS,
    USER_INVITATIONS,
    REPORT_SCHEDULES,
    SYSTEM_USERS,
    USER_ADDRESSES,
    API_REQUESTS,
)


def upgrade() -> None:
    for statement in (*TABLES, *INDEXES):
        op.execute(statement)


def downgrade() -> None:
    for name in (
        "api_requests",
        "user_addresses",
        "system_users",
        "report_schedules",
        "user_invitations",
        "tenant_members",
        "roles",
        "tenants",
    ):
        op.execute(f"drop table saas.{name}")
