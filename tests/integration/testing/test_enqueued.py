"""The enqueued tasks, and the text of a failing assertion about them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text

from joblane import MessageClient, Payload, Queue, State, TaskContext, task
from joblane.testing import JobTester, KitError
from tests.integration.testing.conftest import Effects
from tests.integration.testing.samples import (
    Nothing,
    Order,
    order_gone,
    order_mail,
    order_nightly,
    order_quiet,
    order_ship,
)


class Flags(Payload):
    number: int
    flag: bool
    many: list[int]


def failure(jobs: JobTester, *arguments: object, **wanted: object) -> str:
    with pytest.raises(AssertionError) as caught:
        jobs.assert_enqueued(*arguments, **wanted)  # type: ignore[arg-type]
    return str(caught.value)


def test_what_was_enqueued_is_listed_in_order(jobs: JobTester, effects: Effects) -> None:
    jobs.enqueue(order_mail, Order(number=1), task_id="b", tags=["x"], tenant="acme", owner="ann", headers={"h": "1"})
    jobs.enqueue(order_mail, Order(number=2), task_id="a", process_in=timedelta(hours=2), queue=Queue.LOW)
    jobs.enqueue(order_quiet, Order(number=3), task_id="c")
    with jobs.session() as session:  # as on a slow machine: an insert reads the clock for due_at, then for created_at
        session.execute(text("update joblane.tasks set created_at = created_at + interval '25 ms'"))
    first, second = jobs.enqueued(order_mail)
    assert (first.id, first.type, first.queue, first.tenant, first.owner) == (
        "b",
        "order:mail",
        "default",
        "acme",
        "ann",
    )
    assert (first.tags, first.state, first.payload) == (("x",), State.PENDING, {"number": 1, "note": ""})
    assert (first.headers, first.process_in) == ({"h": "1"}, timedelta(0))
    assert (second.id, second.queue, second.state) == ("a", "low", State.SCHEDULED)
    assert second.process_in == timedelta(hours=2)
    assert [one.id for one in jobs.enqueued()] == ["b", "a", "c"]
    assert [one.id for one in jobs.enqueued("order:quiet")] == ["c"]
    jobs.drain()
    assert [one.state for one in jobs.enqueued()] == [State.COMPLETED, State.SCHEDULED, State.COMPLETED]


def test_a_task_is_found_by_any_of_what_it_has(jobs: JobTester) -> None:
    jobs.enqueue(
        order_mail,
        Order(number=1, note="n"),
        queue=Queue.LOW,
        process_in=timedelta(hours=2),
        task_id="a",
        tenant="acme",
        owner="ann",
        tags=["x", "y"],
        headers={"h": "1", "i": "2"},
    )
    jobs.enqueue(order_mail, Order(number=2))
    [found] = jobs.assert_enqueued(order_mail, Order(number=1, note="n"))
    assert found.id == "a"
    assert len(jobs.assert_enqueued(order_mail)) == 2
    jobs.assert_enqueued("order:mail", {"number": 1}, note="n")
    jobs.assert_enqueued(order_mail, number=1, queue=Queue.LOW, process_in=timedelta(hours=2), state="scheduled")
    jobs.assert_enqueued(order_mail, task_id="a", count=1, tenant="acme", owner="ann", tags=["x", "y"])
    jobs.assert_enqueued(order_mail, headers={"i": "2"}, count=1)
    jobs.assert_enqueued(order_mail, number=3, count=0)
    jobs.assert_enqueued(order_ship, count=0)


def test_a_failure_prints_what_was_enqueued_instead_the_nearest_first(jobs: JobTester) -> None:
    jobs.enqueue(order_mail, Order(number=1, note="far"), task_id="far", process_in=timedelta(hours=2))
    jobs.enqueue(order_mail, Order(number=2, note="near"), task_id="near", queue=Queue.LOW)
    for number in (1, 2):
        jobs.enqueue(order_quiet, Order(number=number))
    jobs.enqueue(order_nightly, Nothing())
    assert failure(jobs, order_mail, number=2, queue="critical", process_in=timedelta(0)) == (
        "order:mail: expected at least one enqueued task, not 0, with\n"
        "    queue = 'critical'\n"
        "    process_in = 0:00:00\n"
        "    payload.number = 2\n"
        "  enqueued tasks of order:mail:\n"
        "    near, pending in low\n"
        "      queue = 'low', not 'critical'\n"
        "      payload.note = 'near'\n"
        "      payload.number = 2\n"
        "    far, scheduled in default\n"
        "      queue = 'default', not 'critical'\n"
        "      process_in = 2:00:00, not 0:00:00\n"
        "      payload.number = 1, not 2\n"
        "      payload.note = 'far'\n"
        "  tasks of other types: order:quiet (2), order:nightly (1)"
    )


def test_a_failure_shows_the_tasks_of_a_wrong_count(jobs: JobTester) -> None:
    for number in (1, 1, 2):
        jobs.enqueue(order_mail, Order(number=number), task_id=f"{number}-{len(jobs.enqueued())}")
    assert failure(jobs, order_mail, number=1, count=3) == (
        "order:mail: expected exactly 3 enqueued tasks, not 2, with\n"
        "    payload.number = 1\n"
        "  enqueued tasks of order:mail:\n"
        "    1-0, pending in default, as expected\n"
        "      payload.note = ''\n"
        "      payload.number = 1\n"
        "    1-1, pending in default, as expected\n"
        "      payload.note = ''\n"
        "      payload.number = 1\n"
        "    2-2, pending in default\n"
        "      payload.number = 2, not 1\n"
        "      payload.note = ''"
    )
    assert failure(jobs, order_mail, count=0).startswith(
        "order:mail: expected no enqueued tasks, not 3\n  enqueued tasks of"
    )


def test_a_failure_shows_ten_at_most(jobs: JobTester) -> None:
    for number in range(12):
        jobs.enqueue(order_mail, Order(number=number))
    assert failure(jobs, order_mail, number=99).endswith("\n    and 2 more")


def test_a_failure_says_that_no_task_was_enqueued(jobs: JobTester) -> None:
    assert failure(jobs, order_mail) == (
        "order:mail: expected at least one enqueued task, not 0\n"
        "  no task was enqueued; a task that is enqueued in a session exists only after its commit"
    )


def test_a_payload_that_was_cleared_is_nothing(jobs: JobTester) -> None:
    jobs.run(order_gone, Order(number=1))
    assert "payload.number = nothing, not 1" in failure(jobs, order_gone, number=1)


def test_what_cannot_match_is_refused(jobs: JobTester) -> None:
    cases: list[tuple[tuple[Any, ...], dict[str, Any], str]] = [
        ((order_mail,), {"numer": 1}, "Order has no field 'numer'; it has number, note"),
        ((order_mail, Nothing()), {}, "order:mail takes Order, not Nothing"),
        ((order_mail, Order(number=1)), {"note": "n"}, "compared whole"),
        ((order_mail,), {"queue": "defualt"}, "queue: 'defualt' is not one of critical, default, low"),
        ((order_mail,), {"state": "pendign"}, "state: 'pendign' is not one of "),
        (("order:mial",), {}, "no task of the type 'order:mial' is known; if it exists, call jobs.register"),
        (("no type",), {}, "no task of the type 'no type' is known"),
        (("order:mail",), {"numer": 1}, "Order has no field 'numer'"),
        (("order:mail", Nothing()), {}, "order:mail takes Order, not Nothing"),
    ]
    jobs.enqueue(order_mail, Order(number=1))
    for arguments, wanted, problem in cases:
        for count in (0, None):
            with pytest.raises(KitError, match=problem):
                jobs.assert_enqueued(*arguments, count=count, **wanted)


def test_a_type_as_text_is_compared_like_the_task_itself(jobs: JobTester) -> None:
    jobs.enqueue(order_mail, Order(number=1, note="n"))
    jobs.assert_enqueued("order:mail", Order(number=1, note="n"), count=1)
    assert "payload.note = 'n', not ''" in failure(jobs, "order:mail", Order(number=1))


def test_a_number_is_no_boolean(jobs: JobTester) -> None:
    @task("order:flag")
    def order_flag(payload: Flags, ctx: TaskContext) -> None:
        pass

    jobs.enqueue(order_flag, Flags(number=1, flag=True, many=[1]))
    jobs.assert_enqueued(order_flag, number=1, flag=True, many=[1])
    for wrong in ({"number": True}, {"flag": 1}, {"many": [True]}):
        jobs.assert_enqueued(order_flag, count=0, **wrong)


def test_nobodys_task_can_be_asked_for(jobs: JobTester) -> None:
    jobs.enqueue(order_mail, Order(number=1), tenant="acme", owner="ann")
    jobs.assert_enqueued(order_mail, count=0, tenant=None)
    jobs.assert_enqueued(order_mail, count=0, owner=None)
    jobs.enqueue(order_mail, Order(number=2))
    jobs.assert_enqueued(order_mail, number=2, tenant=None, owner=None, count=1)


def test_what_a_block_replaces_is_in_its_capture(jobs: JobTester, effects: Effects) -> None:
    how: Any = {"unique_for": timedelta(days=9), "process_in": timedelta(hours=1)}
    for key in ("a", "b"):
        jobs.enqueue(order_mail, Order(number=1), task_id=key, unique_key=key, **how)
    with jobs.capture() as captured:
        jobs.enqueue(order_mail, Order(number=2), unique_key="a", on_conflict="replace", **how)
        jobs.enqueue(order_mail, Order(number=3), unique_key="b", on_conflict="return", **how)
        jobs.travel(timedelta(hours=1))
        jobs.drain().check()
    assert [(one.id, one.payload) for one in captured] == [("a", {"number": 2, "note": ""})]


def test_a_capture_is_closed_where_its_block_raises(jobs: JobTester) -> None:
    with pytest.raises(ZeroDivisionError):  # noqa: PT012, SIM117 - the block is what raises
        with jobs.capture() as captured:
            jobs.enqueue(order_mail, Order(number=1))
            _ = 1 / 0
    jobs.enqueue(order_mail, Order(number=2))
    assert len(captured) == 1


def test_a_capture_holds_what_its_block_enqueued(jobs: JobTester, effects: Effects) -> None:
    jobs.enqueue(order_mail, Order(number=1))
    with jobs.capture() as captured:
        assert len(captured) == 0
        jobs.enqueue(order_ship, Order(number=2))
        assert len(captured) == 1
        jobs.drain()
    jobs.enqueue(order_mail, Order(number=3))
    assert [one.type for one in captured] == ["order:ship", "order:mail"]
    assert captured[1].payload == {"number": 2, "note": ""}
    captured.assert_enqueued(order_mail, number=2, queue="low", tags=["mail"], count=1)
    with pytest.raises(AssertionError, match="number = 2, not 3"):
        captured.assert_enqueued(order_mail, number=3)
    jobs.assert_enqueued(order_mail, count=3)


def test_what_was_sent_without_a_record_counts_once(jobs: JobTester, effects: Effects) -> None:
    client = MessageClient()
    client.enqueue(order_mail, Order(number=1), queue=Queue.LOW, tags=["x"], process_in=timedelta(minutes=5))
    [sent] = jobs.assert_enqueued(order_mail, number=1, queue="low", tags=["x"], state="scheduled")
    assert sent.process_in == timedelta(minutes=5)
    jobs.travel(timedelta(minutes=5))
    jobs.drain().check()
    [ran] = jobs.assert_enqueued(order_mail, number=1, count=1)
    assert (ran.id, ran.state) == (sent.id, State.COMPLETED)
