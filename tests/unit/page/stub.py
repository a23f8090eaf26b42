"""An inspector without a record: it answers what a test has put into it, and remembers what it was told to do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from joblane.errors import UnknownTaskError
from joblane.inspector.actions.changes import ALLOWED
from joblane.inspector.filter import BulkAction, Filter, PauseScope
from joblane.inspector.views import (
    ActionResult,
    Attempt,
    AuditEntry,
    BulkView,
    Count,
    DeadGroup,
    DeadLetters,
    Depth,
    Lane,
    LogLine,
    Minute,
    Overview,
    Page,
    Pause,
    QueueView,
    Reason,
    ScheduleView,
    Statistic,
    TaskRow,
    TaskView,
    Tick,
    TypeView,
    Why,
)
from joblane.queues import WEIGHTS, Queue, lane_name
from joblane.record.states import State
from joblane.record.status import Progress

NOW = datetime.now(UTC)
TYPE = "data:export"
ACTIONS = ("run", "retry", "archive", "delete", "cancel", "replay", "edit", "replay_with")


def row(id_: str = "one", **changes: Any) -> TaskRow:
    made = TaskRow(
        id=id_,
        type=TYPE,
        queue=Queue.DEFAULT,
        state=State.ARCHIVED,
        tenant="acme",
        tags=("nightly",),
        attempts=4,
        max_retry=3,
        created_at=NOW - timedelta(hours=2),
        due_at=NOW - timedelta(hours=1),
        finished_at=NOW - timedelta(minutes=5),
        reason="its attempts are used up",
        error_type="TimeoutError",
        error_message="the service did not answer",
        fingerprint="f00d",
    )
    return replace(made, **changes)


def view(of: TaskRow, **changes: Any) -> TaskView:
    attempts = tuple(
        Attempt(
            run=run,
            attempt=run,
            generation=0,
            started_at=NOW - timedelta(minutes=60 - 10 * run),
            finished_at=NOW - timedelta(minutes=59 - 10 * run),
            outcome="failed" if run < 4 else "archived",
            duration_ms=1_234,
            billed_ms=1_300,
            memory_mb=256,
            cost_usd=0.000004,
            request_id="request",
            error_type=of.error_type,
            error_message=of.error_message,
            fingerprint=of.fingerprint,
            traceback=f"Traceback\n  …\n{of.error_type}: {of.error_message}",
        )
        for run in range(1, 5)
    )
    made = TaskView(
        row=of,
        owner=None,
        payload={"tenant_id": "acme", "secret": "[redacted]"},
        result=None,
        headers={"traceparent": "00-1-2-01"},
        options={"max_retry": 3},
        runs=4,
        generation=0,
        deadline=None,
        sent_at=NOW - timedelta(hours=1),
        dead_sent_at=None,
        lease_until=None,
        expire_at=None,
        cancel_requested_at=None,
        unique_key=None,
        replay_of=None,
        replays=(),
        progress=Progress(3, 10, "rows", NOW),
        items_done=0,
        attempts=attempts,
        why=Why(Reason.ENDED, "It was given up."),
        actions=ACTIONS,
        audit=(),
        log_link=None,
    )
    return replace(made, **changes)


@dataclass
class StubInspector:
    """``did``: each action with its arguments. ``fails``: raised by every operation but ``types``."""

    rows: list[TaskRow] = field(default_factory=lambda: [row()])
    views: dict[str, dict[str, Any]] = field(default_factory=dict)
    groups: list[DeadGroup] = field(default_factory=list)
    leftovers: dict[str, int] = field(default_factory=dict)
    entries: list[AuditEntry] = field(default_factory=list)
    paused: dict[tuple[PauseScope, str], Pause] = field(default_factory=dict)
    bulks_: dict[str, BulkView] = field(default_factory=dict)
    lines: list[LogLine] = field(default_factory=list)
    asked: list[Filter] = field(default_factory=list)
    did: list[tuple[Any, ...]] = field(default_factory=list)
    fails: Exception | None = None
    tenant: str = "acme"

    def _check(self) -> None:
        if self.fails:
            raise self.fails

    # --- Look ------------------------------------------------------------------------------------------------------

    def overview(self, *, minutes: int = 60) -> Overview:
        self._check()
        depth = Depth(3, 2, 1, 4)
        series = tuple(
            Minute(NOW - timedelta(minutes=at), at % 7, at % 7, int(at % 20 == 0), at * 10 if at % 3 else None)
            for at in range(minutes, 0, -1)
        )
        tasks = {State.PENDING: 3, State.ACTIVE: 2, State.RETRY: 1}
        queues = []
        for queue, weight in WEIGHTS.items():
            pause = self.paused.get((PauseScope.QUEUE, queue))
            lane_pause = self.paused.get((PauseScope.TYPE, TYPE))
            lane = Lane(queue, TYPE, lane_name("jobs", queue, TYPE), depth, tasks, 12.5, lane_pause)
            queues.append(QueueView(queue, weight, Depth(), depth, tasks, 75.0, pause, (lane,), series))
        return Overview(NOW, tuple(queues), 1_234)

    def pauses(self) -> tuple[Pause, ...]:
        return tuple(self.paused.values())

    def tasks(
        self,
        filter: Filter = Filter(),  # noqa: A002, B008
        *,
        action: BulkAction | None = None,
        after: str | None = None,
        limit: int = 50,
    ) -> Page:
        self._check()
        self.asked.append(filter)
        start = int(after or 0)
        found = list(self._matching(filter, action))
        return Page(tuple(found[start : start + limit]), str(start + limit) if start + limit < len(found) else None)

    def count(self, filter: Filter = Filter(), *, action: BulkAction | None = None) -> Count:  # noqa: A002, B008
        return Count(len(list(self._matching(filter, action))), exact=True)

    def _matching(self, chosen: Filter, action: BulkAction | None) -> Iterator[TaskRow]:
        for one in self.rows:
            if action is not None and one.state not in ALLOWED[action]:
                continue
            if (not chosen.ids or one.id in chosen.ids) and (not chosen.states or one.state in chosen.states):
                yield one

    def task(self, id_: str) -> TaskView:
        self._check()
        for one in self.rows:
            if one.id == id_:
                return view(one, **{"audit": tuple(self.entries), **self.views.get(id_, {})})
        raise UnknownTaskError(id_)

    def logs(self, id_: str, *, limit: int = 1000) -> tuple[LogLine, ...]:
        return tuple(self.lines)

    def dead(self) -> DeadLetters:
        self._check()
        return DeadLetters(tuple(self.groups), {"jobs-default-data-export-dlq": 4}, 0, self.leftovers)

    def schedules(self) -> tuple[ScheduleView, ...]:
        self._check()
        ticks = (Tick(NOW - timedelta(hours=1), "tick-1", State.COMPLETED), Tick(NOW - timedelta(hours=2), "t", None))
        pause = self.paused.get((PauseScope.SCHEDULE, "tenant:cleanup:nightly"))
        coming = (NOW + timedelta(hours=5),)
        one = ScheduleView("tenant:cleanup", "nightly", "0 2 * * *", "UTC", "skip", coming, ticks, pause, "ENABLED")
        return (one,)

    def statistics(self, *, within: timedelta = timedelta(days=1), by: str = "type") -> tuple[Statistic, ...]:
        self._check()
        key = TYPE if by == "type" else self.tenant
        return (Statistic(key, 100, 90, 6, 3, 1, 250, 1_500, 9_000, 0.0123),)

    def types(self) -> tuple[TypeView, ...]:
        return (TypeView(TYPE, (Queue.DEFAULT,), 3, 600.0, 86_400.0, 1, 256, (), {}),)

    def audit(
        self, *, target: str | None = None, who: str | None = None, before: int | None = None, limit: int = 50
    ) -> tuple[AuditEntry, ...]:
        self._check()
        return tuple(one for one in self.entries if before is None or one.number < before)[:limit]

    def bulks(self, *, limit: int = 20) -> tuple[BulkView, ...]:
        return tuple(self.bulks_.values())

    def bulk_view(self, id_: str) -> BulkView:
        if id_ not in self.bulks_:
            raise UnknownTaskError(id_)
        return self.bulks_[id_]

    # --- Act -------------------------------------------------------------------------------------------------------

    def _one(self, action: str, id_: str, *rest: Any, new_id: str | None = None) -> ActionResult:
        self._check()
        self.did.append((action, id_, *rest))
        return ActionResult(id_, action, State.ARCHIVED, State.PENDING, new_id)

    def run(self, id_: str, *, reason: str | None = None) -> ActionResult:
        return self._one("run", id_, reason)

    def retry(self, id_: str, *, reason: str | None = None) -> ActionResult:
        return self._one("retry", id_, reason)

    def archive(self, id_: str, *, reason: str | None = None) -> ActionResult:
        return self._one("archive", id_, reason)

    def delete(self, id_: str, *, reason: str | None = None) -> ActionResult:
        return self._one("delete", id_, reason)

    def cancel(self, id_: str, *, reason: str | None = None) -> ActionResult:
        return self._one("cancel", id_, reason)

    def replay(self, id_: str, *, reason: str | None = None) -> ActionResult:
        return self._one("replay", id_, reason, new_id="new")

    def edit(self, id_: str, payload: Any, *, reason: str | None = None) -> ActionResult:
        return self._one("edit", id_, payload, reason)

    def replay_with(self, id_: str, payload: Any, *, reason: str | None = None) -> ActionResult:
        return self._one("replay_with", id_, payload, reason, new_id="new")

    def bulk(self, action: Any, filter: Filter, *, rate: int = 50, reason: str | None = None) -> BulkView:  # noqa: A002
        return self._many(str(action), filter, rate, 0, reason)

    def redrive(self, filter: Filter, *, canary: int = 0, rate: int = 50, reason: str | None = None) -> BulkView:  # noqa: A002
        return self._many("redrive", filter, rate, canary, reason)

    def _many(self, action: str, chosen: Filter, rate: int, canary: int, reason: str | None) -> BulkView:
        self._check()
        self.did.append((action, chosen, rate, canary, reason))
        total = len(list(self._matching(chosen, None)))
        made = BulkView("b", action, chosen, "op", State.ACTIVE, total, 0, 0, 0, canary, None, NOW, None)
        self.bulks_[made.id] = made
        return made

    def abort(self, id_: str, *, reason: str | None = None) -> BulkView:
        self.did.append(("abort", id_, reason))
        return self.bulk_view(id_)

    def pause(self, scope: PauseScope, name: str, *, reason: str | None = None, until: datetime | None = None) -> Pause:
        self._check()
        self.did.append(("pause", scope, name, reason))
        before = self.paused.get((scope, name))
        made = self.paused[scope, name] = Pause(scope, name, reason, "op", before.since if before else NOW, until)
        return replace(made, replaced=before is not None, replaced_by=before.by if before else None)

    def resume(self, scope: PauseScope, name: str, *, reason: str | None = None) -> Pause:
        self.did.append(("resume", scope, name, reason))
        return self.paused.pop((scope, name))

    def tick(self, type_: str, *, schedule: str | None = None, reason: str | None = None) -> ActionResult:
        return self._one("tick", type_, schedule, reason)
