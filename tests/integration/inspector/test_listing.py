"""Listings: each filter uses an index, pages have no gaps, and a walk does not meet new tasks."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from hashlib import md5
from typing import Any

import pytest

from joblane import Queue
from joblane.inspector.errors import SelectionError
from joblane.inspector.filter import BulkAction, Filter
from joblane.inspector.inspector import Inspector
from joblane.inspector.scope import Scope
from joblane.inspector.stage import glance
from joblane.inspector.tasks import detail, find, listing, selection, why
from joblane.inspector.tasks import row as record
from joblane.inspector.tasks.filter_sql import checked, reading
from joblane.inspector.tasks.listing import COUNT_CAP, ids
from joblane.record.driver.database import Database
from joblane.record.row.states import State
from joblane.sqs.client import Sqs
from tests.builders.rows import put
from tests.bulks import TASKS
from tests.samples import Sample, behaviour, sample_batch, sample_one
from tests.world import PREFIX, World

ROWS = 30_000
FILL = """
insert into joblane.tasks (id, type, queue, tenant, tags, state, payload, payload_digest, max_attempts,
  retention_seconds,
                   runs, created_at, due_at, finished_at, expire_at, dead_sent_at, reason, error_type, error_message,
                   fingerprint, lease_until)
select md5(n::text), case when n % 100 = 0 then 'sample:batch' when n % 3 = 0 then 'sample:tick' else 'sample:one' end,
       case when n % 5 = 0 then 'low' else 'default' end,
       case when n % 4 > 0 then 'tenant-' || n % 50 end,
       case when n % 400 = 0 then array['rare', 'tag'] when n % 7 = 0 then array['tag'] else '{}' end,
       s.state, '{}', '', 4, 60, 2, at, at, case when s.state not in ('pending', 'active') then at end,
       case when s.state not in ('pending', 'active') then at + interval '90 days' end,
       case when s.state = 'archived' then at end,
       case when s.state in ('archived', 'cancelled') then 'why' end,
       case when s.state = 'archived' then 'ValueError' end,
       case when s.state = 'archived' then 'no 100% of ' || n end,
       case when s.state = 'archived' then left(md5((n % 4)::text), 16) end,
       case when s.state = 'active' then now() + case when n % 100 = 0 then interval '-1 h' else '1 h' end end
  from generate_series(1, $1::int) n,
       lateral (select case when n % 91 = 0 then 'archived' when n % 80 = 0 then 'pending' when n % 50 = 0 then 'active'
                            when n % 87 = 0 then 'cancelled' else 'completed' end as state,
                       timestamptz '2026-01-01' + n / 10 * interval '1 s' as at) as s
"""
"""Groups of ten rows have the same created_at. Of the active tasks, the leases of sample:batch are over."""
CHILDREN = """
insert into joblane.task_children
select parent, id
  from (select id, row_number() over (order by id) as n from joblane.tasks) as t,
       (values ('few', 1000), ('many', 4)) as parents(parent, step) where n % step = 0
"""
FILL_RUNS = """
insert into joblane.task_attempts (task_id, run, attempt, generation, started_at, finished_at, duration_ms)
select md5(n::text), run, run, 0, now() - interval '2 days', case when n % 4 > 0 then now() end,
       case when n % 4 > 0 then n * (3 - run) end
  from generate_series(1, $1::int) n, generate_series(1, 2) run
