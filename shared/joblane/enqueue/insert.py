"""The insert of new tasks, and the handling of ids and unique keys that exist already.

Without conflicts it is one statement. It skips conflicting rows, so that a duplicate never fails the caller's
transaction. A second statement then finds the existing tasks; it also sees rows that were committed since.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from joblane.enqueue.check import with_row_id
from joblane.enqueue.parents import refuse_unknown
from joblane.errors import (
    DatabaseUnavailableError,
    DuplicateTaskError,
    EnqueueError,
    JobError,
    TaskIdConflictError,
    sqlstate,
    text_of,
)
from joblane.json_values import digest
from joblane.names import Queue
from joblane.record.driver.connection import REFUSED_CLASSES, SHUT_DOWN
from joblane.record.driver.stage import NOT_MIGRATED
from joblane.record.row.states import State, as_read
from joblane.record.task.debounce import PUSH
from joblane.record.task.insert import EXISTING, INSERT, INSERT_ONE, REPLACE, SAME, NewTask, plain
from joblane.tasks.unique import Debounce, Keep, OnConflict

Execute = Callable[..., Sequence[Sequence[Any]]]
"""Executes SQL once for each of its parameters, all in one transaction, and returns the rows of all."""
MAX_ROWS, MAX_CHARACTERS = 10_000, 16_000_000
"""The most rows and characters of one statement, which then takes about a second. The client ends one after 10 s."""
NOT_PUSHED = (
    "it has begun, or waits for other tasks, or has a signal, and cannot be pushed; enqueue all tasks with this key "
    'with debounce, or with unique_until="start" and without after, so that a change while it runs makes another task'
)
PARENT_CHARACTERS = MAX_CHARACTERS // 20_000
"""The insert of a parent takes no longer than that of this many characters of a row."""
ROUNDS = 5
"""The tries of an insert. If a key's holder ends between the INSERT and the second statement, the key is free again."""


@dataclass(slots=True)
class Holder:
    """The task that holds a key.

    ``under_way``: it cannot be replaced, as an attempt is under way, or it waits for other tasks. ``begun``: a run has
    begun.
    """

    id: str
    queue: Queue
    state: State
    due_seconds: float
    under_way: bool
    begun: bool


def insert_tasks(run: Execute, tasks: Sequence[NewTask], *, room: int | None = None) -> list[NewTask | JobError]:
    """Insert the rows. Return a result for each task, in order.

    ``room``: the number of messages that the caller's open transaction may still send itself. The sweep sends the
    others. None: no transaction is open. Raises the errors of ``run``, and :class:`EnqueueError` for a parent that does
    not exist.
    """
    refuse_unknown(run, tasks)
    results: dict[int, NewTask | JobError] = {}
    unresolved = dict(enumerate(tasks))
    for _ in range(ROUNDS):
        if not unresolved:
            break
        inserted = _insert(run, unresolved, room)
        for position, task in unresolved.items():
            if task.id in inserted:
                due, waits = inserted[task.id]
                task.due_seconds, task.waits = float(due), bool(waits)  # a caller's driver may make decimals of floats
                results[position] = task
        unresolved = _without(unresolved, results)
        if unresolved:
            results |= _resolve(run, unresolved, room)
            unresolved = _without(unresolved, results)
        if room is not None and any(isinstance(task, NewTask) and task.changed for task in results.values()):
            break  # this transaction holds keys now; another round would lock further keys out of order
    unknown = {position: DuplicateTaskError("unknown", "changing", "enqueue it again") for position in unresolved}
    return [result for _, result in sorted((results | unknown).items())]


def _insert(run: Execute, tasks: Mapping[int, NewTask], room: int | None) -> dict[str, tuple[Any, Any]]:
    """Insert rows. Return the id of each new one, with the seconds until it is due, and if it waits."""
    if len(tasks) == 1:
        ((position, task),) = tasks.items()
        task.unsent = room is not None and position >= room
        row = task.row()
        if (array := plain(row)) is not None:
            [[due]] = run(INSERT_ONE, array)
            return {} if due is None else {task.id: (due, False)}
        return _inserted(run, json.dumps([row], ensure_ascii=False))
    return _inserted(run, *_documents(tasks, room))


def _inserted(run: Execute, *documents: str) -> dict[str, tuple[Any, Any]]:
    return {id_: (due, waits) for id_, due, waits in run(INSERT, *documents)}


def insert_again(run: Execute, tasks: Sequence[NewTask]) -> list[NewTask | JobError]:
    """Insert rows whose first insert had no answer. An existing row with the same id, type and payload is from it."""
    results = insert_tasks(run, tasks)
    conflicts = {at: task for at, task in enumerate(tasks) if isinstance(results[at], TaskIdConflictError)}
    rows = run(SAME, json.dumps([task.id for task in conflicts.values()])) if conflicts else []
    found = {id_: (type_, payload_digest, due) for id_, type_, payload_digest, due in rows}
    for position, task in conflicts.items():
        type_, payload_digest, due = found.get(task.id, ("", "", 0.0))
        if (type_, payload_digest) == (task.task.type, digest(task.payload)):
            task.due_seconds = due
            results[position] = task
    return results


def is_lost(error: Exception) -> bool:
    """True if the connection broke. The server may have committed, and its answer was lost."""
    code = sqlstate(error)
    return code is None or code.startswith(SHUT_DOWN)


