"""The hours in which the schedules of a stage keep a database awake, and their words."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from joblane import Payload, TaskContext, every, task
from joblane.cdk.costs import START, awake, moments, sentences, sweeps
from joblane.cdk.preflight.findings import FindingKind
from joblane.cdk.preflight.region import findings_on_pauses
from joblane.cdk.templates import COSTS
from joblane.prices import MONTH
from joblane.tasks.task import Task

FIVE, HOUR = timedelta(minutes=5), timedelta(hours=1)


class Nothing(Payload):
    """Empty."""


def tasks(**times: Any) -> dict[str, Task[Any, Any]]:
    """Tasks by type. ``times``: ``jobs_sweep="0 */6 * * *"`` is the schedule of ``jobs:sweep``."""

    def declared(name: str, schedule: Any) -> Task[Any, Any]:
        def run(payload: Nothing, ctx: TaskContext) -> None:
            """Nothing."""

        run.__name__ = name
        return task(name.replace("_", ":", 1), schedule=schedule)(run)

    found = [declared(name, schedule) for name, schedule in times.items()]
    return {each.type: each for each in found}


@pytest.mark.parametrize(
    ("times", "pause", "wakes_a_day", "minutes_a_day"),
    [
        ({"jobs_sweep": "0 */6 * * *"}, FIVE, 4, 40),
        # one wake serves both
        ({"jobs_sweep": "0 */6 * * *", "a_b": "0 2 * * *", "a_c": "0 2 * * *"}, FIVE, 5, 50),
        ({"jobs_sweep": "0 */6 * * *", "a_b": "0 0 * * *"}, FIVE, 4, 40),
        # the second run comes before the pause, which it delays
        ({"a_b": "0 2 * * *", "a_c": "4 2 * * *"}, FIVE, 1, 14),
        ({"a_b": "0 2 * * *", "a_c": "10 2 * * *"}, FIVE, 1, 20),
        ({"a_b": "0 2 * * *", "a_c": "11 2 * * *"}, FIVE, 2, 20),
        ({"a_b": "0 2 * * *"}, HOUR, 1, 65),
        ({"a_b": ["0 2 * * *", "0 14 * * *"]}, FIVE, 2, 20),
        ({"a_b": every(minutes=15)}, FIVE, 96, 960),
        ({}, FIVE, 0, 0),
    ],
)
def test_each_wake_lasts_until_the_pause_after_the_last_run(
    times: dict[str, Any], pause: timedelta, wakes_a_day: int, minutes_a_day: int
) -> None:
    found = awake(tasks(**times), pause)
    assert (found.wakes, found.time) == (30 * wakes_a_day, 30 * timedelta(minutes=minutes_a_day))
    assert not found.is_always


@pytest.mark.parametrize("times", [{"jobs_sweep": "*/5 * * * *"}, {"a_b": every(minutes=10)}, {"a_b": "* * * * *"}])
def test_a_schedule_that_is_as_frequent_as_the_pause_keeps_the_database_awake(times: dict[str, Any]) -> None:
    found = awake(tasks(**times), FIVE)
    assert (found.wakes, found.time, found.is_always) == (1, MONTH, True)


def test_a_wake_at_the_end_of_the_month_ends_with_it() -> None:
    found = awake(tasks(a_b="58 23 * * *"), FIVE)
    assert found.time == 29 * timedelta(minutes=10) + timedelta(minutes=2)


def test_each_run_is_followed_by_a_sweep_and_runs_of_a_minute_share_it() -> None:
    found = tasks(jobs_sweep="0 */6 * * *", a_b="0 2 * * *", a_c="0 2 * * *", a_d="3 14 * * *")
    first = sorted(moment - START for moment in sweeps(found) if moment < START + timedelta(days=1))
    hours = [timedelta(hours=hour) for hour in (0, 6, 12, 18)]
    assert first == sorted([*hours, timedelta(hours=2, minutes=4), timedelta(hours=14, minutes=4)])


def test_a_frequent_sweep_follows_its_schedule_alone() -> None:
    found = tasks(jobs_sweep="*/5 * * * *", a_b="1 2 * * *")
    assert sweeps(found) == set(moments(found["jobs:sweep"]))
    assert sweeps(tasks(a_b="1 2 * * *")) == set()


# --- Words ---------------------------------------------------------------------------------------------------------


def test_the_words_name_each_schedule_and_the_costs() -> None:
    found = awake(tasks(jobs_sweep="0 */6 * * *", a_b="0 2 * * *"), FIVE)
    why, do = sentences(found, 1.5)
    assert why == (
        "it may pause; schedules wake it 150 times a month and keep it awake for 25 of 720 hours, for $1.50; hours of "
        "each type alone: jobs:sweep (20.0), a:b (5.0)"
    )
    assert "give them common times" in do
    assert sentences(awake(tasks(jobs_sweep="0 */6 * * *"), FIVE), 1.2)[1].startswith("no change is needed")


@pytest.mark.parametrize(
    ("times", "do"),
    [
        ({"jobs_sweep": "*/5 * * * *", "a_b": "0 2 * * *"}, 'set "sweep": "6 hours", or a min_capacity above 0'),
        (
            {"jobs_sweep": "0 */6 * * *", "a_b": "*/5 * * * *"},
            "set fewer ticks of these types in `schedules`, or a min",
        ),
    ],
)
def test_the_words_say_how_a_database_that_never_pauses_can(times: dict[str, Any], do: str) -> None:
    why, found = sentences(awake(tasks(**times), FIVE), 43.2)
    assert why.startswith(
        "it may pause, and never does, for $43.20 a month: its schedules are as frequent as its pause; "
    )
    assert found.startswith(do)


@pytest.mark.parametrize(("least", "notes"), [(0, 1), (0.5, 0)])
def test_the_preflight_has_a_note_for_a_database_that_may_pause(least: float, notes: int) -> None:
    cluster = {"ServerlessV2ScalingConfiguration": {"MinCapacity": least, "SecondsUntilAutoPause": 300}}
    template: dict[str, Any] = {
        "Metadata": {COSTS: {"schedules": {}, "sweep_minutes": 360, "extras": {}, "architecture": "arm64"}},
        "Resources": {
            "A": {"Type": "AWS::RDS::DBCluster", "Properties": cluster},
            "B": {"Type": "AWS::RDS::DBInstance", "Properties": {}},
        },
    }
    found = list(findings_on_pauses([template], tasks(jobs_sweep="*/5 * * * *")))
    assert [(finding.kind, finding.what) for finding in found] == [(FindingKind.NOTE, "database")] * notes
    # the stage has its own interval
    assert all("keep it awake for 20 of 720 hours, for $1.20;" in finding.why for finding in found)
