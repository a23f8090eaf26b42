"""Sequences of commands, with their effects on the database and the queues."""

from __future__ import annotations

import json
from typing import Any

import pytest

from joblane import SkipRetry, TaskContext
from joblane.record.schedules import register
from tests.integration.cli.conftest import Jobs
from tests.samples import Sample, behaviour, sample_one, sample_tick
from tests.world import World

CAUSES = {"ways_no_file": 6, "ways_no_room": 4, "ways_no_reason": 2}
"""Error → number of archived tasks."""


@behaviour
def ways_no_file(payload: Sample, ctx: TaskContext) -> Any:
    raise SkipRetry(f"file {payload.number} does not exist")


@behaviour
def ways_no_room(payload: Sample, ctx: TaskContext) -> Any:
    raise SkipRetry("the disk is full")


@behaviour
def ways_no_reason(payload: Sample, ctx: TaskContext) -> Any:
    raise SkipRetry


@pytest.fixture
def given_up(deployed: World) -> World:
    """A world with archived tasks of these errors."""
    for cause, number in CAUSES.items():
        for n in range(number):
            body = {"type": "sample:one", "id": f"{cause}-{n}", "payload": {"do": cause, "number": n}}
            deployed.deliver(sample_one, body)
    return deployed


def ids(jobs: Jobs, *options: str) -> list[str]:
    return sorted(task["id"] for task in jobs("ls", *options, "--json").json["tasks"])


def test_one_group_is_found_and_redriven_and_the_other_groups_stay(given_up: World, jobs: Jobs) -> None:
    # given
    groups = jobs("dead", "--json").json["groups"]
    assert [group["archived"] for group in groups] == sorted(CAUSES.values(), reverse=True)
    full = next(group for group in groups if "disk" in group["message"])
    # when
    ran = jobs("redrive", full["fingerprint"], "--yes", "--reason", "a larger disk", "--json")
    # then
    assert (ran.code, ran.json["total"], ran.json["failed"]) == (0, 4, 0)
    assert ids(jobs, "--state", "pending", "--type", "sample:one") == [f"ways_no_room-{n}" for n in range(4)]
    assert len(ids(jobs, "--state", "archived")) == 8
    [begun] = jobs("audit", "--json").json
    assert (begun["who"], begun["action"], begun["reason"]) == ("op", "redrive", "a larger disk")
    changed = jobs("audit", "--bulk", begun["target"], "--json").json
    assert {entry["target"] for entry in changed} == {f"ways_no_room-{n}" for n in range(4)}


def test_a_filter_is_counted_acted_on_and_audited(given_up: World, jobs: Jobs) -> None:
    archived = ("--state", "archived", "--error", "does not exist")
    # without a confirmation nothing is done
    previewed = jobs("delete", *archived, "--dry-run", "--json").json
    assert (previewed["number"], previewed["exact"]) == (6, True)
    assert [(cause["error"], cause["number"]) for cause in previewed["causes"]] == [
        ("SkipRetry: file # does not exist", 6)
    ]
    assert jobs("delete", *archived).code == 2
    assert len(ids(jobs, *archived)) == 6
    # when it is confirmed
    ran = jobs("retry", *archived, "--yes")
    # then
    assert (ran.code, ran.out) == (0, "Retry: all 6 tasks sent again. Now 0 completed, 6 wait, 0 archived again.\n")
    assert ids(jobs, *archived) == []
    assert jobs("retry", *archived, "--yes").code == 3
    assert "completed" in jobs("bulk", "ls").out


def test_each_action_on_a_task_is_in_the_audit(deployed: World, jobs: Jobs) -> None:
    # given
    id_ = jobs("enqueue", "sample:one", "--json", '{"number": 1}', "--in", "2h", "--reason", "one").out.strip()
    # when
    steps = [
        jobs("edit", id_, "--json", '{"number": 2}', "--reason", "two"),
        jobs("archive", id_, "--reason", "three"),
        jobs("retry", id_, "--reason", "four"),
        jobs("cancel", id_, "--reason", "five"),
    ]
    again = jobs("replay", id_, "--reason", "six").out.strip()
    # then
    assert [step.code for step in steps] == [0] * 4
    assert deployed.row(again)["payload"] == {"do": "nothing", "number": 2}
    assert deployed.row(again)["replay_of"] == id_
    entries = jobs("audit", "--target", id_, "--json").json
    assert {"two", "three", "four", "five"} <= {entry["reason"] for entry in entries}
    # and a wrong state is refused with the allowed states
    ran = jobs("archive", id_)
    assert ran.code == 4
    assert f"task {id_!r} is cancelled; archive is for tasks that are" in ran.err


