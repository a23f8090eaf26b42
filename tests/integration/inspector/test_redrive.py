"""Redrives: the tasks and messages that they touch, the canary, and concurrent actions."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import pytest

from joblane import SkipRetry, State, TaskContext
from joblane.inspector.bulk.dead_letters import FINGERPRINT
from joblane.inspector.errors import SelectionError
from joblane.inspector.filter import BulkAction, Filter
from joblane.inspector.inspector import Inspector
from joblane.inspector.views import BulkOutcome, BulkView
from tests.builders.rows import archived, put
from tests.bulks import TASKS, Bulks
from tests.integration.inspector.memory import with_little_memory
from tests.integration.inspector.scene import of
from tests.integration.inspector.test_bulk import BRIEF, states
from tests.integration.inspector.test_dead import CRON, DLQ, FRONT_DOOR, external, put_dead, put_dead_letter
from tests.samples import Sample, behaviour, place_one, place_two, sample_one
from tests.world import World, handle

LANE = "jobs-default-sample-one"
ALL = Filter()
ONES = Filter(types=("sample:one",))


@behaviour
def redrive_counts(payload: Sample, ctx: TaskContext) -> None:
    from sqlalchemy import text

    ctx.session.execute(text("insert into ran values (:id)"), {"id": ctx.task_id})


@behaviour
def redrive_fails(payload: Sample, ctx: TaskContext) -> None:
    raise SkipRetry("still so")


@pytest.fixture
def ran(bulks: Bulks) -> Bulks:
    """A stage with a table that gets a row for each run of ``redrive_counts``."""
    bulks.world.run("create table ran (id text)")
    return bulks


def redriven(inspector: Inspector, bulks: Bulks, filter_: Filter = ALL, **how: Any) -> BulkView:
    """Redrive to the end of the action, and run what it sends. Return the view."""
    view = inspector.redrive(filter_, rate=500, **how)
    bulks.run(view.id)
    work_off(bulks.world)
    return inspector.bulk_view(view.id)


def runs(world: World) -> list[str]:
    return [row[0] for row in world.run("select id from ran order by id")]


def work_off(world: World, lane: str = LANE) -> None:
    """Run all that waits in a lane."""
    while records := world.receive(lane):
        world.acknowledge(lane, records, handle(world.worker(sample_one), *records))


def put_groups(world: World, do: str = "redrive_counts", *, each: int = 2) -> None:
    for cause in "abc":
        for number in range(each):
            put_dead(world, f"{cause}{number}", fingerprint=cause * 4, payload={"do": do, "number": 0})


def console_redrive(world: World, source: str, target: str) -> None:
    """Move all messages, as a redrive in the AWS console does."""
    for message in world.received(source, visibility=30):
        world.sqs.client.send_message(
            QueueUrl=world.sqs.url(target),
            MessageBody=message["Body"],
            MessageAttributes=message.get("MessageAttributes", {}),
        )
        world.sqs.client.delete_message(QueueUrl=world.sqs.url(source), ReceiptHandle=message["ReceiptHandle"])


# --- Memory --------------------------------------------------------------------------------------------------------


def test_large_dead_letters_are_redriven_with_little_memory(inspector: Inspector, bulks: Bulks) -> None:
    put_dead_letter(bulks.world, external())
    view = inspector.redrive(ONES, rate=500)
    assert with_little_memory("redrive", bulks.world.url, view.id) == ""


# --- Rows ----------------------------------------------------------------------------------------------------------


def test_a_redrive_of_one_group_touches_only_that_group(inspector: Inspector, ran: Bulks) -> None:
    # given
    world = ran.world
    put_groups(world)
    # when
    view = redriven(inspector, ran, Filter(fingerprint="bbbb"), reason="fixed")
    # then
    assert states(world) == dict.fromkeys(["a0", "a1", "c0", "c1"], "archived") | {"b0": "completed", "b1": "completed"}
    assert runs(world) == ["b0", "b1"]
    assert [world.row(id_)["generation"] for id_ in ("a0", "b0", "c0")] == [1, 2, 1]
    assert (view.action, view.state, view.total, view.done, view.failed) == ("redrive", State.COMPLETED, 2, 2, 0)
    [entry] = inspector.audit(target="b0")
    assert (entry.action, entry.who, entry.reason, entry.details) == ("redrive", "op", "fixed", {})
    # and the list of actions has one entry for it, which its tasks can be listed by
    assert [one.target for one in inspector.audit(action="redrive")] == [view.id]
    assert [(one.target, one.bulk) for one in inspector.audit(bulk=view.id)] == [("b1", view.id), ("b0", view.id)]
    # and its dead letters are gone, and those of the other groups are visible
    assert sorted(json.loads(one["Body"])["id"] for one in world.received(DLQ)) == ["a0", "a1", "c0", "c1"]
    assert {group.fingerprint for group in inspector.dead().groups} == {"aaaa", "cccc"}


def test_a_redrive_shows_what_its_tasks_are_now(inspector: Inspector, ran: Bulks) -> None:
    # given a redrive of tasks of which one completes, one fails again, one is archived by hand, and one waits
    world = ran.world
    for id_, do in (("good", "redrive_counts"), ("bad", "redrive_fails"), ("hand", "nothing"), ("wait", "nothing")):
        put_dead(world, id_, fingerprint="aaaa", payload={"do": do, "number": 0})
    view = inspector.redrive(Filter(fingerprint="aaaa"), rate=500)
    assert inspector.bulk_view(view.id).outcome == BulkOutcome(0, 0, 0, 0, 0, exact=True)
    # when
    ran.run(view.id)
    assert inspector.bulk_view(view.id).outcome == BulkOutcome(0, 4, 0, 0, 0, exact=True)
    for id_ in ("good", "bad"):
        world.deliver(sample_one, {"type": "sample:one", "id": id_, "rec": True})
    inspector.archive("hand")
    # then the action of one task since then is not counted for the redrive
    assert inspector.bulk_view(view.id).outcome == BulkOutcome(1, 1, 0, 1, 0, exact=True)
    inspector.retry("bad")
    assert inspector.bulk_view(view.id).outcome == BulkOutcome(1, 1, 0, 0, 0, exact=True)


def test_an_empty_filter_redrives_all(inspector: Inspector, ran: Bulks) -> None:
    put_groups(ran.world)
    put(ran.world, sample_one, "ok", state="completed")
    redriven(inspector, ran)
    assert len(runs(ran.world)) == 6
    assert ran.world.depth(DLQ) == 0


def test_obsolete_dead_letters_are_removed_even_if_no_task_is_archived(inspector: Inspector, ran: Bulks) -> None:
    # given
    put_dead(ran.world, "a0", fingerprint="aaaa", payload={"do": "redrive_counts", "number": 0})
    inspector.retry("a0")
    work_off(ran.world)
    found = inspector.dead()
    assert (found.groups, sum(found.obsolete.values())) == ((), 1)
    # when
    for filter_ in (Filter(types=("sample:batch",)), Filter(ids=("a0",))):
        with pytest.raises(SelectionError, match="no task matches"):
            inspector.redrive(filter_)
    view = redriven(inspector, ran, ONES)
    # then
    assert (view.state, view.total, view.done, view.stopped) == (State.COMPLETED, 0, 0, None)
    assert runs(ran.world) == ["a0"]
    assert (ran.world.depth(DLQ), inspector.dead().obsolete) == (0, {})


def test_a_redrive_that_matches_nothing_is_refused(inspector: Inspector, ran: Bulks) -> None:
    put_groups(ran.world)
    for filter_ in (
        Filter(fingerprint="nothing"),
        Filter(types=("sample:batch",)),
        Filter(fingerprint=f"{FINGERPRINT}no"),
    ):
        with pytest.raises(SelectionError, match="filter: no task matches; nothing was started"):
            inspector.redrive(filter_)
    with pytest.raises(
        SelectionError,
        match="states: retry is for tasks that are archived or cancelled, not for tasks that are completed",
    ):
        inspector.redrive(Filter(states=(State.COMPLETED,)))
    with pytest.raises(SelectionError, match="canary: a whole number from 0 to 100 is required"):
        inspector.redrive(Filter(), canary=101)


def test_dead_letters_that_the_console_redrives_later_run_nothing_twice(inspector: Inspector, ran: Bulks) -> None:
    # given dead letters that were invisible during the redrive
    world = ran.world
    put_groups(world, each=1)
    hidden = world.received(DLQ, visibility=30)
    view = inspector.redrive(Filter(), rate=500)
    ran.run(view.id, seconds=BRIEF)
    work_off(world)
    assert runs(world) == ["a0", "b0", "c0"]
    # when
    world.sqs.set_visibility(DLQ, {message["ReceiptHandle"]: 0 for message in hidden})
    console_redrive(world, DLQ, LANE)
    work_off(world)
    # then
    assert runs(world) == ["a0", "b0", "c0"]


# --- Messages without a row ----------------------------------------------------------------------------------------


def test_messages_without_a_row_run_once_under_their_message_id(inspector: Inspector, ran: Bulks) -> None:
    world = ran.world
    id_ = put_dead_letter(world, external(payload={"do": "redrive_counts"}))
    view = redriven(inspector, ran, ONES)
    assert (view.total, view.done, runs(world), world.depth(DLQ)) == (1, 1, [id_], 0)


def test_a_redrive_continues_over_several_invocations(inspector: Inspector, ran: Bulks) -> None:
    world = ran.world
    ids = {put_dead_letter(world, external(payload={"do": "redrive_counts"})) for _ in range(25)}
    view = inspector.redrive(ONES, rate=500)
    invocations = 1
    while ran.run(view.id, seconds=BRIEF):
        invocations += 1
    work_off(world)
    assert runs(world) == sorted(ids)
    assert invocations >= 3
    assert world.depth(DLQ) == 0


FRONT_LANE = "jobs-default"
UNREADABLE: dict[str, Any] = {"queue": FRONT_DOOR, "generation": 0, "reason": "MessageError: body: not JSON"}
UNKNOWN: dict[str, Any] = {"queue": FRONT_DOOR, "generation": 0, "reason": "UnknownType: no task 'x' takes"}
TAKEN = {"generation": 0, "reason": "IdConflict: 'it' is the id of another task"}
DEAD = {"generation": 1, "reason": "it failed"}
BACK: dict[str, tuple[dict[str, Any], list[tuple[Any, dict[str, Any]]], Filter | str, dict[str, list[int]]]] = {
    "refused at a front door": (
        {},
        [({"type": "sample:later"}, UNKNOWN), ("no json", UNREADABLE)],
        "UnknownType",
        {FRONT_LANE: [0], FRONT_DOOR: [1]},
    ),
    "unreadable, by its fingerprint": (
        {},
        [("no json", UNREADABLE)],
        "MessageError",
        {FRONT_LANE: [0], FRONT_DOOR: []},
    ),
    "moved by SQS, of a live row; that of an ended row is deleted": (
        {"waits": {}, "ended": {"state": "completed"}},
        [(of("waits"), {}), (of("ended"), {})],
        ONES,
        {LANE: [0], DLQ: []},
    ),
    "with the id of another task, which is not obsolete": (
        {"it": {"state": "completed", "generation": 3}, "dead": archived(generation=1)},
        [(external(7, id="it"), TAKEN), (of("dead"), DEAD)],
        Filter(ids=("dead",)),
        {DLQ: [0]},
    ),
}
"""Rows, dead letters with their attributes, and the filter or the error of a group → the numbers of the messages in
each queue after the redrive."""


@pytest.mark.parametrize("case", BACK.values(), ids=BACK.keys())
def test_a_dead_letter_goes_back_to_its_own_queue_or_stays(inspector: Inspector, ran: Bulks, case: Any) -> None:
    # given
    rows, messages, chosen, expected = case
    for id_, columns in rows.items():
        put(ran.world, sample_one, id_, **columns)
    sent = [(body, put_dead_letter(ran.world, body, **attributes)) for body, attributes in messages]
    names = [body if isinstance(body, str) else body.get("id", id_) for body, id_ in sent]
    if isinstance(chosen, str):
        [chosen] = [
            Filter(fingerprint=group.fingerprint) for group in inspector.dead().groups if group.error_type == chosen
        ]
    # when
    ran.run(inspector.redrive(chosen, rate=500).id)
    # then
    left = {queue: ran.world.received(queue) for queue in expected}
    assert {queue: [name_of(one["Body"]) for one in found] for queue, found in left.items()} == {
        queue: [names[number] for number in numbers] for queue, numbers in expected.items()
    }
    assert not any("MessageAttributes" in one for one in left.get(FRONT_LANE, ()))


def test_a_redrive_of_a_type_leaves_the_dead_letters_of_the_other_types_of_its_place(
    inspector: Inspector, ran: Bulks, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given two types whose dead letters are in one queue: of an archived task, without a task, and an obsolete one
    world, lane, dlq = ran.world, "jobs-default-place", "jobs-default-place-dlq"
    world.make(lane)
    types = {"one": place_one, "two": place_two}
    for name, task in types.items():
        monkeypatch.setitem(TASKS, task.type, task)
        put(world, task, f"{name}-dead", **archived(generation=1))
        put(world, task, f"{name}-done", state="completed", generation=2)
        for id_, reason in ((f"{name}-dead", "it failed"), (f"{name}-done", "it failed")):
            put_dead_letter(world, of(id_, task), dlq, generation=1, reason=reason)
        put_dead_letter(world, external(id=f"{name}-external", type=task.type), dlq, generation=0, reason="no")
    before = world.row("two-dead")
    # when
    ran.run(inspector.redrive(Filter(types=("place:one",)), rate=500).id)
    # then
    assert sorted(name_of(one["Body"]) for one in world.received(lane)) == ["one-dead", "one-external"]
    assert sorted(name_of(one["Body"]) for one in world.received(dlq)) == ["two-dead", "two-done", "two-external"]
    assert world.row("two-dead") == before
    # and then the other type's
    ran.run(inspector.redrive(Filter(types=("place:two",)), rate=500).id)
    assert (world.depth(lane), world.depth(dlq)) == (4, 0)


def test_a_dead_letter_of_a_type_that_has_left_its_place_is_redriven_from_there(
    inspector: Inspector, ran: Bulks, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, lane, dlq = ran.world, "jobs-default-place", "jobs-default-place-dlq"
    world.make(lane)
    monkeypatch.setitem(TASKS, place_one.type, place_one)
    put_dead_letter(world, external(id="it"), dlq, generation=0, reason="no")
    ran.run(inspector.redrive(ONES, rate=500).id)
    assert (world.depth(lane), world.depth(dlq)) == (1, 0)


def name_of(body: str) -> str:
    """The id in a body, or a body that is not JSON."""
    return str(json.loads(body)["id"]) if body.startswith("{") else body


def test_an_unreadable_message_is_sent_back_only_by_its_fingerprint(inspector: Inspector, ran: Bulks) -> None:
    put_dead_letter(ran.world, "no json", **UNREADABLE)
    with pytest.raises(SelectionError, match="no task matches"):
        inspector.redrive(ALL, rate=500)


def test_an_unsent_tick_keeps_its_time(inspector: Inspector, ran: Bulks) -> None:
    world = ran.world
    world.make("jobs-cron")
    put_dead_letter(world, {"type": "sample:tick", "tick": {"schedule": "0", "at": "<aws.scheduler.time>"}}, CRON)
    put_dead_letter(world, {"type": "no:longer", "tick": {"schedule": "0", "at": "<aws.scheduler.time>"}}, CRON)
    [tick] = [group for group in inspector.dead().groups if group.type == "sample:tick"]
    ran.run(inspector.redrive(Filter(types=("sample:tick",)), rate=500).id)
    [sent] = world.received("jobs-default-sample-tick")
    at = json.loads(sent["Body"])["tick"]["at"]
    assert tick.example == f"sample:tick:0:{at}"
    assert world.depth(CRON) == 1


def test_dead_letters_whose_receive_lost_its_response_are_found_again(
    inspector: Inspector, ran: Bulks, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given
    world, client = ran.world, ran.world.sqs.client
    ids = {put_dead_letter(world, external(payload={"do": "redrive_counts", "number": 0})) for _ in range(2)}
    view = inspector.redrive(ONES, rate=500, reason=None)
    receive = client.receive_message
    lost: list[object] = []

    def receive_and_lose(**arguments: Any) -> Any:
        answer = receive(**arguments)
        if lost or not answer.get("Messages"):
            return answer
        lost.append(answer)
        return {}  # botocore has tried again, and the messages are hidden

    for name, value in {"HIDDEN_SECONDS": 1, "POLL_SECONDS": 0.1}.items():
        monkeypatch.setattr(f"joblane.inspector.bulk.run.{name}", value)
    monkeypatch.setattr(client, "receive_message", receive_and_lose)
    # when
    ran.run(view.id)
    work_off(world)
    # then
    assert lost
    assert runs(world) == sorted(ids)
    assert world.depth(DLQ) == 0


def test_a_message_that_cannot_be_sent_stays_in_its_queue(inspector: Inspector, ran: Bulks) -> None:
    world = ran.world
    put_dead_letter(world, external())
    url = world.sqs.url(LANE)
    view = inspector.redrive(Filter(), rate=500)
    world.sqs.client.delete_queue(QueueUrl=url)
    ran.run(view.id)
    world.sqs.client.create_queue(QueueName=LANE)
    assert world.depth(DLQ) == 1
    view = inspector.bulk_view(view.id)
    assert (view.state, view.done, view.failed) == (State.COMPLETED, 0, 1)


# --- The canary ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("retries", [False, True])
def test_a_failed_canary_of_five_stops_the_redrive(inspector: Inspector, ran: Bulks, retries: bool) -> None:
    # given
    world = ran.world
    put_groups(world, "redrive_fails", each=4)
    # when
    act = partial(inspector.bulk, BulkAction.RETRY) if retries else inspector.redrive
    view = act(ONES, canary=5, rate=500)
    ran.run(view.id, after_commits={2: lambda: work_off(world)})
    # then
    view = inspector.bulk_view(view.id)
    assert (view.state, view.total, view.done, view.failed) == (State.COMPLETED, 12, 0, 5)
    assert view.stopped == "the canary failed: 5 of 5 failed again, the last with SkipRetry; no other task was sent"
    assert world.run("select count(*) from joblane.tasks where generation = 2") == [[5]]
    assert world.run("select count(*) from joblane.tasks where state = 'archived'") == [[12]]
    assert world.depth(DLQ) == 12 + 5  # the five have a dead letter for each time; nothing was deleted


def test_after_a_completed_canary_the_redrive_continues(inspector: Inspector, ran: Bulks) -> None:
    world = ran.world
    put_groups(world, each=4)
    view = inspector.redrive(ONES, canary=5, rate=500)
    started: list[list[str]] = []

    def run_canary() -> None:
        work_off(world)
        started.append(runs(world))

    ran.run(view.id, after_commits={2: run_canary})
    work_off(world)
    assert len(started[0]) == 5
    assert len(set(runs(world))) == len(runs(world)) == 12
    view = inspector.bulk_view(view.id)
    assert (view.state, view.done, view.stopped) == (State.COMPLETED, 12, None)
    assert world.depth(DLQ) == 0


def test_the_wait_for_the_canary_spans_invocations_and_has_an_end(inspector: Inspector, ran: Bulks) -> None:
    # given
    world = ran.world
    put_groups(world)
    view = inspector.redrive(Filter(), canary=1, rate=500)
    # when the canary does not run
    kept = [ran.run(view.id, seconds=BRIEF)]
    while inspector.bulk_view(view.id).done == 0:  # a slow machine needs more than one invocation for the canary
        kept.append(ran.run(view.id, seconds=BRIEF))
    kept += [ran.run(view.id, seconds=BRIEF) for _ in range(2)]
    # then each invocation hands over to the next, and changes nothing
    assert kept == [[ran.message_id]] * len(kept)
    assert inspector.bulk_view(view.id).done == 1
    world.run("update joblane.bulks set canary_until = clock_timestamp()")
    assert ran.run(view.id) == []
    assert inspector.bulk_view(view.id).stopped == (
        "the canary failed: 1 of 1 had not ended in time; no other task was sent"
    )
    assert world.run("select count(*) from joblane.tasks where state = 'pending'") == [[1]]


def test_the_canary_can_consist_of_messages_without_a_row(inspector: Inspector, ran: Bulks) -> None:
    world = ran.world
    for number in range(12):
        put_dead_letter(world, external(number, payload={"do": "redrive_fails", "number": number}))
    view = inspector.redrive(ONES, canary=2, rate=500)
    ran.run(view.id, after_commits={2: lambda: work_off(world)})
    view = inspector.bulk_view(view.id)
    assert (view.stopped or "").startswith("the canary failed: 2 of 2 failed again, the last with SkipRetry")
    assert world.run("select count(*) from joblane.tasks where type = 'sample:one'") == [[2]]
    assert world.depth(DLQ) == 10 + 2


def test_unreadable_messages_allow_no_canary_and_stay(inspector: Inspector, ran: Bulks) -> None:
    for number in range(3):
        put_dead_letter(ran.world, f"no json {number}", FRONT_DOOR, generation=0, reason="MessageError: body: not JSON")
    [group] = inspector.dead().groups
    with pytest.raises(SelectionError, match="canary: an unreadable message creates no task"):
        inspector.redrive(Filter(fingerprint=group.fingerprint), canary=1)
    assert ran.world.depth(FRONT_DOOR) == 3
    assert inspector.bulks() == ()


def test_a_canary_larger_than_the_total_waits_for_all(inspector: Inspector, ran: Bulks) -> None:
    put_groups(ran.world, "redrive_fails", each=1)
    view = inspector.redrive(ALL, canary=50, rate=500)
    ran.run(view.id, after_commits=dict.fromkeys(range(2, 9), lambda: work_off(ran.world)))
    assert "3 of 3 failed again" in (inspector.bulk_view(view.id).stopped or "")


# --- At the same time ----------------------------------------------------------------------------------------------


def test_two_redrives_at_once_run_each_task_once(
    inspector: Inspector, ran: Bulks, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given
    monkeypatch.setattr("joblane.inspector.bulk.run.CHUNK", 2)
    world = ran.world
    put_groups(world, each=2)
    put_dead_letter(world, external(payload={"do": "redrive_counts"}))
    first, second = (inspector.redrive(Filter(), rate=500) for _ in range(2))
    # when the second redrive runs between two commits of the first
    ran.run(first.id, after_commits={1: lambda: ran.run(second.id)})
    work_off(world)
    # then
    assert len(set(runs(world))) == len(runs(world)) == 7
    views = [inspector.bulk_view(view.id) for view in (first, second)]
    assert sum(view.done for view in views) == 7
    assert sum(view.skipped for view in views) == 7
    assert world.depth(DLQ) == 0


def test_a_task_that_an_operator_cancels_during_a_redrive_does_not_run(
    inspector: Inspector, ran: Bulks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("joblane.inspector.bulk.run.CHUNK", 1)
    world = ran.world
    put_groups(world, each=1)
    view = inspector.redrive(Filter(), rate=500)
    ran.run(view.id, after_commits={1: lambda: inspector.cancel("a0")})
    work_off(world)
    assert runs(world) == ["b0", "c0"]
    assert states(world)["a0"] == "cancelled"
    assert inspector.bulk_view(view.id).done == 3
