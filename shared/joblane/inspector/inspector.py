"""Every question and every action of an operator, each marked with the permission that it takes.

The command line and the page hold an :class:`Inspector`, or a :class:`joblane.inspector.remote.RemoteInspector` with
the same operations, which calls an inspector in the stage. Arguments and answers are plain typed objects for both.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from joblane.inspector import views
from joblane.inspector.actions import audit, enqueue, single
from joblane.inspector.bulk import dead, start
from joblane.inspector.filter import BulkAction, Filter, PauseScope
from joblane.inspector.permission import Permission, needs
from joblane.inspector.scope import Scope
from joblane.inspector.stage import doctor, overview, pauses, schedules, statistics
from joblane.inspector.tasks import detail, listing, logs

VIEW, OPERATE, EDIT = Permission

ALL = Filter()


class Inspector:
    """Over one stage. Whatever cannot be done raises a :class:`~joblane.errors.JobError` that says why.

    Any number of threads may share one: it does one thing at a time.

    Every action is in the audit, with who did it, in the transaction of the action itself.
    """

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    # --- Look ------------------------------------------------------------------------------------------------------

    @needs(VIEW)
    def overview(self, *, minutes: int = 60) -> views.Overview:
        """Queues with their lanes as they stand, and the last ``minutes`` (1 to 240) of each."""
        return overview.overview(self._scope, minutes)

    @needs(VIEW)
    def tasks(
        self,
        filter: Filter = ALL,  # noqa: A002
        *,
        action: BulkAction | None = None,
        after: str | None = None,
        limit: int = 50,
    ) -> views.Page:
        """Tasks, newest first. ``action``: those that it would touch. ``after``: of the page before. ``limit``: 1 to
        500."""
        return listing.tasks(self._scope, filter, action, after, limit)

    @needs(VIEW)
    def count(self, filter: Filter = ALL, *, action: BulkAction | None = None) -> views.Count:  # noqa: A002
        """How many match; beyond ``listing.COUNT_CAP`` it is not exact. ``action``: as of :meth:`tasks`."""
        return listing.count(self._scope, filter, action)

    @needs(VIEW)
    def task(self, id: str) -> views.TaskView:  # noqa: A002
        """One task whole. Raises :class:`~joblane.errors.UnknownTaskError`."""
        return detail.task(self._scope, id)

    @needs(VIEW)
    def logs(self, id: str, *, limit: int = 1000) -> tuple[views.LogLine, ...]:  # noqa: A002
        """The log lines of one task over its attempts, oldest first."""
        return logs.of_task(self._scope, id, limit)

    @needs(VIEW)
    def dead(self) -> views.DeadLetters:
        """What was given up, grouped by what went wrong: rows, and messages without one."""
        return dead.groups(self._scope)

    @needs(VIEW)
    def pauses(self) -> tuple[views.Pause, ...]:
        """What is paused now."""
        return pauses.current(self._scope.connection)

    @needs(VIEW)
    def schedules(self) -> tuple[views.ScheduleView, ...]:
        """All schedules with their next times and last ticks."""
        return schedules.schedules(self._scope)

    @needs(VIEW)
    def statistics(self, *, within: timedelta = timedelta(days=1), by: str = "type") -> tuple[views.Statistic, ...]:
        """Runs within a time up to now, dearest first. ``by``: ``type`` or ``tenant``."""
        return statistics.statistics(self._scope, within, by)

    @needs(VIEW)
    def types(self) -> tuple[views.TypeView, ...]:
        """The declared types."""
        return enqueue.types(self._scope)

    @needs(VIEW)
    def audit(
        self, *, target: str | None = None, who: str | None = None, before: int | None = None, limit: int = 50
    ) -> tuple[views.AuditEntry, ...]:
        """What operators have done, newest first. ``before``: a number to go on from. ``limit``: 1 to 500."""
        return audit.entries(self._scope, target, who, before, limit)

    @needs(VIEW)
    def bulks(self, *, limit: int = 20) -> tuple[views.BulkView, ...]:
        """Bulk actions, newest first."""
        return start.bulks(self._scope, limit)

    @needs(VIEW)
    def bulk_view(self, id: str) -> views.BulkView:  # noqa: A002
        """How one bulk action stands. Raises :class:`~joblane.errors.UnknownTaskError`."""
        return start.view(self._scope, id)

    @needs(VIEW)
    def doctor(self) -> tuple[views.Check, ...]:
        """Look a deployment over: mappings, dead letters, schedules, migrations, clock, permissions; worst first."""
        return doctor.checks(self._scope)

    # --- Act -------------------------------------------------------------------------------------------------------

    @needs(OPERATE)
    def run(self, id: str, *, reason: str | None = None) -> views.ActionResult:  # noqa: A002
        """Run one that waits now. Raises :class:`ActionError`, as all of these do."""
        return single.change_state(self._scope, BulkAction.RUN, id, reason)

    @needs(OPERATE)
    def retry(self, id: str, *, reason: str | None = None) -> views.ActionResult:  # noqa: A002
        """Run a task that was archived or cancelled, with new attempts.

        Where its dead letter was not sent yet, that is not sent any more, and what ``on_archived`` names does not
        follow until it is archived again.
        """
        return single.change_state(self._scope, BulkAction.RETRY, id, reason)

    @needs(OPERATE)
    def archive(self, id: str, *, reason: str | None = None) -> views.ActionResult:  # noqa: A002
        """Give up one that waits: as if its attempts were used up, dead letter included."""
        return single.change_state(self._scope, BulkAction.ARCHIVE, id, reason)

    @needs(OPERATE)
    def delete(self, id: str, *, reason: str | None = None) -> views.ActionResult:  # noqa: A002
        """Clear the content of a task that does not run; one that waits is cancelled by it. The id is kept.

        A dead letter of it keeps its body in SQS until it expires there; sent back, it runs nothing. A dead letter that
        was not sent yet is not sent any more, and what ``on_archived`` names does not follow.
        """
        return single.change_state(self._scope, BulkAction.DELETE, id, reason)

    @needs(OPERATE)
    def cancel(self, id: str, *, reason: str | None = None) -> views.ActionResult:  # noqa: A002
        """Cancel one that waits, or ask one that runs to stop."""
        return single.change_state(self._scope, BulkAction.CANCEL, id, reason)

    @needs(OPERATE)
    def replay(self, id: str, *, reason: str | None = None) -> views.ActionResult:  # noqa: A002
        """Enqueue a new task with the same payload, linked to this one."""
        return single.replay(self._scope, id, None, reason)

    @needs(OPERATE)
    def bulk(self, action: BulkAction, filter: Filter, *, rate: int = 50, reason: str | None = None) -> views.BulkView:  # noqa: A002
        """Do ``action`` to all that match now, as a task of its own. ``rate``: tasks a second, 1 to 500.

        It passes over what it cannot be done to, and over bulk actions unless their type, ids or fingerprint are given.
        Raises :class:`SelectionError` where nothing matches. Ask :meth:`count` first.
        """
        return start.start(self._scope, action, filter, rate=rate, reason=reason)

    @needs(OPERATE)
    def redrive(self, filter: Filter, *, canary: int = 0, rate: int = 50, reason: str | None = None) -> views.BulkView:  # noqa: A002
        """Retry all archived tasks that match, and send back the messages without a row of that type or fingerprint.

        ``canary``: so many first (0 to 100); the rest follows only if all of these succeed.
        """
        return dead.redrive(self._scope, filter, canary, rate, reason)

    @needs(OPERATE)
    def abort(self, id: str, *, reason: str | None = None) -> views.BulkView:  # noqa: A002
        """Stop a bulk action; what is done stays done."""
        return start.abort(self._scope, id, reason)

    @needs(OPERATE)
    def pause(
        self, scope: PauseScope, name: str, *, reason: str | None = None, until: datetime | None = None
    ) -> views.Pause:
        """Start no tasks of a queue, type or tenant, or no ticks of a schedule, from now on."""
        return pauses.pause(self._scope, scope, name, reason, until)

    @needs(OPERATE)
    def resume(self, scope: PauseScope, name: str, *, reason: str | None = None) -> views.Pause:
        """Go on; returns what was paused."""
        return pauses.resume(self._scope, scope, name, reason)

    @needs(OPERATE)
    def tick(self, type: str, *, schedule: str | None = None, reason: str | None = None) -> views.ActionResult:  # noqa: A002
        """Send a tick of a periodic task now, also where its schedule is off."""
        return schedules.tick(self._scope, type, schedule, reason)

    # --- Edit ------------------------------------------------------------------------------------------------------

    @needs(EDIT)
    def edit(self, id: str, payload: Mapping[str, Any], *, reason: str | None = None) -> views.ActionResult:  # noqa: A002
        """Give one that waits, or was given up, another payload. A redacted field that is left masked stays."""
        return single.edit(self._scope, id, payload, reason)

    @needs(EDIT)
    def replay_with(self, id: str, payload: Mapping[str, Any], *, reason: str | None = None) -> views.ActionResult:  # noqa: A002
        """As :meth:`replay`, with another payload."""
        return single.replay(self._scope, id, payload, reason)

    @needs(EDIT)
    def enqueue(
        self,
        type: str,  # noqa: A002
        payload: Mapping[str, Any],
        *,
        options: Mapping[str, Any] | None = None,
        reason: str | None = None,
    ) -> views.ActionResult:
        """Enqueue a task. ``options``: those of :class:`~joblane.job.JobOptions`; durations are numbers of seconds,
        times ISO text."""
        return enqueue.enqueue(self._scope, type, payload, options or {}, reason)
