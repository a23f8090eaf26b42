"""The graph of a workflow around a task or a batch, read level by level and bounded in depth and nodes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from joblane.errors import UnknownTaskError
from joblane.inspector.scope import Scope
from joblane.inspector.tasks.filter_sql import reading
from joblane.inspector.views import Edge, EdgeKind, Graph, Node
from joblane.record.driver.connection import Connection, Row
from joblane.record.row.states import State, as_read
from joblane.record.task.insert import BATCH_TAG
from joblane.sqs.message import ID_PATTERN

MOST_NODES = 300
MOST_LEVELS = 8
"""Steps from the task or the batch that was asked for."""
FOLD = 8
"""Siblings of one type and state that are drawn each; more are one node."""
MOST_OF_ONE = 1_000
"""Children of a task, or members of a batch, that are read."""
MOST_READ = 4_000
"""Tasks of a graph that are read."""

TASKS = """
select x.id, p.type, p.state, p.wait_kind, p.after, p.enqueued_by, p.batch, p.callback_of, w.waits
  from unnest($1::text[]) with ordinality as x(id, place)
  left join lateral (select t.type, t.state, t.wait_kind, t.after, t.enqueued_by, t.batch, t.callback_of, t.runs
                       from joblane.tasks t where t.id = x.id limit 1) as p on true
  left join lateral (select case when w.signal is null then 'time' else 'signal' end as waits
                       from joblane.task_waits w
                      where p.state = 'scheduled' and w.task_id = x.id and w.run = p.runs and w.until is not null
                      limit 1) as w on true
 order by x.place
"""
CHILDREN = f"""
select p.id, c.child
  from unnest($1::text[]) as p(id),
       lateral (select child from joblane.task_children where parent = p.id
                 order by parent, child limit {MOST_OF_ONE + 1}) as c
