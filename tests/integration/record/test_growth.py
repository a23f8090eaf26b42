"""The statements of a message and of an enqueue read no more than what they were given, whatever the table holds."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from joblane.enqueue.parents import UNKNOWN
from joblane.record.driver.connection import Connection
from joblane.record.driver.database import Database
from joblane.record.flow.free_slots import SERVE
from joblane.record.flow.limit_changes import PLAN
from joblane.record.flow.release import RELEASE
from joblane.record.flow.wrong_times import PLANNED_ANEW
from joblane.record.row import transitions
from joblane.record.row.transitions import CANCEL
from joblane.record.sql_functions import FUNCTIONS, VERSION
from joblane.record.task.claim import CLAIM, CLAIM_ONE
from joblane.record.task.dead_letters import MARK_DEAD_SENT
from joblane.record.task.debounce import PUSH
from joblane.record.task.finish import FINISH, FINISH_ONE, SUSPEND
from joblane.record.task.insert import EXISTING, INSERT, INSERT_ONE, plain
from joblane.record.task.status import PROGRESS, STATUS
from joblane.record.task.waits import EXPIRE, READ, READ_SIGNAL, SIGNAL, WAKE, signal_document
from joblane.sweep.held import GO_BEHIND, LEAVE, TAKE_BACK, UNSERVED
from joblane.sweep.parents import CANCEL_CALLBACKS, HELD
from joblane.sweep.parents import ENDED as ENDED_PARENTS
from joblane.sweep.rates import FORGET
from joblane.sweep.walk import PLANNING
from tests.builders.rows import TOKEN

if TYPE_CHECKING:
    from tests.databases import ReusedDatabases

GIVEN = 10
"""Tasks of one statement."""
ENDED = """
insert into joblane.tasks (id, type, queue, tenant, state, payload, payload_digest, max_attempts, retention_seconds,
                           finished_at, expire_at, unique_key)
select 'ended-' || n, 'a:b', 'default', 'acme', 'completed', '{}', '', 4, 60, now(), now() + interval '1 day', 'k' || n
  from generate_series(1, $1::int) n
"""
ROWS = """
insert into joblane.tasks (id, type, queue, tenant, state, payload, payload_digest, max_attempts, retention_seconds,
                           attempts, runs, batch_size, lease_token, lease_until, sweep_at, unique_key)
select $3 || n, 'a:b', 'default', 'acme', $1, '{}', '', 4, 60, r, r, r, case when $1 = 'active' then $4::uuid end,
       case when $1 = 'active' then now() + interval '1 day' end, now() + interval '1 day', $3 || n
  from generate_series(1, $2::int) n, lateral (select ($1 = 'active')::int as r) as x
"""
ATTEMPTS = """
insert into joblane.task_attempts (task_id, run, attempt, generation)
select id, 1, 1, 0 from joblane.tasks where state in ('active', 'completed')
on conflict do nothing
"""
ARCHIVED = """
insert into joblane.tasks (id, type, queue, state, payload, payload_digest, max_attempts, retention_seconds,
                           finished_at, expire_at, reason, dead_letter_unsent, on_archived)
select 'dead-' || n, 'a:b', 'default', 'archived', '{}', '', 4, 60, now(), now() + interval '1 day', 'why', true,
       '{"type": "a:c", "queue": "low", "max_attempts": 1, "retention_seconds": 60}'
  from generate_series(1, $1::int) n
"""
STOPPED = """
insert into joblane.tasks (id, type, queue, state, payload, payload_digest, max_attempts, retention_seconds, runs,
                           due_at, sweep_at)
select $2 || n, 'a:b', 'default', 'scheduled', '{}', '', 4, 60, 1, now() + interval '1 day', now() + interval '1 day'
  from generate_series(1, $1::int) n
