"""The how-to pages on writing jobs are run: all Python of a page in one namespace, on the testing kit."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import BaseModel
from sqlalchemy import text
from starlette.testclient import TestClient

from joblane.errors import SkipRetry, UnreadablePayloadError
from joblane.record.driver.database import Database
from joblane.record.row.states import State
from joblane.testing import JobTester
from tests.pages import ROOT, blocks

HOW_TO = ROOT / "docs" / "how-to"
RUN_HERE = (
    "write",
    "async",
    "enqueue",
    "retry",
    "unique",
    "cancel",
    "events",
    "long-work",
    "waits",
    "hooks",
    "schedule",
    "change-payload",
    "trace",
)
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)

Names = dict[str, Any]


def page(name: str) -> Names:
    """The names that a page defines, after all its Python has run."""
    path = HOW_TO / f"{name}.md"
    names: Names = {"__name__": "a_page"}
    found = [block for block in blocks("python", path) if block.mark not in ("app", "construct")]
    assert found
    for block in found:
        source = "\n" * block.line + block.text  # so that a traceback has the line of the page
        exec(compile(source, str(path), "exec", dont_inherit=True), names)
    for model in names.values():
        if isinstance(model, type) and issubclass(model, BaseModel):
            model.model_rebuild(_types_namespace=names)
    return names


def execute(jobs: JobTester, script: str) -> list[list[Any]]:
    database = Database(jobs.url)
    try:
        return database.get().run(script)
    finally:
        database.drop()


@pytest.mark.usefixtures("jobs")
@pytest.mark.parametrize("name", RUN_HERE)
def test_all_python_of_the_page_runs(name: str, jobs: JobTester) -> None:
    execute(jobs, "create table reports (customer text)")
    page(name)


def test_write(jobs: JobTester) -> None:
    names = page("write")
    execute(jobs, "create table invoices (id uuid primary key, address text, reminded_at timestamptz)")
    [[known]] = execute(jobs, "insert into invoices values (gen_random_uuid(), 'ann@example.com') returning id")
    remind, payload = names["invoice_remind"], names["InvoiceRemind"]
    assert jobs.run(remind, payload(invoice_id=known)) == {"sent_to": "ann@example.com"}
    with pytest.raises(SkipRetry):
        jobs.run(remind, payload(invoice_id="00000000-0000-0000-0000-000000000000"))


def test_async(jobs: JobTester) -> None:
    names = page("async")
    execute(jobs, "create table prices (product text, cents integer)")
    names["test_prices_are_refreshed_once"](jobs)
    asyncio.run(names["refresh"](jobs))
    jobs.enqueue(names["prices_mail_all"], names["PricesMailAll"](customers=["ann", "ben"]))
    assert len(jobs.drain().check().of(names["prices_mail"])) == 2


def test_a_task_in_a_session_exists_once_that_has_committed(jobs: JobTester) -> None:
    execute(jobs, "create table reports (customer text)")
    names = page("enqueue")
    with jobs.session() as session:
        made = names["order_report"](session, "acme")
        assert jobs.client.get(made) is None
    assert jobs.task(made).state is State.PENDING
    with jobs.session() as session:
        undone = names["order_report"](session, "globex")
        session.rollback()
    assert jobs.client.get(undone) is None


def test_enqueue(jobs: JobTester) -> None:
    names = page("enqueue")
    build, split = names["report_build"], names["order_split"]
    jobs.assert_enqueued(build, task_id=names["sent"].id)
    jobs.assert_enqueued(build, task_id=names["bounded"].id, tags=["monthly"], tenant="acme")
    jobs.drain().check()
    with jobs.capture() as captured:
        jobs.run(split, names["OrderSplit"](parts=3))
    captured.assert_enqueued(build, count=3)
    assert len(jobs.drain(within=31 * DAY).check().of(build)) == 5  # and the two that were for later


def test_retry(jobs: JobTester) -> None:
    names = page("retry")
    fetch, payload = names["payment_fetch"], names["PaymentFetch"]
    booked, unknown, busy, later, withdrawn = (
        jobs.enqueue(fetch, payload(number=number), task_id=f"payment-{number}").id for number in range(1, 6)
    )
    jobs.drain()
    states = {id_: jobs.task(id_).state for id_ in (booked, unknown, busy, later, withdrawn)}
    assert states == {
        booked: State.COMPLETED,
        unknown: State.ARCHIVED,
        busy: State.RETRY,
        later: State.PENDING,
        withdrawn: State.CANCELLED,
    }
    assert [dead.reason for dead in jobs.dead_letters(fetch)] == ["SkipRetry: the bank has no such payment"]
    jobs.assert_enqueued(names["ops_alert"], task_id=None, task_type="payment:fetch", count=1)
    assert jobs.task(later).attempts == 0
    jobs.drain(within=HOUR)
    assert (jobs.task(busy).state, jobs.task(busy).attempts) == (State.ARCHIVED, 4)
    assert jobs.task(later).state is State.PENDING
    jobs.drain(within=2 * DAY)
    assert jobs.task(later).state is State.ARCHIVED  # after 20 snoozes each is a failed attempt


def test_unique(jobs: JobTester) -> None:
    names = page("unique")
    rebuild = names["index_rebuild"]
    assert len(jobs.drain(within=HOUR).check().of(rebuild)) == 2
    again = jobs.enqueue(rebuild, names["IndexRebuild"](shop="acme"))
    assert again.created


def test_steps(jobs: JobTester) -> None:
    names = page("long-work")
    execute(jobs, "create table charges (order_id integer, charge text)")
    names["test_a_card_is_charged_once"](
        jobs, lambda: [tuple(row) for row in execute(jobs, "select order_id, charge from charges")]
    )
    assert jobs.run(names["order_pay_async"], names["OrderPay"](order=8, cents=100)) == "ch_2"


class Recorder:
    """A service of the page: it records its calls, and has a film at the third look."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.given: tuple[Any, ...] = ()

    def __getattr__(self, name: str) -> Any:
        def call(*given: object, **_: object) -> Any:
            self.calls.append(name)
            self.given = given
            return {"start": "job-1"}.get(name) or (
                "film.mp4" if name == "result" and self.calls.count("result") == 3 else None
            )

        return call


