"""Routes for the weekly reports of a tenant: each has a schedule that is made at run time, and no deploy.

The platform's row and the library's schedule are written in one transaction, so that both exist or neither.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

from aws_lambda_powertools.event_handler.api_gateway import Router
from aws_lambda_powertools.event_handler.openapi.params import Path
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from functions.api.access import Who
from functions.api.refusals import Refusal, not_found
from functions.api.storage import jobs, transaction
from functions.report_generate.handler import ReportGenerate, report_generate
from joblane.errors import DeclarationError
from saas import report_schedules, tenants
from saas.report_schedules import Day, ReportSchedule

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

router = Router()

Name = Annotated[
    str,
    Path(
        pattern=r"^[a-z0-9](?:[a-z0-9-]{0,38}[a-z0-9])?$",
        description="A name that you choose: lower-case letters, digits and inner hyphens, 40 characters at most.",
    ),
]


class NewReportSchedule(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    day: Day
    time: Annotated[str, StringConstraints(pattern=r"^(?:[01][0-9]|2[0-3]):[0-5][0-9]$")] = Field(
        description="`HH:MM` in the time zone. A time that a clock change skips comes in the next week."
    )
    timezone: Annotated[str, StringConstraints(min_length=1, max_length=64)] = Field(
        default="UTC", description="A name of the IANA database, for example `Europe/Berlin`."
    )


class ReportScheduleState(BaseModel):
    success: bool = True
    name: str
    day: Day
    time: str
    timezone: str
    next_at: datetime | None = Field(description="Time of the next report. Null: it is paused.")


class ReportSchedules(BaseModel):
    success: bool = True
    schedules: list[ReportScheduleState]


class ReportScheduleDeleted(BaseModel):
    success: bool = True
    message: str


@router.put("/reports/schedules/<name>", summary="Set up or change a weekly report of your tenant", tags=["reports"])
def put_schedule(name: Name, body: NewReportSchedule, caller: Who) -> ReportScheduleState:
    report = ReportSchedule(name, body.day, body.time, body.timezone)
    try:
        schedule = report.schedule
    except DeclarationError:
        raise Refusal(
            422, "the time zone does not exist", ("timezone", "is not in the IANA database; for example Europe/Berlin")
        ) from None
    with transaction() as session:
        _check_exists(session, caller.tenant)
        if not report_schedules.put(session, caller.tenant, report, caller.user_id):
            raise Refusal(
                422,
                "there are too many schedules",
                ("name", f"a tenant has {report_schedules.MOST} at most; delete one first"),
            )
        jobs().schedules.put(
            report_schedules.name_of(caller.tenant, name),
            report_generate,
            ReportGenerate(tenant_id=caller.tenant),
            schedule,
            tenant=str(caller.tenant),
            session=session,
        )
    return _state(caller.tenant, report)


@router.get("/reports/schedules", summary="List the weekly reports of your tenant", tags=["reports"])
def list_schedules(caller: Who) -> ReportSchedules:
    with transaction() as session:
        found = report_schedules.of_tenant(session, caller.tenant)
    return ReportSchedules(schedules=[_state(caller.tenant, report) for report in found])


@router.get("/reports/schedules/<name>", summary="Show a weekly report of your tenant", tags=["reports"])
def show_schedule(name: Name, caller: Who) -> ReportScheduleState:
    with transaction() as session:
        found = report_schedules.load(session, caller.tenant, name)
    if found is None:
        raise not_found()
    return _state(caller.tenant, found)


@router.delete("/reports/schedules/<name>", summary="End a weekly report of your tenant", tags=["reports"])
def delete_schedule(name: Name, caller: Who) -> ReportScheduleDeleted:
    with transaction() as session:
        if not report_schedules.remove(session, caller.tenant, name):
            raise not_found()
        jobs().schedules.delete(report_schedules.name_of(caller.tenant, name), session=session)
    return ReportScheduleDeleted(message="no more reports of this schedule are written")


def _state(tenant_id: UUID, report: ReportSchedule) -> ReportScheduleState:
    found = jobs().schedules.get(report_schedules.name_of(tenant_id, report.name))
    next_at = None if found is None else found.next_at
    return ReportScheduleState(
        name=report.name, day=report.day, time=report.time, timezone=report.timezone, next_at=next_at
    )


def _check_exists(session: Session, tenant_id: UUID) -> None:
    tenant = tenants.load(session, tenant_id)
    if tenant is None or tenant.status == "deleted":
        raise not_found()
