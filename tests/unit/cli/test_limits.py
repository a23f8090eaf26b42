"""`limits` and `line`."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from joblane.errors import LimitError
from joblane.inspector.views import ActionResult
from joblane.record.flow.limit_status import LimitKind, LimitValues
from joblane.record.row.states import State
from joblane.tasks.limit import Rate
from tests.builders import views
from tests.inspector import FakeInspector
from tests.unit.cli.conftest import Run

NOTHING: dict[str, Any] = dict.fromkeys(("key", "max_per_key", "max_total", "total", "rate", "until"))


def test_limits_are_shown_with_their_values_and_the_tasks_that_wait(jobs: Run, stub: FakeInspector) -> None:
    stub.answers["limits"] = (
        views.limit(),
        views.limit("account:sync", "7", LimitKind.KEY, change=None, in_force=LimitValues(None, None), held=0),
    )
    ran = jobs("--stage", "dev", "limits", columns=120)
    _, shared, key = ran.out.splitlines()
    assert re.match(r"openai all 10 500 a minute, burst 50 7 10 2 4,321 \S+ ago ", " ".join(shared.split()))
    assert key.split()[:3] == ["account:sync", "7", "any"]
    assert "openai: 10 at a time set by ann@laptop until" in ran.err
    assert "more quota. Declared: 25 at a time and 500 a minute, burst 50." in ran.err
    assert "jobs --stage dev ls --state held" in ran.err


def test_an_undeclared_limit_is_shown_with_the_command_that_resets_it(jobs: Run, stub: FakeInspector) -> None:
    nothing = LimitValues(None, None)
    stub.answers["limits"] = (
        views.limit(declared=nothing),
        views.limit("account:sync", "a b", LimitKind.KEY, declared=nothing),
        views.limit("mail"),
    )
    ran = jobs("--stage", "dev", "limits", columns=120)
    assert "more quota. No task declares this limit any more." in ran.err
    assert "Remove it:  jobs --stage dev limits reset openai\n" in ran.err
    assert "Remove it:  jobs --stage dev limits reset account:sync --key 'a b'\n" in ran.err
    assert ran.err.count("Remove it:") == 2


def test_what_is_set_for_each_key_is_reported_once_and_for_each_key(jobs: Run, stub: FakeInspector) -> None:
    nothing = LimitValues(None, None)
    each = views.limit("account:sync", None, LimitKind.EACH_KEY, declared=nothing)
    stub.answers["limits"] = (
        each,
        views.limit("account:sync", "7", LimitKind.KEY, declared=nothing, change=each.change),
    )
    ran = jobs("limits", "account:sync", columns=120)
    assert ran.err.count("account:sync, each key: 10 at a time set by ann@laptop") == 1
    assert "key 7:" not in ran.err
    assert re.findall(r"Remove it:  (.*)", ran.err) == ["jobs limits reset account:sync"]


def test_a_delay_is_shown_with_the_command_that_ends_it(jobs: Run, stub: FakeInspector) -> None:
    until = datetime(2099, 1, 1, tzinfo=UTC)
    stub.answers["limits"] = (views.limit("account:sync", "7", LimitKind.KEY, change=None, delayed_until=until),)
    ran = jobs("limits", "account:sync", "--key", "7", columns=120)
    assert "account:sync, key 7: a handler has delayed it until 2099-01-01 00:00:00Z." in ran.err
    assert "End the delay:  jobs limits reset account:sync --key 7\n" in ran.err


@pytest.mark.parametrize(
    ("arguments", "called"),
    [
        ((), ((None,), {"key": None})),
        (("openai",), (("openai",), {"key": None})),
        (("ls", "openai"), (("openai",), {"key": None})),
        (("account:sync", "--key", "7"), (("account:sync",), {"key": "7"})),
        (("--key", "7", "account:sync"), (("account:sync",), {"key": "7"})),
    ],
)
def test_the_command_ls_can_be_left_out(
    jobs: Run, stub: FakeInspector, arguments: tuple[str, ...], called: tuple[Any, ...]
) -> None:
    stub.answers["limits"] = (views.limit(),)
    assert jobs("limits", *arguments).code == 0
    assert stub.called("limits") == [called]


def test_a_limit_is_set_with_all_its_values(jobs: Run, stub: FakeInspector) -> None:
    stub.answers["set_limit"] = (views.limit(),)
    values = ("--key", "7", "--max-per-key", "3", "--max-total", "0", "--rate", "100/1m", "--burst", "5")
    arguments = (*values, "--until", "2030-01-01T00:00Z")
    ran = jobs("limits", "set", "account:sync", *arguments, "--reason", "it moves")
    assert stub.called("set_limit") == [
        (
            ("account:sync",),
            {
                "key": "7",
                "max_per_key": 3,
                "max_total": 0,
                "total": None,
                "rate": Rate(100, timedelta(minutes=1), burst=5),
                "until": datetime(2030, 1, 1, tzinfo=UTC),
                "reason": "it moves",
            },
        )
    ]
    assert "jobs limits reset account:sync --key 7" in ran.err


def test_only_the_given_values_are_set(jobs: Run, stub: FakeInspector) -> None:
    stub.answers["set_limit"] = (views.limit(),)
    jobs("limits", "set", "openai", "--total", "10", "--reason", "r")
    assert stub.called("set_limit") == [(("openai",), NOTHING | {"total": 10, "reason": "r"})]


@pytest.mark.parametrize(
    "arguments",
    [
        ("openai", "--total", "10"),
        ("openai", "--rate", "100", "--reason", "r"),
        ("openai", "--rate", "1/x", "--reason", "r"),
        ("openai", "--burst", "5", "--reason", "r"),
        ("openai", "--total", "many", "--reason", "r"),
        ("openai", "--until", "soon", "--reason", "r"),
    ],
)
def test_invalid_arguments_are_usage_errors(jobs: Run, stub: FakeInspector, arguments: tuple[str, ...]) -> None:
    assert (jobs("limits", "set", *arguments).code, stub.calls) == (2, [])


@pytest.mark.parametrize(
    ("field", "code", "shown"), [("name", 3, ""), ("max_per_key", 2, "--max-per-key: "), ("until", 2, "--until: ")]
)
def test_a_refused_value_is_named_as_its_option(
    jobs: Run, stub: FakeInspector, field: str, code: int, shown: str
) -> None:
    stub.answers["set_limit"] = LimitError(field, "it is wrong")
    ran = jobs("limits", "set", "openai", "--total", "1", "--reason", "r")
    assert (ran.code, ran.err) == (code, f"joblane: {shown}it is wrong\n")


def test_a_reset_shows_the_declared_values(jobs: Run, stub: FakeInspector) -> None:
    stub.answers["reset_limit"] = (views.limit(change=None, in_force=LimitValues(25, None)),)
    ran = jobs("limits", "reset", "openai", "--reason", "done", columns=120)
    assert stub.called("reset_limit") == [(("openai",), {"key": None, "reason": "done"})]
    assert ran.out.splitlines()[1].split()[:3] == ["openai", "all", "25"]


def test_the_order_of_a_key_is_shown_and_passed_on(jobs: Run, stub: FakeInspector) -> None:
    stub.answers |= {
        "line": (views.task_row(id="a"), views.task_row(id="b")),
        "pass_line": ActionResult("a", "pass_line", State.RETRY, State.RETRY, note="It is the last now; b is first"),
    }
    ran = jobs("limits", "line", "account:sync", "acme 7")
    assert [line.split()[0] for line in ran.out.splitlines()[1:]] == ["a", "b"]
    assert "jobs show a" in ran.err
    assert jobs("limits", "pass", "account:sync", "acme 7", "--reason", "r").err == (
        "Task a: It is the last now; b is first.\n"
    )
    assert stub.called("pass_line") == [(("account:sync", "acme 7"), {"reason": "r"})]


def test_an_empty_order_says_so(jobs: Run, stub: FakeInspector) -> None:
    stub.answers["line"] = ()
    assert jobs("limits", "line", "account:sync", "7").err == "No task of this key waits or runs.\n"
