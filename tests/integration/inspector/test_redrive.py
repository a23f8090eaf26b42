"""Redriving: what it touches and what it leaves, the canary, and whoever else is at it at the same time."""

from __future__ import annotations

import json

import pytest

from joblane import SkipRetry, State, TaskContext
from joblane.inspector.errors import SelectionError
from joblane.inspector.filter import Filter
from joblane.inspector.inspector import Inspector
from tests.builders.rows import put
from tests.bulks import Bulks
from tests.integration.inspector.test_bulk import BRIEF, states
from tests.integration.inspector.test_dead import CRON, DLQ, DOOR, external, put_dead, send_letter
from tests.samples import Sample, behaviour, sample_one
from tests.world import World, handle

LANE = "jobs-default-sample-one"


@behaviour
def redrive_counts(payload: Sample, ctx: TaskContext) -> None:
    from sqlalchemy import text

    ctx.session.execute(text("insert into ran values (:id)"), {"id": ctx.task_id})


@behaviour
def redrive_fails(payload: Sample, ctx: TaskContext) -> None:
    raise SkipRetry("still so")


@pytest.fixture
def ran(bulks: Bulks) -> Bulks:
    """With a table that gets a row for each run of ``redrive_counts``."""
    bulks.world.run("create table ran (id text)")
    return bulks


def runs(world: World) -> list[str]:
    return [row[0] for row in world.run("select id from ran order by id")]


def work_off(world: World, lane: str = LANE) -> None:
    """Run what waits in a lane."""
    while records := world.receive(lane):
        world.acknowledge(lane, records, handle(world.worker(sample_one), *records))


def put_groups(world: World, do: str = "redrive_counts", *, each: int = 2) -> None:
    for cause in "abc":
        for number in range(each):
            put_dead(world, f"{cause}{number}", fingerprint=cause * 4, payload={"do": do, "number": 0})


def move_all(world: World, source: str, target: str) -> None:
    """As the AWS console's redrive does."""
    for message in world.received(source, visibility=30):
        world.sqs.client.send_message(
            QueueUrl=world.sqs.url(target),
            MessageBody=message["Body"],
            MessageAttributes=message.get("MessageAttributes", {}),
        )
        world.sqs.client.delete_message(QueueUrl=world.sqs.url(source), ReceiptHandle=message["ReceiptHandle"])


# --- Rows ----------------------------------------------------------------------------------------------------------


def test_redriving_one_group_of_three_touches_that_one_alone(inspector: Inspector, ran: Bulks) -> None:
    # given
    world = ran.world
    put_groups(world)
    # when
    view = inspector.redrive(Filter(fingerprint="bbbb"), rate=500, reason="mended")
    ran.run(view.id)
    work_off(world)
    # then
    assert states(world) == dict.fromkeys(["a0", "a1", "c0", "c1"], "archived") | {"b0": "completed", "b1": "completed"}
    assert runs(world) == ["b0", "b1"]
    assert [world.row(id_)["generation"] for id_ in ("a0", "b0", "c0")] == [1, 2, 1]
    view = inspector.bulk_view(view.id)
    assert (view.action, view.state, view.total, view.done, view.failed) == ("redrive", State.COMPLETED, 2, 2, 0)
    [entry] = inspector.audit(target="b0")
    assert (entry.action, entry.who, entry.reason, entry.details) == ("redrive", "op", "mended", {"bulk": view.id})
    # and its letters are gone, those of the others are there, and to be seen
    assert sorted(json.loads(one["Body"])["id"] for one in world.received(DLQ)) == ["a0", "a1", "c0", "c1"]
    assert {group.fingerprint for group in inspector.dead().groups} == {"aaaa", "cccc"}


def test_all_is_what_a_filter_without_a_word_means(inspector: Inspector, ran: Bulks) -> None:
    put_groups(ran.world)
    put(ran.world, sample_one, "ok", state="completed")
    view = inspector.redrive(Filter(), rate=500)
    ran.run(view.id)
    work_off(ran.world)
    assert len(runs(ran.world)) == 6
    assert ran.world.depth(DLQ) == 0


