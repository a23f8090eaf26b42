"""The main part of each page over an inspector with fixed answers, as files: ``pytest --golden=write`` writes them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from starlette.testclient import TestClient

from joblane.errors import LimitError
from joblane.inspector.filter import Filter, PauseScope
from joblane.inspector.views import (
    AuditEntry,
    Block,
    BlockKind,
    BulkOutcome,
    CauseNote,
    CauseState,
    Count,
    Depth,
    Found,
    Pause,
    Relative,
    SchedulePause,
    TickView,
    Trouble,
)
from joblane.page.app import PAGES as ALL_PAGES
from joblane.record.flow.limit_status import LimitChange, LimitKind, LimitValues
from joblane.record.row.states import State
from tests.builders import views
from tests.fixed_time import Golden
from tests.inspector import FakeInspector
from tests.unit.page.conftest import Post

Given = dict[str, Any]
SYNC = "account:sync"
NOTHING = LimitValues(None, None)


def busy() -> Given:
    found = views.overview(15)
    first, second, third = found.queues
    third = replace(third, lanes=())
    first = replace(
        first, front_door=Depth(2, 1, 4, 5), depth=Depth(), lanes=(*first.lanes, views.lane(pause=pauses()[1]))
    )
    many = replace(
        found, archived=Count(1_000, exact=False), live=Count(40_000, exact=False), queues=(first, second, third)
    )
    marks = [views.mark(who=None), views.mark(kind="pause", text="queue low paused", target="queue:low", reason="<b>")]
    return {"overview": many, "pauses": pauses(), "marked": marks}


def well() -> Given:
    found = views.now()
    types = (views.type_now(), views.empty_type("report:daily"))
    return {"now": replace(found, trouble=Trouble(views.NOW, ()), types=types)}


def pauses() -> tuple[Pause, ...]:
    ends = views.NOW + timedelta(hours=1)
    return tuple(
        Pause(scope, name, reason, by, views.before(hours=2), until)
        for scope, name, reason, by, until in (
            (PauseScope.QUEUE, "low", "the database moves", "ann@laptop", ends),
            (PauseScope.TYPE, views.TYPE, None, None, None),
            (PauseScope.TENANT, "globex", "flood", "ann", None),
        )
    )


def tasks() -> Given:
    rows = [views.task_row(id=f"{number}-{state}", state=state) for number, state in enumerate(State)]
    rows[0] = replace(rows[0], tenant=None, tags=(), error_type=None, reason=None, finished_at=None)
    return {"rows": rows}


NOTE = CauseNote(views.NOW, "ann", "provider is down")


def bulks() -> Given:
    outcome = BulkOutcome(900, 30, 1, 2, 3, False)
    stopped = views.bulk(id="bulk-2", action="redrive", stopped="the canary failed", failed=5, reason="fixed", canary=5)
    stopping = views.bulk(id="b3", state=State.ACTIVE, stopped="aborted by ann", finished_at=None)
    running = views.bulk(id="b4", state=State.ACTIVE, done=5, finished_at=None, filter=Filter(tenant="acme", tag="t"))
    running = replace(running, canary=5, blocks=(views.block(),))
    made = [views.bulk(outcome=outcome), stopped, stopping, running]
    return {"started": {one.id: one for one in made}}


def blocked() -> Given:
    order = Block(BlockKind.ORDER, 1, stops=False, type="line:sync", key="42", later=4, keys=1)
    limited = views.block(kind=BlockKind.LIMIT, tasks=1, stops=False, pause=None, limit=views.limit())
    found = views.preview(blocks=(views.block(), limited, order), more_causes=3, canary_stopped=(views.block(),))
    return {"preview": found}


def dead() -> Given:
    first, unreadable = views.dead().groups
    known = replace(first, fingerprint="f2", state=CauseState.KNOWN, note=NOTE)
    new = replace(
        first,
        fingerprint="f3",
        first_at=views.before(hours=1),
        log_link="https://console",
        archived=1,
        state=CauseState.NEW,
    )
    bulk = replace(first, fingerprint="f4", type="jobs:bulk", archived=3)
    return {"groups": [first, known, new, bulk, unreadable], "obsolete": {views.TYPE: 1}}


def errors() -> Given:
    unmarked = views.cause(fingerprint="", error_type="Archived", message="written by a test", archived=1)
    return {"groups": [*views.errors().causes, unmarked, views.cause(log_link="https://console")], "ignored": 2}


def limits() -> Given:
    each = views.limit(SYNC, None, LimitKind.EACH_KEY)
    own = LimitChange(LimitValues(3, None), "it is new", None, views.NOW, None, LimitKind.KEY)
    waits = {"none": None, "short": views.NOW, "long": views.before(hours=9)}
    keys = [views.limit(SYNC, key, LimitKind.KEY, oldest_held_at=at, change=each.change) for key, at in waits.items()]
    return {"limited": [each, *keys, views.limit(SYNC, "own", LimitKind.KEY, change=own)]}


def undeclared() -> Given:
    later = views.NOW + timedelta(hours=1)
    return {"limited": [views.limit(declared=NOTHING), views.limit("mail", change=None, delayed_until=later)]}


def key() -> Given:
    types = (views.type_view(type=SYNC, ordered=True),)
    rows = [views.task_row(id="a", state=State.RETRY), views.task_row(id="b", state=State.HELD)]
    change = views.limit(SYNC, None, LimitKind.EACH_KEY).change
    return {"types": types, "rows": rows, "limited": [views.limit(SYNC, "acme 7", LimitKind.KEY, change=change)]}


def batches() -> Given:
    row = views.batch_row(id="open", sealed_at=None, on_end=None, on_success=Relative("x", None, None))
    many = views.batch(row=row, members={State.ACTIVE: 50_001}, exact=False, dead=())
    return {"batched": [views.batch(), many]}


def runs() -> Given:
    known = replace(views.dead().groups[0], state=CauseState.KNOWN, note=NOTE)
    marks = [
        views.mark(at=views.before(minutes=12), who=None),
        views.mark(kind="pause", text="type data:export paused", reason="<b>", target="type:data:export"),
        views.mark(kind="bulk", text="retry of 4 tasks", bulk="b1", at=views.before(minutes=50)),
    ]
    on_queue = Pause(PauseScope.QUEUE, "default", "import", "bob", views.NOW, None)
    paused = {(PauseScope.QUEUE, "default"): on_queue}
    return {"groups": [known], "marked": marks, "paused": paused, "advised": [views.batching()]}


def schedules() -> Given:
    pause = SchedulePause(views.before(days=1), None, "ann", "a holiday")
    paused = views.schedule_row(name="x", pause=pause, next_at=None, problem="its type is not declared")
    ticks = tuple(TickView(views.before(hours=hours), f"t{hours}", state) for hours, state in enumerate(State))
    rows = [views.schedule_row(), views.declared_row(missing=30), paused, views.schedule_row(name="y", ticks=ticks)]
    return {"scheduled": rows, "entries": entries()}


def entries() -> list[AuditEntry]:
    made = [AuditEntry(number, views.NOW, "op", "retry", f"id-{number}", "why") for number in (2, 1)]
    made[0] = replace(made[0], target="type:data:export", reason=None, bulk="b1", details={"until": "2026-01-02"})
    return made


PAGES: dict[str, tuple[str, Callable[[], Given]]] = {
    "now": ("/?minutes=15", busy),
    "now-queue": ("/?queue=low", busy),
    "now-well": ("/", well),
    "wall": ("/?wall=1", busy),
    "tasks": (
        "/tasks?state=archived&type=a:b&tag=nightly&fingerprint=f&newer=2h",
        lambda: {**tasks(), "types": (views.type_view(),)},
    ),
    "tasks-all": ("/tasks?limit=3", tasks),
    "tasks-none": ("/tasks", lambda: {"rows": []}),
    "tasks-wrong": ("/tasks?newer=yesterday&tenant=acme", dict),
    "task": ("/task?id=one", dict),
    "task-full": ("/task?id=one", lambda: {"task": views.full_view()}),
    "task-cleared": (
        "/task?id=one",
        lambda: {
            "task": views.task_view(
                views.task_row(state=State.COMPLETED, tenant=None), payload=None, attempts=(), audit=(), progress=None
            )
        },
    ),
    "logs": (
        "/task/logs?id=one",
        lambda: {"lines": [views.log_line(), replace(views.log_line("it broke"), level="ERROR", attempt=None)]},
    ),
    "logs-none": ("/task/logs?id=one", dict),
    "logs-type": (
        "/runs/logs?type=data:export&level=INFO&text=wrote&live=15m",
        lambda: {"lines": [replace(views.log_line(), task_id="one"), views.log_line("Runtime exited")]},
    ),
    "bulks": ("/bulk", bulks),
    "bulks-none": ("/bulk", dict),
    **{f"bulk-{id_}": (f"/bulk/show?id={id_}", bulks) for id_ in ("bulk-1", "bulk-2", "b3", "b4")},
    "bulk-new": (
        "/bulk/new?action=cancel&which=all&tenant=acme&older=1h",
        lambda: {"rows": [views.task_row(id=f"id-{n}", state=State.RETRY) for n in range(7)]},
    ),
    "errors": ("/errors", errors),
    "errors-chosen": ("/errors?type=data:export&tenant=acme&within=2h&sort=last&state=known", errors),
    "errors-none": ("/errors?state=new", dict),
    "dead": ("/errors/messages", dead),
    "dead-obsolete": ("/errors/messages", lambda: {"obsolete": {"data:export": 2}}),
    "redrive": ("/dead/redrive", dead),
    "redrive-type": ("/dead/redrive?type=data:export&tenant=acme", dead),
    "redrive-obsolete": ("/dead/redrive", lambda: {"obsolete": {"data:export": 2}}),
    "redrive-one": ("/dead/redrive?fingerprint=f2&type=data:export", dead),
    "redrive-bulk": ("/dead/redrive?type=jobs:bulk", dead),
    "redrive-blocked": ("/dead/redrive?fingerprint=f2", blocked),
    "redrive-none": ("/dead/redrive?fingerprint=f9", dict),
    "limits": ("/limits", undeclared),
    "limits-none": ("/limits", lambda: {"limited": []}),
    "limit": ("/limits/show?name=openai", dict),
    "limit-zero": (
        "/limits/show?name=openai",
        lambda: {"limited": [views.limit(change=None, in_force=LimitValues(0, None))]},
    ),
    "limit-keys": (f"/limits/show?name={SYNC}", limits),
    "limit-key": (f"/limits/show?name={SYNC}&key=acme+7", key),
    "limit-key-own": (f"/limits/show?name={SYNC}&key=own", lambda: {"limited": limits()["limited"][-1:]}),
    "limit-delayed": ("/limits/show?name=mail", lambda: {"limited": undeclared()["limited"][1:]}),
    "limit-total": (
        f"/limits/show?name={SYNC}",
        lambda: {"limited": [views.limit(SYNC, None, LimitKind.TOTAL, change=None)]},
    ),
    "batches": ("/batches", batches),
    "batches-none": ("/batches", lambda: {"batched": []}),
    "batch": ("/batches/show?id=import-7", batches),
    "batch-open": ("/batches/show?id=open", batches),
    "waits": ("/waits?type=data:export&signal=approval", lambda: {"waits": views.wait_page(after="c")}),
    "waits-more": ("/waits", lambda: {"waits": views.wait_page(waits=(), after="c")}),
    "waits-none": ("/waits?tenant=acme", lambda: {"waits": views.wait_page(waits=())}),
    "statistics": ("/statistics?by=tenant&within=7d", dict),
    "runs": ("/runs?type=data:export", runs),
    "chart": ("/chart?compare=yes&scale=log", dict),
    "runs-tenant": ("/runs?tenant=", lambda: {**runs(), "limits": LimitError("name", "no limit")}),
    "why": ("/runs/why?type=data:export", dict),
    "tenants": ("/tenants", lambda: {"paused": {(PauseScope.TENANT, "globex"): pauses()[2]}}),
    "pauses": ("/pauses", lambda: {"pauses": pauses()}),
    "pauses-none": ("/pauses", dict),
    "types": (
        "/types",
        lambda: {"types": (views.type_view(), views.type_view(type="a:b", schedules=(), ordered=True))},
    ),
    "schedules": ("/schedules?problem=yes&sort=ticks", schedules),
    "schedule": ("/schedules/show?name=x", schedules),
    "schedule-of-code": ("/schedules/show?name=tenant:cleanup:nightly", schedules),
    "audit": ("/audit?who=op", lambda: {"entries": entries()}),
    "audit-none": ("/audit", dict),
    "find": ("/find", dict),
    "find-nothing": ("/find", lambda: {"find": Found(None, (), 1, views.NOW, "c")}),
    "find-no-payload": ("/find", lambda: {"find": Found(None, (), 0, None, None)}),
    "not-found": ("/batches/show?id=unknown", dict),
}
"""File → the address of a page, and the answers of the inspector."""


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_golden(golden: Golden, browser: TestClient, stub: FakeInspector, post: Post, name: str) -> None:
    address, given = PAGES[name]
    stub.given(**given())
    if name.startswith("find"):
        post("/find", text="ann@acme.example")
    answer = browser.get(address)
    main = answer.text[answer.text.index('<main id="main"') : answer.text.index("</main>")]
    golden(f"page/{name}.html", f"{answer.status_code}\n{main}")


def test_every_page_is_golden() -> None:
    assert {*ALL_PAGES} - {address.partition("?")[0] for address, _ in PAGES.values()} == {"/enqueue"}
