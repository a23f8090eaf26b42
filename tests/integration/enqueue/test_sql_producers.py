"""Enqueueing by SQL alone: ``joblane.enqueue`` follows the rules of the client."""

from __future__ import annotations

import json
import random
import subprocess
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pg8000.exceptions import DatabaseError

from joblane import Payload, Queue, task
from joblane.errors import EnqueueError, sqlstate
from joblane.handler.context import TaskContext
from joblane.json_values import canonical
from joblane.local.postgres import program
from joblane.record.driver.database import Database
from joblane.record.task_types import register
from joblane.sweep.sweep import sweep
from joblane.tasks.task import Task
from tests.samples import LIMITED, Sample, sample_keyed, sample_one, sample_ordered, sample_tree, sample_watched
from tests.samples_events import sample_heard
from tests.world import PREFIX, World


@task("sample:kept", queue=Queue.LOW, max_retry=2, unique_for=timedelta(hours=1))
def sample_kept(payload: Sample, ctx: TaskContext) -> None:
    pass


class OfAccount(Payload):
    account: Any = None


@task("sample:of_account", key="account", max_per_key=1)
def sample_of_account(payload: OfAccount, ctx: TaskContext) -> None:
    pass


@pytest.fixture
def known(world: World) -> World:
    register(world.database.get(), {one.type: one for one in (sample_one, sample_kept, sample_of_account, *LIMITED)})
    world.lane(sample_one)
    world.lane(sample_kept)
    return world


def enqueue(world: World, arguments: str) -> tuple[str, bool]:
    [[id_, created]] = world.run(f"select * from joblane.enqueue({arguments})")
    return id_, created


def test_a_task_inserted_by_sql_is_sent_by_the_sweep_and_runs(known: World) -> None:
    # given
    id_, created = enqueue(known, """'sample:one', '{"do": "nothing", "number": 7}', tenant => 'acme'""")
    # when
    sweep(known.database.get(), known.sqs, PREFIX)
    [message] = known.take(sample_one)
    known.deliver(sample_one, message["Body"])
    # then
    row = known.row(id_)
    assert created
    assert row["state"] == "completed"
    assert row["tenant"] == "acme"
    assert row["max_attempts"] == sample_one.max_retry + 1


def test_it_exists_only_if_the_callers_transaction_commits(known: World) -> None:
    with Database(known.url) as database:
        database.get().execute_simple("begin")
        database.get().run("""select * from joblane.enqueue('sample:one', '{"do": "nothing"}', task_id => 'gone')""")
        database.get().rollback()
    assert known.run("select count(*) from joblane.tasks") == [[0]]


def test_from_psql_in_one_transaction_with_other_work(known: World) -> None:
    script = """
        begin;
        create table orders (number int);
        insert into orders values (7);
        select * from joblane.enqueue('sample:one', '{"do": "nothing", "number": 7}', task_id => 'order-7');
        commit;
    """
    subprocess.run(
        [str(program("psql")), known.url, "-v", "ON_ERROR_STOP=1", "-q", "-c", script], check=True, capture_output=True
    )
    assert known.row("order-7")["state"] == "pending"


def test_an_existing_id_is_returned_and_changes_nothing(known: World) -> None:
    assert enqueue(known, """'sample:one', '{"do": "nothing"}', task_id => 'it'""") == ("it", True)
    assert enqueue(known, """'sample:one', '{"do": "fail"}', task_id => 'it'""") == ("it", False)
    assert known.row("it")["payload"] == {"do": "nothing"}


def test_a_unique_key_is_shared_with_the_client(known: World) -> None:
    # given
    info = known.client.enqueue(sample_kept, Sample(do="nothing", number=3))
    # when
    payload = json.dumps(known.row(info.id)["payload"])
    id_, created = enqueue(known, f"'sample:kept', '{payload}'")
    # then
    assert (id_, created) == (info.id, False)


