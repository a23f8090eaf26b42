"""`pause`, `resume`."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from joblane.inspector.errors import SelectionError
from joblane.inspector.filter import PauseScope
from joblane.inspector.views import Pause
from tests.builders import views
from tests.inspector import FakeInspector
from tests.unit.cli.conftest import Run


def paused(scope: PauseScope, name: str, *, reason: str | None, until: datetime | None = None) -> Pause:
    return Pause(scope, name, reason, "ann@laptop", views.NOW, until)


@pytest.mark.parametrize("scope", list(PauseScope))
def test_each_scope_can_be_paused_and_resumed(jobs: Run, stub: FakeInspector, scope: PauseScope) -> None:
    stub.answers |= {"pause": paused, "resume": paused}
    assert jobs("pause", scope, "low", "--reason", "it moves").code == 0
    assert jobs("resume", scope, "low").code == 0
    assert stub.called("pause") == [((scope, "low"), {"reason": "it moves", "until": None})]
    assert stub.called("resume") == [((scope, "low"), {"reason": None})]


def test_a_pause_can_end_at_a_time(jobs: Run, stub: FakeInspector) -> None:
    stub.answers["pause"] = paused
    jobs("pause", "tenant", "acme", "--until", "2030-01-01T02:00+02:00")
    assert stub.called("pause")[0][1]["until"] == datetime(2030, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    "arguments",
    [
        ("lane", "x"),
        ("queue",),
        ("queue", "low", "--for", "2h", "--until", "2030-01-01"),
        ("queue", "low", "--for", "x"),
        ("tenant", "a b"),
        ("tenant", ""),
    ],
)
def test_a_pause_with_invalid_arguments_is_a_usage_error(
    jobs: Run, stub: FakeInspector, arguments: tuple[str, ...]
) -> None:
    assert (jobs("pause", *arguments).code, stub.calls) == (2, [])


def test_an_invalid_name_is_not_resumed(jobs: Run, stub: FakeInspector) -> None:
    assert (jobs("resume", "tenant", "a b").code, stub.calls) == (2, [])


def test_an_unknown_name_ends_with_3(jobs: Run, stub: FakeInspector) -> None:
    stub.answers["pause"] = SelectionError("name", "there is no queue 'lo'; known: critical, default, low")
    ran = jobs("pause", "queue", "lo")
    assert (ran.code, ran.err) == (3, "joblane: there is no queue 'lo'; known: critical, default, low\n")


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (("pause", "schedule", "tenant:cleanup:0"), "SCOPE: use `joblane schedules pause NAME`"),
        (("resume", "schedule", "tenant:cleanup:0"), "and `joblane schedules resume NAME`"),
        (("tick", "tenant:cleanup"), "Use `joblane schedules run NAME`"),
        (("why", "slow", "data:export"), "Use `joblane why TYPE`"),
        (("why", "data:export:nightly:2026-01-01T00:00Z"), "a type is required"),
    ],
)
def test_a_former_command_names_the_new_one(
    jobs: Run, stub: FakeInspector, command: tuple[str, ...], says: str
) -> None:
    ran = jobs(*command)
    assert (ran.code, says in ran.err, stub.calls) == (2, True, [])