"""
"""Two runs of each task. The last of task n took n milliseconds, and that of every fourth task is in progress."""
LONG = {md5(str(n).encode()).hexdigest() for n in range(1, ROWS + 1) if n > 20_000 or n % 4 == 0}
"""Tasks whose last run took longer than 20 s."""
START = datetime(2026, 1, 1, tzinfo=UTC)
LATE = START + timedelta(days=300)
KINDS = {
    "none": Filter(),
    "ids": Filter(ids=("c4ca4238a0b923820dcc509a6f75849b", "nobody")),
    "id prefix": Filter(id_prefix="c4ca"),
    "short id prefix": Filter(id_prefix="c"),
    "state": Filter(states=(State.ARCHIVED,)),
    "cancelled": Filter(states=(State.CANCELLED,)),
    "archived or cancelled": Filter(states=(State.ARCHIVED, State.CANCELLED)),
    "states": Filter(states=(State.PENDING, State.ACTIVE, State.SCHEDULED)),
    "completed": Filter(states=(State.COMPLETED,)),
    "type": Filter(types=("sample:batch",)),
    "types": Filter(types=("sample:batch", "sample:tick")),
    "type and state": Filter(types=("sample:one",), states=(State.ARCHIVED,)),
    "queue": Filter(queues=(Queue.LOW,)),
    "an empty queue": Filter(queues=(Queue.CRITICAL,)),
    "tenant": Filter(tenant="tenant-7"),
    "rare tag": Filter(tag="rare"),
    "common tag": Filter(tag="tag"),
    "parent": Filter(parent="few", states=(State.COMPLETED,)),
    "parent of many": Filter(parent="many"),
    "error": Filter(error="VALUEERROR: no 100% of 91"),
    "fingerprint": Filter(fingerprint="cfcd208495d565ef"),
    "fingerprint and type": Filter(fingerprint="cfcd208495d565ef", types=("sample:one",)),
    "created range": Filter(created_after=START + timedelta(minutes=10), created_before=START + timedelta(minutes=11)),
    "ended range": Filter(ended_after=START, ended_before=START + timedelta(minutes=11)),
    "longer": Filter(longer=timedelta(seconds=20)),
    "ended and state": Filter(ended_after=START, states=(State.ARCHIVED, State.PENDING)),
    "lease over": Filter(lease_over=True),
}

WALKED = {"queue", "an empty queue", "longer", "parent of many"}
"""Kinds without an index, in a table with more rows than a statement reads."""


@pytest.fixture(scope="module")
def filled(postgres: Any, joblane_databases: Any) -> Iterator[Scope]:
    """A table so large that a scan would be the wrong plan; the tests only read it."""
    with joblane_databases.clone() as url:
        database = Database(url)
        database.get().run(FILL, ROWS)
        database.get().run(CHILDREN)
        database.get().run(FILL_RUNS, ROWS)
        for table in ("tasks", "task_attempts"):
            database.get().run(f"vacuum analyze joblane.{table}")  # as by autovacuum
        database.get().run("analyze joblane.task_children")
        yield Scope(database, Sqs(), PREFIX, TASKS, "op")
        database.drop()


class Explained:
    """A connection that records the plans of its statements, as JSON and as text, and what each scan read."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self.plans: list[str] = []
        self.buffers: list[int] = []
        self.rows: list[float] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def run(self, sql: str, *parameters: Any) -> Any:
        [[[explained]]] = self._connection.run(f"explain (analyze, buffers, format json) {sql}", *parameters)
        top = explained["Plan"]
        self.plans.append("\n".join(row[0] for row in self._connection.run("explain " + sql, *parameters)))
        self.buffers.append(top["Shared Hit Blocks"] + top["Shared Read Blocks"])
        self.rows.append(max(map(_rows_read, _nodes(top))))
        return self._connection.run(sql, *parameters)


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from _nodes(child)


def _rows_read(node: dict[str, Any]) -> float:
    """The rows that a scan read, including those that it filtered out."""
    if "Scan" not in node["Node Type"]:
        return 0
    removed = node.get("Rows Removed by Filter", 0) + node.get("Rows Removed by Index Recheck", 0)
    return float((node["Actual Rows"] + removed) * node["Actual Loops"])


@pytest.fixture
def explained(filled: Scope, monkeypatch: pytest.MonkeyPatch) -> Explained:
    made = Explained(filled.database.get())
    monkeypatch.setattr(Scope, "connection", made)
    return made


def everything(inspector: Inspector, filter_: Filter, limit: int = 500) -> Iterator[Any]:
    """All rows, without the durations, which grow while a run is in progress."""
    after = None
    while True:
        page = inspector.tasks(filter_, after=after, limit=limit)
        yield from (dataclasses.replace(row, took_ms=None) for row in page.tasks)
        if (after := page.after) is None:
            return