def test_letters_whose_tasks_have_moved_on_are_told_and_removed_though_nothing_is_dead(
    inspector: Inspector, ran: Bulks
) -> None:
    # given
    put_dead(ran.world, "a0", fingerprint="aaaa", payload={"do": "redrive_counts", "number": 0})
    inspector.retry("a0")
    work_off(ran.world)
    found = inspector.dead()
    assert (found.groups, sum(found.leftovers.values())) == ((), 1)
    # when
    for filter_ in (Filter(types=("sample:batch",)), Filter(ids=("a0",))):
        with pytest.raises(SelectionError, match="no task matches it"):
            inspector.redrive(filter_)
    view = inspector.redrive(Filter(types=("sample:one",)), rate=500)
    ran.run(view.id)
    work_off(ran.world)
    # then
    view = inspector.bulk_view(view.id)
    assert (view.state, view.total, view.done, view.stopped) == (State.COMPLETED, 0, 0, None)
    assert runs(ran.world) == ["a0"]
    assert (ran.world.depth(DLQ), inspector.dead().leftovers) == (0, {})


def test_a_redrive_that_matches_nothing_says_so(inspector: Inspector, ran: Bulks) -> None:
    put_groups(ran.world)
    for filter_ in (Filter(fingerprint="nothing"), Filter(types=("sample:batch",)), Filter(fingerprint="letter:no")):
        with pytest.raises(SelectionError, match="filter: no task matches it; nothing was begun"):
            inspector.redrive(filter_)
    with pytest.raises(
        SelectionError, match="states: retry is for what is archived or cancelled, not for what is completed"
    ):
        inspector.redrive(Filter(states=(State.COMPLETED,)))
    with pytest.raises(SelectionError, match="canary: a whole number from 0 to 100 is required"):
        inspector.redrive(Filter(), canary=101)


def test_letters_that_the_console_redrives_afterwards_run_nothing_twice(inspector: Inspector, ran: Bulks) -> None:
    # given letters that were hidden while they were to be tidied
    world = ran.world
    put_groups(world, each=1)
    hidden = world.received(DLQ, visibility=30)
    view = inspector.redrive(Filter(), rate=500)
    ran.run(view.id, seconds=BRIEF)
    work_off(world)
    assert runs(world) == ["a0", "b0", "c0"]
    # when
    world.sqs.set_visibility(DLQ, {message["ReceiptHandle"]: 0 for message in hidden})
    move_all(world, DLQ, LANE)
    work_off(world)
    # then
    assert runs(world) == ["a0", "b0", "c0"]


# --- Messages without a row ----------------------------------------------------------------------------------------


def test_messages_that_never_had_a_row_run_once_under_the_id_that_brought_them(
    inspector: Inspector, ran: Bulks
) -> None:
    world = ran.world
    id_ = send_letter(world, external(payload={"do": "redrive_counts"}))
    view = inspector.redrive(Filter(types=("sample:one",)), rate=500)
    assert view.total == 1
    ran.run(view.id)
    work_off(world)
    assert runs(world) == [id_]
    assert world.depth(DLQ) == 0
    assert inspector.bulk_view(view.id).done == 1


def test_letters_are_worked_off_over_as_many_invocations_as_it_takes(inspector: Inspector, ran: Bulks) -> None:
    world = ran.world
    ids = {send_letter(world, external(payload={"do": "redrive_counts"})) for _ in range(25)}
    view = inspector.redrive(Filter(types=("sample:one",)), rate=500)
    invocations = 1
    while ran.run(view.id, seconds=BRIEF):
        invocations += 1
    work_off(world)
    assert runs(world) == sorted(ids)
    assert invocations >= 3
    assert world.depth(DLQ) == 0


def test_what_a_front_door_refused_goes_back_through_it(inspector: Inspector, ran: Bulks) -> None:
    world = ran.world
    unknown = send_letter(world, {"type": "sample:later"}, DOOR, generation=0, reason="UnknownType: no task 'x' takes")
    send_letter(world, "no json", DOOR, generation=0, reason="MessageError: body: not JSON")
    [group] = [group for group in inspector.dead().groups if group.error_type == "UnknownType"]
    view = inspector.redrive(Filter(fingerprint=group.fingerprint), rate=500)
    ran.run(view.id)
    [sent] = world.received("jobs-default")
    assert json.loads(sent["Body"])["id"] == unknown
    assert "MessageAttributes" not in sent
    assert [message["Body"] for message in world.received(DOOR)] == ["no json"]


