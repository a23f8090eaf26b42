"""What `docs/how-to/tasks.md` shows is run: each block of Python in one after another, the SQL through psql."""

from __future__ import annotations

import re
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import pytest
from sqlalchemy import select
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

import joblane
from joblane import ArchivedTask, Payload, TaskContext, task
from joblane.declaration import Task
from joblane.local.postgres_programs import program
from joblane.record.task_types import register
from tests.world import World

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "how-to" / "tasks.md").read_text()
mailed: list[str] = []


class ReportBuild(Payload):
    pages: int


class IndexRebuild(Payload):
    shop: str


class MailAll(Payload):
    addresses: list[str]


class MembersScore(Payload):
    pass


class OrderSplit(Payload):
    parts: int


class ShopClose(Payload):
    early: bool


PAYLOADS = (ReportBuild, IndexRebuild, MailAll, MembersScore, OrderSplit, ShopClose)


class Base(DeclarativeBase):
    pass


class Member(Base):
    __tablename__ = "docs_members"
    id: Mapped[int] = mapped_column(primary_key=True)
    points: Mapped[int]
    score: Mapped[int] = mapped_column(default=0)


@task("ops:alert")
def ops_alert(payload: ArchivedTask, ctx: TaskContext) -> None:
    pass


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.S)


@pytest.fixture
def documented(world: World) -> dict[str, Any]:
    """The names the page defines, after all its Python has run."""
    for lane in ("report:build", "index:rebuild", "login:check"):
        world.sqs.client.create_queue(QueueName=f"jobs-default-{lane.replace(':', '-')}")
    names: dict[str, Any] = {
        **{name: getattr(joblane, name) for name in joblane.__all__},
        **{model.__name__: model for model in PAYLOADS},
        "__name__": __name__,
        "Annotated": Annotated,
        "Member": Member,
        "UTC": UTC,
        "datetime": datetime,
        "jobs": world.client,
        "ops_alert": ops_alert,
        "mail": mailed.append,
        "select": select,
        "timedelta": timedelta,
    }
    source = "\n".join(blocks("python")).replace('on_archived="ops:alert"', "on_archived=ops_alert")
    exec(compile(source, "docs/how-to/tasks.md", "exec", dont_inherit=True), names)
    return names


def run(world: World, found: Task[Any, Any], payload: Payload) -> dict[str, Any]:
    world.lane(found)
    info = world.client.enqueue(found, payload)
    world.deliver(found, world.take(found)[-1]["Body"])
    row = world.row(info.id)
    assert row["error_message"] is None, row["error_message"]
    return row


def test_every_block_of_python_runs_and_its_jobs_do_what_is_said(world: World, documented: dict[str, Any]) -> None:
    world.run("create table docs_members (id int primary key, points int, score int default 0)")
    world.run("insert into docs_members select n, n from generate_series(1, 1200) n")
    assert run(world, documented["mail_all"], MailAll(addresses=["a", "b"]))["state"] == "completed"
    assert mailed[-2:] == ["a", "b"]
    assert run(world, documented["members_score"], MembersScore())["state"] == "completed"
    assert world.run("select count(*) from docs_members where score = points * 2") == [[1200]]
    assert run(world, documented["order_split"], OrderSplit(parts=3))["state"] == "completed"
    assert world.run("select count(*) from joblane.tasks where type = 'report:build' and state = 'pending'") == [[5]]


def test_what_is_kept_of_a_failure_has_no_redacted_value_as_is_said(world: World, documented: dict[str, Any]) -> None:
    check = documented["login_check"]
    world.deliver(check, world.take(check)[-1]["Body"])
    assert world.row(documented["refused"].id)["error_message"] in " ".join(TEXT.split())


def test_the_sql_runs_in_psql(world: World, documented: dict[str, Any]) -> None:
    register(world.database.get(), {"report:build": documented["report_build"]})
    script = "create table orders (number int);\n" + "\n".join(blocks("sql"))
    command = [str(program("psql")), world.url, "-v", "ON_ERROR_STOP=1", "-q", "-c", script]
    subprocess.run(command, check=True, capture_output=True)
    assert world.row("report-for-order-7")["state"] == "scheduled"
