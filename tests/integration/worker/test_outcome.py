"""Every row of the outcome table."""

from __future__ import annotations

from contextlib import suppress
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
from tests.builders.rows import In, put
from tests.logs import lines
from tests.samples import Sample, behaviour, sample_forgotten, sample_one
from tests.world import World


class Base(DeclarativeBase):
    """The tables of these tests."""


pytestmark = pytest.mark.usefixtures("each_sweep")


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


@pytest.fixture
def effects(world: World) -> World:
    world.run("create table effects (task_id text, what text)")
    return world


def write(ctx: TaskContext, what: str = "done") -> None:
    ctx.session.execute(text("insert into effects values (:id, :what)"), {"id": ctx.task_id, "what": what})


def test_a_handler_that_returns_completes_its_task_and_the_message_goes(world: World) -> None:
    @behaviour
    def give(payload: Sample, ctx: TaskContext) -> dict[str, int]:
        return {"rows": 3}

    id_ = enqueue(world, "give")
    assert deliver_sent(world) == []
    row = world.row(id_)
    assert (row["state"], row["result"], row["attempts"], row["runs"]) == ("completed", {"rows": 3}, 1, 1)
    assert row["lease_token"] is None
    assert row["sweep_at"] is None
    assert [attempt["outcome"] for attempt in world.attempts(id_)] == ["completed"]


def test_effects_and_completion_commit_together(effects: World) -> None:
    @behaviour
    def effect(payload: Sample, ctx: TaskContext) -> None:
        write(ctx)

    id_ = enqueue(effects, "effect")
    assert deliver_sent(effects) == []
    assert effects.run("select * from effects") == [[id_, "done"]]
    assert effects.row(id_)["state"] == "completed"


def test_a_failed_attempt_leaves_no_effect_and_waits_its_back_off(effects: World) -> None:
    @behaviour
    def fail(payload: Sample, ctx: TaskContext) -> None:
        write(ctx)
        raise ValueError("no")

    id_ = enqueue(effects, "fail")
    kept = deliver_sent(effects)
    row = effects.row(id_)
    assert len(kept) == 1
    assert effects.run("select * from effects") == []
    assert (row["state"], row["attempts"], row["error_type"], row["error_message"]) == ("retry", 1, "ValueError", "no")
    waits = effects.run("select extract(epoch from due_at - now())::float8 from joblane.tasks where id = $1", id_)[0][0]
    assert 35 < waits <= 40


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


def test_skip_retry_archives_at_once(world: World) -> None:
    @behaviour
    def skip(payload: Sample, ctx: TaskContext) -> None:
        raise SkipRetry("no such tenant")

    id_ = enqueue(world, "skip")
    assert deliver_sent(world) == []
    assert (world.row(id_)["state"], world.row(id_)["reason"]) == ("archived", "SkipRetry: no such tenant")
    assert len(world.dead_letters(sample_one)) == 1


def test_a_payload_that_is_invalid_under_its_own_schema_is_archived(world: World) -> None:
    assert world.deliver(sample_one, {"type": "sample:one", "id": "bad", "payload": {"number": "secret"}}) == []
    row = world.row("bad")
    assert row["state"] == "archived"
    assert "number: Input should be a valid integer" in row["reason"]
    assert "secret" not in row["reason"]


def test_a_payload_of_another_schema_waits_uncounted_and_is_archived_after_an_hour(world: World) -> None:
    body = {"type": "sample:one", "id": "new", "payload": {"number": "secret"}, "schema": "another"}
    assert len(world.deliver(sample_one, body)) == 1
    row = world.row("new")
    assert (row["state"], row["attempts"]) == ("pending", 0)
    world.later("new")
    world.run("update joblane.tasks set mismatch_since = mismatch_since - interval '61 minutes' where id = 'new'")
    assert world.deliver(sample_one, body) == []
    assert world.row("new")["state"] == "archived"


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


def test_unknown_fields_of_a_newer_schema_are_ignored_and_of_our_own_refused(world: World) -> None:
    payload = {"do": "nothing", "added": 1}
    world.deliver(sample_one, {"type": "sample:one", "id": "newer", "payload": payload, "schema": "another"})
    world.deliver(sample_one, {"type": "sample:one", "id": "typo", "payload": payload})
    assert world.row("newer")["state"] == "completed"
    assert "an unknown field; known are do, number" in world.row("typo")["reason"]
    assert "added" not in world.row("typo")["reason"]


def test_a_payload_that_was_read_after_all_has_all_its_patience_again(world: World) -> None:
    @behaviour
    def known_and_failing(payload: Sample, ctx: TaskContext) -> None:
        raise ValueError

    put(world, sample_one, "new", {"do": "known_and_failing"}, schema="another", mismatch_since=In(-3000))
    assert len(world.deliver(sample_one, {"type": "sample:one", "id": "new", "rec": True})) == 1
    row = world.row("new")
    assert (row["state"], row["mismatch_since"]) == ("retry", None)