def test_what_cannot_be_read_is_sent_back_by_its_own_fingerprint_alone(inspector: Inspector, ran: Bulks) -> None:
    world = ran.world
    send_letter(world, "no json", DOOR, generation=0, reason="MessageError: body: not JSON")
    with pytest.raises(SelectionError, match="no task matches"):
        inspector.redrive(Filter(), rate=500)
    [group] = inspector.dead().groups
    view = inspector.redrive(Filter(fingerprint=group.fingerprint), rate=500)
    ran.run(view.id)
    assert [message["Body"] for message in world.received("jobs-default")] == ["no json"]
    assert world.depth(DOOR) == 0


def test_a_tick_that_was_not_sent_keeps_its_time(inspector: Inspector, ran: Bulks) -> None:
    world = ran.world
    world.make("jobs-cron")
    send_letter(world, {"type": "sample:tick", "tick": {"schedule": "0", "at": "<aws.scheduler.time>"}}, CRON)
    send_letter(world, {"type": "no:longer", "tick": {"schedule": "0", "at": "<aws.scheduler.time>"}}, CRON)
    [tick] = [group for group in inspector.dead().groups if group.type == "sample:tick"]
    view = inspector.redrive(Filter(types=("sample:tick",)), rate=500)
    ran.run(view.id)
    [sent] = world.received("jobs-default-sample-tick")
    at = json.loads(sent["Body"])["tick"]["at"]
    assert tick.example == f"sample:tick:0:{at}"
    assert world.depth(CRON) == 1


def test_a_copy_that_sqs_moved_goes_back_where_its_row_waits_and_is_dropped_where_it_has_ended(
    inspector: Inspector, ran: Bulks
) -> None:
    world = ran.world
    put(world, sample_one, "waits")
    put(world, sample_one, "ended", state="completed")
    for id_ in ("waits", "ended"):
        send_letter(world, {"type": "sample:one", "id": id_, "rec": True})
    view = inspector.redrive(Filter(types=("sample:one",)), rate=500)
    ran.run(view.id)
    assert [json.loads(message["Body"])["id"] for message in world.received(LANE)] == ["waits"]
    assert world.depth(DLQ) == 0


def test_a_letter_under_the_id_of_another_task_is_never_taken_for_a_leftover(inspector: Inspector, ran: Bulks) -> None:
    world = ran.world
    put(world, sample_one, "it", state="completed", generation=3)
    put_dead(world, "dead")
    send_letter(world, external(7, id="it"), generation=0, reason="IdConflict: 'it' is the id of another task")
    view = inspector.redrive(Filter(ids=("dead",)), rate=500)
    ran.run(view.id)
    assert [json.loads(message["Body"])["id"] for message in world.received(DLQ)] == ["it"]


def test_a_message_that_sqs_does_not_take_stays_where_it_is(inspector: Inspector, ran: Bulks) -> None:
    world = ran.world
    send_letter(world, external())
    url = world.sqs.url(LANE)
    view = inspector.redrive(Filter(), rate=500)
    world.sqs.client.delete_queue(QueueUrl=url)
    ran.run(view.id)
    world.sqs.client.create_queue(QueueName=LANE)
    assert world.depth(DLQ) == 1
    view = inspector.bulk_view(view.id)
    assert (view.state, view.done, view.failed) == (State.COMPLETED, 0, 1)


# --- The canary ----------------------------------------------------------------------------------------------------


def test_the_canary_stops_a_redrive_when_its_five_redrive_fails(inspector: Inspector, ran: Bulks) -> None:
    # given
    world = ran.world
    put_groups(world, "redrive_fails", each=4)
    # when
    view = inspector.redrive(Filter(types=("sample:one",)), canary=5, rate=500)
    ran.run(view.id, after_commits={2: lambda: work_off(world)})
    # then
    view = inspector.bulk_view(view.id)
    assert (view.state, view.total, view.done, view.failed) == (State.COMPLETED, 12, 0, 5)
    assert view.stopped == "the canary: 5 of 5 failed again, the last with SkipRetry; nothing else was touched"
    assert world.run("select count(*) from joblane.tasks where generation = 2") == [[5]]
    assert world.run("select count(*) from joblane.tasks where state = 'archived'") == [[12]]
    assert world.depth(DLQ) == 12 + 5  # the five have a letter for each time; nothing was deleted