def ask_all(filled: Scope, explained: Explained, filter_: Filter) -> None:
    """Run each statement that has a filter: two pages, the count, and the walk."""
    inspector = Inspector(filled)
    page = inspector.tasks(filter_, limit=50)
    if page.after is not None:
        inspector.tasks(filter_, after=page.after, limit=50)
    inspector.count(filter_)
    ids(explained, checked(filled, filter_), None, 100)  # type: ignore[arg-type]


# --- By an index ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_no_filter_scans_the_table(filled: Scope, explained: Explained, kind: str) -> None:
    ask_all(filled, explained, KINDS[kind])
    assert len(explained.plans) >= 3
    for plan in explained.plans:
        assert "Seq Scan on tasks" not in plan, plan
        assert re.search(r"Index.* (Scan|Only Scan)", plan), plan


def holds(filter_: Filter, row: Any) -> bool:
    """The filter in Python, for comparison."""
    return all(
        (
            not filter_.ids or row.id in filter_.ids,
            not filter_.id_prefix or row.id.startswith(filter_.id_prefix),
            not filter_.states or row.state in filter_.states,
            not filter_.types or row.type in filter_.types,
            not filter_.queues or row.queue in filter_.queues,
            not filter_.tenant or row.tenant == filter_.tenant,
            not filter_.tag or filter_.tag in row.tags,
            not filter_.error or filter_.error.lower() in f"{row.error_type}: {row.error_message}".lower(),
            not filter_.fingerprint or row.fingerprint == filter_.fingerprint,
            not filter_.created_after or row.created_at >= filter_.created_after,
            not filter_.created_before or row.created_at < filter_.created_before,
            not filter_.ended_after or (row.finished_at and row.finished_at >= filter_.ended_after),
            not filter_.longer or row.id in LONG,
            not filter_.ended_before or (row.finished_at and row.finished_at < filter_.ended_before),
            not filter_.lease_over or (row.state, row.type) == ("active", "sample:batch"),
        )
    )


def children(filled: Scope, parent: str) -> set[str]:
    return {
        id_ for (id_,) in filled.connection.run("select child from joblane.task_children where parent = $1", parent)
    }


@pytest.fixture(scope="module")
def all_rows(filled: Scope) -> list[Any]:
    return list(everything(Inspector(filled), Filter()))


@pytest.mark.parametrize("kind", KINDS)
def test_a_filter_lists_each_matching_task_once_newest_first(filled: Scope, all_rows: list[Any], kind: str) -> None:
    assert len(all_rows) == ROWS
    parent = KINDS[kind].parent
    own = None if parent is None else children(filled, parent)
    possible = [row for row in all_rows if own is None or row.id in own]
    expected = sorted(
        (row for row in possible if holds(KINDS[kind], row)), key=lambda row: (row.created_at, row.id), reverse=True
    )
    assert kind == "an empty queue" or expected
    assert list(everything(Inspector(filled), KINDS[kind])) == expected
    count = Inspector(filled).count(KINDS[kind])
    if kind in WALKED:  # counted up to the bound
        assert (count.number <= len(expected), count.exact) == (True, False)
        return
    assert count.number == min(len(expected), COUNT_CAP)
    assert count.exact == (len(expected) <= COUNT_CAP)


@pytest.mark.parametrize("kind", ["none", "states", "type and state", "tenant"])
def test_a_walk_yields_the_same_ids_oldest_first(filled: Scope, all_rows: list[Any], kind: str) -> None:
    filter_ = checked(filled, KINDS[kind])
    walked, after = ids(filled.connection, filter_, None, 499)
    while after is not None:
        found, after = ids(filled.connection, filter_, after, 499)
        walked += found
    assert walked == [row.id for row in reversed(all_rows) if holds(filter_, row)]


def test_a_page_of_rare_tasks_ends_early_and_the_next_continues(filled: Scope, monkeypatch: pytest.MonkeyPatch) -> None:
    # given a statement that reads few rows, and a filter without an index of its own
    monkeypatch.setattr(selection, "BOUND", 200)
    monkeypatch.setattr(selection, "NARROW", 100)
    inspector, rare = Inspector(filled), Filter(queues=(Queue.LOW,), states=(State.COMPLETED,))
    # when
    page = inspector.tasks(rare)
    # then it says how far it searched, and the following pages find the rest
    assert 0 < len(page.tasks) < 50
    assert page.searched_to is not None
    assert page.searched_to <= page.tasks[-1].created_at
    assert len(list(everything(inspector, rare))) == listing.count_all(filled.connection, checked(filled, rare))
    # and a tag or prefix that many tasks have is searched in the same way
    for common in (Filter(tag="tag"), Filter(id_prefix="c"), Filter(parent="many")):
        assert inspector.tasks(common).searched_to is not None


