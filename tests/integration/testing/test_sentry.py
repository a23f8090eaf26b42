"""Reports to Sentry, with a transport in memory: errors, transactions, check-ins, and what never leaves."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Annotated, Any

import pytest
import sentry_sdk
from pydantic import AfterValidator
from sentry_sdk.envelope import Envelope
from sentry_sdk.transport import Transport
from sqlalchemy import text

from joblane import Payload, Redacted, RevokeTask, SkipRetry, Snooze, TaskCancelled, TaskContext, TaskTimeout, task
from joblane.errors import DeclarationError, LeaseLostError
from joblane.installation import install
from joblane.sentry import DSN, RATE, reports, start
from joblane.settings import SENTRY, SENTRY_PAYLOAD
from joblane.tasks.event_kinds import OBSERVERS
from joblane.testing import JobTester

MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
PLANTED, ENCODED = "pl4nted-v4lue", "encoded:"
KEY = "https://key@o1.ingest.sentry.io/2"


def decoded(value: str) -> str:
    return value.removeprefix(ENCODED)[::-1] if value.startswith(ENCODED) else value


class Bill(Payload):
    do: str = ""
    token: Annotated[str, AfterValidator(decoded), Redacted] = ""
    note: str = ""


does: dict[str, Callable[[Bill, TaskContext], Any]] = {}


@task("bill:send", max_retry=1, retry_delay=timedelta(seconds=40), batch_size=10)
def bill_send(payload: Bill, ctx: TaskContext) -> Any:
    return does[payload.do](payload, ctx) if payload.do else None


@task("bill:count", schedule="0 0 1 1 *", max_retry=1, retry_delay=timedelta(seconds=40))
def bill_count(payload: Bill, ctx: TaskContext) -> Any:
    if "count" in does:
        does["count"](payload, ctx)


class Memory(Transport):
    """A transport that keeps what is sent: kind → items."""

    def __init__(self, options: Any = None) -> None:
        super().__init__(options)
        self.sent: list[tuple[str, Any]] = []

    def capture_envelope(self, envelope: Envelope) -> None:
        self.sent += [(str(item.type), item.payload.json) for item in envelope.items]

    def of(self, kind: str) -> list[Any]:
        return [item for type_, item in self.sent if type_ == kind]


@pytest.fixture
def sentry(jobs: JobTester, monkeypatch: pytest.MonkeyPatch) -> Iterator[Memory]:
    """Sentry as the setting turns it on, with all transactions."""
    monkeypatch.setenv(SENTRY, "1")
    monkeypatch.setenv(DSN, KEY)
    monkeypatch.setenv(RATE, "1")
    jobs.register(bill_send, bill_count)
    does.clear()
    start()
    client = sentry_sdk.get_client()
    client.transport = memory = Memory(client.options)
    yield memory
    sentry_sdk.get_global_scope().set_client(None)


def doing(function: Callable[[Bill, TaskContext], Any]) -> Bill:
    does[function.__name__] = function
    return Bill(do=function.__name__)


def test_an_error_has_its_task_its_attempt_and_the_fingerprint_of_its_row(jobs: JobTester, sentry: Memory) -> None:
    def breaks(payload: Bill, ctx: TaskContext) -> None:
        try:
            raise KeyError("inner")
        except KeyError as error:
            raise ValueError("no") from error

    jobs.client.enqueue(bill_send, doing(breaks), task_id="b1")
    jobs.drain()
    jobs.travel(HOUR)
    jobs.drain()
    events = sentry.of("event")
    with jobs.session() as session:
        fingerprint = session.scalar(text("select fingerprint from joblane.tasks where id = 'b1'"))
    assert [event["tags"]["joblane.attempt"] for event in events] == ["1", "2"]
    assert [event["tags"]["joblane.outcome"] for event in events] == ["failed", "archived"]
    event = events[0]
    assert event["fingerprint"] == [fingerprint]
    assert (event["transaction"], event["level"]) == ("bill:send", "error")
    assert {name: event["tags"][f"joblane.{name}"] for name in ("type", "task_id", "queue")} == {
        "type": "bill:send",
        "task_id": "b1",
        "queue": "default",
    }
    values = event["exception"]["values"]
    assert [(value["type"], value["value"]) for value in values] == [("KeyError", "'inner'"), ("ValueError", "no")]
    innermost = values[-1]["stacktrace"]["frames"][-1]
    assert (innermost["function"], innermost["context_line"]) == ("breaks", 'raise ValueError("no") from error')
    assert not any("vars" in frame for value in values for frame in value["stacktrace"]["frames"])


def test_each_run_is_a_transaction_of_the_sample(
    jobs: JobTester, sentry: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def steps(payload: Bill, ctx: TaskContext) -> None:
        ctx.step("one", lambda key: 1)

    jobs.client.enqueue(bill_send, doing(steps), task_id="b1")
    jobs.drain()
    [transaction] = sentry.of("transaction")
    assert (transaction["transaction"], transaction["contexts"]["trace"]["op"]) == ("bill:send", "queue.process")
    assert transaction["tags"]["joblane.outcome"] == "completed"
    assert [span["description"] for span in transaction["spans"]] == ["one"]
    monkeypatch.setitem(sentry_sdk.get_client().options, "traces_sample_rate", 0)
    jobs.client.enqueue(bill_send, Bill())
    jobs.drain()
    assert len(sentry.of("transaction")) == 1


def reported(jobs: JobTester, sentry: Memory) -> set[str]:
    """Run handlers that end in each way. Return the ones that are errors in Sentry."""

    def failed(payload: Bill, ctx: TaskContext) -> None:
        raise ValueError("no")

    def archived(payload: Bill, ctx: TaskContext) -> None:
        raise SkipRetry("no")

    def revoked(payload: Bill, ctx: TaskContext) -> None:
        raise RevokeTask("no")

    def snoozed(payload: Bill, ctx: TaskContext) -> None:
        raise Snooze(HOUR)

    def timed_out(payload: Bill, ctx: TaskContext) -> None:
        raise TaskTimeout

    def cancelled(payload: Bill, ctx: TaskContext) -> None:
        raise TaskCancelled

    def lost(payload: Bill, ctx: TaskContext) -> None:
        raise LeaseLostError("no")

    def stopped(payload: Bill, ctx: TaskContext) -> None:
        ctx.sleep("nap", HOUR)

    for way in (failed, archived, revoked, snoozed, timed_out, cancelled, lost, stopped):
        jobs.client.enqueue(bill_send, doing(way), task_id=way.__name__)
    jobs.drain()
    return {event["tags"]["joblane.task_id"] for event in sentry.of("event")}


def test_interrupts_and_decisions_of_the_handler_are_no_errors(jobs: JobTester, sentry: Memory) -> None:
    assert reported(jobs, sentry) == {"failed", "archived"}
    assert len(sentry.of("transaction")) == 8


def test_a_step_that_ends_without_an_error_has_none(jobs: JobTester, sentry: Memory) -> None:
    def ends(payload: Bill, ctx: TaskContext) -> None:
        ctx.step("one", lambda key: interrupt(payload.note))

    def interrupt(note: str) -> None:
        raise {"cancel": TaskCancelled(), "snooze": Snooze(HOUR), "fail": ValueError()}[note]

    for note in ("cancel", "snooze", "fail"):
        jobs.client.enqueue(bill_send, doing(ends).model_copy(update={"note": note}), task_id=note)
    jobs.drain()
    steps = {item["tags"]["joblane.task_id"]: item["spans"][0] for item in sentry.of("transaction")}
    # the SDK of 2025 has the status among the tags
    found = {id_: step.get("status") or step.get("tags", {}).get("status") for id_, step in steps.items()}
    assert found == {"cancel": None, "snooze": None, "fail": "internal_error"}


def test_an_interrupt_that_is_an_error_is_found(
    jobs: JobTester, sentry: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reports, "NO_ERRORS", ())
    assert reported(jobs, sentry) != {"failed", "archived"}


# --- Ticks ---------------------------------------------------------------------------------------------------------


def test_a_tick_has_one_check_in_which_ends_with_its_task(jobs: JobTester, sentry: Memory) -> None:
    def fails(payload: Bill, ctx: TaskContext) -> None:
        raise ValueError("no")

    def tick() -> list[tuple[str, str]]:
        before = len(sentry.of("check_in"))
        jobs.tick(bill_count, at=jobs.now)
        jobs.drain()
        jobs.travel(2 * MINUTE)
        jobs.drain()
        found = sentry.of("check_in")[before:]
        assert len({item["check_in_id"] for item in found}) == 1
        return [(item["monitor_slug"], item["status"]) for item in found]

    [name] = [schedule.name for schedule in bill_count.schedules]
    slug = f"bill-count-{name}"
    assert tick() == [(slug, "in_progress"), (slug, "ok")]
    does["count"] = fails  # twice
    assert tick() == [(slug, "in_progress"), (slug, "error")]
    assert sentry.of("check_in")[0]["monitor_config"] == {
        "schedule": {"type": "crontab", "value": "0 0 1 1 *"},
        "timezone": "UTC",
    }
    jobs.run(bill_send, Bill())
    assert len(sentry.of("check_in")) == 4


def test_long_names_of_schedules_have_slugs_of_their_own() -> None:
    names = [f"reporting:customer-summaries-by-region:every-night-in-{region}" for region in ("europe", "asia", "emea")]
    slugs = [reports._slug(name) for name in names]
    assert len(set(slugs)) == 3
    assert all(len(slug) <= reports.MAX_SLUG for slug in slugs)
    assert reports._slug("mail:digest:nightly") == "mail-digest-nightly"


# --- What never leaves ---------------------------------------------------------------------------------------------


def leaking(jobs: JobTester, sentry: Memory) -> list[Any]:
    """Run a task with planted values. Return what was sent and has one."""

    def breaks(payload: Bill, ctx: TaskContext) -> None:
        local = payload.note + PLANTED  # noqa: F841 - a frame variable
        try:
            raise KeyError(payload.token)
        finally:
            raise ValueError(f"refused {payload.token}")

    payload = doing(breaks).model_copy(update={"token": PLANTED, "note": f"note {PLANTED}"})
    jobs.client.enqueue(bill_send, payload, headers={"note": PLANTED}, tags=[PLANTED], owner=PLANTED)
    jobs.drain()
    [event] = sentry.of("event")
    assert [value["value"] for value in event["exception"]["values"]] == ["'[redacted]'", "refused [redacted]"]
    return [item for item in sentry.sent if PLANTED in json.dumps(item)]


def test_no_value_of_a_payload_and_no_variable_of_a_frame_leaves(jobs: JobTester, sentry: Memory) -> None:
    assert leaking(jobs, sentry) == []


def test_a_variable_of_a_frame_that_leaves_is_found(
    jobs: JobTester, sentry: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    exception = reports._exception

    def with_variables(error: BaseException, scrub: Any) -> Any:
        found = exception(error, scrub)
        trace = error.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        found["stacktrace"]["frames"][-1]["vars"] = {"local": str(trace and trace.tb_frame.f_locals.get("local"))}
        return found

    monkeypatch.setattr(reports, "_exception", with_variables)
    assert leaking(jobs, sentry) != []


def test_a_redacted_value_that_only_the_handler_has_does_not_leave(jobs: JobTester, sentry: Memory) -> None:
    def breaks(payload: Bill, ctx: TaskContext) -> None:
        raise ValueError(f"refused {payload.token}")

    stored = doing(breaks).model_dump() | {"token": f"{ENCODED}{PLANTED[::-1]}"}
    with jobs.session() as session:
        enqueue = text("select joblane.enqueue('bill:send', cast(:payload as jsonb))")
        session.execute(enqueue, {"payload": json.dumps(stored)})
    jobs.drain()
    [event] = sentry.of("event")
    assert [value["value"] for value in event["exception"]["values"]] == ["refused [redacted]"]


def test_a_setting_adds_the_payload_without_redacted_values(
    jobs: JobTester, sentry: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SENTRY_PAYLOAD, "1")
    OBSERVERS[:] = [reports.Reports()]
    [item] = leaking(jobs, sentry)
    assert item[1]["extra"] == {"payload": {"do": "breaks", "token": "[redacted]", "note": f"note {PLANTED}"}}


# --- The start -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dsn", ["", "https://o1.ingest.sentry.io/2", "https://key@/2", "https://key@host/", "key"])
def test_an_address_without_a_key_is_refused_at_the_start(
    jobs: JobTester, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SENTRY, "1")
    monkeypatch.setenv(DSN, dsn)
    jobs.client.enqueue(bill_send, Bill())
    with pytest.raises(
        DeclarationError, match=r"^SENTRY_DSN: an address with a key and the number of a project is req"
    ):
        jobs.drain()
    assert OBSERVERS == []


def test_a_rate_that_is_none_and_a_missing_package_are_refused_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DSN, KEY)
    for rate in ("often", "1.1", "-1", "nan"):
        monkeypatch.setenv(RATE, rate)
        with pytest.raises(DeclarationError, match=f"^{RATE}: a number from 0 to 1 is required, not '{rate}'$"):
            start()
    monkeypatch.setitem(sys.modules, "sentry_sdk", None)
    with pytest.raises(DeclarationError) as raised:
        start()
    assert str(raised.value).endswith(f"is missing: {install('sentry')}")


def test_the_client_of_the_program_is_used(jobs: JobTester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SENTRY, "1")
    sentry_sdk.init(dsn=KEY, transport=Memory, default_integrations=False, auto_session_tracking=False)
    own = sentry_sdk.get_client()
    try:
        jobs.register(bill_send)

        def breaks(payload: Bill, ctx: TaskContext) -> None:
            raise ValueError("no")

        jobs.client.enqueue(bill_send, doing(breaks))
        jobs.drain()
        assert sentry_sdk.get_client() is own
        assert isinstance(own.transport, Memory)
        assert len(own.transport.of("event")) == 1
    finally:
        sentry_sdk.get_global_scope().set_client(None)


def test_a_send_that_hangs_has_no_invocation_wait_for_a_minute(sentry: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    [observer] = OBSERVERS
    calls: list[float] = []
    monkeypatch.setattr(reports, "FLUSH_SECONDS", 0.0)  # as if each flush took all its time
    monkeypatch.setattr(sentry_sdk, "flush", calls.append)
    for _ in range(3):
        observer.flush(60.0)
    assert len(calls) == 2
