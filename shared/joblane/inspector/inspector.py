"""All queries and actions of an operator, each marked with the permission that it takes.

The command line and the page use an :class:`Inspector`, or a :class:`joblane.inspector.remote.RemoteInspector` with
the same operations, which calls an inspector in the stage. Arguments and answers of both are plain typed objects.
"""

# ruff: noqa: A002 - parameters have the names of the control API, of which filter, id and type are built-in names too

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from joblane.inspector import views
from joblane.inspector.filter import DEFAULT_RATE, TROUBLE, BulkAction, Filter, Group, Measure, PauseScope
from joblane.inspector.permission import Permission, needs
from joblane.lazy import modules
from joblane.tasks.limit import Rate

if TYPE_CHECKING:
    from joblane.inspector.actions import audit, schedule, signals, single, undo
    from joblane.inspector.actions import causes as cause_marks
    from joblane.inspector.bulk import dead, preview, start
    from joblane.inspector.scope import Scope
    from joblane.inspector.stage import batches, batching, limits, overview, pauses, schedules, tenants, why_slow
    from joblane.inspector.stage.doctor import doctor, trouble
    from joblane.inspector.stage.trends import causes, chart, marks, performance
    from joblane.inspector.tasks import detail, find, graph, listing, logs, waits
else:  # imported by the first call: a remote inspector needs only the signatures, and no database driver
    audit, cause_marks, schedule, signals, single, undo = modules(
        "joblane.inspector.actions", "audit causes schedule signals single undo"
    )
    dead, preview, start = modules("joblane.inspector.bulk", "dead preview start")
    batches, batching, limits, overview, pauses, schedules, tenants, why_slow = modules(
        "joblane.inspector.stage", "batches batching limits overview pauses schedules tenants why_slow"
    )
    doctor, trouble = modules("joblane.inspector.stage.doctor", "doctor trouble")
    causes, chart, marks, performance = modules("joblane.inspector.stage.trends", "causes chart marks performance")
    detail, find, graph, listing, logs, waits = modules(
        "joblane.inspector.tasks", "detail find graph listing logs waits"
    )

VIEW, OPERATE, EDIT = Permission

ALL = Filter()


