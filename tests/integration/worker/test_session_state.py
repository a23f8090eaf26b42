"""Settings of a handler on the connection are reset before the next task; unreadable values stop no other task."""

from __future__ import annotations

import json
from typing import Any

import pytest
from sqlalchemy import text

from joblane import TaskContext
from joblane.sqs.message import Message
from joblane.sweep.sweep import sweep
from tests import emf
from tests.builders.rows import archived, put
from tests.samples import Sample, behaviour, sample_one
from tests.world import PREFIX, World

SEEN = """
select current_setting('app.tenant', true), current_setting('search_path'), current_setting('statement_timeout'),
       (select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()),
       to_regclass('pg_temp.mine')::text, current_user = session_user
"""


def message(do: str, id_: str) -> str:
    return Message("sample:one", id_, {"do": do}).encode()


@pytest.mark.parametrize("end", ["completes", "fails", "commits by item", "uses the connection", "connection, fails"])
def test_settings_role_locks_and_temporary_tables_are_gone_before_the_next_task(world: World, end: str) -> None:
    seen: list[Any] = []

    @behaviour
    def see_session(payload: Sample, ctx: TaskContext) -> None:
        seen.append(tuple(ctx.session.execute(text(SEEN)).one()))

    @behaviour
    def leave_things(payload: Sample, ctx: TaskContext) -> None:
        for _ in ctx.each(["a"] if end == "commits by item" else []):
            ctx.session.execute(text("set app.tenant = 'acme'"))
        for statement in (
            "set app.tenant = 'acme'",
            "set search_path = acme, public",
            "set statement_timeout = '300ms'",
            "select pg_advisory_lock(7)",
            "create temp table mine (n int)",
            "set role pg_monitor",
        ):
            if "connection" in end:
                ctx.connection().run(statement)
            else:
                ctx.session.execute(text(statement))
        if "fails" in end:
            raise ValueError

    world.deliver(sample_one, message("see_session", "before"))
    world.deliver(sample_one, message("leave_things", "leave_things"))
    world.deliver(sample_one, message("see_session", "after"))

    before, after = seen
    assert (after[0] or None, *after[1:]) == (before[0] or None, *before[1:])


@pytest.mark.parametrize("number", ["1" + "0" * 5000, "1" + "0" * 400 + ".5"], ids=["digits", "infinite"])
def test_a_row_that_python_cannot_read_ends_as_a_dead_letter_and_stops_no_other(world: World, number: str) -> None:
    # given rows with a number that is too large: a running task, and an archived task whose dead letter is due
    world.lane(sample_one)
    for id_, columns in {"runs": {}, "dead": archived(dead_sent_at=None)}.items():
        put(world, sample_one, id_, **columns)
        world.run(f"update joblane.tasks set payload = '{{\"number\": {number}}}', sweep_at = now() where id = $1", id_)
    put(world, sample_one, "good")
    world.run("update joblane.tasks set sweep_at = now(), due_at = now()")
    # when
    sweep(world.database.get(), world.sqs, PREFIX)
    bodies = [one["Body"] for one in world.take(sample_one)]
    assert world.deliver(sample_one, *bodies) == []
    # then
    assert world.row("good")["state"] == "completed"
    assert (world.run("select state from joblane.tasks where id = 'runs'")) == [["archived"]]
    dead_letters = {json.loads(dead_letter["Body"])["id"] for dead_letter in world.dead_letters(sample_one)}
    assert dead_letters == {"runs", "dead"}


def test_a_run_that_is_not_recorded_is_not_logged_as_completed(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # given a run whose lease another has taken over by its end
    @behaviour
    def end_unrecorded(payload: Sample, ctx: TaskContext) -> None:
        world.run("update joblane.tasks set lease_token = gen_random_uuid() where id = $1", ctx.task_id)

    assert len(world.deliver(sample_one, message("end_unrecorded", "it"))) == 1
    assert emf.documents(capsys.readouterr().out) == []

    # and one whose end the database did not take
    def away(*_: object, **__: object) -> None:
        raise OSError

    monkeypatch.setattr("joblane.worker.worker.finish", away)
    assert len(world.deliver(sample_one, message("nothing", "other"))) == 1
    assert emf.documents(capsys.readouterr().out) == []
    assert world.row("other")["state"] == "active"
