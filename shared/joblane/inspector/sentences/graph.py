"""The words of the graph of a workflow."""

from __future__ import annotations

from typing import TYPE_CHECKING

from joblane.inspector.sentences.counts import plural

if TYPE_CHECKING:
    from joblane.inspector.views import Graph, Node

WAITS_FOR = {"parents": "tasks", "limit": "a limit", "signal": "a signal", "time": "a time"}
"""Kind of a wait → its words."""


def node_words(node: Node) -> str:
    """The state of a node of a graph, and what it waits for."""
    if node.is_batch:
        return "batch"
    return f"{node.state or 'removed'}{f', waits for {WAITS_FOR[node.waits]}' if node.waits in WAITS_FOR else ''}"


def node_name(node: Node) -> str:
    """``3 × data:export``, ``batch import-7``, ``data:export 01a2…``."""
    if node.is_batch:
        return f"batch {node.id}"
    if node.number > 1:
        return f"{'' if node.exact else 'at least '}{node.number:,} × {node.type or 'removed task'}"
    return f"{node.type or 'removed task'} {node.id}"


def graph_line(graph: Graph) -> str | None:
    """The sentence about nodes that are left out; None if there are none."""
    return None if graph.exact else f"The workflow is larger. Shown: {plural(len(graph.nodes), 'node')} near the task."