def test_many_at_once_with_one_key_are_one_task(known: World) -> None:
    arguments = "'sample:one', '{}', unique_key => 'k', unique_for => '1 hour'"

    def one(_: int) -> list[Any]:
        with Database(known.url) as database:
            return database.get().run(f"select * from joblane.enqueue({arguments})")[0]

    with ThreadPoolExecutor(10) as threads:
        found = list(threads.map(one, range(10)))
    assert len({id_ for id_, _ in found}) == 1
    assert sorted(created for _, created in found) == [False] * 9 + [True]


def test_a_far_time_waits_in_the_row(known: World) -> None:
    id_, _ = enqueue(known, "'sample:one', '{}', process_in => '3 hours'")
    assert known.row(id_)["state"] == "scheduled"
    sweep(known.database.get(), known.sqs, PREFIX)
    assert known.take(sample_one) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("'sample:none'", "type: there is no task 'sample:none'"),
        ("'sample:one', queue => 'low'", "queue: sample:one has no lane in 'low'; it has one in: default"),
        ("'sample:one', '[]'", "payload: a JSON object is required"),
        ("'sample:one', null", "payload: a JSON object is required"),
        ("'sample:one', headers => '{\"a\": 1}'", "headers: an object of at most 32 strings"),
        ("'sample:one', task_id => 'a b'", "task_id: 1 to 200 printable"),
        ("'sample:one', task_id => 'sample:one:0:2026-01-01T00:00Z'", "task_id: has the form of a tick's id"),
        ("'sample:one', tenant => ''", "tenant: 1 to 128"),
        ("'sample:one', process_in => '-1 s'", "process_in: from now to 3650 days ahead"),
        ("'sample:one', process_in => '1 s', process_at => now()", "process_at: give process_in or process_at"),
        ("'sample:one', process_at => now() + interval '20 years'", "process_at: from now to 3650 days ahead"),
        ("'sample:one', process_at => 'infinity'", "process_at: from now to 3650 days ahead"),
        ("'sample:one', process_at => '-infinity'", "process_at: from now to 3650 days ahead"),
        ("'sample:one', max_retry => 99", "max_retry: 0 to"),
        ("'sample:one', deadline => now() - interval '1 s'", "deadline: a time after the task is due"),
        ("'sample:one', deadline => 'infinity'", "deadline: a time after the task is due"),
        ("'sample:one', tags => array['']", "tags: at most 20"),
        ("'sample:one', tags => array[null]", "tags: at most 20"),
        ("'sample:one', unique_key => 'k'", "unique_for: an interval"),
        ("'sample:one', unique_for => '0 s'", "unique_for: an interval"),
        ("'sample:one', unique_for => 'infinity'", "unique_for: an interval"),
        ("'sample:one', unique_for => '11 years'", "unique_for: an interval"),
        ("'sample:one', unique_key => '', unique_for => '1 h'", "unique_key: 1 to 200"),
        ("'sample:one', key => 'k'", "key: sample:one declares no key"),
        ("'sample:keyed', '{\"number\": [1]}'", "payload: number: an integer is required, not a list"),
        ("'sample:keyed', '{\"number\": 1.5}'", "payload: number: an integer is required, not a fraction"),
        ("'sample:of_account', '{\"account\": [1]}'", "key: account: a string, an integer or a boolean is required"),
        ("'sample:of_account', '{\"account\": 1.5}'", "key: account: a string, an integer or a boolean is required"),
        *(
            (f"'sample:one', '{{\"number\": {number}}}'", "payload: a number is too large")
            for number in ("1e5000", "-1e309", '[{"deep": 1e400}]')
        ),
        ("'sample:keyed', key => repeat('k', 201)", "key: 1 to 200 printable ASCII characters"),
    ],
)
def test_bad_arguments_are_refused_by_name_before_anything_is_written(known: World, arguments: str, said: str) -> None:
    with pytest.raises(DatabaseError) as caught:
        enqueue(known, arguments)
    assert sqlstate(caught.value) == "22023"
    assert said in caught.value.args[0]["M"]
    assert known.run("select count(*) from joblane.tasks") == [[0]]


