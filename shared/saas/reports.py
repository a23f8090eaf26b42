"""Weekly reports of tenants: a JSON object per tenant with its members, its invitations and the outcomes of its jobs.

The key is ``reports/{tenant_id}/{slug}_{YYYYMMDD}.json``, with the day on which the week ended, in the bucket of the
exports. A second write of a report has the same key.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

from sqlalchemy import Column, DateTime, MetaData, String, Table, and_, func, select

from saas.exports import file_slug
from saas.tables import tenant_members, user_invitations
from saas.tenants import Tenant

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from sqlalchemy import ColumnElement
    from sqlalchemy.orm import Session

FORMAT = 1
FOLDER = "reports/"
SUNDAY = 6
TICK_ID = re.compile(r"@.+:(\d{4}-\d\d-\d\dT\d\d:\d\dZ):\d+")
"""Format of the ids of the ticks of schedules at run time."""

_tasks = Table(
    "tasks",
    MetaData(schema="joblane"),
    Column("id", String),
    Column("tenant", String),
    Column("type", String),
    Column("state", String),
    Column("created_at", DateTime(timezone=True)),
    Column("finished_at", DateTime(timezone=True)),
    schema="joblane",
)
"""The columns of the library's task table that the reports read."""


@dataclass(frozen=True, slots=True)
class Week:
    """Seven days in UTC, from ``start`` up to but not including ``end``."""

    start: datetime
    end: datetime

    @classmethod
    def before(cls, moment: datetime) -> Week:
        """Return the last week that ended on a Sunday at midnight, so that a late run reports on the same days."""
        day = moment.astimezone(UTC).date()
        return cls.ending(day - timedelta(days=(day.weekday() - SUNDAY) % 7))

    @classmethod
    def ending(cls, day: date) -> Week:
        end = datetime.combine(day, time(), UTC)
        return cls(end - timedelta(days=7), end)

    def holds(self, column: ColumnElement[Any]) -> ColumnElement[bool]:
        return and_(column >= self.start, column < self.end)


def asked_at(session: Session, task_id: str) -> datetime:
    """Return the time of a schedule's tick, or at which another task was enqueued. It is the same in all runs.

    The task of a tick is enqueued ahead of its time, which is in its id.
    """
    if tick := TICK_ID.fullmatch(task_id):
        return datetime.fromisoformat(tick[1])
    found: datetime = session.execute(select(_tasks.c.created_at).where(_tasks.c.id == task_id)).scalar_one()
    return found


Outcomes = Mapping[str, Mapping[str, Mapping[str, int]]]
"""Tenant → type of task → final state → number of tasks."""


def outcomes(session: Session, week: Week, tenant_id: UUID | None = None) -> Outcomes:
    """Count the tasks of a tenant, or of all tenants, that ended in a week, in one query."""
    tasks = _tasks.c
    is_counted = tasks.tenant.is_not(None) if tenant_id is None else tasks.tenant == str(tenant_id)
    rows = session.execute(
        select(tasks.tenant, tasks.type, tasks.state, func.count())
        .where(is_counted, week.holds(tasks.finished_at))
        .group_by(tasks.tenant, tasks.type, tasks.state)
        .order_by(tasks.tenant, tasks.type, tasks.state)
    )
    found: dict[str, dict[str, dict[str, int]]] = defaultdict(dict)
    for tenant, type_, state, count in rows:
        found[tenant].setdefault(type_, {})[state] = count
    return found


def compile_page(session: Session, page: Sequence[Tenant], week: Week, jobs: Outcomes) -> dict[UUID, dict[str, Any]]:
    """Return the reports of a page of tenants, by their ids."""
    ids = [tenant.id for tenant in page]
    members, invitations = _members(session, ids, week), _invitations(session, ids, week)
    return {
        tenant.id: {
            "format": FORMAT,
            "tenant": {"id": str(tenant.id), "name": tenant.name, "slug": tenant.slug, "status": tenant.status},
            "from": week.start.isoformat(),
            "to": week.end.isoformat(),
            "members": members.get(tenant.id, {"joined": 0, "by_status": {}}),
            "invitations": invitations.get(tenant.id, {"sent": 0, "accepted": 0, "expired": 0, "open": 0}),
            "jobs": jobs.get(str(tenant.id), {}),
        }
        for tenant in page
    }


def write(client: S3Client, bucket: str, tenant: Tenant, week: Week, report: Mapping[str, Any]) -> str:
    """Write a report, and return its key."""
    key = f"{folder_of(tenant.id)}{file_slug(tenant)}_{week.end:%Y%m%d}.json"
    body = json.dumps(report, ensure_ascii=False, indent=2).encode()
    client.put_object(Bucket=bucket, Key=key, Body=body, ContentType="application/json")
    return key


def folder_of(tenant_id: UUID) -> str:
    """Return the key prefix of a tenant's reports."""
    return f"{FOLDER}{tenant_id}/"


# --- Counting ------------------------------------------------------------------------------------------------------


def _members(session: Session, ids: Sequence[UUID], week: Week) -> dict[UUID, dict[str, Any]]:
    """Count members by their current status, and the members who joined in the week."""
    members = tenant_members.c
    joined = func.count().filter(week.holds(func.coalesce(members.joined_at, members.created_at)))
    rows = session.execute(
        select(members.tenant_id, members.status, func.count(), joined)
        .where(members.tenant_id.in_(ids))
        .group_by(members.tenant_id, members.status)
        .order_by(members.tenant_id, members.status)
    )
    found: dict[UUID, dict[str, Any]] = {}
    for tenant_id, status, count, new in rows:
        of_tenant = found.setdefault(tenant_id, {"joined": 0, "by_status": {}})
        of_tenant["joined"] += new
        of_tenant["by_status"][status] = count
    return found


def _invitations(session: Session, ids: Sequence[UUID], week: Week) -> dict[UUID, dict[str, Any]]:
    """Count the invitations that were sent, accepted or expired in the week, and the open invitations."""
    items = user_invitations.c
    is_open = and_(items.status == "pending", items.expires_at > func.now())
    rows = session.execute(
        select(
            items.tenant_id,
            func.count().filter(week.holds(items.created_at)),
            func.count().filter(week.holds(items.accepted_at)),
            func.count().filter(items.status == "expired", week.holds(items.expires_at)),
            func.count().filter(is_open),
        )
        .where(items.tenant_id.in_(ids))
        .group_by(items.tenant_id)
    )
    return {
        tenant_id: {"sent": sent, "accepted": accepted, "expired": expired, "open": still_open}
        for tenant_id, sent, accepted, expired, still_open in rows
    }