def test_the_rest_follows_when_the_canary_does_well(inspector: Inspector, ran: Bulks) -> None:
    world = ran.world
    put_groups(world, each=4)
    view = inspector.redrive(Filter(types=("sample:one",)), canary=5, rate=500)
    started: list[list[str]] = []

    def look() -> None:
        work_off(world)
        started.append(runs(world))

    ran.run(view.id, after_commits={2: look})
    work_off(world)
    assert len(started[0]) == 5
    assert len(set(runs(world))) == len(runs(world)) == 12
    view = inspector.bulk_view(view.id)
    assert (view.state, view.done, view.stopped) == (State.COMPLETED, 12, None)
    assert world.depth(DLQ) == 0


def test_the_canary_is_waited_for_over_invocations_and_not_for_ever(inspector: Inspector, ran: Bulks) -> None:
    # given
    world = ran.world
    put_groups(world)
    view = inspector.redrive(Filter(), canary=1, rate=500)
    # when nobody runs it
    kept = [ran.run(view.id, seconds=BRIEF) for _ in range(3)]
    # then each invocation hands over to the next, and holds nothing
    assert kept == [[ran.message_id]] * 3
    assert inspector.bulk_view(view.id).done == 1
    world.run("update joblane.bulks set canary_until = clock_timestamp()")
    assert ran.run(view.id) == []
    assert inspector.bulk_view(view.id).stopped == (
        "the canary: 1 of 1 had not ended in time; nothing else was touched"
    )
    assert world.run("select count(*) from joblane.tasks where state = 'pending'") == [[1]]


def test_the_canary_may_be_of_messages_without_a_row(inspector: Inspector, ran: Bulks) -> None:
    world = ran.world
    for number in range(12):
        send_letter(world, external(number, payload={"do": "redrive_fails", "number": number}))
    view = inspector.redrive(Filter(types=("sample:one",)), canary=2, rate=500)
    ran.run(view.id, after_commits={2: lambda: work_off(world)})
    view = inspector.bulk_view(view.id)
    assert (view.stopped or "").startswith("the canary: 2 of 2 failed again, the last with SkipRetry")
    assert world.run("select count(*) from joblane.tasks where type = 'sample:one'") == [[2]]
    assert world.depth(DLQ) == 10 + 2


def test_what_cannot_be_read_has_no_canary_and_stays(inspector: Inspector, ran: Bulks) -> None:
    for number in range(3):
        send_letter(ran.world, f"no json {number}", DOOR, generation=0, reason="MessageError: body: not JSON")
    [group] = inspector.dead().groups
    with pytest.raises(SelectionError, match="canary: what cannot be read becomes no task"):
        inspector.redrive(Filter(fingerprint=group.fingerprint), canary=1)
    assert ran.world.depth(DOOR) == 3
    assert inspector.bulks() == ()


def test_a_canary_that_is_more_than_there_are_waits_for_those(inspector: Inspector, ran: Bulks) -> None:
    put_groups(ran.world, "redrive_fails", each=1)
    view = inspector.redrive(Filter(), canary=50, rate=500)
    ran.run(view.id, after_commits={number: lambda: work_off(ran.world) for number in range(2, 9)})
    assert "3 of 3 failed again" in (inspector.bulk_view(view.id).stopped or "")


# --- At the same time ----------------------------------------------------------------------------------------------


def test_two_redrives_at_once_run_each_task_once(
    inspector: Inspector, ran: Bulks, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given
    monkeypatch.setattr("joblane.inspector.bulk.run.CHUNK", 2)
    world = ran.world
    put_groups(world, each=2)
    send_letter(world, external(payload={"do": "redrive_counts"}))
    first, second = (inspector.redrive(Filter(), rate=500) for _ in range(2))
    # when the second one does all it can between two commits of the first
    ran.run(first.id, after_commits={1: lambda: ran.run(second.id)})
    work_off(world)
    # then
    assert len(set(runs(world))) == len(runs(world)) == 7
    views = [inspector.bulk_view(view.id) for view in (first, second)]
    assert sum(view.done for view in views) == 7
    assert sum(view.skipped for view in views) == 7
    assert world.depth(DLQ) == 0


def test_what_an_operator_cancels_meanwhile_does_not_run(
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
