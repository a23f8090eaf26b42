"""`make demo`: the platform's jobs on the local stack, from the sends to what became of each."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.live import Live
from rich.table import Table

from joblane.local.tools import environment_of
from joblane.queues import Queue, dead_letter_name, front_door_name, lane_name
from joblane.record.states import ENDED
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
class Announced:
    """A task of the demo and how it has to end."""

    id: str
    story: str
    state: str = "completed"
    runs: int = 1


def run(stack: LocalStack, mail: Path, console: Console) -> bool:
    """Send one job of each kind, watch them, show what they made. Returns whether each ended as announced.

    ``mail``: the folder that the functions write mails to.
    """
    from sqlalchemy import create_engine

    engine = create_engine(stack.database_url.replace("postgresql://", "postgresql+pg8000://"), hide_parameters=True)
    with environment_of(stack.environment):
        import boto3

        _clear(mail)
        sqs, s3 = boto3.client("sqs"), boto3.client("s3")
        people = People()
        announced = _send(engine, sqs, people, stack.prefix)
        rows = _watch(engine, announced, console)
        wrong = _mistakes(announced, rows)
        _show_export(s3, stack, rows[announced[3].id], console)
        _show_mail(mail, console)
        _show_dead_letter(sqs, stack.prefix, announced[-1].id, console)
    engine.dispose()
    for mistake in wrong:
        console.print(f"[red]✗[/red] {mistake}")
    if not wrong:
        console.print(f"\n[green]✓[/green] All {len(announced)} jobs ended as announced.")
    _show_next(stack, console)
    return not wrong


def _send(engine: Engine, sqs: SQSClient, people: People, prefix: str) -> list[Announced]:
    """Enqueue by the client in a transaction, by the client alone, and by a plain SQS send."""
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
    with Session(engine) as session:  # the tenants and their jobs commit together, or not at all
        people.sign_up(session)
        initialize = jobs.enqueue(
            tenant_initialize, TenantInitialize(tenant_id=people.acme), session=session, tenant="acme"
        )
        unlucky = jobs.enqueue(
            tenant_initialize, TenantInitialize(tenant_id=people.globex), session=session, tenant="globex"
        )
        session.commit()
    invitation = jobs.enqueue(user_invitation, UserInvitation(invitation_id=people.invitation), tenant="acme")
    body = {
        "type": "data:export",
        "payload": {"tenant_id": str(people.acme), "user_id": str(people.user), "export_type": "full"},
    }
    door = sqs.get_queue_url(QueueName=front_door_name(prefix, Queue.DEFAULT))["QueueUrl"]
    export = sqs.send_message(QueueUrl=door, MessageBody=json.dumps(body))["MessageId"]
    expiry = jobs.enqueue(system_user_expiry, SystemUserExpiry())
    cleanup = jobs.enqueue(tenant_cleanup, TenantCleanup())
    reports = jobs.enqueue(report_generate, ReportGenerate())
    health = jobs.enqueue(system_health_check, SystemHealthCheck())
    nobody = DataExport(tenant_id=people.nobody, user_id=people.user, export_type="partial")
    given_up = jobs.enqueue(data_export, nobody)
    jobs.close()
    return [
        Announced(initialize.id, "sets Acme up in two services"),
        Announced(unlucky.id, "sets Globex up; fails twice", runs=3),
        Announced(invitation.id, "invites a user by mail"),
        Announced(export, "exports Acme; sent by boto3"),
        Announced(expiry.id, "retires a system user"),
        Announced(cleanup.id, "removes what has expired"),
        Announced(reports.id, "writes each tenant's week"),
        Announced(health.id, "asks whether all is well"),
        Announced(given_up.id, "exports a missing tenant", state="archived"),
    ]


# --- Watching --------------------------------------------------------------------------------------------------------

LOOK = """
select t.id, t.type, t.queue, t.state, t.runs, t.result,
       extract(epoch from t.due_at - clock_timestamp())::float8 as due,
       extract(epoch from coalesce(t.finished_at, clock_timestamp()) - t.created_at)::float8 as age
  from joblane.tasks t where t.id = any(:ids)
"""


def _watch(engine: Engine, announced: Sequence[Announced], console: Console) -> dict[str, dict[str, Any]]:
    """Show the tasks until all have ended. Returns their rows by id."""
    from sqlalchemy import text

    ends = time.monotonic() + PATIENCE_SECONDS
    ids = [one.id for one in announced]
    console.print()
    with Live(console=console, auto_refresh=False, transient=False) as live, engine.connect() as connection:
        while True:
            found = connection.execute(text(LOOK), {"ids": ids}).mappings()
            rows = {row["id"]: dict(row) for row in found}
            connection.rollback()
            live.update(_table(announced, rows), refresh=True)
            ended = [row for row in rows.values() if row["state"] in ENDED]
            if len(ended) == len(announced) or time.monotonic() > ends:
                return rows
            time.sleep(POLL_SECONDS)


def _table(announced: Sequence[Announced], rows: dict[str, dict[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in ("task", "queue", "what it does", "state", "runs", "after"):
        table.add_column(heading)
    for one in announced:
        row = rows.get(one.id)
        if row is None:  # an external message on its way through the router
            table.add_row("data:export", "default", one.story, "[dim]in SQS[/dim]", "", "")
            continue
        wait = f" in {max(0, row['due']):.0f} s" if row["state"] == "retry" else ""
        state = f"[{STYLES.get(row['state'], 'white')}]{row['state']}{wait}[/]"
        table.add_row(row["type"], row["queue"], one.story, state, str(row["runs"]), f"{row['age']:.0f} s")
    return table


def _mistakes(announced: Sequence[Announced], rows: dict[str, dict[str, Any]]) -> list[str]:
    """What did not end as announced."""
    found = []
    for one in announced:
        row = rows.get(one.id)
        state, runs = (row["state"], row["runs"]) if row else ("not recorded", 0)
        if (state, runs) != (one.state, one.runs):
            found.append(f"{one.id} {one.story}: {state} after {runs} runs, not {one.state} after {one.runs}")
    return found


# --- What they made --------------------------------------------------------------------------------------------------


def _show_export(s3: S3Client, stack: LocalStack, row: dict[str, Any], console: Console) -> None:
    import io
    import zipfile

    if not row.get("result"):
        return
    bucket = stack.output("ExportBucket")
    content = s3.get_object(Bucket=bucket, Key=row["result"]["key"])["Body"].read()
    console.print(f"\n[bold]The export[/bold]  s3://{bucket}/{row['result']['key']}")
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
            console.print(f"\n[bold]The dead letter[/bold]  in {queue}")
            console.print(f"  {attributes['joblane-reason']}", style="red", highlight=False)
            console.print(f"  id {id_}, generation {attributes['joblane-dead']}", style="dim", highlight=False)


def _show_next(stack: LocalStack, console: Console) -> None:
    console.print(
        "\n[bold]Where to look next[/bold]\n"
        "  make up                           the same stack, left running\n"
        "  .venv/bin/joblane watch           its queues and tasks, live; `joblane page` is the same in a browser\n"
        "  functions/data_export/handler.py  a whole job in one file\n"
        "  README.md                         how to add and send one, what is promised\n"
        f"  /aws/lambda/{stack.prefix}-data-export      the log group of a function",
        highlight=False,
    )


def _clear(folder: Path) -> None:
    """Take away the mails of an earlier demo."""
    for path in folder.glob("*.eml"):
        path.unlink()
