"""The graph of a workflow as SVG within the page: layers from left to right, and each node a link.

The picture has a fixed scale, and scrolls in its own box. On a narrow screen the nodes are below each other. A list has
the same nodes in words.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from markupsafe import Markup

from joblane.errors import UnknownTaskError
from joblane.inspector.inspector import Inspector
from joblane.inspector.sentences.graph import graph_line, node_name, node_words
from joblane.inspector.views import Graph, Node
from joblane.local.errors import UnavailableError
from joblane.page.rendering import query
from joblane.record.task.insert import BATCH_TAG

WIDTH, HEIGHT = 184, 42
"""Size of a node, in pixels."""
ACROSS, DOWN = 56, 14
"""Distances of nodes."""
INDENT, MOST_INDENTS = 16, 6
"""The indent of a layer if nodes are below each other. With 300 pixels they fit into the width of a phone."""
MARGIN = 8
LONGEST_NAME = 24
"""Characters of a name that fit into a node."""
SWEEPS = 4
"""Times that the nodes of each layer are ordered by their neighbours."""
MARKS = {
    "pending": "○",
    "scheduled": "◷",
    "held": "◑",
    "active": "●",
    "retry": "↻",
    "completed": "✓",
    "archived": "✕",
    "cancelled": "–",
}
"""State → its mark, as in the style sheet."""

SVG = Markup(
    '<svg class="{5}" width="{0}" height="{1}" viewBox="0 0 {0} {1}" role="group" aria-label="{2}"><defs>'
    '<marker id="arrow-{5}"'
    ' viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8" markerUnits="userSpaceOnUse" orient="auto">'
    '<path d="M0 0L8 4L0 8z"/></marker></defs>{3}{4}</svg>'
)
EDGE = Markup('<path class="edge {}" d="{}" marker-end="url(#arrow-{})"/>')
NODE = Markup(
    '<a href="{}" class="node {}"><title>{}</title>{}<rect x="{}" y="{}" width="{}" height="{}" rx="7"/>{}</a>'
)
BEHIND = Markup('<rect x="{}" y="{}" width="{}" height="{}" rx="7"/>')
LABEL = Markup('<text class="{}" x="{}" y="{}">{}</text>')
EMPTY = Markup()

Place = tuple[int, int]
"""The left upper corner of a node."""


@dataclass(frozen=True, slots=True)
class Workflow:
    """A graph for a template. ``rows``: depth, address, name and words of each node; True if it is listed above too.

    ``line``: about nodes that are left out, or None.
    """

    picture: Markup
    rows: list[tuple[int, str, str, str, bool]]
    line: str | None


def workflow(inspector: Inspector, id_: str) -> Workflow | None:
    """Return the workflow of a task or a batch; None if it has no other node."""
    try:
        found = inspector.graph(id_)
    except (UnavailableError, UnknownTaskError):  # the stage has an older version, or the rows were removed just now
        return None
    if not found.edges:
        return None
    rows = [(depth, address(node), node_name(node), node_words(node), again) for depth, node, again in found.tree()]
    return Workflow(drawn(found), rows, graph_line(found))


def drawn(graph: Graph) -> Markup:
    """The picture of a graph, twice: the style sheet shows the second one on narrow screens."""
    pairs = [(edge.source, edge.target) for edge in graph.edges]
    layers = layers_of([node.key for node in graph.nodes], pairs)
    return _drawn(graph, "across", _across(layers), _curve) + _drawn(graph, "down", _down(layers, pairs), _elbow)


def _drawn(graph: Graph, css: str, places: Mapping[str, Place], path: Callable[[Place, Place], str]) -> Markup:
    edges = EMPTY.join(
        EDGE.format(edge.kind, path(places[edge.source], places[edge.target]), css) for edge in graph.edges
    )
    nodes = EMPTY.join(_node(node, places[node.key], is_here=node.key == graph.key) for node in graph.nodes)
    width = max(x for x, _ in places.values()) + WIDTH + MARGIN
    height = max(y for _, y in places.values()) + HEIGHT + MARGIN + 4
    return SVG.format(width, height, f"Workflow of {graph.key}: {len(graph.nodes)} nodes", edges, nodes, css)


def _across(layers: list[list[str]]) -> dict[str, Place]:
    """A column for each layer."""
    tallest, places = max(map(len, layers)), dict[str, Place]()
    for column, keys in enumerate(layers):
        above = (tallest - len(keys)) * (HEIGHT + DOWN) // 2
        for row, key in enumerate(keys):
            places[key] = MARGIN + column * (WIDTH + ACROSS), MARGIN + above + row * (HEIGHT + DOWN)
    return places


def _down(layers: list[list[str]], pairs: Sequence[tuple[str, str]]) -> dict[str, Place]:
    """A row for each node, below the nodes that lead to it. Its indent is its layer."""
    layer = {key: at for at, keys in enumerate(layers) for key in keys}
    after: defaultdict[str, list[str]] = defaultdict(list)
    for source, target in pairs:
        after[source].append(target)
    seen, last_first = set[str](), list[str]()

    def visit(key: str) -> None:
        seen.add(key)
        for target in sorted(after[key], key=layer.__getitem__, reverse=True):
            if target not in seen:
                visit(target)
        last_first.append(key)

    for key in reversed(layer):
        if key not in seen:
            visit(key)
    return {
        key: (MARGIN + min(layer[key], MOST_INDENTS) * INDENT, MARGIN + row * (HEIGHT + DOWN))
        for row, key in enumerate(reversed(last_first))
    }


def layers_of(keys: Sequence[str], edges: Sequence[tuple[str, str]]) -> list[list[str]]:
    """Return the nodes by layers: each is to the right of all nodes that lead to it. A circle of edges is cut."""
    after: defaultdict[str, list[str]] = defaultdict(list)
    before: defaultdict[str, list[str]] = defaultdict(list)
    for source, target in edges:
        if source != target:
            after[source].append(target)
            before[target].append(source)
    layer = dict.fromkeys(keys, 0)
    open_ = {key: len(before[key]) for key in keys}
    ready = deque(key for key in keys if not open_[key])
    left = dict.fromkeys(keys)
    while left:
        key = ready.popleft() if ready else next(iter(left))
        if left.pop(key, key) is not None:
            continue
        for target in after[key]:
            if target in left:
                layer[target] = max(layer[target], layer[key] + 1)
                open_[target] -= 1
                if not open_[target]:
                    ready.append(target)
    # A node without a source stands next to what follows it.
    for key in keys:
        if not before[key] and after[key]:
            layer[key] = max(0, min(layer[target] for target in after[key]) - 1)
    layers: list[list[str]] = [[] for _ in range(max(layer.values(), default=0) + 1)]
    for key in keys:
        layers[layer[key]].append(key)
    return _ordered([keys for keys in layers if keys], after, before)


def _ordered(
    layers: list[list[str]], after: Mapping[str, list[str]], before: Mapping[str, list[str]]
) -> list[list[str]]:
    """Order the nodes of each layer by the mean place of their neighbours, so that few edges cross."""
    for sweep in range(SWEEPS):
        place = {key: at / len(keys) for keys in layers for at, key in enumerate(keys)}
        neighbours = after if sweep % 2 else before
        for keys in layers:
            mean = {key: fmean([place[one] for one in neighbours[key]] or [place[key]]) for key in keys}
            keys.sort(key=mean.__getitem__)
    return layers


def _curve(source: Place, target: Place) -> str:
    x, y, end, bottom = source[0] + WIDTH, source[1] + HEIGHT / 2, target[0], target[1] + HEIGHT / 2
    bend = max(ACROSS / 2, abs(end - x) / 2)
    return f"M{x:.0f} {y:.0f}C{x + bend:.0f} {y:.0f} {end - bend:.0f} {bottom:.0f} {end - 2:.0f} {bottom:.0f}"


def _elbow(source: Place, target: Place) -> str:
    x, y = source[0] + INDENT / 2, source[1] + HEIGHT
    if target[0] <= source[0]:  # both have the largest indent
        return f"M{x:.0f} {y}V{target[1] - 2}"
    return f"M{x:.0f} {y}V{target[1] + HEIGHT / 2:.0f}H{target[0] - 2}"


def _node(node: Node, place: Place, *, is_here: bool) -> Markup:
    x, y = place
    state = "batch" if node.is_batch else node.state or "removed"
    name = f"batch {node.id}" if node.is_batch else node.type or node.id
    name = name if node.number == 1 else f"{'' if node.exact else '≥ '}{node.number:,} × {name}"
    words = f"{MARKS.get(state, '')} {node_words(node)}".strip()
    short = name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"
    labels = LABEL.format("name", x + 10, y + 17, short) + LABEL.format("state-word", x + 10, y + 33, words)
    classes = f"{state}{' here' if is_here else ''}"
    behind = BEHIND.format(x + 4, y + 4, WIDTH, HEIGHT) if node.number > 1 else EMPTY
    return NODE.format(address(node), classes, f"{name}, {node_words(node)}", behind, x, y, WIDTH, HEIGHT, labels)


def address(node: Node) -> str:
    """The page of a node."""
    if node.is_batch:
        return f"/batches/show?{query(id=node.id)}"
    if node.number == 1 or node.of is None:
        return f"/task?{query(id=node.id)}"
    if node.of.startswith(BATCH_TAG):
        return f"/tasks?{query(tag=node.of, type=node.type, state=node.state)}"
    return f"/tasks?{query(parent=node.of, type=node.type, state=node.state)}"
