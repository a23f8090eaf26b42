"""Sessions of SQLAlchemy, also those of handlers: the parts that they share with no other transport."""

from __future__ import annotations

import gc
import time
import weakref
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session, scoped_session, sessionmaker
from sqlalchemy.pool import QueuePool

from joblane import JobClient, TaskContext
from joblane.enqueue.transaction import INLINE_SENDS
from joblane.errors import TaskIdConflictError, sqlstate
from joblane.record.driver.connection import LOCK_NOT_AVAILABLE
from joblane.record.driver.database import Database
from joblane.record.sql_functions import VERSION
from joblane.sweep.sweep import sweep
from joblane.tasks.job import Job
from tests.samples import Sample, behaviour, sample_batch, sample_one
from tests.sends import Sends
from tests.transports import LANE, rows, sent
from tests.world import PREFIX, World

pytestmark = pytest.mark.usefixtures("each_sweep")


@pytest.fixture
def engine(world: World) -> Iterator[Engine]:
    """The caller's engine: a pool of one connection, which the library must not need."""
    url = world.url.replace("postgresql://", "postgresql+pg8000://")
    made = create_engine(url, poolclass=QueuePool, pool_size=1, max_overflow=0, pool_timeout=2)
    yield made
    made.dispose()


@pytest.fixture
def session(engine: Engine) -> Iterator[Session]:
    with Session(engine) as made:
        yield made


def work(session: Session, what: str = "done") -> None:
    """The caller's own write in the same transaction."""
    session.execute(text("insert into work values (:what)"), {"what": what})


def enqueue(world: World, session: Session | None, task_id: str | None = None, **options: Any) -> str:
    return world.client.enqueue(sample_one, Sample(), session=session, task_id=task_id, **options).id


def sweep_all(world: World) -> None:
    """Run a sweep with every row due."""
    world.run("update joblane.tasks set sweep_at = now() where sweep_at is not null")
    sweep(world.database.get(), world.sqs, PREFIX)


def test_a_commit_to_the_root_with_a_savepoint_open_sends_once(world: World, sends: Sends, session: Session) -> None:
    first = enqueue(world, session)
    session.begin_nested()
    second = enqueue(world, session)
    session.commit()
    while session.in_transaction():
        session.commit()
    assert sorted(sent(sends), key=str) == sorted([first, second])


# --- Sessions of other kinds ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["conditional_savepoint", "rollback_only", "control_fully", "create_savepoint"])
@pytest.mark.parametrize("commits", [True, False])
@pytest.mark.parametrize("nested", [True, False])
def test_a_session_inside_a_transaction_of_its_callers_runs_its_task_once_or_never(
    world: World, sends: Sends, engine: Engine, mode: Any, commits: bool, nested: bool
) -> None:
    ran: list[str] = []

    @behaviour
    def count(payload: Sample, ctx: TaskContext) -> None:
        ran.append(ctx.task_id)

    with engine.connect() as connection:
        outer = connection.begin()
        if nested:
            connection.begin_nested()
        with Session(connection, join_transaction_mode=mode) as session:
            world.client.enqueue(sample_one, Sample(do="count"), session=session, task_id="mine")
            session.commit()
        early = [message["Body"] for message in world.take(sample_one)]
        if outer.is_active:
            assert early == [], "its row is not committed yet"
            outer.commit() if commits else outer.rollback()
            is_there = commits
        else:
            is_there = True  # the session had control
    sweep_all(world)
    for body in [*early, *(message["Body"] for message in world.take(sample_one))]:
        assert world.deliver(sample_one, body) == []
    assert rows(world) == (["mine"] if is_there else [])
    assert ran == (["mine"] if is_there else [])


def test_sessions_of_one_registry_do_not_mix_up_their_tasks(world: World, sends: Sends) -> None:
    url = world.url.replace("postgresql://", "postgresql+pg8000://")
    engine = create_engine(url, pool_size=2, max_overflow=0)
    factory = sessionmaker(engine)
    scope = ["a"]
    registry = scoped_session(factory, scopefunc=lambda: scope[0])
    first = enqueue(world, registry)  # type: ignore[arg-type]
    with factory() as stranger:
        work(stranger)
        stranger.commit()
    scope[0] = "b"
    second = enqueue(world, registry)  # type: ignore[arg-type]
    registry.commit()
    assert sent(sends) == [second]
    scope[0] = "a"
    registry.commit()
    assert sent(sends) == [second, first]
    registry.remove()
    scope[0] = "b"
    registry.remove()
    engine.dispose()


def test_several_clients_in_one_session_send_each_its_own(world: World, sends: Sends, session: Session) -> None:
    other = JobClient()
    other._producer.sqs = world.sqs
    mine = enqueue(world, session)
    its = other.enqueue(sample_one, Sample(), session=session).id
    session.commit()
    other.close()
    assert sorted(sent(sends), key=str) == sorted([mine, its])


