"""The parents of a new task: the tasks that have to end before it runs."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from joblane.enqueue.check_options import member
from joblane.errors import EnqueueError
from joblane.sqs.message import ID_PATTERN
from joblane.tasks.job import MAX_PARENTS, Job, OnParentDead
from joblane.tasks.unique import OnConflict

if TYPE_CHECKING:
    from joblane.record.task.insert import NewTask

UNKNOWN = """
select x.id from jsonb_array_elements_text(cast($1 as jsonb)) as x(id)
 where (select true from joblane.tasks t where t.id = x.id) is null
"""
"""The ids that no task has."""


def check_parents(job: Job) -> dict[str, Any]:
    """Return the relations of a job for its row. Raises :class:`EnqueueError`."""
    after = job.after
    if after == () and job.on_parent_dead == OnParentDead.HOLD:  # most tasks
        return {}
    if isinstance(after, str) or not isinstance(after, Sequence):
        raise EnqueueError("after", "a list of ids, or of results of an enqueue, is required")
    if len(after) > MAX_PARENTS:
        raise EnqueueError("after", f"at most {MAX_PARENTS:,} parents, not {len(after):,}; put them into a batch")
    parents = list(dict.fromkeys(_id(parent) for parent in after))
    on_parent_dead = member(OnParentDead, "on_parent_dead", job.on_parent_dead)
    if not parents:
        if on_parent_dead is not OnParentDead.HOLD:
            raise EnqueueError("on_parent_dead", "give after too: this task has no parents")
        return {}
    if job.task_id in parents:
        raise EnqueueError("after", "a task cannot wait for itself")
    if job.on_conflict == OnConflict.REPLACE:
        raise EnqueueError("after", "a task that replaces another one cannot get parents; use on_conflict='return'")
    return {"after": parents, "on_parent_dead": on_parent_dead}


def _id(parent: object) -> str:
    id_ = getattr(parent, "id", parent)
    if not isinstance(id_, str) or not ID_PATTERN.fullmatch(id_):
        shown = repr(parent) if isinstance(parent, str) else type(parent).__name__
        raise EnqueueError("after", f"an id, or a result of an enqueue, is required, not {shown}")
    return id_


def refuse_unknown(run: Callable[..., Sequence[Sequence[Any]]], tasks: Sequence[NewTask]) -> None:
    """Raise :class:`EnqueueError` if a parent does not exist.

    A parent exists before its child, so there are no cycles.
    """
    wanted = {parent for task in tasks for parent in task.links.get("after", ())}
    if not wanted:
        return
    unknown = [id_ for (id_,) in run(UNKNOWN, json.dumps(sorted(wanted)))]
    if unknown:
        raise EnqueueError(
            "after",
            f"there is no task {unknown[0]!r} in this stage's database; enqueue the parent first, in the same "
            "transaction or in an earlier one",
        )
