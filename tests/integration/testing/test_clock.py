"""Time passes in the database and in the queues when the test says so."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text

from joblane import DuplicateTaskError, State, TaskContext, task
from joblane.testing import JobTester, KitError
from tests.integration.testing.conftest import Effects, execute
from tests.integration.testing.samples import (
    Nothing,
    Order,
    order_clock,
    order_fail,
    order_mail,
    order_nightly,
    order_quiet,
)


@pytest.mark.parametrize("delay", [timedelta(seconds=30), timedelta(minutes=20), timedelta(days=30)])
def test_a_delayed_task_runs_after_its_time_and_not_before(delay: timedelta, jobs: JobTester) -> None:
    jobs.enqueue(order_quiet, Order(number=1), process_in=delay)
    jobs.travel(delay - timedelta(seconds=5))
    assert len(jobs.drain()) == 0
    jobs.travel(timedelta(seconds=5))
    assert jobs.drain().check().only.attempts == 1


@pytest.mark.parametrize("days", [0, 400])
def test_a_moment_is_of_the_codes_clock_however_far_the_test_has_travelled(days: int, jobs: JobTester) -> None:
    jobs.travel(timedelta(days=days))
    soon = datetime.now(UTC) + timedelta(hours=1)
    jobs.enqueue(order_quiet, Order(number=1), process_at=soon, deadline=soon + timedelta(hours=1))
    jobs.travel(timedelta(minutes=59))
    assert len(jobs.drain()) == 0
    jobs.travel(timedelta(minutes=2))
    assert jobs.drain().only.state is State.COMPLETED


def test_retries_wait_for_their_delays(jobs: JobTester, effects: Effects) -> None:
    jobs.enqueue(order_fail, Order(number=2))
    assert jobs.drain().only.attempts == 1
    assert len(jobs.drain()) == 0
    jobs.travel(timedelta(minutes=1))
    assert jobs.drain().only.attempts == 2
    jobs.travel(timedelta(hours=1, minutes=59))
    assert len(jobs.drain()) == 0
    jobs.travel(timedelta(minutes=1))
    assert jobs.drain().check().only.attempts == 3


def test_travelling_by_itself_runs_nothing(jobs: JobTester) -> None:
    jobs.enqueue(order_quiet, Order(number=1))
    assert len(jobs.travel(timedelta(hours=1))) == 0
    assert jobs.enqueued()[0].state is State.PENDING


def test_a_deadline_and_a_key_pass(jobs: JobTester) -> None:
    jobs.enqueue(order_quiet, Order(number=1), task_id="late", deadline=datetime.now(UTC) + timedelta(hours=1))
    jobs.enqueue(
        order_quiet, Order(number=2), unique_for=timedelta(hours=3), unique_key="k", process_in=timedelta(days=1)
    )
    jobs.travel(timedelta(hours=2))
    assert str(jobs.drain().only.reason).startswith("DeadlinePassed")
    with pytest.raises(DuplicateTaskError):
        jobs.enqueue(order_quiet, Order(number=3), unique_for=timedelta(hours=3), unique_key="k")
    jobs.travel(timedelta(hours=2))
    jobs.enqueue(order_quiet, Order(number=3), unique_for=timedelta(hours=3), unique_key="k")


def test_retention_passes(jobs: JobTester) -> None:
    jobs.run(order_quiet, Order(number=1))
    assert jobs.enqueued()[0].payload == {"number": 1, "note": ""}
    jobs.travel(timedelta(days=2))
    jobs.drain()
    assert jobs.enqueued()[0].payload is None
    jobs.travel(timedelta(days=30))
    jobs.drain()
    assert jobs.enqueued() == []


def test_a_message_that_the_queue_has_forgotten_is_sent_again(jobs: JobTester) -> None:
    jobs.enqueue(order_quiet, Order(number=1))
    jobs.travel(timedelta(days=11))
    assert jobs.drain().check().only.attempts == 1


PRICES = (
    "create table prices (day timestamptz primary key)",
    "insert into prices select now() - n * interval '1 day' from generate_series(0, 3) n",
)


def test_the_tables_of_the_application_grow_older_too(jobs: JobTester, effects: Effects) -> None:
    execute(
        jobs,
        "create table offers (id int, ends timestamptz, made timestamp, on_day date)",
        "insert into offers values (1, now() + interval '3 days', localtimestamp, current_date)",
        *PRICES,
    )

    @task("offer:end")
    def offer_end(payload: Nothing, ctx: TaskContext) -> int:
        return ctx.session.execute(text("delete from offers where ends < now()")).rowcount  # type: ignore[attr-defined, no-any-return]

    jobs.ageless.add("prices")
    for ended in (0, 1):
        jobs.travel(timedelta(days=2))
        assert jobs.run(offer_end, Nothing()) == ended


def test_times_that_a_trigger_keeps_grow_older_too(jobs: JobTester) -> None:
    execute(
        jobs,
        "create table pages (id int, updated_at timestamptz default now())",
        "create function touch() returns trigger language plpgsql as 'begin new.updated_at := now(); return new; end'",
        "create trigger touched before update on pages for each row execute function touch()",
        "insert into pages values (1)",
    )
    jobs.travel(timedelta(days=1))
    with jobs.session() as session:
        old = "select now() - updated_at > interval '23 hours' from pages"
        assert session.scalar(text(old))
        session.execute(text("update pages set id = 2"))
        assert not session.scalar(text(old))


@pytest.mark.parametrize(
    ("tables", "says"),
    [
        (PRICES, r"public\.prices cannot be changed: its times are unique.*jobs\.ageless\.add\('prices'\)"),
        (
            (
                "create table prices (day timestamptz check (day > now() - interval '1 hour'))",
                "insert into prices values (now())",
            ),
            r"a constraint covers its times; exclude the table: jobs\.ageless\.add\('prices'\)",
        ),
        (
            (
                "create table days (day timestamptz primary key)",
                "create table prices (day timestamptz references days)",
                "insert into days values (now())",
                "insert into prices values (now())",
            ),
            r"a constraint covers its times; exclude the table: jobs\.ageless\.add\('(prices|days)'\)",
        ),
    ],
    ids=["times that would meet", "a check", "a foreign key"],
)
def test_times_that_cannot_be_changed_are_named(tables: tuple[str, ...], says: str, jobs: JobTester) -> None:
    execute(jobs, *tables)
    before = jobs.now
    with pytest.raises(KitError, match=says):
        jobs.travel(timedelta(days=1))
    assert jobs.now - before < timedelta(minutes=1)
    jobs.ageless |= {"prices", "days"}
    jobs.travel(timedelta(days=1))


def test_a_transaction_that_is_open_is_named(jobs: JobTester) -> None:
    with jobs.session() as session:
        jobs.enqueue(order_quiet, Order(number=1))
        session.execute(text("update joblane.tasks set tags = '{}'"))
        with pytest.raises(
            KitError,
            match=r"joblane\.tasks cannot be changed: a transaction of the test has locked its rows; commit or close",
        ):
            jobs.travel(timedelta(days=1))


def test_time_only_passes(jobs: JobTester) -> None:
    with pytest.raises(ValueError, match="only passes"):
        jobs.travel(-timedelta(seconds=1))
    with pytest.raises(ValueError, match="only passes"):
        jobs.at(jobs.now - timedelta(days=1))


def test_a_tick_runs_the_task_and_twice_is_once(jobs: JobTester, effects: Effects) -> None:
    id_ = jobs.tick(order_nightly)
    assert id_.startswith("order:nightly:0:")
    assert id_.endswith("T02:00Z")
    assert jobs.tick(order_nightly) == id_
    assert jobs.drain().check().only.id == id_
    assert effects() == ["night"]
    assert jobs.tick(order_nightly, at=datetime(2030, 1, 31, 2, tzinfo=UTC)) == "order:nightly:0:2030-01-31T02:00Z"
    jobs.drain().check()
    assert effects() == ["night", "night"]


def test_a_schedule_is_named_where_there_are_several(jobs: JobTester) -> None:
    with pytest.raises(KitError, match="name one; it has 'hours', 'mondays'"):
        jobs.tick(order_clock)
    with pytest.raises(KitError, match="no such schedule; it has 'hours', 'mondays'"):
        jobs.tick(order_clock, "days")
    with pytest.raises(KitError, match="name one; it has none"):
        jobs.tick(order_quiet)
    assert jobs.tick(order_clock, "mondays").endswith("T08:30Z")


def test_schedules_tick_while_time_passes(jobs: JobTester, effects: Effects) -> None:
    jobs.at(jobs.now.replace(hour=12, minute=15) + timedelta(days=1))
    jobs.register(order_nightly, order_clock)
    ran = jobs.travel(timedelta(days=7), ticks=True).check()
    assert len(ran.of(order_nightly)) == 7
    assert len(ran.of(order_clock)) == 7 * 24 + 1
    assert effects().count("night") == 7
    ids = [one.id for one in ran.of(order_nightly)]
    assert ids == sorted(set(ids))
    more = jobs.travel(timedelta(days=1), ticks=True).of(order_nightly)
    assert more[0].id > ids[-1]


def test_what_is_due_on_the_way_runs_at_its_time(jobs: JobTester, effects: Effects) -> None:
    jobs.enqueue(order_fail, Order(number=2))
    jobs.enqueue(order_mail, Order(number=5), process_in=timedelta(hours=1))
    jobs.at(jobs.now.replace(hour=12, minute=0) + timedelta(days=1))
    jobs.register(order_nightly)
    jobs.drain(within=timedelta(hours=3))
    jobs.enqueue(order_fail, Order(number=1))
    ran = jobs.travel(timedelta(days=1), ticks=True).check()
    assert [one.type for one in ran] == ["order:fail", "order:nightly"]
    assert effects() == ["mailed 5", "attempt 3", "attempt 2", "night"]
