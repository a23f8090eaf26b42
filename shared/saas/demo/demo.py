"""`make demo`: the platform's jobs on the local stack, from their sends to their results."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from rich.live import Live
from rich.table import Table

from joblane.local.tools import environment_of
from joblane.names import Queue, dead_letter_name, front_door_name, lane_name
from joblane.record.row.states import ENDED
from saas.demo.services import People

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from mypy_boto3_s3 import S3Client
    from mypy_boto3_sqs import SQSClient
    from rich.console import Console
    from sqlalchemy import Engine

    from joblane.local.stack import LocalStack

PATIENCE_SECONDS = 150
POLL_SECONDS = 0.25
STYLES = {"completed": "green", "archived": "red", "active": "yellow", "retry": "magenta"}


@dataclass(frozen=True)
class Expected:
    """A task of the demo with its expected outcome. ``does``: its work, in a few words."""

    id: str
    does: str
    state: str = "completed"
    runs: int = 1


def run(stack: LocalStack, mail: Path, console: Console) -> bool:
    """Send jobs of each type, watch them and show their results. Return true if all have the expected outcome.

    ``mail``: the folder to which the functions write mails.
    """
    from sqlalchemy import create_engine

    engine = create_engine(stack.database_url.replace("postgresql://", "postgresql+pg8000://"), hide_parameters=True)
    with environment_of(stack.environment):
        import boto3

        _clear(mail)
        sqs, s3 = boto3.client("sqs"), boto3.client("s3")
        people, sent_at = People(), datetime.now(UTC)
        tasks = _send(engine, sqs, people, stack.prefix)
        rows = _watch(engine, tasks, sent_at, people, console)
        differences = _differences(tasks, rows)
        _show_export(s3, stack, rows[tasks[3].id], console)
        _show_mail(mail, console)
        _show_dead_letter(sqs, stack.prefix, tasks[-1].id, console)
    engine.dispose()
    for difference in differences:
        console.print(f"[red]✗[/red] {difference}")
    if _is_late(tasks, rows):
        console.print(
            f"This machine was too slow: after {PATIENCE_SECONDS} s jobs had not ended. Try again on an idle machine."
        )
    if not differences:
        archived = sum(task.state == "archived" for task in tasks)
        console.print(
            f"\n[green]✓[/green] All {len(tasks)} jobs have the expected outcome: {len(tasks) - archived} completed, "
            f"{archived} archived."
        )
    _show_next(console)
    return not differences


def _send(engine: Engine, sqs: SQSClient, people: People, prefix: str) -> list[Expected]:
    """Enqueue jobs by the client in a transaction, by the client without one, and by a plain SQS send."""
    from sqlalchemy.orm import Session

    from functions.data_export.handler import DataExport, data_export
    from functions.report_generate.handler import ReportGenerate, report_generate
    from functions.system_health_check.handler import SystemHealthCheck, system_health_check
    from functions.system_user_expiry.handler import SystemUserExpiry, system_user_expiry
    from functions.tenant_cleanup.handler import TenantCleanup, tenant_cleanup
    from functions.tenant_initialize.handler import TenantInitialize, tenant_initialize
    from functions.user_invitation.handler import UserInvitation, user_invitation
    from joblane import JobClient

    jobs = JobClient()
    with Session(engine) as session:  # the tenants and their jobs are committed together
        people.sign_up(session)
        initialize = jobs.enqueue(
            tenant_initialize, TenantInitialize(tenant_id=people.acme), session=session, tenant="acme"
        )
        failing = jobs.enqueue(
            tenant_initialize, TenantInitialize(tenant_id=people.globex), session=session, tenant="globex"
        )
        session.commit()
    invite = UserInvitation(invitation_id=people.invitation)
    invitation = jobs.enqueue(user_invitation, invite, task_id=str(people.invitation), tenant="acme")
    body = {
        "type": "data:export",
        "payload": {"tenant_id": str(people.acme), "user_id": str(people.user), "export_type": "full"},
    }
    front_door = sqs.get_queue_url(QueueName=front_door_name(prefix, Queue.DEFAULT))["QueueUrl"]
    export = sqs.send_message(QueueUrl=front_door, MessageBody=json.dumps(body))["MessageId"]
    expiry = jobs.enqueue(system_user_expiry, SystemUserExpiry())
    cleanup = jobs.enqueue(tenant_cleanup, TenantCleanup())
    reports = jobs.enqueue(report_generate, ReportGenerate())
    health = jobs.enqueue(system_health_check, SystemHealthCheck())
    nobody = DataExport(tenant_id=people.nobody, user_id=people.user, export_type="partial")
    missing = jobs.enqueue(data_export, nobody)
    jobs.close()
    return [
        Expected(initialize.id, "sets up tenant Acme"),
        Expected(failing.id, "fails twice for Globex", runs=3),
        Expected(invitation.id, "invites; user accepts", runs=2),
        Expected(export, "exports Acme, by boto3"),
        Expected(expiry.id, "expires a system user"),
        Expected(cleanup.id, "removes expired data"),
        Expected(reports.id, "writes weekly reports"),
        Expected(health.id, "checks the platform"),
        Expected(missing.id, "has no tenant: fails", state="archived"),
    ]


def _accept(engine: Engine, people: People) -> None:
    """Accept the invitation, as the API does. The task that waits for this continues."""
    from sqlalchemy.orm import Session

    from joblane import JobClient
    from saas import invitations

    with Session(engine) as session, JobClient() as jobs:
        if invitations.accept(session, invitations.find(session, id=people.invitation), "new.user"):
            jobs.signal(str(people.invitation), invitations.CLOSED, "accepted", session=session)
        session.commit()


# --- Watching --------------------------------------------------------------------------------------------------------

SELECT = """
select t.id, t.type, t.queue, t.state, t.runs, t.result,
       extract(epoch from t.due_at - clock_timestamp())::float8 as due,
       extract(epoch from coalesce(t.finished_at, clock_timestamp()) - :sent_at)::float8 as seconds,
       (select sum(a.duration_ms)::int from joblane.runs a where a.task_id = t.id) as run_ms
  from joblane.tasks t where t.id = any(:ids)
