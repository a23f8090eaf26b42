"""The graph of a workflow: its layers, and its picture and list."""

from __future__ import annotations

import re
from itertools import pairwise, product

import pytest

from joblane.inspector.sentences.graph import node_words
from joblane.inspector.views import Edge, EdgeKind, Graph, Node
from joblane.page.graph import HEIGHT, WIDTH, address, drawn, layers_of
from joblane.record.row.states import State
from tests.builders import views


@pytest.mark.parametrize(
    ("keys", "edges", "layers"),
    [
        ("a", "", "a"),
        ("abc", "ab bc", "a|b|c"),
        ("abcd", "ab ac bd cd", "a|bc|d"),
        ("abcd", "ab bd ad cd", "a|bc|d"),  # each is right of all before it, and c next to d
        ("abc", "ab ba bc", "a|b|c"),  # damaged: a circle
        ("ab", "aa ab", "a|b"),
        ("abcd", "ac ad bd bc", "ab|cd"),
        ("abcd", "ad bc", "ab|dc"),  # lines do not cross
    ],
)
def test_nodes_are_in_layers_from_left_to_right(keys: str, edges: str, layers: str) -> None:
    found = layers_of(list(keys), [(edge[0], edge[1]) for edge in edges.split()])
    assert "|".join("".join(layer) for layer in found) == layers


@pytest.mark.parametrize("number", [0, 1], ids=["across", "down"])
def test_no_nodes_of_a_picture_overlap_and_each_is_a_link_with_its_state(number: int) -> None:
    # when
    picture = drawn(views.graph()).split("</svg>")[number]
    # then
    places = [
        (int(x), int(y))
        for x, y in re.findall(rf'<rect x="(\d+)" y="(\d+)" width="{WIDTH}" height="{HEIGHT}" rx="7"/><text', picture)
    ]
    assert len(places) == len(views.graph().nodes)
    for (x, y), (other_x, other_y) in product(places, places):
        assert (x, y) == (other_x, other_y) or abs(x - other_x) >= WIDTH or abs(y - other_y) > HEIGHT
    [(width, height)] = re.findall(r' width="(\d+)" height="(\d+)" viewBox', picture)
    assert max(x for x, _ in places) + WIDTH <= int(width)
    assert max(y for _, y in places) + HEIGHT <= int(height)
    assert picture.count("marker-end") == len(views.graph().edges)
    assert (
        '<a href="/task?id=child" class="node held here"><title>data:export, held, waits for tasks</title>' in picture
    )
    assert "120 × mail:send" in picture
    assert ">✕ archived<" in picture


def test_on_a_narrow_screen_each_node_is_below_and_right_of_those_before_it() -> None:
    # given a chain that is longer than the largest indent, and a child of its first and its third node
    keys = [*"abcdefghi", "child"]
    edges = (*((one, other) for one, other in pairwise(keys[:-1])), ("a", "child"), ("c", "child"))
    graph = Graph(
        "a",
        tuple(Node(key, key, key, State.HELD) for key in keys),
        tuple(Edge(*pair, EdgeKind.AFTER) for pair in edges),
        exact=True,
    )
    # when
    picture = drawn(graph).split("</svg>")[1]
    # then
    found = re.findall(r'<rect x="(\d+)" y="(\d+)" .*?<text class="name"[^>]*>(\w+)<', picture)
    places = {name: (int(x), int(y)) for x, y, name in found}
    assert len({y for _, y in places.values()}) == len(keys)
    for source, target in edges:
        (x, y), (other_x, other_y) = places[source], places[target]
        assert y < other_y
        assert x < other_x or x == other_x == max(x for x, _ in places.values())
    assert max(x for x, _ in places.values()) + WIDTH <= 300


def test_names_are_escaped_and_cut() -> None:
    name = "<b>" + "x" * 40
    picture = drawn(Graph("a", (Node("a", "a", name, State.ACTIVE),), (), exact=True))
    assert "<b>" not in picture
    assert f"{name[:23]}…".replace("<b>", "&lt;b&gt;") in picture


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        (Node("a", "a", "x:y", State.HELD), "/task?id=a"),
        (Node("batch:b", "b", None, None, is_batch=True), "/batches/show?id=b"),
        (Node("k", "a", "x:y", State.HELD, 9, of="p"), "/tasks?parent=p&type=x%3Ay&state=held"),
        (Node("k", "a", "x:y", State.HELD, 9, of="batch:b"), "/tasks?tag=batch%3Ab&type=x%3Ay&state=held"),
    ],
)
def test_a_node_leads_to_its_page(node: Node, expected: str) -> None:
    assert address(node) == expected


def test_the_list_has_each_node_below_those_before_it_and_ends() -> None:
    found = [(depth, node.key, again) for depth, node, again in views.graph().tree()]
    assert found == [
        (0, "batch:import-7", False),
        (1, "first", False),
        (2, "first/x", False),
        (2, "child", False),
        (3, "end", False),
        (1, "end", False),
        (0, "gone", False),
        (1, "child", True),
    ]
    circle = Graph("a", (Node("a", "a", "x:y", None), Node("b", "b", "x:y", None)), (), exact=True)
    both = (Edge("a", "b", EdgeKind.AFTER), Edge("b", "a", EdgeKind.AFTER))
    lines = Graph("a", circle.nodes, both, exact=True).tree()
    assert [(depth, node.key) for depth, node, _ in lines] == [(0, "a"), (1, "b"), (2, "a")]
    assert node_words(circle.nodes[0]) == "removed"
