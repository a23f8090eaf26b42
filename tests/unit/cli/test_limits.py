"""`limits` and `line`."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from joblane.errors import LimitError
from joblane.tasks.limit import Rate
from tests.builders import views
from tests.inspector import FakeInspector
from tests.unit.cli.conftest import Run

NOTHING: dict[str, Any] = dict.fromkeys(("key", "max_per_key", "max_total", "total", "rate", "until"))


@pytest.mark.parametrize(
    ("arguments", "called"),
    [
        ((), ((None,), {"key": None})),
        (("openai",), (("openai",), {"key": None})),
        (("ls", "line"), (("line",), {"key": None})),
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


def test_a_limit_is_reset(jobs: Run, stub: FakeInspector) -> None:
    jobs("limits", "reset", "openai", "--reason", "done")
    assert stub.called("reset_limit") == [(("openai",), {"key": None, "reason": "done"})]


def test_the_first_task_of_a_key_is_passed(jobs: Run, stub: FakeInspector) -> None:
    assert jobs("limits", "pass", "account:sync", "acme 7", "--reason", "r").code == 0
    assert jobs("limits", "line", "account:sync", "acme 7").code == 0
    assert stub.called("pass_line") == [(("account:sync", "acme 7"), {"reason": "r"})]
    assert stub.called("line")[0][0] == ("account:sync", "acme 7")
