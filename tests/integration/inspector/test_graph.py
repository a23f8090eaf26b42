"""The graph of a workflow around a task or a batch."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import pytest

from joblane.errors import UnknownTaskError
from joblane.inspector.inspector import Inspector
from joblane.inspector.tasks import graph
from joblane.inspector.views import Graph
from joblane.record.row.states import State
from tests.integration.inspector.scene import JOB, Scene


def edges(found: Graph) -> set[str]:
    return {f"{edge.source} {edge.kind} {edge.target}" for edge in found.edges}


def keys(found: Graph) -> set[str]:
    return {node.key for node in found.nodes}


def test_a_workflow_is_the_same_from_each_of_its_tasks(scene: Scene, operator: Inspector) -> None:
    # given two parents, a child that enqueued another task, and a batch of one of them
    scene.batch("import-7", "a", on_end=JOB).enqueue("b", "child")
    scene.enqueue("last", after=["a", "b"]).enqueue("other")
    scene.sql("update joblane.tasks set enqueued_by = 'b' where id = 'child'")
    scene.sql("insert into joblane.task_children values ('b', 'child')")
    # then
    for id_ in ("a", "b", "last", "child", "import-7:on_end", "batch:import-7"):
        found = operator.graph(id_)
        assert (found.key, found.exact) == (id_, True)
        assert keys(found) == {"a", "b", "last", "child", "batch:import-7", "import-7:on_end"}
        assert edges(found) == {
            "a after last",
            "b after last",
            "b enqueued child",
            "a member batch:import-7",
            "batch:import-7 callback import-7:on_end",
        }
    nodes = {node.key: node for node in operator.graph("a").nodes}
    assert (nodes["last"].type, nodes["last"].state, nodes["last"].waits) == ("sample:one", State.HELD, "parents")
    assert (nodes["batch:import-7"].is_batch, nodes["batch:import-7"].id) == (True, "import-7")
    alone = operator.graph("other")
    assert (keys(alone), alone.edges) == ({"other"}, ())


def test_siblings_of_a_type_and_state_are_one_node(scene: Scene, operator: Inspector) -> None:
    # given
    children = [f"c-{number:02}" for number in range(30)]
    scene.enqueue("p").enqueue(*children, after=["p"])
    scene.sql("update joblane.tasks set state = 'completed', finished_at = now(), expire_at = now() where id < 'c-03'")
    # when
    found = operator.graph("p")
    # then
    assert sorted((node.number, str(node.state)) for node in found.nodes if node.key != "p") == [
        *[(1, "completed")] * 3,
        (27, "held"),
    ]
    [folded] = [node for node in found.nodes if node.number > 1]
    assert (folded.of, folded.id in children) == ("p", True)
    assert f"p after {folded.key}" in edges(found)
    # and the task that was asked for is a node of its own
    nodes = {node.key: node.number for node in operator.graph("c-07").nodes}
    assert {"c-07", "p"} <= set(nodes)
    assert sorted(nodes.values())[-2:] == [1, 26]
    # and so are many parents, and a batch
    scene.enqueue("end", after=children[3:]).batch("many", *(f"m-{number}" for number in range(20)))
    assert {node.number for node in operator.graph("end").nodes} >= {27}
    assert sorted(node.number for node in operator.graph("batch:many").nodes) == [1, 20]


def test_a_removed_task_is_a_node_without_a_state(scene: Scene, operator: Inspector) -> None:
    scene.enqueue("a", "b").enqueue("child", after=["a", "b"]).sql("delete from joblane.tasks where id = 'a'")
    nodes = {node.key: node.state for node in operator.graph("child").nodes}
    assert nodes == {"child": State.HELD, "a": None, "b": State.PENDING}


def test_a_node_says_for_what_its_task_waits(scene: Scene, operator: Inspector) -> None:
    scene.enqueue("a").change("a", "state = 'scheduled', runs = 2, due_at = now() + interval '1 day'")
    found = []
    for signal, run in (("approval", 1), ("approval", 2), (None, 2)):
        scene.sql("delete from joblane.task_waits")
        scene.sql(
            "insert into joblane.task_waits (task_id, name, signal, until, run) values ('a', 'w', $1, now(), $2::int)",
            signal,
            run,
        )
        found += [node.waits for node in operator.graph("a").nodes]
    assert found == [None, "signal", "time"]


def test_damaged_rows_that_name_each_other_have_an_end(scene: Scene, operator: Inspector) -> None:
    scene.enqueue("a", "b", "c")
    scene.sql("insert into joblane.task_children values ('a', 'b'), ('b', 'c'), ('c', 'a'), ('a', 'a')")
    scene.sql("update joblane.tasks set after = array['a'] where id = 'a'")
    found = operator.graph("a")
    assert keys(found) == {"a", "b", "c"}
    assert found.exact


def _chain(scene: Scene, ids: Iterable[str]) -> None:
    first, *others = ids
    scene.enqueue(first)
    for before, id_ in pairwise([first, *others]):
        scene.enqueue(id_, after=[before])


def test_a_graph_is_bounded_in_steps_nodes_and_tasks(
    scene: Scene, operator: Inspector, monkeypatch: pytest.MonkeyPatch
) -> None:
    _chain(scene, (f"t-{number:02}" for number in range(12)))
    found = operator.graph("t-00")
    assert (len(found.nodes), found.exact) == (graph.MOST_LEVELS + 1, False)
    scene.batch("many", *(f"m-{number:02}" for number in range(20)))
    with monkeypatch.context() as patched:
        patched.setattr(graph, "MOST_OF_ONE", 15)
        found = operator.graph("batch:many")
        assert [(node.number, node.exact) for node in found.nodes[1:]] == [(15, False)]
        assert not found.exact
    monkeypatch.setattr(graph, "MOST_NODES", 3)
    found = operator.graph("t-00")
    assert (len(found.nodes), len(found.edges), found.exact) == (3, 2, False)
    monkeypatch.setattr(graph, "MOST_READ", 2)
    found = operator.graph("t-00")
    assert (len(found.nodes), found.exact) == (2, False)


def test_the_statements_read_each_relative_by_its_id(scene: Scene, operator: Inspector) -> None:
    scene.enqueue("p").enqueue("c", after=["p"]).batch("b", "m").others(20_000)
    scene.sql("insert into joblane.task_children select 'other-' || n, 'other' from generate_series(1, 20000) n")
    scene.sql("analyze joblane.tasks, joblane.task_children")
    for sql, parameter in ((graph.TASKS, ["p", "c"]), (graph.CHILDREN, ["p"]), (graph.MEMBERS, "batch:b")):
        number, plan = scene.rows_read(sql, parameter)
        assert number <= 30, plan


@pytest.mark.parametrize("id_", ["unknown", "batch:unknown", "", "a\0", "a b", "batch:"])
def test_an_unknown_id_is_refused(operator: Inspector, id_: str) -> None:
    with pytest.raises(UnknownTaskError):
        operator.graph(id_)