"""
HEADINGS = ("task", "queue", "what it does", "state", "runs", "ran for", "after")
LEGEND = (
    "[dim]ran for: the time of the handler in all runs. after: from the send to the end,\n"
    "including the cold starts of the functions and the waits before retries.[/dim]"
)


def _watch(
    engine: Engine, tasks: Sequence[Expected], sent_at: datetime, people: People, console: Console
) -> dict[str, dict[str, Any]]:
    """Show the tasks until all have ended. The user accepts once the invitation waits. Return the rows by id."""
    from sqlalchemy import text

    ends = time.monotonic() + PATIENCE_SECONDS
    parameters = {"ids": [task.id for task in tasks], "sent_at": sent_at}
    console.print()
    with Live(console=console, auto_refresh=False, transient=True) as live, engine.connect() as connection:
        while True:
            found = connection.execute(text(SELECT), parameters).mappings()
            rows = {row["id"]: dict(row) for row in found}
            connection.rollback()
            live.update(_table(tasks, rows), refresh=True)
            if rows.get(str(people.invitation), {}).get("state") == "scheduled":
                _accept(engine, people)
            ended = [row for row in rows.values() if row["state"] in ENDED]
            if len(ended) == len(tasks) or time.monotonic() > ends:
                break
            time.sleep(POLL_SECONDS)
    console.print(_table(tasks, rows))
    console.print(LEGEND)
    return rows


def _table(tasks: Sequence[Expected], rows: dict[str, dict[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="dim")
    for heading in HEADINGS:
        table.add_column(heading, justify="right" if heading in ("runs", "ran for", "after") else "left")
    for task in tasks:
        row = rows.get(task.id)
        if row is None:  # the message of boto3 until a worker claims it
            table.add_row("data:export", "default", task.does, "[dim]in SQS[/dim]")
            continue
        wait = f" in {max(0, row['due']):.0f} s" if row["state"] == "retry" else ""
        state = f"[{STYLES.get(row['state'], 'white')}]{row['state']}{wait}[/]"
        ran = "" if row["run_ms"] is None else _duration(row["run_ms"])
        table.add_row(row["type"], row["queue"], task.does, state, str(row["runs"]), ran, f"{row['seconds']:.0f} s")
    return table


def _duration(ms: int) -> str:
    """Return a duration that is not wider than its column's heading, so that the table fits in 80 columns."""
    return f"{ms} ms" if ms < 10_000 else f"{ms / 1000:.0f} s"