"""
BATCHES = "select id, on_end, on_success from joblane.batches where id = any($1::text[])"
# Without an order, only the index of tags can be used. It needs both conditions.
MEMBERS = f"""
select id from joblane.tasks where tags <> '{{}}' and tags @> array[$1::text] limit {MOST_OF_ONE + 1}
"""


def graph(scope: Scope, id_: str) -> Graph:
    """Raises :class:`UnknownTaskError`."""
    if not (isinstance(id_, str) and ID_PATTERN.fullmatch(id_.removeprefix(BATCH_TAG))):
        raise UnknownTaskError(str(id_))
    with reading(scope.connection) as connection:
        walk = _Walk(connection)
        walk.start(id_)
        for _ in range(MOST_LEVELS):
            if not walk.level():
                break
        walk.exact = walk.exact and not walk.next
    shown = {node.key for node in walk.nodes.values()}
    edges = [Edge(*pair, kind) for pair, kind in walk.edges.items() if shown.issuperset(pair)]
    return Graph(id_, tuple(walk.nodes.values()), tuple(edges), exact=walk.exact)


@dataclass(slots=True)
class _Walk:
    """``nodes``: by their keys. ``keys``: id of each task that was met → the key of its node.

    ``rows``: of tasks that were read. ``next``: keys of the nodes whose relatives are read next.
    """

    connection: Connection
    nodes: dict[str, Node] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)
    rows: dict[str, Row] = field(default_factory=dict)
    edges: dict[tuple[str, str], EdgeKind] = field(default_factory=dict)
    next: list[str] = field(default_factory=list)
    exact: bool = True

    def start(self, id_: str) -> None:
        """Raises :class:`UnknownTaskError`."""
        if id_.startswith(BATCH_TAG) and self.connection.run(BATCHES, [id_.removeprefix(BATCH_TAG)]):
            self._batch(id_)
            return
        self._read([id_])
        if self.rows[id_][1] is None:
            raise UnknownTaskError(id_)
        self._task(id_)

    def level(self) -> bool:
        """Read the relatives of the nodes that the last level has found. False: there were none."""
        keys, self.next = self.next, []
        tasks = [key for key in keys if not self.nodes[key].is_batch]
        if tasks:
            self._relatives(tasks)
        for key in keys:
            if self.nodes[key].is_batch:
                self._members(key)
        return bool(keys)

    def _relatives(self, ids: Sequence[str]) -> None:
        children: defaultdict[str, list[str]] = defaultdict(list)
        for parent, child in self.connection.run(CHILDREN, list(ids)):
            children[parent].append(child)
        parents = {id_: self._parents(id_) for id_ in ids}
        self._read(other for id_ in ids for other in (*parents[id_], *children[id_]))
        for id_ in ids:
            self._place(id_, parents[id_], of_parents=True)
            self._place(id_, children[id_], of_parents=False)
            for batch in filter(None, (self.rows[id_][6], self.rows[id_][7])):
                key = f"{BATCH_TAG}{batch}"
                self._batch(key)
                if batch == self.rows[id_][6]:
                    self.edges[id_, key] = EdgeKind.MEMBER
                else:
                    self.edges[key, id_] = EdgeKind.CALLBACK

    def _members(self, key: str) -> None:
        batch = key.removeprefix(BATCH_TAG)
        callbacks = [id_ for _, *ids in self.connection.run(BATCHES, [batch]) for id_ in ids if id_ is not None]
        members = [id_ for (id_,) in self.connection.run(MEMBERS, f"{BATCH_TAG}{batch}")]
        self._read([*members, *callbacks])
        for callback in callbacks:
            self.edges[key, self._task(callback)] = EdgeKind.CALLBACK
        for name in self._shown(key, members).values():
            self.edges.setdefault((name, key), EdgeKind.MEMBER)

    def _parents(self, id_: str) -> list[str]:
        row = self.rows[id_]
        return list(dict.fromkeys([*(row[4] or []), *([row[5]] if row[5] else [])]))[:MOST_OF_ONE]

    def _place(self, id_: str, others: Sequence[str], *, of_parents: bool) -> None:
        """Add nodes and edges for the parents or the children of a task."""
        for other, key in self._shown(id_, others).items():
            child, parent = (id_, other) if of_parents else (other, id_)
            pair = (key, id_) if of_parents else (id_, key)
            after = self.rows.get(child, [None] * 9)[4] or []
            self.edges.setdefault(pair, EdgeKind.AFTER if parent in after else EdgeKind.ENQUEUED)

    def _shown(self, of: str, ids: Sequence[str]) -> dict[str, str]:
        """Return the keys of the nodes of tasks: many new ones of one type and state get one node."""
        new: defaultdict[tuple[str | None, str | None], list[str]] = defaultdict(list)
        is_cut = len(ids) > MOST_OF_ONE
        self.exact = self.exact and not is_cut
        for id_ in ids[:MOST_OF_ONE]:
            if id_ not in self.keys and id_ in self.rows:
                new[self.rows[id_][1], self.rows[id_][2]].append(id_)
        for same in new.values():
            if len(same) > FOLD:
                self._fold(of, same, exact=not is_cut)
            else:
                for id_ in same:
                    self._task(id_)
        return {id_: self.keys[id_] for id_ in ids if id_ in self.keys}

    def _fold(self, of: str, ids: Sequence[str], *, exact: bool) -> None:
        _, type_, state, *_ = self.rows[ids[0]]
        key = f"{of}/{type_}/{state}/{ids[0]}"
        found = None if state is None else as_read(State, state)
        if self._add(Node(key, ids[0], type_, found, number=len(ids), of=of, exact=exact)):
            self.keys |= dict.fromkeys(ids, key)

    def _task(self, id_: str) -> str:
        """Add a task as a node of its own, whose relatives are read next. Returns its key."""
        if id_ not in self.keys and id_ in self.rows:
            _, type_, state, wait_kind, *_, waits = self.rows[id_]
            found = None if state is None else as_read(State, state)
            if self._add(Node(id_, id_, type_, found, waits=waits or (wait_kind if state == State.HELD else None))):
                self.keys[id_] = id_
                self.next.append(id_)
        return self.keys.get(id_, id_)

    def _batch(self, key: str) -> None:
        if key not in self.nodes and self._add(Node(key, key.removeprefix(BATCH_TAG), None, None, is_batch=True)):
            self.next.append(key)

    def _add(self, node: Node) -> bool:
        if len(self.nodes) >= MOST_NODES:
            self.exact = False
            return False
        self.nodes[node.key] = node
        return True

    def _read(self, ids: Iterable[str]) -> None:
        """Read the rows of tasks that are not read yet."""
        missing = [id_ for id_ in dict.fromkeys(ids) if id_ not in self.rows]
        room = MOST_READ - len(self.rows)
        self.exact = self.exact and len(missing) <= room
        if missing and room > 0:
            self.rows |= {row[0]: row for row in self.connection.run(TASKS, missing[:room])}