def test_a_past_time_runs_now_however_far_it_is(known: World) -> None:
    id_, _ = enqueue(known, "'sample:one', '{}', process_at => '0044-03-15 BC'")
    assert known.row(id_)["state"] == "pending"
    assert known.client.get(id_) is not None
    sweep(known.database.get(), known.sqs, PREFIX)
    assert len(known.take(sample_one)) == 1


def test_no_tags_are_none(known: World) -> None:
    id_, _ = enqueue(known, "'sample:one', '{}', tags => null")
    assert known.row(id_)["tags"] == []


def test_no_row_waits_for_a_time_that_never_comes(known: World) -> None:
    id_, _ = enqueue(known, "'sample:one'")
    for column in ("due_at", "deadline"):
        with pytest.raises(DatabaseError, match="a year from 1973 to 9999"):
            known.run(f"update joblane.tasks set {column} = 'infinity' where id = $1", id_)


def test_a_payload_without_its_defaults_has_the_key_of_the_same_with_them(known: World) -> None:
    held = known.client.enqueue(sample_kept, Sample(number=3))
    assert enqueue(known, """'sample:kept', '{"number": 3}'""") == (held.id, False)
    assert enqueue(known, """'sample:kept', '{"number": 3, "do": "nothing"}'""") == (held.id, False)
    assert enqueue(known, """'sample:kept', '{"number": 4}'""")[1]


@pytest.mark.parametrize(
    ("one", "arguments", "options"),
    [
        (sample_keyed, "'{}'", {}),
        (sample_keyed, "'{}', key => 'k 1'", {"key": "k 1"}),
        (sample_tree, "'{\"number\": -7}'", {"number": -7}),
        (sample_ordered, "'{\"number\": 7}', tenant => 'acme'", {"number": 7, "tenant": "acme"}),
        (sample_ordered, "'{\"number\": 7}'", {"number": 7}),
        (sample_one, "'{\"number\": 7}'", {"number": 7}),
    ],
)
def test_limits_are_those_of_the_client(known: World, one: Task[Any, Any], arguments: str, options: Any) -> None:
    columns = ("key_limit", "total_limit", "shared_limit", "ordered")
    id_, _ = enqueue(known, f"'{one.type}', {arguments}")
    client = known.client.enqueue(one, Sample(number=options.pop("number", 0)), **options)
    assert [known.row(id_)[name] for name in columns] == [known.row(client.id)[name] for name in columns]
    assert (known.row(id_)["seq"] is None) == (known.row(client.id)["seq"] is None)
    assert (known.row(id_)["first_due_at"] is None) == (known.row(client.id)["first_due_at"] is None)


@pytest.mark.parametrize("one", [sample_one, sample_kept, sample_heard, sample_watched, sample_ordered])
def test_a_row_has_the_columns_that_a_client_writes(known: World, one: Task[Any, Any]) -> None:
    # given
    register(known.database.get(), {each.type: each for each in (one, sample_one)})
    known.lane(one)
    parent, deadline = known.client.enqueue(sample_one, Sample()).id, datetime(2090, 1, 1, tzinfo=UTC)
    # when
    client = known.client.enqueue(
        one,
        Sample(number=7),
        tenant="acme",
        tags=["a"],
        headers={"a": "b"},
        deadline=deadline,
        max_retry=0,
        after=[parent],
        on_parent_dead="run",
    )
    id_, _ = enqueue(
        known,
        f"""'{one.type}', '{{"do": "nothing", "number": 7}}', tenant => 'acme', tags => '{{a}}',
            headers => '{{"a": "b"}}', deadline => '{deadline}', max_retry => 0, after => array['{parent}'],
            on_parent_dead => 'run', unique_key => {"'other'" if one is sample_kept else "null"}""",
    )
    # then
    by_client, by_sql = known.row(client.id), known.row(id_)
    of_each = {"id", "created_at", "due_at", "seq", "unique_key", "unique_expires_at"}
    not_sent = {"sweep_at"}
    without_python = {"schema"}
    differ = {name for name in by_client if by_client[name] != by_sql[name]}
    assert differ - of_each == not_sent | without_python


