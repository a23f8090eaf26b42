"""Failures of other job systems that were reported in public, each as a test that the limits here pass."""

from __future__ import annotations

import json
import time
from datetime import timedelta
from typing import Any
from unittest.mock import Mock

import pytest
from sqlalchemy.orm import Session

from joblane.client.client import client_within
from joblane.names import Queue
from joblane.record.driver.database import Database
from joblane.record.flow.free_slots import serve
from joblane.record.row.states import State
from joblane.record.task.claim import Verdict, arrival, claim
from joblane.record.task.finish import Finish, finish
from joblane.sqs.message import Message
from joblane.tasks.job import Job
from joblane.tasks.task import Task
from tests.integration.record.test_limits import HELD, LEASE, RUN, ask, end, put, served, states
from tests.samples import Sample, sample_keyed, sample_ordered, sample_sharing, sample_single, sample_tree
from tests.world import PREFIX, World


def running(world: World) -> list[str]:
    return [id_ for (id_,) in world.run("select id from joblane.tasks where state = 'active' order by id")]


def test_solid_queue_761_a_lost_heartbeat_gives_no_slot_twice(limited: World) -> None:
    """A job with a limit of 1 ran 11 times: its worker missed a heartbeat and was declared dead, and both the clean-up
    and the job's own end raised the semaphore. Here nothing is raised: the row that runs is the slot, and a run whose
    task was taken over can no longer end it."""
    others = [f"b{number:02}" for number in range(11)]
    put(sample_keyed, "a", *others)(limited)
    assert ask(sample_keyed, "a", *others)(limited) == [RUN] + [HELD] * 11
    taken_over = limited.row("a")

    limited.expire_leases()
    assert ask(sample_keyed, *others)(limited) == [HELD] * 11
    assert ask(sample_keyed, "a")(limited) == [RUN]
    zombie = Finish("a", taken_over["lease_token"], taken_over["runs"], "completed", State.COMPLETED)
    assert finish(limited.database.get(), [zombie]) == set()
    assert served("a")(limited) == []
    assert ask(sample_keyed, *others)(limited) == [HELD] * 11
    assert running(limited) == ["a"]

    for number, other in enumerate(others):
        assert end(running(limited)[0])(limited) == [other]
        assert ask(sample_keyed, *others[number:])(limited) == [RUN] + [HELD] * (10 - number)


def test_solid_queue_689_a_task_that_joins_while_a_slot_is_freed_is_served(limited: World) -> None:
    """A job found the semaphore taken and recorded itself as blocked, but committed only after the holder had freed it
    and looked for blocked jobs: nobody ever started it. Here the one who waits looks as well, after its commit."""
    put(sample_keyed, "a", "b")(limited)
    assert ask(sample_keyed, "a")(limited) == [RUN]

    with Database(limited.url) as other:
        other.get().execute_simple("begin")
        arrivals = [arrival(sample_keyed, Message(sample_keyed.type, "b", rec=True), "b", Queue.DEFAULT)]
        held = claim(other.get(), arrivals, LEASE, "request")["b"]
        assert (held.verdict, held.serve) == (HELD, True)
        assert end("a")(limited) == []
        other.get().commit()
        assert held.limits is not None
        assert [turn.id for turn in serve(other.get(), [held.limits])] == ["b"]


def test_hatchet_4778_a_task_inserted_first_and_committed_last_fills_no_slot(limited: World, session: Session) -> None:
    """A limit of 2 let 4 run: the engine took the first two runs by their number, and a run with a low number that was
    committed late pushed those that ran already out of this window. Here the rows that have a slot are counted."""
    for id_ in ("a", "b"):
        limited.client.enqueue(sample_sharing, Sample(), task_id=id_, session=session)
    put(sample_sharing, "c", "d")(limited)
    assert ask(sample_sharing, "c", "d")(limited) == [RUN, RUN]
    limited.lane(sample_sharing)
    session.commit()
    assert limited.row("a")["seq"] < limited.row("c")["seq"]
    assert ask(sample_sharing, "a", "b")(limited) == [HELD, HELD]
    assert running(limited) == ["c", "d"]


def test_hatchet_4804_a_task_that_holds_a_slot_and_waits_for_another_blocks_nobody(limited: World) -> None:
    """Runs held the slot of one limit and waited for another, whose holders waited for the first. Here slots are taken
    from the narrowest limit to the widest, so that a
    task that has the widest needs no other."""
    put(sample_sharing, "s1", "s2", "s3")(limited)
    put(sample_tree, *(trees := [f"t{number}" for number in range(6)]))(limited)
    assert ask(sample_sharing, "s1", "s2")(limited) == [RUN, RUN]
    assert ask(sample_tree, *trees)(limited) == [HELD] * 6
    assert ask(sample_sharing, "s3")(limited) == [HELD]
    holders = "select count(*) from joblane.tasks where waits_for = 'shared' and total_limit is not null"
    assert limited.run(holders) == [[2]]  # they hold the slots of their key and type
    assert limited.run("select from joblane.tasks where wait_kind = 'limit' and passed in ('shared_slot', 'all')") == []

    while active := running(limited):
        turns = end(active[0])(limited)
        assert len(turns) <= 1
        for id_ in turns:
            assert ask(sample_tree if id_ in trees else sample_sharing, id_)(limited) == [RUN]
    assert states("s1", "s2", "s3", *trees)(limited) == [State.COMPLETED] * 9