# --- A bounded number of rows --------------------------------------------------------------------------------------

FEW = 400
"""A bound of rows that is small next to the table."""
SKEWED = KINDS | {
    "an absent type": Filter(types=("sample:forgotten",)),
    "all types": Filter(types=tuple(TASKS)),
    "an empty queue and a rare state": Filter(queues=(Queue.CRITICAL,), states=(State.CANCELLED,)),
    "a type and a common tag": Filter(types=("sample:batch",), tag="tag"),
    "text that no error has": Filter(error="no such text"),
}


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "BOUND", FEW)
    monkeypatch.setattr(find, "BOUND", FEW)
    monkeypatch.setattr(selection, "NARROW", FEW // 5)
    monkeypatch.setattr(listing, "MOST_STEPS", 1)
    monkeypatch.setattr(glance, "BOUND", FEW)


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("kind", SKEWED)
def test_no_statement_reads_more_rows_than_the_bound(filled: Scope, explained: Explained, kind: str) -> None:
    ask_all(filled, explained, SKEWED[kind])
    assert max(explained.rows) <= FEW
    # a row lies on a page of its own at worst, and its index entry too; its last run or its parent is another row
    each = 6 if kind == "longer" else 4 if SKEWED[kind].parent else 2
    assert max(explained.buffers) <= each * FEW + 20


@pytest.mark.usefixtures("few")
def test_a_search_scans_and_sorts_no_table_and_reads_no_more_rows_than_the_bound(
    filled: Scope, explained: Explained, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(find, "SECONDS", 600)
    inspector = Inspector(filled)
    found = inspector.find("no such text", created_after=START)
    assert found.read == FEW
    assert inspector.find("no such text", created_after=START, after=found.after).read == FEW
    inspector.find("c4ca4238")
    assert len(explained.plans) >= 8
    for plan in explained.plans:
        assert "Seq Scan on tasks" not in plan, plan
        assert "Sort Method" not in plan, plan
    assert max(explained.rows) <= FEW
    assert max(explained.buffers) <= 2 * FEW + 20


@pytest.mark.usefixtures("few")
def test_the_overview_reads_no_more_live_tasks_than_twice_the_bound(filled: Scope, explained: Explained) -> None:
    with reading(explained) as connection:  # type: ignore[arg-type]
        found = glance.read(connection, 60)
    assert found.live == 2 * FEW
    assert max(explained.rows) <= FEW


@pytest.mark.usefixtures("few")
def test_archived_and_cancelled_tasks_are_found_among_any_number_of_others(filled: Scope) -> None:
    inspector, cancelled = (
        Inspector(filled),
        Filter(states=(State.CANCELLED,), created_before=START + timedelta(minutes=9)),
    )
    page = inspector.tasks(cancelled)
    assert (len(page.tasks), page.searched_to) == (50, None)
    assert inspector.count(cancelled, action=BulkAction.RETRY).exact


# --- Pages ---------------------------------------------------------------------------------------------------------


def test_new_tasks_neither_repeat_nor_hide_tasks_on_the_next_page(world: World, inspector: Inspector) -> None:
    # given rows that share their times of creation
    insert = (
        "insert into joblane.tasks (id, type, queue, state, payload, payload_digest, max_attempts, "
        "retention_seconds, created_at)"
        " select $1 || n, 'sample:one', 'default', 'completed', '{}', '', 1, 60, $2::timestamptz + (n % 3) * interval"
        " '1 s' from generate_series(1, 40) n"
    )
    world.run(insert, "m", START)
    # when rows with the same times are inserted between two pages
    seen: list[str] = []
    after = None
    for joining in range(1000):
        page = inspector.tasks(after=after, limit=7)
        seen += [row.id for row in page.tasks]
        after = page.after
        if after is None:
            break
        for kind in "az" if joining < 3 else "":
            world.run(insert, f"{kind}{joining}-", START)
    # then
    assert len(seen) == len(set(seen))
    assert {f"m{n}" for n in range(1, 41)} <= set(seen)


def test_the_last_page_has_no_position(world: World, inspector: Inspector) -> None:
    for number in range(4):
        world.client.enqueue(sample_one, Sample(), task_id=f"t{number}")
    first = inspector.tasks(limit=2)
    assert first.after is not None
    last = inspector.tasks(limit=2, after=first.after)
    assert [row.id for row in (*first.tasks, *last.tasks)] == ["t3", "t2", "t1", "t0"]
    assert last.after is None
    assert inspector.tasks(Filter(ids=("nobody",))).tasks == ()


@behaviour
def listed_failure(payload: Sample, ctx: Any) -> None:
    raise ValueError(f"no room for {payload.number}")


def test_a_listed_task_has_its_current_columns(world: World, inspector: Inspector) -> None:
    # given a failed task and a completed task
    world.client.enqueue(
        sample_batch, Sample(do="listed_failure", number=7), task_id="mine", tenant="acme", tags=["a", "b"], max_retry=0
    )
    world.deliver(sample_batch, {"type": "sample:batch", "id": "mine", "rec": True})
    # then
    [row] = inspector.tasks(Filter(error="no room for 7")).tasks
    assert (row.id, row.type, row.queue, row.state, row.tenant, row.tags, row.attempts, row.max_retry) == (
        "mine", "sample:batch", Queue.DEFAULT, State.ARCHIVED, "acme", ("a", "b"), 1, 0,
    )  # fmt: skip
    assert row.reason == "attempt 1 of 1 failed: ValueError: no room for 7"
    assert row.finished_at is not None
    assert row.finished_at.tzinfo is not None
    assert row.fingerprint == world.attempts("mine")[0]["fingerprint"]
    assert [found.id for found in inspector.tasks(Filter(fingerprint=row.fingerprint)).tasks] == ["mine"]
    assert inspector.tasks(Filter(error="no room for _")).tasks == ()


# --- Bad input -----------------------------------------------------------------------------------------------------

NAIVE = datetime(2026, 1, 1)  # noqa: DTZ001
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "an unknown type": (
        {"types": ("sample:none",)},
        "types: there is no task type 'sample:none'. Did you mean 'sample:",
    ),
    "a type that no text can hold": ({"types": ("a\0",)}, "types: "),
    "an unknown state": ({"states": ("dead",)}, "states: 'dead' is not a valid State; valid are scheduled, pending"),
    "an unknown queue": (
        {"queues": ("high",)},
        "queues: 'high' is not a valid Queue; valid are critical, default, low",
    ),
    "a text for a list": ({"types": "sample:one"}, "types: a list is required"),
    "too many ids": ({"ids": tuple(map(str, range(501)))}, "ids: 500 at most"),
    "a bad id": ({"ids": ("a b",)}, "ids: 1 to 200 printable ASCII"),
    "a bad prefix": ({"id_prefix": "ä"}, "id_prefix: 1 to 200 printable ASCII"),
    "an empty prefix": ({"id_prefix": ""}, "id_prefix: the text is empty; leave it out"),
    "an empty tenant": ({"tenant": ""}, "tenant: the text is empty"),
    "a bad tenant": ({"tenant": "a b"}, "tenant: 1 to 128 ASCII"),
    "an empty tag": ({"tag": " "}, "tag: the text is empty"),
    "a long tag": ({"tag": "x" * 101}, "tag: a string of 1 to 100"),
    "an empty error": ({"error": ""}, "error: the text is empty"),
    "an error that no text can hold": ({"error": "a\0b"}, "error: a string of 1 to 200"),
    "a surrogate": ({"error": "\ud800"}, "error: a string of 1 to 200"),
    "a bad fingerprint": ({"fingerprint": "x y"}, "fingerprint: a fingerprint from a listing"),
    "no duration": ({"longer": timedelta(0)}, "longer: a duration of more than 0 s and at most"),
    "a long duration": ({"longer": timedelta(days=36_501)}, "longer: a duration of more than 0 s and at most"),
    "a naive time": ({"created_after": NAIVE}, "created_after: a time with a zone"),
    "another naive time": ({"created_before": NAIVE}, "created_before: a time with a zone"),
    "times the wrong way round": (
        {"created_after": START, "created_before": START},
        "created_before: a time after created_after",
    ),
    "ends the wrong way round": (
        {"ended_after": START, "ended_before": START},
        "ended_before: a time after ended_after",
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_an_invalid_field_is_named(filled: Scope, what: str) -> None:
    arguments, message = BAD[what]
    for ask in (Inspector(filled).tasks, Inspector(filled).count):
        with pytest.raises(SelectionError) as caught:
            ask(Filter(**arguments))
        assert str(caught.value).startswith(message)
        assert caught.value.field == next(reversed(arguments))


@pytest.mark.parametrize("limit", [0, -1, 501, "5"])
def test_a_page_has_1_to_500_tasks(filled: Scope, limit: Any) -> None:
    with pytest.raises(SelectionError, match="limit: a whole number from 1 to 500 is required"):
        Inspector(filled).tasks(limit=limit)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("none", "created range", "ended range")])
def test_a_position_of_another_filter_is_refused(filled: Scope, kind: str) -> None:
    inspector = Inspector(filled)
    positions = {inspector.tasks(limit=1).after, inspector.tasks(Filter(tenant="tenant-8"), limit=1).after}
    for other in positions:
        with pytest.raises(SelectionError, match="after: this position belongs to a listing with another filter"):
            inspector.tasks(KINDS[kind], after=other)


def test_a_position_of_another_action_is_refused(filled: Scope) -> None:
    position = Inspector(filled).tasks(limit=1).after
    with pytest.raises(SelectionError, match="after: this position belongs to a listing with another filter"):
        Inspector(filled).tasks(action=BulkAction.RETRY, after=position)


def test_a_position_holds_while_an_age_moves_and_for_values_in_another_order(filled: Scope) -> None:
    # given the first page of a listing by age
    inspector = Inspector(filled)
    states = (State.ARCHIVED, State.CANCELLED)
    first = inspector.tasks(Filter(states=states, created_after=START, ended_before=LATE), limit=5)
    # when
    later = Filter(states=states[::-1], created_after=START + timedelta(seconds=2), ended_before=LATE)
    second = inspector.tasks(later, after=first.after, limit=5)
    # then
    assert len(second.tasks) == 5
    assert second.tasks[0].created_at <= first.tasks[-1].created_at


@pytest.mark.parametrize("after", ["", "x", "ä", "e30", "MjAyNi0wMS0wMSBh", 7])
def test_an_invalid_position_is_refused(filled: Scope, after: Any) -> None:
    with pytest.raises(SelectionError, match="after: this is not a position"):
        Inspector(filled).tasks(after=after)


def test_an_undeclared_type_is_listed_while_it_has_rows(world: World, inspector: Inspector) -> None:
    gone = Filter(types=("sample:gone",))
    with pytest.raises(SelectionError):
        inspector.tasks(gone)
    world.client.enqueue(sample_one, Sample(), task_id="old")
    world.run("update joblane.tasks set type = 'sample:gone'")
    assert [row.id for row in inspector.tasks(gone).tasks] == ["old"]


def test_plain_texts_are_accepted_for_states_and_queues(filled: Scope) -> None:
    plain = Filter(states=("archived",), queues=("low",))  # type: ignore[arg-type]
    typed = Filter(states=(State.ARCHIVED,), queues=(Queue.LOW,))
    assert checked(filled, plain) == typed
    assert dataclasses.asdict(checked(filled, typed)) == dataclasses.asdict(typed)


# --- The other statements over the table ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sql", "parameters"),
    [
        (glance.LIVE_ROWS, ("20000", ["acme"])),
        (glance.ARCHIVED, ()),
        (glance.STARTED, (START,)),
        (why.AHEAD, (["sample:one"], "default", START)),
        (detail.RELATED, ("it",)),
        (detail.ATTEMPTS, ("it",)),
        (record.READ, ("it",)),
    ],
)
def test_neither_the_overview_nor_the_view_of_a_task_scans_a_table(
    filled: Scope, explained: Explained, sql: str, parameters: tuple[Any, ...]
) -> None:
    with reading(explained) as connection:  # type: ignore[arg-type]
        connection.run(sql, *parameters)
    [plan] = explained.plans
    assert "Seq Scan on task" not in plan, plan
    assert "Seq Scan on audit" not in plan, plan


