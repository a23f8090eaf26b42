"""A duty of the sweep that fails, or whose statement takes too long, does not stop the other duties."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any

import pytest
from pg8000.exceptions import DatabaseError

from joblane.enqueue.wake import GRID_SECONDS, PLANNED
from joblane.functions.jobs_sweep import handler as sweep_handler
from joblane.functions.jobs_sweep.handler import jobs_sweep
from joblane.record import schedules
from joblane.record.deploys import write_deploy
from joblane.record.driver.database import Database
from joblane.record.driver.time_limits import TimeLimits
from joblane.record.flow import limit_changes, wrong_times
from joblane.sqs.client import Entry, Sqs
from joblane.sqs.message import decode
from joblane.sweep import (
    events,
    expiry,
    held,
    held_counts,
    messages,
    next_sweep,
    old_snapshot,
    parents,
    run_statistics,
    unmarked_dead_letters,
    unsent_dead_letters,
    walk,
)
from joblane.sweep.duties import MOST_FAILURES, Duties
from joblane.sweep.next_sweep import NextSweep
from joblane.sweep.sweep import Swept, sweep
from joblane.testing.faults import HookedDatabase
from joblane.worker.worker import Worker
from tests import emf, logs
from tests.builders.events import record
from tests.builders.rows import FOR_PARENTS, In, archived, put
from tests.patience import PATIENCE_SECONDS
from tests.samples import sample_one, sample_single
from tests.stories import Story, play, row, step, stories
from tests.world import PREFIX, World, handle

LANE = "jobs-default-sample-one"
DUE = 3000
FAILING = {
    "open transactions": next_sweep.IS_ALONE,
    "changes of limits": limit_changes.RESET,
    "times of rates": wrong_times.PLANNED_ANEW,
    messages.DUE_MESSAGES: walk.READ,
    "tasks ended by SQL": expiry.TIDY,
    "slots of paused tasks": held.LEAVE,
    "unsent dead letters": unsent_dead_letters.FIND,
    "expired tasks": expiry.FIND,
    "unclaimed turns": held.TAKE_BACK,
    "held tasks": held.UNSERVED,
    "ended parents": parents.ENDED,
    "events": events.COUNT,
    "times of the next sweep": next_sweep.TIMES,
    "ticks": schedules.DUE,
    "held counts": held_counts.READ,
    "moved dead letters": unmarked_dead_letters.EXPECTED,
    "old snapshots": old_snapshot.IS_AURORA,
    "run statistics": run_statistics.NEXT,
}
"""A statement of each duty, after which nothing of the duty is done."""
FILL = """
insert into joblane.tasks (id, type, queue, state, payload, payload_digest, max_attempts, retention_seconds, due_at,
                           sweep_at)
select 'due-' || n, 'sample:one', 'default', 'pending', '{}', '', 4, 60, now() - interval '1 minute',
       now() - interval '1 s'
  from generate_series(1, $1::integer) n
