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
from joblane.inspector.errors import ActionError, SelectionError
from joblane.inspector.filter import ALLOWED, BulkAction, Filter, PauseScope
from joblane.inspector.views import (
    ActionResult,
    AuditEntry,
    CauseNote,
    CauseState,
    Found,
    LogLine,
    Obstacle,
    Pause,
    Relative,
    Relatives,
    SchedulePause,
    Step,
    TickView,
)
from joblane.local.errors import UnavailableError
from joblane.names import Queue
from joblane.page.app import PAGES as ALL_PAGES
from joblane.record.flow.limit_status import LimitChange, LimitKind, LimitValues
from joblane.record.row.states import State
from joblane.tasks.limit import Rate
from tests.builders.views import (
    NOW,
    attempt,
    batch,
    batch_row,
    batching,
    cause,
    errors,
    limit,
    schedule_row,
    task_row,
    task_view,
    type_view,
    wait_page,
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
    stub.rows, stub.entries, stub.a_tenant = [hurt], [entry], planted
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
    stub.groups = [
        cause(
            fingerprint=planted, type=planted, error_type=planted, message=planted, example=planted, queue=planted,
            first_version=planted, last_version=planted, runs=1,
            state=CauseState.KNOWN, note=CauseNote(at, planted, planted),
        )
    ]  # fmt: skip
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


@pytest.mark.parametrize(
    ("address", "status"),
    [
        ("/statistics?by=colour", 400), ("/runs", 400), ("/runs?type=a:b&within=x", 400), ("/dead/redrive?type=", 400),
        ("/schedules?paused=x", 400), ("/bulk/new?action=delete&which=chosen", 400), ("/batches/show?id=unknown", 404),
    ],
)  # fmt: skip
def test_a_wrong_address_is_refused(browser: TestClient, address: str, status: int) -> None:
    assert browser.get(address).status_code == status


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


def test_a_pause_can_be_undone_from_its_notice(browser: TestClient, post: Post, stub: FakeInspector) -> None:
    entry = AuditEntry(7, NOW, "op", "pause", "queue:low", None)
    stub.given(audit=(entry,), undo=entry)
    address = post("/pause", scope="queue", name="low").headers["location"]
    text = browser.get(address).text
    assert '<form method="post" action="/undo" class="inline undo">' in text
    assert '<input type="hidden" name="number" value="7">' in text
    # and a page that is loaded again offers nothing
    assert "/undo" not in browser.get(address).text
    address = post("/undo", number="7").headers["location"]
    assert stub.called("undo") == [((7,), {})]
    text = browser.get(address).text
    assert "Undone: pause of queue:low." in text
    assert 'action="/undo"' not in text


@pytest.mark.parametrize("number", ["", "x", "0", "-1", "9" * 30])
def test_an_undo_without_the_number_of_an_entry_is_refused(post: Post, stub: FakeInspector, number: str) -> None:
    assert post("/undo", number=number).status_code == 400
    assert stub.performed == []


def test_a_refused_undo_says_why(post: Post, stub: FakeInspector) -> None:
    stub.given(undo=SelectionError("number", "more than 15 seconds have passed; nothing was undone"))
    answer = post("/undo", number="7")
    assert (answer.status_code, "more than 15 seconds have passed" in answer.text) == (400, True)


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


# --- One task ------------------------------------------------------------------------------------------------------


def test_a_timeline_has_the_last_attempts(browser: TestClient, stub: FakeInspector) -> None:
    stub.changes["one"] = {"attempts": tuple(attempt(run) for run in range(1, 60))}
    assert "Timeline of 20 runs" in browser.get("/task", params={"id": "one"}).text


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
    result = "This is the new task." if action == "replay" else "It "
    assert f"{action.capitalize()}: done. {result}" in browser.get(place).text
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


def test_a_command_on_the_page_quotes_the_id(stub: FakeInspector) -> None:
    browser = client_of(stub, command="joblane --stage dev")
    browser.cookies.update(COOKIE)
    stub.rows = [task_row(id="-x")]
    for path in ("/task", "/task/logs"):
        assert "joblane --stage dev logs -- -x</code>" in browser.get(path, params={"id": "-x"}).text


@pytest.mark.parametrize(
    ("live", "state", "is_followed", "sentence"),
    [
        ("yes", State.ACTIVE, True, "Following, newest line first."),
        ("5m", State.ACTIVE, True, "Following, newest line first."),
        ("11m", State.ACTIVE, False, "ten minutes have passed"),
        ("2999-01-01T00:00Z", State.ACTIVE, False, "ten minutes have passed"),
        ("yes", State.COMPLETED, False, "the task has ended"),
        ("", State.ACTIVE, False, ""),
    ],
)
def test_logs_are_followed_for_ten_minutes(
    live: str, state: State, is_followed: bool, sentence: str, browser: TestClient, stub: FakeInspector
) -> None:
    stub.rows = [task_row(id="one", state=state)]
    found = browser.get("/task/logs", params={"id": "one", "live": live, "level": "ERROR"}).text
    assert ('hx-trigger="every 2s' in found) is is_followed
    assert sentence in found
    address = re.search(r'hx-get="([^"]*)"', found)
    if address is not None:  # the time is kept, so that it ends
        assert "live=20" in address[1]
        assert "level=ERROR" in address[1]


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


def test_a_dry_run_whose_example_was_removed_has_no_payload(browser: TestClient, stub: FakeInspector) -> None:
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


@pytest.mark.parametrize(
    ("fields", "performed"),
    [
        (
            {"fingerprint": "f1", "type": "data:export", "canary": "5"},
            [("redrive", Filter(types=("data:export",), fingerprint="f1"), 5, 10, None)],
        ),
        ({}, [("redrive", Filter(), 0, 10, None)]),
        ({"type": "", "canary": "0"}, []),  # an empty type never redrives everything
    ],
    ids=["group", "all", "empty-type"],
)
def test_dead_letters_are_redriven(
    post: Post, stub: FakeInspector, fields: dict[str, str], performed: list[tuple[Any, ...]]
) -> None:
    post("/dead/redrive/start", rate="10", **fields)
    assert stub.performed == performed


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


def test_limits_that_hold_tasks_or_were_changed_come_first(browser: TestClient, stub: FakeInspector) -> None:
    stub.limited = [limit("a", change=None, held=0), limit("m", held=0), limit("z", change=None, held=2)]
    found = re.findall(r'id="limit-\d+" href="/limits/show\?name=(\w)', browser.get("/limits").text)
    assert found == ["m", "z", "a"]


@pytest.mark.parametrize(
    ("kind", "field"),
    [(LimitKind.SHARED, "total"), (LimitKind.TOTAL, "max_total"), (LimitKind.EACH_KEY, "max_per_key")],
)
def test_a_limit_is_paused_by_the_field_of_its_kind(
    browser: TestClient, post: Post, stub: FakeInspector, kind: LimitKind, field: str
) -> None:
    stub.limited = [limit(SYNC, None, kind)]
    answer = post("/limits/set", name=SYNC, reason="a bad deploy", **{field: "0"})
    assert stub.called("set_limit") == [((SYNC,), UNCHANGED | {"key": None, field: 0, "reason": "a bad deploy"})]
    assert "Set. In force now: account:sync" in browser.get(answer.headers["location"]).text


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
    stub.limited = [limit(change=None, in_force=LimitValues(25, None))]
    answer = post("/limits/reset", name="openai", reason="done")
    assert stub.performed == [("reset_limit", "openai", None, "done")]
    assert "Reset. In force now: openai: 25 at a time." in browser.get(answer.headers["location"]).text


def test_an_undeclared_limit_is_reset(browser: TestClient, post: Post, stub: FakeInspector) -> None:
    stub.limited = [limit(declared=LimitValues(None, None), change=None, in_force=LimitValues(None, None))]
    answer = post("/limits/reset", name="openai", reason="its type is gone")
    assert answer.headers["location"].startswith("/limits?note=")
    assert "Reset. In force now: openai: no limit." in browser.get(answer.headers["location"]).text


def test_the_next_task_of_a_key_runs_first(browser: TestClient, post: Post, stub: FakeInspector) -> None:
    stub.answers["types"] = [(replace(type_view(), type=SYNC, ordered=True),)]
    stub.answers["pass_line"] = ActionResult("a", "pass_line", State.RETRY, State.RETRY, note="b is first")
    stub.limited = [limit(SYNC, "acme 7", LimitKind.KEY)]
    stub.rows = [task_row(id="a", state=State.RETRY), task_row(id="b", state=State.HELD)]
    answer = post("/limits/pass", name=SYNC, key="acme 7", first="a", reason="it fails")
    assert stub.performed == [("pass_line", SYNC, "acme 7", "a", "it fails")]
    assert "Task a: b is first." in browser.get(answer.headers["location"]).text
    stub.rows = stub.rows[:1]
    assert "/limits/pass" not in browser.get("/limits/show", params={"name": SYNC, "key": "acme 7"}).text


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


# --- Statistics, audit ---------------------------------------------------------------------------------------------


def test_runs_over_time_lead_to_the_tasks_of_each_column(browser: TestClient) -> None:
    text = browser.get("/runs", params={"type": "data:export"}).text
    [address, *_] = re.findall(r'<a href="(/tasks[^"]*ended_older=[^"]*)"', text)
    assert browser.get(html.unescape(address)).status_code == 200


@pytest.mark.parametrize(("hours", "css"), [((100, 0), "bad"), ((0, 100), "bad"), ((100, 100), "")])
def test_dead_letters_of_a_type_are_red_by_the_newest_of_all_errors(
    browser: TestClient, stub: FakeInspector, hours: tuple[int, int], css: str
) -> None:
    found = [cause(archived=1, last_at=datetime.now(UTC) - timedelta(hours=ago, minutes=1)) for ago in hours]
    stub.answers["errors"] = [errors(causes=(*found, cause(archived=0, last_at=datetime.now(UTC))))]
    text = browser.get("/runs", params={"type": "data:export"}).text
    assert f'<dt>dead letters</dt><dd class="{css}">' in text


@pytest.mark.parametrize(
    "given",
    [
        [(batching(advised=None, obstacle=Obstacle.LITTLE),)],
        UnavailableError("a stage of an older version has no such operation"),
    ],
    ids=["nothing", "an older stage"],
)
def test_a_type_without_a_batch_that_pays_has_no_sentence_on_it(
    browser: TestClient, stub: FakeInspector, given: Any
) -> None:
    stub.given(batching=given)
    answer = browser.get("/runs", params={"type": "data:export"})
    assert answer.status_code == 200
    assert "batch_size" not in answer.text


def test_a_type_and_a_tenant_are_shown_against_their_limits(browser: TestClient, stub: FakeInspector) -> None:
    browser.get("/runs", params={"type": "data:export"})
    browser.get("/runs", params={"tenant": "acme"})
    assert stub.called("limits") == [(("data:export",), {"key": key}) for key in (None, "acme")]


def test_the_audit_is_paged(browser: TestClient, stub: FakeInspector) -> None:
    stub.entries = [AuditEntry(number, NOW, "op", "retry", f"id-{number}", "why") for number in range(80, 0, -1)]
    text = browser.get("/audit").text
    assert "before=31" in text
    assert "id-30" not in text
    assert "id-30" in browser.get("/audit", params={"before": "31"}).text


# --- Parents, children and batches ---------------------------------------------------------------------------------


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


# --- Waits ---------------------------------------------------------------------------------------------------------


def test_waits_are_chosen_and_paged(browser: TestClient, stub: FakeInspector) -> None:
    stub.answers["waits"] = wait_page(after="c")
    text = browser.get("/waits?type=data:export&signal=approval&after=b").text
    given = {"type": "data:export", "tenant": None, "signal": "approval", "after": "b", "limit": 50}
    assert stub.called("waits") == [((), given)]
    assert "/waits?after=c&amp;type=data%3Aexport&amp;signal=approval" in text


def test_a_signal_is_sent_and_a_wait_is_ended(browser: TestClient, post: Post, stub: FakeInspector) -> None:
    kept = 'kept: one does not wait for "a" now'
    stub.answers["signal"] = ActionResult("one", "signal", State.HELD, State.HELD, note=kept)
    answer = post("/task/signal", id="one", signal="a", value='{"yes": true}', replace="yes", reason="by phone")
    assert post("/task/signal", id="one", signal="a", value="").status_code == 303
    skipped = post("/task/act", id="one", action="skip", reason="late")
    assert stub.performed == [
        ("signal", "one", "a", {"yes": True}, True, "by phone"),
        ("signal", "one", "a", None, False, None),
        ("skip", "one", "late"),
    ]
    assert 'Kept: one does not wait for "a" now.' in html.unescape(browser.get(answer.headers["location"]).text)
    assert skipped.headers["location"].startswith("/task?id=one&note=")
    refused = post("/task/signal", id="one", signal="a", value="471147114711 and")
    assert (refused.status_code, "value: JSON is required" in refused.text.lower()) == (400, False)
    assert "471147114711" not in refused.text


# --- Schedules -----------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("name", ["acme-nightly", "tenant:cleanup:nightly"])
def test_each_action_on_a_schedule_is_carried_out_and_said(
    browser: TestClient, post: Post, stub: FakeInspector, name: str
) -> None:
    said = [
        browser.get(post("/schedules/act", name=name, **given).headers["location"]).text
        for given in (
            {"action": "pause", "reason": "a holiday", "for": "1h"},
            {"action": "resume"},
            {"action": "pause"},
            {"action": "run"},
            {"action": "delete", "reason": "moved"},
        )
    ]
    starts = (f"Paused {name}: ", f"Resumed {name}: ", f"Paused {name}: ", "Enqueued: new. ", f"Deleted {name}: ")
    assert all(start in text for start, text in zip(starts, said, strict=True))
    [(_, _, reason, until), *others] = stub.performed
    assert (reason, timedelta(minutes=59) < until - datetime.now(UTC) <= timedelta(hours=1)) == ("a holiday", True)
    assert [one[0] for one in others] == ["resume_schedule", "pause_schedule", "run_schedule", "delete_schedule"]


def test_an_unknown_action_on_a_schedule_is_refused(post: Post, stub: FakeInspector) -> None:
    assert post("/schedules/act", name="acme-nightly", action="cancel").status_code == 400
    assert post("/schedules/act", name="acme-nightly", action="pause", **{"for": "soon"}).status_code == 400
    assert stub.performed == []