def test_a_session_that_commits_as_it_goes_is_one_transaction_after_the_other(
    world: World, sends: Sends, engine: Engine
) -> None:
    with Session(engine, expire_on_commit=False, autobegin=False) as session:
        for _ in range(3):
            with session.begin():
                enqueue(world, session)
    assert len(sent(sends)) == len(rows(world)) == 3


def test_ended_sessions_leave_nothing_behind(world: World, sends: Sends, engine: Engine) -> None:
    left = []
    for _ in range(20):
        with Session(engine) as session:
            enqueue(world, session)
            session.rollback()
            left.append(weakref.ref(session))
        del session
    gc.collect()
    assert [ref() for ref in left if ref() is not None] == []


# --- Distances -----------------------------------------------------------------------------------------------------


def test_a_delay_counts_from_the_call_and_not_from_the_commit(world: World, sends: Sends, session: Session) -> None:
    id_ = enqueue(world, session, process_in=timedelta(seconds=100))
    enqueue(world, session, process_in=timedelta(seconds=1))
    time.sleep(2.1)
    session.commit()
    first, second = sends.delays(LANE)
    assert 80 < first <= 98
    assert second == 0
    assert world.run(
        "select extract(epoch from due_at - created_at)::float8 between 99.9 and 100.1 from joblane.tasks where "
        "id = $1",
        id_,
    ) == [[True]]


# --- Many ----------------------------------------------------------------------------------------------------------


def test_a_sweep_that_cannot_be_woken_does_not_fail_the_commit(world: World, sends: Sends, session: Session) -> None:
    world.client.enqueue_many([Job(sample_one, Sample()) for _ in range(INLINE_SENDS + 1)], session=session)
    session.commit()
    assert len(sent(sends)) == INLINE_SENDS


def test_of_tasks_far_and_near_all_near_ones_are_sent_at_once(world: World, sends: Sends, session: Session) -> None:
    far = [Job(sample_one, Sample(), process_in=timedelta(hours=3)) for _ in range(INLINE_SENDS)]
    near = [Job(sample_one, Sample()) for _ in range(20)]
    world.client.enqueue_many([*far, *near], session=session)
    session.commit()
    assert len(sent(sends)) == 20


# --- Faults after the commit ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address",
    [None, " ", "mysql://user:secret@host/db", "postgresql://user:secret@127.0.0.1:1/jobs", "postgresql://h:bad/x"],
)
def test_a_second_connection_that_cannot_be_had_is_no_error_of_the_callers(
    world: World, sends: Sends, session: Session, monkeypatch: pytest.MonkeyPatch, address: str | None
) -> None:
    monkeypatch.delenv("DATABASE_URL")
    if address is not None:
        monkeypatch.setenv("DATABASE_URL", address)
    for _ in range(2):
        enqueue(world, session)
        session.commit()
    assert len(sent(sends)) == 2
    monkeypatch.setenv("DATABASE_URL", world.url)
    world.client.close()
    world.client._producer.opened = None
    enqueue(world, session)
    session.commit()
    assert len(sent(sends)) == 3, "the client is usable again"


def test_an_enqueue_in_a_session_has_the_lock_timeout_of_its_function_alone(
    world: World, sends: Sends, session: Session, engine: Engine
) -> None:
    # given an id of a transaction that stays open, and a caller who waits without a limit
    [[settings]] = world.run(f"select proconfig from pg_proc where proname = 'insert_{VERSION}'")
    assert "lock_timeout=5s" in settings
    world.run(f"alter function joblane.insert_{VERSION} set lock_timeout = '50ms'")
    other = create_engine(engine.url)
    with Session(other) as holder:
        world.client.enqueue(sample_one, Sample(), session=holder, task_id="it")
        session.execute(text("set local lock_timeout = 0"))
        # when and then
        with pytest.raises(DBAPIError) as caught:
            world.client.enqueue(sample_one, Sample(), session=session, task_id="it")
        assert sqlstate(caught.value) == LOCK_NOT_AVAILABLE
    other.dispose()
    session.rollback()
    # and the caller's own limit stays
    session.execute(text("set local lock_timeout = '7s'"))
    world.client.enqueue(sample_one, Sample(), session=session, task_id="it")
    assert session.scalar(text("show lock_timeout")) == "7s"


