"""The bounds of a sweep: memory, refusing lanes, unusable rows, paused rows, backlogs, and the time of each duty."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from joblane.enqueue.wake import wake
from joblane.functions.jobs_sweep.handler import jobs_sweep
from joblane.inspector.scope import Scope
from joblane.inspector.stage.doctor import database
from joblane.inspector.views import Grade
from joblane.sqs.client import Entry
from joblane.sqs.message import DEAD_ATTRIBUTE, Message, decode
from joblane.sweep.next_sweep import NextSweep
from joblane.sweep.sweep import Swept, sweep
from tests import logs
from tests.builders.rows import In, active, archived, put
from tests.patience import PATIENCE_SECONDS
from tests.samples import sample_one
from tests.sends import Sends
from tests.stories import Story, deliver, play, row, step, stories
from tests.stories import sweep as sweep_once
from tests.world import PREFIX, World

LANE = "jobs-default-sample-one"
RECORDED = {"type": "sample:one", "id": "it", "rec": True}
OTHER = "jobs-low-sample-one"
DENIED = "An error occurred (AccessDenied) when calling the SendMessageBatch operation: no"
SILENT = 'no answer: Read timeout on endpoint URL: "https://sqs"'
MB = 1_000_000
ENDED = {"finished_at": "now()", "reason": "'why'", "expire_at": "now() + interval '1 day'"}
Send = Callable[[Sequence[Entry]], dict[int, str]]


@pytest.fixture
def sends(world: World) -> Sends:
    world.make(LANE, OTHER)
    return Sends.of(world.sqs)


def fill(world: World, /, count: int, **values: str) -> None:
    """Write many due tasks of one type, oldest first. ``values``: column → SQL over ``n``."""
    columns = {
        "id": "'task-' || n",
        "queue": "'default'",
        "state": "'pending'",
        "sweep_at": "now() - interval '1 s'",
        "payload": "'{}'",
    }
    names, sql = zip(*(columns | values).items(), strict=True)
    world.run(
        f"insert into joblane.tasks (type, payload_digest, max_attempts, retention_seconds, {', '.join(names)})"
        f" select 'sample:one', '', 4, 60, {', '.join(sql)} from generate_series(1, {count}) n"
    )


def later(world: World, minutes: int = 2) -> None:
    """Let time pass for all tasks."""
    world.run(
        f"update joblane.tasks set due_at = due_at - interval '{minutes} min',"
        f" sweep_at = sweep_at - interval '{minutes} min'"
    )


def ids(entries: Sequence[Any]) -> list[str]:
    return sorted(str(decode(entry["MessageBody"]).id) for entry in entries)


def refusing(world: World, monkeypatch: pytest.MonkeyPatch, reasons: dict[str, str]) -> list[int]:
    """Let SQS refuse all messages for some queues. Returns the numbers of messages per call."""
    real, sizes = world.sqs.send_many, list[int]()

    def send(entries: Sequence[Entry]) -> dict[int, str]:
        sizes.append(len(entries))
        accepted = [position for position, entry in enumerate(entries) if entry.queue not in reasons]
        failed = real([entries[position] for position in accepted])
        return {accepted[position]: why for position, why in failed.items()} | {
            position: reasons[entry.queue] for position, entry in enumerate(entries) if entry.queue in reasons
        }

    monkeypatch.setattr(world.sqs, "send_many", send)
    return sizes


def sweep_with_errors(world: World) -> tuple[Swept, list[dict[str, Any]]]:
    """Sweep. Return what was done, and the log lines of errors."""
    with logs.lines() as lines:
        swept = world.sweep()
    return swept, [line for line in lines.fields if line["level"] == "ERROR"]


def hold_messages(world: World, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Let each lane seem to have this number of messages."""
    monkeypatch.setattr(world.sqs, "attributes", lambda _, names: dict.fromkeys(names, "0") | {names[0]: str(number)})


# --- Memory --------------------------------------------------------------------------------------------------------

PROCESS = """
import sys
from joblane.sweep.sweep import sweep
from joblane.record.driver.database import Database
from joblane.sqs.client import Sqs
sent = []
class Counting(Sqs):
    def send_many(self, entries):
        sent.extend(entry.queue for entry in entries)
        return {}
sweep(Database(sys.argv[1]).get(), Counting(), "jobs")
print(len(sent) - sent.count(sys.argv[2]), sent.count(sys.argv[2]))
"""


