"""The sweep sends the events that no worker has sent. It keeps those that the bus refuses, for a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from pg8000.exceptions import DatabaseError

from joblane.record.driver.database import Database
from joblane.record.events import BY_ID, OLDEST, REMOVE, Unsent
from joblane.sqs.client import NO_ANSWER
from joblane.sweep import events as duty
from joblane.sweep.sweep import sweep
from joblane.sweep.walk import PLANNING
from tests import logs
from tests.samples import Sample
from tests.samples_events import Bus, sample_heard
from tests.world import PREFIX, World

REFUSED = "ResourceNotFoundException: Event bus jobs-events does not exist. Deploy the stage again."


def write(world: World, count: int, age: str = "1 minute", kind: str = "completed") -> None:
    """Write events of that age, one of them each millisecond."""
    world.run(
        "insert into joblane.events (id, created_at, detail)"
        " select t ->> 'id' || ':0:' || $3::text, now() - $2::interval + n * interval '1 ms',"
        "        joblane.event(jsonb_populate_record(null::joblane.tasks, t))"
        "   from generate_series(1, $1::int) n,"
        "   lateral (select jsonb_build_object("
        "     'id', 'task-' || lpad(n::text, 4, '0'), 'type', 'sample:heard', 'queue', 'default', 'state', $3::text,"
        "     'generation', 0, 'attempts', 1, 'tags', '{}', 'created_at', now(), 'finished_at', now()) as t) as x",
        str(count),
        age,
        kind,
    )


def waiting(world: World) -> int:
    return int(world.run("select count(*) from joblane.events")[0][0])


class Picky(Bus):
    """Refuses the events for which ``refuses`` is true."""

    def __init__(self, refuses: Callable[[Unsent], bool]) -> None:
        super().__init__()
        self._refuses = refuses

    def send_many(self, events: Sequence[Unsent]) -> dict[str, str]:
        super().send_many([event for event in events if not self._refuses(event)])
        return {event.id: "InvalidArgument" for event in events if self._refuses(event)}


@pytest.fixture
def refusing() -> Bus:
    """A bus that refuses everything."""
    bus = Bus()
    bus.refusal = REFUSED
    return bus


def test_events_are_sent_in_the_order_in_which_they_were_written(world: World) -> None:
    write(world, 250)
    bus = Bus()
    swept = world.sweep(bus)

    assert bus.ids == [f"task-{n:04}:0:completed" for n in range(1, 251)]
    assert (swept.events, swept.events_waiting, waiting(world)) == (250, 0, 0)


@pytest.mark.parametrize("statement", [BY_ID, OLDEST, REMOVE])
def test_no_statement_reads_all_events(world: World, statement: str) -> None:
    write(world, 1000)
    world.run("analyze joblane.events")
    connection = world.database.get()
    connection.execute_simple(PLANNING)
    plan = "\n".join(row[0] for row in connection.execute_simple(f"explain (generic_plan) {statement}").rows)

    assert "Index Scan using events_" in plan
    assert "Seq Scan" not in plan
    assert statement != OLDEST or "Sort" not in plan


def test_an_event_that_its_worker_may_be_sending_is_left_to_it(world: World) -> None:
    world.client.enqueue(sample_heard, Sample(), task_id="it")
    world.deliver(sample_heard, {"type": "sample:heard", "id": "it", "rec": True})
    bus = Bus()

    assert (world.sweep(bus).events_waiting, bus.ids) == (1, [])


def test_an_event_that_two_send_at_once_has_the_same_id_both_times(world: World) -> None:
    write(world, 1)

    class Second(Bus):
        """Lets another sweep send before it."""

        def send_many(self, events: Any) -> dict[str, str]:
            if not first.ids:
                with Database(world.url) as database:
                    sweep(database.get(), world.sqs, PREFIX, bus=first)
            return super().send_many(events)

    first, second = Bus(), Second()
    world.sweep(second)

    assert first.ids == second.ids == ["task-0001:0:completed"]


def test_a_refusing_bus_ends_the_duty_is_named_and_keeps_the_events(world: World, refusing: Bus) -> None:
    write(world, 250)
    with logs.lines() as written:
        swept = world.sweep(refusing)

    assert refusing.calls == 1
    assert (swept.events, swept.events_waiting, waiting(world)) == (0, 250, 250)
    assert 59 <= swept.events_oldest_seconds <= 120
    [line] = [line for line in written.fields if "bus" in line]
    assert (line["level"], line["bus"], line["error"]) == ("ERROR", "jobs-events", REFUSED)
    refusing.refusal = None
    assert world.sweep(refusing).events == 250


@pytest.mark.parametrize(
    ("refuses", "sent"),
    [(lambda event: event.id.startswith("task-0001"), 398), (lambda event: event.kind == "completed", 150)],
    ids=["one event of each kind", "a kind, whose events are older"],
)
def test_events_that_the_bus_refuses_do_not_keep_the_others_back(
    world: World, refuses: Callable[[Unsent], bool], sent: int
) -> None:
    write(world, 250, "2 minutes")
    write(world, 150, kind="archived")
    bus = Picky(refuses)
    swept = world.sweep(bus)

    assert (len(bus.ids), swept.events, swept.events_waiting) == (sent, sent, 400 - sent)


def test_a_bus_that_does_not_answer_is_asked_once(world: World, refusing: Bus) -> None:
    write(world, 101)
    write(world, 1, kind="archived")
    refusing.refusal = f"{NO_ANSWER}ReadTimeoutError: 10 s"
    world.sweep(refusing)

    assert (refusing.calls, waiting(world)) == (1, 102)


def test_events_are_dropped_after_three_days_with_an_error(world: World, refusing: Bus) -> None:
    write(world, 3, "3 days 1 minute")
    world.run("update joblane.events set id = 'old-' || id")
    write(world, 2)
    with logs.lines() as written:
        swept = world.sweep(refusing)

    assert (swept.events_dropped, swept.events_waiting) == (3, 2)
    [line] = [line for line in written.fields if "for 3 days" in line["message"]]
    assert (line["level"], line["events"]) == ("ERROR", 3)


def test_the_oldest_events_are_dropped_if_there_are_too_many(
    world: World, monkeypatch: pytest.MonkeyPatch, refusing: Bus
) -> None:
    monkeypatch.setattr(duty, "MOST", 10)
    write(world, 25)
    swept = world.sweep(refusing)

    assert (swept.events_dropped, swept.events_waiting) == (15, 10)
    assert world.run("select min(id) from joblane.events") == [["task-0016:0:completed"]]


def test_a_stage_without_a_bus_keeps_no_events(world: World) -> None:
    write(world, 3)
    world.client.enqueue(sample_heard, Sample(), task_id="it")
    world.deliver(sample_heard, {"type": "sample:heard", "id": "it", "rec": True})
    with logs.lines() as written:
        swept = world.sweep()

    assert (swept.events, swept.events_dropped, swept.events_waiting, waiting(world)) == (0, 0, 0, 0)
    assert [line["events"] for line in written.fields if "JOBLANE_EVENT_BUS" in line["message"]] == [4]


def test_a_sweep_that_may_not_continue_stops_after_a_step(world: World) -> None:
    write(world, 250)
    bus, turns = Bus(), iter([True] * 8)
    sweep(world.database.get(), world.sqs, PREFIX, bus=bus, may_continue=lambda: next(turns, False))

    assert (len(bus.ids), waiting(world)) == (100, 150)


@pytest.mark.parametrize(("created_at", "detail"), [("infinity", "{}"), ("-infinity", "{}"), ("now", "[]")])
def test_a_row_that_the_sweep_could_not_read_is_refused(world: World, created_at: str, detail: str) -> None:
    with pytest.raises(DatabaseError, match="violates check constraint"):
        world.run("insert into joblane.events values ('it', $1::timestamptz, $2::json)", created_at, detail)