def test_procrastinate_1599_a_task_that_is_not_due_does_not_delay_those_that_are(limited: World) -> None:
    """A job for later, or one in a long back-off, kept all due jobs with the same lock waiting for the whole delay.
    Here a task joins its order when it is due, and a retry frees its slot. Only where an order is declared, a retry
    keeps its place."""
    put(sample_ordered, "later", process_in=timedelta(days=30))(limited)
    put(sample_ordered, "now")(limited)
    assert ask(sample_ordered, "now")(limited) == [RUN]

    put(sample_keyed, "a", "b")(limited)
    assert ask(sample_keyed, "a", "b")(limited) == [RUN, HELD]
    assert end("a", State.RETRY, delay_seconds=7200)(limited) == ["b"]
    assert ask(sample_keyed, "b")(limited) == [RUN]


def test_procrastinate_1446_a_killed_worker_does_not_keep_its_lock_for_ever(limited: World) -> None:
    """The lock of a job whose worker was killed was kept until somebody changed the row by hand. Here it is kept as
    long as the lease, and the message of the lost run comes again: the same task runs, or its end serves the next."""
    put(sample_single, "a", max_retry=0)(limited)
    put(sample_single, "b")(limited)
    assert ask(sample_single, "a", "b")(limited) == [RUN, HELD]
    limited.expire_leases()
    limited.run("update joblane.tasks set sweep_at = now() where id = 'a'")
    assert limited.sweep().sent == 1
    [message] = limited.receive(limited.lane(sample_single))
    limited.deliver(sample_single, message["body"])
    assert states("a", "b")(limited) == ["archived", "pending"]
    assert [json.loads(one["body"])["id"] for one in limited.receive(limited.lane(sample_single))] == ["b"]


def test_pg_boss_756_a_full_key_does_not_stand_in_front_of_others(limited: World) -> None:
    """Jobs of a group at its limit stood at the head of the queue, and each fetch found only them: jobs of other groups
    waited although they had room. Here a task that waits for its key has no message and is not looked at."""
    full = [f"a{number:02}" for number in range(40)]
    put(sample_keyed, *full, number=1)(limited)
    put(sample_keyed, "b", number=2)(limited)
    assert ask(sample_keyed, *full, "b")(limited) == [RUN, *[HELD] * 39, RUN]
    assert limited.run("select from joblane.tasks where state = 'held' and sweep_at is not null") == []


@pytest.mark.parametrize("task", [sample_keyed, sample_single, sample_ordered])
def test_good_job_1353_to_wait_for_a_slot_is_no_failure(limited: World, task: Task[Any, Any]) -> None:
    """A job over its limit raised an error and was retried with a growing delay, so that it ran hours after there was
    room. Here a task that waits spends no attempt and no snooze, and gets its turn when the slot is freed."""
    put(task, "a", "b", "c")(limited)
    before = limited.row("b")
    assert ask(task, "a", *["b"] * 30, "c")(limited) == [RUN, *[HELD] * 31]
    same = ("attempts", "runs", "snoozes", "error_type", "reason", "due_at")
    assert {name: limited.row("b")[name] for name in same} == {name: before[name] for name in same}
    assert (limited.attempts("b"), limited.row("b")["sweep_at"]) == ([], None)
    assert end("a")(limited) == ["b"]
    assert states("b", "c")(limited) == ["pending", "held"]
    assert ask(task, "c", "b")(limited) == [HELD, RUN]
    assert limited.row("b")["attempts"] == 1


def test_tenants_start_in_turns_whatever_number_of_keys_each_has(limited: World) -> None:
    """A tenant with many keys starved the others in a queue that limited only the runs of each key (trigger.dev 4353).
    Here tenants take turns where tasks of several keys wait for the limit of their type."""
    limited.run("update joblane.limits set slots = case name when 'sample:tree/' then 1 when 'sample:tree' then 5 end"
                " where name in ('sample:tree/', 'sample:tree', 'shared')")  # fmt: skip
    client = client_within(limited.database, Mock(send_many=lambda *_, **__: {}, covered={}, now=time.time), PREFIX)
    many = [("A", number % 1000) for number in range(2000)]
    few = [
        (tenant, 1000 + 10 * tenant_number + number)
        for number in range(10)
        for tenant_number, tenant in enumerate("bcdefghij")
    ]
    jobs = [
        Job(sample_tree, Sample(number=key), task_id=f"{tenant}{number:05}", tenant=tenant)
        for number, (tenant, key) in enumerate([*many, *few])
    ]
    client.enqueue_many(jobs)
    starts: list[str] = []

    def start(ids: list[Any]) -> None:
        for first in range(0, len(ids), 10):
            batch = ids[first : first + 10]
            arrivals = [
                arrival(sample_tree, Message(sample_tree.type, id_, rec=True), id_, Queue.DEFAULT) for id_ in batch
            ]
            claims = claim(limited.database.get(), arrivals, LEASE, "request")
            starts.extend(id_ for id_ in batch if claims[id_].verdict == Verdict.RUN)

    start([job.task_id for job in jobs])
    assert len(starts) == 5
    for position in range(120 - 5):
        start(end(starts[position])(limited))
    assert len(starts) == 120
    assert sum(not id_.startswith("A") for id_ in starts) == 90
