"""The graph of a workflow: tasks that wait for others or enqueue others, and their batches."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from joblane.inspector.views.tasks import AnyState


class EdgeKind(StrEnum):
    """The relation of two nodes."""

    AFTER = "after"
    """The target runs after the source."""
    ENQUEUED = "enqueued"
    """A run of the source enqueued the target."""
    MEMBER = "member"
    """The source is a member of the target, a batch."""
    CALLBACK = "callback"
    """The target is a callback of the source, a batch."""


@dataclass(frozen=True, slots=True)
class Node:
    """A task, a batch, or several tasks of one type and state that are drawn as one.

    ``key``: the name of the node in edges. ``id``: of the task or the batch; of several tasks: of one of them.
    ``type``, ``state`` None: a batch, or a task whose row is removed. ``number``: of the tasks. ``of``: the key of the
    node by which several tasks were found. ``waits``: ``parents``, ``limit``, ``signal`` or ``time``; None: for none.
    """

    key: str
    id: str
    type: str | None
    state: AnyState | None
    number: int = 1
    is_batch: bool = False
    of: str | None = None
    waits: str | None = None


@dataclass(frozen=True, slots=True)
class Edge:
    """``source``, ``target``: the keys of nodes."""

    source: str
    target: str
    kind: EdgeKind


@dataclass(frozen=True, slots=True)
class Graph:
    """``key``: of the task or the batch that was asked for. ``exact`` False: there are more nodes."""

    key: str
    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]
    exact: bool