"""


QUICK = TimeLimits(connect=PATIENCE_SECONDS, lock=0.2, statement=0.4, network=PATIENCE_SECONDS)


class Accepting(Sqs):
    """Accepts all messages. The lanes are empty."""

    def __init__(self) -> None:
        super().__init__()
        self.ids: list[str] = []

    def send_many(self, entries: Sequence[Entry], *, brief: bool = False) -> dict[int, str]:
        self.ids += [str(decode(entry.body).id) for entry in entries]
        return {}

    def attributes(self, queue: str, names: Sequence[str]) -> dict[str, str]:
        return dict.fromkeys(names, "0")

    def due(self) -> list[str]:
        return [id_ for id_ in self.ids if id_.startswith("due-")]


def failing(world: World, kind: str, statement: str, limits: list[str]) -> HookedDatabase:
    """A database that fails at a statement: by an error of the server, by the statement's time limit, or it hangs up.

    ``limits``: gets the time limit of the session at the statement.
    """

    def hook(sql: str, send: Callable[[], Any]) -> Any:
        if sql != statement:
            return send()
        connection = database.get()
        limits.append(connection.run("show statement_timeout")[0][0])
        if kind == "broken":
            connection.run("select pg_terminate_backend(pg_backend_pid())")
        if kind == "error":
            connection.execute_simple("do $$ begin raise exception 'disk full' using errcode = '53100'; end $$")
        connection.execute_simple("set statement_timeout = 20")
        try:
            return connection.run("select pg_sleep(30)")
        finally:
            with suppress(DatabaseError):  # the end of an open transaction resets it
                connection.execute_simple(f"set statement_timeout = '{limits[-1]}'")

    database = HookedDatabase(world.url, hook)
    return database


@pytest.fixture
def sqs(world: World, monkeypatch: pytest.MonkeyPatch) -> Accepting:
    sqs = Accepting()
    monkeypatch.setattr(sweep_handler, "Sqs", lambda: sqs)
    world.run("insert into joblane.stage (prefix) values ($1) on conflict do nothing", PREFIX)
    return sqs


def run_sweep(world: World, database: Database, sqs: Sqs, id_: str) -> list[str]:
    """Run the sweep's task. Return the ids of the messages that stay in its lane."""
    lane = world.lane(jobs_sweep)
    return handle(
        Worker(jobs_sweep, database, sqs, PREFIX), record({"type": "jobs:sweep", "id": id_}, lane), seconds=240
    )


def work_for_each_duty(world: World) -> None:
    """Write rows that are due, and what the duties of :data:`FAILING` need so that they run their statement."""
    for table in ("tasks", "limit_changes", "pauses", "task_parents"):
        world.run(f"delete from joblane.{table}")
    world.run("update joblane.stage set planned_sweep_at = null")
    world.run(FILL, str(DUE))
    world.run("insert into joblane.limit_changes (name, slots, until) values ('a:b', 1, now() - interval '1 s')")
    world.run("insert into joblane.pauses (scope, name) values ('tenant', 'paused')")
    put(world, sample_one, "by hand", state="cancelled", finished_at=None, sweep_at=In(-1))
    put(
        world,
        sample_one,
        "paused",
        tenant="paused",
        total_limit="sample:one",
        passed="all",
        seq=1,
        first_due_at=In(-60),
    )
    put(world, sample_one, "dead", **archived(dead_sent_at=None, sweep_at=In(-1)))