def refusal(error: Exception, tasks: Sequence[NewTask], *, may_exist: bool) -> JobError:
    if (sqlstate(error) or "").startswith(REFUSED_CLASSES):
        return EnqueueError("payload", f"the database cannot store it: {text_of(error)}")
    if not may_exist:
        first = "run `joblane migrate` and " if sqlstate(error) in NOT_MIGRATED else ""
        return DatabaseUnavailableError(
            f"the database did not accept the task: {text_of(error)}; nothing was written or sent, {first}enqueue it "
            "again"
        )
    others = f" and {len(tasks) - 1} more" if len(tasks) > 1 else ""
    return DatabaseUnavailableError(
        f"the database did not answer: {text_of(error)}; the task may have been accepted. Its id is {tasks[0].id}"
        f"{others}: check it with get(), or enqueue it again with this task_id, which makes no second task",
        task_ids=[task.id for task in tasks],
    )


def _documents(tasks: Mapping[int, NewTask], room: int | None) -> list[str]:
    """Return the rows as JSON arrays of limited size, in the order of ids and unique keys. INSERT keeps this order."""
    documents, part, size = list[str](), list[str](), 0
    for position, task in sorted(tasks.items(), key=lambda item: _key(item[1])):
        task.unsent = room is not None and position >= room
        row = json.dumps(task.row(), ensure_ascii=False)
        length = len(row) + PARENT_CHARACTERS * len(task.links.get("after", ()))
        if part and (len(part) == MAX_ROWS or size + length > MAX_CHARACTERS):
            documents.append(f"[{','.join(part)}]")
            part, size = [], 0
        part.append(row)
        size += length
    return [*documents, f"[{','.join(part)}]"]


def _key(task: NewTask) -> tuple[bool, str]:
    return (True, task.unique.key) if task.unique else (False, task.id)


def _without(tasks: Mapping[int, NewTask], results: Mapping[int, Any]) -> dict[int, NewTask]:
    return {position: task for position, task in tasks.items() if position not in results}


def _resolve(run: Execute, conflicting: Mapping[int, NewTask], room: int | None) -> dict[int, NewTask | JobError]:
    """Return the results of the tasks that were not inserted. A task whose key has become free has no result."""
    wanted = [{"id": task.id, "unique_key": task.unique.key if task.unique else None} for task in conflicting.values()]
    ids: set[str] = set()
    holders: dict[str, Holder] = {}
    for id_, queue, state, key, due, same_id, under_way, begun in run(EXISTING, json.dumps(wanted)):
        if same_id:
            ids.add(id_)
        if key is not None:
            holders[key] = Holder(id_, as_read(Queue, queue), as_read(State, state), due, under_way, begun)
    results: dict[int, NewTask | JobError] = {}
    replacing: dict[int, NewTask] = {}
    pushing: dict[int, NewTask] = {}
    for position, task in conflicting.items():
        holder = holders.get(task.unique.key) if task.unique else None
        if task.id in ids:
            results[position] = TaskIdConflictError(task.id)
        elif holder is not None:
            if task.debounce is not None and not (holder.begun or holder.under_way):
                pushing[position] = task
            elif task.on_conflict is OnConflict.REPLACE and not holder.under_way:
                replacing[position] = task
            else:
                results[position] = _return_or_refuse(task, holder)
    results |= _change(run, REPLACE, replacing, room)
    return results | _change(run, PUSH, pushing, room)


def _return_or_refuse(task: NewTask, holder: Holder) -> NewTask | JobError:
    """Return the holder of the key as the result, or the error."""
    if task.on_conflict is OnConflict.RETURN:
        existing = with_row_id(task, holder.id)
        due, state = float(holder.due_seconds), holder.state
        return replace(
            existing, queue=holder.queue, at=None, due_seconds=due, created=False, changed=False, state=state
        )
    if task.debounce is not None:
        return DuplicateTaskError(holder.id, holder.state, NOT_PUSHED)
    if task.on_conflict is OnConflict.REPLACE:
        return DuplicateTaskError(
            holder.id,
            holder.state,
            "a running task cannot be replaced, nor one that waits for other tasks or has stopped at a wait or has a "
            "signal",
        )
    return DuplicateTaskError(holder.id, holder.state)


def _change(run: Execute, sql: str, tasks: Mapping[int, NewTask], room: int | None) -> dict[int, NewTask | JobError]:
    """Replace or push the holders of the keys in one statement. Of several tasks with the same key, the last replaces
    it, and all push it.

    A task whose holder has started or ended since has no result.
    """
    last: dict[str, tuple[int, NewTask]] = {}
    for position, task in tasks.items():
        if task.unique is not None:
            earlier = last.get(task.unique.key)
            last[task.unique.key] = position, _asked_again(earlier[1], task) if earlier else task
    rows = run(sql, *_documents(dict(last.values()), room)) if last else []
    changed = {key: (id_, due, freed, state) for id_, due, key, *freed, state in rows}
    results: dict[int, NewTask | JobError] = {}
    for position, task in tasks.items():
        if task.unique is not None and task.unique.key in changed:
            id_, due, limits, state = changed[task.unique.key]
            freed = limits if any(limits) else None
            results[position] = replace(
                with_row_id(task, id_),
                due_seconds=float(due),
                created=False,
                state=None if state is None else as_read(State, state),
                freed=freed,
            )
    return results


def _asked_again(earlier: NewTask, later: NewTask) -> NewTask:
    """Return a task in the place of two of one call with the same key. The asks of debounced tasks add up."""
    first, second = earlier.debounce, later.debounce
    if first is None or second is None:
        return later
    keep = Keep.FIRST if first.keep is second.keep is Keep.FIRST else Keep.LAST
    content = earlier if second.keep is Keep.FIRST else later
    debounce = Debounce(min(first.longest, second.longest), keep, first.asks + second.asks)
    return replace(content, delay=later.delay, unique=later.unique, debounce=debounce)