def test_a_row_that_is_locked_holds_up_no_commit(
    world: World, sends: Sends, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    id_ = enqueue(world, session)
    blocker = Database(world.url)
    real = world.client._producer._send_rows

    def lock_first(*args: Any) -> Any:
        blocker.get().execute_simple("begin")
        blocker.get().run("select 1 from joblane.tasks where id = $1 for update", id_)
        return real(*args)

    monkeypatch.setattr(world.client._producer, "_send_rows", lock_first)
    started = time.monotonic()
    session.commit()
    blocker.drop()
    assert time.monotonic() - started < 5
    assert sent(sends) == [id_]


# --- Inside a handler ----------------------------------------------------------------------------------------------


def child(world: World, ctx: TaskContext, task_id: str = "child") -> None:
    world.client.enqueue(sample_one, Sample(), session=ctx.session, task_id=task_id)


def run_parent(world: World, do: str) -> str:
    """Deliver a task and return its id. Its children's messages are in the lane afterwards."""
    body = {"type": "sample:one", "id": "parent", "payload": {"do": do}}
    world.deliver(sample_one, body)
    return "parent"


def test_a_child_is_sent_after_its_parents_work_has_committed(world: World, sends: Sends) -> None:
    seen: list[int] = []

    @behaviour
    def spawns(payload: Sample, ctx: TaskContext) -> None:
        work(ctx.session)
        child(world, ctx)
        seen.append(len(sends.messages))

    real = world.client._producer.send_committed

    def look_first(tasks: Any) -> None:
        assert world.row("parent")["state"] == "completed"
        assert world.row("child")["state"] == "pending"
        real(tasks)

    world.client._producer.send_committed = look_first  # type: ignore[method-assign]
    run_parent(world, "spawns")
    assert seen == [0]
    assert sent(sends) == ["child"]
    assert world.row("parent")["state"] == "completed"


@pytest.mark.parametrize(
    ("change", "state"),
    [
        ("attempts = 1 / 0", "retry"),
        ("lease_token = gen_random_uuid()", "active"),
        ("cancel_requested_at = now()", "cancelled"),
    ],
    ids=["it fails", "it lost its lease", "it is cancelled"],
)
def test_a_parent_that_does_not_complete_has_no_child(world: World, sends: Sends, change: str, state: str) -> None:
    def spawns(payload: Sample, ctx: TaskContext) -> None:
        child(world, ctx)
        world.run(f"update joblane.tasks set {change} where id = 'parent'")

    spawns.__name__ = f"spawns_{state}"
    behaviour(spawns)
    run_parent(world, spawns.__name__)
    assert world.row("parent")["state"] == state
    assert (rows(world), sends.messages) == (["parent"], [])


def test_children_of_each_item_are_sent_as_its_work_commits(world: World, sends: Sends) -> None:
    @behaviour
    def spawns_each(payload: Sample, ctx: TaskContext) -> None:
        for item in ctx.each(["a", "b", "c"]):
            child(world, ctx, item)
            if item == "c":
                raise ValueError

    run_parent(world, "spawns_each")
    assert sent(sends) == ["a", "b"]
    assert rows(world) == ["a", "b", "parent"]


def test_a_child_that_exists_already_does_not_fail_its_parent(world: World, sends: Sends) -> None:
    @behaviour
    def spawns_twice(payload: Sample, ctx: TaskContext) -> None:
        work(ctx.session)
        child(world, ctx)
        with pytest.raises(TaskIdConflictError):
            child(world, ctx)

    run_parent(world, "spawns_twice")
    assert world.row("parent")["state"] == "completed"
    assert sent(sends) == ["child"]


def test_a_batch_mixes_up_nobodys_children(world: World, sends: Sends) -> None:
    @behaviour
    def spawns_numbered(payload: Sample, ctx: TaskContext) -> None:
        child(world, ctx, f"child-{payload.number}")
        if payload.number % 2:
            raise ValueError

    bodies = [
        {"type": "sample:batch", "id": f"parent-{number}", "payload": {"do": "spawns_numbered", "number": number}}
        for number in range(4)
    ]
    assert len(world.deliver(sample_batch, *bodies)) == 2
    assert sorted(sent(sends), key=str) == ["child-0", "child-2"]
    assert [id_ for id_ in rows(world) if id_.startswith("child")] == ["child-0", "child-2"]


def test_an_error_of_an_enqueue_in_a_session_shows_no_payload(world: World, sends: Sends, session: Session) -> None:
    raising = "raise exception 'refused'"
    world.run(f"create function refuse() returns trigger language plpgsql as $$ begin {raising}; end $$")
    for table in ("joblane.tasks", "work"):
        world.run(f"create trigger refused before insert on {table} for each row execute function refuse()")
    with pytest.raises(DBAPIError, match="refused") as caught:
        world.client.enqueue(sample_one, Sample(do="secret"), session=session)
    assert "secret" not in str(caught.value)
    session.rollback()
    with pytest.raises(DBAPIError, match="plain"):
        work(session, "plain")