CANNOT_BE = {
    ("show", "no-such"): 3,
    ("retry", "no-such"): 3,
    ("ls", "--type", "sample:gone"): 3,
    ("enqueue", "sample:gone"): 3,
    ("enqueue", "sample:one", "--json", '{"numbr": 1}'): 1,
    ("ls", "--after", "nonsense"): 2,
    ("bulk", "show", "no-such"): 3,
    ("bulk", "abort", "no-such"): 3,
    ("redrive", "--all", "--yes"): 3,
}


def test_a_refused_action_ends_with_its_status_and_a_message(deployed: World, jobs: Jobs) -> None:
    for arguments, code in CANNOT_BE.items():
        ran = jobs(*arguments)
        assert (ran.code, ran.out) == (code, ""), arguments
        assert ran.err.startswith("joblane: "), arguments


ENQUEUE = ("enqueue", "sample:one")
LONG = "x" * 600
MISUSED: list[tuple[str, ...]] = [
    (*ENQUEUE, "--queue", "nope"),
    (*ENQUEUE, "--queue", "low"),  # it has no lane there
    (*ENQUEUE, "--in", "5000d"),
    (*ENQUEUE, "--at", "9999-01-01"),
    (*ENQUEUE, "--deadline", "2000-01-01"),
    (*ENQUEUE, "--id", "a b"),
    (*ENQUEUE, "--tenant", "a b"),
    (*ENQUEUE, "--tag", ""),
    (*ENQUEUE, "--max-retry", "99"),
    (*ENQUEUE, "--timeout", "9w"),
    (*ENQUEUE, "--retention", "5000d"),
    (*ENQUEUE, "--unique-for", "0s"),
    (*ENQUEUE, "--unique-key", "x"),
    (*ENQUEUE, "--on-conflict", "foo"),
    (*ENQUEUE, "--on-conflict", "return"),
    (*ENQUEUE, "--reason", LONG),
    ("ls", "--tenant", "a b"),
    ("ls", "--id", "a b"),
    ("ls", "--tag", ""),
    ("ls", "--error", LONG),
    ("ls", "--fingerprint", "a b"),
    ("ls", "--newer", "0001-01-01T00:00+10:00"),
    ("ls", "--older", "1h", "--newer", "1m"),
    ("run", "--state", "active", "--yes"),
    ("run", "no-such", "--reason", LONG),
    ("redrive", "a b"),
    ("runs", "--within", "1s"),
    ("audit", "--after", "-1"),
    ("pause", "tenant", "a b"),
    ("pause", "queue", "low", "--until", "2000-01-01"),
    ("pause", "queue", "low", "--reason", LONG),
    ("resume", "tenant", "a b"),
    ("schedules", "--tenant", "a b"),
    ("schedules", "--after", "a b"),
    ("schedules", "--origin", "yaml"),
    ("schedules", "--sort", "age"),
]


def test_an_invalid_argument_is_a_usage_error_locally_and_remotely(deployed: World, either_way: Jobs) -> None:
    for arguments in MISUSED:
        ran = either_way(*arguments)
        assert (ran.code, ran.out) == (2, ""), arguments
        assert ran.err.startswith(("joblane: ", "Usage: joblane ")), arguments
    assert (
        deployed.run("select count(*) from joblane.audit")
        == deployed.run("select count(*) from joblane.tasks")
        == [[0]]
    )


def test_a_refused_action_has_the_same_status_locally_and_remotely(deployed: World, either_way: Jobs) -> None:
    for arguments, code in CANNOT_BE.items():
        assert either_way(*arguments).code == code, arguments


def test_schedules_of_both_kinds_have_the_same_commands(deployed: World, either_way: Jobs) -> None:
    # given
    register(deployed.database.get(), {sample_tick.type: sample_tick})
    for name in ("a", "b"):
        deployed.client.schedules.put(name, sample_one, Sample(), "0 6 1 1 *", tenant="acme")
    # then
    assert [one["name"] for one in json.loads(either_way("schedules", "--json").out)["schedules"]] == [
        *("a", "b", "sample:tick:0", "sample:tick:1")
    ]
    for name in ("a", "sample:tick:0"):
        for command in (("pause", name, "--for", "1h"), ("show", name), ("resume", name), ("run", name)):
            assert either_way("schedules", *command).code == 0, command
        assert either_way("schedules", "pause", name, "--until", "2000-01-01").code == 2
    assert either_way("schedules", "delete", "sample:tick:0", "--yes").code != 0
    # and those of a tenant are paused and deleted, each with its entry
    for action in ("pause", "delete"):
        ran = either_way("schedules", action, "--tenant", "acme", "--yes", "--reason", "runaway")
        assert (ran.code, ran.err.splitlines()[-1]) == (0, f"{action.capitalize()}d 2 of 2 schedules.")
        entries = deployed.run("select action, target, reason from joblane.audit order by number desc limit 2")
        assert entries == [[f"{action}_schedule", f"schedule:{name}", "runaway"] for name in ("b", "a")]