"""
WAITS = """
insert into joblane.task_waits (task_id, name, signal, until, run)
select id, 'a', 'b', due_at, 1 from joblane.tasks where id like $1 || '%' or id = 'active-2'
on conflict do nothing
"""
SIGNALS = """
insert into joblane.task_signals (task_id, name, value) select id, 'b', '1' from joblane.tasks where id like $1 || '%'
"""
PAUSES = """
insert into joblane.pauses (scope, name)
select scope, 'paused-' || n from generate_series(1, $1::int) n, unnest('{tenant,type}'::text[]) scope
"""
SCHEDULES = """
insert into joblane.schedules (name, origin, type, payload, expression, timezone, ticks_a_day, revision, next_at)
select 'paused-' || n, 'code', 'a:b', '{}', '* * * * *', 'UTC', 1440, 0, now() from generate_series(1, $1::int) n
"""
PAUSE = "insert into joblane.pauses (scope, name) values ('tenant', 'acme')"
ROWS_READ = """
select sum(coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0))::int from pg_stat_xact_all_tables
 where schemaname = 'joblane'
"""
MOST_ROWS = 15
"""The rows that a statement may read for each task. All rows of the almost empty table are fewer."""

MOST_ROWS_WITH_LIMITS = 20
LIMITED = """
insert into joblane.tasks (id, type, queue, state, payload, payload_digest, max_attempts, retention_seconds, sweep_at,
                           key_limit, total_limit, ordered, first_due_at, seq, wait_kind, waits_for, place)
select $2 || n, 'a:b', 'default', $3, '{}', '', 4, 60, now() + interval '1 day', key, 'a:b', $4 = '',
       now() - interval '1 day', n, case when $3 = 'held' then 'limit' end, case when $3 = 'held' then key end,
       case when $3 = 'held' then n end
  from generate_series(1, $1::int) n, lateral (select 'a:b/' || case when $4 = '' then $2 || n else $4 end as key) as k
"""
"""Tasks with limits, each with its own key and an order, or all with one key."""
SHARED = """
update joblane.tasks
   set shared_limit = 'shared', passed = case state when 'held' then 'type_time' else 'all' end,
       waits_for = case when state = 'held' then 'shared' end, due_at = now() - interval '1 hour'
 where id like 'held-%' or id like 'limited-%'
"""
"""Half of them have slots of a shared limit, and the others wait for it."""
WRONG_TIMES = """
insert into joblane.rates (name, next_at, step, burst) values ('a:b', now() + interval '1 day', interval '1 minute', 1)
"""
BUSY = "update joblane.tasks set state = 'active', passed = 'all' where id = 'busy-1'"
TIMED = """
update joblane.tasks set passed = $2, total_limit = $1, due_at = now() + interval '1 day'
 where key_limit = 'a:b/' || $1
"""
"""Lets tasks wait for the time of a rate: of their key, or of their type."""
RATED = """
insert into joblane.rates (name, next_at, step, burst)
select name, now() + interval '1 day', interval '9 s', 1 from unnest(array['a:b/' || $1, $1]) as name
"""
"""The rate that has given these times, and is not in force any more."""
CHILDREN = """
insert into joblane.tasks (id, type, queue, state, payload, payload_digest, max_attempts, retention_seconds, sweep_at,
                           wait_kind, place)
select $2 || n, 'a:b', 'default', 'held', '{}', '', 4, 60, now() + interval '1 day', 'parents',
       case when $3 <> '' then n end
  from generate_series(1, $1::int) n
"""
"""Tasks that wait for their parents: held, or not claimed yet if ``$3`` is empty."""
PARENTS = """
insert into joblane.task_parents (child, parent, on_parent_dead)
select $2 || case when right($2, 1) = '-' then n::text else '' end,
       $3 || case when right($3, 1) = '-' then n::text else '' end, $4 from generate_series(1, $1::int) n
