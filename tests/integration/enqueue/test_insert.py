"""Bulk inserts: the cost of an `enqueue_many`, its lock order, and the sender of each message."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from joblane import DuplicateTaskError, Enqueued, Job, JobClient, JobError
from joblane.enqueue import insert as module
from joblane.enqueue.result import check_each
from joblane.enqueue.transaction import INLINE_SENDS
from joblane.record.task.insert import INSERT, NewTask
from joblane.testing.faults import Send
from tests.builders.rows import put
from tests.integration.enqueue.conftest import Another
from tests.patience import PATIENCE_SECONDS
from tests.samples import Sample, sample_one, sample_only
from tests.world import World


def keyed(*keys: str, **options: Any) -> list[Job]:
    return [Job(sample_only, Sample(), unique_key=key, **options) for key in keys]


# --- Parts ---------------------------------------------------------------------------------------------------------


def many(number: int, size: int = 1, **options: Any) -> list[Job]:
    return [Job(sample_one, Sample(do="x" * size), task_id=f"t{n:02}", **options) for n in range(number)]


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a statement have at most 4 rows and 2,000 characters."""
    monkeypatch.setattr(module, "MAX_ROWS", 4)
    monkeypatch.setattr(module, "MAX_CHARACTERS", 2_000)


@pytest.mark.parametrize(("size", "lengths"), [(1, [4, 4, 2]), (1_000, [1] * 10)])
def test_a_statement_has_a_limited_number_of_rows_and_characters(
    client: JobClient, parts: None, size: int, lengths: list[int]
) -> None:
    documents: list[Any] = []

    def run(_: str, *given: str) -> list[tuple[str, float, None]]:
        documents.extend(json.loads(document) for document in given)
        return [(row["id"], 0.0, None) for document in documents for row in document]

    assert len(module.insert_tasks(run, check_each(client._producer.checked, many(10, size)))) == 10
    assert [len(document) for document in documents] == lengths


@pytest.mark.parametrize("in_session", [False, True])
def test_parts_are_written_together_or_not_at_all(
    world: World, client: JobClient, session: Session, parts: None, in_session: bool
) -> None:
    within: dict[str, Any] = {"session": session} if in_session else {}
    # given a trigger that refuses the last row
    world.run(
        "create function refuse() returns trigger language plpgsql as $$ begin raise exception 'not this one'; end $$"
    )
    world.run(
        "create trigger refuses before insert on joblane.tasks for each row when (new.id = 't09')"
        " execute function refuse()"
    )
    # when
    with pytest.raises((JobError, DBAPIError), match="not this one"):
        client.enqueue_many(many(10), **within)
    session.rollback()
    # then
    assert world.run("select count(*) from joblane.tasks") == [[0]]
    # and without it, all are
    world.run("drop trigger refuses on joblane.tasks")
    assert all(isinstance(one, Enqueued) for one in client.enqueue_many(many(10), **within))
    session.commit()
    assert world.run("select count(*) from joblane.tasks") == [[10]]


@pytest.mark.parametrize("lost", ["the answer to the last part", "the answer to the commit"])
def test_parts_whose_answer_was_lost_are_written_once(world: World, another: Another, parts: None, lost: str) -> None:
    answers: list[str] = []

    def hook(sql: str, send: Send) -> Any:
        answer = send()
        answers.append(sql.split(maxsplit=1)[0])
        if answers == ["begin", *["select"] * 3, "commit"][: 4 + lost.endswith("commit")]:
            raise ConnectionResetError(lost)
        return answer

    made = another(hook).enqueue_many(many(10))
    assert [one.id for one in made if isinstance(one, Enqueued)] == [job.task_id for job in many(10)]
    assert world.run("select count(*) from joblane.tasks") == [[10]]
    assert answers.count("begin") == 2


def test_parts_take_their_ids_and_unique_keys_in_one_order(client: JobClient, parts: None) -> None:
    taken: list[str] = []

    def run(_: str, *given: str) -> list[tuple[str, float, None]]:
        rows = [row for document in given for row in json.loads(document)]
        taken.extend(row.get("unique_key", row["id"]) for row in rows)
        return [(row["id"], 0.0, None) for row in rows]

    jobs = keyed("d", "a", "c", "b", "B") + many(5)[::-1]
    module.insert_tasks(run, check_each(client._producer.checked, jobs))
    assert taken == [f"t0{n}" for n in range(5)] + [f"sample:only {key}" for key in ("B", "a", "b", "c", "d")]


