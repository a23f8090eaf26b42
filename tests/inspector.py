"""An inspector without a stage, for tests of the command line and of the page."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from joblane.errors import UnknownScheduleError, UnknownTaskError
from joblane.inspector.errors import UnknownBatchError, UnknownBulkError
from joblane.inspector.filter import ALLOWED, BULK_TYPE, BulkAction, Filter, PauseScope
from joblane.inspector.inspector import Inspector
from joblane.inspector.permission import Permission, permission_of
from joblane.inspector.views import (
    ActionResult,
    AuditEntry,
    Batching,
    BatchView,
    BulkView,
    Cause,
    CauseState,
    Count,
    DeadLetters,
    Depth,
    Grade,
    LogLine,
    Mark,
    MarkedCauses,
    Now,
    Overview,
    Pause,
    Paused,
    Preview,
    PreviewCause,
    SchedulePage,
    SchedulePause,
    ScheduleRow,
    ScheduleView,
    TaskPage,
    TaskRow,
    TaskView,
    TenantRow,
    TenantView,
    Trouble,
)
from joblane.record.flow.limit_status import LimitStatus
from joblane.record.row.states import State
from tests.builders import views


@dataclass
class FakeInspector:
    """The operations of an inspector; each call is recorded with its arguments.

    ``answers`` holds the answer of an operation by its name: a value, a list of values, an exception, or a function.
    Without an entry the operation answers from the fields, and an action changes them. ``fails``: the exception of
    every operation except ``types``. ``where``: the stage that a command connected to.
    """

    answers: dict[str, Any] = field(default_factory=dict)
    calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = field(default_factory=list)
    where: dict[str, str | None] = field(default_factory=dict)
    fails: Exception | None = None
    rows: list[TaskRow] = field(default_factory=lambda: [views.task_row(id="one")])
    changes: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Task id → changes of its view."""
    groups: list[Cause] = field(default_factory=list)
    obsolete: dict[str, int] = field(default_factory=dict)
    ignored: int = 0
    entries: list[AuditEntry] = field(default_factory=list)
    paused: dict[tuple[PauseScope, str], Pause] = field(default_factory=dict)
    started: dict[str, BulkView] = field(default_factory=dict)
    lines: list[LogLine] = field(default_factory=list)
    limited: list[LimitStatus] = field(default_factory=lambda: [views.limit()])
    marked: list[Mark] = field(default_factory=list)
    batched: list[BatchView] = field(default_factory=lambda: [views.batch()])
    advised: list[Batching] = field(default_factory=list)
    scheduled: list[ScheduleRow] = field(default_factory=lambda: [views.schedule_row(), views.declared_row()])
    a_tenant: str = "acme"

    def __getattr__(self, operation: str) -> Callable[..., Any]:
        assert permission_of(Inspector, operation), f"an inspector has no {operation}"

        def call(*arguments: Any, **named: Any) -> Any:
            self.calls.append((operation, arguments, named))
            if self.fails and operation != "types":
                raise self.fails
            if operation not in self.answers:
                return self._answer(operation, **self._bound(operation, arguments, named))
            answer = self.answers[operation]
            if isinstance(answer, list):
                answer = answer.pop(0) if len(answer) > 1 else answer[0]
            if isinstance(answer, BaseException):
                raise answer
            return answer(*arguments, **named) if callable(answer) else answer

        return call

    def given(self, **values: Any) -> None:
        """Set fields, and answers of operations."""
        for name, value in values.items():
            if name in vars(self):
                setattr(self, name, value)
            else:
                self.answers[name] = value

    def called(self, operation: str) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
        return [(arguments, named) for name, arguments, named in self.calls if name == operation]

    @property
    def performed(self) -> list[tuple[Any, ...]]:
        """Each action, with all its arguments in the order of the inspector's."""
        acted = [call for call in self.calls if permission_of(Inspector, call[0]) is not Permission.VIEW]
        return [(name, *self._bound(name, arguments, named).values()) for name, arguments, named in acted]

    @property
    def filters(self) -> list[Filter]:
        """The filters of the listings."""
        return [self._bound("tasks", *call)["filter"] for call in self.called("tasks")]

    @staticmethod
    def _bound(operation: str, arguments: tuple[Any, ...], named: dict[str, Any]) -> dict[str, Any]:
        bound = inspect.signature(getattr(Inspector, operation)).bind(None, *arguments, **named)
        bound.apply_defaults()
        return {name: value for name, value in bound.arguments.items() if name != "self"}

    def _answer(self, operation: str, **named: Any) -> Any:
        if operation in ANSWERS:
            return ANSWERS[operation](self, **named)
        own = getattr(type(self), f"_{operation}", None)
        if own:
            return own(self, **named)
        new_id = "new" if operation.startswith("replay") else None
        return ActionResult(named.get("id") or named["type"], operation, State.ARCHIVED, State.PENDING, new_id)

    # --- Queries ---------------------------------------------------------------------------------------------------

    def _overview(self, minutes: int) -> Overview:
        queues = []
        for one in views.overview(minutes).queues:
            lanes = tuple(replace(lane, pause=self.paused.get((PauseScope.TYPE, lane.type))) for lane in one.lanes)
            queues.append(
                replace(one, front_door=Depth(), pause=self.paused.get((PauseScope.QUEUE, one.queue)), lanes=lanes)
            )
        paused = tuple(Paused(pause, 12) for pause in self.paused.values())
        return Overview(views.NOW, tuple(queues), Count(1_234, exact=True), Count(3_651, exact=True), paused)

    def _trouble(self) -> Trouble:
        return self._now(60).trouble

    def _now(self, minutes: int) -> Now:
        return replace(views.now(minutes), overview=self.overview(minutes=minutes))

    def _tasks(
        self,
        filter: Filter,  # noqa: A002
        action: BulkAction | None,
        oldest_first: bool,
        after: str | None,
        limit: int,
    ) -> TaskPage:
        start = int(after or 0)
        found = list(self._matching(filter, action))
        return TaskPage(tuple(found[start : start + limit]), str(start + limit) if start + limit < len(found) else None)

    def _count(self, filter: Filter, action: BulkAction | None) -> Count:  # noqa: A002
        return Count(len(list(self._matching(filter, action))), exact=True)

    def _preview(self, action: str, filter: Filter, canary: int) -> Preview:  # noqa: A002
        if action != "redrive" or filter.tag or filter.ids:
            kind = BulkAction.RETRY if action == "redrive" else BulkAction(action)
            return Preview(action, len(list(self._matching(filter, kind))), exact=True)
        found = [
            PreviewCause(group.fingerprint, group.type, group.error, group.archived)
            for group in self.groups
            if filter.fingerprint in (None, group.fingerprint)
            and (
                group.type in filter.types if filter.types else filter.fingerprint or group.type not in ("", BULK_TYPE)
            )
        ]
        obsolete = (number for type_, number in self.obsolete.items() if not filter.types or type_ in filter.types)
        removed = sum(obsolete) if filter.removes_obsolete else 0
        return Preview(action, sum(one.number for one in found), exact=True, causes=tuple(found), removed=removed)

    def _matching(self, chosen: Filter, action: BulkAction | None) -> Iterator[TaskRow]:
        for one in self.rows:
            if action is not None and one.state not in ALLOWED[action]:
                continue
            if chosen.id_prefix and not one.id.startswith(chosen.id_prefix):
                continue
            if (not chosen.ids or one.id in chosen.ids) and (not chosen.states or one.state in chosen.states):
                yield one

    def _task(self, id: str) -> TaskView:  # noqa: A002
        for row in self.rows:
            if row.id == id:
                changes = {"audit": tuple(self.entries), "actions": views.ACTIONS, "log_link": None}
                return views.task_view(row=row, **changes | self.changes.get(id, {}))
        raise UnknownTaskError(id)

    def _schedules(
        self, tenant: str | None, origin: str | None, after: str | None, limit: int, **others: object
    ) -> SchedulePage:
        given = {"tenant": tenant, "type": others["type"], "origin": origin}
        chosen = [
            row for row in self.scheduled if all(value in (None, getattr(row, name)) for name, value in given.items())
        ]
        found = [row for row in chosen if row.name > (after or "")][:limit]
        more = found[-1].name if found and found[-1] is not chosen[-1] else None
        return SchedulePage(tuple(found), Count(len(chosen), exact=True), more)

    def _schedule(self, name: str) -> ScheduleView:
        for row in self.scheduled:
            if row.name == name:
                return views.schedule(row, audit=tuple(self.entries))
        raise UnknownScheduleError(name)

    def _batch(self, id: str) -> BatchView:  # noqa: A002
        for one in self.batched:
            if one.row.id == id:
                return one
        raise UnknownBatchError(id)

    def _tenants(self, limit: int, **_: object) -> tuple[TenantRow, ...]:
        names = (self.a_tenant or "acme", "globex", "")
        pause = {name: self.paused.get((PauseScope.TENANT, name)) for name in names}
        return tuple(views.tenant_row(tenant=name, pause=pause[name]) for name in names)

    def _tenant(self, name: str) -> TenantView:
        return TenantView(name, views.tenant_types(), self.paused.get((PauseScope.TENANT, name)))

    def _audit(self, before: int | None, limit: int, **_: object) -> tuple[AuditEntry, ...]:
        return tuple(one for one in self.entries if before is None or one.number < before)[:limit]

    def _bulk_view(self, id: str) -> BulkView:  # noqa: A002
        if id not in self.started:
            raise UnknownBulkError(id)
        return self.started[id]

    # --- Actions ---------------------------------------------------------------------------------------------------

    def _bulk(
        self,
        action: BulkAction | str,
        filter: Filter,  # noqa: A002
        rate: int,
        reason: str | None,
        canary: int = 0,
    ) -> BulkView:
        total = len(list(self._matching(filter, None)))
        made = BulkView("b", str(action), filter, "op", State.ACTIVE, total, 0, 0, 0, canary, None, views.NOW, None)
        self.started[made.id] = made
        return made

    def _pause(self, scope: PauseScope, name: str, reason: str | None, until: datetime | None) -> Pause:
        before = self.paused.get((scope, name))
        made = self.paused[scope, name] = Pause(scope, name, reason, "op", before.since if before else views.NOW, until)
        return replace(made, replaced=before is not None, replaced_by=before.by if before else None)

    def _pause_schedule(self, name: str, reason: str | None, until: datetime | None) -> ScheduleView:
        row = self._schedule(name).row
        return self._changed(replace(row, pause=SchedulePause(views.NOW, until, "op", reason), next_at=until))

    def _resume_schedule(self, name: str, reason: str | None) -> ScheduleView:
        return self._changed(replace(self._schedule(name).row, pause=None, next_at=views.schedule_row().next_at))

    def _changed(self, row: ScheduleRow) -> ScheduleView:
        self.scheduled = [row if one.name == row.name else one for one in self.scheduled]
        return self._schedule(row.name)

    def _delete_schedule(self, name: str, reason: str | None) -> ScheduleRow:
        row = self._schedule(name).row
        self.scheduled.remove(row)
        return row

    def _run_schedule(self, name: str, reason: str | None) -> ActionResult:
        self._schedule(name)
        return ActionResult("new", "run_schedule", None, State.PENDING, "new")

    def _resume(self, scope: PauseScope, name: str, reason: str | None) -> Pause:
        return self.paused.pop((scope, name))


