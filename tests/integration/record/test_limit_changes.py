"""Changes of limits: they hold at once, raised limits start waiting tasks, and nothing is written for bad input."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text

from joblane import JobClient, TaskContext
from joblane.client.client import client_within
from joblane.errors import LimitError
from joblane.record.driver.database import Database
from joblane.record.flow import limit_changes
from joblane.record.flow.free_slots import delay
from joblane.record.flow.limit_status import LimitKind, rate_of
from joblane.record.row.states import Passed
from joblane.record.sql_functions import VERSION
from joblane.record.task_types import register_limits
from joblane.tasks.limit import Flow, Rate
from joblane.tasks.task import Task
from tests.patience import PATIENCE_SECONDS
from tests.samples import (
    Sample,
    behaviour,
    sample_keyed,
    sample_one,
    sample_rated,
    sample_sharing,
    sample_single,
    sample_tree,
)
from tests.world import World

HOUR = timedelta(hours=1)
KEYED, SINGLE, TREE = sample_keyed.type, sample_single.type, sample_tree.type


@pytest.fixture
def jobs(limited: World) -> JobClient:
    limited.make("jobs-low-jobs-sweep")
    return limited.client


def put(world: World, task: Task[Any, Any], *ids: str, number: int = 7, tenant: str = "acme") -> None:
    """Enqueue tasks, and deliver their messages one after the other."""
    world.lane(task)
    for id_ in ids:
        world.client.enqueue(task, Sample(number=number), task_id=id_, tenant=tenant)
        world.take(task)
    for id_ in ids:
        deliver(world, task, id_)


def deliver(world: World, task: Task[Any, Any], id_: str) -> None:
    world.deliver(task, {"type": task.type, "id": id_, "rec": True})


def states(world: World, *ids: str) -> list[str]:
    return [world.row(id_)["state"] for id_ in ids]


def sent(world: World, task: Task[Any, Any]) -> list[str]:
    return [json.loads(message["Body"])["id"] for message in world.take(task)]


def woken(world: World) -> bool:
    return bool(world.depth("jobs-low-jobs-sweep"))


def is_set(world: World) -> list[list[Any]]:
    return world.run("select name, slots from joblane.limit_changes order by name")


# --- Raised and lowered --------------------------------------------------------------------------------------------


def test_a_limit_of_0_holds_new_tasks_and_raising_it_sends_as_many_as_fit(limited: World, jobs: JobClient) -> None:
    jobs.limits.set(KEYED, key="7", max_per_key=0, reason="the account is moved")
    put(limited, sample_keyed, "a", "b", "c")
    assert states(limited, "a", "b", "c") == ["held", "held", "held"]

    jobs.limits.set(KEYED, key="7", max_per_key=2)

    assert states(limited, "a", "b", "c") == ["pending", "pending", "held"]
    assert sent(limited, sample_keyed) == ["a", "b"]
    assert woken(limited)
    deliver(limited, sample_keyed, "a")
    assert states(limited, "a", "c") == ["completed", "pending"]


def test_lowering_stops_no_task_that_has_a_slot(limited: World, jobs: JobClient) -> None:
    jobs.limits.set(SINGLE, max_total=0)
    put(limited, sample_single, "a", "b", "c")
    jobs.limits.set(SINGLE, max_total=2)
    assert states(limited, "a", "b", "c") == ["pending", "pending", "held"]

    jobs.limits.set(SINGLE, max_total=1)

    deliver(limited, sample_single, "a")
    assert states(limited, "a", "b", "c") == ["completed", "pending", "held"]  # b still has its slot
    deliver(limited, sample_single, "b")
    assert states(limited, "b", "c") == ["completed", "pending"]


def test_a_shared_limit_is_raised_for_all_types(limited: World, jobs: JobClient) -> None:
    jobs.limits.set("shared", total=0)
    put(limited, sample_tree, "a")
    put(limited, sample_sharing, "b")
    assert states(limited, "a", "b") == ["held", "held"]
    jobs.limits.reset("shared")
    assert states(limited, "a", "b") == ["pending", "pending"]
    assert (sent(limited, sample_tree), sent(limited, sample_sharing)) == (["a"], ["b"])


def test_the_limit_of_each_key_is_raised_for_more_keys_than_one_statement_serves(
    limited: World, jobs: JobClient
) -> None:
    jobs.limits.set(KEYED, max_per_key=0)
    jobs.limits.set(KEYED, key="3", max_per_key=0)
    for number in range(60):
        put(limited, sample_keyed, f"t{number:02}", number=number)
    assert set(states(limited, *(f"t{number:02}" for number in range(60)))) == {"held"}

    jobs.limits.reset(KEYED)

    found = [number for number in range(60) if states(limited, f"t{number:02}") == ["held"]]
    assert found == [3]  # its own value stays
    jobs.limits.reset(KEYED, key="3")
    assert states(limited, "t03") == ["pending"]


def test_a_change_ends_at_its_time(limited: World, jobs: JobClient) -> None:
    jobs.limits.set(SINGLE, max_total=0, until=datetime.now(UTC) + HOUR)
    put(limited, sample_single, "a")
    limited.run("update joblane.limit_changes set until = clock_timestamp()")
    assert jobs.limits.get(SINGLE).change is None
    limited.sweep()
    assert states(limited, "a") == ["pending"]


def test_a_later_change_keeps_what_it_does_not_name(limited: World, jobs: JobClient) -> None:
    until = datetime.now(UTC) + HOUR
    jobs.limits.set("shared", total=9, reason="more", until=until)
    jobs.limits.set("shared", rate=Rate(5, timedelta(minutes=1), burst=3), reason="slower")
    change = jobs.limits.get("shared").change
    assert change is not None
    assert (change.values.at_a_time, change.values.rate) == (9, Rate(5, timedelta(minutes=1), burst=3))
    assert change.reason == "slower"
    assert change.until == until  # an end that nobody named would otherwise be lost, and the change stay for good


def test_a_change_that_is_over_leaves_no_end_to_the_next(limited: World, jobs: JobClient) -> None:
    jobs.limits.set("shared", total=9, until=datetime.now(UTC) + HOUR)
    limited.run("update joblane.limit_changes set until = clock_timestamp()")
    jobs.limits.set("shared", total=8)
    change = jobs.limits.get("shared").change
    assert change is not None
    assert (change.values.at_a_time, change.until) == (8, None)


# --- Rates ---------------------------------------------------------------------------------------------------------


FIRST_DUE = "(select min(due_at) from joblane.tasks where finished_at is null)"


def due_in(world: World, *ids: str) -> list[float]:
    """Return the seconds until tasks are due, after the first of all that have not ended."""
    rows = world.run(f"select id, extract(epoch from due_at - {FIRST_DUE})::float8 from joblane.tasks")
    return [round(dict(rows)[id_], 3) for id_ in ids]


def due_soonest(world: World) -> float:
    ((seconds,),) = world.run(f"select extract(epoch from {FIRST_DUE} - clock_timestamp())::float8")
    return float(seconds)


def wait_for_times(world: World, jobs: JobClient, step: timedelta = HOUR) -> list[str]:
    """Let two tasks use a burst up, and five wait for their times, which are ``step`` apart."""
    jobs.limits.set(sample_rated.type, rate=Rate(1, step, burst=2))
    put(world, sample_rated, *"abcdefg")
    assert states(world, *"abcdefg") == ["completed"] * 2 + ["pending"] * 5
    assert due_in(world, *"cdefg") == [number * step.total_seconds() for number in range(5)]
    return list("cdefg")


def test_a_message_that_comes_too_early_is_not_sent_again(limited: World, jobs: JobClient) -> None:
    waiting = wait_for_times(limited, jobs, timedelta(minutes=10))
    jobs.limits.set(sample_rated.type, rate=Rate(1, timedelta(minutes=12), burst=1))
    rows = [limited.row(id_) for id_ in waiting]
    # Rows that are due later than SQS can delay a message wait alone: their early message is acknowledged.
    assert [row["sweep_at"] > row["due_at"] for row in rows] == [True, False, False, False, False]


def end_by_the_sweep(world: World, jobs: JobClient) -> None:
    """The tasks would otherwise wait for hours for the times of a rate that is not in force any more."""
    jobs.limits.set(sample_rated.type, until=datetime.now(UTC) + HOUR, rate=Rate(1, 2 * HOUR, burst=2))
    end_of_changes(world)
    assert is_set(world) == []


def change_after_a_delay(world: World, jobs: JobClient) -> None:
    """A delay that is over has no effect."""
    delay(world.database.get(), [None, sample_rated.type, None], 0)
    jobs.limits.set(sample_rated.type, rate=Rate(1, timedelta(minutes=10), burst=1))


def change_to(rate: Rate) -> Callable[[World, JobClient], object]:
    return lambda world, jobs: jobs.limits.set(sample_rated.type, rate=rate)


@pytest.mark.parametrize(
    ("change", "step", "due"),
    [
        (change_to(Rate(1, 10 * HOUR, burst=1)), 36_000, [0, 1, 2, 3, 4]),
        (change_to(Rate(1, 2 * HOUR, burst=5)), 7200, [0, 0, 0, 1, 2]),
        (change_after_a_delay, 600, [0, 1, 2, 3, 4]),
        (lambda world, jobs: jobs.limits.reset(sample_rated.type), 1, [0, 1, 2, 3, 4]),
        (end_by_the_sweep, 1, [0, 1, 2, 3, 4]),
    ],
    ids=["slower", "a larger burst", "after a delay", "reset", "a change that has ended"],
)
def test_another_rate_gives_waiting_tasks_other_times_in_their_order(
    limited: World, jobs: JobClient, change: Callable[[World, JobClient], object], step: int, due: list[int]
) -> None:
    waiting = wait_for_times(limited, jobs)
    limited.take(sample_rated)
    change(limited, jobs)
    assert [round(seconds / step, 1) for seconds in due_in(limited, *waiting)] == due
    if due[1] == 0:  # a larger burst is used at once
        assert due_soonest(limited) <= 0
    else:  # the burst was used up
        assert 0.9 * step - 5 < due_soonest(limited) <= step
    assert all(limited.row(id_)["passed"] == Passed.TYPE_TIME for id_ in waiting)
    put(limited, sample_rated, "new")
    assert round(due_in(limited, "new")[0] / step) == due[-1] + 1


def test_a_faster_rate_wakes_the_sweep_that_sends_the_messages(limited: World, jobs: JobClient) -> None:
    waiting = wait_for_times(limited, jobs)
    limited.take(sample_rated)
    jobs.limits.reset(sample_rated.type)
    assert woken(limited)
    assert limited.sweep().sent == 5
    limited.run("update joblane.tasks set due_at = clock_timestamp() where finished_at is null")
    for id_ in waiting:
        deliver(limited, sample_rated, id_)
    assert set(states(limited, *waiting)) == {"completed"}


def test_without_a_rate_the_waiting_tasks_start_now(limited: World, jobs: JobClient) -> None:
    jobs.limits.set(KEYED, key="7", rate=Rate(1, HOUR))
    put(limited, sample_keyed, "a", "b")
    assert due_soonest(limited) > 3000
    jobs.limits.reset(KEYED, key="7")
    assert due_soonest(limited) < 0
    assert limited.run("select * from joblane.rates") == []
    deliver(limited, sample_keyed, "b")
    assert states(limited, "a", "b") == ["completed", "completed"]


def test_the_rate_of_each_key_is_changed_for_all_keys_but_those_with_their_own(limited: World, jobs: JobClient) -> None:
    jobs.limits.set(KEYED, rate=Rate(1, HOUR))
    jobs.limits.set(KEYED, key="2", rate=Rate(1, timedelta(minutes=10)))
    for number in range(3):
        put(limited, sample_keyed, f"a{number}", f"b{number}", number=number)
    jobs.limits.set(KEYED, rate=Rate(1, timedelta(minutes=1)))
    seconds = [
        round(row[0])
        for row in limited.run(
            "select extract(epoch from due_at - clock_timestamp())::float8 from joblane.tasks where id like 'b%'"
            " order by id"
        )
    ]
    assert seconds == pytest.approx([60, 60, 600], abs=30)


def wait_by_key(world: World, jobs: JobClient, **rate: Any) -> list[str]:
    """Let a task of each of three keys start, and another wait an hour."""
    jobs.limits.set(KEYED, max_per_key=9, rate=Rate(1, HOUR), **rate)
    for number in range(3):
        put(world, sample_keyed, f"a{number}", f"b{number}", number=number)
    assert [seconds > 3000 for seconds in seconds_until_due(world, "b0", "b1", "b2")] == [True] * 3
    return ["b0", "b1", "b2"]


def test_the_sweep_gives_the_times_that_a_locked_task_has_prevented(limited: World, jobs: JobClient) -> None:
    waiting = wait_for_times(limited, jobs)
    with limited.locked("d"):
        jobs.limits.set(sample_rated.type, rate=Rate(2, HOUR))
        limited.sweep()
        assert due_in(limited, *waiting) == [0, 3600, 7200, 10_800, 14_400]
    limited.sweep()
    assert due_in(limited, *waiting) == [0, 1800, 3600, 5400, 7200]


def test_a_locked_task_of_a_key_does_not_keep_the_other_keys_from_new_times(limited: World, jobs: JobClient) -> None:
    waiting = wait_by_key(limited, jobs)
    with limited.locked("b0"):
        jobs.limits.set(KEYED, rate=Rate(1, timedelta(minutes=1)))
        assert [seconds > 100 for seconds in seconds_until_due(limited, *waiting)] == [True, False, False]
    limited.sweep()
    assert max(seconds_until_due(limited, *waiting)) < 100


def test_the_end_of_a_change_gives_the_keys_new_times_once_no_task_is_locked(limited: World, jobs: JobClient) -> None:
    waiting = wait_by_key(limited, jobs, until=datetime.now(UTC) + HOUR)
    limited.run("update joblane.limit_changes set until = clock_timestamp()")
    with limited.locked("b0"):
        limited.sweep()
    limited.sweep()
    assert (max(seconds_until_due(limited, *waiting)) < 100, is_set(limited)) == (True, [])


def test_a_change_of_a_key_with_a_locked_task_stops_no_other_limit(limited: World, jobs: JobClient) -> None:
    jobs.limits.set(KEYED, key="7", max_per_key=5, rate=Rate(1, HOUR))
    put(limited, sample_keyed, "a", "b")
    with limited.locked("b"):
        jobs.limits.set(KEYED, key="7", rate=Rate(1, timedelta(minutes=1)))
        put(limited, sample_sharing, "other")
    assert states(limited, "other") == ["completed"]


@pytest.mark.parametrize("declared", [Rate(1, timedelta(minutes=1)), Rate(1, 10 * HOUR), None])
def test_the_sweep_after_a_deploy_plans_a_changed_rate_anew(
    limited: World, jobs: JobClient, declared: Rate | None
) -> None:
    limited.run("update joblane.limits set step = interval '1 hour', burst = 1 where name = 'sample:rated'")
    put(limited, sample_rated, *"abcd")
    assert due_in(limited, *"bcd") == [0, 3600, 7200]
    own = replace(sample_rated, flow=Flow(max_total=9, rate=declared))

    register_limits(limited.database.get(), {own.type: own})
    limited.sweep()

    step = declared.step.total_seconds() if declared else 0
    assert due_in(limited, *"bcd") == [0, step, 2 * step]
    assert due_soonest(limited) <= step
    put(limited, sample_rated, "new")
    assert limited.row("new")["state"] == ("pending" if declared else "completed")


def test_the_sweep_gives_back_the_times_of_cancelled_tasks(limited: World, jobs: JobClient) -> None:
    jobs.limits.set(sample_rated.type, rate=Rate(1, timedelta(minutes=1)))
    ids = [f"r{number:02}" for number in range(20)]
    put(limited, sample_rated, *ids)
    for id_ in ids[1:-2]:
        jobs.cancel(id_)
    limited.sweep()
    assert due_in(limited, *ids[-2:]) == [0, 60]
    assert due_soonest(limited) <= 60
    before = limited.run("select next_at from joblane.rates")
    limited.sweep()
    assert limited.run("select next_at from joblane.rates") == before
    put(limited, sample_rated, "new")
    assert due_in(limited, "new") == [120]


def test_the_sweep_gives_back_the_times_of_paused_tasks(limited: World, jobs: JobClient) -> None:
    jobs.limits.set(sample_rated.type, rate=Rate(1, timedelta(minutes=1)))
    ids = [f"r{number:02}" for number in range(10)]
    put(limited, sample_rated, *ids)
    limited.run("insert into joblane.pauses (scope, name) values ('tenant', 'acme')")
    limited.run("update joblane.tasks set due_at = clock_timestamp() where finished_at is null")
    for id_ in ids[1:]:
        deliver(limited, sample_rated, id_)
    limited.sweep()
    put(limited, sample_rated, "new", tenant="other")
    assert seconds_until_due(limited, "new") == [60]


def test_the_sweep_locks_no_limit_whose_times_are_right(
    limited: World, jobs: JobClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    wait_for_times(limited, jobs)
    wait_by_key(limited, jobs)
    delay(limited.database.get(), [None, None, "shared"], DELAY)
    locked: list[list[str]] = []
    monkeypatch.setattr(limit_changes, "_lock", lambda _, names: locked.append(list(names)))
    limited.sweep()
    assert locked == []
    jobs.cancel("f")
    jobs.cancel("g")
    limited.sweep()
    assert locked == [[sample_rated.type]]


def test_the_sweep_removes_what_is_known_of_a_rate_that_has_long_been_idle(limited: World, jobs: JobClient) -> None:
    jobs.limits.set(KEYED, max_per_key=9, rate=Rate(1, HOUR))
    for number in range(4):
        put(limited, sample_keyed, f"a{number}", number=number)
    delay(limited.database.get(), [f"{KEYED}/2", None, None], DELAY)
    limited.run("update joblane.rates set next_at = now() - interval '2 hours' where name ~ '[012]$'")
    limited.run("update joblane.rates set next_at = now() - interval '50 minutes' where name ~ '3$'")
    limited.sweep()
    assert limited.run("select name from joblane.rates order by 1") == [[f"{KEYED}/2"], [f"{KEYED}/3"]]


# --- Rates of a limit that a handler has delayed -------------------------------------------------------------------

DELAY = 1000


def seconds_until_due(world: World, *ids: str) -> list[int]:
    rows = world.run("select id, extract(epoch from due_at - clock_timestamp())::float8 from joblane.tasks")
    return [round(dict(rows)[id_], -1) for id_ in ids]


def end_of_changes(world: World) -> None:
    """Let the time of all changes be over. Unlike a reset, this keeps delays."""
    world.run("update joblane.limit_changes set until = clock_timestamp()")
    world.sweep()


@pytest.mark.parametrize(
    ("rate", "after"),
    [
        (Rate(1, timedelta(minutes=10)), [0, 600, 1200, 1800]),
        (Rate(1, timedelta(seconds=10)), [0, 10, 20, 30]),
        (Rate(1, timedelta(minutes=10), burst=3), [0, 600, 1200, 1800]),
        (Rate(1, HOUR), [0, 3600, 7200, 10_800]),
    ],
)
def test_another_rate_keeps_the_delay_of_another_service(
    limited: World, jobs: JobClient, rate: Rate, after: list[int]
) -> None:
    jobs.limits.set(sample_rated.type, rate=Rate(1, timedelta(minutes=1), burst=2))
    put(limited, sample_rated, *"abcd")
    delay(limited.database.get(), [None, sample_rated.type, None], DELAY)
    put(limited, sample_rated, "e")
    assert seconds_until_due(limited, *"cde") == [DELAY, DELAY + 60, DELAY + 120]

    jobs.limits.set(sample_rated.type, rate=rate)

    put(limited, sample_rated, "new")
    assert seconds_until_due(limited, *"cde", "new") == [DELAY + seconds for seconds in after]
    end_of_changes(limited)
    assert seconds_until_due(limited, *"cde", "new") == [DELAY] * 4  # one a second, rounded


def test_without_a_rate_the_delay_of_another_service_stays(limited: World, jobs: JobClient) -> None:
    jobs.limits.set(KEYED, key="7", rate=Rate(1, HOUR), max_per_key=9)
    put(limited, sample_keyed, "a", "b", "c")
    delay(limited.database.get(), [f"{KEYED}/7", None, None], DELAY)
    jobs.limits.set(KEYED, key="7", max_per_key=9)
    assert seconds_until_due(limited, "b", "c") == [3600, 7200]  # later than the delay

    end_of_changes(limited)
    jobs.limits.set(KEYED, key="7", max_per_key=9)

    put(limited, sample_keyed, "d")
    assert seconds_until_due(limited, "b", "c", "d") == [DELAY] * 3
    jobs.limits.set(KEYED, key="7", rate=Rate(1, HOUR))
    assert seconds_until_due(limited, "b", "c", "d") == [DELAY, DELAY + 3600, DELAY + 7200]


def test_a_reset_ends_the_delay_of_a_limit_without_a_rate(limited: World, jobs: JobClient) -> None:
    delay(limited.database.get(), [None, None, "shared"], DELAY)
    put(limited, sample_sharing, "a", "b")
    assert seconds_until_due(limited, "a", "b") == [DELAY] * 2
    jobs.limits.reset("shared", reason="the service is back")
    assert max(seconds_until_due(limited, "a", "b")) <= 0
    deliver(limited, sample_sharing, "a")
    put(limited, sample_tree, "c")
    assert states(limited, "a", "c") == ["completed", "completed"]
    assert limited.run("select reason, details from joblane.audit") == [
        ["the service is back", {"limits": [], "delays": ["shared"]}]
    ]
    with pytest.raises(LimitError, match="nothing is set for shared"):
        jobs.limits.reset("shared")


def test_a_reset_ends_the_delay_of_a_limit_with_a_rate(limited: World, jobs: JobClient) -> None:
    jobs.limits.set(sample_rated.type, rate=Rate(1, timedelta(minutes=1)))
    put(limited, sample_rated, *"abc")
    delay(limited.database.get(), [None, sample_rated.type, None], DELAY)
    assert seconds_until_due(limited, "b", "c") == [DELAY, DELAY + 60]
    found = jobs.limits.get(sample_rated.type).delayed_until
    assert found is not None
    assert found - datetime.now(UTC) <= timedelta(seconds=DELAY)
    jobs.limits.reset(sample_rated.type)
    assert max(seconds_until_due(limited, "b", "c")) <= 2
    assert jobs.limits.get(sample_rated.type).delayed_until is None


def test_a_delay_holds_for_tasks_of_a_first_rate_that_the_sweep_plans_later(limited: World, jobs: JobClient) -> None:
    delay(limited.database.get(), [None, None, "shared"], DELAY)
    limited.run("update joblane.limits set slots = null, step = interval '1 minute', burst = 3 where name = 'shared'")
    put(limited, sample_sharing, *"abcdef")
    assert seconds_until_due(limited, *"abcdef") == [DELAY] * 3 + [DELAY + 60, DELAY + 120, DELAY + 180]
    limited.sweep()
    assert seconds_until_due(limited, *"abcdef") == [DELAY + 60 * number for number in range(6)]


def test_a_limit_is_delayed_by_a_day_at_most(limited: World) -> None:
    delay(limited.database.get(), [None, None, "shared"], 315_360_000.0)
    put(limited, sample_sharing, "a")
    assert seconds_until_due(limited, "a") == [86_400]


# --- At the same time as a claim -----------------------------------------------------------------------------------


def test_a_task_that_a_claim_has_just_left_waiting_is_served(
    limited: World, jobs: JobClient, wait_until: Callable[[Callable[[], bool]], None]
) -> None:
    jobs.limits.set(SINGLE, max_total=0)
    limited.lane(sample_single)
    jobs.enqueue(sample_single, Sample(), task_id="a")
    claim = "select joblane.claim_@version($1, gen_random_uuid(), 60, null)".replace("@version", VERSION)
    message = {"id": "a", "type": SINGLE, "queue": "default", "rec": True, "limits": []}
    with closing(Database(limited.url).get()) as other, ThreadPoolExecutor() as threads:
        other.execute_simple("begin")
        [[[answer]]] = other.run(claim, json.dumps([message]))
        assert answer["verdict"] == "held"
        change = threads.submit(jobs.limits.set, SINGLE, max_total=1)
        waits = "select count(*) from pg_stat_activity where wait_event = 'advisory' and datname = current_database()"
        wait_until(lambda: limited.run(waits) == [[1]])
        other.execute_simple("commit")
        change.result(timeout=PATIENCE_SECONDS)
    assert states(limited, "a") == ["pending"]


# --- In a handler whose transaction is open ------------------------------------------------------------------------


@behaviour
def changes_a_limit_and_fails(payload: Sample, ctx: TaskContext) -> None:
    ctx.session.execute(text("select 1"))
    used = ctx._producer
    shared = client_within(used.database(), used.sqs, used.prefix)
    with pytest.raises(LimitError, match="transaction is open, and a change of limits commits: use a new JobClient"):
        shared.limits.set(SINGLE, max_total=0)
    with JobClient() as own:
        own.limits.reset(SINGLE)
        own.cancel("a")
    raise ValueError("it fails")


def test_a_client_of_the_handler_changes_limits_and_cancels_at_once(limited: World, jobs: JobClient) -> None:
    """Its transaction is another one: its rollback undoes neither, and the waiting task does not wait for its end."""
    jobs.limits.set(SINGLE, max_total=0)
    put(limited, sample_single, "a", "b")
    limited.lane(sample_one)
    jobs.enqueue(sample_one, Sample(do="changes_a_limit_and_fails"), task_id="handler")
    deliver(limited, sample_one, "handler")
    assert (states(limited, "a", "b"), is_set(limited)) == (["cancelled", "pending"], [])
    assert sent(limited, sample_single) == ["a", "b"]


# --- What is shown -------------------------------------------------------------------------------------------------


def test_get_shows_the_values_and_who_has_and_waits_for_the_slots(limited: World, jobs: JobClient) -> None:
    jobs.limits.set(TREE, max_total=0)
    put(limited, sample_tree, "a", "b", number=7)
    put(limited, sample_tree, "c", number=8)
    jobs.limits.set(TREE, max_total=1, reason="one by one")
    of_key, total = jobs.limits.get(TREE, key="7"), jobs.limits.get(TREE)
    assert (of_key.name, of_key.key, of_key.kind) == (TREE, "7", LimitKind.KEY)
    assert (of_key.declared.at_a_time, of_key.in_force.at_a_time, of_key.change) == (2, 2, None)
    assert (of_key.taken, of_key.running, of_key.turns, of_key.held) == (2, 0, 1, 0)
    assert (total.kind, total.declared.at_a_time, total.in_force.at_a_time) == (LimitKind.TOTAL, 3, 1)
    assert (total.taken, total.turns, total.held) == (1, 1, 2)
    assert total.oldest_held_at is not None
    assert total.change is not None
    assert (total.change.reason, total.change.values.at_a_time) == ("one by one", 1)
    assert total.change.by
    limited.run("update joblane.tasks set state = 'active', lease_until = now() where id = 'a'")
    assert (jobs.limits.get(TREE).running, jobs.limits.get(TREE).turns) == (1, 0)
    shared = jobs.limits.get("shared")
    assert (shared.kind, shared.declared.at_a_time, shared.taken, shared.running) == (LimitKind.SHARED, 2, 1, 1)


def test_get_of_a_key_says_whether_its_change_is_its_own_or_that_of_each_key(limited: World, jobs: JobClient) -> None:
    jobs.limits.set(KEYED, max_per_key=0, reason="all")
    jobs.limits.set(KEYED, key="7", max_per_key=3, reason="one")
    own, inherited, each = jobs.limits.get(KEYED, key="7"), jobs.limits.get(KEYED, key="8"), jobs.limits.get(KEYED)
    found = [(one.change.reason, one.change.kind) for one in (own, inherited, each) if one.change]
    assert found == [("one", LimitKind.KEY), ("all", LimitKind.EACH_KEY), ("all", LimitKind.EACH_KEY)]
    assert (own.own_change, inherited.own_change, each.own_change) == (own.change, None, each.change)


def test_get_shows_the_times_of_a_rate(limited: World, jobs: JobClient) -> None:
    jobs.limits.set(sample_rated.type, rate=Rate(2, HOUR, burst=2))
    put(limited, sample_rated, *"abc")
    found = jobs.limits.get(sample_rated.type)
    assert found.in_force.rate == Rate(2, HOUR, burst=2)
    assert found.declared.rate == Rate(1, timedelta(seconds=1), burst=2)
    assert found.timed == 1
    assert found.next_start_at is not None
    assert timedelta(minutes=58) < found.next_start_at - datetime.now(UTC) <= HOUR


@pytest.mark.parametrize("rate", [Rate(7, timedelta(minutes=1)), Rate(500_000, timedelta(days=1)), Rate(3, HOUR)])
def test_a_rate_is_shown_as_it_was_declared(rate: Rate) -> None:
    assert rate_of(rate.step.total_seconds(), 1) == rate


def test_a_change_is_in_the_audit(limited: World, jobs: JobClient) -> None:
    jobs.limits.set("shared", total=9, reason="more")
    jobs.limits.reset("shared", reason="done")
    rows = limited.run("select action, target, reason, details, who from joblane.audit order by number")
    assert [row[:4] for row in rows] == [
        ["set_limit", "limit:shared", "more", {"shared": {"at_a_time": 9}}],
        ["reset_limit", "limit:shared", "done", {"limits": ["shared"]}],
    ]
    assert "@" in rows[0][4]


# --- Limits that are not declared any more -------------------------------------------------------------------------


def undeclare(world: World, *names: str) -> None:
    for name in names:
        world.run("delete from joblane.limits where name = $1", name)


@pytest.mark.parametrize(
    ("task", "set_", "of", "undeclared"),
    [
        (sample_single, {"max_total": 0}, {}, SINGLE),
        (sample_tree, {"max_total": 0}, {}, TREE),  # its other limits are declared
        (sample_keyed, {"max_per_key": 0}, {"key": "7"}, f"{KEYED}/"),
    ],
    ids=["of a type", "of a type with others", "of a key"],
)
def test_what_is_set_for_an_undeclared_limit_is_shown_and_reset(
    limited: World, jobs: JobClient, task: Task[Any, Any], set_: dict[str, Any], of: dict[str, Any], undeclared: str
) -> None:
    jobs.limits.set(task.type, **set_, **of, reason="a bad release")
    put(limited, task, "a")
    undeclare(limited, undeclared)
    assert states(limited, "a") == ["held"]
    found = jobs.limits.get(task.type, **of)
    assert (found.is_declared, found.in_force.at_a_time, found.held) == (False, 0, 1)
    if of:
        assert (jobs.limits.get(KEYED).kind, jobs.limits.get(KEYED).held) == (LimitKind.EACH_KEY, 1)
        with pytest.raises(LimitError, match="nothing is set for sample:keyed/; `joblane limits` shows what is"):
            jobs.limits.reset(KEYED)
        with pytest.raises(LimitError, match="declares no key"):
            jobs.limits.reset(KEYED, key="8")
    jobs.limits.reset(task.type, **of)
    assert (states(limited, "a"), is_set(limited)) == (["pending"], [])


def test_an_undeclared_limit_cannot_be_set(limited: World, jobs: JobClient) -> None:
    jobs.limits.set("shared", total=0)
    undeclare(limited, "shared")
    with pytest.raises(LimitError, match="no limit, and no type with a limit, is named 'shared'"):
        jobs.limits.set("shared", total=5)
    jobs.limits.reset("shared")
    with pytest.raises(LimitError, match="no limit, and no type with a limit, is named 'shared'"):
        jobs.limits.reset("shared")


# --- Bad input -----------------------------------------------------------------------------------------------------

BAD: list[tuple[str, dict[str, Any], str, str]] = [
    ("sample:keyd", {"max_per_key": 1}, "name", "the nearest first: sample:keyed"),
    ("", {"total": 1}, "name", "is named ''"),
    ("shared", {"key": "7", "total": 1}, "key", "a shared limit, which has no keys"),
    (SINGLE, {"key": "7", "max_per_key": 1}, "key", "declares no key"),
    (KEYED, {"key": "x" * 201, "max_per_key": 1}, "key", "1 to 200 printable ASCII"),
    (KEYED, {"max_per_key": -1}, "max_per_key", "an integer from 0 to 10000"),
    (KEYED, {"max_per_key": True}, "max_per_key", "an integer"),
    (KEYED, {"max_total": 1}, "max_total", "does not declare max_total"),
    (KEYED, {"total": 1}, "total", "is a task type"),
    (TREE, {"key": "7", "max_total": 1}, "max_total", "leave out the key"),
    ("shared", {"max_total": 1}, "max_total", "give total"),
    ("shared", {"rate": Rate(0, HOUR)}, "rate", "starts: an integer from 1"),
    ("shared", {"rate": 5}, "rate", "a Rate is required"),
    ("shared", {"rate": Rate(1, 24 * HOUR, 3651)}, "rate", "burst: at most 3,650 at this rate"),
    ("shared", {}, "total", "give a number of tasks, a rate, or both"),
    ("shared", {"total": 1, "until": datetime.now(UTC) - HOUR}, "until", "in the future"),
    ("shared", {"total": 1, "until": datetime(2030, 1, 1)}, "until", "aware"),  # noqa: DTZ001 - the test
    ("shared", {"total": 1, "reason": "x" * 501}, "reason", "at most 500"),
]


@pytest.mark.parametrize(("name", "values", "field", "problem"), BAD)
def test_bad_input_is_named_and_nothing_is_written(
    limited: World, jobs: JobClient, name: str, values: dict[str, Any], field: str, problem: str
) -> None:
    with pytest.raises(LimitError, match=problem) as caught:
        jobs.limits.set(name, **values)
    assert caught.value.field == field
    assert is_set(limited) == []
    assert limited.run("select count(*) from joblane.audit") == [[0]]
    assert jobs.limits.get("shared").declared.at_a_time == 2  # the client can be used again


def test_a_reset_of_nothing_is_an_error(limited: World, jobs: JobClient) -> None:
    with pytest.raises(LimitError, match="nothing is set for sample:tree and sample:tree/"):
        jobs.limits.reset(TREE)


def test_two_values_of_one_call_are_set_together_or_not_at_all(limited: World, jobs: JobClient) -> None:
    jobs.limits.set(TREE, max_per_key=1, max_total=2)
    assert is_set(limited) == [[TREE, 2], [f"{TREE}/", 1]]
    with pytest.raises(LimitError):
        jobs.limits.set(TREE, max_per_key=5, max_total=-2)
    assert is_set(limited) == [[TREE, 2], [f"{TREE}/", 1]]
