"""The contents of each page, and the effects of its forms."""

from __future__ import annotations

import html
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from starlette.testclient import TestClient

from joblane.errors import DatabaseUnavailableError, LimitError, PayloadError, UnknownTaskError
from joblane.inspector.durations import stamp
from joblane.inspector.errors import ActionError, SelectionError
from joblane.inspector.filter import ALLOWED, BulkAction, Filter, PauseScope
from joblane.inspector.views import (
    Acknowledged,
    ActionResult,
    AuditEntry,
    Count,
    DeadGroup,
    Found,
    LogLine,
    Pause,
    Relative,
    Relatives,
    SchedulePause,
    Step,
    TickView,
)
from joblane.names import Queue
from joblane.page.app import PAGES as ALL_PAGES
from joblane.record.flow.limit_status import LimitChange, LimitKind, LimitValues
from joblane.record.row.states import State
from joblane.tasks.limit import Rate
from tests.builders import views
from tests.builders.views import (
    NOW,
    attempt,
    batch,
    batch_row,
    declared_row,
    limit,
    overview,
    schedule_row,
    task_row,
    task_view,
    type_view,
)
from tests.inspector import FakeInspector
from tests.unit.page.conftest import COOKIE, Post, client_of

NEEDING = ("/task", "/task/logs", "/bulk/new", "/bulk/show", "/batches/show", "/schedules/show")
"""Pages that need parameters."""
PAGES = [path for path in ALL_PAGES if path not in NEEDING]
SCRIPT = "<script>alert(1)</script>"
QUOTED = "\"' onmouseover=alert(2) x='"
PAUSE = SchedulePause(NOW - timedelta(days=1), None, "ann", "a holiday")

# --- Escaping ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("planted", [SCRIPT, QUOTED])
def test_no_text_from_outside_becomes_markup(browser: TestClient, stub: FakeInspector, planted: str) -> None:
    # given an untrusted text in every place
    at = datetime.now(UTC)
    hurt = task_row(
        id=planted,
        tenant=planted,
        tags=(planted,),
        reason=planted,
        error_type=planted,
        error_message=planted,
        fingerprint=planted,
        type=planted,
    )
    entry = AuditEntry(1, at, planted, planted, planted, planted, planted, {planted: planted, "more": [planted]})
    stub.rows, stub.entries, stub.tenant = [hurt], [entry], planted
    stub.changes[planted] = {
        "payload": {planted: planted},
        "result": [planted],
        "headers": {planted: planted},
        "options": {planted: planted},
        "owner": planted,
        "unique_key": planted,
        "replay_of": planted,
        "replays": (planted,),
        "limits": (f"{planted}/{planted}", planted),
        "waits_for": f"{planted}/{planted}",
        "parents": Relatives((Relative(planted, planted, State.HELD), Relative(planted, None, None)), more=True),
        "on_parent_dead": planted,
        "children": Relatives((Relative(planted, planted, None),), more=False),
        "enqueued_by": planted,
        "batch": planted,
        "callback": planted,
        "steps": (Step(planted, planted, at, 1),),
        "why": replace(task_view(row=hurt).why, text=planted),
    }
    stub.groups = [DeadGroup(planted, planted, planted, planted, True, 1, at, at, planted, planted, None)]
    stub.groups += [replace(stub.groups[0], recorded=False)]
    stub.paused = {
        (scope, name): Pause(scope, name, planted, planted, at, None)
        for scope, name in [(PauseScope.QUEUE, "low"), (PauseScope.TENANT, planted)]
    }
    set_by = LimitChange(LimitValues(0, None), planted, planted, at, at, LimitKind.SHARED)
    stub.limited = [limit(planted, None, LimitKind.EACH_KEY, change=None)]
    stub.limited += [limit(planted, planted, LimitKind.KEY, change=set_by)]
    choice = {"enum": [planted], "description": planted, "default": planted}
    properties = {planted: choice, "text": {"type": "string", "default": planted}}
    schema = {"properties": properties, "required": [planted]}
    stub.answers["types"] = [(type_view(type=planted, ordered=True, schedules=(planted,), schema=schema),)]
    callbacks = {"on_end": Relative(planted, planted, State.HELD), "on_success": Relative(planted, None, None)}
    stub.batched = [batch(row=batch_row(id=planted, **callbacks), dead=(hurt,))]
    stub.scheduled = [
        schedule_row(
            name=planted, type=planted, tenant=planted, text=planted, timezone=planted, problem=planted,
            ticks=(TickView(NOW, planted, State.HELD),),
        )
    ]  # fmt: skip
    stub.lines = [LogLine(at, planted, planted, 1, None, {planted: planted})]
    bulk = stub.bulk(BulkAction.CANCEL, Filter(tenant=planted, tag=planted))
    stub.started["b"] = replace(bulk, who=planted, stopped=planted, action=planted)
    # when every page is requested, with that text in its address too
    names = ("tenant", "tag", "error", "fingerprint", "who", "target", "from_", "note", "name", "key")
    requested = dict.fromkeys((*names, "type"), planted)
    for path in ALL_PAGES:
        answer = browser.get(
            path,
            params={**requested, "id": "b" if path == "/bulk/show" else planted, "action": "cancel", "which": "all"},
        )
        # then it is text
        assert answer.status_code == 200, path
        assert "<script>alert" not in answer.text, path
        assert "onmouseover=alert(2) x='" not in answer.text.replace("&#39;", ""), path
        assert planted not in answer.text, path


def test_a_refusal_escapes_the_request(browser: TestClient) -> None:
    for path in ("/task", "/tasks", "/audit"):
        answer = browser.get(path, params={"id": SCRIPT, "newer": SCRIPT, "before": SCRIPT, "state": SCRIPT})
        assert answer.status_code in (400, 404)
        assert SCRIPT not in answer.text


# --- Every page ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PAGES)
def test_an_unavailable_database_is_shown_with_the_remedy(browser: TestClient, stub: FakeInspector, path: str) -> None:
    stub.fails = DatabaseUnavailableError("the database did not answer: connection refused")
    answer = browser.get(path, params={"type": "a:b"})
    if path in ("/bulk", "/types", "/enqueue", "/find"):  # their queries do not fail here
        return
    assert answer.status_code == 503
    assert "connection refused" in answer.text
    assert "joblane up" in answer.text


def test_only_readable_errors_are_shown_with_their_text(stub: FakeInspector) -> None:
    class StageError(Exception):
        """An error of a layer above."""

    stub.fails = StageError("POST /view/tasks: stage 'prod' did not answer")
    for readable, status, shown in [((StageError,), 502, True), ((), 500, False)]:
        browser = client_of(stub, readable=readable)
        browser.cookies.update(COOKIE)
        answer = browser.get("/tasks")
        assert answer.status_code == status
        assert ("did not answer" in answer.text) is shown


@pytest.mark.parametrize("path", PAGES)
def test_every_page_names_its_language_its_title_and_its_main_part(browser: TestClient, path: str) -> None:
    text = browser.get(path).text
    assert '<html lang="en">' in text
    assert "<title>" in text
    assert text.count("<h1") == 1
    assert '<main id="main"' in text
    assert 'href="#main"' in text


@pytest.mark.parametrize("path", PAGES)
def test_pages_have_no_inline_script_or_style_and_no_external_resource(browser: TestClient, path: str) -> None:
    text = browser.get(path).text
    assert " style=" not in text
    assert "<style" not in text
    assert text.count("<script") == text.count('<script src="/static/')
    assert "https://" not in text


# --- Queues --------------------------------------------------------------------------------------------------------