def _differences(tasks: Sequence[Expected], rows: dict[str, dict[str, Any]]) -> list[str]:
    """Describe the tasks that do not have the expected outcome."""
    found = []
    for task in tasks:
        row = rows.get(task.id)
        state, runs = (row["state"], row["runs"]) if row else ("not recorded", 0)
        if (state, runs) != (task.state, task.runs):
            found.append(f"{task.id} {task.does}: {state} after {runs} runs; expected: {task.state} after {task.runs}")
    return found


def _is_late(tasks: Sequence[Expected], rows: dict[str, dict[str, Any]]) -> bool:
    """True if a task has not ended in time. One that has ended otherwise is another problem."""
    return any(task.id not in rows or rows[task.id]["state"] not in ENDED for task in tasks)


# --- Results ---------------------------------------------------------------------------------------------------------


def _show_export(s3: S3Client, stack: LocalStack, row: dict[str, Any], console: Console) -> None:
    import io
    import zipfile

    if not row.get("result"):
        return
    bucket = stack.output("ExportBucket")
    content = s3.get_object(Bucket=bucket, Key=row["result"]["key"])["Body"].read()
    console.print(f"\n[bold]The export[/bold]\n  s3://{bucket}/{row['result']['key']}", soft_wrap=True)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        for item in archive.infolist():
            lines = archive.read(item).decode().count("\n")
            console.print(f"  {item.filename:<20} {item.file_size:>6} bytes  {lines} lines", highlight=False)


def _show_mail(folder: Path, console: Console) -> None:
    from email import message_from_bytes, policy

    for path in sorted(folder.glob("*.eml"), key=lambda path: path.stat().st_mtime):
        mail = message_from_bytes(path.read_bytes(), policy=policy.default)
        console.print(f"\n[bold]A mail[/bold]  to {mail['To']}: {mail['Subject']}", highlight=False)
        body = mail.get_body(("plain",))
        if body is not None and "token=" in body.get_content():
            console.print("  " + body.get_content().strip().replace("\n", "\n  "), style="dim", highlight=False)


def _show_dead_letter(sqs: SQSClient, prefix: str, id_: str, console: Console) -> None:
    queue = dead_letter_name(lane_name(prefix, Queue.DEFAULT, "data:export"))
    url = sqs.get_queue_url(QueueName=queue)["QueueUrl"]
    answer = sqs.receive_message(
        QueueUrl=url, MaxNumberOfMessages=10, VisibilityTimeout=0, MessageAttributeNames=["All"]
    )
    for message in answer.get("Messages", []):
        if id_ in message["Body"]:
            attributes = {name: value["StringValue"] for name, value in message["MessageAttributes"].items()}
            console.print(f"\n[bold]The dead letter of the archived job[/bold]  in {queue}")
            console.print(f"  {attributes['joblane-reason']}", style="red", highlight=False)
            console.print(f"  id {id_}, redriven {attributes['joblane-dead']} times", style="dim", highlight=False)


def _show_next(console: Console) -> None:
    console.print(
        "\n[bold]What to do next[/bold]\n"
        "  functions/data_export/handler.py   read a whole job, which is one file\n"
        "  .venv/bin/joblane new report:csv   write your own, in functions/report_csv/\n"
        "  make up                            deploy it, and keep the stack running\n"
        "  .venv/bin/joblane page --open      open the stack's page in a browser\n"
        "  .venv/bin/joblane logs TASK-ID     read the log of a task\n"
        "  docs/platform/api.md               let a tenant set up its own weekly report\n"
        "  README.md                          read how to send jobs, and what is promised",
        highlight=False,
    )


def _clear(folder: Path) -> None:
    """Remove the mails of an earlier demo."""
    for path in folder.glob("*.eml"):
        path.unlink()
