"""The chain of each message that a function sends: the trace header in which Lambda counts invocations.

What a handler enqueues itself stays in the chain of its invocation. Every other message lets other work start, and
begins a chain of its own: in one chain Lambda would stop a limit after sixteen runs.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import create_engine
from sqlalchemy.orm import Session

from joblane import Job, MessageClient, RateLimited, SkipRetry, TaskContext
from joblane.client.client import JobClient
from joblane.enqueue.wake import PLANNED, wake, wake_after_commit
from joblane.functions.jobs_sweep import handler as sweep_handler
from joblane.names import SWEEP, Queue, front_door_name
from joblane.quotas import EARLY_RECEIVES
from joblane.record.task.claim import arrival, claim
from joblane.record.task_types import LIMITS, declared_limits
from joblane.sqs.client import Entry, Sqs
from joblane.sqs.message import Message
from joblane.worker.router import Router
from tests.builders.events import invoke, record
from tests.builders.rows import In, archived, put
from tests.samples import (
    LIMITED,
    Sample,
    behaviour,
    sample_batch,
    sample_keyed,
    sample_one,
    sample_sharing,
    sample_single,
    sample_watched,
)
from tests.world import PREFIX, World, handle

TRACE = "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=0;Lineage=1:0a1b2c3d:15"


Act = Callable[[World], object]


class Chains:
    """The requests of clients: trace header and body."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str]] = []

    def watch(self, *clients: Sqs) -> None:
        for sqs in clients:
            for client in (sqs.client, sqs.brief_client):
                client.meta.events.register("before-send.sqs", self._note)

    def _note(self, request: Any, **_: Any) -> None:
        header = request.headers.get("X-Amzn-Trace-Id") or b""
        self.requests.append((header.decode() if isinstance(header, bytes) else header, request.body.decode()))

    def of(self, text: str) -> set[bool]:
        """True for a send with this text in the chain of the invocation, False for one in a chain of its own."""
        found = {header == TRACE for header, body in self.requests if text in body and "MessageBody" in body}
        assert found, f"no message with {text!r} was sent"
        return found


@pytest.fixture
def chains(world: World, monkeypatch: pytest.MonkeyPatch) -> Chains:
    """The sends from now on, in a function whose invocation has a chain of fifteen."""
    world.run(LIMITS, json.dumps(declared_limits({task.type: task for task in LIMITED})))
    world.deploy((sample_one, sample_watched, sample_watched.archived_to, sweep_handler.jobs_sweep, *LIMITED))  # type: ignore[arg-type]
    monkeypatch.setenv("AWS_LAMBDA_FUNCTION_NAME", "jobs-sample")
    monkeypatch.setenv("_X_AMZN_TRACE_ID", TRACE)
    found = Chains()
    found.watch(world.sqs, world.client._producer.sqs)
    return found


def rec(type_: str, id_: str) -> dict[str, Any]:
    return {"v": 1, "type": type_, "id": id_, "rec": True}


def held_by(world: World, task: Any) -> None:
    """Let `first` run in a process that dies, and `next` wait for its slot."""
    world.client.enqueue(task, Sample(number=7), task_id="first", unique_key="mine", unique_for=timedelta(hours=1))
    world.client.enqueue(task, Sample(number=7), task_id="next")
    ids = ["first"]
    if task is sample_sharing:  # two slots
        world.client.enqueue(task, Sample(number=7), task_id="second")
        ids.append("second")
    first = [arrival(task, Message(task.type, id_, rec=True), id_, Queue.DEFAULT) for id_ in ids]
    claim(world.database.get(), first, timedelta(seconds=60), "another process")
    world.deliver(task, rec(task.type, "next"))
    assert world.row("next")["state"] == "held"


# --- Other work begins a chain of its own --------------------------------------------------------------------------


@behaviour
def busy_service(payload: Sample, ctx: TaskContext) -> None:
    raise RateLimited(timedelta(seconds=1), "the service answered 429")


def test_a_wake_up_begins_a_chain(world: World, chains: Chains, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Sqs, "covered", {})
    wake(world.sqs, PREFIX)
    wake_after_commit(world.sqs, PREFIX)
    assert len([body for _, body in chains.requests if SWEEP in body and "MessageBody" in body]) == 2
    assert chains.of(SWEEP) == {False}


@behaviour
def skip_all(payload: Sample, ctx: TaskContext) -> None:
    raise SkipRetry("no use")


