"""Marks on the charts of types, queues and tenants: deploys, pauses, limits that were changed, and bulk actions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from joblane.inspector.errors import SelectionError
from joblane.inspector.filter import PauseScope
from joblane.inspector.scope import Scope
from joblane.inspector.stage.limits import limits_of
from joblane.inspector.tasks.filter_sql import NOW, check_within
from joblane.inspector.views import Mark
from joblane.record.deploys import deploys
from joblane.record.driver.connection import Connection
from joblane.tasks.limit import TENANT

KINDS = (PauseScope.TYPE, PauseScope.QUEUE, PauseScope.TENANT)
MOST = 200
"""Marks of an answer: the latest."""
MOST_NAMES = 10
MOST_OF_KEYS = 1_000
"""Changes of the limits of single keys that are read."""
MOST_IDS = 100
"""Ids of a bulk action whose types are read."""
NARROW = ("types", "fingerprint", "ids", "id_prefix", "tag", "parent", "error")
"""Fields of a filter that do not say of which tenants its tasks are."""
MOST_BULKS = 500
"""Bulk actions that are read: the latest. Their ids begin with their time."""
WORDS = {
    "pause": "paused",
    "resume": "resumed",
    "set_limit": "set",
    "reset_limit": "reset",
}
"""Action of the audit → its words on a chart. Other actions have no mark of their own."""

ACTIONS = f"""
select at, who, action, target, reason from (
  select x.* from unnest($1::text[]) as t(target),
         lateral (select number, at, who, action, target, reason from joblane.audit a
                   where a.target = t.target and a.bulk is null order by a.number desc limit {MOST}) as x
  union all
  select x.* from unnest($2::text[]) as p(prefix),
         lateral (select number, at, who, action, target, reason from joblane.audit a
                   where a.target >= p.prefix || '/' and a.target < p.prefix || '0' and a.bulk is null
                   order by a.target desc, a.number desc limit {MOST_OF_KEYS}) as x
) as found
 where at >= $3::timestamptz and action = any($4::text[])
 order by number desc limit {MOST}
"""
"""The actions on the targets $1, and on the keys of the limits $2: these follow a slash, after which comes a 0."""
BULKS = f"""
select b.id, b.action, b.who, b.reason, b.started_at, b.total, b.filter,
       case when b.filter ? 'types' then array(select jsonb_array_elements_text(b.filter->'types'))
            when b.filter ? 'fingerprint' then array(
                 (select t.type from joblane.tasks t where t.fingerprint = b.filter->>'fingerprint'
                   order by t.created_at desc, t.id desc limit 1))
            when b.filter ? 'ids' then array(
                 (select distinct t.type from joblane.tasks t
                   where t.id = any(array(select jsonb_array_elements_text(b.filter->'ids') limit {MOST_IDS})))) end
  from (select * from joblane.bulks order by id desc limit {MOST_BULKS}) as b
 where b.started_at >= $1::timestamptz order by b.started_at desc
