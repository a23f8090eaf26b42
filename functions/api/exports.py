"""Routes to request an export and to fetch it."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal
from uuid import UUID

from aws_lambda_powertools.event_handler.api_gateway import Router
from pydantic import BaseModel, ConfigDict, Field

from functions.api.access import Who
from functions.api.once import Key, once
from functions.api.refusals import Refusal, not_found
from functions.api.storage import enqueue, jobs
from functions.api.tracing import Trace
from functions.data_export.handler import DataExport, ExportResult, data_export
from joblane import State
from saas import exports, settings, tenants, uploads

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

router = Router()


class NewExport(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    export_type: Literal["full", "partial"] = Field(
        description="`full`: all data. `partial`: the people who have access now, or will get it."
    )


class ExportAccepted(BaseModel):
    success: bool = True
    message: str
    task_id: str


class Download(BaseModel):
    url: str = Field(description="Valid for a few minutes, for anyone who has it: do not store it or pass it on.")
    expires_at: datetime
    file_name: str
    size_bytes: int


class ExportState(BaseModel):
    success: bool = True
    task_id: str
    state: State
    download: Download | None = Field(description="Null until the export is completed.")


@router.post("/exports", status_code=202, summary="Export your tenant's data", tags=["exports"])
def request_export(body: NewExport, caller: Who, key: Key = None, trace: Trace = None) -> ExportAccepted:
    def create(session: Session, id_: UUID) -> ExportAccepted:
        tenant = tenants.load(session, caller.tenant)
        if tenant is None or tenant.status == "deleted":
            raise not_found()
        payload = DataExport(tenant_id=tenant.id, user_id=caller.user_id, export_type=body.export_type)
        task_id = enqueue(data_export, payload, session, id_, caller, trace, tenant=str(tenant.id))
        return ExportAccepted(message="the export is being written", task_id=task_id)

    return once(create, ExportAccepted, caller=caller, route="POST /exports", key=key, body=body)


@router.get("/exports/<task_id>", summary="Fetch an export that you requested", tags=["exports"])
def fetch_export(task_id: str, caller: Who) -> ExportState:
    task = jobs().get(task_id)
    if (
        task is None
        or task.type != data_export.type
        or task.owner != caller.user_id
        or task.tenant != str(caller.tenant)
    ):
        raise not_found()
    if task.state is not State.COMPLETED:
        return ExportState(task_id=task.id, state=task.state, download=None)
    if task.result is None:
        raise Refusal(410, "the export has expired; request another one")
    result = ExportResult.model_validate(task.result)
    if not result.key.startswith(exports.folder_of(caller.tenant)):
        raise not_found()
    return ExportState(task_id=task.id, state=task.state, download=_download(result))


def _download(result: ExportResult) -> Download:
    bucket = settings.require(os.environ, "EXPORT_BUCKET", "the bucket of the exports", "acme-exports")
    return Download(
        url=exports.link(uploads.s3(), bucket, result.key),
        expires_at=datetime.now(UTC) + exports.LINK_LASTS,
        file_name=result.key.rpartition("/")[2],
        size_bytes=result.size_bytes,
    )
