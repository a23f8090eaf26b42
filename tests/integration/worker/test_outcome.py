"""Every row of the outcome table."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from importlib import import_module
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from joblane import JobError, Payload, RetryAfter, RevokeTask, SkipRetry, Snooze, TaskContext
from joblane.errors import MISSING_MODULE
from joblane.quotas import EARLY_RECEIVES, SCHEMA_RECEIVES, SNOOZE_CEILING
from joblane.record.driver.database import Database
from joblane.sqs.message import Message
from joblane.worker.outcome import MISMATCH_PATIENCE
from tests.builders.handlers import write
from tests.builders.rows import In, put
from tests.logs import lines
from tests.samples import Sample, behaviour, behaviours, sample_forgotten, sample_one
from tests.stories import Containing, Story, deliver, lane, later, outcomes, play, row, sql, step, stories
from tests.stories import enqueue as enqueue_task
from tests.world import World


class Base(DeclarativeBase):
    """The tables of these tests."""


SECRET = "secret-alice@example.com"
DUE = """
    select extract(epoch from due_at - clock_timestamp())::float8, extract(epoch from due_at - sweep_at)::float8
      from joblane.tasks where id = $1"""


class Once(Base):
    __tablename__ = "once"
    n: Mapped[int] = mapped_column(primary_key=True)


def enqueue(world: World, do: str, task: Any = sample_one, **options: Any) -> str:
    """Enqueue a sample and return its id; its lane exists."""
    world.lane(task)
    return world.client.enqueue(task, Sample(do=do), **options).id


def deliver_sent(world: World, task: Any = sample_one, **how: Any) -> list[str]:
    """Take the messages in the lane and deliver them."""
    bodies = [message["Body"] for message in world.take(task)]
    assert bodies, "nothing was sent"
    return world.deliver(task, *bodies, **how)


# --- The table -------------------------------------------------------------------------------------------------------


class MuteError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


def raises(error: BaseException) -> Callable[[TaskContext], Any]:
    """A handler that writes, and raises the error."""

    def handler(ctx: TaskContext) -> None:
        write(ctx)
        raise error

    return handler


def returns(result: object) -> Callable[[TaskContext], Any]:
    return lambda ctx: result


def runs(sql: str, **values: str) -> Callable[[TaskContext], Any]:
    """A handler that writes, and runs a statement."""

    def handler(ctx: TaskContext) -> None:
        write(ctx)
        ctx.session.execute(text(sql), values)

    return handler


def commits(ctx: TaskContext) -> None:
    write(ctx)
    ctx.session.commit()


def swallows(ctx: TaskContext) -> None:
    with suppress(Exception):
        runs("select 1/0")(ctx)


def enqueues_wrongly(ctx: TaskContext) -> None:
    wrong: Any = Payload()
    ctx.enqueue(sample_one, wrong)


@dataclass(frozen=True)
class End:
    """The end of a run that keeps no effect. ``says``: a part of its error or reason. ``due``: seconds until the next.

    ``state``: ``retry`` spends an attempt and keeps the message, or leaves the row alone for a long time.
    """

    name: str
    handler: Callable[[TaskContext], Any]
    state: str
    error: str | None = None
    says: str = ""
    due: float | None = None


OUTCOMES = [
    End("an error waits its back-off", raises(ValueError("no")), "retry", "ValueError", "no", due=40),
    End("RetryAfter replaces the back-off", raises(RetryAfter(timedelta(hours=3))), "retry", None, "", due=10_800),
    End("SkipRetry archives", raises(SkipRetry("no tenant")), "archived", "SkipRetry", "SkipRetry: no tenant"),
    End("RevokeTask drops quietly", raises(RevokeTask("not needed any more")), "cancelled"),
    End("sys.exit is a failure", raises(SystemExit(3)), "retry", "SystemExit"),
    End("an error that cannot be printed", raises(MuteError()), "retry", "MuteError", "MuteError"),
    End("an error about a dict keeps its text", raises(ValueError({"a": "is required"})), "retry", None, "is required"),
    End("a commit of its own is refused with advice", commits, "retry", JobError.__name__, "ctx.each"),
    End("a swallowed error of the database", swallows, "retry"),
    End("an error at the commit", runs("insert into once values (1)"), "retry", None, "23505"),
    End(
        "a value that PostgreSQL quotes", runs("select cast(:x as uuid)", x=SECRET), "retry", None, "type uuid (22P02)"
    ),
    End("a result with a NUL", returns({"text": "a\0b"}), "retry", None, "NUL"),
    End("a result of more digits than JSON writes", returns(10**5000), "retry", "TypeError"),
    End("a wrong payload of a child", enqueues_wrongly, "retry", "PayloadError"),
]


@pytest.mark.usefixtures("each_sweep")
@pytest.mark.parametrize("end", OUTCOMES, ids=lambda end: end.name)
def test_a_run_that_does_not_complete_leaves_no_effect_and_no_value(
    effects: World, end: End, capsys: pytest.CaptureFixture[str]
) -> None:
    effects.run("create table once (n int unique deferrable initially deferred)")
    effects.run("insert into once values (1)")
    behaviours["ends"] = lambda _, ctx: end.handler(ctx)
    id_ = enqueue(effects, "ends")

    kept = deliver_sent(effects)

    row = effects.row(id_)
    said = f"{row['error_message']} {row['reason']}"
    assert (row["state"], row["attempts"]) == (end.state, 1)
    assert end.error in (row["error_type"], None)
    assert end.says in said
    assert len(kept) == (end.state == "retry" and (end.due or 0) < 900)
    assert len(effects.dead_letters(sample_one)) == (end.state == "archived")
    if end.due:
        due, later = effects.run(DUE, id_)[0]
        assert end.due - 5 < due <= end.due
        assert later == (900 if end.due > 900 else pytest.approx(-60, abs=30)), "when the sweep sends it"
    assert effects.run("select * from effects") == []
    assert SECRET not in said + capsys.readouterr().out
    assert "Key (n)" not in said
    assert effects.deliver(sample_one, {"type": "sample:one", "id": "next"}) == []
    assert effects.row("next")["state"] == "completed"


def test_the_last_attempt_archives_and_sends_one_dead_letter_before_the_message_goes(world: World) -> None:
    @behaviour
    def fail_always(payload: Sample, ctx: TaskContext) -> None:
        raise ValueError(f"attempt {ctx.attempt}")

    id_ = enqueue(world, "fail_always")
    body = world.take(sample_one)[0]["Body"]
    for _ in range(3):
        assert len(world.deliver(sample_one, body)) == 1
        world.later(id_)
    assert world.deliver(sample_one, body) == []
    row = world.row(id_)
    assert (row["state"], row["attempts"], row["runs"]) == ("archived", 4, 4)
    assert row["dead_sent_at"] is not None
    dead_letters = world.dead_letters(sample_one)
    assert len(dead_letters) == 1
    attributes = dead_letters[0]["MessageAttributes"]
    assert attributes["joblane-dead"]["StringValue"] == "0"
    assert attributes["joblane-reason"]["StringValue"] == "attempt 4 of 4 failed: ValueError: attempt 4"
    assert f'"id":"{id_}"' in dead_letters[0]["Body"]
    assert '"type":"sample:one"' in dead_letters[0]["Body"]


def test_the_reason_and_the_log_of_a_missing_package_say_what_to_do(world: World) -> None:
    @behaviour
    def imports(payload: Sample, ctx: TaskContext) -> None:
        import_module("no_such_module")

    first, last = enqueue(world, "imports"), enqueue(world, "imports", max_retry=0)
    with lines() as logged:
        deliver_sent(world)
    text = f"No module named 'no_such_module'; {MISSING_MODULE}"
    reason = f"attempt 1 of 1 failed: ModuleNotFoundError: {text}"
    assert (world.row(first)["error_message"], world.row(last)["reason"]) == (text, reason)
    said = {line["task_id"]: line.get("reason") or line.get("error") for line in logged.fields if "task_id" in line}
    assert said == {first: text, last: reason}


def test_the_receives_of_a_wait_for_a_schema_are_counted_in_the_lanes_maximum(world: World) -> None:
    until_due = "select extract(epoch from due_at - clock_timestamp())::float8 from joblane.tasks where id = $1"
    waited, receives = timedelta(0), 0
    while waited < MISMATCH_PATIENCE:
        id_ = f"after-{waited.total_seconds():.0f}"
        since = In(-waited.total_seconds()) if receives else None
        put(world, sample_one, id_, {"number": "x"}, schema="another", mismatch_since=since)
        assert len(world.deliver(sample_one, {"type": "sample:one", "id": id_, "rec": True})) == 1
        waited += timedelta(seconds=round(world.run(until_due, id_)[0][0], -1))
        receives += 1
    assert receives == SCHEMA_RECEIVES


def test_a_flush_that_waits_for_a_lock_ends_with_the_timeout(effects: World) -> None:
    effects.run("create table once (n int unique)")
    other = Database(effects.url)
    other.get().execute_simple("begin")
    other.get().run("insert into once values (1)")

    @behaviour
    def waits(payload: Sample, ctx: TaskContext) -> None:
        ctx.session.add(Once(n=1))

    id_ = enqueue(effects, "waits")
    assert len(deliver_sent(effects, seconds=5.0)) == 1
    other.drop()
    assert effects.row(id_)["error_type"] == "TaskTimeout"


# --- Payloads, and what is kept --------------------------------------------------------------------------------------


@behaviour
def give(payload: Sample, ctx: TaskContext) -> dict[str, int]:
    write(ctx)
    return {"rows": 3}


@behaviour
def fail(payload: Sample, ctx: TaskContext) -> None:
    raise ValueError


@behaviour
def doze(payload: Sample, ctx: TaskContext) -> None:
    raise Snooze(timedelta(seconds=1))


@behaviour
def savepoints(payload: Sample, ctx: TaskContext) -> None:
    with ctx.session.begin_nested():
        write(ctx, "kept")
    nested = ctx.session.begin_nested()
    write(ctx, "dropped")
    nested.rollback()


@behaviour
def secretly(payload: Sample, ctx: TaskContext) -> str:
    return "secret"


def message(id_: str, task: Any = sample_one, **fields: Any) -> dict[str, Any]:
    return {"type": task.type, "id": id_, **fields}


@step
def dead_letter_reason(world: World) -> str:
    (dead_letter,) = world.dead_letters(sample_one)
    return str(dead_letter["MessageAttributes"]["joblane-reason"]["StringValue"])


OTHER_SCHEMA = message("it", payload={"number": "secret"}, schema="another")
UNKNOWN_FIELD = {"do": "nothing", "added": 1}
DOZE = message("it", payload={"do": "doze"})
FORGOTTEN = message("it", sample_forgotten, rec=True)
STORIES: dict[str, Story] = {
    "a handler that returns completes its task and the message goes": [
        deliver(sample_one, message("it", payload={"do": "give"})).gives([]),
        row("it", state="completed", result={"rows": 3}, attempts=1, runs=1, lease_token=None, sweep_at=None),
        outcomes("it").gives(["completed"]),
        sql("select * from effects").gives([["it", "done"]]),
    ],
    "a payload that is invalid under its own schema is archived": [
        deliver(sample_one, message("it", payload={"number": "secret"})).gives([]),
        row("it", state="archived", reason=Containing("number: Input should be a valid integer", but_not="secret")),
    ],
    "a payload of another schema waits uncounted and is archived after an hour": [
        deliver(sample_one, OTHER_SCHEMA).gives_some(1),
        row("it", state="pending", attempts=0),
        later("it"),
        sql("update joblane.tasks set mismatch_since = mismatch_since - interval '61 minutes'"),
        deliver(sample_one, OTHER_SCHEMA).gives([]),
        row("it", state="archived"),
    ],
    "unknown fields of a newer schema are ignored and of our own refused": [
        deliver(sample_one, message("newer", payload=UNKNOWN_FIELD, schema="another")),
        deliver(sample_one, message("typo", payload=UNKNOWN_FIELD)),
        row("newer", state="completed"),
        row("typo", reason=Containing("an unknown field; known are do, number", but_not="added")),
    ],
    "a payload that was read after all has all its patience again": [
        step(put)(sample_one, "it", {"do": "fail"}, schema="another", mismatch_since=In(-3000)),
        deliver(sample_one, message("it", rec=True)).gives_some(1),
        row("it", state="retry", mismatch_since=None),
    ],
    "snooze is not counted and has a ceiling of its own": [
        *(
            one
            for _ in range(SNOOZE_CEILING)
            for one in (deliver(sample_one, DOZE), row("it", state="pending", attempts=0), later("it"))
        ),
        deliver(sample_one, DOZE),
        row("it", state="retry", attempts=1, runs=SNOOZE_CEILING + 1),
    ],
    "a handler may use savepoints": [
        deliver(sample_one, message("it", payload={"do": "savepoints"})).gives([]),
        sql("select what from effects").gives([["kept"]]),
        row("it", state="completed"),
    ],
    "retention zero clears the content at once and keeps the id": [
        lane(sample_forgotten),
        enqueue_task(sample_forgotten, Sample(do="secretly"), task_id="it", headers={"traceparent": "00-1-2-3"}),
        deliver(sample_forgotten, FORGOTTEN),
        row("it", state="completed", payload=None, result=None, headers={}),
        # a copy that comes back
        deliver(sample_forgotten, FORGOTTEN).gives([]),
        row("it", runs=1),
    ],
    **{
        f"a lane refuses {what}": [
            deliver(sample_one, body).gives([]),
            dead_letter_reason().gives(Containing("MessageError: id:")),
        ]
        for what, body in {
            "rec without an id": {"type": "sample:one", "rec": True, "payload": {"do": "nothing"}},
            "the id of a tick": message("sample:one:0:2030-01-01T00:00Z", payload={"do": "nothing"}),
        }.items()
    },
}


@stories(STORIES)
def test_story(effects: World, story: Story) -> None:
    play(effects, story)


# --- Early messages --------------------------------------------------------------------------------------------------


def test_a_message_that_is_early_again_and_again_is_replaced_by_a_copy(world: World) -> None:
    watched = world.watch()
    id_ = enqueue(world, "nothing", process_in=timedelta(minutes=5))
    body = Message(sample_one.type, id_, rec=True).encode()

    kept = world.deliver(sample_one, body, receives=EARLY_RECEIVES)
    assert (len(kept), watched.visibilities, watched.sent) == (1, [300], [])

    assert world.deliver(sample_one, body, receives=EARLY_RECEIVES + 1, group="acme") == []
    (copy,) = watched.sent
    assert (copy.queue, copy.delay_seconds, copy.group) == (world.lane(sample_one), 300, "acme")
    world.later(id_)
    assert world.deliver(sample_one, copy.body) == []
    assert world.row(id_)["state"] == "completed"


def test_an_early_message_stays_if_its_copy_is_not_accepted(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    id_ = enqueue(world, "nothing", process_in=timedelta(minutes=5))
    worker = world.worker(sample_one)
    monkeypatch.setattr(worker.sqs, "send_many", lambda entries, **_: dict.fromkeys(range(len(entries)), "no"))
    body = Message(sample_one.type, id_, rec=True).encode()
    assert len(world.deliver(sample_one, body, receives=EARLY_RECEIVES + 1)) == 1