class Inspector:
    """The operations on one stage. An operation that fails raises a :class:`~joblane.errors.JobError` that says why.

    Threads may share an inspector: it carries out one operation at a time.

    Every action writes an audit entry, with the operator's name, in its own transaction.
    """

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    # --- Queries ---------------------------------------------------------------------------------------------------

    @needs(VIEW)
    def overview(self, *, minutes: int = 60) -> views.Overview:
        """The queues and their lanes now, with the runs of each of the last ``minutes`` (1 to 240)."""
        return overview.overview(self._scope, minutes)

    @needs(VIEW)
    def trouble(self) -> views.Trouble:
        """The trouble that needs an operator now, worst first, from the database alone: the checks of the doctor that
        cost little, values that operators set, pauses with waiting tasks, new errors, failing and late types."""
        return trouble.trouble(self._scope)

    @needs(VIEW)
    def now(self, *, minutes: int = 60) -> views.Now:
        """The answers of :meth:`trouble` and :meth:`overview`, and the types with their runs of the last ``minutes`` (1
        to 240), worst first."""
        return trouble.now(self._scope, minutes)

    @needs(VIEW)
    def tasks(
        self,
        filter: Filter = ALL,
        *,
        action: BulkAction | None = None,
        oldest_first: bool = False,
        after: str | None = None,
        limit: int = 50,
    ) -> views.TaskPage:
        """A page of tasks, newest first. ``oldest_first``: the tasks that were created first are the first.

        ``action``: only tasks that this action would change. ``after``: the position that the previous page returned.
        ``limit``: 1 to 500. A page reads at most 20,000 rows, so a page of few matching tasks may end before it is
        full: see :class:`~joblane.inspector.views.TaskPage`.
        """
        return listing.tasks(self._scope, filter, action, after, limit, oldest_first=oldest_first)

    @needs(VIEW)
    def find(
        self,
        text: str,
        *,
        created_after: datetime | None = None,
        created_before: datetime | None = None,
        after: str | None = None,
    ) -> views.Found:
        """Find tasks by a string of 1 to 200 characters.

        The text is compared with ids and their beginnings, with tenants, tags, fingerprints and the unique keys of live
        tasks, and with parts of types, errors and values of payloads, upper or lower case of ASCII is equal. A number
        in a payload has to be equal. What is redacted in an answer is not searched: redacted fields, payloads of types
        that no code declares, and keys of types with redacted fields.

        ``created_after``, ``created_before``: times with a zone, for errors and payloads. Payloads: by default of the
        last 24 hours. One call reads 20,000 payloads, or as many as 0.12 seconds allow. ``after``: the position that
        the previous answer returned, to search the payloads further. Raises
        :class:`~joblane.inspector.errors.SelectionError`.
        """
        return find.find(self._scope, text, created_after, created_before, after)

    @needs(VIEW)
    def count(self, filter: Filter = ALL, *, action: BulkAction | None = None) -> views.Count:
        """The number of matching tasks, up to 10,000, among the latest 20,000 rows that can match.

        ``action``: as in :meth:`tasks`; the latest million rows are then searched.
        """
        return listing.count(self._scope, filter, action)

    @needs(VIEW)
    def preview(self, action: str, filter: Filter, *, canary: int = 0) -> views.Preview:
        """The preview of an action on many tasks: its tasks, their causes, and what will keep them from starting.

        ``action``: a :class:`~joblane.inspector.filter.BulkAction`, or ``redrive``. ``canary``: as in :meth:`redrive`.
        Raises :class:`~joblane.inspector.errors.SelectionError`.
        """
        return preview.preview(self._scope, action, filter, canary)

    @needs(VIEW)
    def task(self, id: str) -> views.TaskView:
        """All details of one task. Raises :class:`~joblane.errors.UnknownTaskError`."""
        return detail.task(self._scope, id)

    @needs(VIEW)
    def graph(self, id: str) -> views.Graph:
        """The workflow of a task, or of a batch by ``batch:`` and its id: parents, children, batches and callbacks.

        More than 8 siblings of one type and state are one node. A graph has at most 300 nodes, up to 8 steps from the
        task. Raises :class:`~joblane.errors.UnknownTaskError`.
        """
        return graph.graph(self._scope, id)

    @needs(VIEW)
    def logs(
        self, id: str, *, level: str | None = None, text: str | None = None, runs: int = 20, limit: int = 1000
    ) -> tuple[views.LogLine, ...]:
        """The log lines of the last ``runs`` attempts of one task, 1 to 20, oldest first. ``limit``: 1 to 1,000.

        ``level``: only lines of this level and above: ``DEBUG``, ``INFO``, ``WARNING``, ``ERROR``, ``CRITICAL``.
        Lambda's own lines count as ``INFO`` if they only report an invocation, and as the highest level otherwise.
        ``text``: only lines with this text, 1 to 200 characters, upper and lower case differ.
        """
        return logs.of_task(self._scope, id, level=level, text=text, runs=runs, limit=limit)

    @needs(VIEW)
    def type_logs(
        self, type: str, *, level: str | None = None, text: str | None = None, limit: int = 200
    ) -> tuple[views.LogLine, ...]:
        """The newest log lines of a type within 15 minutes, oldest first. Arguments: as in :meth:`logs`.

        Of a place: the lines of this type, and Lambda's own lines. Raises
        :class:`~joblane.inspector.errors.SelectionError`.
        """
        return logs.of_type(self._scope, type, level=level, text=text, limit=limit)

    @needs(VIEW)
    def dead(
        self,
        *,
        types: tuple[str, ...] = (),
        tenant: str | None = None,
        since: datetime | None = None,
        sort: str = "count",
        messages_only: bool = False,
    ) -> views.DeadLetters:
        """The causes of archived tasks, and of dead letters without a row, with the failed runs of the last day.

        ``types``: none for all. ``tenant``: only its tasks, in each number. ``since``: only causes of tasks that
        were archived at this time or later. ``sort``: ``count``, the cause with the most such tasks first, or
        ``last``, the cause with the latest failure first. ``messages_only``: only dead letters without a row.
        """
        return dead.groups(self._scope, types, tenant, since, sort, messages_only=messages_only)

    @needs(VIEW)
    def errors(
        self,
        *,
        within: timedelta = timedelta(days=1),
        types: tuple[str, ...] = (),
        tenant: str | None = None,
        version: str | None = None,
        state: views.CauseState | None = None,
        sort: str = "last",
        limit: int = 50,
    ) -> views.Causes:
        """The causes of failures: the failed runs that started in the last ``within`` (5 minutes to 30 days), tasks in
        retry and archived tasks, grouped by their error. A cause with archived tasks is listed whenever they failed.

        ``types``: none for all. ``tenant``: only its tasks, in each number. ``version``: only causes with failed runs
        that started while it was deployed, and only these runs. ``state``: only causes in this state; None:
        all but ignored ones without archived tasks. ``sort``: ``last``, the cause with the latest failure first,
        ``runs``, the cause with the most failed runs first, or ``now``, causes of the last hour before others, new ones
        first, and then by runs. Known, resolved and ignored causes follow the others.
        ``limit``: 1 to 500. Messages without a row are listed by :meth:`dead` alone.
        """
        return causes.causes(
            self._scope,
            within=within,
            types=types,
            tenant=tenant,
            version=version,
            state=state,
            sort=sort,
            limit=limit,
        )

    @needs(VIEW)
    def pauses(self) -> tuple[views.Pause, ...]:
        """The current pauses."""
        return pauses.current(self._scope.connection)

    @needs(VIEW)
    def limits(self, name: str | None = None, *, key: str | None = None) -> tuple[views.LimitStatus, ...]:
        """Limits with their values, and the numbers of tasks that have their slots and wait for them.

        ``name`` None: all declared limits, and all limits and keys for which something is set. A type: its total, the
        values of each key, and of its keys those for which something is set, and the 20 whose tasks wait longest.

        Raises :class:`~joblane.errors.LimitError`.
        """
        return limits.limits(self._scope, name, key)

    @needs(VIEW)
    def line(self, type: str, key: str, *, limit: int = 50) -> tuple[views.TaskRow, ...]:
        """The live tasks of a key of a type with an order, in their order. ``limit``: 1 to 500.

        Raises :class:`~joblane.errors.LimitError`.
        """
        return limits.line(self._scope, type, key, limit)

    @needs(VIEW)
    def waits(
        self,
        *,
        type: str | None = None,
        tenant: str | None = None,
        signal: str | None = None,
        after: str | None = None,
        limit: int = 50,
    ) -> views.WaitPage:
        """A page of open waits, the next end first.

        ``type``, ``tenant``: only waits of their tasks. ``signal``: only waits for this signal. ``after``: the position
        that the previous page returned. ``limit``: 1 to 500. A page reads at most 20,000 waits, see
        :class:`~joblane.inspector.views.WaitPage`. A task that waits for its children is not listed.
        """
        return waits.waits(self._scope, type_=type, tenant=tenant, signal=signal, after=after, limit=limit)

    @needs(VIEW)
    def batches(self, *, limit: int = 50) -> tuple[views.BatchRow, ...]:
        """Batches, newest first. ``limit``: 1 to 500."""
        return batches.batches(self._scope, limit)

    @needs(VIEW)
    def batch(self, id: str) -> views.BatchView:
        """A batch with its members by state, counted up to 50,000, and its archived members.

        To run these again, call :meth:`redrive` with their tag, ``batch:`` and the id. Raises
        :class:`~joblane.inspector.errors.UnknownBatchError`.
        """
        return batches.batch(self._scope, id)

    @needs(VIEW)
    def schedules(
        self,
        *,
        tenant: str | None = None,
        type: str | None = None,
        text: str | None = None,
        origin: str | None = None,
        problem: bool = False,
        paused: bool = False,
        sort: str = "name",
        after: str | None = None,
        limit: int = 50,
    ) -> views.SchedulePage:
        """A page of schedules: those that the code declares, and those made at run time.

        ``text``: a part of the name, upper and lower case of ASCII are equal. ``origin``: ``code`` or ``run_time``;
        None: both. ``problem``, ``paused`` True: only those with a problem, or paused. ``sort``: ``name``, or ``ticks``
        for the ticks a day, most first. ``after``: the position that the previous page returned. ``limit``: 1 to 200. A
        page reads at most 20,000 schedules, see :class:`~joblane.inspector.views.SchedulePage`.
        """
        return schedules.listing(
            self._scope,
            tenant=tenant,
            type_=type,
            text=text,
            origin=origin,
            problem=problem,
            paused=paused,
            sort=sort,
            after=after,
            limit=limit,
        )

    @needs(VIEW)
    def schedule(self, name: str) -> views.ScheduleView:
        """A schedule. Raises :class:`~joblane.errors.UnknownScheduleError`."""
        return schedules.one(self._scope, name)

    @needs(VIEW)
    def statistics(self, *, within: timedelta = timedelta(days=1), by: str = "type") -> tuple[views.Statistic, ...]:
        """Runs of the last ``within``, the most expensive first. ``by``: ``type`` or ``tenant``.

        More than 3 hours: without runs that were found lost three hours after their start. More than a day: from the
        start of an hour.
        """
        return performance.statistics(self._scope, within, by)

    @needs(VIEW)
    def tenants(self, *, sort: str = TROUBLE, limit: int = 50) -> tuple[views.TenantRow, ...]:
        """Tenants with live tasks or runs of the last hour. ``limit``: 1 to 500.

        ``sort``: ``tenant``, or a number, the largest first: ``trouble`` (failed runs of the hour, and tasks that are
        due or held), ``due``, ``oldest``, ``active``, ``held``, ``later``, ``runs``, ``failed``, or ``share``, the
        share of the runs that failed.

        Raises :class:`~joblane.inspector.errors.SelectionError`.
        """
        return overview.tenants(self._scope, sort, limit)

    @needs(VIEW)
    def tenant(self, name: str) -> views.TenantView:
        """A tenant now, by its types, with their runs of the last hour. ``name``: empty for tasks without a tenant.

        Raises :class:`~joblane.inspector.errors.SelectionError`.
        """
        return tenants.tenant(self._scope, name)

    @needs(VIEW)
    def failures(self, *, minutes: int = 60, limit: int = 20) -> tuple[views.TaskRow, ...]:
        """The last failed runs, latest end first: their tasks, with the end and the error of the run.

        ``minutes``: 1 to 240. ``limit``: 1 to 500.
        """
        return listing.failures(self._scope, minutes, limit)

    @needs(VIEW)
    def performance(self, kind: PauseScope, name: str, *, within: timedelta = timedelta(days=1)) -> views.Performance:
        """The runs of a type or a tenant over time. ``kind``: ``type`` or ``tenant``. ``within``: 5 minutes to 30 days.

        A tenant's runs are by hour. The 200 tenants with the most runs of an hour have numbers of their own; the name
        ``*`` is for all others, and the empty name for tasks without a tenant.
        """
        return performance.performance(self._scope, kind, name, within)

    @needs(VIEW)
    def chart(
        self,
        *,
        of: Measure = Measure.RUNS,
        by: Group = Group.TYPE,
        percentile: str = "p95",
        within: timedelta = timedelta(days=1),
        types: tuple[str, ...] = (),
        queue: str | None = None,
        tenant: str | None = None,
        compare: bool = False,
        limit: int = 8,
    ) -> views.Chart:
        """The runs of the last ``within`` over time, as lines of groups. ``within``: 5 minutes to 180 days.

        ``of``: ``runs``, ``failed``, ``failed-share``, ``wait``, ``duration`` or ``cost``. ``by``: ``none``, ``type``,
        ``queue`` or ``tenant``. ``percentile``: ``p50``, ``p95`` or ``p99``, of waits and durations. ``types``,
        ``queue``: only their runs, not by tenant. ``tenant``: only its runs, by ``tenant`` or ``none``. ``compare``:
        with the runs of the day, the week or the 30 days before. ``limit``: 1 to 12 groups; the others are added up.

        Only runs that the sweep has counted: up to some minutes ago, and for tenants up to the last full hour.
        Raises :class:`~joblane.inspector.errors.SelectionError`.
        """
        return chart.chart(
            self._scope,
            chart.Choice(of, by, percentile, within, types, queue, tenant, limit),
            compare=compare,
        )

    @needs(VIEW)
    def marks(
        self, kind: PauseScope, names: tuple[str, ...], *, within: timedelta = timedelta(days=1)
    ) -> tuple[views.Mark, ...]:
        """Deploys, pauses, changes of limits and bulk actions, latest first. ``within``: 1 minute to 30 days.

        ``kind``, ``names``: only those that concern these types, queues or tenants, 10 at most. A type has the pauses
        of its queues too. At most 200 marks.
        """
        return marks.marks(self._scope, kind, names, within)

    @needs(VIEW)
    def why_slow(self, name: str) -> tuple[views.Check, ...]:
        """Why the tasks of a declared type start late, in the order of the runbook, from the database alone."""
        return why_slow.why_slow(self._scope, name)

    @needs(VIEW)
    def batching(self, *, types: tuple[str, ...] = ()) -> tuple[views.Batching, ...]:
        """The saving of a larger ``batch_size`` for declared types, from their runs of the last 7 days, largest first.

        ``types``: none for all. A type without runs is left out.
        """
        return batching.batching(self._scope, types)

    @needs(VIEW)
    def types(self) -> tuple[views.TypeView, ...]:
        """The declared task types."""
        return overview.types(self._scope.tasks)

    @needs(VIEW)
    def audit(
        self,
        *,
        target: str | None = None,
        who: str | None = None,
        action: str | None = None,
        bulk: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        before: int | None = None,
        limit: int = 50,
    ) -> tuple[views.AuditEntry, ...]:
        """Actions of operators, newest first.

        A bulk action has one entry, and one more for each of its tasks. The entries of its tasks are listed only with
        ``target``, the id of a task, or ``bulk``, the id of the bulk action. ``since``, ``until``: times with a zone,
        the first included. ``before``: only entries below this number. ``limit``: 1 to 500.
        """
        return audit.entries(
            self._scope,
            target=target,
            who=who,
            name=action,
            bulk=bulk,
            since=since,
            until=until,
            before=before,
            limit=limit,
        )

    @needs(VIEW)
    def bulks(self, *, limit: int = 20) -> tuple[views.BulkView, ...]:
        """Bulk actions, newest first."""
        return start.bulks(self._scope, limit)

    @needs(VIEW)
    def bulk_view(self, id: str) -> views.BulkView:
        """The state of one bulk action. Raises :class:`~joblane.inspector.errors.UnknownBulkError`."""
        return start.view(self._scope, id)

    @needs(VIEW)
    def doctor(self) -> tuple[views.Check, ...]:
        """Check a deployment: mappings, dead letters, schedules, migrations, clock, permissions, mail; worst first."""
        return doctor.checks(self._scope)

    # --- Actions ---------------------------------------------------------------------------------------------------

    @needs(OPERATE)
    def mark_errors(
        self, fingerprints: tuple[str, ...], state: views.CauseState, *, reason: str | None = None
    ) -> views.MarkedCauses:
        """Mark causes of :meth:`errors` as ``known``, ``resolved`` or ``ignored``, or as ``open`` again.

        A resolved cause is new again once a run that started later fails with it. The other marks stay. All causes are
        marked, or none. ``fingerprints``: 1 to 100. ``reason``: a note for other operators, required except for
        ``open``. Raises :class:`~joblane.inspector.errors.SelectionError`.
        """
        return cause_marks.mark(self._scope, fingerprints, state, reason)

    @needs(OPERATE)
    def run(self, id: str, *, reason: str | None = None) -> views.ActionResult:
        """Run a waiting task now, also one that waits for other tasks. Raises :class:`ActionError`, as all actions on
        one task do, even if it waits for a limit, or for the time of a rate: change the limit instead. If it has
        stopped at a wait: :meth:`skip` the wait, or :meth:`signal` the task.
        """
        return single.change_state(self._scope, BulkAction.RUN, id, reason)

    @needs(OPERATE)
    def retry(self, id: str, *, reason: str | None = None) -> views.ActionResult:
        """Run an archived or cancelled task again, with new attempts.

        Raises :class:`ActionError` for a tick that was skipped because of overlap, or because its schedule was changed,
        paused or deleted: :meth:`replay` it. A bulk retry counts such tasks as skipped.
        If the task's dead letter was not sent yet, it is not sent now, and the ``on_archived`` task is not enqueued.
        If the task is archived again, its dead letter is sent and the ``on_archived`` task is enqueued.
        """
        return single.change_state(self._scope, BulkAction.RETRY, id, reason)

    @needs(OPERATE)
    def archive(self, id: str, *, reason: str | None = None) -> views.ActionResult:
        """Archive a waiting task, as if its attempts were used up: its dead letter is sent as well."""
        return single.change_state(self._scope, BulkAction.ARCHIVE, id, reason)

    @needs(OPERATE)
    def delete(self, id: str, *, reason: str | None = None) -> views.ActionResult:
        """Clear the content of a task that is not running. A waiting task is cancelled. The id is kept.

        The task's dead letter stays in SQS, with its body, until it expires. If an operator sends it back to the lane,
        nothing runs. A dead letter that was not sent yet is not sent any more, and the ``on_archived`` task is not
        enqueued.
        """
        return single.change_state(self._scope, BulkAction.DELETE, id, reason)

    @needs(OPERATE)
    def cancel(self, id: str, *, reason: str | None = None) -> views.ActionResult:
        """Cancel a waiting task, or ask a running task to stop."""
        return single.change_state(self._scope, BulkAction.CANCEL, id, reason)

    @needs(OPERATE)
    def replay(self, id: str, *, reason: str | None = None) -> views.ActionResult:
        """Enqueue a new task with the same payload, linked to this task."""
        return single.replay(self._scope, id, None, reason)

    @needs(OPERATE)
    def skip(self, id: str, *, reason: str | None = None) -> views.ActionResult:
        """Set the end of the open wait of a task to now: a sleep ends, a wait for a signal expires, and a poll calls
        its function for the last time. If its signal has come meanwhile, the task gets it."""
        return signals.skip(self._scope, id, reason)

    @needs(OPERATE)
    def bulk(
        self,
        action: BulkAction,
        filter: Filter,
        *,
        canary: int = 0,
        rate: int = DEFAULT_RATE,
        reason: str | None = None,
    ) -> views.BulkView:
        """Apply ``action`` to all tasks that match now, in a task of type ``jobs:bulk``. ``rate``: 1 to 500 tasks a
        second. ``canary``: as in :meth:`redrive`, of a retry.

        Tasks in a state that does not allow the action are skipped. Bulk actions are also tasks; they are skipped
        unless the filter names their type, ids or fingerprint. Raises :class:`SelectionError` if nothing matches. Call
        :meth:`count` first.
        """
        return start.start(self._scope, action, filter, canary=canary, rate=rate, reason=reason)

    @needs(OPERATE)
    def redrive(
        self, filter: Filter, *, canary: int = 0, rate: int = DEFAULT_RATE, reason: str | None = None
    ) -> views.BulkView:
        """Retry all matching archived tasks, and send back matching dead letters without a row.

        ``canary``: run this number of tasks first (0 to 100), and continue only if all of them complete. Raises
        :class:`SelectionError` if one of them cannot start, for example because its type is paused. See
        :meth:`preview`.
        """
        return dead.redrive(self._scope, filter, canary, rate, reason)

    @needs(OPERATE)
    def abort(self, id: str, *, reason: str | None = None) -> views.BulkView:
        """Stop a bulk action. Tasks that it has changed stay changed."""
        return start.abort(self._scope, id, reason)

    @needs(OPERATE)
    def seal_batch(self, id: str, *, reason: str | None = None) -> views.BatchView:
        """Seal a batch whose creator cannot do it any more: its callbacks then run once its members have ended.

        Raises :class:`~joblane.inspector.errors.UnknownBatchError`, and
        :class:`~joblane.inspector.errors.SelectionError` if it is sealed already.
        """
        return batches.seal(self._scope, id, reason)

    @needs(OPERATE)
    def pause(
        self, scope: PauseScope, name: str, *, reason: str | None = None, until: datetime | None = None
    ) -> views.Pause:
        """Start no more tasks of a queue, type or tenant."""
        return pauses.pause(self._scope, scope, name, reason, until)

    @needs(OPERATE)
    def resume(self, scope: PauseScope, name: str, *, reason: str | None = None) -> views.Pause:
        """End a pause. Returns the pause that was ended."""
        return pauses.resume(self._scope, scope, name, reason)

    @needs(OPERATE)
    def undo(self, number: int) -> views.AuditEntry:
        """Undo a pause, a resume, a change of a limit, or a mark of one error. Returns its audit entry.

        ``number``: of this entry.
        Raises :class:`~joblane.inspector.errors.SelectionError` after 15 seconds, if its target was changed since, or
        if another operator did it. Actions that send, archive or delete tasks cannot be undone.
        """
        return undo.undo(self._scope, number)

    @needs(OPERATE)
    def pause_schedule(
        self, name: str, *, reason: str | None = None, until: datetime | None = None
    ) -> views.ScheduleView:
        """Pause a schedule: it has no ticks until it is resumed, or until ``until``.

        Raises :class:`~joblane.errors.UnknownScheduleError`, and :class:`~joblane.inspector.errors.SelectionError` if
        it is paused already.
        """
        return schedule.pause(self._scope, name, reason, until)

    @needs(OPERATE)
    def resume_schedule(self, name: str, *, reason: str | None = None) -> views.ScheduleView:
        """Resume a schedule, from its next time on.

        Raises :class:`~joblane.errors.UnknownScheduleError`, and :class:`~joblane.inspector.errors.SelectionError` if
        it is not paused.
        """
        return schedule.resume(self._scope, name, reason)

    @needs(OPERATE)
    def delete_schedule(self, name: str, *, reason: str | None = None) -> views.ScheduleRow:
        """Delete a schedule that was made at run time. Returns it as it was. Tasks that it has started stay.

        Raises :class:`~joblane.errors.UnknownScheduleError`, and :class:`~joblane.inspector.errors.SelectionError` if
        the code declares it.
        """
        return schedule.delete(self._scope, name, reason)

    @needs(OPERATE)
    def run_schedule(self, name: str, *, reason: str | None = None) -> views.ActionResult:
        """Enqueue the task of a schedule now. Its next time stays as it is.

        Raises :class:`~joblane.errors.UnknownScheduleError`.
        """
        return schedule.run(self._scope, name, reason)

    @needs(OPERATE)
    def set_limit(
        self,
        name: str,
        *,
        key: str | None = None,
        max_per_key: int | None = None,
        max_total: int | None = None,
        total: int | None = None,
        rate: Rate | None = None,
        until: datetime | None = None,
        reason: str,
    ) -> tuple[views.LimitStatus, ...]:
        """Set values of a limit instead of the declared ones, as :meth:`joblane.client.limits.Limits.set` does.

        Returns the limits that were changed. Raises :class:`~joblane.errors.LimitError`, and
        :class:`~joblane.inspector.errors.SelectionError` without a reason.
        """
        from joblane.record.flow.limit_changes import Given

        given = Given(max_per_key, max_total, total, rate, until)
        return limits.set_limit(self._scope, name, key, given, reason)

    @needs(OPERATE)
    def reset_limit(
        self, name: str, *, key: str | None = None, reason: str | None = None
    ) -> tuple[views.LimitStatus, ...]:
        """Remove what is set for a limit, so that the declared values hold, and end a delay by ``RateLimited``.

        Returns the limits that were changed.

        Raises :class:`~joblane.errors.LimitError`.
        """
        return limits.reset_limit(self._scope, name, key, reason)

    @needs(OPERATE)
    def pass_line(
        self, type: str, key: str, *, first: str | None = None, reason: str | None = None
    ) -> views.ActionResult:
        """Move the first task of an ordered key to the end of its order, so that the next one runs.

        ``first``: only if this task is the first one. Raises :class:`~joblane.errors.LimitError` if another one is, if
        the first task runs, or if no other one is due.
        """
        return limits.pass_line(self._scope, type, key, first, reason)

    # --- Edit ------------------------------------------------------------------------------------------------------

    @needs(EDIT)
    def edit(self, id: str, payload: Mapping[str, Any], *, reason: str | None = None) -> views.ActionResult:
        """Change the payload of a waiting or archived task. A redacted field that is left masked keeps its value."""
        return single.edit(self._scope, id, payload, reason)

    @needs(EDIT)
    def signal(
        self, id: str, name: str, value: Any = None, *, replace: bool = False, reason: str | None = None
    ) -> views.ActionResult:
        """Send a signal to a task, which continues if it waits for it. ``note``: for what it waits instead.

        ``value``: what JSON can hold, at most 65,536 bytes. ``replace``: replaces an earlier signal of this name,
        unless the task is active, and reopens the last expired wait for it. Retry an archived task afterwards.
        Raises :class:`~joblane.errors.SignalError`.
        """
        return signals.signal(self._scope, id, name, value, replace=replace, reason=reason)

    @needs(EDIT)
    def replay_with(self, id: str, payload: Mapping[str, Any], *, reason: str | None = None) -> views.ActionResult:
        """Like :meth:`replay`, with another payload."""
        return single.replay(self._scope, id, payload, reason)

    @needs(EDIT)
    def enqueue(
        self,
        type: str,
        payload: Mapping[str, Any],
        *,
        options: Mapping[str, Any] | None = None,
        reason: str | None = None,
    ) -> views.ActionResult:
        """Enqueue a task. ``options``: see :class:`~joblane.tasks.job.Job`, with durations as numbers of
        seconds and times as ISO 8601 text."""
        return single.enqueue(self._scope, type, payload, options or {}, reason)
