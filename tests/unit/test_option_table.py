"""The table of enqueue options, from which code checks, keeps, reads, offers and describes an option."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest

from joblane import Payload, Queue, TaskContext, task
from joblane.cli import connect
from joblane.cli.main import main
from joblane.enqueue.check import check
from joblane.enqueue.check_schedule import checked_row
from joblane.enqueue.ticks import Stored
from joblane.errors import EnqueueError, ScheduleError
from joblane.inspector.views import ActionResult
from joblane.record.migrations import versions
from joblane.record.row.states import State
from joblane.sqs.message import decode
from joblane.sqs.message_schema import message_schema
from joblane.tasks import job, option_facts
from joblane.tasks.job import (
    NEED_A_ROW,
    NOT_OF_TICKS,
    OPTIONS,
    Job,
    JobOptions,
    MessageOptions,
    TickOptions,
    check_names,
    options_from_json,
)
from joblane.tasks.option_facts import Values
from joblane.tasks.options import MUST, Options
from tests.builders.views import type_view
from tests.inspector import FakeInspector
from tests.pages import ROOT
from tests.reference.sections import enqueue_options
from tests.unit.page.conftest import COOKIE, KEYS, SAME, client_of

FORM = "019318f2-7f3a-7cc4-9d3e-1f6b2a4c5d6e"
AT = datetime(2035, 1, 31, 12, tzinfo=UTC)
EXAMPLES: Mapping[Values, tuple[Any, Any, str]] = {
    option_facts.TEXT: ("a", "a", "a"),
    option_facts.TEXTS: (["a"], ["a"], "a"),
    option_facts.IDS: (["a"], ["a"], "a"),
    option_facts.HEADERS: ({"a": "b"}, {"a": "b"}, ""),
    option_facts.NUMBER: (1, 1, "1"),
    option_facts.DURATION: (timedelta(seconds=5), 5.0, "5s"),
    option_facts.DURATIONS: ([timedelta(seconds=5)], [5.0], "5s"),
    option_facts.MOMENT: (AT, AT.isoformat(), "2035-01-31T12:00Z"),
}
"""A value in Python, as JSON, and as a person types it."""
OF_TICKS = [name for name, option in OPTIONS.items() if not option.not_of_ticks and name != "tenant"]
"""A schedule takes the tenant as an argument of its own."""
OFFERED = [name for name, option in OPTIONS.items() if option.flags]
CHECK = partial(check, record=True, prefix="jobs")
OF_A_MESSAGE = [each.name for each in fields(Options)]


class Empty(Payload):
    pass


@task("table:all", also=(Queue.LOW,), unique_for=timedelta(hours=1), key="tenant", max_per_key=1)
def table_all(payload: Empty, ctx: TaskContext) -> None:
    pass


@task("table:plain")
def table_plain(payload: Empty, ctx: TaskContext) -> None:
    pass


def example(name: str) -> tuple[Any, Any, str]:
    values = OPTIONS[name].values
    if values.choices is None:
        return EXAMPLES[values]
    last = [*values.choices][-1]
    return last, str(last), str(last)


def types(names: type) -> dict[str, str]:
    """The annotations of a class as they are written."""
    return {name: str(getattr(kind, "__forward_arg__", kind)) for name, kind in names.__annotations__.items()}


def test_the_typed_signatures_have_the_options_of_the_table_with_their_types() -> None:
    declared = {name: kind for name, kind in types(Job).items() if name in OPTIONS}
    assert types(JobOptions) == declared
    assert types(TickOptions) == {name: kind for name, kind in declared.items() if name in OF_TICKS}
    assert [each.name for each in fields(Job)] == ["task", "payload", *OPTIONS]


@pytest.mark.parametrize("name", OF_A_MESSAGE)
def test_a_client_puts_its_options_into_the_message(name: str) -> None:
    value, written, _ = example(name)
    check_names({name: value})
    new = check(Job(table_plain, Empty(), **{name: value}), record=False, prefix="jobs")
    read = decode(new.entry.body).options
    assert getattr(read, name) == getattr(new.options, name) == (value if name == "deadline" else written)


@pytest.mark.parametrize("name", OF_TICKS)
def test_a_schedule_keeps_an_option_as_json_and_reads_it_for_its_ticks(name: str) -> None:
    value, written, _ = example(name)
    row, _times = checked_row("s", Job(table_all, Empty()), "0 6 * * *", "latest", {name: value}, check=CHECK)
    assert row["options"] == {name: written}
    assert getattr(Stored.of(row | {"revision": 1}).job(table_all), name) == value


@pytest.mark.parametrize("name", sorted(OPTIONS.keys() - {*OF_TICKS, "tenant"}))
def test_a_schedule_refuses_an_option_of_one_task_with_the_reason(name: str) -> None:
    given = {name: example(name)[0]}
    with pytest.raises(ScheduleError, match=f"^{name}: {re.escape(OPTIONS[name].not_of_ticks)}$"):
        checked_row("s", Job(table_all, Empty()), "0 6 * * *", "latest", given, check=CHECK)


@pytest.mark.parametrize("name", OPTIONS)
def test_an_inspector_reads_an_option_from_json(name: str) -> None:
    value, written, _ = example(name)
    assert options_from_json({name: written}) == {name: value}
    assert options_from_json({name: None}) == {}


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> FakeInspector:
    made = FakeInspector()
    made.answers |= {"types": (type_view(),), "enqueue": ActionResult(FORM, "enqueue", None, State.PENDING, FORM)}
    monkeypatch.setattr(connect, "connect", lambda **_: made)
    return made


@pytest.mark.parametrize("name", OFFERED)
def test_the_command_line_offers_an_option(name: str, stub: FakeInspector, capsys: pytest.CaptureFixture[str]) -> None:
    # given
    _, written, typed = example(name)
    # when
    for arguments in (("data:export", OPTIONS[name].flags[0], typed), ("--help",)):
        with pytest.raises(SystemExit):
            main(["enqueue", *arguments])
    # then
    [(_, named)] = stub.called("enqueue")
    assert named["options"] == {name: written}
    shown = " ".join(capsys.readouterr().out.split())
    assert f"{OPTIONS[name].flags[0]} " in shown
    assert OPTIONS[name].help in shown


@pytest.mark.parametrize("name", [name for name in OFFERED if name != "task_id"])
def test_the_form_of_the_page_offers_an_option(name: str, stub: FakeInspector) -> None:
    # given
    browser = client_of(stub)
    browser.cookies.update(COOKIE)
    _, written, typed = example(name)
    # when
    text = browser.get("/enqueue?type=data:export").text
    browser.post(
        "/enqueue/start", data={"csrf": KEYS.form, "type": "data:export", "form": FORM, name: typed}, headers=SAME
    )
    # then
    assert f'<label for="o-{name}">{OPTIONS[name].label or name.replace("_", " ").capitalize()}<' in text
    assert re.search(rf'<(input|select) id="o-{name}" name="{name}"', text)
    [(_, _, _, options, _)] = stub.performed
    assert options == {"task_id": FORM, name: written}


@pytest.mark.parametrize("name", OF_A_MESSAGE)
def test_the_json_schema_of_a_message_has_an_option_with_its_bounds(name: str) -> None:
    schema = message_schema(table_plain)["properties"]["options"]["properties"][name]
    assert schema["description"] == MUST[name] == OPTIONS[name].must
    if OPTIONS[name].values in (option_facts.NUMBER, option_facts.DURATION, option_facts.DURATIONS):
        assert schema["minimum"] == OPTIONS[name].bounds[0]


@cache
def reference() -> str:
    return enqueue_options()


@pytest.mark.parametrize("name", OPTIONS)
def test_the_reference_has_an_option_with_its_range(name: str) -> None:
    _, found, section = reference().partition(f"### `{name}`\n")
    assert found
    facts, text = section.partition("\n###")[0].strip().split("\n\n", 1)
    assert ("Range: " in facts) == bool(OPTIONS[name].range() or OPTIONS[name].most)
    assert ("A schedule refuses it." in text) == bool(OPTIONS[name].not_of_ticks)
    assert ("A `MessageClient` refuses it." in text) == OPTIONS[name].needs_row


def test_an_unknown_option_is_refused_with_the_names_of_the_table() -> None:
    with pytest.raises(EnqueueError, match=f"^colour: there is no such option; there are {', '.join(OPTIONS)}; "):
        check_names({"colour": 1})


@pytest.mark.parametrize(
    ("name", "refused"), [("parents", NEED_A_ROW), ("max_wait", NEED_A_ROW), ("delay", NOT_OF_TICKS)]
)
def test_the_hint_of_an_unknown_option_names_none_that_the_call_refuses(name: str, refused: Mapping[str, Any]) -> None:
    with pytest.raises(EnqueueError, match=f"^{name}: there is no such option; there are ") as caught:
        check_names({name: 1}, others=refused)
    assert not refused.keys() & set(re.findall(r"\w+", str(caught.value).partition("there are ")[2]))


@pytest.mark.parametrize("name", NEED_A_ROW)
def test_a_message_client_refuses_an_option_that_needs_a_row_by_its_name(name: str) -> None:
    given = Job(table_plain, Empty(), **{name: example(name)[0]})
    with pytest.raises(EnqueueError, match=f"^{name}: it needs a row, and a MessageClient writes none$"):
        check(given, record=False, prefix="jobs")


def test_a_message_client_takes_an_option_that_needs_a_row_at_its_default() -> None:
    check(Job(table_plain, Empty(), **(NEED_A_ROW | {"after": []})), record=False, prefix="jobs")


def test_the_checks_in_sql_have_the_bounds_of_the_table() -> None:
    low = {name: option.bounds[0] for name, option in OPTIONS.items()}
    high = {name: option.bounds[1] for name, option in OPTIONS.items()}
    tags, days = OPTIONS["tags"], job.LONGEST_WAIT.days
    expected = {
        "0001_check_task.sql": (
            f"t.retention_seconds not between {low['retention']} and {high['retention']}\n",
            f"'strict $.timeout ? (@ >= {low['timeout']} && @ <= {high['timeout']})'",
            f'(@.type() != "number" || @ < {low["retry_delay"]} || @ > {high["retry_delay"]})\'',
            f"t.longest_seconds > {high['unique_for']}\n",
        ),
        "0001_enqueue.sql": (
            f"due > clock_timestamp() + interval '{days} days'",
            f"if not lasts between {low['unique_for']} and {high['unique_for']} or",
            f"cardinality(tags) > {tags.most}\n",
            f"length(one) between {tags.low} and {tags.high})",
            f"cardinality(after) > {job.MAX_PARENTS} then",
        ),
    }
    found = {name: (Path(versions.__path__[0]) / name).read_text() for name in expected}
    assert {name: [each for each in texts if each not in found[name]] for name, texts in expected.items()} == {
        name: [] for name in expected
    }


# --- A new option --------------------------------------------------------------------------------------------------

FILE, NEW = Path(__file__).name, "grace"
FIELD = f'''    {NEW}: timedelta | None = field(
        default=None,
        metadata=facts(DURATION, "--{NEW}", help="A new option", low=timedelta(seconds=2), high=LONGEST_WAIT),
    )
    """A new option."""
'''
ADDED = (
    ("job.py", "class CommonOptions(TypedDict, total=False):", "    queue: ", f"    {NEW}: timedelta | None\n"),
    ("job.py", "class Job:", "    headers: ", FIELD),
    ("options.py", "class Options:", "    tags: ", f'    {NEW}: Annotated[float, _within("{NEW}")] | None = None\n'),
)
"""For each line of a new option: the file, the class, the beginning of the next line, the line."""


@pytest.fixture
def with_a_new_option(tmp_path: Path) -> Iterator[Path]:
    """A copy of the library, whose table has one more option."""
    for name in ("cdk.json", "docs", "functions", "infra", "pyproject.toml", "tests"):
        (tmp_path / name).symlink_to(ROOT / name)
    copy = tmp_path / "shared"
    shutil.copytree(ROOT / "shared" / "joblane", copy / "joblane")
    (copy / "saas").symlink_to(ROOT / "shared" / "saas")
    for name, head, place, lines in ADDED:
        file = copy / "joblane" / "tasks" / name
        start, found, rest = file.read_text().partition(head)
        assert found, head
        assert f"\n{place}" in rest, place
        file.write_text(start + found + rest.replace(f"\n{place}", f"\n{lines}{place}", 1))
    yield tmp_path
    shutil.rmtree(tmp_path)


def test_a_new_option_is_in_client_schedule_command_line_page_schema_and_reference(with_a_new_option: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", "-k", f"{NEW} or typed", f"tests/unit/{FILE}"],
        cwd=with_a_new_option,
        env={**os.environ, "PYTHONPATH": str(with_a_new_option / "shared")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert set(re.findall(rf"::test_(\w+)\[{NEW}\] PASSED", ran.stdout)) == {
        "a_client_puts_its_options_into_the_message",
        "a_schedule_keeps_an_option_as_json_and_reads_it_for_its_ticks",
        "an_inspector_reads_an_option_from_json",
        "the_command_line_offers_an_option",
        "the_form_of_the_page_offers_an_option",
        "the_json_schema_of_a_message_has_an_option_with_its_bounds",
        "the_reference_has_an_option_with_its_range",
    }


def test_the_options_of_a_message_client_need_no_row() -> None:
    assert JobOptions.__annotations__.keys() - MessageOptions.__annotations__.keys() == NEED_A_ROW.keys()