# --- The last run of each task ---------------------------------------------------------------------------------------


def test_a_row_has_the_duration_and_the_version_of_its_last_run(deployed: World, inspector: Inspector) -> None:
    # given a task that was retried over a deploy, one that completed at once, one that runs, and one that has not run
    deployed.run("delete from joblane.deploys")
    deployed.run(
        "insert into joblane.deploys (at, done_at, version)"
        " values (now() - interval '3 h', now(), 'v1'), (now() - interval '1 h', now(), 'v2')"
    )
    for id_ in ("retried", "once", "runs", "new", "before"):
        put(deployed, sample_one, id_)
    deployed.run(
        "insert into joblane.task_attempts (task_id, run, attempt, generation, started_at, finished_at, duration_ms,"
        " outcome) values ('retried', 1, 1, 0, now() - interval '2 h', now() - interval '2 h', 11, 'failed'),"
        " ('retried', 2, 2, 0, now() - interval '9 min', now(), 1200, 'failed'),"
        " ('runs', 2, 1, 0, now() - interval '61 min', null, null, null),"
        " ('before', 1, 1, 0, now() - interval '5 h', now(), 7, 'failed')"
    )
    deployed.run(
        "update joblane.tasks set state = 'completed', runs = 1, started_at = now() - interval '2 h', duration_ms = 42,"
        " finished_at = now(), expire_at = now() + interval '1 d' where id = 'once'"
    )
    deployed.run(
        "update joblane.tasks set runs = case id when 'before' then 1 else 2 end"
        " where id in ('retried', 'runs', 'before')"
    )
    # when
    found = {row.id: (row.took_ms, row.version) for row in inspector.tasks().tasks}
    # then
    assert found["retried"] == (1200, "v2")
    assert found["once"] == (42, "v1")
    assert found["new"] == (None, None)
    assert found["before"] == (7, None)
    assert found["runs"][1] == "v1"
    assert found["runs"][0] == pytest.approx(61 * 60_000, rel=0.05)


