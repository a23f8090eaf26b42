"""`joblane watch` over an inspector without a stage: its lists, keys, dialogs, and what it does during an outage."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from rich.cells import cell_len
from textual.widgets import Static

from joblane.cli.run_tables import chart
from joblane.cli.watch import app as watch_app
from joblane.cli.watch import words
from joblane.cli.watch.grid import Grid
from joblane.cli.watch.lists import MOST_ROWS
from joblane.errors import DatabaseUnavailableError
from joblane.inspector.filter import Filter, PauseScope
from joblane.inspector.views import BulkOutcome, CauseState, Pause, TaskPage
from joblane.local.errors import ForbiddenError
from joblane.names import Queue
from joblane.record.row.states import State
from tests.builders import views
from tests.inspector import FakeInspector
from tests.patience import PATIENCE_SECONDS
from tests.watching import Screen, watch

HINTS = "/ filter  p pause  r retry  ? help  q quit"
AWAY = DatabaseUnavailableError("the database is unavailable: connection refused. An action may have been carried out")
LISTS = {"1": "QUEUE", "2": "AGE", "3": "AGE", "4": "WHEN", "5": "ARCHIVED", "6": "MEAN WAIT", "7": "LAST TICKS"}
"""Key of a list → a title of its table."""


@pytest.fixture
def stub() -> FakeInspector:
    states = (State.ARCHIVED, State.RETRY, State.ACTIVE, State.COMPLETED)
    rows = [views.task_row(id=f"task-{number}", state=states[number % 4]) for number in range(4)]
    return FakeInspector(rows=rows, groups=list(views.dead().groups))


# --- Keys ------------------------------------------------------------------------------------------------------------


def test_keys_choose_lists_and_rows_and_show_a_task(stub: FakeInspector) -> None:
    async def scenario(screen: Screen) -> None:
        await screen.press("right")
        await screen.until("AGE")
        # when the cursor goes to the third row by three keys for down and two for up
        await screen.press("j", "down", "j", "k", "up", "j")
        await screen.until(lambda: " active " in screen.selected)
        await screen.press("enter")
        # then
        await screen.until("It was archived after 4 attempts.")
        assert stub.called("task") == [(("task-2",), {})]
        await screen.press("G")
        await screen.until("jobs retry task-2")
        # and Esc leads back to the list, whose cursor has stayed
        await screen.press("escape")
        await screen.until("AGE")
        # and it stays on its row, and in view, when more rows come than fit
        stub.rows[:0] = [views.task_row(id=f"new-{number}", state=State.HELD) for number in range(40)]
        await screen.press("R")
        await screen.until("held")
        await screen.until(lambda: " active " in screen.selected)
        await screen.press("enter")
        await screen.until(lambda: len(stub.called("task")) >= 2)
        assert {call for (call,), _ in stub.called("task")} == {"task-2"}

    assert watch(stub, scenario).failure is None


@pytest.mark.parametrize("keys", [("q",), ("slash", "escape", "escape"), ("p", "ctrl+c")])
def test_q_escape_and_ctrl_c_end_it(stub: FakeInspector, keys: tuple[str, ...]) -> None:
    async def scenario(screen: Screen) -> None:
        await screen.press(*keys[:-1])
        await screen.pilot.pause(0.05)
        assert screen.app._exit is False
        await screen.press(keys[-1])

    app = watch(stub, scenario)
    assert (app._exit, app.failure, app.return_code) == (True, None, 0)


@pytest.mark.parametrize("size", [(80, 24), (140, 40)])
def test_each_list_fits_the_terminal(stub: FakeInspector, size: tuple[int, int]) -> None:
    async def scenario(screen: Screen) -> None:
        for key, title in LISTS.items():
            await screen.press(key)
            await screen.until(title)
            assert HINTS in screen.lines[-1]
            assert "7 Schedules" in screen.lines[1]
            assert max(map(cell_len, screen.lines)) <= size[0]
            assert screen.app.query_one(Grid).virtual_size.width <= size[0]
            head = next(line for line in screen.lines if title in line)
            assert "…" not in head, head
            if key == "2":  # an error is worth more than an id, which Enter shows
                assert ("task-3" in screen.text) is (size[0] == 140)
                assert "TimeoutError: the up" in screen.text
        await screen.press("question_mark")
        await screen.until("retry a task or an error's tasks")
        # the list is drawn in a new size at once, behind a dialog as well
        await screen.press("escape", "2")
        await screen.until("AGE")
        await screen.press("r")
        await screen.pilot.resize_terminal(200, 40)
        await screen.until(lambda: any("task-3" in line for line in screen.lines))
        await screen.press("escape", "5", "enter")
        await screen.until("Filter: type=data:export fingerprint=")

    watch(stub, scenario, size=size)


def test_a_chart_has_one_scale_and_shows_a_single_failure() -> None:
    title, top, *_, failed, axis = (line.plain for line in chart([0, 800, 400], [0, 1, 0], 80, 4).renderables)  # type: ignore[union-attr]
    assert title == "RUNS PER MINUTE  1,200 in 3 minutes, 1 failed"
    assert top.strip() == "800┤    ███"
    assert failed == "failed    ▁▁▁   "
    assert axis.split() == ["3", "minutes", "ago", "now"]


# --- Filter ----------------------------------------------------------------------------------------------------------


def test_a_filter_is_written_as_for_ls_and_escape_ends_it(stub: FakeInspector) -> None:
    async def scenario(screen: Screen) -> None:
        await screen.press("2", "slash")
        await screen.type("state=retry type=data:export tenant=acme", "filter")
        await screen.until("Filter: state=retry type=data:export tenant=acme")
        chosen = Filter(states=(State.RETRY,), types=("data:export",), tenant="acme")
        await screen.until(lambda: stub.filters[-1] == chosen)
        # a list that does not use a word says so
        await screen.press("6")
        await screen.until("not used here: state, tenant")
        # an invalid word changes nothing
        await screen.press("2", "slash")
        await screen.type("stat=retry", "filter")
        await screen.until("No such option: --stat")
        await screen.press("escape")
        assert "Filter: state=retry type=data:export tenant=acme" in screen.text
        # when
        await screen.press("escape")
        await screen.until(lambda: stub.filters[-1] == Filter())
        assert "Filter:" not in screen.text

    watch(stub, scenario)


def test_each_word_of_a_filter_is_checked() -> None:
    now = datetime.now(UTC)
    found = words.parsed("state=retry --state archived --queue=low id=ab error='did not end' newer=2h")
    assert (found.states, found.queues, found.id_prefix) == ((State.RETRY, State.ARCHIVED), (Queue.LOW,), "ab")
    assert found.error == "did not end"
    assert found.created_after is not None
    assert abs(found.created_after - (now - timedelta(hours=2))) < timedelta(minutes=1)
    for text, problem in {
        "state=rety": "'rety' is not valid",
        "export": "write NAME=VALUE",
        "error='did": "a quotation mark is missing",
        "newer=soon": "--newer",
        "--help": "--help",
    }.items():
        with pytest.raises(ValueError, match=problem):
            words.parsed(text)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("", 2), ("id=a", 1), ("state=retry", 1), ("type=data:import", 1), ("queue=low", 1), ("tenant=globex", 1),
        ("tag=daily", 1), ("error=SOCKET", 1), ("fingerprint=0123", 1), ("newer=1h", 1), ("older=1h", 1),
        ("ended-newer=10m", 1), ("ended-older=10m", 1), ("id=a tenant=acme", 0),
    ],
)  # fmt: skip
def test_a_list_of_failures_applies_each_word(text: str, number: int) -> None:
    one = views.task_row(id="a1", tenant="globex", type="data:import", tags=("daily",), error_message="socket closed")
    now = datetime.now(UTC)
    one = replace(one, queue=Queue.LOW, state=State.RETRY, fingerprint="0123", created_at=now - timedelta(minutes=5))
    rows = [replace(one, finished_at=now - timedelta(minutes=2)), views.task_row(id="b2")]
    assert sum(words.matches(words.parsed(text), row) for row in rows) == number


def test_a_filter_of_failures_says_that_only_the_latest_are_compared(stub: FakeInspector) -> None:
    stub.answers["failures"] = (views.task_row(id="a1"),) * MOST_ROWS

    async def scenario(screen: Screen) -> None:
        await screen.press("4")
        await screen.until("WHEN")
        assert "compared" not in screen.text
        await screen.press("slash")
        await screen.type("type=rare:type", "filter")
        await screen.until("Nothing matches the filter.")
        await screen.until(f"Only the latest {MOST_ROWS} failures are compared with the filter.")

    watch(stub, scenario)


@pytest.mark.parametrize(("number", "shown"), [(1, "type t:0 is paused by ann"), (12, "All 12 in full: jobs pause")])
def test_pauses_of_types_are_shown_or_counted(stub: FakeInspector, number: int, shown: str) -> None:
    stub.answers["pauses"] = tuple(
        Pause(PauseScope.TYPE, f"t:{at}", "why " * 30, "ann", views.NOW, None) for at in range(number)
    )

    async def scenario(screen: Screen) -> None:
        await screen.press("6")
        await screen.until("type t:0 is paused by ann")
        assert shown in screen.text

    watch(stub, scenario)


# --- Actions ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["acme-nightly", "tenant:cleanup:nightly"])
def test_a_schedule_of_each_kind_is_paused_and_resumed(stub: FakeInspector, name: str) -> None:
    async def scenario(screen: Screen) -> None:
        await screen.press("7")
        await screen.until("LAST TICKS")
        if name != "acme-nightly":
            await screen.press("j")
        await screen.press("p")
        await screen.until(lambda: f"Pause schedule {name}" in screen.selected)
        await screen.press("enter")
        await screen.until("It has no ticks.")
        await screen.type("a holiday")
        await screen.press("enter")
        await screen.until(f"Paused {name}: it has no ticks until it is resumed.")
        await screen.until(f"{name} is paused since")
        # when
        await screen.press("p")
        await screen.until(lambda: f"Resume schedule {name}" in screen.selected)
        await screen.press("enter")
        await screen.until("by op: a holiday.")
        await screen.press("enter")
        await screen.until(f"Resumed {name}: its next tick is at")
        assert stub.performed == [("pause_schedule", name, "a holiday", None), ("resume_schedule", name, None)]

    watch(stub, scenario)


def test_a_pause_needs_a_reason_and_can_be_ended(stub: FakeInspector) -> None:
    async def scenario(screen: Screen) -> None:
        await screen.press("2")
        await screen.until("AGE")
        await screen.press("p")
        await screen.until("Pause tenant acme")
        await screen.press("j", "j")
        await screen.until(lambda: "Pause tenant acme" in screen.selected)
        await screen.press("enter")
        await screen.until("Running tasks continue, nothing new starts.")
        await screen.press("enter")
        await screen.until("A reason is required")
        await screen.type("they flood")
        await screen.type("soon", "for")
        await screen.until("'soon' is not a duration")
        await screen.press(*["backspace"] * 4)
        await screen.type("2h", "for")
        await screen.until("Paused tenant acme until")
        assert [(call[:4]) for call in stub.performed] == [("pause", PauseScope.TENANT, "acme", "they flood")]
        # when
        await screen.press("p")
        await screen.until("Resume tenant acme")
        await screen.press("j", "j", "enter")
        await screen.until("is paused by op until")
        await screen.press("enter")
        await screen.until("Resumed tenant acme")
        assert stub.performed[-1] == ("resume", PauseScope.TENANT, "acme", None)

    watch(stub, scenario)


def test_a_retry_says_what_it_does_and_asks(stub: FakeInspector) -> None:
    async def scenario(screen: Screen) -> None:
        await screen.press("2")
        await screen.until("AGE")
        await screen.press("r")
        await screen.until("data:export, archived, after 4/4 attempts. It runs again, with new attempts.")
        await screen.press("escape")
        await screen.until("Nothing was done.")
        assert stub.performed == []
        await screen.press("r")
        await screen.type("the disk is empty")
        await screen.until("task-0 was archived, is pending")
        assert stub.performed == [("retry", "task-0", "the disk is empty")]
        await screen.press("j", "r")
        await screen.until("It runs now instead")
        await screen.press("enter")
        await screen.until(lambda: stub.performed[-1] == ("run", "task-1", None))
        await screen.press("j", "r")
        await screen.until("This task is active")
        await screen.press("1")
        await screen.until("RUNS PER MINUTE")
        await screen.press("r")
        await screen.until("r works on a task or a cause.")

    watch(stub, scenario)


def test_a_wait_is_ended_and_its_signal_is_sent(stub: FakeInspector) -> None:
    waits = views.full_view().waits
    stub.changes["task-0"] = {"waits": waits}
    stub.changes["task-1"] = {"waits": [replace(waits[-1], signal=None, until=None)]}  # for children

    async def scenario(screen: Screen) -> None:
        await screen.press("2")
        await screen.until("AGE")
        await screen.press("w")
        await screen.until("End the wait of task-0")
        await screen.press("enter")
        await screen.until("It waits until")
        await screen.press("enter")
        await screen.until("task-0 was archived, is pending")
        assert stub.performed == [("skip", "task-0", None)]
        await screen.press("w")
        await screen.until("Send approval to task-0")
        await screen.press("j", "enter")
        await screen.until("Value as JSON")
        await screen.type("yes", into="value")
        await screen.until("JSON is required: a string is in quotes.")
        await screen.press(*["backspace"] * 3)
        await screen.type("3", into="value")
        await screen.type("")
        await screen.until(lambda: len(stub.performed) == 2)
        assert stub.performed[1] == ("signal", "task-0", "approval", 3, False, None)
        await screen.press("j", "w")
        await screen.until("This task does not wait for a time or a signal.")
        await screen.press("1")
        await screen.until("RUNS PER MINUTE")
        await screen.press("w")
        await screen.until("w works on a task.")

    watch(stub, scenario)


def test_the_question_of_a_redrive_names_what_stops_it(stub: FakeInspector) -> None:
    stub.answers["preview"] = views.preview(blocks=(views.block(),), canary_stopped=(views.block(),))

    async def scenario(screen: Screen) -> None:
        await screen.press("5")
        await screen.until("ARCHIVED")
        await screen.press("r")
        await screen.until("617 tasks would wait: type data:export is paused by ann")
        await screen.until("It will be refused.")
        assert stub.performed == []

    watch(stub, scenario)


def test_an_error_is_marked_with_a_note(stub: FakeInspector) -> None:
    async def scenario(screen: Screen) -> None:
        await screen.press("m")
        await screen.until("m works on an error.")
        await screen.press("5")
        await screen.until("ARCHIVED")
        await screen.press("m")
        await screen.until("Mark TimeoutError of data:export as resolved")
        await screen.press("enter")
        await screen.until("It is then known: listed below the others until resolved or opened.")
        await screen.type("the provider knows")
        await screen.until(
            lambda: stub.performed == [("mark_errors", (views.FINGERPRINT,), CauseState.KNOWN, "the provider knows")]
        )
        await screen.until("1 error is now known: listed below the others until resolved or opened.")

    watch(stub, scenario)


def test_an_error_of_tasks_that_retry_is_not_redriven(stub: FakeInspector) -> None:
    stub.groups = [views.cause(archived=0, retry=3)]

    async def scenario(screen: Screen) -> None:
        await screen.press("5")
        await screen.until("ARCHIVED")
        await screen.press("r")
        await screen.until("No task is archived with this error.")

    watch(stub, scenario)


def test_a_cause_is_redriven_with_a_canary_and_followed(stub: FakeInspector) -> None:
    waiting, ended = BulkOutcome(900, 30, 0, 0, 0, True), BulkOutcome(928, 0, 0, 2, 0, True)
    stub.answers["bulk_view"] = [
        views.bulk(id="b", action="redrive", state=State.ACTIVE, done=5),
        views.bulk(id="b", action="redrive", outcome=waiting),
        views.bulk(id="b", action="redrive", outcome=ended),
    ]

    async def scenario(screen: Screen) -> None:
        await screen.press("5")
        await screen.until("ARCHIVED")
        await screen.press("r")
        await screen.until("The first 5 run as a canary, and the rest only if all of them complete.")
        await screen.until("Enter: redrive 940 tasks")
        await screen.type("the disk is empty")
        chosen = Filter(fingerprint=views.FINGERPRINT, types=("data:export",))
        await screen.until(lambda: stub.performed == [("redrive", chosen, 5, 50, "the disk is empty")])
        await screen.until("Redrive: 5 of 940 tasks sent again")
        await screen.press("R")
        await screen.until(
            "Redrive: 930 of 940 tasks sent again, 10 skipped (changed in the meantime). Now 900 completed, 30"
        )
        # and its tasks are followed after it has sent them all, next to the message of another action
        await screen.press("1")
        await screen.until("RUNS PER MINUTE")
        await screen.press("r")
        await screen.until("r works on a task or a cause")
        await screen.press("R")
        await screen.until("Now 928 completed, 0 wait, 2 archived again. r works on a task or a cause")
        asked = len(stub.called("bulk_view"))
        await screen.press("R", "5")
        await screen.until("ARCHIVED")
        await screen.until(lambda: "Redrive:" not in screen.text)
        assert len(stub.called("bulk_view")) == asked

    watch(stub, scenario)


def test_read_only_refuses_every_action(stub: FakeInspector) -> None:
    async def scenario(screen: Screen) -> None:
        assert "read-only" in screen.lines[0]
        await screen.press("5")
        await screen.until("ARCHIVED")
        for key in ("p", "r"):
            await screen.press(key)
            await screen.until("Nothing was done. It was started with --read-only.")
        assert stub.called("pauses") == stub.performed == []

    watch(stub, scenario, read_only="It was started with --read-only.")


def test_a_role_that_only_views_makes_it_read_only(stub: FakeInspector) -> None:
    stub.answers["retry"] = ForbiddenError("POST /operate/retry of stage 'prod' is answered with 403.")

    async def scenario(screen: Screen) -> None:
        await screen.press("2")
        await screen.until("AGE")
        assert "read-only" not in screen.lines[0]
        await screen.press("r")
        await screen.type("")
        await screen.until("Your role can view this stage, and not act on it")
        assert "read-only" in screen.lines[0]
        await screen.press("r")
        assert len(screen.app.screen_stack) == 1
        assert len(stub.performed) == 1

    watch(stub, scenario)


# --- Outages and bugs ------------------------------------------------------------------------------------------------


def test_an_unavailable_database_leaves_the_old_content(stub: FakeInspector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_app, "RETRY_SECONDS", 0.1)

    async def scenario(screen: Screen) -> None:
        await screen.press("2")
        await screen.until("AGE")
        stub.fails = AWAY
        await screen.press("R")
        await screen.until("Not up to date since")
        # the notice gets its second line with the next layout
        await screen.until("Z: the database is unavailable: connection refused. Retrying every")
        await screen.until("TimeoutError: the up")
        # another list has its old content, or nothing, and says so at once
        for number, notice in ((1, "Not up to date since"), (4, "Nothing to show yet: the database is unavailable")):
            screen.app.action_view(number)
            assert notice in str(screen.app.query_one("#notice", Static).content)
        # a reading that fails has changed nothing
        await screen.press("2", "p")
        await screen.until("Nothing was done: the database is unavailable: connection refused.")
        await screen.press("4")
        stub.fails = None
        await screen.until("WHEN")
        await screen.until(lambda: "Not up to date" not in screen.text)

    watch(stub, scenario)


def test_a_silent_database_blocks_no_key(stub: FakeInspector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_app, "SILENT_SECONDS", 0.0)
    answer = threading.Event()

    async def scenario(screen: Screen) -> None:
        stub.answers["tasks"] = lambda *_, **__: answer.wait(PATIENCE_SECONDS) and TaskPage((), None)
        stub.answers["pauses"] = lambda: answer.wait(PATIENCE_SECONDS) and ()
        await screen.press("2")
        await screen.until("Nothing to show yet: no answer from the database. Retrying every 5 s.")
        await screen.press("1")
        await screen.until("RUNS PER MINUTE")
        await screen.until("Not up to date since")
        # and what is typed before a dialog comes is no key of the list, of which q ends and r retries
        await screen.press("p", *"queue r", "enter")
        await screen.until("Reading the pauses …")
        assert stub.performed == []
        await screen.press("escape", "2")
        answer.set()
        await screen.until("No task matches.")
        assert len(screen.app.screen_stack) == 1  # a late answer opens no dialog under the user's fingers
        await screen.until(lambda: "no answer" not in screen.text)
        await screen.press("p", "r")  # nor does a key on an empty list
        await screen.until("r works on a task or a cause")

    try:
        watch(stub, scenario)
    finally:
        answer.set()


@pytest.mark.parametrize("where", ["query", "drawing", "action", "widget"])
def test_a_bug_ends_it_and_prints_no_values(
    stub: FakeInspector, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    async def scenario(screen: Screen) -> None:
        if where == "query":
            stub.answers["tasks"] = ZeroDivisionError("a bug")
        if where == "drawing":
            monkeypatch.setattr(watch_app, "details", lambda *_: 1 / 0)
            await screen.press("2")
            await screen.until("AGE")
            await screen.press("enter")
        if where == "action":
            stub.answers["retry"] = ZeroDivisionError("a bug")
            await screen.press("2")
            await screen.until("AGE")
            await screen.press("r")
            await screen.type("")
        if where == "widget":
            monkeypatch.setattr(Grid, "render_line", lambda *_: 1 / 0)
        if where in ("query", "widget"):
            await screen.press("2")
        while screen.app.return_code is None:
            await screen.pilot.pause(0.01)

    with pytest.raises(ZeroDivisionError):
        watch(stub, scenario)
    assert "".join(capsys.readouterr()) == ""


def test_a_tick_of_the_clock_while_it_ends_is_no_error(stub: FakeInspector) -> None:
    async def scenario(screen: Screen) -> None:
        await screen.app.screen.query("#head").remove()
        screen.app._draw_notice()

    watch(stub, scenario)


def test_it_ends_when_its_terminal_is_gone() -> None:
    program = (
        "from joblane.cli.watch.app import Watch\n"
        "from tests.inspector import FakeInspector\n"
        "given = dict(minutes=30, stage='local', command='jobs', source='the database')\n"
        "Watch(FakeInspector(), every=60, **given).run(mouse=False)"
    )
    ours, theirs = pty.openpty()
    # given a terminal that is not the controlling terminal, so its loss sends no signal
    running = subprocess.Popen(
        [sys.executable, "-c", program], stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
    )
    try:
        os.close(theirs)
        drawn = b""
        while b"RUNS PER MINUTE" not in drawn:
            drawn += os.read(ours, 65_536)
        # when
        os.close(ours)
        # then
        assert running.wait(PATIENCE_SECONDS) == 129
    finally:
        running.kill()
        running.wait()


# --- Text from tasks -------------------------------------------------------------------------------------------------

HOSTILE = "[bold red]x[/] [@click=app.quit]y[/] \x1b[31mred\x9b2J\x07 a\u202eb 漢字かな" + "\n" + "e\u0301👩‍👩‍👧"


def test_text_from_tasks_is_neither_markup_nor_control(stub: FakeInspector) -> None:
    row = views.task_row(
        id=HOSTILE, type=HOSTILE, tenant=HOSTILE, tags=(HOSTILE,), reason=HOSTILE, error_type=HOSTILE,
        error_message=HOSTILE,
    )  # fmt: skip
    stub.rows = [row, replace(row, state=State.ACTIVE)]
    stub.changes[HOSTILE] = {"payload": {HOSTILE: HOSTILE}, "attempts": (views.attempt(1, row, traceback=HOSTILE),)}
    stub.groups = [replace(views.dead().groups[0], type=HOSTILE, error_type=HOSTILE, message=HOSTILE)]
    stub.answers["statistics"] = (views.statistic(HOSTILE),)
    stub.answers["schedules"] = views.schedule_page(views.declared_row(type=HOSTILE, name=HOSTILE))
    stub.answers["failures"] = (row,)
    found = views.overview()
    lanes = (views.lane(type=HOSTILE, name=HOSTILE),)
    stub.answers["overview"] = replace(found, queues=tuple(replace(queue, lanes=lanes) for queue in found.queues))
    seen = []

    async def scenario(screen: Screen) -> None:
        def check() -> None:
            assert not set("\x1b\x9b\x07\u202e\n") & {*"".join(screen.lines)}
            assert max(map(cell_len, screen.lines)) <= 140
            seen.append("[bold red]x[/] [@click" in screen.text)

        for key, title in LISTS.items():
            await screen.press(key)
            await screen.until(title)
            check()
        await screen.press("2", "r")
        await screen.until("Enter: retry")
        check()
        await screen.press("escape", "p")
        await screen.until("Enter: choose")
        check()
        await screen.press("enter")
        await screen.type(HOSTILE.replace("\n", ""))
        await screen.press("escape", "enter")
        await screen.until("Attempts")
        check()
        await screen.press("escape", "slash")
        await screen.type("type=[bold]", "filter")
        await screen.until("Filter: type=[bold]")
        assert len(screen.app.screen_stack) == 1

    assert watch(stub, scenario, size=(140, 60)).failure is None
    assert all(seen), seen


def test_no_color_is_respected(stub: FakeInspector, monkeypatch: pytest.MonkeyPatch) -> None:
    colours = []

    async def scenario(screen: Screen) -> None:
        await screen.press("2")
        await screen.until("AGE")
        styles = [segment.style for line in screen.segments for segment in line if segment.style is not None]
        shown = {style.color.name for style in styles if style.color is not None and not style.color.is_default}
        colours.append(shown)
        assert any(style.reverse for style in styles)  # the cursor

    watch(stub, scenario)
    monkeypatch.setenv("NO_COLOR", "1")
    watch(stub, scenario)
    assert [bool(shown) for shown in colours] == [True, False]


def test_other_commands_do_not_import_textual() -> None:
    program = (
        "import sys, joblane.cli.main\n"
        "from joblane.cli import filters, task_tables, tables, terminal\n"
        "print([name for name in sys.modules if name.startswith('textual')])"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout == "[]\n"