def test_the_queues_show_their_figures_charts_and_lanes(browser: TestClient) -> None:
    text = browser.get("/").text
    for queue in Queue:
        assert f'id="queue-{queue}"' in text
        assert f"{queue}: 178 runs started in 60 minutes" in text
    assert "1 min 15 s" in text
    assert "SQS did not answer" in text  # for a front door


def test_the_queues_say_which_live_tasks_are_counted(browser: TestClient, stub: FakeInspector) -> None:
    half = "Of the live tasks only the oldest 20,000 and the newest 20,000 are counted."
    assert half not in browser.get("/").text
    stub.answers["overview"] = replace(overview(), archived=Count(1_000, exact=False), live=Count(40_000, exact=False))
    text = browser.get("/").text
    assert half in text
    assert "At least 1,000 archived tasks" in text


def test_a_queue_is_paused_with_a_reason_and_resumed(browser: TestClient, post: Post, stub: FakeInspector) -> None:
    answer = post("/pause", scope="queue", name="low", reason="a bad deploy", **{"for": "1h"})
    text = browser.get(answer.headers["location"]).text
    assert "Paused queue low until" in text
    assert "a bad deploy" in text
    until = stub.paused[PauseScope.QUEUE, "low"].until
    assert until is not None
    assert timedelta(minutes=59) < until - datetime.now(UTC) <= timedelta(hours=1)
    post("/resume", scope="queue", name="low")
    assert stub.paused == {}


def test_the_second_operator_who_pauses_sees_the_first(browser: TestClient, post: Post, stub: FakeInspector) -> None:
    since = NOW - timedelta(minutes=3)
    stub.paused[PauseScope.QUEUE, "low"] = Pause(PauseScope.QUEUE, "low", "a bad deploy", "ann@desk", since, None)
    text = browser.get(post("/pause", scope="queue", name="low").headers["location"]).text
    assert f"It was already paused by ann@desk, since {stamp(since)}" in text


@pytest.mark.parametrize("fields", [{"scope": "planet", "name": "x"}, {"scope": "queue", "name": "low", "for": "soon"}])
def test_an_invalid_pause_is_refused(post: Post, stub: FakeInspector, fields: dict[str, str]) -> None:
    answer = post("/pause", **fields)
    assert answer.status_code == 400
    assert stub.performed == []


# --- Tasks ---------------------------------------------------------------------------------------------------------


def test_the_filter_of_the_address_is_used(browser: TestClient, stub: FakeInspector) -> None:
    fields = {"state": "retry", "type": "data:export", "queue": "low", "tenant": "acme", "tag": "t", "error": "oops"}
    browser.get("/tasks", params={**fields, "id": "01", "fingerprint": "f", "newer": "2h", "older": "15m"})
    requested = stub.filters[-1]
    now = datetime.now(UTC)
    assert requested.created_after is not None
    assert requested.created_before is not None
    assert abs(now - requested.created_after - timedelta(hours=2)) < timedelta(minutes=1)
    assert abs(now - requested.created_before - timedelta(minutes=15)) < timedelta(minutes=1)
    assert replace(requested, created_after=None, created_before=None) == Filter(
        id_prefix="01",
        states=(State.RETRY,),
        types=("data:export",),
        queues=(Queue.LOW,),
        tenant="acme",
        tag="t",
        error="oops",
        fingerprint="f",
    )


def test_tasks_whose_lease_is_over_are_filtered_by_a_box(browser: TestClient, stub: FakeInspector) -> None:
    stub.rows = [task_row(id=f"id-{number:03}", state=State.ACTIVE) for number in range(60)]
    box = r'name="lease_over" type="checkbox" value="yes"( checked)?>'
    assert re.findall(box, browser.get("/tasks").text) == [""]
    # the box is checked, and the next page keeps the filter
    text = browser.get("/tasks", params={"lease_over": "yes"}).text
    assert re.findall(box, text) == [" checked"]
    assert "/tasks?lease_over=yes&amp;from=50" in text
    assert stub.called("tasks")[-1][0] == (Filter(lease_over=True),)
    # another value is refused with the reason
    wrong = browser.get("/tasks", params={"lease_over": "maybe"})
    assert wrong.status_code == 400
    assert "lease_over: yes is valid, or leave it out" in wrong.text


def test_the_next_page_keeps_the_filter(browser: TestClient, stub: FakeInspector) -> None:
    stub.rows = [task_row(id=f"id-{number:03}") for number in range(120)]
    text = browser.get("/tasks", params={"state": "archived"}).text
    assert "120 tasks" in text
    assert "/tasks?state=archived&amp;from=50" in text
    text = browser.get("/tasks", params={"state": "archived", "from": "100"}).text
    assert "id-119" in text
    assert "id-099" not in text
    assert 'rel="next"' not in text


def test_an_invalid_filter_is_reported_at_its_field_and_the_input_stays(browser: TestClient) -> None:
    answer = browser.get("/tasks", params={"newer": "yesterday", "tenant": "acme"})
    assert answer.status_code == 400
    assert 'value="yesterday"' in answer.text
    assert 'value="acme"' in answer.text
    assert 'aria-invalid="true" aria-describedby="wrong"' in answer.text
    assert "is neither a duration" in answer.text


def test_ages_that_exclude_each_other_are_reported_at_their_field(browser: TestClient) -> None:
    answer = browser.get("/tasks", params={"newer": "1h", "older": "1d"})
    assert answer.status_code == 400
    assert "nothing is older than 1d and newer than 1h" in answer.text
    assert 'name="older" value="1d"' in answer.text
    assert answer.text.count('aria-invalid="true"') == 1


def test_an_invalid_position_is_reported(browser: TestClient, stub: FakeInspector) -> None:
    stub.fails = SelectionError("after", "this is not a position of a listing")
    answer = browser.get("/tasks", params={"from": "x"})
    assert answer.status_code == 400
    assert "not a position" in answer.text


def test_an_empty_listing_says_so(browser: TestClient, stub: FakeInspector) -> None:
    stub.rows = []
    assert "No task matches" in browser.get("/tasks", params={"tag": "x"}).text


# --- One task ------------------------------------------------------------------------------------------------------


def test_a_task_is_shown_with_all_its_details(browser: TestClient) -> None:
    text = browser.get("/task", params={"id": "one"}).text
    for shown in (
        "It was archived after",
        "[redacted]",
        "TimeoutError",
        "Traceback",
        "300 of 1,200",
        "traceparent",
        "$0.000036",
    ):
        assert shown in text


def test_the_steps_of_a_task_are_shown_with_keys_and_sizes(browser: TestClient, stub: FakeInspector) -> None:
    assert "steps-title" not in browser.get("/task", params={"id": "one"}).text
    stub.changes["one"] = {"steps": (Step("charge the card", "456aae85-27f4-503d", NOW, 4_096),)}
    shown = browser.get("/task", params={"id": "one"}).text
    for text in ("charge the card", "456aae85-27f4-503d", "4,096", stamp(NOW)):
        assert text in shown


def test_attempts_have_their_waits_and_a_timeline(browser: TestClient, stub: FakeInspector) -> None:
    # given an attempt that runs
    made = [attempt(1, wait_ms=None), attempt(2, outcome=None, finished_at=None, started_at=NOW - timedelta(minutes=5))]
    stub.changes["one"] = {"attempts": tuple(made)}
    # when
    text = browser.get("/task", params={"id": "one"}).text
    # then
    assert 'data-label="Waited">1.5 s' in text
    drawn = text[text.index('class="chart timeline"') :].partition("</svg>")[0]
    assert re.findall(r'<rect class="(\w+)"', drawn) == ["failed", "wait", "active"]
    begin, end = stamp(task_row().created_at), stamp(NOW)
    assert f"Timeline of 2 runs from {begin} to {end}" in drawn
    places = [float(at) for at in re.findall(r'<rect class="\w+" x="([\d.]+)"', drawn)]
    assert places == sorted(places)
    assert min(places) >= 56
    assert max(places) <= 720
    # and of many attempts, the last
    stub.changes["one"] = {"attempts": tuple(attempt(run) for run in range(1, 60))}
    assert "Timeline of 20 runs" in browser.get("/task", params={"id": "one"}).text


