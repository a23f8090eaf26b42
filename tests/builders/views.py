"""Complete answers of an inspector, with changes."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from joblane.inspector.filter import Filter, Group, Measure, PauseScope
from joblane.inspector.views import (
    Attempt,
    AuditEntry,
    Batching,
    BatchRow,
    BatchView,
    Block,
    BlockKind,
    BulkView,
    Cause,
    CauseNote,
    Causes,
    CauseState,
    Chart,
    Check,
    Count,
    DeadLetters,
    Depth,
    Edge,
    EdgeKind,
    Found,
    FoundGroup,
    FoundKind,
    Grade,
    Graph,
    Lane,
    Line,
    LogLine,
    Mark,
    Minute,
    Node,
    Now,
    Overview,
    Pause,
    Paused,
    Percentiles,
    Performance,
    Period,
    Preview,
    PreviewCause,
    QueueView,
    Reason,
    Relative,
    Relatives,
    RunCounts,
    SchedulePage,
    ScheduleRow,
    ScheduleView,
    Signal,
    Statistic,
    Step,
    TaskPage,
    TaskRow,
    TaskView,
    TenantRow,
    TenantType,
    TickView,
    Trouble,
    TypeNow,
    TypeView,
    Wait,
    WaitPage,
    WaitRow,
    Why,
)
from joblane.names import WEIGHTS, Queue
from joblane.record.flow.limit_status import LimitChange, LimitKind, LimitStatus, LimitValues
from joblane.record.row.states import State
from joblane.record.task.status import Progress
from joblane.tasks.limit import Rate

NOW = datetime.now(UTC)
ID = "019318f2-7f3a-7cc4-9d3e-1f6b2a4c5d6e"
FINGERPRINT = "3f9ab1c04d5e6f70"
TYPE = "data:export"
ACTIONS = ("run", "retry", "archive", "delete", "cancel", "replay", "edit", "replay_with")


def before(**distance: float) -> datetime:
    return NOW - timedelta(**distance)


def task_row(**changes: Any) -> TaskRow:
    row = TaskRow(
        id=ID,
        type="data:export",
        queue=Queue.DEFAULT,
        state=State.ARCHIVED,
        tenant="acme",
        tags=("nightly",),
        attempts=4,
        max_retry=3,
        created_at=before(hours=3),
        due_at=before(hours=2),
        finished_at=before(minutes=40),
        reason="attempt 4 of 4 failed: TimeoutError: the upload did not end",
        error_type="TimeoutError",
        error_message="the upload did not end",
        fingerprint=FINGERPRINT,
        took_ms=8_420,
        version="3f2a1c0",
    )
    return replace(row, **changes)


def attempt(run: int, of: TaskRow | None = None, **changes: Any) -> Attempt:
    of = of or task_row()
    file = '  File "functions/data_export/handler.py", line 6'
    made = Attempt(
        run=run,
        attempt=run,
        generation=0,
        started_at=before(minutes=60 - run),
        finished_at=before(minutes=59 - run),
        outcome="failed",
        duration_ms=4200,
        billed_ms=4300,
        memory_mb=512,
        cost_usd=0.0000361,
        request_id="r",
        error_type=of.error_type,
        error_message=of.error_message,
        fingerprint=of.fingerprint,
        traceback=f"Traceback (most recent call last):\n{file}\n{of.error_type}: {of.error_message}",
        wait_ms=1_500,
    )
    return replace(made, **changes)


def task_view(row: TaskRow | None = None, **changes: Any) -> TaskView:
    row = row or task_row()
    view = TaskView(
        row=row,
        owner=None,
        payload={"tenant_id": "acme", "email": "[redacted]"},
        result=None,
        headers={"traceparent": "00-1-2-01"},
        options={},
        runs=4,
        generation=0,
        deadline=None,
        dead_sent_at=before(minutes=40),
        lease_until=None,
        expire_at=NOW + timedelta(days=90),
        cancel_requested_at=None,
        unique_key=None,
        replay_of=None,
        replays=(),
        progress=Progress(300, 1200, "third file", before(minutes=41)),
        items_done=0,
        steps=(),
        limits=(),
        waits_for=None,
        parents=Relatives((), more=False),
        on_parent_dead=None,
        children=Relatives((), more=False),
        enqueued_by=None,
        batch=None,
        callback=None,
        attempts=tuple(attempt(run, row) for run in range(1, 5)),
        why=Why(Reason.ARCHIVED, "It was archived after 4 attempts."),
        actions=("retry", "edit", "replay", "delete"),
        audit=(AuditEntry(7, before(minutes=10), "ann@laptop", "retry", ID, "the disk was full"),),
        log_link="https://console.aws.amazon.com/cloudwatch/home#logs",
    )
    return replace(view, **changes)


def lane(**changes: Any) -> Lane:
    made = Lane(
        queue=Queue.DEFAULT,
        type="data:export",
        name="jobs-default-data-export",
        depth=Depth(12, 2, 3, 4),
        tasks={State.PENDING: 12, State.ACTIVE: 2, State.RETRY: 3},
        oldest_wait_seconds=75.0,
        pause=None,
    )
    return replace(made, **changes)


def overview(minutes: int = 60) -> Overview:
    series = tuple(Minute(before(minutes=at), at % 7, at % 7, int(at % 20 == 0), 40) for at in range(minutes, 0, -1))
    pause = Pause(PauseScope.QUEUE, "low", "the database moves", "ann@laptop", before(hours=1), None)
    views = tuple(
        QueueView(
            queue=queue,
            weight=WEIGHTS[queue],
            front_door=Depth(0, 0, 0, 0),
            depth=Depth(12, 2, 3, 4),
            tasks={State.PENDING: 12, State.ACTIVE: 2, State.RETRY: 3, State.SCHEDULED: 1200},
            oldest_wait_seconds=75.0,
            pause=pause if queue is Queue.LOW else None,
            lanes=(replace(lane(), queue=queue),),
            minutes=series,
        )
        for queue in Queue
    )
    return Overview(NOW, views, Count(7, exact=True), Count(3_651, exact=True), (Paused(pause, 4),))


def type_now(**changes: Any) -> TypeNow:
    minutes = tuple(at % 7 for at in range(60))
    made = TypeNow(
        type=TYPE,
        queues=(Queue.DEFAULT,),
        minutes=minutes,
        failures=(*(0,) * 57, 2, 0, 1),
        started=sum(minutes),
        failed=3,
        wait_p95_ms=1_400,
        target_seconds=60.0,
        oldest_wait_seconds=12.0,
        due=4,
        active=2,
        retry=1,
        held=0,
        held_seconds=0.0,
        dead=0,
        dead_hour=0,
        pauses=(),
    )
    return replace(made, **changes)


def empty_type(type_: str, **changes: Any) -> TypeNow:
    """A type without runs and tasks."""
    nothing: dict[str, Any] = {
        "minutes": (0,) * 60,
        "failures": (0,) * 60,
        "started": 0,
        "failed": 0,
        "wait_p95_ms": None,
        "due": 0,
    }
    nothing |= {"oldest_wait_seconds": None, "active": 0, "retry": 0}
    return type_now(**nothing | {"type": type_} | changes)


def trouble() -> Trouble:
    stopped = (
        "0 at a time was set 19 min ago by ann: test. Declared: 10 at a time. 218 tasks wait, the oldest for 19 min"
    )
    paused = "paused by ann@laptop: the database moves (4 due tasks wait)"
    return Trouble(
        NOW,
        (
            Check(
                Grade.BAD,
                "limit stripe",
                f"{stopped}; the target is 1 min",
                "`joblane limits reset stripe` returns to the declared values",
                "/limits/show?name=stripe",
            ),
            Check(Grade.WARNING, "queue low", paused, "`joblane resume queue low` ends it", "/tasks?queue=low"),
            Check(Grade.UNKNOWN, "snapshots", "this role cannot look for them: permission denied", "grant the right"),
        ),
    )


def now(minutes: int = 60) -> Now:
    pause = overview(minutes).paused[0].pause
    types = (
        type_now(type="invoice:charge", queues=(Queue.CRITICAL,), held=218, held_seconds=1_140.0),
        type_now(failed=100, dead=9, dead_hour=2, oldest_wait_seconds=90.0, wait_p95_ms=75_000),
        type_now(
            type="mail:send",
            queues=(Queue.LOW,),
            pauses=(pause,),
            dead=3,
            oldest_wait_seconds=None,
            failed=0,
            failures=(),
        ),
        empty_type("report:daily"),
    )
    return Now(trouble(), overview(minutes), types, minutes)


def performance(kind: PauseScope = PauseScope.TYPE, name: str = "data:export") -> Performance:
    none = RunCounts(0, 0, 0, 0, 0, 0.0, None, None)
    some = RunCounts(40, 3, 2, 1, 0, 0.25, Percentiles(90, 1_400, 9_000), Percentiles(800, 2_000, 4_000))
    periods = tuple(Period(before(minutes=10 * at), none if at % 3 else some) for at in range(12, 0, -1))
    return Performance(kind, name, NOW, 600, replace(some, completed=160), periods)


def chart(**changes: Any) -> Chart:
    lines = (Line(TYPE, 160, (40, 120)), Line("mail:send", 12, (12, 0)))
    others, before = Line("", 3, (1, 2)), Line("", 90, (45, 45))
    made = Chart(
        Measure.RUNS, Group.TYPE, "p95", NOW - timedelta(minutes=20), NOW, 600, 86_400, 5, lines, others, before
    )
    return replace(made, **changes)


def graph(key: str = "child") -> Graph:
    nodes = (
        Node("first", "first", TYPE, State.COMPLETED),
        Node("first/x", "m-1", "mail:send", State.ARCHIVED, number=120, of="first"),
        Node("child", "child", TYPE, State.HELD, waits="parents"),
        Node("batch:import-7", "import-7", None, None, is_batch=True),
        Node("end", "end", "report:daily", State.SCHEDULED, waits="signal"),
        Node("gone", "gone", None, None),
    )
    edges = (
        Edge("first", "first/x", EdgeKind.ENQUEUED),
        Edge("first", "child", EdgeKind.AFTER),
        Edge("gone", "child", EdgeKind.AFTER),
        Edge("first", "batch:import-7", EdgeKind.MEMBER),
        Edge("batch:import-7", "end", EdgeKind.CALLBACK),
        Edge("child", "end", EdgeKind.AFTER),
    )
    return Graph(key, nodes, edges, exact=False)


def batching(**changes: Any) -> Batching:
    made = Batching(TYPE, 700_000, 1, 10, None, 8.5, 2.64, 0.88, 0.42, 78.4, 38, 90)
    return replace(made, **changes)


def mark(**changes: Any) -> Mark:
    return replace(Mark(before(minutes=35), "deploy", "deploy 3f2a1c0", "ann"), **changes)


def tenant_row(**changes: Any) -> TenantRow:
    return replace(TenantRow("acme", 1_200, 3, 2, 40, 320.0, 900, 12, None), **changes)


def cause(**changes: Any) -> Cause:
    """A cause of archived tasks that is two days old."""
    made = Cause(
        fingerprint=FINGERPRINT,
        type="data:export",
        error_type="TimeoutError",
        message="the upload did not end",
        runs=0,
        retry=0,
        archived=940,
        tenants=0,
        first_at=before(days=2),
        first_version=None,
        last_at=before(minutes=3),
        last_version=None,
        bars=(0,) * 24,
        state=CauseState.OPEN,
        note=None,
        example=ID,
        queue="jobs-default-data-export-dlq",
        log_link=None,
    )
    return replace(made, **changes)


def tenant_types() -> tuple[TenantType, ...]:
    return (
        TenantType(TYPE, 4, 2, 1, 3, 5, 300.0, 900, 12, 1_400),
        TenantType("user:invitation", 0, 0, 0, 0, 1, None, 0, 0, None),
    )


def dead() -> DeadLetters:
    other = cause(
        fingerprint="unreadable-default",
        type="",
        error_type="MessageError",
        message="not JSON",
        recorded=False,
        archived=2,
    )
    return DeadLetters((cause(), other), {"jobs-default-data-export-dlq": 942}, 0)


def errors(**changes: Any) -> Causes:
    """An outage whose tasks retry, an older cause of archived tasks, and a known one."""
    outage = cause(
        fingerprint="0fa3c1d2e4b59687",
        type="invoice:charge",
        error_type="ConnectionError",
        message="receipts did not answer",
        runs=804,
        retry=166,
        archived=0,
        tenants=31,
        first_at=before(minutes=40),
        first_version="v18",
        last_at=before(seconds=20),
        last_version="v18",
        bars=(*(0,) * 22, 201, 603),
        state=CauseState.NEW,
    )
    note = CauseNote(before(hours=5), "ann", "the provider is down")
    known = cause(fingerprint="f2", runs=12, tenants=1, bars=(*(0,) * 10, 12, *(0,) * 13), state="known", note=note)
    made = Causes(
        (outage, cause(), replace(known, state=CauseState.KNOWN)), 3, 816, 1, True, before(days=1), NOW, ("v18", "v17")
    )
    return replace(made, **changes)


def preview(action: str = "redrive", **changes: Any) -> Preview:
    """The preview of a redrive of :func:`dead`."""
    cause = PreviewCause(FINGERPRINT, "data:export", "TimeoutError: the upload did not end", 940)
    return replace(Preview(action, 940, exact=True, causes=(cause,), unreadable=2), **changes)


def pause(**changes: Any) -> Pause:
    made = Pause(PauseScope.TYPE, "data:export", "INC-12", "ann", before(minutes=9), None)
    return replace(made, **changes)


def block(**changes: Any) -> Block:
    return replace(Block(BlockKind.PAUSE, 617, stops=True, pause=pause()), **changes)


def bulk(**changes: Any) -> BulkView:
    made = BulkView(
        id="bulk-1",
        action="retry",
        filter=Filter(types=("data:export",)),
        who="ann@laptop",
        state=State.COMPLETED,
        total=940,
        done=930,
        skipped=10,
        failed=0,
        canary=0,
        stopped=None,
        started_at=before(minutes=1),
        finished_at=NOW,
    )
    return replace(made, **changes)


def batch_row(**changes: Any) -> BatchRow:
    made = BatchRow(
        id="import-7",
        created_at=before(hours=2),
        sealed_at=before(hours=1),
        on_end=Relative("import-7:on_end", TYPE, State.COMPLETED),
        on_success=Relative("import-7:on_success", TYPE, State.HELD),
        archived=2,
        archived_at=before(minutes=9),
    )
    return replace(made, **changes)


def batch(**changes: Any) -> BatchView:
    made = BatchView(
        row=batch_row(),
        members={State.COMPLETED: 9_998, State.ARCHIVED: 2},
        exact=True,
        dead=(task_row(id="dead-1"), task_row(id="dead-2")),
    )
    return replace(made, **changes)


def schedule_row(**changes: Any) -> ScheduleRow:
    """A schedule that was made at run time."""
    made = ScheduleRow(
        name="acme-nightly",
        origin="run_time",
        type=TYPE,
        tenant="acme",
        text="0 6 * * *",
        timezone="Europe/Berlin",
        missed="latest",
        ticks_a_day=1.0,
        pause=None,
        next_at=NOW + timedelta(hours=5, minutes=30, seconds=20),
        last_at=before(hours=18),
        ticks=(TickView(before(hours=18), "acme-nightly-task", State.COMPLETED, 900),),
        problem=None,
    )
    return replace(made, **changes)


def declared_row(**changes: Any) -> ScheduleRow:
    """A schedule of the code, with a missed tick."""
    made = ScheduleRow(
        name="tenant:cleanup:nightly",
        origin="code",
        type="tenant:cleanup",
        tenant=None,
        text="0 2 * * *",
        timezone="UTC",
        missed="latest",
        ticks_a_day=1.0,
        pause=None,
        next_at=NOW + timedelta(hours=5, minutes=30, seconds=20),
        last_at=None,
        ticks=(TickView(before(hours=1), "a", None), TickView(before(hours=2), "b", State.COMPLETED, 1_200)),
        problem=None,
        missing=2,
        missing_at=(before(hours=1), before(hours=20)),
        on_aws="ENABLED",
        can_be_deleted=False,
    )
    return replace(made, **changes)


def schedule_page(*rows: ScheduleRow, **changes: Any) -> SchedulePage:
    return replace(SchedulePage(rows, Count(len(rows), exact=True), None), **changes)


def schedule(row: ScheduleRow | None = None, **changes: Any) -> ScheduleView:
    made = ScheduleView(
        row=row or schedule_row(),
        payload={"export_type": "full", "token": "[redacted]"},
        options={"timeout": 60},
        overlap="skip",
        next=tuple(NOW + timedelta(days=days, hours=5) for days in range(3)),
        created_at=before(hours=100),
        updated_at=before(hours=50),
        audit=(),
    )
    return replace(made, **changes)


def found() -> Found:
    """A search that has found tasks by an error and in payloads, and can continue."""
    page = TaskPage((task_row(),), None)
    groups = (
        FoundGroup(FoundKind.TYPE, Filter(types=(TYPE,)), TaskPage((), None)),
        FoundGroup(FoundKind.ERROR, Filter(error="time"), page),
        FoundGroup(FoundKind.PAYLOAD, None, page),
    )
    return Found(None, groups, 20_000, before(hours=3), "the=cursor")


def statistic(key: str = TYPE) -> Statistic:
    of_type = {"p99_ms": 41_000, "timeout_ms": 60_000} if ":" in key else {}
    return Statistic(key, 1200, 1190, 6, 3, 1, 420, 5300, 61000, 0.0213, **of_type)


def type_view(**changes: Any) -> TypeView:
    made = TypeView(
        TYPE,
        (Queue.DEFAULT, Queue.LOW),
        3,
        600.0,
        604800.0,
        1,
        512,
        ("every day at 02:00 UTC",),
        False,
        {},
        60.0,
        5,
        ("tenant",),
        (TYPE,),
    )
    return replace(made, **changes)


def log_line(message: str = "wrote the file") -> LogLine:
    return LogLine(before(minutes=5), "INFO", message, 2, "r", {"bytes": 1200, "task_id": ID})


def examined(grade: Grade = Grade.BAD) -> Check:
    return Check(grade, "mapping of data:export", "it is disabled", "resume it: joblane resume type data:export")


def limit(
    name: str = "openai", key: str | None = None, kind: LimitKind = LimitKind.SHARED, **values: Any
) -> LimitStatus:
    change = LimitChange(
        LimitValues(10, None), "more quota", "ann@laptop", before(hours=1), NOW + timedelta(days=1), kind
    )
    given: dict[str, Any] = {
        "declared": LimitValues(25, Rate(500, timedelta(minutes=1), burst=50)),
        "change": change,
        "in_force": LimitValues(10, Rate(500, timedelta(minutes=1), burst=50)),
        "taken": 10,
        "running": 7,
        "turns": 2,
        "timed": 1,
        "held": 4321,
        "oldest_held_at": before(minutes=42),
        "next_start_at": NOW + timedelta(minutes=5, seconds=30),
    }
    return LimitStatus(name=name, key=key, kind=kind, **(given | values))


def wait_page(*rows: WaitRow, **changes: Any) -> WaitPage:
    """Two open waits, or the given ones."""
    made = (
        WaitRow(task_row(id="invoice-7", state=State.SCHEDULED), "last call", "approval", before(days=2), NOW),
        WaitRow(task_row(id="film-1", tenant=None), "film", None, before(hours=1), NOW + timedelta(hours=23)),
    )
    return replace(WaitPage(rows or made, None), **changes)


def full_view(**changes: Any) -> TaskView:
    """A held task with each detail that a task can have."""
    row = task_row(id="full", state=State.HELD, attempts=1, finished_at=None, reason="its limit is full")
    parents = (Relative("parent", "b:c", State.ARCHIVED), Relative("gone", None, None))
    made = task_view(
        row=row,
        owner="ann",
        result={"rows": 3},
        options={"timeout": 60, "schedule": "acme:weekly"},
        runs=5,
        generation=1,
        deadline=NOW + timedelta(days=1),
        lease_until=before(minutes=1),
        cancel_requested_at=before(minutes=2),
        unique_key="export:acme",
        replay_of="original",
        replays=("copy-1", "copy-2"),
        items_done=3,
        steps=(Step("charge", "456aae85-27f4-503d-9763-ae4a56bffbe3", before(hours=1), 1_234),),
        waits=(
            Wait("days", None, before(days=4), None, "over"),
            Wait("approval", "approval", before(days=3), before(days=1), "expired"),
            Wait("last call", "approval", before(days=1), NOW + timedelta(days=1), "open"),
        ),
        signals=(
            Signal("aproval", "ann", before(hours=2), 12, unread=True),
            Signal("order", None, before(days=5), 4, unread=False),
        ),
        limits=("account:sync/a/b", "openai"),
        waits_for="account:sync/a/b",
        parents=Relatives(parents, more=True, states={State.ARCHIVED: 1}, removed=1),
        on_parent_dead="hold",
        children=Relatives((Relative("child", "b:c", State.HELD),), True, {State.COMPLETED: 5, State.HELD: 1_000}, 2),
        enqueued_by="creator",
        batch="import-7",
        callback="on_end",
        attempts=(
            attempt(1, row, wait_ms=None, error_type=None, outcome="snoozed", traceback=None, billed_ms=None),
            attempt(2, row, outcome=None, finished_at=None, started_at=before(minutes=5), duration_ms=None),
        ),
        why=Why(Reason.HELD, "It waits for a slot of its limit.", NOW + timedelta(minutes=10)),
        actions=("run", "cancel", "delete", "signal", "skip"),
        log_link=None,
    )
    return replace(made, **changes)
