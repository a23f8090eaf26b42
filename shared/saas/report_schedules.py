"""The weekly reports that tenants have set up: day, time and time zone of each.

For each row the library has a schedule with the name of :func:`name_of`. Both are written in one transaction.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast, get_args
from uuid import UUID

from sqlalchemy import delete, func, select
from sqlalchemy.dialects.postgresql import insert

from joblane.tasks.schedule import Schedule, cron
from saas import locks
from saas.tables import report_schedules

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

Day = Literal["sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday"]
MOST = 10
"""Report schedules of a tenant."""


@dataclass(frozen=True, slots=True)
class ReportSchedule:
    """``time``: ``HH:MM`` in the time zone."""

    name: str
    day: Day
    time: str
    timezone: str

    @property
    def schedule(self) -> Schedule:
        """The schedule as cron. Raises :class:`~joblane.errors.DeclarationError` for an unknown time zone."""
        hour, _, minute = self.time.partition(":")
        return cron(f"{int(minute)} {int(hour)} * * {get_args(Day).index(self.day)}", timezone=self.timezone)


def name_of(tenant_id: UUID, name: str) -> str:
    """Return the name of the library's schedule."""
    return f"report-{tenant_id}-{name}"


def put(session: Session, tenant_id: UUID, report: ReportSchedule, created_by: str) -> bool:
    """Insert or replace a report schedule. Return False if the tenant would have more than :data:`MOST`."""
    locks.hold(session, f"report schedules of {tenant_id}")
    others = select(func.count()).where(
        report_schedules.c.tenant_id == tenant_id, report_schedules.c.name != report.name
    )
    if session.execute(others).scalar_one() >= MOST:
        return False
    values = {"day": report.day, "time": report.time, "timezone": report.timezone}
    statement = insert(report_schedules).values(tenant_id=tenant_id, name=report.name, created_by=created_by, **values)
    session.execute(
        statement.on_conflict_do_update(index_elements=["tenant_id", "name"], set_={**values, "updated_at": func.now()})
    )
    return True


def of_tenant(session: Session, tenant_id: UUID) -> list[ReportSchedule]:
    """Return the report schedules of a tenant, in the order of their names."""
    rows = session.execute(
        select(report_schedules).where(report_schedules.c.tenant_id == tenant_id).order_by(report_schedules.c.name)
    )
    return [ReportSchedule(row.name, cast("Day", row.day), row.time, row.timezone) for row in rows]


def load(session: Session, tenant_id: UUID, name: str) -> ReportSchedule | None:
    """Return a report schedule, or None if the tenant has none with this name."""
    return next((found for found in of_tenant(session, tenant_id) if found.name == name), None)


def remove(session: Session, tenant_id: UUID, name: str) -> bool:
    """Delete a report schedule. Return False if the tenant has none with this name."""
    statement = delete(report_schedules).where(
        report_schedules.c.tenant_id == tenant_id, report_schedules.c.name == name
    )
    return session.execute(statement.returning(report_schedules.c.name)).one_or_none() is not None