@pytest.mark.parametrize("rest", [{}, {"rest": {"batch": "b"}}])
def test_the_insert_takes_rows_in_the_order_of_its_document(
    world: World, client: JobClient, rest: dict[str, Any]
) -> None:
    jobs = keyed("b", "a") + many(3)[::-1]
    rows = [new.row() | rest for new in check_each(client._producer.checked, jobs)]
    assert [id_ for id_, *_ in world.run(INSERT, json.dumps(rows))] == [row["id"] for row in rows]


# --- Locks ---------------------------------------------------------------------------------------------------------


def test_two_callers_do_not_block_each_other_though_a_holder_ends_in_between(
    world: World, client: JobClient, another: Another, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first caller holds k2, does not get k1, and would take k1 in a second round. By then the other caller holds
    k1 and waits for k2."""
    put(world, sample_only, "held", unique_key="sample:only k1")
    refused, waiting, first = threading.Event(), threading.Event(), threading.get_ident()
    real = module._resolve

    def resolve(run: Any, jobs: Mapping[int, NewTask], room: int | None) -> Any:
        if threading.get_ident() == first and not refused.is_set():
            refused.set()
            assert waiting.wait(PATIENCE_SECONDS)
        return real(run, jobs, room)

    monkeypatch.setattr(module, "_resolve", resolve)

    def other() -> list[Any]:
        refused.wait(PATIENCE_SECONDS)
        world.run(
            "update joblane.tasks set state = 'completed', finished_at = now(), expire_at = now() where id = 'held'"
        )
        mine = another()
        with Session(mine._producer.database().engine) as theirs, theirs.begin():
            threading.Timer(0.5, waiting.set).start()
            return mine.enqueue_many(keyed("k1", "k2"), session=theirs)

    with ThreadPoolExecutor(1) as threads:
        others = threads.submit(other)
        k1, k2 = client.enqueue_many(keyed("k1", "k2"), session=session)
        session.commit()
        theirs = others.result(PATIENCE_SECONDS)

    assert isinstance(k1, DuplicateTaskError)
    assert "which is changing; enqueue it again" in str(k1)
    assert isinstance(k2, Enqueued)
    assert [type(one) for one in theirs] == [Enqueued, DuplicateTaskError]


def test_a_thousand_are_replaced_by_as_many_statements_as_one(
    world: World, client: JobClient, another: Another
) -> None:
    asked: list[str] = []

    def hook(sql: str, send: Send) -> Any:
        asked.append(sql.split(maxsplit=1)[0])
        return send()

    keys, later, jobs = [f"k{number}" for number in range(1000)], {"process_in": timedelta(hours=2)}, another(hook)
    client.enqueue_many(keyed(*keys, **later))
    jobs.get("a")  # connected

    asked.clear()
    jobs.enqueue_many(keyed("k0", on_conflict="replace", **later))
    one, asked[:] = list(asked), []
    made = jobs.enqueue_many(keyed(*keys, on_conflict="replace", **later))

    assert asked == one
    assert [isinstance(item, Enqueued) and item.created for item in made] == [False] * 1000
    assert world.run("select count(*) from joblane.tasks") == [[1000]]


def test_the_woken_sweep_sends_replaced_tasks_that_were_not_sent_at_once(
    world: World, client: JobClient, session: Session
) -> None:
    keys = [f"k{number}" for number in range(INLINE_SENDS + 20)]
    client.enqueue_many(keyed(*keys, process_in=timedelta(days=1)))
    client.enqueue_many(keyed(*keys, on_conflict="replace"), session=session)
    session.commit()
    assert world.run("select count(*) from joblane.tasks where sweep_at > due_at") == [[INLINE_SENDS]]
    assert world.sweep().sent == 20


def test_one_between_two_invocations_of_its_attempt_is_not_replaced(world: World, client: JobClient) -> None:
    put(world, sample_only, "resumed", unique_key="sample:only k", used_ms=5000)
    with pytest.raises(DuplicateTaskError, match="'resumed', which is pending; a running task cannot be replaced"):
        client.enqueue(sample_only, Sample(number=2), unique_key="k", on_conflict="replace")
    assert client.enqueue(sample_only, Sample(), unique_key="k", on_conflict="return").id == "resumed"


def test_a_duplicate_at_a_stricter_isolation_is_an_error_of_the_database_there(
    world: World, client: JobClient, session: Session
) -> None:
    """`on conflict` cannot skip a row that the transaction must not see.

    The documentation names the isolation level.
    """
    session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
    session.execute(text("select count(*) from joblane.tasks"))
    client.enqueue(sample_only, Sample(), unique_key="k")
    with pytest.raises(Exception, match="40001"):
        client.enqueue(sample_only, Sample(), unique_key="k", session=session)