def test_waits(jobs: JobTester) -> None:
    names = page("waits")
    mails = names["mails"] = Recorder()
    renderer = names["renderer"] = Recorder()
    names["test_an_invoice_is_approved_after_the_reminder"](jobs)
    assert mails.calls == ["ask", "remind"]
    invoice, approve = names["Invoice"], names["invoice_approve"]
    jobs.enqueue(approve, invoice(id=8, approver="ann@example.com"), task_id="invoice-8")
    with jobs.session() as session:
        assert names["approve"](session, 8) is True
        session.commit()
    jobs.drain(within=HOUR)
    assert jobs.task("invoice-8").result == "approved"
    jobs.enqueue(approve, invoice(id=9, approver="ann@example.com"), task_id="invoice-9")
    jobs.drain(within=8 * DAY)
    assert jobs.task("invoice-9").result == "expired"
    leave = jobs.enqueue(names["leave_ask"], names["Leave"](manager="ann@example.com"))
    jobs.drain()
    with TestClient(names["app"]) as client:
        yes, no = mails.given[1:]
        assert (client.get(yes).status_code, client.post(yes).status_code, client.post(no).status_code) == (
            200,
            200,
            409,
        )
    jobs.drain()
    assert jobs.task(leave.id).result == "granted"
    film = jobs.enqueue(names["film_render"], names["Scene"](scene="one"))
    jobs.drain(within=HOUR)
    execute(jobs, "create table sales (day date, cents integer)")
    execute(jobs, "insert into sales values ('2026-05-01', 200), ('2026-05-02', 30), ('2026-05-02', 4)")
    jobs.enqueue(names["month_sum"], names["Month"](days=["2026-05-01", "2026-05-02", "2026-05-03"]), task_id="may")
    jobs.drain().check()
    assert jobs.task("may").result == 234
    assert (jobs.task(film.id).result, renderer.calls) == ("film.mp4", ["start", "result", "result", "result"])


def test_hooks(jobs: JobTester) -> None:
    names = page("hooks")
    execute(jobs, "create table order_log (id text, what text)")
    names["test_an_order_has_its_tenant"](jobs)
    names["request_id"].set("r7")
    jobs.run(names["price_refresh"], names["OrderShip"](order=8), tenant="acme")
    assert sorted(what for _, what in execute(jobs, "select * from order_log")) == ["done", "refreshed"]
    [shipped, refreshed] = jobs.enqueued()
    assert (shipped.headers["request"], refreshed.headers["request"]) == ("", "r7")
    assert refreshed.tags == ("of a tenant",)


def test_resources(database_url: str) -> None:
    with JobTester(database_url) as jobs:
        names = page("hooks")
        assert jobs.run(names["mail_send"], names["MailSend"](address="ann@example.com")) == "sent to ann@example.com"
        assert jobs.run(names["price_read"], names["PriceRead"](product="pen")) == ["open"]
        client = names["mailer"]()
        assert client.is_open
    assert not client.is_open


def test_cancel(jobs: JobTester) -> None:
    names = page("cancel")
    jobs.drain().check()
    assert names["percent"](names["done"].id) == 100
    assert jobs.client.get(names["info"].id).state == "cancelled"  # type: ignore[union-attr]