ANSWERS: Mapping[str, Callable[..., Any]] = {
    "pauses": lambda stub: tuple(stub.paused.values()),
    "undo": lambda stub, number: AuditEntry(number, views.NOW, "op", "pause", "queue:low", None),
    "find": lambda stub, **_: views.found(),
    "logs": lambda stub, **_: tuple(stub.lines),
    "type_logs": lambda stub, **_: tuple(stub.lines),
    "dead": lambda stub, messages_only=False, **_: DeadLetters(
        tuple(one for one in stub.groups if not (messages_only and one.recorded)),
        {"jobs-default-data-export-dlq": 4},
        0,
        stub.obsolete,
    ),
    "errors": lambda stub, limit=50, **_: views.errors(
        causes=tuple(one for one in stub.groups if one.recorded)[:limit],
        number=sum(one.recorded for one in stub.groups),
        ignored=stub.ignored,
    ),
    "mark_errors": lambda stub, fingerprints, state, **_: MarkedCauses(
        state, dict.fromkeys(fingerprints, CauseState.OPEN)
    ),
    "limits": lambda stub, **_: tuple(stub.limited),
    "line": lambda stub, limit, **_: tuple(stub.rows[:limit]),
    "batches": lambda stub, limit: tuple(one.row for one in stub.batched)[:limit],
    "batching": lambda stub, **_: tuple(stub.advised),
    "failures": lambda stub, limit, **_: tuple(row for row in stub.rows if row.state in (State.RETRY, State.ARCHIVED))[
        :limit
    ],
    "performance": lambda stub, kind, name, **_: views.performance(kind, name),
    "marks": lambda stub, **_: tuple(stub.marked),
    "graph": lambda stub, **named: views.graph(*named.values()),
    "chart": lambda stub, of, by, **_: views.chart(of=of, by=by),
    "why_slow": lambda stub, **_: (views.examined(Grade.BAD), views.examined(Grade.GOOD)),
    "statistics": lambda stub, by, **_: (views.statistic(views.TYPE if by == "type" else stub.a_tenant),),
    "types": lambda stub: (views.type_view(),),
    "bulks": lambda stub, **_: tuple(stub.started.values()),
    "redrive": lambda stub, **named: stub._bulk("redrive", **named),
    "abort": lambda stub, id, **_: stub._bulk_view(id),  # noqa: A006
    "set_limit": lambda stub, **_: tuple(stub.limited),
    "reset_limit": lambda stub, **_: tuple(stub.limited),
    "waits": lambda stub, **_: views.wait_page(),
    "seal_batch": lambda stub, id, **_: stub._batch(id),  # noqa: A006
}
"""Operation → its answer without an entry in ``answers``, if it changes nothing."""