@pytest.mark.parametrize(("state", "opened"), [(State.ARCHIVED, 1), (State.RETRY, 0)])
def test_the_last_traceback_of_an_archived_task_is_open(
    browser: TestClient, stub: FakeInspector, state: State, opened: int
) -> None:
    stub.rows = [task_row(id="one", state=state)]
    text = browser.get("/task", params={"id": "one"}).text
    assert text.count('<details id="traceback-4" open>') == opened
    assert text.count('<details id="traceback-') == 4


@pytest.mark.parametrize(
    ("stage", "marked"),
    [("prod", True), ("Production", True), ("prod-eu", True), ("live", True), ("local", False), ("product", False)],
)
def test_a_stage_in_production_is_marked_on_every_page(stub: FakeInspector, stage: str, marked: bool) -> None:
    browser = client_of(stub, stage=stage)
    browser.cookies.update(COOKIE)
    for path in ("/", "/types", "/no-such-page"):
        text = browser.get(path).text
        assert (f'{stage}<span class="unseen">, in production</span>' in text) is marked
        assert f" · {stage} · Joblane</title>" in text


@pytest.mark.parametrize("action", [*BulkAction, "replay"])
def test_a_button_acts_and_the_next_page_says_so_once(
    browser: TestClient, post: Post, stub: FakeInspector, action: str
) -> None:
    stub.rows += [task_row(id="new")]
    answer = post("/task/act", id="one", action=action, reason="because")
    assert stub.performed == [(action, "one", "because")]
    place = answer.headers["location"]
    assert place.startswith(f"/task?id={'new' if action == 'replay' else 'one'}&note=")
    assert f"{action.capitalize()}: done." in browser.get(place).text
    assert f"{action.capitalize()}: done." not in browser.get(place).text


def test_only_actions_that_the_state_allows_are_offered(browser: TestClient, stub: FakeInspector) -> None:
    stub.changes["one"] = {"actions": ("retry", "replay", "delete")}
    text = browser.get("/task", params={"id": "one"}).text
    assert 'value="retry"' in text
    assert 'value="delete"' in text
    for action in ("run", "archive", "cancel", "edit"):
        assert f'name="action" value="{action}"' not in text


def test_the_second_of_two_operators_sees_what_the_first_did(post: Post, stub: FakeInspector) -> None:
    last = "ann@desk retried it 3 s ago"
    stub.fails = ActionError("one", "retry", State.ACTIVE, [State.ARCHIVED], last)
    answer = post("/task/act", id="one", action="retry")
    assert answer.status_code == 409
    for expected in (last, "is active", "archived", "Nothing was done", "/task?id=one"):
        assert expected in answer.text


@pytest.mark.parametrize("fields", [{"action": "explode"}, {"action": "_check"}, {"action": ""}, {}])
def test_an_unknown_action_is_refused(post: Post, stub: FakeInspector, fields: dict[str, str]) -> None:
    assert post("/task/act", id="one", **fields).status_code == 400
    assert stub.performed == []