def test_long_work(jobs: JobTester, monkeypatch: pytest.MonkeyPatch) -> None:
    # given
    names = page("long-work")
    mailed: list[str] = []
    broken = {"b"}

    def mail(address: str) -> None:
        if address in broken:
            broken.remove(address)
            raise ConnectionError("the mail server is unavailable")
        mailed.append(address)

    monkeypatch.setitem(names, "mail", mail)
    # when an item fails, then the others are done, and the retry runs that one
    jobs.enqueue(names["mail_all"], names["MailAll"](addresses=["a", "b", "c"]))
    assert jobs.drain().only.error_type == "PartialFailure"
    assert mailed == ["a", "c"]
    jobs.drain(within=HOUR).check()
    assert mailed == ["a", "c", "b"]
    # when groups are items
    jobs.run(names["mail_groups"], names["MailGroups"](addresses=["d", "e", "f"]))
    assert mailed[3:] == ["d, e", "f"]
    # when a resumable task is killed, then its chunks are kept, and a later run continues
    execute(jobs, "create table members (id int primary key, points int, score int default 0)")
    execute(jobs, "insert into members select n, n from generate_series(1, 1200) n")
    jobs.enqueue(names["members_score"], names["MembersScore"]())
    with jobs.crash_before_commit(commit=2):
        jobs.drain()
    assert execute(jobs, "select count(*) from members where score = points * 2") == [[500]]
    jobs.drain(within=HOUR).check()
    assert execute(jobs, "select count(*) from members where score = points * 2") == [[1200]]


def test_schedule(jobs: JobTester) -> None:
    names = page("schedule")
    close = names["shop_close"]
    saturdays = jobs.tick(close, "saturdays")
    jobs.tick(names["stock_count"])
    jobs.drain().check()
    jobs.assert_enqueued(close, task_id=saturdays, early=True)


def test_schedules_made_at_run_time(jobs: JobTester) -> None:
    # given
    execute(jobs, "create table reports (customer text)")
    names = page("schedule")
    report, show = names["report_write"], names["show_next_report"]
    # when the order is rolled back, nothing is ordered
    with suppress(ZeroDivisionError), jobs.session() as session:
        names["order_weekly_report"](session, "acme")
        _ = 1 / 0
    assert show("acme") == "no report is ordered"
    # when it commits, one report is written each week
    with jobs.session() as session:
        names["order_weekly_report"](session, "acme")
    assert show("acme").startswith("next at ")
    jobs.travel(14 * DAY, ticks=True).check()
    jobs.assert_enqueued(report, count=2)
    # when it is paused, none is, and after the order is cancelled there is no schedule
    names["pause_reports"]("acme")
    assert show("acme") == "paused"
    jobs.travel(14 * DAY, ticks=True).check()
    jobs.assert_enqueued(report, count=2)
    with jobs.session() as session:
        names["cancel_weekly_report"](session, "acme")
    assert show("acme") == "no report is ordered"


def test_change_payload(jobs: JobTester) -> None:
    names = page("change-payload")
    send, payload = names["mail_send"], names["MailSend"]
    assert jobs.run(send, payload(address="ann@example.com")) == "ann@example.com"
    assert jobs.run(send, payload(address="ann@example.com", recipient="ann@example.org")) == "ann@example.org"
    assert send.read({"address": "x", "later": 1}, "another schema").address == "x"
    with pytest.raises(UnreadablePayloadError):
        send.read({"address": "x", "typo": 1}, None)


def test_what_is_kept_of_a_failure_has_no_redacted_value(jobs: JobTester) -> None:
    names = page("write")
    failed = jobs.drain().only
    assert failed.id == names["refused"].id
    assert failed.error_message is not None
    assert f"`{failed.error_message}`" in (HOW_TO / "write.md").read_text()


def test_trace(jobs: JobTester, request: pytest.FixtureRequest) -> None:
    names = page("trace")
    traceparent = jobs.drain().check().only.result
    assert traceparent.split("-")[1] == "4bf92f3577b34da6a3ce929d0e0e4736"
    names["test_a_booking_has_a_step"](jobs, request.getfixturevalue("spans"))


def test_the_back_off_is_as_long_as_is_said() -> None:
    from joblane.tasks.retry import default_delay

    said = {1: (timedelta(seconds=15), MINUTE), 4: (timedelta(seconds=96), timedelta(seconds=212))}
    for attempt, (least, most) in said.items():
        assert least <= default_delay(attempt, Exception()) <= most


def test_the_client_of_a_page_writes_into_the_tests_database(jobs: JobTester) -> None:
    with jobs.session() as session:
        page("trace")
        assert session.scalar(text("select count(*) from joblane.tasks")) == 1


# --- Events --------------------------------------------------------------------------------------------------------


def test_events(jobs: JobTester) -> None:
    names = page("events")
    export, payload = names["data_export"], names["DataExport"](tenant_id="acme")
    # as the page's test
    names["test_an_export_is_announced"](jobs)
    [event] = jobs.events
    # as the target of a rule gets it
    detail = asdict(event) | {name: getattr(event, name).isoformat() for name in ("enqueued_at", "finished_at")}
    received = names["receive"]({"detail": detail}, None)
    assert received.startswith(f"{event.id}: data:export for acme completed at ")
    # the listeners hear other ends, and the one of another type
    jobs.enqueue(export, payload, task_id="late", deadline=datetime.now(UTC) + HOUR)
    jobs.travel(2 * HOUR)
    jobs.drain()
    assert names["dead"] == {"data:export": 1}
    assert [event.kind for event in jobs.events] == ["completed", "archived"]
