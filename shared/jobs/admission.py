"""Writing the rows of new tasks, and what becomes of those whose id or unique key is there already.

One INSERT where nothing stands in the way. It leaves out what does, so a duplicate never ends the caller's transaction;
who stands in the way is asked afterwards, in a statement that sees what was committed meanwhile.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from shared.jobs.claim import FREE_EXPIRED
from shared.jobs.errors import DuplicateTaskError, JobError, TaskIdConflictError
from shared.jobs.job import Ready, readdressed
from shared.jobs.queues import Queue
from shared.jobs.store import INSERT, KNOWN, REPLACE, State, document
from shared.jobs.unique import OnConflict

Run = Callable[[str, str], Sequence[Sequence[Any]]]
"""Executes SQL with one parameter and returns its rows."""
ROUNDS = 5
"""A holder may end between the INSERT that met it and the question who it was: then the key is free again."""


@dataclass(slots=True)
class Admitted:
    """A row that is there. ``state``: of a holder that is left as it is; None for a row whose message is to be sent,
    and whose state follows from its time."""

    ready: Ready
    due_seconds: float
    created: bool = True
    state: State | None = None


def admit(run: Run, ready: Sequence[Ready], *, room: int | None = None) -> list[Admitted | JobError]:
    """Write the rows; a result per job, in order. Messages beyond ``room`` are left to the sweep.

    Raises whatever ``run`` does.
    """
    results: dict[int, Admitted | JobError] = {}
    open_ = list(range(len(ready)))
    for _ in range(ROUNDS):
        if not open_:
            break
        some = [ready[position] for position in open_]
        if keys := [one.unique.key for one in some if one.unique is not None]:
            run(FREE_EXPIRED, json.dumps(keys))
        rows = [one.row(unsent=room is not None and at >= room) for at, one in zip(open_, some, strict=True)]
        due = {row[0]: row[1] for row in run(INSERT, document(rows))}
        for position in open_:
            if ready[position].id in due:
                results[position] = Admitted(ready[position], due[ready[position].id])
        open_ = [position for position in open_ if position not in results]
        if open_:
            results |= _explain(run, {position: ready[position] for position in open_})
            open_ = [position for position in open_ if position not in results]
    for position in open_:
        results[position] = DuplicateTaskError("unknown", "changing hands", "enqueue it again")
    return [results[position] for position in range(len(ready))]


def _explain(run: Run, refused: dict[int, Ready]) -> dict[int, Admitted | JobError]:
    """What the jobs that were left out come to. Those whose holder has gone meanwhile are missing."""
    wanted = [{"id": one.id, "unique_key": one.unique.key if one.unique else None} for one in refused.values()]
    ids: set[str] = set()
    holders: dict[str, Sequence[Any]] = {}
    for row in run(KNOWN, json.dumps(wanted)):
        if row[6]:
            ids.add(row[0])
        if row[4] is not None:
            holders[row[4]] = row
    results: dict[int, Admitted | JobError] = {}
    # What is replaced is locked in the order of keys, as by the INSERT.
    for position, one in sorted(refused.items(), key=lambda item: item[1].unique.key if item[1].unique else ""):
        holder = holders.get(one.unique.key) if one.unique else None
        if one.id in ids:
            results[position] = TaskIdConflictError(one.id)
        elif holder is not None and (result := _held(run, one, holder)) is not None:
            results[position] = result
    return results


def _held(run: Run, one: Ready, holder: Sequence[Any]) -> Admitted | JobError | None:
    """What comes of a job whose key is held. None: the holder has moved on, try again."""
    id_, _, queue, state, _, due, _ = holder
    if one.on_conflict is OnConflict.RETURN:
        existing = readdressed(one, id_)
        existing.queue, existing.at = Queue(queue), None
        return Admitted(existing, due, created=False, state=State(state))
    if one.on_conflict is OnConflict.REPLACE:
        if state == State.ACTIVE:
            return DuplicateTaskError(id_, state, "a running task cannot be replaced")
        rows = run(REPLACE, document([one.row()]))
        return Admitted(readdressed(one, rows[0][0]), rows[0][1], created=False) if rows else None
    return DuplicateTaskError(id_, state)