"""
"""Rows of task_parents. A name that ends with ``-`` gets a number."""
RELATIVES = "insert into joblane.task_children (parent, child) select 'a', $2 || n from generate_series(1, $1::int) n"
WAIT_AGAIN = f"select joblane.wait_again_{VERSION}($1, null)"
DECLARED = "insert into joblane.limits (name, slots) values ('a:b/', 1), ('a:b', 1000000)"
NEW_ROW = {
    "type": "a:b", "queue": "default", "payload": {}, "payload_digest": "", "headers": {}, "options": {}, "tags": [],
    "max_attempts": 4, "retention_seconds": 60,
}  # fmt: skip

ORDINARY_ROW = (
    plain(
        NEW_ROW | {"id": "i", "tenant": None, "owner": None, "schema": None, "delay": None, "at": None, "unsent": False}
    )
    or ""
)
LET_GO = f"select joblane.let_go_{VERSION}($1, $2)"

DEBOUNCE = {"asks": 1, "longest_seconds": 60}


def _ids(prefix: str) -> list[str]:
    return [f"{prefix}-{number}" for number in range(1, GIVEN + 1)]


def _messages(prefix: str, *, rec: bool) -> str:
    unique = {} if rec else {"unique_until": "finish", "unique_seconds": 60}
    tick = {"rest": {"schedule": "paused-7"}} if prefix == "tick" else {}
    return json.dumps(
        [
            NEW_ROW | tick | unique | {"id": id_, "rec": rec} | ({} if rec else {"unique_key": id_})
            for id_ in _ids(prefix)
        ]
    )


def _ends(prefix: str = "active") -> str:
    end = {"token": TOKEN, "run": 1, "outcome": "completed", "state": "completed", "delay_seconds": 0, "counted": True}
    flags = dict.fromkeys(("snoozed", "mismatch", "continued"), False)
    return json.dumps([end | flags | {"id": id_} for id_ in _ids(prefix)])


def _documents(prefix: str, **columns: Any) -> tuple[str]:
    unique = {"unique_seconds": 60}
    return (json.dumps([NEW_ROW | unique | columns | {"id": id_, "unique_key": id_} for id_ in _ids(prefix)]),)


def _array(prefix: str) -> str:
    return f"{{{','.join(_ids(prefix))}}}"


def _claimed_with_limits(prefix: str) -> str:
    return json.dumps([{"id": id_, "type": "a:b", "rec": True, "limits": []} for id_ in _ids(prefix)])


def _stop(id_: str) -> str:
    return json.dumps({"id": id_, "token": TOKEN, "run": 1, "name": "a", "signal": "b", "seconds": 60})


MEASURED: dict[str, tuple[str, tuple[str, ...], int]] = {
    "claim": (CLAIM, (_messages("waiting", rec=True), TOKEN, "60", "r"), 60),
    "claim of external messages": (CLAIM, (_messages("new", rec=False), TOKEN, "60", "r"), 80),
    "claim of ticks": (CLAIM, (_messages("tick", rec=False), TOKEN, "60", "r"), 60),
    "claim of tasks with limits": (CLAIM, (_claimed_with_limits("limited"), TOKEN, "60", "r"), 150),
    "claim of tasks that wait": (CLAIM, (_claimed_with_limits("late"), TOKEN, "60", "r"), 150),
    "serving": (SERVE, (json.dumps([[f"a:b/{id_}", "a:b", None] for id_ in _ids("held")]),), 150),
    "changed rate of a key": (PLAN, ("{a:b/timed-key_time}", "1"), 150),
    "changed rate of a type": (PLAN, ("{timed-type_time}", "2"), 150),
    "finish": (FINISH, (_ends(), "false"), 50),
    "claim of children": (CLAIM, (_messages("fresh", rec=True), TOKEN, "60", "r"), 80),
    "finish of parents": (FINISH, (_ends("parent"), "false"), 60),
    "release": (RELEASE, ("{}", _array("free")), 40),
    "release of the children of archived tasks": (RELEASE, (_array("dead"), "{}"), 80),
    "insert of children": (INSERT, _documents("c", rest={"after": ["waiting-1"], "on_parent_dead": "hold"}), 70),
    "parents of an insert": (UNKNOWN, (json.dumps(_ids("waiting")),), 10),
    "insert": (INSERT, _documents("i"), 50),
    "conflicts of an insert": (EXISTING, _documents("waiting"), 20),
    "push": (PUSH, _documents("waiting", rest=DEBOUNCE, keep="last", unique_until="start", delay=10), 50),
    "mark of dead letters": (MARK_DEAD_SENT, _documents("dead", generation=0), 60),
    "claim of an ordinary task": (CLAIM_ONE, ("waiting-1", "a:b", TOKEN, "60", "r"), 45),
    "finish of an ordinary task": (FINISH_ONE, ("active-1", TOKEN, "{}", "5", "6", "512", "0.1", "false"), 35),
    "finish of a parent": (FINISH_ONE, ("parent-1", TOKEN, "{}", "5", "6", "512", "0.1", "false"), 50),
    "insert of an ordinary task": (INSERT_ONE, (ORDINARY_ROW,), 25),
    "children of ended tasks": (LET_GO, (_array("parent"), f"{{{','.join(['completed'] * GIVEN)}}}"), 25),
    "status": (STATUS, ("waiting-1",), 15),
    "progress": (PROGRESS, (_array("waiting"),), 15),
    "cancel": (CANCEL, ("waiting-2",), 40),
    "stop": (SUSPEND, (_stop("active-1"), "false"), 60),
    "signal": (SIGNAL, (signal_document("asleep-2", "c", "1"),), 30),
    "wake-up": (WAKE, (_array("asleep"),), 60),
    "history of a run": (READ, ("asleep-1",), 30),
    "signal of a wait": (READ_SIGNAL, ("asleep-1", "b"), 10),
    "expiry": (EXPIRE, ("active-2", TOKEN, "a", "b"), 30),
}
"""Statement, parameters, and the buffers that it may read for each task: a quarter or more above what was seen next to
VACUUM, ANALYZE or an old snapshot, since pages are laid out differently each time. A scan reads hundreds."""
OF_ONE_TASK = {
    "claim of an ordinary task",
    "finish of an ordinary task",
    "finish of a parent",
    "insert of an ordinary task",
    "status",
    "cancel",
    "stop",
    "signal",
    "history of a run",
    "signal of a wait",
    "expiry",
}
WITH_LIMITS = {
    "release of the children of archived tasks",
    "claim of tasks with limits",
    "claim of tasks that wait",
    "serving",
    "changed rate of a key",
    "changed rate of a type",
}
OF_RUNS = "any(array(select f.id from f))"
GROWING = [
    ("claim", "claim", "where r.id = m.id for no key update skip locked", "where r.id || '' = m.id for no key update"),
    ("claim", "claim", "p.name = t.tenant", "p.name || '' = t.tenant"),
    ("claim of ticks", "claim", "s.name = t.schedule", "s.name || '' = t.schedule"),
    ("claim of an ordinary task", "claim_one", "t.id = task", "t.id || '' = task"),
    ("finish of an ordinary task", "finish_one", "t.id = task", "t.id || '' = task"),
    ("finish of an ordinary task", "finish_one", "e.parent = task", "e.parent || '' = task"),
    (
        "insert of an ordinary task",
        "insert_one",
        "if found then",
        "if found and not exists (select from joblane.tasks h where h.unique_key || '' = given[1]) then",
    ),
    ("children of ended tasks", "let_go", "e.parent = x.id and", "e.parent || '' = x.id and"),
    ("stop", "suspend", "g.task_id = s.id and g.name = s.signal) then", "g.task_id || '' = s.id) then"),
    (
        "wake-up",
        "wake",
        "joblane.task_waits w\n                    where w.task_id = task",
        "joblane.task_waits w\n                    where w.task_id || '' = task",
    ),
    (
        "wake-up",
        "wake",
        "joblane.task_signals g where g.task_id = task and not",
        "joblane.task_signals g where g.task_id || '' = task and not",
    ),
    (
        "claim of external messages",
        "claim",
        "where h.unique_key = t.unique_key",
        "where h.unique_key || '' = t.unique_key",
    ),
    ("finish", "finish", f"t.id = f.id and t.id = {OF_RUNS}", "t.id || '' = f.id"),
    ("insert", "insert", "h.unique_key = x.unique_key", "h.unique_key || '' = x.unique_key"),
    (
        "claim of tasks that wait",
        "claim",
        "joblane.tasks r where r.id = y.id",
        "joblane.tasks r where r.id || '' = y.id",
    ),
    ("serving", "serve_limits", "t.waits_for = n.name", "t.waits_for || '' = n.name"),
    ("changed rate of a key", "plan_limits", "t.%I = $1", "lower(t.%I) = $1"),
    ("changed rate of a type", "plan_limits", "t.%I = $1", "lower(t.%I) = $1"),
    (
        "release",
        "release_children",
        "from joblane.task_parents e where e.child = t.id order",
        "from joblane.task_parents e where e.child || '' = t.id order",
    ),
]
"""Faults that the test must find: a statement, its function, and a look-up there that becomes a scan."""


def most_rows(name: str) -> int:
    return MOST_ROWS_WITH_LIMITS if name in WITH_LIMITS else MOST_ROWS


@pytest.fixture
def connection(database_url: str) -> Iterator[Connection]:
    database = Database(database_url)
    database.get().execute_simple("set plan_cache_mode = force_generic_plan")
    yield database.get()
    database.drop()


class Costs:
    """The costs of a statement with its generic plan, for each task. It is rolled back."""

    def __init__(self, connection: Connection, name: str, sql: str, parameters: tuple[str, ...]) -> None:
        given = 1 if name in OF_ONE_TASK else GIVEN
        values = ", ".join("'" + value.replace("'", "''") + "'" for value in parameters)
        connection.execute_simple(f"prepare measured as {sql}")
        found = []
        for _ in range(3):  # the first call reads the catalogue as well
            connection.execute_simple("begin")
            [[before]] = connection.run(ROWS_READ)
            [[plan]] = connection.run(f"explain (analyze, buffers, format json) execute measured({values})")
            [[after]] = connection.run(ROWS_READ)
            connection.execute_simple("rollback")
            top = (json.loads(plan) if isinstance(plan, str) else plan)[0]["Plan"]
            found.append((top["Shared Hit Blocks"] + top["Shared Read Blocks"], after - before))
        connection.execute_simple("deallocate measured")
        self.buffers, self.rows = (number / given for number in min(found))

    def __repr__(self) -> str:
        return f"{self.buffers:g} buffers, {self.rows:g} rows"


def fill_with_given(connection: Connection) -> None:
    for state in ("pending", "active"):
        connection.run(ROWS, state, str(GIVEN), "waiting-" if state == "pending" else "active-", TOKEN)
    connection.run(ROWS, "active", str(GIVEN), "parent-", TOKEN)
    connection.run(ARCHIVED, str(GIVEN))
    for child, parent, held in (("fresh-", "waiting-", ""), ("child-", "parent-", "y"), ("stopped-", "dead-", "y")):
        connection.run(CHILDREN, str(GIVEN), child, held)
        connection.run(PARENTS, str(GIVEN), child, parent, "cancel")
    connection.run(CHILDREN, str(GIVEN), "free-", "y")
    connection.run(ATTEMPTS)
    connection.run(DECLARED)
    connection.run(LIMITED, str(GIVEN), "limited-", "pending", "")
    connection.run(LIMITED, str(GIVEN), "held-", "held", "")
    connection.run(LIMITED, str(GIVEN), "late-", "pending", "busy")
    connection.run(LIMITED, "1", "busy-", "pending", "busy")
    connection.run(BUSY)
    connection.run(STOPPED, str(GIVEN), "asleep-")
    connection.run(WAITS, "asleep-")
    connection.run(SIGNALS, "asleep-")
    for sql, parameters in _timed("timed", GIVEN // 2):
        connection.run(sql, *parameters)


def _timed(name: str, number: int) -> list[tuple[str, tuple[str, ...]]]:
    return [
        statement
        for passed in ("key_time", "type_time")
        for key in (f"{name}-{passed}",)
        for statement in ((LIMITED, (str(number), f"{key}-", "pending", key)), (TIMED, (key, passed)), (RATED, (key,)))
    ]


SKEWED: list[tuple[str, tuple[str, ...]]] = [
    *((ROWS, (state, "5000", f"{state}-more-", TOKEN)) for state in ("active", "pending")),
    *(
        (LIMITED, ("5000", f"{state}-limited-{key}", state, key))
        for state in ("pending", "held")
        for key in ("", "busy")
    ),
    *_timed("timed-more", 5000),
    (STOPPED, ("5000", "more-asleep-")),
    (WAITS, ("more-asleep-",)),
    (SIGNALS, ("more-asleep-",)),
    (CHILDREN, ("5000", "child-more-", "y")),
    (PARENTS, ("5000", "child-more-", "a-parent-of-many", "hold")),
    (PARENTS, ("5000", "a-callback", "active-more-", "hold")),
]


def test_no_statement_reads_more_than_its_tasks_need(connection: Connection) -> None:
    # given ten tasks of each kind
    fill_with_given(connection)
    read: dict[str, list[Costs]] = {}
    shapes: dict[str, list[tuple[str, tuple[str, ...]]]] = {
        "almost empty": [],
        "small": [(ENDED, ("5000",))],
        "large": [(ENDED.replace("'ended-'", "'large-'"), ("30000",))],
        "skewed": SKEWED,
        "analysed": [],
        "others paused": [(PAUSES, ("5000",)), (SCHEDULES, ("5000",))],
        "paused": [(PAUSE, ())],
    }
    for shape, fills in shapes.items():
        # when the tables have another shape
        for sql, parameters in fills:
            connection.run(sql, *parameters)
        connection.run(ATTEMPTS)
        if shape == "analysed":
            connection.execute_simple("analyze joblane.tasks, joblane.task_attempts, joblane.task_waits")
        # then each statement reads as little as before
        for name, (sql, parameters, most) in MEASURED.items():
            read.setdefault(name, []).append(costs := Costs(connection, name, sql, parameters))
            assert costs.buffers <= most, (name, shape, read)
            assert costs.rows <= most_rows(name), (name, shape, read)


@pytest.fixture(scope="module")
def large(reused_databases: ReusedDatabases) -> Iterator[Connection]:
    """Tables that the tests do not change: to fill them takes longer than all that the tests do."""
    with reused_databases.lend() as url, Database(url) as database:
        connection = database.get()
        connection.execute_simple("set plan_cache_mode = force_generic_plan")
        for sql, parameters in [*SKEWED, (PAUSES, ("200",)), (SCHEDULES, ("200",))]:
            connection.run(sql, *parameters)
        connection.run(ATTEMPTS)
        fill_with_given(connection)
        yield connection


@pytest.mark.parametrize(("name", "function", "lookup", "scan"), GROWING)
def test_a_statement_that_grows_is_found(large: Connection, name: str, function: str, lookup: str, scan: str) -> None:
    # given a function that scans a table
    text = FUNCTIONS[function]
    assert lookup in text, "the function has changed: the fault can no longer be planted by this text"
    version = f"{function}_{VERSION}"
    large.execute_simple(text.replace(lookup, scan).replace(version, f"{function}_growing"))
    if function == "claim_one":
        large.run("delete from joblane.pauses")  # with a pause no task is ordinary
    # then it reads many rows
    sql, parameters, _ = MEASURED[name]
    sound = Costs(large, name, sql, parameters)
    growing = Costs(large, name, sql.replace(version, f"{function}_growing"), parameters)
    if function == "claim_one":
        large.run(PAUSES, "200")
    assert sound.rows <= most_rows(name)
    assert growing.rows > 10 * most_rows(name)


def test_a_parent_of_many_that_is_live_again_reads_each_child_once(connection: Connection) -> None:
    connection.run(CHILDREN, "500", "child-", "y")
    connection.run("""update joblane.tasks set after = '{a}', on_parent_dead = 'run'""")
    connection.run(RELATIVES, "500", "child-")
    connection.execute_simple("analyze joblane.tasks, joblane.task_children")
    assert Costs(connection, "live again", WAIT_AGAIN, ("a",)).rows * GIVEN <= 3 * 500


def test_the_sweep_of_limits_reads_no_task_that_has_ended(connection: Connection) -> None:
    # given tasks with limits, of which two have slots that nobody uses, a rate whose times are wrong, and a pause
    fill_with_given(connection)
    connection.run(PAUSE)
    connection.run(SHARED)
    connection.run(WRONG_TIMES)
    connection.run(ENDED, "5000")
    connection.execute_simple("analyze joblane.tasks")
    # when the sweep's statements run with its settings
    connection.execute_simple(PLANNING)
    statements: dict[str, tuple[Any, ...]] = {
        LEAVE: (json.dumps([f"limited-{n}" for n in range(1, 6)]),),
        TAKE_BACK: (),
        GO_BEHIND: ("shared", ["a:b"], "default"),
        UNSERVED: ("",),
        PLANNED_ANEW: ("", None),
        PLAN: (["a:b"], 2),
        FORGET: (),
        ENDED_PARENTS: ("", "", ""),
        HELD: ("-infinity",),
        CANCEL_CALLBACKS: (["child-1"],),
    }
    for statement, parameters in statements.items():
        connection.execute_simple("begin")
        [[before]] = connection.run(ROWS_READ)
        connection.run(statement, *parameters)
        [[after]] = connection.run(ROWS_READ)
        connection.execute_simple("rollback")
        # then they read the tasks with limits, some more than once
        assert after - before < 500, (after - before, statement)


def test_no_index_names_a_column_that_an_ordinary_claim_changes(connection: Connection) -> None:
    rows = connection.run("""
        select d.objid::regclass::text, a.attname
          from pg_index i
          join pg_depend d on d.classid = 'pg_class'::regclass and d.objid = i.indexrelid
           and d.refclassid = 'pg_class'::regclass and d.refobjid = i.indrelid
          join pg_class c on c.oid = i.indexrelid
          join pg_am m on m.oid = c.relam and m.amname <> 'brin'  -- a heap-only update writes such an index
          join pg_attribute a on a.attrelid = d.refobjid and a.attnum = d.refobjsubid
         where i.indrelid = 'joblane.tasks'::regclass
    """)
    named: dict[str, set[str]] = {}
    for index, column in rows:
        named.setdefault(column, set()).add(index)
    assert {"finished_at", "dead_letter_unsent", "unique_key"} <= named.keys()  # columns of predicates count
    changed = (
        transitions.RUN.keys() | transitions.PARK.keys() | transitions.RELEASE.keys() | {"due_at", "mismatch_since"}
    )
    changed -= {"unique_key"}  # released by the claim only with unique_until="start"
    changed -= transitions.LEFT_LIMITS.keys()  # of a task with a limit; those of another one keep their values
    assert {column: named[column] for column in changed & named.keys()} == {}


def test_a_claim_writes_no_index_and_a_life_writes_six_entries(connection: Connection) -> None:
    # given a hundred tasks, inserted by tens

    def rows() -> list[Any]:
        connection.execute_simple("select pg_stat_force_next_flush()")
        return connection.run("""
            select n_tup_upd, n_tup_hot_upd from pg_stat_all_tables
             where relid in ('joblane.tasks'::regclass, 'joblane.task_attempts'::regclass) order by relid
        """)

    def entries(table: str) -> int:
        """The entries of a new version of the last row: the indexes whose predicate it satisfies."""
        predicates = connection.run(
            "select coalesce(pg_get_expr(indpred, indrelid), 'true')"
            " from pg_index join pg_class c on c.oid = indexrelid join pg_am m on m.oid = c.relam"
            " where m.amname <> 'brin' and indrelid = $1::regclass",
            table,
        )
        last = f"(select * from {table} order by ctid desc limit 1) as t"
        return sum(int(connection.run(f"select count(*) from {last} where {p}")[0][0]) for [p] in predicates)

    groups = [[f"t-{tens}{one}" for one in range(10)] for tens in range(10)]
    for ids in groups:
        connection.run(INSERT, json.dumps([NEW_ROW | {"id": id_} for id_ in ids]))
    inserted = entries("joblane.tasks")
    # when they are claimed and finished
    before = rows()
    for ids in groups:
        connection.run(CLAIM, json.dumps([{"id": i, "type": "a:b", "rec": True} for i in ids]), TOKEN, "60", "r")
    claimed = rows()
    end = json.loads(_ends())[0]
    for ids in groups:
        connection.run(FINISH, json.dumps([end | {"id": id_} for id_ in ids]), "false")
    finished = entries("joblane.tasks")
    # then
    updated, hot = (after - first for first, after in zip(before[0], claimed[0], strict=True))
    assert updated == 100
    assert hot >= 95
    assert rows()[1] == before[1], "a first run that completes writes no row of its own"
    assert (inserted, finished) == (2, 4)