"""
"""The last column: the types that the filter names, itself or by an error or ids; null: it names none."""


def marks(scope: Scope, kind: PauseScope, names: Sequence[str], within: timedelta) -> tuple[Mark, ...]:
    """Latest first. Raises :class:`SelectionError`."""
    kind, names = _checked(kind, names, within)
    connection = scope.connection
    [[now]] = connection.run(NOW)
    since = now - within
    found = [
        Mark(at=deploy.at, kind="deploy", text=f"deploy {deploy.version}", who=deploy.by)
        if deploy.done_at
        else Mark(at=deploy.at, kind="started", text=f"deploy {deploy.version} started, and not done", who=deploy.by)
        for deploy in deploys(connection, since, MOST)
    ]
    found += _bulk_actions(scope, connection, kind, names, since)
    found += _actions(scope, connection, kind, names, since)
    found.sort(key=lambda mark: mark.at, reverse=True)
    return tuple(found[:MOST])


def _checked(kind: PauseScope, names: Sequence[str], within: timedelta) -> tuple[PauseScope, tuple[str, ...]]:
    if kind not in KINDS:
        raise SelectionError("kind", f"{', '.join(KINDS)} are valid, not {str(kind)!r}")
    if isinstance(names, str) or not 1 <= len(names) <= MOST_NAMES:
        raise SelectionError("names", f"a list of 1 to {MOST_NAMES} names is required")
    if not all(isinstance(name, str) and "\0" not in name for name in names):
        raise SelectionError("names", "texts without NUL are required")
    check_within(within)
    return PauseScope(kind), tuple(dict.fromkeys(names))


def _actions(
    scope: Scope, connection: Connection, kind: PauseScope, names: Sequence[str], since: datetime
) -> Iterator[Mark]:
    targets = dict.fromkeys(target for name in names for target in _targets(scope, kind, name))
    keyed = [f"limit:{name}" for name in names] if kind is PauseScope.TYPE else []
    for at, who, action, target, reason in connection.run(ACTIONS, list(targets), keyed, since, list(WORDS)):
        what, _, name = target.partition(":")
        yield Mark(
            at=at,
            kind="limit" if what == "limit" else action,
            text=f"{what} {name} {WORDS[action]}",
            who=who,
            reason=reason,
            target=target,
        )


def _targets(scope: Scope, kind: PauseScope, name: str) -> Iterator[str]:
    """Yield the targets of the audit that concern a name: pauses, for a type also of its queues, and limits. The
    limits of a queue are the limits of its types, without the limits of single keys."""
    yield f"{kind}:{name}"
    task = scope.task(name) if kind is PauseScope.TYPE else None
    if kind is PauseScope.TYPE:
        yield f"limit:{name}"
    if task is not None:
        yield from (f"type:{other}" for other in task.types)
        yield from (f"queue:{queue}" for queue in task.lanes)
        yield from (f"limit:{limit}" for limit in limits_of(task))
    if kind is PauseScope.QUEUE:
        in_queue = (task for task in scope.tasks.values() if name in task.lanes)
        yield from (f"limit:{limit}" for task in in_queue for limit in (task.type, *limits_of(task)))
    if kind is PauseScope.TENANT:
        yield from (
            f"limit:{task.type}/{name}" for task in scope.tasks.values() if task.flow and task.flow.key == (TENANT,)
        )


def _bulk_actions(
    scope: Scope, connection: Connection, kind: PauseScope, names: Sequence[str], since: datetime
) -> Iterator[Mark]:
    for id_, action, who, reason, at, total, filter_, types in connection.run(BULKS, since):
        if _concerns(scope, filter_, types, kind, names):
            text = f"{action} of {total:,} task{'s' * (total != 1)}"
            yield Mark(at=at, kind="bulk", text=text, who=who, reason=reason, bulk=id_)


def _concerns(
    scope: Scope, filter_: Mapping[str, Any], types: Sequence[str] | None, kind: PauseScope, names: Sequence[str]
) -> bool:
    """True if the action is for the tasks of one of the names. ``types``: that the filter names; None: it names none.

    A tenant has the actions for it, and those for all tasks: others are about types, and mostly not about its tasks.
    """
    if kind is PauseScope.TENANT:
        tenant = filter_.get("tenant")
        return tenant in names if tenant is not None else not any(filter_.get(field) for field in NARROW)
    if kind is PauseScope.QUEUE:
        queues = filter_.get("queues") or (types and _queues(scope, types)) or names
        return not set(names).isdisjoint(queues)
    tasks = [scope.task(name) for name in names]
    known = {other for task in tasks if task is not None for other in task.types} | set(names)
    return not types or not known.isdisjoint(types)


def _queues(scope: Scope, types: Sequence[str]) -> set[str]:
    """Return the queues of types; empty if one of them is not declared, so that its queues are not known."""
    tasks = [scope.task(type_) for type_ in types]
    return set() if None in tasks else {str(queue) for task in tasks if task is not None for queue in task.lanes}