def lost_holder(task: Any) -> Act:
    """The run that has the slot is lost, and `next` waits for it."""

    def prepare(world: World) -> None:
        held_by(world, task)
        world.expire_leases()

    return prepare


def waiting_holder(world: World) -> None:
    """The task that has the slot waits for its message, and `next` waits for the slot."""
    held_by(world, sample_single)
    world.run("update joblane.tasks set state = 'pending', lease_token = null, lease_until = null where id = 'first'")


def family(world: World) -> None:
    """A parent, and a child that waits for it."""
    world.client.enqueue(sample_one, Sample(), task_id="parent", process_in=timedelta(hours=1))
    world.client.enqueue(sample_one, Sample(), task_id="child", after=["parent"], on_parent_dead="run")
    world.deliver(sample_one, rec("sample:one", "child"))
    world.run("update joblane.tasks set due_at = now() where id = 'parent'")


def deliver(task: Any, id_: str, **how: Any) -> Act:
    return lambda world: world.deliver(task, rec(task.type, id_), **how)


def enqueue(task: Any, do: str) -> Act:
    return lambda world: world.client.enqueue(task, Sample(do=do), task_id="it")


UNIQUE: dict[str, Any] = {"unique_key": "mine", "unique_for": timedelta(hours=1), "on_conflict": "replace"}
STARTS: dict[str, tuple[Act, Act, tuple[str, ...]]] = {
    "the next task of a key": (lost_holder(sample_keyed), deliver(sample_keyed, "first"), ("next",)),
    "the next task of a type": (lost_holder(sample_single), deliver(sample_single, "first"), ("next",)),
    "the next task of a shared limit": (lost_holder(sample_sharing), deliver(sample_sharing, "first"), ("next",)),
    "the next task after a cancel": (waiting_holder, lambda world: world.client.cancel("first"), ("next",)),
    "the next task of a raised limit": (
        waiting_holder,
        lambda world: world.client.limits.set("sample:single", max_total=2),
        ("next",),
    ),
    "the next task after a replacement": (
        waiting_holder,
        lambda world: world.client.enqueue(sample_single, Sample(), process_in=timedelta(hours=1), **UNIQUE),
        ("next",),
    ),
    "the copy of a rate-limited task": (
        enqueue(sample_one, "busy_service"),
        deliver(sample_one, "it"),
        ("sample:one",),
    ),
    "the copy of an early message": (
        lambda world: put(world, sample_one, "early", due_at=In(300), state="scheduled"),
        deliver(sample_one, "early", receives=EARLY_RECEIVES + 1),
        ("early",),
    ),
    "a child": (family, deliver(sample_one, "parent"), ("child",)),
    "a child of a cancelled parent": (family, lambda world: world.client.cancel("parent"), ("child",)),
    "a dead letter, and the task that follows it": (
        enqueue(sample_watched, "skip_all"),
        deliver(sample_watched, "it"),
        ("no use", "sample:alert"),
    ),
    "the dead letter of a wrong message": (
        lambda world: None,
        lambda world: world.deliver(sample_one, '{"type": "sample:other"}'),
        ("sample:other",),
    ),
}


@pytest.mark.parametrize("what", STARTS)
def test_what_lets_other_work_start_begins_a_chain(what: str, world: World, chains: Chains) -> None:
    prepare, act, sent = STARTS[what]
    prepare(world)
    chains.requests.clear()
    act(world)
    assert [chains.of(text) for text in sent] == [{False}] * len(sent)


