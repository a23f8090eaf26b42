"""The output of each command over an inspector with fixed answers, as files: ``pytest --golden=write`` writes them."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

import joblane.cli.run_tables
import joblane.cli.schedule_tables
import joblane.cli.task_tables
import joblane.cli.watch.app  # noqa: F401 : the fixture golden changes the clock of modules that are loaded
from joblane.cli.watch.lists import VIEWS
from joblane.inspector.filter import Filter, PauseScope
from joblane.inspector.views import (
    ActionResult,
    AuditEntry,
    CauseNote,
    CauseState,
    Count,
    DeadLetters,
    Depth,
    Found,
    FoundGroup,
    FoundKind,
    Grade,
    Lane,
    MarkedCauses,
    Overview,
    Pause,
    Relative,
    SchedulePause,
    TaskPage,
)
from joblane.names import Queue
from joblane.record.flow.limit_status import LimitKind, LimitValues
from joblane.record.row.states import State
from joblane.record.task.status import Progress
from tests.builders import views
from tests.fixed_time import Golden
from tests.inspector import FakeInspector
from tests.unit.cli.conftest import Run
from tests.watching import Screen
from tests.watching import watch as watch_lists

Given = dict[str, Any]
LONG = "image:resize_all_variants_of_an_upload"


def tasks() -> Given:
    rows = [views.task_row(id=f"{number}-{state}", state=state, queue=Queue.LOW) for number, state in enumerate(State)]
    rows[1] = replace(rows[1], type=LONG, error_message="x" * 200, tenant=None, tags=())
    page = TaskPage((*rows, views.task_row()), "the=cursor")
    return {"tasks": [page, page, page, replace(page, after=None)]}


def searched() -> Given:
    nothing = TaskPage((), None)
    return {"tasks": [TaskPage((views.task_row(),), "c d", views.NOW), TaskPage((), "c", views.NOW), nothing, nothing]}


def cut() -> Given:
    trace = "\n".join(f"line {number}" for number in range(33))
    view = views.task_view(payload=list(range(62)), attempts=(views.attempt(1, traceback=trace),), audit=())
    return {"task": replace(view, progress=Progress(300, None, None, views.NOW), headers={}, log_link=None)}


def explained() -> Given:
    view = views.task_view()
    text = f"It was archived: {view.row.reason}. The sweep sends it at {views.NOW:%Y-%m-%d %H:%M:%S}Z."
    cleared = views.task_view(views.task_row(id="b", state=State.CANCELLED), payload=None, attempts=(), actions=())
    return {"task": [replace(view, why=replace(view.why, text=text, until=views.NOW)), cleared]}


def search() -> Given:
    group = FoundGroup(FoundKind.ERROR, Filter(error="x y"), TaskPage((), "c", views.NOW))
    others = [Found(None, (group,), 0, None, None), Found(None, (), 7, views.NOW, None), Found(None, (), 0, None, "c")]
    return {"find": [views.found(), *others]}


def logs() -> Given:
    lines = (views.log_line(), replace(views.log_line("it broke"), level="ERROR", attempt=None))
    running = views.task_view(attempts=(views.attempt(1, finished_at=None),))
    views_ = [views.task_view(), running, views.task_view(), views.task_view(attempts=())]
    return {"task": views_, "logs": [lines, (), (), ()]}


def queues() -> Given:
    found = views.overview()
    first, second, third = found.queues
    lanes: tuple[Lane, ...] = (views.lane(type=LONG, queue=Queue.LOW, pause=third.pause), third.lanes[0])
    first = replace(first, front_door=Depth(2, 1, 4, 0), tasks={**first.tasks, State.HELD: 4321}, depth=Depth())
    second = replace(second, front_door=Depth(missing=("jobs-default", "jobs-default-dlq", "b", "c")))
    full = replace(found, queues=(first, second, replace(third, pause=None, lanes=lanes)))
    many = replace(full, archived=Count(1_000, exact=False), live=Count(40_000, exact=False))
    empty = Overview(views.NOW, (), Count(0, exact=True), Count(0, exact=True))
    return {"overview": [*[found] * 5, full, full, many, empty], "tenants": [tenants(), ()]}


def tenants() -> tuple[Any, ...]:
    pause = Pause(PauseScope.TENANT, "globex", "flood", "ann", views.NOW, None)
    return (views.tenant_row(), views.tenant_row(tenant="globex", pause=pause, due=0), views.tenant_row(tenant=""))


def runs() -> Given:
    limits = (views.limit(views.TYPE, "7", LimitKind.KEY, running=2, held=3), views.limit(kind=LimitKind.EACH_KEY))
    pauses = [Pause(scope, "data:export", "bad release", "ann", views.NOW, None) for scope in PauseScope]
    unknown = replace(views.statistic(), key="", started=0, wait_ms=None, duration_ms=None, longest_ms=None, lost=0)
    return {
        "statistics": [(views.statistic(), unknown), (views.statistic(),), (views.statistic("acme"),), ()],
        "performance": lambda kind, name, **_: views.performance(kind, name),
        "overview": views.overview(),
        "errors": views.errors(number=8),
        "pauses": tuple(pauses),
        "types": (views.type_view(), views.type_view(type="a:b", max_concurrency=None, schedules=(), ordered=True)),
        "limits": limits,
        "marked": [views.mark(), views.mark(kind="pause", text="type data:export paused", reason="why", who=None)],
    }


def watch() -> Given:
    active = (views.task_row(state=State.ACTIVE),)
    many, empty = queues()["overview"][-2:]
    return {
        "overview": [views.overview(), views.overview(), many, empty],
        "tasks": TaskPage(active, None),
        "failures": (views.task_row(id="failed"),),
    }


def checks() -> Given:
    judged = [
        tuple(map(views.examined, grades)) for grades in (Grade, [Grade.WARNING] * 2, [Grade.UNKNOWN], [Grade.GOOD])
    ]
    return {"doctor": judged, "why_slow": (views.examined(Grade.GOOD),)}


def dead() -> Given:
    found = views.dead()
    note = CauseNote(views.NOW, "ann", "known")
    signs = replace(found.groups[0], message="row # has no '…'", state=CauseState.KNOWN, note=note)
    linked = replace(found.groups[0], log_link="https://console", first_at=views.before(hours=1))
    obsolete = DeadLetters((), {}, 0, {"a:b": 2})
    more = replace(found, groups=(signs,), unread=1_424, obsolete={"a:b": 1})
    unreadable = replace(found, groups=found.groups[1:])
    none = DeadLetters((), {}, 0)
    answers = [found, found, more, replace(found, groups=(linked,)), unreadable, obsolete, none, none]
    return {"dead": answers}


def errors() -> Given:
    found = views.errors()
    none = views.errors(causes=(), number=0, ignored=0)
    marked = MarkedCauses(CauseState.KNOWN, {"0fa3c1d2e4b59687": CauseState.NEW})
    return {
        "errors": [found, replace(found, number=7, exact=False), replace(found, exact=False, runs=100_000), none, none],
        "mark_errors": lambda fingerprints, state, **_: replace(
            marked, state=state, before=dict.fromkeys(fingerprints, CauseState.NEW)
        ),
    }


def bulk() -> Given:
    stopped = views.bulk(id="bulk-2", action="redrive", stopped="the canary failed", failed=5, done=0, reason="fixed")
    bulks = (views.bulk(), stopped, views.bulk(id=views.ID, state=State.ACTIVE, finished_at=None, done=5))
    return {"bulks": [bulks, bulks, ()], "bulk_view": list(bulks), "abort": stopped}


def batches() -> Given:
    row = views.batch_row(id="open", sealed_at=None, on_end=None, on_success=Relative("x", None, None))
    many = views.batch(row=row, members={State.PENDING: 50_001}, exact=False, dead=())
    return {"batched": [views.batch(), many]}


def limits() -> Given:
    each = views.limit("account:sync", None, LimitKind.EACH_KEY, declared=LimitValues(None, None))
    later = views.NOW + timedelta(hours=1)
    key = views.limit("account:sync", "a b", LimitKind.KEY, declared=each.declared, change=each.change, held=0)
    delayed = views.limit("account:sync", "7", LimitKind.KEY, change=None, delayed_until=later)
    answers = [(views.limit(), delayed), (views.limit(), delayed), (each, key), ()]
    note = "It is the last now; b is first"
    return {
        "limits": answers,
        "line": [(views.task_row(id="a"), views.task_row(id="b")), ()],
        "pass_line": ActionResult("a", "pass_line", State.RETRY, State.RETRY, note=note),
        "set_limit": (views.limit(),),
        "reset_limit": (views.limit(change=None, in_force=LimitValues(25, None)),),
    }


def schedules() -> Given:
    pause = SchedulePause(views.before(days=1), views.NOW + timedelta(days=1), "ann", "a holiday")
    paused = views.schedule_row(name="x", pause=pause, next_at=None, problem="its type is not declared", ticks=())
    missed = views.declared_row(missing=8, missing_at=tuple(views.before(hours=hours) for hours in range(1, 9)))
    entry = AuditEntry(1, views.NOW, "ann", "pause_schedule", "schedule:acme-nightly", "a holiday")
    rows = [views.schedule_row(), missed, paused, views.schedule_row(name="z", pause=replace(pause, until=None))]
    return {"scheduled": rows, "entries": [entry]}


def acted() -> Given:
    done = ActionResult("a", "retry", State.ARCHIVED, State.PENDING)
    notes = [replace(done, note="type data:export is paused"), replace(done, before=State.PENDING, action="run")]
    stops = [replace(done, action="cancel", before=State.ACTIVE, after=State.ACTIVE)]
    deleted = replace(done, action="delete", after=State.CANCELLED)
    return {"retry": [done, notes[0]], "run": notes[1], "cancel": stops, "delete": deleted}


def waits() -> Given:
    rows = views.wait_page(after="the=cursor")
    kept = 'kept: invoice-7 does not wait for "aproval" now, it waits for "approval"'
    sent = ActionResult("invoice-7", "signal", State.SCHEDULED, State.PENDING)
    return {
        "waits": [rows, rows, replace(rows, waits=()), replace(rows, waits=(), after=None)],
        "signal": [sent, replace(sent, after=State.SCHEDULED, note=kept), replace(sent, note="its type is paused")],
        "skip": replace(sent, action="skip"),
    }


STORIES: dict[str, tuple[Callable[[], Given], tuple[str, ...]]] = {
    "ls": (tasks, ("ls", "COLUMNS=120 ls", "COLUMNS=80 ls", "COLUMNS=50 ls")),
    "ls-searched": (searched, ("ls", "ls", "ls", "ls --after c")),
    "show": (dict, ("COLUMNS=120 --stage dev --region eu-central-1 show one", "COLUMNS=50 show one")),
    "show-full": (lambda: {"task": views.full_view()}, ("COLUMNS=120 show full", "COLUMNS=60 show full")),
    "show-cut": (cut, ("show one",)),
    "show-why": (explained, ("show one", "show b")),
    "find": (search, ("--stage dev find text", "find 'x y'", "find x", "find x")),
    "logs": (logs, ("logs one", "logs one", "logs one", "logs one")),
    "wait": (
        lambda: {"task": [views.task_view(views.task_row(state=state)) for state in (State.COMPLETED, State.ARCHIVED)]},
        ("wait one", "wait one"),
    ),
    "queues": (
        queues,
        (
            *(f"COLUMNS={wide} queues" for wide in (60, 80, 100)),
            "queues --lanes",
            "COLUMNS=60 queues --lanes",
            "COLUMNS=120 queues --lanes",
            "COLUMNS=80 queues",
            "queues",
            "queues",
            "queues --by tenant",
            "queues --by tenant",
        ),
    ),
    "runs": (
        runs,
        (
            "runs",
            "COLUMNS=60 runs --cost",
            "runs --cost --by tenant",
            "runs",
            "COLUMNS=100 runs data:export",
            "COLUMNS=60 runs --tenant acme",
        ),
    ),
    "graph": (
        lambda: {"graph": views.graph()},
        ("graph one", "graph batch:import-7", "COLUMNS=60 graph batch:import-7 --json"),
    ),
    "chart": (
        dict,
        ("COLUMNS=100 chart", "COLUMNS=60 chart --tenant acme", "COLUMNS=80 chart cost --by queue --compare --json"),
    ),
    "types": (runs, ("--stage dev types", "COLUMNS=80 --stage dev types")),
    "watch": (
        watch,
        ("COLUMNS=100 watch --once", "COLUMNS=60 watch --once", "COLUMNS=80 watch --once", "watch --once"),
    ),
    "audit": (
        lambda: {"audit": views.task_view().audit},
        ("audit", "audit --limit 1", "COLUMNS=80 audit", "COLUMNS=40 audit"),
    ),
    "doctor": (checks, ("doctor", "doctor", "COLUMNS=60 doctor", "doctor", "why data:export")),
    "dead": (
        dead,
        (
            "COLUMNS=120 dead",
            "COLUMNS=60 dead",
            "--stage dev dead",
            "dead",
            "dead",
            "dead",
            "dead",
            "dead --type a:b",
            "ack f --reason known",
        ),
    ),
    "errors": (
        errors,
        (
            "COLUMNS=120 errors",
            "COLUMNS=60 errors --tenant acme",
            "--stage dev errors --sort last",
            "errors --within 7d",
            "errors --type a:b",
            "errors known 0fa3c1d2e4b59687 --reason 'the provider is down'",
            "errors resolve f g --reason fixed",
            "errors ignore f --reason noise",
            "errors open f",
        ),
    ),
    "bulk": (
        bulk,
        (
            "COLUMNS=120 bulk ls",
            "COLUMNS=60 bulk ls",
            "bulk ls",
            "bulk show bulk-1",
            "bulk show bulk-2",
            "bulk abort bulk-2",
        ),
    ),
    "batch": (
        batches,
        ("batch ls", "COLUMNS=120 --stage dev batch show import-7", "batch show open", "batch seal open"),
    ),
    "limits": (
        limits,
        (
            "COLUMNS=120 --stage dev limits",
            "COLUMNS=60 limits",
            "limits account:sync",
            "limits",
            "limits line account:sync 'acme 7'",
            "limits line a:b 7",
            "limits pass account:sync 'acme 7' --reason r",
            "limits set openai --total 10 --reason r",
            "limits reset openai --reason r",
        ),
    ),
    "pause": (
        dict,
        (
            "pause",
            "--stage dev pause queue low --reason moves --for 2h",
            "pause queue low",
            "pause",
            "resume queue low --reason done",
        ),
    ),
    "schedules": (
        schedules,
        (
            "COLUMNS=120 schedules",
            "COLUMNS=100 schedules",
            "COLUMNS=60 schedules",
            "schedules --limit 1",
            "schedules show acme-nightly",
            "schedules show tenant:cleanup:nightly",
            "schedules show x",
        ),
    ),
    "schedules-act": (
        schedules,
        (
            "--stage dev schedules pause acme-nightly --reason r",
            "schedules resume acme-nightly",
            "schedules pause acme-nightly --for 2h",
            "schedules run acme-nightly",
            "schedules delete acme-nightly --yes",
        ),
    ),
    "waits": (
        waits,
        (
            "COLUMNS=120 waits",
            "COLUMNS=60 waits --type data:export --signal approval",
            "waits",
            "waits --tenant acme",
            "signal invoice-7 approval '{\"yes\": true}' --reason 'by phone'",
            "signal invoice-7 aproval --replace",
            "signal invoice-7 approval 3 --reason r",
            "signal invoice-7 approval yes",
            "skip invoice-7 --reason r",
        ),
    ),
    "retry": (acted, ("retry a", "retry a", "run a", "cancel a", "delete a --yes")),
}
"""File → the answers of the inspector, and commands. An operation with a list gives its answers one after the other."""


@pytest.mark.parametrize("name", STORIES)
def test_the_output_of_commands_is_golden(golden: Golden, jobs: Run, stub: FakeInspector, name: str) -> None:
    given, commands = STORIES[name]
    stub.given(**given())
    shown = []
    for command in commands:
        width, _, words = command.partition(" ") if command.startswith("COLUMNS=") else ("", "", command)
        ran = jobs(*shlex.split(words), columns=int(width.removeprefix("COLUMNS=") or 1000))
        errors = "".join(f"2> {line}\n" for line in ran.err.splitlines())
        status = f"exit status {ran.code}\n" if ran.code else ""
        shown.append(f"$ {width} jobs {words}\n{ran.out}{errors}{status}".replace("$  ", "$ "))
    golden(f"cli/{name}.txt", "\n".join(shown))


@pytest.mark.parametrize("size", [(80, 24), (140, 40)], ids=lambda size: f"{size[0]}x{size[1]}")
def test_the_lists_of_watch_are_golden(golden: Golden, stub: FakeInspector, size: tuple[int, int]) -> None:
    states = (State.ARCHIVED, State.RETRY, State.ACTIVE, State.COMPLETED)
    rows = [views.task_row(id=f"task-{number}", state=state) for number, state in enumerate(states)]
    rows[3] = replace(rows[3], type=LONG, tenant=None)
    stub.given(**(runs() | schedules() | {"rows": rows}))
    found = queues()["overview"][-2]
    low = replace(found.queues[2], lanes=(views.lane(type="image:resize_all_variants"), *found.queues[2].lanes[1:]))
    stub.given(overview=replace(found, queues=(*found.queues[:2], low)), statistics=stub.answers["statistics"][0])
    shown = []

    async def scenario(screen: Screen) -> None:
        for number in range(1, len(VIEWS) + 1):
            await screen.press(str(number))
            await screen.until(lambda: screen.app._answers.of(screen.app._asked) is not None)
            await screen.pilot.pause()
            shown.append(f"{number}\n{screen.text}")

    watch_lists(stub, scenario, size=size)
    golden(f"watch/lists-{size[0]}.txt", "\n\n".join(shown))
