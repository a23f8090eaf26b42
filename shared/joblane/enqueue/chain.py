"""The limits of an enqueue by a run: the types that its task declares, and the depth of a chain."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from joblane.tasks.task import Task

ENQUEUED_BY = "enqueued_by"
"""The relation to the task whose run has enqueued another one."""
DEPTH = "depth"
"""The number of enqueues by runs that led to a task. A task that was enqueued outside of a run has none."""


def links_of_run(task_id: str, depth: int) -> dict[str, Any]:
    """Return the relations of the tasks that a run enqueues. ``depth``: the depth of the run's own task."""
    return {ENQUEUED_BY: task_id, DEPTH: depth + 1}


def not_granted(task: Task[Any, Any], child: str) -> str:
    """Return the problem of a task that enqueues a type that it does not declare."""
    granted = (*task.grants.enqueue, child)
    return (
        f"{task.type!r} does not declare that it enqueues {child!r}, so IAM refuses the message on AWS; add "
        f"grants=Grants(enqueue={granted!r}) in its handler.py"
    )


def too_deep(task: Task[Any, Any], parent: Task[Any, Any], depth: int) -> str:
    """Return the problem of a task that is enqueued at too great a depth."""
    return (
        f"{parent.type!r} at depth {depth - 1} has enqueued {task.type!r}, which declares max_depth={task.max_depth}; "
        f"if the chain has no end, end it; if it is a long one, declare a larger max_depth on {task.type!r}, or loop "
        "over ctx.resume(…) in one task"
    )
