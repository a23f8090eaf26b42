"""Finding tasks by any text: what is found, what stays hidden, and how far one call reads."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import pytest
from pydantic import BaseModel, ConfigDict, Field

from joblane import Payload, Redacted, TaskContext, task
from joblane.inspector.errors import SelectionError
from joblane.inspector.filter import Filter
from joblane.inspector.inspector import Inspector
from joblane.inspector.scope import Scope
from joblane.inspector.tasks import find, selection
from joblane.inspector.tasks.find import CERTAIN_PREFIX
from joblane.inspector.views import Found, FoundKind
from tests.builders.rows import In, put
from tests.bulks import TASKS
from tests.samples import sample_one, sample_only
from tests.world import PREFIX, World


class Card(BaseModel):
    model_config = ConfigDict(serialize_by_alias=True)

    holder: str
    number: Annotated[str, Redacted, Field(alias="card-no")]


class Login(Payload):
    user: str = ""
    token: Annotated[str, Redacted] = ""
    pin: Annotated[int, Redacted] = 0
    rights: Annotated[dict[str, str], Redacted] = Field(default_factory=dict)
    cards: list[Card] = Field(default_factory=list)


@task("find:login", aliases=("find:signin",), unique_for=timedelta(hours=1))
def find_login(payload: Login, ctx: TaskContext) -> None: ...


@pytest.fixture(autouse=True)
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(find, "SECONDS", 600)


@pytest.fixture
def inspector(scope: Scope) -> Inspector:
    return Inspector(Scope(scope.database, scope.sqs, PREFIX, {**TASKS, find_login.type: find_login}, "op"))


def bound(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    """Let a call read this number of rows."""
    for module in (selection, find):
        monkeypatch.setattr(module, "BOUND", rows)


def kinds(found: Found) -> dict[str, list[str]]:
    """The kind of each group → the ids of its tasks."""
    return {group.kind: [row.id for row in group.page.tasks] for group in found.groups}


def payloads(found: Found) -> list[str]:
    return kinds(found).get(FoundKind.PAYLOAD, [])


# --- Names ---------------------------------------------------------------------------------------------------------


def test_an_id_or_its_only_beginning_is_the_task(world: World, inspector: Inspector) -> None:
    for id_ in ("01a214ac-1", "01a214ac-11", "import"):
        put(world, sample_one, id_)
    assert inspector.find("01a214ac-1") == inspector.find(" 01a214ac-1\n") == Found("01a214ac-1", (), 0, None, None)
    assert inspector.find("01a214ac-11"[:-1] + "1").id == "01a214ac-11"
    # and a beginning of several ids, or one so short that it may be a word, is a group
    assert kinds(inspector.find("01a214ac-")) == {"id": ["01a214ac-11", "01a214ac-1"]}
    assert len("import") < CERTAIN_PREFIX
    assert kinds(inspector.find("impor")) == {"id": ["import"]}
    put(world, sample_one, "02b325bd-2")
    assert inspector.find("02b325bd").id == "02b325bd-2"


def test_a_name_is_found_with_the_filter_of_its_tasks(world: World, inspector: Inspector) -> None:
    # given a word with several meanings
    put(world, sample_one, "a", tenant="batch")
    put(world, sample_one, "b", tags=["batch"])
    put(world, sample_one, "c", state="archived", error_type="Oops", error_message="Batch 7 is gone", fingerprint="f1")
    put(world, sample_one, "d", unique_key="sample:one batch", unique_expires_at=In(3600))
    put(world, sample_one, "e", {"do": "the BATCH", "number": 1})
    put(world, sample_one, "f", tenant="batches", tags=["abatch"])
    # when
    found = inspector.find("batch")
    # then
    assert kinds(found) == {
        "unique key": ["d"],
        "type": [],
        "tenant": ["a"],
        "tag": ["b"],
        "error": ["c"],
        "payload": ["e"],
    }
    for group in found.groups:
        if group.filter is not None and group.page.tasks:
            assert inspector.tasks(group.filter).tasks == group.page.tasks
    assert [group.filter.types for group in found.groups if group.filter and group.filter.types] == [("sample:batch",)]
    assert kinds(inspector.find("f1")) == {"fingerprint": ["c"]}


def test_a_group_has_the_newest_five_tasks_and_a_cursor(world: World, inspector: Inspector) -> None:
    for n in range(7):
        put(world, sample_one, f"t{n}", tenant="acme")
    [group] = inspector.find("acme").groups
    assert [row.id for row in group.page.tasks] == ["t6", "t5", "t4", "t3", "t2"]
    assert group.filter is not None
    assert [row.id for row in inspector.tasks(group.filter, after=group.page.after).tasks] == ["t1", "t0"]


def test_a_key_that_no_live_task_holds_is_not_found(world: World, inspector: Inspector) -> None:
    put(world, sample_only, "a", state="completed", unique_key="sample:only order-7")
    assert inspector.find("order-7").groups == ()


# --- Payloads ------------------------------------------------------------------------------------------------------

VALUES: dict[str, tuple[Any, str]] = {
    "a text": ("Ann of Acme", "nn of"),
    "in another case": ("Ann of Acme", "ANN OF aCME"),
    "a text in a list": ([{"to": ["x", "ann@acme.example"]}], "ann@acme"),
    "a quotation mark": ('say "hi"', 'y "h'),
    "a backslash": ("C:\\temp", "C:\\t"),
    "a line": ("first\nsecond", "first\nsecond"),
    "no wildcard": ("100 %_.*", "0 %_.*"),
    "another alphabet": ("Größe 東京 😀", "Größe 東京 😀"),
    "an integer": (4711, "4711"),
    "a decimal number": (47.5, "47.50"),
    "a number with an exponent": (1000, "1e3"),
    "a number of many digits": (123456789012345678901234567890, "123456789012345678901234567890"),
    "a negative number": (-7, "-7"),
    "digits in a text": ("order 0815", "815"),
}


@pytest.mark.parametrize("what", VALUES)
def test_a_value_of_a_payload_is_found(world: World, inspector: Inspector, what: str) -> None:
    value, text = VALUES[what]
    put(world, sample_one, "it", {"do": value})
    put(world, sample_one, "other", {"do": "nothing"})
    assert payloads(inspector.find(text)) == ["it"]


@pytest.mark.parametrize(
    "text", ["%", "_", "do", "4", "47", "nothin_", "n.thing", "true", "null", '"', "\\", "{", ", "]
)
def test_neither_keys_nor_wildcards_nor_json_are_found(world: World, inspector: Inspector, text: str) -> None:
    put(world, sample_one, "it", {"do": "nothing", "number": 4711, "flag": True, "none": None})
    assert payloads(inspector.find(text)) == []


def test_payloads_of_the_last_day_are_searched_unless_another_time_is_given(world: World, inspector: Inspector) -> None:
    now = datetime.now(UTC)
    for hours in (1, 23, 25, 50):
        put(world, sample_one, f"{hours}-h", {"do": "acme"}, created_at=In(-3600 * hours))
    day = timedelta(days=1)
    assert payloads(inspector.find("acme")) == ["1-h", "23-h"]
    assert payloads(inspector.find("acme", created_after=now - 2 * day)) == ["1-h", "23-h", "25-h"]
    assert payloads(inspector.find("acme", created_before=now - day)) == ["25-h"]
    assert payloads(inspector.find("acme", created_after=now - 3 * day, created_before=now - day)) == ["25-h", "50-h"]


def test_a_removed_payload_or_one_that_is_no_object_is_passed_over(world: World, inspector: Inspector) -> None:
    for id_, payload in (("a", None), ("b", '"acme"'), ("c", '["acme"]'), ("d", "{}")):
        put(world, sample_one, id_)
        world.run("update joblane.tasks set payload = $1::jsonb where id = $2", payload, id_)
    found = inspector.find("acme")
    assert (found.groups, found.read, found.after) == ((), 4, None)


def test_a_payload_of_many_levels_is_searched(world: World, inspector: Inspector) -> None:
    deep = "[" * 900 + '"the bottom"' + "]" * 900
    for task_, id_ in ((sample_one, "plain"), (find_login, "redacted")):
        put(world, task_, id_)
        world.run("update joblane.tasks set payload = $1::jsonb where id = $2", f'{{"do": {deep}}}', id_)
    assert payloads(inspector.find("the bottom")) == ["redacted", "plain"]


# --- Hidden values -------------------------------------------------------------------------------------------------

SECRET = {
    "user": "ann",
    "token": "s3cret-one",
    "pin": 4711,
    "rights": {"gate": "s3cret-two", "cards": [{"holder": "s3cret-three"}]},
    "cards": [{"holder": "Berta", "card-no": "s3cret-four"}, {"holder": "Carl", "number": "s3cret-five"}],
}
TOP = {"user": "ann", "token": "s3cret-one", "pin": 4711}


@pytest.mark.parametrize("payload", [SECRET, TOP], ids=["inside", "at the top"])
def test_a_guess_at_a_redacted_value_gives_the_same_answer_as_nonsense(
    world: World, inspector: Inspector, monkeypatch: pytest.MonkeyPatch, payload: dict[str, Any]
) -> None:
    # given tasks with redacted values, and one in a type that no code declares
    for n in range(4):
        put(world, find_login, f"t{n}", payload)
    world.run("update joblane.tasks set type = 'find:gone' where id = 't0'")
    world.run("update joblane.tasks set type = 'find:signin' where id = 't1'")
    bound(monkeypatch, 3)
    # when
    guesses = ["s3cret", "s3cret-one", "s3cret-two", "s3cret-three", "s3cret-four", "S3CRET-FIVE", "4711", "redacted"]
    found = [inspector.find(guess) for guess in guesses]
    # then the number of rows read and the rest are the same as well
    nonsense = inspector.find("nonsense")
    assert nonsense.read == 3
    for each in found:
        assert (each.groups, each.read, each.searched_to) == (nonsense.groups, nonsense.read, nonsense.searched_to)
    # and what is shown is found
    assert payloads(inspector.find("ann")) == ["t3", "t2", "t1"]
    assert payloads(inspector.find("berta")) == (["t3", "t2", "t1"] if payload is SECRET else [])


@pytest.mark.parametrize("payload", [SECRET, TOP], ids=["inside", "at the top"])
def test_no_hidden_value_is_compared(world: World, payload: dict[str, Any]) -> None:
    # given a row, one of a type that no code declares, and a comparison that fails if it gets a hidden value
    put(world, find_login, "t", payload)
    put(world, find_login, "gone", payload)
    world.run("update joblane.tasks set type = 'find:gone' where id = 'gone'")
    found = find.statement({find_login.type: find_login}, "s3cret", Filter(), None, 20)
    sql = found.sql.replace("strpos(", "pg_temp.compared(")
    world.run(
        "create function pg_temp.compared(whole text, part text) returns int language plpgsql as $$ begin"
        " if strpos(whole, 's3cret') > 0 then raise exception 'compared %', whole; end if; return 1; end $$"
    )
    # when, as it takes each text for a match
    rows = world.run(sql, *found.parameters)
    # then
    assert [(row[0], row[-4]) for row in rows if row[-4]] == [("t", True)]


def test_a_key_of_a_type_with_redacted_fields_is_not_searched(world: World, inspector: Inspector) -> None:
    put(world, find_login, "t", unique_key="find:login s3cret", unique_expires_at=In(3600))
    assert inspector.find("s3cret").groups == ()


# --- A bounded call ------------------------------------------------------------------------------------------------


def walk(inspector: Inspector, text: str) -> list[Found]:
    calls = [inspector.find(text)]
    while calls[-1].after is not None:
        calls.append(inspector.find(text, after=calls[-1].after))
        assert len(calls) < 100
    return calls


def fill(world: World) -> list[str]:
    """Thirty tasks, every third of which has the text; the ids that have it, newest first."""
    world.run(
        "insert into joblane.tasks (id, type, queue, state, payload, payload_digest, max_attempts, retention_seconds,"
        " created_at, finished_at, expire_at) select 'f' || to_char(n, 'FM00'), 'sample:one', 'default', 'completed',"
        " jsonb_build_object('do', case n % 3 when 0 then 'acme' else 'nothing' end), '', 4, 60,"
        " now() - (100 - n / 4) * interval '1 s', now(), now() + interval '1 day' from generate_series(1, 30) n"
    )
    return [f"f{n:02}" for n in range(30, 0, -1) if n % 3 == 0]


BOUNDS: dict[str, tuple[dict[str, int], list[int], list[int]]] = {
    "rows": ({"find.BOUND": 7, "selection.BOUND": 7}, [7, 7, 7, 7, 2], [3, 2, 2, 3, 0]),
    "tasks that were found": ({"find.MOST_PAYLOADS": 4}, [], [4, 4, 2]),
    "no time at all": ({"find.SECONDS": 0}, [1] * 30, [1, 0, 0] * 10),
}
"""The bound of a call → the rows that each call reads (empty: any), and the tasks that it finds."""


@pytest.mark.parametrize("case", BOUNDS.values(), ids=BOUNDS.keys())
def test_calls_continue_where_the_last_one_ended_until_all_is_read(
    world: World, inspector: Inspector, monkeypatch: pytest.MonkeyPatch, case: Any
) -> None:
    expected, (bounds, read, found) = fill(world), case
    for name, value in bounds.items():
        monkeypatch.setattr(f"joblane.inspector.tasks.{name}", value)
    calls = walk(inspector, "acme")
    assert [call.read for call in calls] == read or (not read and calls[0].read < 30)
    assert [len(payloads(call)) for call in calls] == found
    assert [id_ for call in calls for id_ in payloads(call)] == expected
    times = [call.searched_to for call in calls if call.searched_to is not None]
    assert (len(times), times) == (len(calls), sorted(times, reverse=True))


def test_only_the_first_call_searches_names(
    world: World, inspector: Inspector, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(world)
    put(world, sample_one, "acme-1", tenant="acme")
    bound(monkeypatch, 10)
    first, second, *_ = walk(inspector, "acme")
    assert set(kinds(first)) == {"id", "tenant", "payload"}
    assert set(kinds(second)) == {"payload"}


def test_a_cursor_of_another_text_or_of_a_listing_is_refused(
    world: World, inspector: Inspector, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(world)
    bound(monkeypatch, 10)
    other, listing = inspector.find("nothing").after, inspector.tasks(limit=1).after
    assert other is not None
    for after in (other, listing):
        with pytest.raises(SelectionError, match="after: this position belongs to a listing with another filter"):
            inspector.find("acme", after=after)
    for after in ("", "x", "ä"):
        with pytest.raises(SelectionError, match="after: this is not a position"):
            inspector.find("acme", after=after)
    assert "nothing" not in other


# --- Bad input -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", "  ", "x" * 201, "a\0b", "\ud800", "\x1b[31m", 7, None])
def test_a_text_that_cannot_be_searched_is_refused(inspector: Inspector, text: Any) -> None:
    with pytest.raises(SelectionError, match="text: 1 to 200 characters are required, without control") as caught:
        inspector.find(text)
    assert caught.value.field == "text"


@pytest.mark.parametrize("text", ["'; drop table joblane.tasks; --", "$1", "\\", "x" * 200, "1e99", "😀" * 200, "]]>"])
def test_any_other_text_finds_nothing_and_breaks_nothing(world: World, inspector: Inspector, text: str) -> None:
    put(world, sample_one, "it")
    found = inspector.find(text)
    assert (found.groups, found.read) == ((), 1)


def test_times_without_a_zone_or_in_the_wrong_order_are_refused(inspector: Inspector) -> None:
    now = datetime.now(UTC)
    with pytest.raises(SelectionError, match="created_after: a time with a zone"):
        inspector.find("x", created_after=now.replace(tzinfo=None))
    with pytest.raises(SelectionError, match="created_before: a time after created_after"):
        inspector.find("x", created_after=now, created_before=now)


def test_the_text_is_in_no_audit_entry_and_no_error(world: World, inspector: Inspector) -> None:
    text = "personal data \0"
    with pytest.raises(SelectionError) as caught:
        inspector.find(text)
    inspector.find("personal data")
    assert "personal" not in json.dumps([str(caught.value), repr(caught.value)])
    assert world.run("select count(*) from joblane.audit") == [[0]]