def test_the_oldest_tasks_are_listed_first_page_by_page(deployed: World, inspector: Inspector) -> None:
    for number in range(5):
        put(deployed, sample_one, f"t{number}")
        deployed.run(f"update joblane.tasks set created_at = now() - interval '{number} min' where id = 't{number}'")
    seen, after = list[str](), None
    while True:
        page = inspector.tasks(oldest_first=True, after=after, limit=2)
        seen += [row.id for row in page.tasks]
        if (after := page.after) is None:
            break
    assert seen == ["t4", "t3", "t2", "t1", "t0"]
    newest = inspector.tasks(limit=2).after
    with pytest.raises(SelectionError, match="after"):  # a position is good for its own order only
        inspector.tasks(oldest_first=True, after=newest, limit=2)


LAST_RUN_PLANTS = {
    "the first run": ("a.run = r.runs", "a.run = 1"),
    "the version of now": ("d.at <= a.started_at", "d.at <= now()"),
    "runs in progress have no duration": ("extract(epoch from now() - a.started_at) * 1000", "null::float8"),
}
"""Fault → a part of the statement, and the fault in its place."""


@pytest.mark.plants
@pytest.mark.parametrize("plant", LAST_RUN_PLANTS)
def test_a_planted_fault_in_the_last_run_is_found(
    deployed: World, inspector: Inspector, monkeypatch: pytest.MonkeyPatch, plant: str
) -> None:
    part, fault = LAST_RUN_PLANTS[plant]
    assert part in listing.LAST_RUNS
    monkeypatch.setattr(listing, "LAST_RUNS", listing.LAST_RUNS.replace(part, fault))
    with pytest.raises(AssertionError):
        test_a_row_has_the_duration_and_the_version_of_its_last_run(deployed, inspector)