def test_dead_letters_of_large_tasks_are_sent_with_little_memory(world: World) -> None:
    # given archived tasks with 240 MB of payload, and a due task
    fill(
        world,
        240,
        state="'archived'",
        **ENDED,
        dead_letter_unsent="true",
        payload=f"jsonb_build_object('do', repeat('x', {MB}))",
    )
    put(world, sample_one, "due", sweep_at=In(-1))
    # when a process sweeps that may use 256 MB
    limited = subprocess.run(
        [sys.executable, "-c", PROCESS, world.url, LANE],
        env=os.environ | {"MALLOC_ARENA_MAX": "1"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (256 * MB, 256 * MB)),
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    # then all is sent
    assert limited.stdout.split() == ["240", "1"], limited.stderr
    assert world.run("select count(*) from joblane.tasks where dead_letter_unsent") == [[0]]


# --- Lanes that SQS refuses ----------------------------------------------------------------------------------------


def test_a_lane_that_sqs_refuses_does_not_delay_the_other_lanes(
    world: World, sends: Sends, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given many tasks of a lane that SQS refuses, and then one of another lane
    fill(world, 1500)
    put(world, sample_one, "other", queue="low", sweep_at=In(-1))
    with monkeypatch.context() as patch:
        sizes = refusing(world, patch, {LANE: DENIED})
        # when
        swept, errors = sweep_with_errors(world)
    # then the other task is sent, the lane is tried once, and its tasks wait as before
    assert swept == Swept(sent=1, unsent=499)
    assert ids(sends.to(OTHER)) == ["other"]
    assert sizes == [500]
    assert [(line["queue"], line["messages"]) for line in errors] == [(LANE, 499)]
    assert world.run("select count(*) from joblane.tasks where sweep_at < now() and sends = 0") == [[1500]]
    # when SQS accepts it again
    assert world.sweep() == Swept(sent=1500)


def test_a_batch_that_sqs_refuses_as_a_whole_does_not_end_the_sweep(
    world: World, sends: Sends, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given fewer tasks of the lane that SQS refuses, so that they come first
    fill(world, 550)
    fill(world, 600, id="'other-' || n", queue="'low'")
    sizes = refusing(world, monkeypatch, {LANE: DENIED})
    # when and then
    assert world.sweep() == Swept(sent=600, unsent=500)
    assert len(sends.to(OTHER)) == 600
    assert sizes[0] == 500


def test_dead_letters_that_sqs_refuses_do_not_delay_the_others(
    world: World, sends: Sends, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(world, 350, state="'archived'", **ENDED, dead_letter_unsent="true")
    put(world, sample_one, "other", queue="low", **archived(dead_sent_at=None, sweep_at=In(-1), finished_at=In(0)))
    refusing(world, monkeypatch, {f"{LANE}-dlq": DENIED})
    assert world.sweep() == Swept(dead_letters=1, unsent=100)
    assert world.row("other")["dead_letter_unsent"] is False


def test_a_sweep_stops_sending_if_sqs_does_not_answer(
    world: World, sends: Sends, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(world, 600)
    fill(world, 600, id="'other-' || n", queue="'low'")
    fill_expired(world, 600)
    sizes = refusing(world, monkeypatch, {LANE: SILENT, OTHER: SILENT})
    assert world.sweep() == Swept(unsent=500, cleared=600)
    assert sizes == [500]


def fill_expired(world: World, count: int) -> None:
    world.run(
        "insert into joblane.tasks (id, type, queue, state, payload, payload_digest, max_attempts, retention_seconds,"
        " expire_at, finished_at) select 'old-' || n, 'sample:one', 'default', 'completed', '{}', '', 4, 60, now(),"
        f" now() from generate_series(1, {count}) n"
    )


def test_expired_tasks_are_cleared_while_many_messages_are_sent(world: World, sends: Sends) -> None:
    # given more due tasks than the sweep has time for
    fill(world, 5000)
    fill_expired(world, 1200)
    put(world, sample_one, "dead", **archived(dead_sent_at=None, sweep_at=In(-1)))
    steps = iter([True] * 13)
    # when
    swept = sweep(world.database.get(), world.sqs, PREFIX, may_continue=lambda: next(steps, False))
    # then each duty had its turns
    assert (swept.sent > 0, swept.dead_letters, swept.cleared) == (True, 1, 1000)


# --- Rows that no code writes --------------------------------------------------------------------------------------


def test_rows_that_the_database_refuses_do_not_stop_the_sweep(world: World, sends: Sends) -> None:
    # given rows by hand that cannot be completed, taken, marked or cleared, in each case before a good one
    unchecked(world)
    good: dict[str, Any] = {"sweep_at": In(-1)}
    for id_, bad in (("tidy", {"retention_seconds": 9 * 10**18}), ("tidied", {})):
        put(world, sample_one, id_, None, **{"state": "cancelled", "finished_at": None, **good, **bad})
    for id_, due in (("take", "294276-12-31 23:59:59.9+00"), ("taken", "2026-01-01")):
        put(world, sample_one, id_, None, due_at=due, **good)
    for id_, columns in (("mark", {"on_archived": {"type": "a:b", "queue": "low"}}), ("marked", {})):
        put(world, sample_one, id_, **columns, **archived(dead_sent_at=None, **good))
    for id_, finished_at in (("clear", "294276-12-31"), ("cleared", In(-60))):
        put(world, sample_one, id_, state="completed", finished_at=finished_at, expire_at=In(-1), sweep_at=None)
    # when
    swept, errors = sweep_with_errors(world)
    # then the good ones are done, and the log names the others
    assert swept == Swept(sent=1, dead_letters=2, cleared=1)
    assert sorted(line["task_id"] for line in errors) == ["clear", "mark", "take", "tidy"]
    assert world.row("tidied")["finished_at"] is not None
    assert ids(sends.to(LANE)) == ["taken"]
    assert world.row("marked")["dead_letter_unsent"] is False
    assert world.row("cleared")["cleared"] is True
    # and the next sweep leaves those that can be left
    swept, errors = sweep_with_errors(world)
    assert swept == Swept()
    assert {line["task_id"] for line in errors} <= {"tidy"}


def refuse(world: World, code: str) -> None:
    """Add a trigger of an application that refuses the changes of some rows."""
    world.run(
        "create or replace function refuse() returns trigger language plpgsql as"
        f" $$ begin raise exception 'not this one' using errcode = '{code}'; end $$"
    )
    world.run(
        "create or replace trigger refuses before update or delete on joblane.tasks for each row"
        " when (old.id like 'bad%') execute function refuse()"
    )


def put_due(world: World, *names: str) -> None:
    """Write rows for each duty of the sweep: to complete, to send, to send as a dead letter, to clear, to delete."""
    due: dict[str, Any] = {"sweep_at": In(-1)}
    for name in names:
        put(world, sample_one, f"{name}-tidy", state="cancelled", finished_at=None, **due)
        put(world, sample_one, f"{name}-send", **due)
        put(world, sample_one, f"{name}-dead", **archived(dead_sent_at=None, **due))
        for cleared in (False, True):
            ended: dict[str, Any] = {
                "state": "completed",
                "finished_at": In(-60),
                "expire_at": In(-1),
                "sweep_at": None,
            }
            put(world, sample_one, f"{name}-expire-{cleared}", **ended | {"cleared": cleared})


@pytest.mark.parametrize("code", ["P0001", "23514", "42501", "42883", "XX000", "0A000", "40001", "55000"])
def test_a_row_whose_change_a_trigger_refuses_does_not_stop_the_sweep(world: World, sends: Sends, code: str) -> None:
    # given
    put_due(world, "bad", "good")
    refuse(world, code)
    # when
    swept, errors = sweep_with_errors(world)
    # then
    assert swept == Swept(sent=1, dead_letters=1, cleared=1, removed=1)
    assert world.row("good-tidy")["finished_at"] is not None
    named = [(line["task_id"], line["error"]) for line in errors]
    refused = ("bad-dead", "bad-expire-False", "bad-expire-True", "bad-send", "bad-tidy")
    assert sorted(named) == [(id_, f"not this one ({code})") for id_ in refused]


@pytest.mark.parametrize("code", ["57014", "57P01", "53100", "25006", "55P03"])
def test_an_error_of_the_server_stops_the_duties_that_have_it(world: World, sends: Sends, code: str) -> None:
    put_due(world, "bad", "good")
    put(world, sample_one, "other", queue="low", sweep_at=In(-1))
    refuse(world, code)
    swept, errors = sweep_with_errors(world)
    # then the others are sent
    failed = {"tasks ended by SQL", "messages of due tasks", "unsent dead letters", "expired tasks"}
    assert (set(swept.failed), swept.sent, swept.dead_letters) == (failed, 2, 1)
    assert {(line["duty"], line["error"]) for line in errors} == {(name, f"not this one ({code})") for name in failed}


def test_a_task_that_sqs_and_a_trigger_refuse_does_not_keep_the_times_of_the_others(
    world: World, sends: Sends, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given tasks of a lane that SQS refuses, and a trigger that refuses a change of one after it was taken
    fill(world, 3)
    put(world, sample_one, "bad", sweep_at=In(-1))
    before = world.row("task-1")["sweep_at"]

    def refused(entries: Sequence[Entry]) -> dict[int, str]:
        refuse(world, "P0001")
        return dict.fromkeys(range(len(entries)), DENIED)

    monkeypatch.setattr(world.sqs, "send_many", refused)
    # when
    assert world.sweep() == Swept(unsent=4)
    # then
    assert (world.row("task-1")["sweep_at"], world.row("task-1")["sends"]) == (before, 0)


def test_rows_that_make_no_message_do_not_stop_the_sweep(world: World, sends: Sends) -> None:
    unchecked(world)
    put(world, sample_one, "no-object", headers=[1], sweep_at=In(-1))
    put(world, sample_one, "dead", headers=[1], **archived(dead_sent_at=None, sweep_at=In(-1)))
    put(world, sample_one, "tenant", tenant="with space", sweep_at=In(-1))
    put(world, sample_one, "good", sweep_at=In(-1))
    swept, errors = sweep_with_errors(world)
    assert swept == Swept(sent=2)
    assert ids(sends.to(LANE)) == ["good", "tenant"]
    assert sorted(line["task_id"] for line in errors) == ["dead", "no-object"]


def unchecked(world: World) -> None:
    """Remove the table's constraints and trigger, which refuse such rows."""
    world.run("alter table joblane.tasks disable trigger user")
    for (name,) in world.run(
        "select conname from pg_constraint where conrelid = 'joblane.tasks'::regclass and contype = 'c'"
    ):
        world.run(f'alter table joblane.tasks drop constraint "{name}"')


# --- Backlogs ------------------------------------------------------------------------------------------------------


def messages(world: World, *ids: str) -> None:
    """Put messages into the lane."""
    world.sqs.send_many([Entry(LANE, Message("sample:one", id_, {}).encode()) for id_ in ids])


def lose_a_message(world: World) -> None:
    (message,) = world.received(LANE, visibility=600)[:1]
    world.sqs.client.delete_message(QueueUrl=world.sqs.url(LANE), ReceiptHandle=message["ReceiptHandle"])


given, swept, sql = step(put), step(World.sweep), step(World.run)
filled, in_lane, pass_time, received = step(fill), step(messages), step(later), step(World.received)
SENT = sql("select id from joblane.tasks where sends > 0 order by id")
VERSIONS = (
    "select id, ctid::text as place, xmin::text as made, xmax::text as ended from joblane.tasks where id <> 'free'"
)
STORIES: dict[str, Story] = {
    "a backlog is not sent again while it waits in its lane": [
        # given tasks whose messages wait, are in flight, or are delayed
        filled(30),
        filled(20, id="'delayed-' || n", due_at="now() + interval '10 min'", sweep_at="now() - interval '5 min'"),
        swept().gives(Swept(sent=50)),
        received(LANE, visibility=600),
        # when time passes, and no worker takes a message
        *(one for _ in range(3) for one in (pass_time(15), swept().gives(Swept()))),
    ],
    "only missing messages are sent again, oldest request first": [
        # given ten tasks, of which three messages were lost
        filled(10, sweep_at="now() - n * interval '1 s'", due_at="now() - n * interval '1 s' - interval '1 min'"),
        in_lane(*(f"task-{n}" for n in range(1, 8))),
        # then the tasks with the oldest request get a message, and no sweep sends more
        swept().gives(Swept(sent=3)),
        SENT.gives([["task-10"], ["task-8"], ["task-9"]]),
        pass_time(),
        swept().gives(Swept()),
    ],
    "the choice among the tasks of a backlog rotates": [
        # given a lane that always has one message less than tasks
        filled(4, sweep_at="now() - n * interval '1 s'", due_at="now() - interval '10 min'"),
        in_lane(*(f"x-{n}" for n in range(3))),
        *(
            one
            for _ in range(4)
            for one in (
                swept().gives(Swept(sent=1)),
                lose_a_message,
                sql("update joblane.tasks set sweep_at = sweep_at - interval '61 s'"),
            )
        ),
        # then each task got one message
        sql("select sends from joblane.tasks").gives([[1]] * 4),
    ],
    "after an hour ten tasks are sent behind messages of others": [
        # given a lane full of messages without a row
        filled(25, sweep_at="now() - interval '61 min'", due_at="now() - interval '62 min'"),
        in_lane(*(f"x-{n}" for n in range(40))),
        *(sweep_once(sent=number) for number in (10, 10, 5, 0)),
    ],
    "an unsent task and a lost run are sent at once, whatever the lane holds": [
        in_lane(*(f"x-{n}" for n in range(40))),
        given(sample_one, "unsent", due_at=In(-1), sweep_at=In(-900)),
        given(sample_one, "lost", **active(-20, sweep_at=In(-5))),
        swept().gives(Swept(sent=2)),
        SENT.gives([["lost"], ["unsent"]]),
    ],
    "a dead letter that comes back before its mark revives the task": [
        # given an archived task whose dead letter was sent, and not marked
        given(sample_one, "it", **archived(dead_sent_at=None, generation=2)),
        # when an operator moves the dead letter back by SQS, then the task runs
        deliver(sample_one, RECORDED, attributes={DEAD_ATTRIBUTE: ("Number", "2")}).gives([]),
        row("it", state="completed", generation=3),
    ],
    **{
        f"paused rows are neither written nor locked: {scope}": [
            # given paused tasks of every kind, and a task that is not paused
            filled(700, tenant="'acme'"),
            given(sample_one, "lost", tenant="acme", **active(-60, sweep_at=In(-1))),
            given(sample_one, "free", type="a:b", queue="low", sweep_at=In(-1)),
            step(World.make)("jobs-low-a-b"),
            sql("insert into joblane.pauses (scope, name) values ($1, $2)", scope, name),
            sql(f"create table before as {VERSIONS}"),
            swept().gives(Swept(sent=1, paused=701)),
            sql(f"{VERSIONS} except select * from before").gives([]),
            # and after the pause all are sent
            sql("update joblane.pauses set until = now() - interval '1 s'"),
            swept().gives(Swept(sent=701)),
        ]
        for scope, name in {"type": "sample:one", "queue": "default", "tenant": "acme"}.items()
    },
}


@pytest.mark.usefixtures("sends")
@stories(STORIES)
def test_story(world: World, story: Story) -> None:
    play(world, story)


def a_turn(world: World) -> None:
    """Many tasks wait, and a single one has a slot of a limit."""
    world.run("insert into joblane.limits (name, slots) values ('sample:one', 1)")
    fill(world, 2999, due_at="now() - interval '59 s'")
    limits: dict[str, Any] = {"total_limit": "sample:one", "passed": "all", "seq": 1, "first_due_at": In(0)}
    put(world, sample_one, "turn", **limits, due_at=In(-59), sweep_at=In(1))


def times_of_a_rate(world: World) -> None:
    """Tasks are due for ten minutes by their rate. Nobody waits for a slot of theirs."""
    world.run("insert into joblane.limits (name, step, burst) values ('sample:one', '1 ms', 1)")
    fill(world, 3000, due_at="now() - interval '10 minutes'")
    world.run(
        "update joblane.tasks set total_limit = 'sample:one', passed = 'type_time', seq = 1, first_due_at = due_at"
    )


@pytest.mark.parametrize(
    ("given", "sent"),
    [(a_turn, [1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]), (times_of_a_rate, [0, 0, 0])],
    ids=["at once, and then after longer and longer times", "no time of a rate"],
)
def test_of_many_tasks_whose_lane_is_behind_only_one_with_a_turn_gets_messages(
    world: World, sends: Sends, monkeypatch: pytest.MonkeyPatch, given: Callable[[World], None], sent: list[int]
) -> None:
    # given a lane with messages for all of its tasks
    given(world)
    hold_messages(world, monkeypatch, 3000)
    # when sweeps come every four minutes
    found = []
    for _ in sent:
        later(world, minutes=4)
        found.append(world.sweep().sent)
    # then
    assert found == sent
    assert ids(sends.to(LANE)) == ["turn"] * sum(sent)


@pytest.mark.parametrize("state", ["pending", "retry"])
def test_of_two_sweeps_five_minutes_apart_one_sends_a_turn_within_seven_minutes(
    world: World, sends: Sends, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    # given a task with a slot for almost 90 seconds, whose message seems to be in the lane
    world.run("insert into joblane.limits (name, slots) values ('sample:one/', 1)")
    key: dict[str, Any] = {"key_limit": "sample:one/a", "passed": "key_slot", "seq": 1, "first_due_at": In(-89)}
    put(world, sample_one, "turn", state=state, **key, due_at=In(-85), sweep_at=In(-25))
    hold_messages(world, monkeypatch, 1)
    following = NextSweep()
    assert sweep(world.database.get(), world.sqs, PREFIX, following=following).sent == 0
    assert following.at == 0.0
    later(world, minutes=5)
    assert world.sweep().sent == 1


def test_without_the_number_of_messages_every_due_task_is_sent(
    world: World, sends: Sends, monkeypatch: pytest.MonkeyPatch
) -> None:
    from botocore.exceptions import ClientError

    def denied(*_: Any) -> Any:
        raise ClientError({"Error": {"Code": "AccessDenied", "Message": "no"}}, "GetQueueAttributes")

    monkeypatch.setattr(world.sqs, "attributes", denied)
    fill(world, 3, due_at="now() - interval '2 min'")
    with logs.lines() as lines:
        assert world.sweep() == Swept(sent=3)
    assert [line["queue"] for line in lines.fields if line["level"] == "WARNING"] == [LANE]


def test_a_lane_is_counted_only_if_a_message_may_be_missing(
    world: World, sends: Sends, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[str] = []
    monkeypatch.setattr(world.sqs, "attributes", lambda queue, _: counted.append(queue))
    fill(world, 3)
    put(world, sample_one, "running", **active(30))
    world.sweep()
    assert counted == []


# --- A lane that several types share -------------------------------------------------------------------------------

SHARED_LANE = "jobs-default-place"


def fill_place(world: World, type_: str, count: int, *, minutes: int, in_lane: bool) -> None:
    """Write due tasks of a type of a place, whose messages are in its lane or were lost."""
    fill(world, count, id=f"'{type_}-' || n", sweep_at=f"now() - interval '{minutes} min'")
    world.run("update joblane.tasks set type = $1, due_at = sweep_at where id like $1 || '-%'", type_)
    if in_lane:
        world.sqs.send_many([Entry(SHARED_LANE, Message(type_, f"{type_}-{n}", {}).encode()) for n in range(count)])


@pytest.mark.parametrize("lost", [5, 20, 35], ids=lambda number: f"{number} messages are lost")
@pytest.mark.parametrize("types", [("place:one", "place:two"), ("place:two", "place:one")], ids=lambda types: types[0])
def test_messages_of_another_type_in_the_lane_do_not_hide_missing_ones(
    world: World, sends: Sends, types: tuple[str, str], lost: int
) -> None:
    world.make(SHARED_LANE)
    missing, other = types
    fill_place(world, missing, lost, minutes=3, in_lane=False)
    fill_place(world, other, 20, minutes=2, in_lane=True)
    sends.clear()
    assert world.sweep().sent == lost
    assert {decode(entry["MessageBody"]).type for entry in sends.to(SHARED_LANE)} == {missing}
    # and then the lane has the messages of all
    later(world)
    assert world.sweep().sent == 0


def test_a_backlog_of_several_types_in_a_lane_is_not_sent_again(world: World, sends: Sends) -> None:
    world.make(SHARED_LANE)
    for type_ in ("place:one", "place:two", "place:former"):
        fill_place(world, type_, 20, minutes=2, in_lane=True)
    counted = watch_counts(world)
    for _ in range(3):
        swept = world.sweep()
        assert (swept.sent, sorted(swept.waits)) == (0, ["place:former", "place:one", "place:two"])
        later(world, minutes=15)
    assert counted == [SHARED_LANE] * 3


def watch_counts(world: World) -> list[str]:
    """Return the list of the queues whose messages are counted from now on."""
    counted, real = list[str](), world.sqs.attributes

    def attributes(queue: str, names: Any) -> Any:
        counted.append(queue)
        return real(queue, names)

    world.sqs.attributes = attributes  # type: ignore[method-assign]
    return counted


# --- Changes between the statements of a sweep ---------------------------------------------------------------------


def test_a_task_that_is_claimed_after_its_message_was_refused_keeps_its_times(
    world: World, sends: Sends, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(world, sample_one, "it", sweep_at=In(-1))

    def claimed_first(entries: Sequence[Entry]) -> dict[int, str]:
        world.run("update joblane.tasks set state = 'active', sends = 0, sweep_at = '2030-01-01'")
        return {0: DENIED}

    monkeypatch.setattr(world.sqs, "send_many", claimed_first)
    world.sweep()
    row = world.row("it")
    assert (row["sweep_at"][:10], row["sends"]) == ("2030-01-01", 0)


@pytest.mark.parametrize("change", ["claimed", "ended", "swept"])
def test_a_task_that_changes_after_the_walk_is_not_sent(world: World, sends: Sends, change: str) -> None:
    put(world, sample_one, "it", sweep_at=In(-1))
    steps = iter([None] * 3)

    def between() -> bool:
        if next(steps, "now") == "now":  # the walk has read the task, and has not taken it yet
            world.run(
                {
                    "claimed": "update joblane.tasks set state = 'active', sweep_at = now() + interval '1 min'",
                    "ended": "update joblane.tasks set state = 'completed', finished_at = now(),"
                    " sweep_at = null, expire_at = now() + interval '1 day'",
                    "swept": "update joblane.tasks set sweep_at = now() + interval '1 min', sends = 1",
                }[change]
            )
        return True

    assert sweep(world.database.get(), world.sqs, PREFIX, may_continue=between) == Swept()


# --- A week without a sweep ----------------------------------------------------------------------------------------


def test_a_sweep_after_a_week_sends_and_ends_everything(world: World, sends: Sends) -> None:
    # given tasks of every kind that a sweep of a week ago would have handled
    ago = -7 * 86_400.0
    put(world, jobs_sweep, "sweep", state="completed", created_at=In(ago), finished_at=In(ago), expire_at=In(60))
    put(world, sample_one, "unsent", due_at=In(ago), sweep_at=In(ago - 900))
    put(world, sample_one, "later", state="scheduled", due_at=In(ago + 86_400), sweep_at=In(ago + 85_500))
    put(world, sample_one, "unclaimed", due_at=In(ago), sweep_at=In(ago), sends=1)
    put(world, sample_one, "lost", **active(ago, sweep_at=In(ago)))
    put(world, sample_one, "dead", **archived(dead_sent_at=None, sweep_at=In(ago), finished_at=In(ago)))
    put(world, sample_one, "by hand", state="cancelled", finished_at=None, sweep_at=In(ago), retention_seconds=60)
    put(world, sample_one, "expired", state="completed", finished_at=In(ago), expire_at=In(ago))
    # then the doctor says so
    (check,) = database.sweep(Scope(world.database, world.sqs, PREFIX, {jobs_sweep.type: jobs_sweep}, "op"))
    assert (check.grade, check.found[:29]) == (Grade.BAD, "it last completed 7 d ago, an")
    # when a sweep runs
    swept = world.sweep()
    # then nothing is lost
    assert swept == Swept(sent=4, dead_letters=1, cleared=1)
    assert swept.waits["sample:one"] == pytest.approx(7 * 86_400, abs=60)
    assert swept.stuck == 1
    for entry in sends.to(LANE):
        world.deliver(sample_one, entry["MessageBody"])
    states = dict(
        world.run("select id, state from joblane.tasks where finished_at is not null and type = 'sample:one'")
    )
    assert {id_ for id_, state in states.items() if state == "completed"} >= {"unsent", "later", "unclaimed", "lost"}
    assert states["by hand"] == "cancelled"


# --- Waking --------------------------------------------------------------------------------------------------------


def test_many_commits_start_few_sweeps_after_the_last_commit(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "jobs-low-jobs-sweep"
    world.make(name)
    watched = Sends.of(world.sqs)
    clock = [1000.0]
    monkeypatch.setattr("time.time", lambda: clock[0])
    for number in range(60):
        clock[0] = 1000.0 + number / 10
        wake(world.sqs, PREFIX)
    monkeypatch.undo()
    entries = watched.to(name)
    assert [len(ids(entries)), len(set(ids(entries)))] == [60, 2]
    assert {entry.get("DelaySeconds") for entry in entries} == {1, 2, 3, 4, 5}