def test_retry_after_takes_the_place_of_the_back_off(world: World) -> None:
    @behaviour
    def busy(payload: Sample, ctx: TaskContext) -> None:
        raise RetryAfter(timedelta(hours=3))

    id_ = enqueue(world, "busy")
    assert deliver_sent(world) == []  # longer than SQS can hold: the row waits alone
    row = world.row(id_)
    assert row["state"] == "retry"
    due, sweep = world.run(
        "select extract(epoch from due_at - now())::float8, extract(epoch from due_at - sweep_at)::float8"
        " from joblane.tasks where id = $1",
        id_,
    )[0]
    assert 10_795 < due <= 10_800
    assert sweep == 900


def test_snooze_is_not_counted_and_has_a_ceiling_of_its_own(world: World) -> None:
    @behaviour
    def doze(payload: Sample, ctx: TaskContext) -> None:
        raise Snooze(timedelta(seconds=1))

    id_ = enqueue(world, "doze")
    body = world.take(sample_one)[0]["Body"]
    for _ in range(SNOOZE_CEILING):
        world.deliver(sample_one, body)
        assert world.row(id_)["state"] == "pending"
        world.later(id_)
    assert world.row(id_)["attempts"] == 0
    world.deliver(sample_one, body)
    row = world.row(id_)
    assert (row["state"], row["attempts"], row["runs"]) == ("retry", 1, SNOOZE_CEILING + 1)


def test_revoke_drops_the_task_quietly(world: World) -> None:
    @behaviour
    def revoke(payload: Sample, ctx: TaskContext) -> None:
        raise RevokeTask("not needed any more")

    id_ = enqueue(world, "revoke")
    assert deliver_sent(world) == []
    assert world.row(id_)["state"] == "cancelled"
    assert world.dead_letters(sample_one) == []


@pytest.mark.parametrize("touches", [True, False])
def test_a_task_cancelled_while_it_runs_ends_cancelled_and_leaves_no_effect(effects: World, touches: bool) -> None:
    @behaviour
    def cancelled(payload: Sample, ctx: TaskContext) -> None:
        if touches:
            write(ctx)
        effects.run("update joblane.tasks set cancel_requested_at = now() where id = $1", ctx.task_id)

    id_ = enqueue(effects, "cancelled")
    assert deliver_sent(effects) == []
    assert effects.row(id_)["state"] == "cancelled"
    assert effects.run("select * from effects") == []


def test_a_cancelled_task_stops_at_its_next_check(world: World) -> None:
    after: list[str] = []

    @behaviour
    def checking(payload: Sample, ctx: TaskContext) -> None:
        world.run("update joblane.tasks set cancel_requested_at = now() where id = $1", ctx.task_id)
        try:
            ctx.check()
        except Exception:
            after.append("swallowed")
        after.append("went on")

    id_ = enqueue(world, "checking")
    deliver_sent(world)
    assert after == []
    assert world.row(id_)["state"] == "cancelled"


def test_a_cancelled_task_that_fails_is_not_tried_again(world: World) -> None:
    @behaviour
    def cancelled_failing(payload: Sample, ctx: TaskContext) -> None:
        world.run("update joblane.tasks set cancel_requested_at = now() where id = $1", ctx.task_id)
        raise ValueError

    id_ = enqueue(world, "cancelled_failing")
    assert deliver_sent(world) == []
    assert world.row(id_)["state"] == "cancelled"


def test_a_handlers_own_commit_is_refused_with_advice(effects: World) -> None:
    @behaviour
    def commits(payload: Sample, ctx: TaskContext) -> None:
        write(ctx)
        ctx.session.commit()

    id_ = enqueue(effects, "commits")
    deliver_sent(effects)
    assert "ctx.each" in effects.row(id_)["error_message"]
    assert effects.row(id_)["error_type"] == JobError.__name__
    assert effects.run("select * from effects") == []


def test_a_handler_may_use_savepoints(effects: World) -> None:
    @behaviour
    def savepoints(payload: Sample, ctx: TaskContext) -> None:
        with ctx.session.begin_nested():
            write(ctx, "kept")
        nested = ctx.session.begin_nested()
        write(ctx, "dropped")
        nested.rollback()

    id_ = enqueue(effects, "savepoints")
    assert deliver_sent(effects) == []
    assert effects.run("select what from effects") == [["kept"]]
    assert effects.row(id_)["state"] == "completed"


def test_a_swallowed_database_error_fails_the_attempt_instead_of_losing_it(effects: World) -> None:
    @behaviour
    def swallows(payload: Sample, ctx: TaskContext) -> None:
        write(ctx)
        with suppress(Exception):
            ctx.session.execute(text("select 1/0"))

    id_ = enqueue(effects, "swallows")
    assert len(deliver_sent(effects)) == 1
    assert effects.row(id_)["state"] == "retry"
    assert effects.run("select * from effects") == []
    assert effects.deliver(sample_one, {"type": "sample:one", "id": "next"}) == []
    assert effects.row("next")["state"] == "completed"