@pytest.mark.parametrize("account", ["10.0.0.1", "1.5", "-1.x", "7", "true", "a/b", 7, -7, 10**20, True, None])
def test_a_value_gives_the_key_that_it_gives_in_a_client(known: World, account: object) -> None:
    register(known.database.get(), {sample_of_account.type: sample_of_account})
    known.lane(sample_of_account)
    [[id_]] = known.run(
        "select id from joblane.enqueue('sample:of_account', $1::jsonb)", json.dumps({"account": account})
    )
    client = known.client.enqueue(sample_of_account, OfAccount(account=account))
    assert known.row(id_)["key_limit"] == known.row(client.id)["key_limit"]


@pytest.mark.parametrize("account", [1.5, -0.1, [1], {"a": 1}, "", "x" * 201, "ä"])
def test_a_value_that_is_no_key_in_a_client_is_none_in_sql(known: World, account: object) -> None:
    register(known.database.get(), {sample_of_account.type: sample_of_account})
    with pytest.raises(DatabaseError) as caught:
        known.run("select id from joblane.enqueue('sample:of_account', $1::jsonb)", json.dumps({"account": account}))
    assert caught.value.args[0]["M"].startswith("key: ")
    with pytest.raises(EnqueueError, match=r"^key: "):
        known.client.enqueue(sample_of_account, OfAccount(account=account))


@pytest.mark.parametrize("seed", range(4))
def test_the_canonical_form_in_sql_is_the_librarys(known: World, seed: int) -> None:
    """Without hypothesis, whose hook into the garbage collector fails at the recursion limit of other tests."""
    dice = random.Random(seed)
    for _ in range(100):
        value = any_json(dice)
        [[text]] = known.run("select joblane.canonical($1::jsonb)", json.dumps(value))
        assert text == canonical(value), f"seed {seed}"


def any_json(dice: random.Random, depth: int = 0) -> Any:
    def text() -> str:
        return "".join(chr(dice.choice([*range(1, 0x300), 0x20AC, 0xFFFE, 0x1F600])) for _ in range(dice.randint(0, 6)))

    kind = dice.randint(0, 6 if depth < 4 else 4)
    if kind == 5:
        return [any_json(dice, depth + 1) for _ in range(dice.randint(0, 4))]
    if kind == 6:
        return {text(): any_json(dice, depth + 1) for _ in range(dice.randint(0, 4))}
    return [None, dice.random() < 0.5, dice.randint(-(2**60), 2**60), dice.randint(0, 9), text()][kind]


# --- Whatever the search_path is -----------------------------------------------------------------------------------

DECOYS = """
create schema decoy;
create table decoy.tasks (id text, state text); create table decoy.task_types (type text);
create table decoy.pauses (scope text); create table decoy.stage (prefix text); insert into decoy.stage values ('x');
create function decoy.canonical(value jsonb) returns text language sql as $$ select 'wrong' $$;
create function decoy.enqueue(type text, payload jsonb) returns text language sql as $$ select 'wrong' $$;
"""


@pytest.mark.parametrize("path", ["''", "decoy", "decoy, public", "pg_temp, decoy"])
def test_names_are_found_with_any_search_path(known: World, path: str) -> None:
    # given tables and functions of the same names, in a schema that is searched first
    observer = known._observer.get()
    observer.execute_simple(DECOYS)
    [[name]] = known.run("select current_database()")
    observer.execute_simple(f"alter database {name} set search_path = {path}")
    known.database.drop()
    known._observer.drop()
    assert known.run("select current_setting('search_path')") == [[path.replace("'", '"')]]
    # when
    id_, created = enqueue(known, """'sample:kept', '{"do": "nothing", "number": 7}'""")
    again = enqueue(known, """'sample:kept', '{"number": 7, "do": "nothing"}'""")
    sent = sweep(known.database.get(), known.sqs, PREFIX).sent
    [message] = known.take(sample_kept)
    known.deliver(sample_kept, message["Body"])
    # then
    assert (created, again, sent) == (True, (id_, False), 1)
    assert known.row(id_)["state"] == "completed"
    assert known.run("select count(*) from decoy.tasks") == [[0]]
