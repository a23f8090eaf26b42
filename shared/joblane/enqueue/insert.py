"""Writing the rows of new tasks, and what becomes of those whose id or unique key is there already.

One INSERT where nothing stands in the way. It leaves out what does, so a duplicate never ends the caller's transaction;
who stands in the way is asked afterwards, in a statement that sees what was committed meanwhile.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from joblane.enqueue.check import readdressed
from joblane.errors import DuplicateTaskError, JobError, TaskIdConflictError
from joblane.queues import Queue
from joblane.record.claim import FREE_EXPIRED
from joblane.record.insert import EXISTING, INSERT, REPLACE, NewTask, document
from joblane.record.states import State
from joblane.unique import OnConflict

Run = Callable[[str, str], Sequence[Sequence[Any]]]
"""Executes SQL with one parameter and returns its rows."""
ROUNDS = 5
"""A holder may end between the INSERT that met it and the question who it was: then the key is free again."""


@dataclass(slots=True)
class Holder:
    """Who holds a key. ``under_way``: an attempt of it is, in an invocation or between two."""

    id: str
    queue: Queue
    state: State
    due_seconds: float
    under_way: bool


def insert_tasks(run: Run, ready: Sequence[NewTask], *, room: int | None = None) -> list[NewTask | JobError]:
    """Write the rows; a result per job, in order.

    ``room``: in a caller's transaction, which goes on: messages beyond it are left to the sweep. Raises whatever
    ``run`` does.
    """
    results: dict[int, NewTask | JobError] = {}
    open_ = dict(enumerate(ready))
    for _ in range(ROUNDS):
        if not open_:
            break
        if keys := [one.unique.key for one in open_.values() if one.unique is not None]:
            run(FREE_EXPIRED, json.dumps(keys))
        due = {row[0]: row[1] for row in run(INSERT, _document(open_, room))}
        for position, one in open_.items():
            if one.id in due:
                one.due_seconds = due[one.id]
                results[position] = one
        open_ = _without(open_, results)
        if open_:
            results |= _explain(run, open_, room)
            open_ = _without(open_, results)
        if room is not None and any(isinstance(one, NewTask) and one.state is None for one in results.values()):
            break  # another round would take keys out of their order while it holds those of this one
    changing = {position: DuplicateTaskError("unknown", "changing hands", "enqueue it again") for position in open_}
    return [result for _, result in sorted((results | changing).items())]


def _document(jobs: Mapping[int, NewTask], room: int | None) -> str:
    for position, one in jobs.items():
        one.unsent = room is not None and position >= room
    return document(jobs.values())


def _without(jobs: Mapping[int, NewTask], results: Mapping[int, Any]) -> dict[int, NewTask]:
    return {position: one for position, one in jobs.items() if position not in results}


def _explain(run: Run, refused: Mapping[int, NewTask], room: int | None) -> dict[int, NewTask | JobError]:
    """What the jobs that were left out come to. Those whose holder has gone meanwhile are missing."""
    wanted = [{"id": one.id, "unique_key": one.unique.key if one.unique else None} for one in refused.values()]
    ids: set[str] = set()
    holders: dict[str, Holder] = {}
    for id_, queue, state, key, due, same_id, under_way in run(EXISTING, json.dumps(wanted)):
        if same_id:
            ids.add(id_)
        if key is not None:
            holders[key] = Holder(id_, Queue(queue), State(state), due, under_way)
    results: dict[int, NewTask | JobError] = {}
    replacing: dict[int, NewTask] = {}
    for position, one in refused.items():
        holder = holders.get(one.unique.key) if one.unique else None
        if one.id in ids:
            results[position] = TaskIdConflictError(one.id)
        elif holder is not None:
            if one.on_conflict is OnConflict.REPLACE and not holder.under_way:
                replacing[position] = one
            else:
                results[position] = _held(one, holder)
    return results | _replace(run, replacing, room)


def _held(one: NewTask, holder: Holder) -> NewTask | JobError:
    """What comes of a job whose key is held and stays so."""
    if one.on_conflict is OnConflict.RETURN:
        existing = readdressed(one, holder.id)
        due, state = holder.due_seconds, holder.state
        return replace(existing, queue=holder.queue, at=None, due_seconds=due, created=False, state=state)
    if one.on_conflict is OnConflict.REPLACE:
        return DuplicateTaskError(holder.id, holder.state, "a running task cannot be replaced")
    return DuplicateTaskError(holder.id, holder.state)


def _replace(run: Run, jobs: Mapping[int, NewTask], room: int | None) -> dict[int, NewTask | JobError]:
    """Replace the holders in one statement; of several jobs with one key the last is what stays. Those whose holder has
    moved on meanwhile are missing."""
    last = {one.unique.key: (position, one) for position, one in jobs.items() if one.unique is not None}
    rows = run(REPLACE, _document(dict(last.values()), room)) if last else []
    replaced = {key: (id_, due) for id_, due, key in rows}
    results: dict[int, NewTask | JobError] = {}
    for position, one in jobs.items():
        if one.unique is not None and one.unique.key in replaced:
            id_, due = replaced[one.unique.key]
            results[position] = replace(readdressed(one, id_), due_seconds=due, created=False)
    return results