def test_an_error_at_commit_fails_the_attempt(effects: World) -> None:
    effects.run("create table once (n int unique deferrable initially deferred)")
    effects.run("insert into once values (1)")

    @behaviour
    def conflicts(payload: Sample, ctx: TaskContext) -> None:
        ctx.session.execute(text("insert into once values (1)"))

    id_ = enqueue(effects, "conflicts")
    assert len(deliver_sent(effects)) == 1
    row = effects.row(id_)
    assert row["state"] == "retry"
    assert "23505" in row["error_message"]
    assert "Key (n)" not in row["error_message"]


def test_a_result_that_cannot_be_stored_fails_the_attempt(world: World) -> None:
    @behaviour
    def odd(payload: Sample, ctx: TaskContext) -> object:
        return {"text": "a\0b"}

    id_ = enqueue(world, "odd")
    deliver_sent(world)
    assert "NUL" in world.row(id_)["error_message"]


def test_sys_exit_in_a_handler_is_a_failed_attempt(world: World) -> None:
    @behaviour
    def leaves(payload: Sample, ctx: TaskContext) -> None:
        raise SystemExit(3)

    id_ = enqueue(world, "leaves")
    assert len(deliver_sent(world)) == 1
    assert world.row(id_)["error_type"] == "SystemExit"


def test_retention_zero_clears_the_content_at_once_and_keeps_the_id(world: World) -> None:
    @behaviour
    def secretly(payload: Sample, ctx: TaskContext) -> str:
        return "secret"

    id_ = enqueue(world, "secretly", sample_forgotten)
    body = world.take(sample_forgotten)[0]["Body"]
    world.deliver(sample_forgotten, body)
    row = world.row(id_)
    assert (row["state"], row["payload"], row["result"]) == ("completed", None, None)
    assert world.deliver(sample_forgotten, body) == []  # a copy that comes back
    assert world.row(id_)["runs"] == 1


def test_a_payload_that_the_handler_itself_enqueues_wrongly_is_an_ordinary_failure(world: World) -> None:
    @behaviour
    def enqueues_wrongly(payload: Sample, ctx: TaskContext) -> None:
        wrong: Any = Payload()
        world.client.enqueue(sample_one, wrong, session=ctx.session)

    id_ = enqueue(world, "enqueues_wrongly")
    assert len(deliver_sent(world)) == 1
    assert (world.row(id_)["state"], world.row(id_)["error_type"]) == ("retry", "PayloadError")


def test_a_result_of_more_digits_than_json_writes_fails_its_own_attempt_alone(world: World) -> None:
    @behaviour
    def endless(payload: Sample, ctx: TaskContext) -> int:
        return 10**5000

    id_ = enqueue(world, "endless")
    assert len(deliver_sent(world)) == 1
    assert (world.row(id_)["state"], world.row(id_)["error_type"]) == ("retry", "TypeError")


def test_an_error_that_cannot_be_printed_is_a_failed_attempt(world: World) -> None:
    class MuteError(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no words")

    @behaviour
    def mute(payload: Sample, ctx: TaskContext) -> None:
        raise MuteError

    id_ = enqueue(world, "mute")
    assert len(deliver_sent(world)) == 1
    assert (world.row(id_)["state"], world.row(id_)["error_message"]) == ("retry", "MuteError")


def test_an_error_about_a_dict_keeps_its_text(world: World) -> None:
    @behaviour
    def about_a_dict(payload: Sample, ctx: TaskContext) -> None:
        raise ValueError({"email": "is required"})

    id_ = enqueue(world, "about_a_dict")
    deliver_sent(world)
    assert "is required" in world.row(id_)["error_message"]


def test_a_value_that_postgres_quotes_is_in_no_reason_and_no_log(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    @behaviour
    def casts(payload: Sample, ctx: TaskContext) -> None:
        ctx.session.execute(text("select cast(:x as uuid)"), {"x": "secret-alice@example.com"})

    id_ = enqueue(world, "casts")
    deliver_sent(world)
    assert world.row(id_)["error_message"] == "invalid input syntax for type uuid (22P02)"
    assert "secret-alice" not in capsys.readouterr().out


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


@pytest.mark.parametrize(
    "body",
    [
        {"type": "sample:one", "rec": True, "payload": {"do": "nothing"}},
        {"type": "sample:one", "id": "sample:one:0:2030-01-01T00:00Z", "payload": {"do": "nothing"}},
    ],
    ids=["rec without an id", "the id of a tick"],
)
def test_a_lane_refuses_what_only_the_library_may_say(world: World, body: dict[str, Any]) -> None:
    assert world.deliver(sample_one, body) == []
    (dead_letter,) = world.dead_letters(sample_one)
    assert dead_letter["MessageAttributes"]["joblane-reason"]["StringValue"].startswith("MessageError: id:")


def test_retention_zero_clears_the_headers_too(world: World) -> None:
    id_ = enqueue(world, "nothing", sample_forgotten, headers={"traceparent": "00-1-2-3"})
    deliver_sent(world, sample_forgotten)
    assert world.row(id_)["headers"] == {}


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