@pytest.mark.parametrize("kind", ["error", "time"])
def test_a_sweep_with_a_failing_duty_sends_everything_that_is_due(
    world: World, sqs: Accepting, subtests: pytest.Subtests, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    for name, statement in FAILING.items():
        with subtests.test(name):
            number, limits = 0 if name == messages.DUE_MESSAGES else DUE, list[str]()
            work_for_each_duty(world)
            sqs.ids.clear()
            capsys.readouterr()
            # when a statement of the duty fails
            with failing(world, kind, statement, limits) as database, logs.lines() as lines:
                assert run_sweep(world, database, sqs, f"{name} {kind}".replace(" ", "-")) == []
            # then the first sweep sends all due messages, and its statements had their own limit of time
            assert len(set(sqs.due())) == number
            assert limits
            assert set(limits) == {"10s"}
            # and the log names the duty
            found = [line for line in lines.fields if line["level"] == "ERROR"]
            assert {line["duty"] for line in found} == {name}
            assert found[0]["error"].endswith("(53100)" if kind == "error" else "(57014)")
            # and the alarm has its metric
            documents = emf.documents(capsys.readouterr().out)
            assert [line["FailedDuties"] for line in documents if "FailedDuties" in line] == [1]
            # and another sweep follows, not at once
            planned = [int(id_.removeprefix(PLANNED)) - sqs.now() for id_ in sqs.ids if id_.startswith(PLANNED)]
            assert len(planned) == 1
            assert 50 < planned[0] <= GRID_SECONDS + 60
            assert world.sweep().failed == []


def test_a_sweep_notes_that_the_deploy_of_its_code_is_done(
    world: World, sqs: Accepting, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = world.database.get()
    for version in ("b2", "a1", "b2", "c3"):
        write_deploy(connection, version, None)
    monkeypatch.setenv("JOBLANE_DEPLOY", "b2")
    for id_ in ("first", "second"):
        run_sweep(world, world.database, sqs, id_)
        # then it is the latest deploy of this version
        found = world.run("select version, done_at is not null from joblane.deploys order by number")
        assert found == [["b2", False], ["a1", False], ["b2", True], ["c3", False]]


def test_a_failed_duty_is_followed_by_another_sweep_even_if_nothing_is_due(
    world: World, sqs: Accepting, subtests: pytest.Subtests
) -> None:
    for name in ("held counts", "moved dead letters", "old snapshots", "run statistics"):
        with subtests.test(name):
            sqs.ids.clear()
            world.run("update joblane.stage set planned_sweep_at = null")
            with failing(world, "error", FAILING[name], []) as database:
                assert run_sweep(world, database, sqs, name.replace(" ", "-")) == []
            assert len([id_ for id_ in sqs.ids if id_.startswith(PLANNED)]) == 1


def test_a_batch_that_fails_delays_no_other_message(world: World, sqs: Accepting) -> None:
    # given a task of a lane with a row whose change takes long
    world.run(FILL, "1500")
    put(world, sample_one, "slow", queue="low", sweep_at=In(-1))
    slow(world, "slow")
    # when
    swept = sweep_quickly(world, sqs)
    # then all others are sent
    assert (swept.failed, len(set(sqs.due()))) == (["messages of due tasks"], 1500)


def slow(world: World, id_: str) -> None:
    """Add a trigger of an application that sleeps when a row is changed."""
    world.run(
        "create or replace function slow() returns trigger language plpgsql as"
        " $$ begin perform pg_sleep(30); return coalesce(new, old); end $$"
    )
    world.run(
        "create or replace trigger slow before update or delete on joblane.tasks for each row"
        f" when (old.id = '{id_}') execute function slow()"
    )


def sweep_quickly(world: World, sqs: Sqs) -> Swept:
    """Sweep with short limits of time."""
    with Database(world.url, limits=QUICK) as database:
        return sweep(database.get(), sqs, PREFIX)


@pytest.mark.parametrize(
    ("duty", "order"), [("unsent dead letters", ("a", "slow", "z")), ("expired tasks", ("a", "b", "slow"))]
)
def test_a_task_whose_change_takes_long_delays_no_other_before_it(
    world: World, sqs: Accepting, duty: str, order: Sequence[str]
) -> None:
    for number, name in enumerate(order):
        expired = {"state": "completed", "expire_at": In(number - 9), "sweep_at": None}
        dead = archived(dead_sent_at=None, sweep_at=In(-1))
        put(world, sample_one, name, **(expired if duty == "expired tasks" else dead))
    slow(world, "slow")
    swept = sweep_quickly(world, sqs)
    assert (swept.failed, swept.dead_letters + swept.cleared) == ([duty], 2)


def test_an_expiry_that_always_takes_too_long_delays_no_later_one_for_ever(world: World, sqs: Accepting) -> None:
    # given a row with so much that its deletion never ends in time
    for number, name in enumerate(("a", "slow", "z")):
        put(world, sample_one, name, state="completed", expire_at=In(number - 9), sweep_at=None, cleared=True)
    slow(world, "slow")
    world.run("alter table joblane.tasks disable trigger slow")
    world.run("create trigger slow_delete before delete on joblane.tasks for each row"
              " when (old.id = 'slow') execute function slow()")  # fmt: skip
    # then the first sweep with this row fails, and the next one deletes the others
    assert [sweep_quickly(world, sqs).failed for _ in range(2)] == [["expired tasks"], []]
    assert world.run("select id from joblane.tasks") == [["slow"]]


def test_dead_letters_that_always_take_too_long_delay_no_other_for_ever(world: World, sqs: Accepting) -> None:
    # given more dead letters that take too long than may fail in a sweep, and others
    slow(world, "none")
    world.run("create trigger slow_send before update on joblane.tasks for each row"
              " when (old.id like 'slow-%' and new.sends > old.sends) execute function slow()")  # fmt: skip
    for number in range(MOST_FAILURES + 1):
        put(world, sample_one, f"slow-{number}", **archived(dead_sent_at=None, sweep_at=In(-1), finished_at=In(-90)))
    for number in range(unsent_dead_letters.PAGE):
        put(world, sample_one, f"z-{number}", **archived(dead_sent_at=None, sweep_at=In(-1), finished_at=In(-5)))
    # then two sweeps send all others
    for _ in range(2):
        sweep_quickly(world, sqs)
    assert world.run("select count(*) from joblane.tasks where dead_letter_unsent and id like 'z-%'") == [[0]]


@step
def refusing(world: World, id_: str) -> None:
    """Add a trigger of an application that refuses each change of a row."""
    world.run(
        "create function refuse() returns trigger language plpgsql as"
        " $$ begin raise exception 'no' using errcode = '23514'; end $$"
    )
    world.run(
        "create trigger refuse before update on joblane.tasks for each row"
        f" when (old.id = '{id_}') execute function refuse()"
    )


@step
def swept(world: World) -> tuple[list[str], int, int]:
    """Sweep, and return the duties that failed, and the numbers of released children and served tasks."""
    found = sweep(world.database.get(), Accepting(), PREFIX)
    return found.failed, found.released, found.served


def a_family(name: str) -> Story:
    child, parent = f"child-{name}", f"parent-{name}"
    return [
        given(sample_one, parent, state="completed", sweep_at=None),
        given(sample_one, child, state="held", total_limit=None, **FOR_PARENTS),
        sql("insert into joblane.task_parents values ($1, $2, 'hold')", child, parent),
    ]


def a_limit(name: str) -> Story:
    limit = f"sample:single/{name}"
    return [given(sample_single, name, state="held", key_limit=limit, total_limit=None, waits_for=limit)]


def a_rate(name: str) -> Story:
    """A rate that gives times of another interval than it has now."""
    timed: dict[str, Any] = {"total_limit": f"x:{name}", "passed": "type_time", "seq": 1, "first_due_at": In(0)}
    return [
        sql("insert into joblane.limits (name, step, burst) values ($1, '2 hours', 1)", f"x:{name}"),
        sql(
            "insert into joblane.rates (name, next_at, step, burst) values ($1, now() + interval '2 hours', '1 h', 1)",
            f"x:{name}",
        ),
        given(sample_one, name, **timed, due_at=In(3600), sweep_at=In(3660)),
    ]


given, sql = step(put), step(World.run)
REFUSED: dict[str, Story] = {
    "a child": [
        *a_family("a"),
        *a_family("b"),
        refusing("child-a"),
        swept().gives((["ended parents"], 1, 0)),
        row("child-a", state="held"),
        row("child-b", state="pending"),
    ],
    "a held task": [
        *a_limit("a"),
        *a_limit("b"),
        refusing("a"),
        swept().gives((["held tasks"], 0, 1)),
        row("a", state="held"),
        row("b", state="pending"),
    ],
    "a task of a rate": [
        *a_rate("a"),
        *a_rate("b"),
        refusing("a"),
        swept().gives((["times of rates"], 0, 0)),
        sql("select name from joblane.rates where step = '2 hours'").gives([["x:b"]]),
    ],
}


@pytest.mark.usefixtures("sqs")
@stories(REFUSED)
def test_a_row_whose_change_is_refused_delays_no_other(world: World, story: Story) -> None:
    play(world, story)


def test_a_broken_connection_ends_the_sweep_and_its_task_is_tried_again(world: World, sqs: Accepting) -> None:
    work_for_each_duty(world)
    with failing(world, "broken", held.TAKE_BACK, []) as database, logs.lines() as lines:
        assert len(run_sweep(world, database, sqs, "sweep")) == 1
    assert [line for line in lines.fields if "duty" in line] == []
    world.run("update joblane.tasks set due_at = now() where id = 'sweep'")
    with Database(world.url) as database:
        assert run_sweep(world, database, sqs, "sweep") == []


def test_a_slow_duty_waits_until_each_other_has_used_as_much_time(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, order = [0.0], list[str]()
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])

    def steps(name: str, seconds: float, number: int) -> Iterator[None]:
        for _ in range(number):
            order.append(name)
            clock[0] += seconds
            yield

    turns = Duties(world.database.get(), NextSweep())
    found = {"slow": steps("slow", 25, 3), "quick": steps("quick", 5, 6)}
    assert turns.take_turns(found, lambda: clock[0] < 1000)
    assert "".join(name[0] for name in order) == "sqqqqsqqs"


def test_a_duty_that_fails_on_a_page_of_the_walk_does_not_run_on_other_pages(
    world: World, sqs: Accepting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(walk, "PAGE", 2)
    monkeypatch.setattr(walk, "READ", walk.READ.replace("limit 10000", "limit 2"))
    for number in range(3):
        put(world, sample_one, f"by-hand-{number}", state="cancelled", finished_at=None, created_at=In(2 * number))
        put(world, sample_one, f"due-{number}", created_at=In(2 * number + 1), sweep_at=In(-1))
    limits = list[str]()
    with failing(world, "time", expiry.TIDY, limits) as database:
        swept = sweep(database.get(), sqs, PREFIX)
    assert (swept.failed, swept.sent, len(limits)) == (["tasks ended by SQL"], 3, 1)


def test_a_lock_that_another_holds_delays_only_the_duty_that_needs_it(world: World, sqs: Accepting) -> None:
    world.run(FILL, "300")
    with Database(world.url, limits=None) as holder, Database(world.url, limits=QUICK) as database:
        holder.get().execute_simple("begin; lock table joblane.task_parents")
        swept = sweep(database.get(), sqs, PREFIX)
    assert (swept.failed, len(sqs.due())) == (["ended parents"], 300)


# --- Statements that grow ------------------------------------------------------------------------------------------


def test_unsent_dead_letters_of_many_numbers_are_read_a_few_mb_at_a_time(world: World, sqs: Accepting) -> None:
    # given dead letters whose text takes PostgreSQL long
    sizes: list[int] = []

    def hook(sql: str, send: Callable[[], Any]) -> Any:
        answer = send()
        if sql == unsent_dead_letters.TAKE:
            sizes.append(sum(len(row[8]) for row in answer.rows))
        return answer

    world.run(
        "insert into joblane.tasks (id, type, queue, state, payload, payload_digest, max_attempts, retention_seconds,"
        " sweep_at, reason, finished_at, expire_at, dead_letter_unsent)"
        " select 'dead-' || n, 'sample:one', 'default', 'archived', p, '', 1, 60, now() - interval '1 s', 'why', now(),"
        " now() + interval '1 day', true from generate_series(1, 40) n,"
        " (select jsonb_build_object('x', (select jsonb_agg(i % 10) from generate_series(1, 340000) i)) as p) as one"
    )
    world.run(FILL, "300")
    with HookedDatabase(world.url, hook) as database:
        swept = sweep(database.get(), sqs, PREFIX)
    assert (swept.failed, swept.dead_letters, len(sqs.due())) == ([], 40, 300)
    assert 1_000_000 < max(sizes) < 5_000_000


def test_limits_with_waiting_tasks_are_read_in_pages(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held, "LIMITS", 10)
    monkeypatch.setattr(held, "UNSERVED", held.UNSERVED.replace("null, 5000", "null, 10"))
    for number in range(25):
        name = f"sample:single/{number:02}"
        put(world, sample_single, f"it-{number}", state="held", key_limit=name, total_limit=None, waits_for=name)
    pages = [[str(row[3]) for row in found] for found in held.unserved(world.database.get())]
    assert [len(page) for page in pages] == [10, 10, 5]
    assert [name for page in pages for name in page] == [f"sample:single/{number:02}" for number in range(25)]
