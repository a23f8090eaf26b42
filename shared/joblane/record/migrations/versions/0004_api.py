"""What the HTTP API remembers of requests that may come again, and indexes for the nightly cleanup."""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"

# One row per Idempotency-Key of a caller and route: what was asked, as a digest, and what was answered. It commits with
# what the request did.
API_REQUESTS = """
create table api_requests (
    id          uuid primary key,
    fingerprint varchar(64) not null,
    answer      jsonb not null default '{}',
    created_at  timestamptz not null default now()
)
"""

INDEXES = (
    "create index api_requests_age on api_requests (created_at)",
    "create index user_invitations_expiry on user_invitations (expires_at) where status = 'pending'",
    "create index tenants_deleted on tenants (deleted_at) where deleted_at is not null",
)


def upgrade() -> None:
    op.execute(API_REQUESTS)
    for index in INDEXES:
        op.execute(index)


def downgrade() -> None:
    op.execute("drop index tenants_deleted")
    op.execute("drop index user_invitations_expiry")
    op.execute("drop table api_requests")