def test_each_message_of_a_sweep_begins_a_chain(world: World, chains: Chains, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JOBLANE_PREFIX", raising=False)
    monkeypatch.setattr(sweep_handler, "Sqs", lambda: world.sqs)
    world.run("insert into joblane.stage (prefix) values ('jobs') on conflict do nothing")
    # given a due task, a dead letter, a task whose turn it is, and a task that needs a sweep later
    put(world, sample_one, "due", sweep_at=In(-1))
    put(world, sample_one, "dead", **archived(dead_sent_at=None, sweep_at=In(-1)))
    held_by(world, sample_single)
    world.run("delete from joblane.tasks where id = 'first'")
    put(world, sample_one, "later", state="scheduled", due_at=In(2_000), sweep_at=In(1_500))
    chains.requests.clear()
    # when
    kept = world.deliver(sweep_handler.jobs_sweep, {"type": SWEEP, "id": "tick"}, seconds=240)
    # then
    assert kept == []
    assert [chains.of(text) for text in ("due", "dead", "next", PLANNED)] == [{False}] * 4
    # and when the planned sweep is sent again
    chains.requests.clear()
    at = int(time.time()) + 3_000
    world.deliver(sweep_handler.jobs_sweep, {"type": SWEEP, "id": f"{PLANNED}{at}"})
    assert chains.of(PLANNED) == {False}
    assert os.environ["_X_AMZN_TRACE_ID"] == TRACE


# --- What a handler enqueues stays in its chain --------------------------------------------------------------------


def in_session(jobs: JobClient, url: str) -> None:
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    with Session(engine) as session:
        jobs.enqueue(sample_one, Sample(), task_id="it", session=session)
        session.commit()
    engine.dispose()


ENQUEUES: dict[str, Callable[[JobClient, str], Any]] = {
    "alone": lambda jobs, _: jobs.enqueue(sample_one, Sample(), task_id="it"),
    "many": lambda jobs, _: jobs.enqueue_many([Job(sample_one, Sample(), task_id=f"it{n}") for n in range(12)]),
    "asynchronously": lambda jobs, _: asyncio.run(jobs.aenqueue(sample_one, Sample(), task_id="it")),
    "in a session": in_session,
}


@pytest.mark.parametrize("how", ENQUEUES)
def test_a_message_that_a_handler_enqueues_stays_in_its_chain(how: str, world: World, chains: Chains) -> None:
    ENQUEUES[how](world.client, world.url)
    assert chains.of("sample:one") == {True}


def test_a_message_without_a_record_stays_in_its_chain(world: World, chains: Chains) -> None:
    jobs = MessageClient()
    chains.watch(jobs._sqs)
    jobs.enqueue(sample_one, Sample(), task_id="it")
    jobs.enqueue_many([Job(sample_one, Sample()) for _ in range(12)])
    assert chains.of("sample:one") == {True}


def copied(world: World, chains: Chains, trace: str) -> list[dict[str, Any]]:
    """Return the requests that copy a message in a front door, and one without an id, with this trace header."""
    router = Router({"sample:one": ["default"]}, world.sqs, PREFIX)
    for body, queue in (({"id": "routed"}, front_door_name(PREFIX, Queue.DEFAULT)), ({}, world.lane(sample_one))):
        delivery = record({"type": "sample:one", **body}, queue)
        delivery["attributes"]["AWSTraceHeader"] = trace
        if body:
            invoke(router.handle, delivery)
        else:
            handle(world.worker(sample_one), delivery)
    assert chains.of("sample:one") == {False}
    return [json.loads(body) for _, body in chains.requests if "sample:one" in body and "MessageBody" in body]


def test_copies_stay_in_the_chain_of_their_message(world: World, chains: Chains) -> None:
    own = TRACE.replace(":15", ":3")
    expected = {"AWSTraceHeader": {"DataType": "String", "StringValue": own}}
    assert [request["MessageSystemAttributes"] for request in copied(world, chains, own)] == [expected] * 2


@pytest.mark.parametrize("trace", ["", "Root=1", "é", TRACE + ";" + "x" * 600])
def test_a_copy_has_no_trace_header_that_sqs_could_refuse(trace: str, world: World, chains: Chains) -> None:
    assert not any("MessageSystemAttributes" in request for request in copied(world, chains, trace))


def test_tasks_that_a_batch_enqueues_begin_chains(world: World, chains: Chains) -> None:
    @behaviour
    def has_a_child(payload: Sample, ctx: TaskContext) -> None:
        ctx.enqueue(sample_batch, Sample(), task_id=f"child of {ctx.task_id}".replace(" ", "-"))

    world.deploy([sample_batch])
    for id_ in "abc":
        world.client.enqueue(sample_batch, Sample(do="has_a_child"), task_id=id_)
    world.deliver(sample_batch, rec("sample:batch", "a"), rec("sample:batch", "b"))
    world.deliver(sample_batch, rec("sample:batch", "c"))
    assert [chains.of(f"child-of-{id_}") for id_ in "abc"] == [{False}, {False}, {True}]


def test_sends_of_both_kinds_share_no_request(world: World, chains: Chains) -> None:
    lane = world.lane(sample_one)
    world.sqs.send_many([Entry(lane, f"body {n}", keeps_chain=n % 2 == 0) for n in range(10)])
    assert [chains.of(f"body {n}") for n in range(10)] == [{True}, {False}] * 5