def test_a_payload_is_edited_or_replayed(post: Post, stub: FakeInspector) -> None:
    stub.rows += [task_row(id="new")]
    post("/task/edit", id="one", action="edit", payload='{"a": 1}', reason="typo")
    post("/task/edit", id="one", action="replay_with", payload='{"a": 2}')
    assert stub.performed == [("edit", "one", {"a": 1}, "typo"), ("replay_with", "one", {"a": 2}, None)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"a": 1', "line 1, column 8: Expecting"),
        ("[1]", "a JSON object is required"),
        ("", "line 1, column 1"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_an_invalid_payload_is_reported_at_its_field_and_the_input_stays(
    post: Post, stub: FakeInspector, text: str, expected: str
) -> None:
    answer = post("/task/edit", id="one", action="edit", payload=text, reason="typo")
    assert answer.status_code == 422
    assert expected in answer.text
    assert 'aria-describedby="payload-error payload-help" aria-invalid="true"' in answer.text
    assert 'value="typo"' in answer.text
    assert stub.performed == []


def test_a_page_after_a_refused_form_refreshes_itself_from_its_own_address(post: Post) -> None:
    text = post("/task/edit", id="one", action="edit", payload="[1]").text
    assert 'hx-get="/task?id=one"' in text
    text = post("/limits/set", name="account:sync", key=" a&b", reason="").text
    assert 'hx-get="/limits/show?name=account%3Async&amp;key=+a%26b"' in text


def test_each_invalid_field_of_a_payload_is_listed(
    browser: TestClient, post: Post, stub: FakeInspector, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise PayloadError(
            "payload", "not a valid DataExport: user_id: Input should be a valid UUID; rows: Field required"
        )

    monkeypatch.setattr(stub, "edit", refuse)
    text = post("/task/edit", id="one", action="edit", payload="{}").text
    assert "<li>user_id: Input should be a valid UUID</li><li>rows: Field required</li>" in text


@pytest.mark.parametrize("times", [1, 2])
def test_the_number_of_redrives_is_shown(browser: TestClient, stub: FakeInspector, times: int) -> None:
    stub.changes["one"] = {"generation": times}
    assert f"<dt>Redrives</dt><dd>{times}</dd>" in browser.get("/task", params={"id": "one"}).text


def test_a_command_on_the_page_quotes_the_id(browser: TestClient, stub: FakeInspector) -> None:
    stub.rows = [task_row(id="-x")]
    for path in ("/task", "/task/logs"):
        assert "logs -- -x</code>" in browser.get(path, params={"id": "-x"}).text


def test_logs_are_a_link_to_the_console_or_a_command(stub: FakeInspector) -> None:
    browser = client_of(stub, command="joblane --stage dev")
    browser.cookies.update(COOKIE)
    assert "joblane --stage dev logs one" in browser.get("/task", params={"id": "one"}).text
    assert "joblane --stage dev logs one" in browser.get("/task/logs", params={"id": "one"}).text
    stub.changes["one"] = {"log_link": "https://console"}
    text = browser.get("/task", params={"id": "one"}).text
    assert 'href="https://console"' in text
    assert "joblane --stage dev logs one" not in text


def test_logs_are_shown(browser: TestClient, stub: FakeInspector) -> None:
    stub.lines = [LogLine(NOW, "ERROR", "it broke", 2, "r", {"ms": 12})]
    text = browser.get("/task/logs", params={"id": "one"}).text
    assert "it broke" in text
    assert "ERROR" in text


# --- Many ----------------------------------------------------------------------------------------------------------


def test_a_bulk_action_is_counted_first_and_then_started_with_the_same_filter(
    browser: TestClient, post: Post, stub: FakeInspector
) -> None:
    stub.rows = [task_row(id=f"id-{number}", state=State.RETRY) for number in range(12)] + [task_row(id="other")]
    text = browser.get("/bulk/new", params={"action": "cancel", "which": "all", "state": "retry", "older": "1h"}).text
    assert "Cancel 12 tasks?" in text
    assert "dry run" in text
    assert stub.performed == []
    before = text.split('name="older" value="')[1].split('"')[0]
    answer = post("/bulk/start", action="cancel", state="retry", older=before, rate="20", reason="wrong day")
    requested = Filter(states=(State.RETRY,), created_before=datetime.fromisoformat(before))
    assert stub.performed == [("bulk", BulkAction.CANCEL, requested, 0, 20, "wrong day")]
    assert answer.headers["location"].startswith("/bulk/show?id=b&note=")
    assert "0 of 12" in browser.get("/bulk/show", params={"id": "b"}).text


def test_a_dry_run_shows_a_payload_with_masked_values(browser: TestClient, stub: FakeInspector) -> None:
    text = words(html.unescape(browser.get("/bulk/new", params={"action": "retry", "which": "all"}).text))
    assert 'Payload of one { "tenant_id": "acme", "email": "[redacted]" }' in text
    # and no more if the task was removed meanwhile
    stub.answers["task"] = UnknownTaskError("one")
    answer = browser.get("/bulk/new", params={"action": "retry", "which": "all"})
    assert (answer.status_code, "Payload of" in answer.text) == (200, False)


def test_only_selected_tasks_are_taken(browser: TestClient) -> None:
    text = browser.get(
        "/bulk/new", params={"action": "delete", "which": "chosen", "chosen": ["one"], "state": "retry"}
    ).text
    assert "Delete 1 task?" in text
    assert 'name="ids" value="one"' in text
    assert 'name="state"' not in text


def test_an_empty_selection_is_reported(browser: TestClient) -> None:
    answer = browser.get("/bulk/new", params={"action": "delete", "which": "chosen"})
    assert answer.status_code == 400
    assert "no task is selected" in answer.text


@pytest.mark.parametrize("rate", ["0", "501", "fast", "-1", "1e3"])
def test_an_invalid_rate_is_reported(post: Post, stub: FakeInspector, rate: str) -> None:
    answer = post("/bulk/start", action="cancel", rate=rate)
    assert answer.status_code == 400
    assert "from 1 to 500" in answer.text
    assert stub.performed == []


def test_a_bulk_action_is_stopped(post: Post, stub: FakeInspector) -> None:
    stub.bulk(BulkAction.CANCEL, Filter())
    post("/bulk/abort", id="b", reason="enough")
    assert stub.performed[-1] == ("abort", "b", "enough")


@pytest.mark.parametrize(
    ("stopped", "state"), [("the canary failed: 1 of 5 failed again", "stopped"), (None, "completed")]
)
def test_a_stopped_bulk_action_is_not_called_completed(
    browser: TestClient, stub: FakeInspector, stopped: str | None, state: str
) -> None:
    made = stub.bulk(BulkAction.RETRY, Filter())
    stub.started["b"] = replace(made, state=State.COMPLETED, stopped=stopped)
    for path in ("/bulk", "/bulk/show?id=b"):
        text = browser.get(path).text
        assert re.findall(r'class="state (\w+)"', text) == [state], path
        assert stopped is None or stopped in text, path


@pytest.mark.parametrize("state", [State.PENDING, State.ACTIVE])
def test_a_stopping_bulk_action_cannot_be_aborted_again(browser: TestClient, stub: FakeInspector, state: State) -> None:
    made = stub.bulk(BulkAction.RETRY, Filter())
    assert 'action="/bulk/abort"' in browser.get("/bulk/show?id=b").text
    stub.started["b"] = replace(made, state=state, stopped="aborted by ann")
    for path in ("/bulk", "/bulk/show?id=b"):
        text = browser.get(path).text
        assert re.findall(r'class="state (\w+)"', text) == ["stopping"], path
        assert "aborted by ann" in text
        assert 'action="/bulk/abort"' not in text


@pytest.mark.parametrize("state", State)
def test_the_preselected_action_is_allowed_by_the_listed_state(
    browser: TestClient, stub: FakeInspector, state: State
) -> None:
    stub.rows = [task_row(id=str(one), state=one) for one in State]
    text = browser.get("/tasks", params={"state": state}).text
    options = text.partition('id="bulk-action"')[2].partition("</select>")[0]
    [chosen] = re.findall(r"<option selected>(\w+)", options)
    assert state in ALLOWED[chosen]
    assert options.count("<option") == len(BulkAction)


# --- Dead letters --------------------------------------------------------------------------------------------------


def test_a_group_of_dead_letters_is_previewed_and_redriven_with_a_canary(
    browser: TestClient, post: Post, stub: FakeInspector
) -> None:
    one = DeadGroup("f1", "data:export", "KeyError", "missing", True, 40, NOW, NOW, "id", "default", None)
    stub.groups = [one, replace(one, fingerprint="f2", error_type="OSError", count=2)]
    text = browser.get("/dead").text
    assert "2 causes, 42 in all" in text
    text = browser.get("/dead/redrive", params={"fingerprint": "f1", "type": "data:export"}).text
    assert "Redrive 40?" in text
    assert "OSError" not in text
    text = browser.get("/dead/redrive", params={"fingerprint": "f1", "type": "data:export", "tenant": "acme"}).text
    assert stub.calls[-1] == ("dead", (), {"tenant": "acme"})
    assert 'name="tenant" value="acme"' in text
    post("/dead/redrive/start", fingerprint="f1", type="data:export", canary="5", rate="10")
    assert stub.performed == [("redrive", Filter(types=("data:export",), fingerprint="f1"), 5, 10, None)]


def test_the_log_of_a_group_is_a_link_to_the_console_or_a_page(browser: TestClient, stub: FakeInspector) -> None:
    one = DeadGroup("f1", "data:export", "KeyError", "missing", True, 40, NOW, NOW, "id", "default", None)
    stub.groups = [one]
    assert 'href="/task/logs?id=id"' in browser.get("/dead").text
    stub.groups = [replace(one, log_link="https://console")]
    text = browser.get("/dead").text
    assert 'href="https://console"' in text
    assert "/task/logs" not in text
    stub.groups = [replace(one, recorded=False)]
    assert "/task/logs" not in browser.get("/dead").text  # there is no task with this id


def test_obsolete_dead_letters_are_removed_without_archived_tasks(
    browser: TestClient, post: Post, stub: FakeInspector
) -> None:
    assert "no archived tasks and no dead letters" in browser.get("/dead").text
    stub.obsolete = {"data:export": 2}
    text = browser.get("/dead").text
    assert "2 dead letters are obsolete: their tasks were retried or deleted. A redrive of all removes them." in text
    assert '<a class="button" href="/dead/redrive">Remove obsolete dead letters</a>' in text
    text = browser.get("/dead/redrive").text
    assert "<h1>Remove obsolete dead letters?</h1>" in text
    assert 'name="canary"' not in text
    post("/dead/redrive/start", rate="10")
    assert stub.performed == [("redrive", Filter(), 0, 10, None)]


def test_obsolete_dead_letters_are_removed_by_a_redrive_of_a_type_or_of_all(
    browser: TestClient, stub: FakeInspector
) -> None:
    one = DeadGroup("f1", "data:export", "KeyError", "missing", True, 40, NOW, NOW, "id", "default", None)
    stub.groups, stub.obsolete = [one], {"data:export": 1}
    text = browser.get("/dead").text
    assert "1 dead letter is obsolete: its task was retried or deleted" in text
    assert "Redrive all" in text
    for requested, expected in [({}, True), ({"type": "data:export"}, True), ({"fingerprint": "f1"}, False)]:
        text = browser.get("/dead/redrive", params=requested).text
        assert ("Redrive 40?" if requested else "Redrive everything: 40 tasks of 1 type?") in text
        assert ("In addition, this removes 1 obsolete dead letter" in text) is expected, requested


def test_an_empty_type_never_redrives_everything(browser: TestClient, post: Post, stub: FakeInspector) -> None:
    # given dead letters, of which one cannot be read, and so has no type
    one = DeadGroup("f1", "data:export", "KeyError", "missing", True, 40, NOW, NOW, "id", "default", None)
    stub.groups = [one, replace(one, fingerprint="f2", type="", recorded=False, count=1)]
    # then no type is chosen at first, and the unreadable ones are no choice
    text = browser.get("/dead").text
    assert re.findall("<option[^>]*>([^<]*)", text) == ["Choose a type", "data:export"]
    # and an empty type is refused
    assert browser.get("/dead/redrive?type=").status_code == 400
    post("/dead/redrive/start", type="", canary="0", rate="10")
    assert stub.performed == []


def test_a_redrive_of_all_does_not_count_bulk_actions(browser: TestClient, stub: FakeInspector) -> None:
    one = DeadGroup("f1", "data:export", "KeyError", "missing", True, 40, NOW, NOW, "id", "default", None)
    stub.groups = [one, replace(one, fingerprint="f2", type="jobs:bulk", count=3)]
    assert "Redrive everything: 40 tasks of 1 type?" in browser.get("/dead/redrive").text
    assert "Redrive 3?" in browser.get("/dead/redrive", params={"type": "jobs:bulk"}).text


# --- Find ----------------------------------------------------------------------------------------------------------


def test_a_search_is_in_no_address_and_its_results_can_be_loaded_again(
    browser: TestClient, post: Post, stub: FakeInspector
) -> None:
    # when
    answer = post("/find", text=' "ann@acme.example"; ü \n', newer="2026-01-30T06:30+02:00", older="")
    # then
    assert (answer.status_code, answer.headers["location"], stub.called("find")) == (303, "/find", [])
    cookie = answer.headers["set-cookie"]
    assert all(part in cookie for part in ("Path=/find;", "HttpOnly", "SameSite=strict", "Max-Age=900"))
    for _ in range(2):
        text = browser.get("/find").text
        assert 'value="&#34;ann@acme.example&#34;; ü"' in text
        assert 'value="2026-01-30T06:30+02:00"' in text
    at = datetime(2026, 1, 30, 4, 30, tzinfo=UTC)
    search = (('"ann@acme.example"; ü',), {"created_after": at, "created_before": None, "after": None})
    assert stub.called("find") == [search, search]
    for shown in (
        "/tasks?type=data%3Aexport",
        "/runs?type=data%3Aexport",
        "/tasks?error=time",
        "/find?from=the%3Dcursor",
    ):
        assert f'href="{shown}"' in text
    assert "Searched the payloads of 20,000 tasks, back to" in text
    assert not any("acme" in address for address in re.findall(r'(?:href|action)="([^"]*)"', text))
    # and
    browser.get("/find?from=the%3Dcursor")
    assert stub.called("find")[-1][1]["after"] == "the=cursor"


def test_a_search_that_names_a_task_opens_it(browser: TestClient, post: Post, stub: FakeInspector) -> None:
    stub.answers["find"] = Found("a b", (), 0, None, None)
    post("/find", text="a")
    answer = browser.get("/find")
    assert (answer.status_code, answer.headers["location"]) == (303, "/task?id=a+b")


def test_a_search_that_finds_nothing_says_how_far_it_searched(
    browser: TestClient, post: Post, stub: FakeInspector
) -> None:
    post("/find", text="x")
    stub.answers["find"] = Found(None, (), 1, NOW, "c")
    text = browser.get("/find").text
    assert "Nothing found so far." in text
    assert f"Searched the payloads of 1 task, back to {stamp(NOW)}." in text
    stub.answers["find"] = Found(None, (), 0, None, None)
    text = browser.get("/find").text
    assert "Nothing found." in text
    assert "no payload was searched" in text
    assert "Continue" not in text


@pytest.mark.parametrize(
    ("fields", "field", "problem"),
    [
        ({"text": "x" * 5_000}, "text", "1 to 200 characters are required"),
        ({"text": "x", "newer": "monday"}, "newer", "is neither a duration"),
        ({"text": "x", "newer": "1h", "older": "1d"}, "older", "nothing is older than 1d and newer than 1h"),
    ],
)
def test_a_search_that_is_refused_says_why_at_its_field(
    browser: TestClient, post: Post, stub: FakeInspector, fields: dict[str, str], field: str, problem: str
) -> None:
    stub.answers["find"] = SelectionError("text", "1 to 200 characters are required")
    post("/find", **fields)
    answer = browser.get("/find")
    assert answer.status_code == 400
    assert problem in answer.text
    assert re.search(rf'name="{field}" value="[^"]+"[^>]*aria-invalid="true"', answer.text)


def test_a_position_of_another_search_is_refused_with_a_way_back(
    browser: TestClient, post: Post, stub: FakeInspector
) -> None:
    post("/find", text="x")
    stub.answers["find"] = SelectionError("after", "this position belongs to another one")
    answer = browser.get("/find", params={"from": "c"})
    assert answer.status_code == 400
    assert 'This position belongs to another one. <a href="/find">' in answer.text


def test_a_page_without_a_search_is_a_form(browser: TestClient, post: Post, stub: FakeInspector) -> None:
    assert "Redacted values are not searched" in browser.get("/find").text
    post("/find", text="  ")
    assert browser.get("/find").status_code == 200
    assert stub.called("find") == []


def test_the_beginning_of_one_id_opens_its_page(browser: TestClient, stub: FakeInspector) -> None:
    stub.rows = [task_row(id="01a214ac-1"), task_row(id="02")]
    assert "01a214ac-1" in browser.get("/task", params={"id": "01a"}).text
    assert browser.get("/task", params={"id": "03"}).status_code == 404
    answer = browser.get("/task", params={"id": "0"})
    assert answer.status_code == 400
    assert "Several ids begin with" in html.unescape(answer.text) or "several ids begin with" in answer.text


# --- Limits --------------------------------------------------------------------------------------------------------

SYNC = "account:sync"
UNCHANGED = dict.fromkeys(("max_per_key", "max_total", "total", "rate", "until"))


def test_a_limit_is_shown_with_its_tasks_and_the_declared_value(browser: TestClient) -> None:
    text = words(browser.get("/limits").text)
    assert re.search(r"openai shared 500 a minute, burst 50 1 start later 7 of 10 10 4,321 4\d min ago in \d min", text)
    assert "10 at a time by ann@laptop, 1 h ago, ends in 1 d: more quota." in text
    assert "Declared: 25 at a time and 500 a minute, burst 50" in text


def test_a_stage_without_limits_says_so(browser: TestClient, stub: FakeInspector) -> None:
    stub.limited = []
    assert "No task declares a limit." in browser.get("/limits").text


def test_the_keys_of_a_type_are_in_the_order_of_their_waits(browser: TestClient, stub: FakeInspector) -> None:
    each = limit(SYNC, None, LimitKind.EACH_KEY)
    keys = [
        limit(SYNC, key, LimitKind.KEY, oldest_held_at=at, change=each.change)
        for key, at in (("none", None), ("short", NOW), ("long", NOW - timedelta(hours=9)))
    ]
    stub.limited = [
        each,
        *keys,
        limit(
            SYNC,
            "own",
            LimitKind.KEY,
            change=LimitChange(LimitValues(3, None), "it is new", None, NOW, None, LimitKind.KEY),
        ),
    ]
    text = browser.get("/limits/show", params={"name": SYNC}).text
    links = re.findall(r'data-row id="key-\d" href="/limits/show\?name=account%3Async&amp;key=(\w+)', text)
    assert links == ["long", "own", "short", "none"]
    assert "in all, 10 for each key" in text
    assert (text.count("more quota"), text.count("it is new")) == (1, 1)  # a change of each key is shown once


def test_a_key_offers_a_reset_only_of_what_is_set_for_it(browser: TestClient, stub: FakeInspector) -> None:
    own = limit(SYNC, "7", LimitKind.KEY)
    stub.limited = [own]
    text = browser.get("/limits/show", params={"name": SYNC, "key": "7"}).text
    assert 'id="reset"' in text
    assert "10 at a time by ann@laptop" in words(text)
    stub.limited = [replace(own, change=limit(SYNC, None, LimitKind.EACH_KEY).change)]
    text = browser.get("/limits/show", params={"name": SYNC, "key": "7"}).text
    assert 'id="reset"' not in text
    assert "10 at a time for each key by ann@laptop" in words(text)


@pytest.mark.parametrize(
    ("kind", "field"),
    [(LimitKind.SHARED, "total"), (LimitKind.TOTAL, "max_total"), (LimitKind.EACH_KEY, "max_per_key")],
)
def test_a_limit_is_paused_by_the_field_of_its_kind(
    browser: TestClient, post: Post, stub: FakeInspector, kind: LimitKind, field: str
) -> None:
    stub.limited = [limit(SYNC, None, kind, in_force=LimitValues(0, None))]
    assert 'id="pause"' not in browser.get("/limits/show", params={"name": SYNC}).text
    stub.limited = [limit(SYNC, None, kind)]
    text = browser.get("/limits/show", params={"name": SYNC}).text
    assert f'<input type="hidden" name="{field}" value="0">' in text
    answer = post("/limits/set", name=SYNC, reason="a bad deploy", **{field: "0"})
    assert stub.called("set_limit") == [((SYNC,), UNCHANGED | {"key": None, field: 0, "reason": "a bad deploy"})]
    assert "Set. In force now: account:sync" in browser.get(answer.headers["location"]).text


def test_a_form_says_until_when_new_values_hold(browser: TestClient, stub: FakeInspector) -> None:
    stub.limited = [limit(SYNC, None, LimitKind.TOTAL, change=None)]
    assert '<option value="">until it is reset</option>' in browser.get("/limits/show", params={"name": SYNC}).text
    stub.limited = [limit(SYNC, None, LimitKind.TOTAL)]
    assert '<option value="">as set before</option>' in browser.get("/limits/show", params={"name": SYNC}).text


def test_a_limit_of_a_key_is_set_with_all_its_values(browser: TestClient, post: Post, stub: FakeInspector) -> None:
    stub.limited = [limit(SYNC, " a/b", LimitKind.KEY)]
    values = {"max_per_key": "3", "max_total": "", "rate": "100 / 1M", "burst": "5", "for": "1h"}
    answer = post("/limits/set", name=SYNC, key=" a/b", reason=" it moves ", **values)
    [(arguments, named)] = stub.called("set_limit")
    until = named.pop("until")
    assert timedelta(minutes=59) < until - datetime.now(UTC) <= timedelta(hours=1)
    rate = Rate(100, timedelta(minutes=1), burst=5)
    expected = UNCHANGED | {"key": " a/b", "max_per_key": 3, "rate": rate, "reason": "it moves"}
    del expected["until"]
    assert (arguments, named) == ((SYNC,), expected)
    assert answer.headers["location"].startswith("/limits/show?name=account%3Async&key=+a%2Fb&note=")
    assert "account:sync, key  a/b: 10 at a time and 500 a minute" in browser.get(answer.headers["location"]).text


@pytest.mark.parametrize(
    ("field", "given", "problem"),
    [
        ("max_per_key", "many", "a whole number from 0 to 10,000 is required"),
        ("max_per_key", "-1", "a whole number from 0 to 10,000 is required"),
        ("max_per_key", "10001", "a whole number from 0 to 10,000 is required"),
        ("rate", SCRIPT, "is not a rate; give starts and a time"),
        ("rate", "5/soon", "is not a duration"),
        ("burst", "5", "give the rate too"),
        ("for", "soon", "is not a duration"),
        ("reason", " ", "a reason is required"),
    ],
)
def test_a_refused_value_is_reported_at_its_field_and_the_input_stays(
    post: Post, stub: FakeInspector, field: str, given: str, problem: str
) -> None:
    stub.limited = [limit(SYNC, None, LimitKind.EACH_KEY)]
    answer = post("/limits/set", **{"name": SYNC, "max_per_key": "7", "reason": "it moves", field: given})
    assert answer.status_code == 400
    assert re.search(f'role="alert">{field}: .*{problem}.*Nothing was changed', answer.text)
    assert '<span class="error" id="wrong">' in answer.text
    assert f'value="{"it moves" if field != "reason" else "7"}"' in answer.text
    assert SCRIPT not in answer.text
    assert stub.performed == []


def test_a_value_that_the_database_refuses_is_reported_too(post: Post, stub: FakeInspector) -> None:
    stub.answers["set_limit"] = LimitError("total", "openai is a task type: give max_total")
    answer = post("/limits/set", name="openai", total="3", reason="r")
    assert answer.status_code == 400
    assert 'role="alert">total: openai is a task type: give max_total. Nothing was changed' in answer.text
    assert 'value="3"' in answer.text


def test_a_limit_is_reset(browser: TestClient, post: Post, stub: FakeInspector) -> None:
    assert 'action="/limits/reset"' in browser.get("/limits/show", params={"name": "openai"}).text
    stub.limited = [limit(change=None, in_force=LimitValues(25, None))]
    assert 'action="/limits/reset"' not in browser.get("/limits/show", params={"name": "openai"}).text
    answer = post("/limits/reset", name="openai", reason="done")
    assert stub.performed == [("reset_limit", "openai", None, "done")]
    assert "Reset. In force now: openai: 25 at a time." in browser.get(answer.headers["location"]).text


def test_the_delay_of_a_limit_is_ended_by_a_reset(browser: TestClient, stub: FakeInspector) -> None:
    stub.limited = [limit(change=None, delayed_until=NOW + timedelta(hours=1))]
    text = browser.get("/limits/show", params={"name": "openai"}).text
    assert 'action="/limits/reset"' in text
    assert "A handler has delayed the limit until" in text


def test_an_undeclared_limit_is_shown_and_reset(browser: TestClient, post: Post, stub: FakeInspector) -> None:
    stub.limited = [limit(declared=LimitValues(None, None))]
    assert "more quota. No task declares this limit any more" in words(browser.get("/limits").text)
    stub.limited = [limit(declared=LimitValues(None, None), change=None, in_force=LimitValues(None, None))]
    answer = post("/limits/reset", name="openai", reason="its type is gone")
    assert answer.headers["location"].startswith("/limits?note=")
    assert "Reset. In force now: openai: no limit." in browser.get(answer.headers["location"]).text


def test_the_order_of_a_key_is_shown_and_the_next_task_runs_first(
    browser: TestClient, post: Post, stub: FakeInspector
) -> None:
    stub.answers["types"] = [(replace(type_view(), type=SYNC, ordered=True),)]
    stub.answers["pass_line"] = ActionResult("a", "pass_line", State.RETRY, State.RETRY, note="b is first")
    stub.limited = [limit(SYNC, "acme 7", LimitKind.KEY)]
    stub.rows = [task_row(id="a", state=State.RETRY), task_row(id="b", state=State.HELD)]
    text = browser.get("/limits/show", params={"name": SYNC, "key": "acme 7"}).text
    assert re.findall(r'id="row-(\w)"', text) == ["a", "b"]
    assert "a moves to the end of the order, and b is first" in text
    answer = post("/limits/pass", name=SYNC, key="acme 7", first="a", reason="it fails")
    assert stub.performed == [("pass_line", SYNC, "acme 7", "a", "it fails")]
    assert "Task a: b is first." in browser.get(answer.headers["location"]).text
    stub.rows = stub.rows[:1]
    assert "/limits/pass" not in browser.get("/limits/show", params={"name": SYNC, "key": "acme 7"}).text


def test_a_key_without_an_order_has_no_line(browser: TestClient, stub: FakeInspector) -> None:
    stub.limited = [limit(SYNC, "7", LimitKind.KEY)]
    assert "Order of the key" not in browser.get("/limits/show", params={"name": SYNC, "key": "7"}).text
    assert stub.called("line") == []


@pytest.mark.parametrize("path", ["/limits/reset", "/limits/pass"])
def test_a_change_of_a_limit_needs_a_reason(post: Post, stub: FakeInspector, path: str) -> None:
    answer = post(path, name=SYNC, key="7", reason=" ")
    assert answer.status_code == 400
    assert "Reason: a reason is required, for other operators and the audit." in answer.text
    assert stub.performed == []


def test_an_unknown_limit_is_named(browser: TestClient, stub: FakeInspector) -> None:
    stub.fails = LimitError("name", f"no limit, and no type with a limit, is named {SCRIPT!r}")
    answer = browser.get("/limits/show", params={"name": SCRIPT})
    assert answer.status_code == 400
    assert "Name: no limit, and no type with a limit, is named" in answer.text
    assert SCRIPT not in answer.text


def test_a_held_task_links_to_its_limits(browser: TestClient, stub: FakeInspector) -> None:
    stub.changes["one"] = {"limits": ("account:sync/a/b", "openai"), "waits_for": "account:sync/a/b"}
    text = browser.get("/task", params={"id": "one"}).text
    of_key = '<a class="id" href="/limits/show?name=account%3Async&amp;key=a%2Fb">account:sync/a/b</a>'
    assert f"Its limit: {of_key}" in text
    assert f'<dd>{of_key} <a class="id" href="/limits/show?name=openai">openai</a>' in text


def words(page: str) -> str:
    """The text of a page, without its tags."""
    return re.sub(" (?=[,:])", "", " ".join(re.sub("<[^>]*>", " ", page).split()))


# --- Statistics, audit ---------------------------------------------------------------------------------------------


def test_statistics_are_by_type_or_tenant_with_costs_as_estimates(browser: TestClient) -> None:
    text = browser.get("/statistics", params={"by": "tenant", "within": "7d"}).text
    assert "acme" in text
    assert "Cost, estimated" in text
    assert "$0.0213" in text
    assert browser.get("/statistics", params={"by": "colour"}).status_code == 400


@pytest.mark.parametrize("given", [{"type": "data:export"}, {"tenant": "acme", "within": "7d"}, {"tenant": ""}])
def test_runs_over_time_lead_to_the_tasks_of_each_column(browser: TestClient, given: dict[str, str]) -> None:
    text = browser.get("/runs", params=given).text
    assert text.count('<svg class="chart"') == 3
    assert "44 runs" in text or "46 runs: 40 completed, 6 failed" in text
    addresses = re.findall(r'<a href="(/tasks[^"]*ended_older=[^"]*)"', text)
    assert len(addresses) == 36
    assert browser.get(html.unescape(addresses[0])).status_code == 200


def test_marks_are_on_the_charts_and_in_a_list_with_links(browser: TestClient, stub: FakeInspector) -> None:
    # given
    stub.marked = [
        views.mark(at=views.before(minutes=12), who=None),
        views.mark(kind="pause", text="type data:export paused", reason="<b>", target="type:data:export"),
        views.mark(kind="bulk", text="retry of 4 tasks", bulk="b1", at=views.before(minutes=50)),
    ]
    # when
    text = browser.get("/runs", params={"type": "data:export"}).text
    # then
    assert [text.count(f'class="mark {kind}"') for kind in ("deploy", "pause", "bulk")] == [3, 3, 3]
    assert "3 marks: deploys, pauses, limits, bulk actions" in text
    for address in ("/audit?target=type%3Adata%3Aexport", "/bulk/show?id=b1"):
        assert f'{address}">' in text
    assert "type data:export paused</a> by ann: &lt;b&gt;" in text
    assert f"deploy 3f2a1c0 at {stamp(views.before(minutes=12))}" in text
    # and the queues have those of all queues and their own
    stub.marked = [views.mark(), views.mark(kind="pause", text="queue low paused", target="queue:low")]
    text = browser.get("/").text
    assert (text.count(">deploy 3f2a1c0</a>"), text.count(">queue low paused</a>")) == (3, 1)


def test_a_type_is_shown_against_its_limits_and_target(browser: TestClient, stub: FakeInspector) -> None:
    # given
    group = replace(views.dead().groups[0], acknowledged=Acknowledged(NOW, "ann", "provider is down"))
    stub.groups = [group]
    stub.paused[PauseScope.QUEUE, "default"] = Pause(PauseScope.QUEUE, "default", "import", "bob", NOW, None)
    # when
    shown = words(browser.get("/runs", params={"type": "data:export"}).text)
    # then
    assert "2 of 5" in shown
    assert "1 min 15 s target 1 min" in shown
    assert "Limits" in shown
    assert "openai shared" in shown
    assert "paused with its queue default by bob" in shown
    assert "known provider is down (ann)" in shown
    assert stub.called("limits") == [(("data:export",), {"key": None})]
    # and a tenant against its limit of each type with a key for each tenant
    assert "openai shared" in words(browser.get("/runs", params={"tenant": "acme"}).text)
    assert stub.called("limits")[-1] == (("data:export",), {"key": "acme"})
    # and a limit that the database does not have is left out
    stub.answers["limits"] = LimitError("name", "no limit")
    assert browser.get("/runs", params={"type": "data:export"}).status_code == 200


def test_why_a_type_is_slow_is_a_page_of_findings(browser: TestClient) -> None:
    assert "/runs/why?type=data%3Aexport" in browser.get("/runs", params={"type": "data:export"}).text
    text = browser.get("/runs/why", params={"type": "data:export"}).text
    assert '<span class="state failed">bad</span>' in text
    assert "resume it: joblane resume type data:export" in text


def test_a_tenant_is_paused_where_its_tasks_are_counted(browser: TestClient, post: Post, stub: FakeInspector) -> None:
    text = browser.get("/tenants").text
    assert '<a data-row id="tenant-2" href="/runs?tenant=globex">globex</a>' in text
    post("/pause", scope="tenant", name="globex", reason="flood")
    assert "flood" in browser.get("/tenants").text


def test_runs_of_nothing_are_a_bad_request(browser: TestClient) -> None:
    assert browser.get("/runs").status_code == 400
    assert browser.get("/runs", params={"type": "a:b", "within": "x"}).status_code == 400


def test_the_audit_is_paged(browser: TestClient, stub: FakeInspector) -> None:
    stub.entries = [AuditEntry(number, NOW, "op", "retry", f"id-{number}", "why") for number in range(80, 0, -1)]
    text = browser.get("/audit").text
    assert "before=31" in text
    assert "id-30" not in text
    assert "id-30" in browser.get("/audit", params={"before": "31"}).text


# --- Parents, children and batches ---------------------------------------------------------------------------------


def test_a_task_shows_its_parents_children_and_batch(browser: TestClient, stub: FakeInspector) -> None:
    stub.changes["one"] = {
        "parents": Relatives((Relative("a", "b:c", State.ARCHIVED), Relative("gone", None, None)), more=True),
        "on_parent_dead": "hold",
        "children": Relatives(
            (Relative("child", "b:c", State.HELD),), True, {State.COMPLETED: 5, State.ARCHIVED: 1, State.HELD: 1_000}, 2
        ),
        "enqueued_by": "creator",
        "batch": "import-7",
        "callback": "on_end",
    }
    text = browser.get("/task", params={"id": "one"}).text
    shown = words(text)
    assert (
        "It runs after these. If one is archived: hold. Task Type State a b:c archived gone – removed And more."
        in shown
    )
    title = "Children (1,008): 5 completed, 1 archived, 1,000 held, 2 removed"
    note = "These run after it, or were enqueued by its runs."
    assert f"{title} {note} Task Type State child b:c held All children" in shown
    assert "Batch import-7 its on_end callback Enqueued by creator" in shown
    for address in (
        "/task?id=a",
        "/task?id=child",
        "/task?id=creator",
        "/tasks?parent=one",
        "/batches/show?id=import-7",
    ):
        assert f'href="{address}"' in text


def test_a_task_without_relatives_has_no_part_for_them(browser: TestClient) -> None:
    text = browser.get("/task", params={"id": "one"}).text
    assert "Parents" not in text
    assert "Batch</dt>" not in text


def test_batches_are_listed_with_their_callbacks(browser: TestClient, stub: FakeInspector) -> None:
    stub.batched = [batch(), batch(row=batch_row(id="open", sealed_at=None, on_end=None, on_success=None))]
    text = browser.get("/batches").text
    assert 'href="/batches/show?id=import-7"' in text
    assert "import-7:on_end completed import-7:on_success held" in words(text)
    assert "no – –" in words(text)
    stub.batched = []
    assert "There are no batches." in browser.get("/batches").text


def test_a_batch_shows_its_progress_and_its_archived_members(browser: TestClient, stub: FakeInspector) -> None:
    stub.batched = [batch(members={State.COMPLETED: 9_997, State.ARCHIVED: 2, State.ACTIVE: 1})]
    text = browser.get("/batches/show", params={"id": "import-7"}).text
    assert "9,999 of 10,000 members" in words(text)
    assert '<progress id="progress" max="10000" value="9999">' in text
    assert 'href="/task?id=dead-1"' in text
    assert "Each of the 2 archived members gets new attempts." in text
    assert 'id="seal"' not in text
    stub.batched = [batch(members={State.ACTIVE: 50_001}, exact=False, dead=(), row=batch_row(sealed_at=None))]
    text = browser.get("/batches/show", params={"id": "import-7"}).text
    assert "0 of at least 50,001 members" in words(text)
    assert 'id="retry"' not in text
    assert 'id="seal"' in text


def test_an_unknown_batch_has_a_page_of_its_own(browser: TestClient) -> None:
    answer = browser.get("/batches/show", params={"id": "unknown"})
    assert answer.status_code == 404
    assert "There is no such batch" in answer.text


def test_the_archived_members_of_a_batch_are_redriven(browser: TestClient, post: Post, stub: FakeInspector) -> None:
    answer = post("/batches/retry", id="import-7", canary="3", rate="20", reason="it is fixed")
    chosen = Filter(tag="batch:import-7", states=(State.ARCHIVED,))
    assert stub.performed == [("redrive", chosen, 3, 20, "it is fixed")]
    assert answer.headers["location"].startswith("/bulk/show?id=b&note=")


def test_a_batch_is_sealed(browser: TestClient, post: Post, stub: FakeInspector) -> None:
    stub.batched = [batch(row=batch_row(sealed_at=None))]
    answer = post("/batches/seal", id="import-7", reason="the importer died")
    assert stub.performed == [("seal_batch", "import-7", "the importer died")]
    assert answer.headers["location"].startswith("/batches/show?id=import-7&note=")


# --- Schedules -----------------------------------------------------------------------------------------------------


def test_the_task_of_a_tick_leads_to_its_schedule(browser: TestClient, stub: FakeInspector) -> None:
    stub.changes["one"] = {"options": {"schedule": "acme:weekly"}}
    assert 'href="/schedules/show?name=acme%3Aweekly"' in re.sub(r'"/~[^/]+/', '"/', browser.get("/task?id=one").text)


def test_schedules_are_chosen_and_paged(browser: TestClient, stub: FakeInspector) -> None:
    # given more schedules than a page has
    stub.scheduled = [schedule_row(name=f"s{number:02}") for number in range(51)]
    # when
    text = browser.get("/schedules?tenant=acme&text=s&problem=yes&origin=run_time&sort=ticks").text
    # then
    given = {"text": "s", "tenant": "acme", "type": None, "origin": "run_time", "problem": True, "paused": False}
    assert stub.called("schedules") == [((), {**given, "sort": "ticks", "after": None, "limit": 50})]
    assert ("51 schedules" in text, "s49" in text, "s50" in text) == (True, True, False)
    assert "from=s49" in text
    assert "s50" in browser.get("/schedules?from=s49").text
    # and a wrong filter is shown with its problem
    stub.answers["schedules"] = SelectionError("tenant", "1 to 128 letters are required")
    refused = browser.get("/schedules?tenant=x")
    assert (refused.status_code, "tenant: 1 to 128 letters are required" in refused.text) == (400, True)
    assert browser.get("/schedules?paused=x").status_code == 400


def test_one_table_has_schedules_of_the_code_and_of_run_time(browser: TestClient, stub: FakeInspector) -> None:
    stub.scheduled.append(schedule_row(name="x", problem="its type is not declared", next_at=None, pause=PAUSE))
    text = browser.get("/schedules").text
    shown = ("every day at 02:00 UTC", "every day at 06:00 Europe/Berlin", "in 5 h", "completed", "missed", "code")
    for one in (*shown, "2 missed in 24 h", "its type is not declared", '<span class="state paused">paused</span>'):
        assert one in text
    assert text.count("<table") == 1
    assert all(stamp(at) in text for at in declared_row().missing_at)


def test_a_schedule_shows_its_ticks_and_what_an_operator_can_do(browser: TestClient, stub: FakeInspector) -> None:
    text = browser.get("/schedules/show?name=tenant:cleanup:nightly").text
    for shown in ("0 2 * * *", "1.2 s", "2 missed in 24 h", "ENABLED on AWS", "Run now", 'name="for"'):
        assert shown in text
    assert 'class="completed" x="0" y="0.0" width="9" height="36.0"' in text
    assert "Delete the schedule" not in text
    # and one that the code no longer declares, or that was made at run time, can be deleted
    stub.scheduled[1] = declared_row(can_be_deleted=True, pause=PAUSE)
    for name in ("tenant:cleanup:nightly", "acme-nightly"):
        assert "Delete the schedule" in browser.get(f"/schedules/show?name={name}").text
    assert "by ann" in browser.get("/schedules/show?name=tenant:cleanup:nightly").text


@pytest.mark.parametrize("name", ["acme-nightly", "tenant:cleanup:nightly"])
def test_each_action_on_a_schedule_says_its_result(
    browser: TestClient, post: Post, stub: FakeInspector, name: str
) -> None:
    def done(action: str, **given: str) -> str:
        return browser.get(post("/schedules/act", name=name, action=action, **given).headers["location"]).text

    assert f"Paused {name}: it has no ticks until 2" in done("pause", reason="a holiday", **{"for": "1h"})
    assert f"Resumed {name}: its next tick is at {stamp(NOW + timedelta(hours=5, minutes=30, seconds=20))}." in done(
        "resume"
    )
    assert f"Paused {name}: it has no ticks until it is resumed." in done("pause")
    assert "Enqueued: new. It runs as soon as its lane has capacity." in done("run")
    assert f"Deleted {name}: it has no ticks any more." in done("delete", reason="moved")
    [(_, _, reason, until), *others] = stub.performed
    assert (reason, timedelta(minutes=59) < until - datetime.now(UTC) <= timedelta(hours=1)) == ("a holiday", True)
    assert [one[0] for one in others] == ["resume_schedule", "pause_schedule", "run_schedule", "delete_schedule"]


def test_an_unknown_action_on_a_schedule_is_refused(post: Post, stub: FakeInspector) -> None:
    assert post("/schedules/act", name="acme-nightly", action="cancel").status_code == 400
    assert post("/schedules/act", name="acme-nightly", action="pause", **{"for": "soon"}).status_code == 400
    assert stub.performed == []
