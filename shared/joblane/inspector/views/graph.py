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
    ``exact`` False: ``number`` counts a part of them.
    """

    key: str
    id: str
    type: str | None
    state: AnyState | None
    number: int = 1
    is_batch: bool = False
    of: str | None = None
    waits: str | None = None
    exact: bool = True


@dataclass(frozen=True, slots=True)
class Edge:
    """``source``, ``target``: the keys of nodes."""

    source: str
    target: str
    kind: EdgeKind


@dataclass(frozen=True, slots=True)
class Graph:
    """``key``: of the requested task or batch. ``exact`` False: there are more nodes."""

    key: str
    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]
    exact: bool

    def tree(self) -> list[tuple[int, Node, bool]]:
        """Return the nodes as a tree: depth, node, and True if the nodes below it are listed further up.

        The members of a batch are below it, as its callbacks are.
        """
        below: dict[str, list[str]] = {node.key: [] for node in self.nodes}
        inner: set[str] = set()
        for edge in self.edges:
            pair = (edge.source, edge.target)
            above, under = reversed(pair) if edge.kind is EdgeKind.MEMBER else pair
            if above != under:
                below[above].append(under)
                inner.add(under)
        nodes = {node.key: node for node in self.nodes}
        seen: set[str] = set()
        lines: list[tuple[int, Node, bool]] = []
        for root in [*(key for key in nodes if key not in inner), *nodes]:
            waiting = [] if root in seen else [(0, root)]
            while waiting:
                depth, key = waiting.pop()
                again = key in seen
                lines.append((depth, nodes[key], again and bool(below[key])))
                seen.add(key)
                waiting += [] if again else [(depth + 1, under) for under in reversed(below[key])]
        return lines
