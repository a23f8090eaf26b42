"""The metrics of alarms: the sweep writes those of missing runs and messages, the runs write their own."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from botocore.exceptions import ClientError

from joblane import TaskContext
from joblane.functions.jobs_sweep import handler as sweep_handler
from joblane.functions.jobs_sweep.handler import jobs_sweep
from joblane.names import dead_letter_name
from joblane.sqs.client import Sqs
from joblane.sqs.message import DEAD_ATTRIBUTE, Message
from joblane.sweep import held_counts
from joblane.sweep.unmarked_dead_letters import MAX_RECEIVES, unmarked_dead_letters
from joblane.tasks.discovery import discover
from joblane.tasks.task import Task
from tests import emf, logs
from tests.builders.rows import In, active, archived, put
from tests.builders.snapshots import MINUTE, pid_of, session, swept
from tests.integration.sweep.test_run_statistics import run_ended, this_minute
from tests.samples import PLACE, Sample, behaviour, place_one, place_two, sample_keyed, sample_one, sample_single
from tests.world import PREFIX, World

LANE = "jobs-default-sample-one"
MARK = {DEAD_ATTRIBUTE: {"DataType": "Number", "StringValue": "0"}}


@behaviour
def breaks(payload: Sample, ctx: TaskContext) -> None:
    raise ValueError("no")


def documents_of_a_sweep(
    world: World, capsys: pytest.CaptureFixture[str], seconds: float = 240.0
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Run the sweep's task. Return its documents of metrics, and its log lines."""
    world.lane(jobs_sweep)
    capsys.readouterr()
    with logs.lines() as lines:
        assert world.deliver(jobs_sweep, Message(jobs_sweep.type, str(uuid4())).encode(), seconds=seconds) == []
    return emf.documents(capsys.readouterr().out), lines.fields


def sweeps(
    world: World, capsys: pytest.CaptureFixture[str], seconds: float = 240.0
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Run the sweep's task. Return its metrics of findings, and its log lines."""
    documents, lines = documents_of_a_sweep(world, capsys, seconds)
    (metrics,) = (document for document in documents if "Overdue" in document)
    return metrics, lines


def dead_letter(world: World, queue: str, number: int, *, marked: bool) -> None:
    body = Message("sample:one", f"dead-{number}", {}).encode()
    attributes: Any = MARK if marked else {}
    world.sqs.client.send_message(
        QueueUrl=world.sqs.url(dead_letter_name(queue)), MessageBody=body, MessageAttributes=attributes
    )


# --- The sweep -----------------------------------------------------------------------------------------------------


def test_a_sweep_without_findings_writes_a_zero_and_no_other_metric(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.deploy(discover().values())
    metrics, lines = sweeps(world, capsys)
    assert (metrics["Overdue"], metrics["task_type"]) == (0, "jobs:sweep")
    assert {name for name in metrics if re.match("[A-Z]", name)} == {"Overdue"}
    assert [line["message"] for line in lines if line["level"] not in ("INFO", "DEBUG")] == []


def test_tasks_that_did_not_start_are_overdue_and_the_longest_wait_is_kept(world: World) -> None:
    world.lane(sample_one)
    for number, due in enumerate((-30.0, -3.5 * MINUTE, 5 * MINUTE)):
        put(world, sample_one, f"it-{number}", due_at=In(due), sweep_at=In(-1))
    put(world, sample_one, "over", state="archived", sweep_at=In(-1), due_at=In(-99))
    done = world.sweep()
    assert (done.sent, done.overdue) == (3, 2)
    assert done.waits == {"sample:one": pytest.approx(3.5 * MINUTE, abs=5)}


def test_the_wait_of_a_task_goes_on_after_each_further_message(world: World) -> None:
    # given a task that no worker claims
    world.lane(sample_one)
    put(world, sample_one, "it", due_at=In(-90 * MINUTE), sweep_at=In(-1), sends=5)
    assert world.sweep().sent == 1
    # when
    done = world.sweep()
    # then
    assert done.sent == 0
    assert done.waits == {"sample:one": pytest.approx(90 * MINUTE, abs=60)}
    world.run("insert into joblane.pauses (scope, name) values ('type', 'sample:one')")
    assert world.sweep().waits == {}


def hold(world: World, task: Task[Any, Any], *ids: str, number: int = 7) -> None:
    """Enqueue tasks whose limit is 0, and deliver them."""
    world.lane(task)
    for id_ in ids:
        world.client.enqueue(task, Sample(number=number), task_id=id_)
        world.deliver(task, Message(task.type, id_, rec=True).encode())


def test_held_tasks_have_metrics_by_limit_and_are_not_late(
    limited: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(held_counts, "PAGE", 2)
    monkeypatch.setattr(held_counts, "READ", held_counts.READ.replace("limit 10000", "limit 2"))
    limited.deploy(discover().values())
    limited.client.limits.set("sample:keyed", max_per_key=0)
    limited.client.limits.set("sample:single", max_total=0)
    hold(limited, sample_keyed, "a", "b", number=7)
    hold(limited, sample_keyed, "c", number=8)
    hold(limited, sample_single, "d", "e")
    limited.run("update joblane.tasks set due_at = due_at - interval '1 hour' where id = 'c'")

    written, lines = documents_of_a_sweep(limited, capsys)
    documents = {line["limit"]: line for line in written if "Held" in line}

    assert {name: line["Held"] for name, line in documents.items()} == {"sample:keyed/": 3, "sample:single": 2}
    assert documents["sample:keyed/"]["HeldOldestSeconds"] == pytest.approx(3600, abs=600)
    [directive] = documents["sample:single"]["_aws"]["CloudWatchMetrics"]
    assert (directive["Dimensions"], {one["Name"]: one["Unit"] for one in directive["Metrics"]}) == (
        [["limit"]],
        {"Held": "Count", "HeldOldestSeconds": "Seconds"},
    )
    [swept] = [line for line in lines if line["message"] == "swept"]
    assert swept["held_by_limit"] == {"sample:keyed/": 3, "sample:single": 2}
    assert (swept["swept"]["overdue"], swept["swept"]["waits"]) == (0, {})


def test_a_paused_task_is_not_overdue(world: World) -> None:
    world.lane(sample_one)
    put(world, sample_one, "it", due_at=In(-9 * MINUTE), sweep_at=In(-1))
    world.run("insert into joblane.pauses (scope, name) values ('type', 'sample:one')")
    assert (world.sweep().overdue, world.sweep().waits) == (0, {})


@pytest.mark.parametrize(("waited_minutes", "late"), [(59, False), (61, True)])
def test_a_type_with_a_task_that_waits_longer_than_its_target_is_counted(
    waited_minutes: float, late: bool, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    # given a task of a type with a target of one hour
    world.deploy(discover().values())
    cleanup = discover()["tenant:cleanup"]
    put(world, cleanup, "it", queue="low", due_at=In(-waited_minutes * MINUTE), sweep_at=In(-1))
    # when
    metrics, lines = sweeps(world, capsys)
    # then
    assert metrics.get("WaitingTooLong") == (1 if late else None)
    assert "CriticalWaitingTooLong" not in metrics
    logged = [line for line in lines if "target_wait" in line["message"]]
    assert [(line["of_type"], line["target_seconds"]) for line in logged] == (
        [("tenant:cleanup", 3600)] if late else []
    )


def test_a_task_with_a_former_name_of_its_type_waits_too_long_for_the_type(
    world: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # given
    tasks = discover()
    renamed = replace(tasks["tenant:cleanup"], aliases=("tenant:tidy",))
    world.deploy(tasks.values())
    world.lane(replace(renamed, type="tenant:tidy", aliases=()))
    monkeypatch.setattr(sweep_handler, "discover", lambda: tasks | {"tenant:cleanup": renamed})
    put(world, renamed, "it", type="tenant:tidy", queue="low", due_at=In(-61 * MINUTE), sweep_at=In(-1))
    # when
    metrics, lines = sweeps(world, capsys)
    # then
    assert metrics["WaitingTooLong"] == 1
    assert [line["of_type"] for line in lines if "target_wait" in line["message"]] == ["tenant:cleanup"]


def test_the_sweep_measures_the_oldest_due_task_of_each_type_and_all_runs(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    # given a critical task that is late, one of another type that is not, and runs of the last hour
    tasks = discover()
    critical = tasks["tenant:initialize"]
    world.deploy(tasks.values())
    put(world, critical, "late", queue="critical", due_at=In(-40 * MINUTE), sweep_at=In(-1))
    put(world, tasks["tenant:cleanup"], "due", queue="low", due_at=In(-5 * MINUTE), sweep_at=In(-1))
    for outcome in ("completed", "completed", "archived"):
        run_ended(world, this_minute() - timedelta(minutes=20), outcome=outcome, cost_usd=0.25)
    # when
    documents, _ = documents_of_a_sweep(world, capsys)
    # then
    due = {line["task_type"]: line for line in documents if "OldestDueSeconds" in line}
    assert {name: line["OldestDueSeconds"] for name, line in due.items()} == {
        "tenant:initialize": pytest.approx(40 * MINUTE, abs=60),
        "tenant:cleanup": pytest.approx(5 * MINUTE, abs=60),
    }
    for line in due.values():  # once by type, once of the whole stage
        assert [each["Dimensions"] for each in line["_aws"]["CloudWatchMetrics"]] == [[["task_type"]], [[]]]
    [found] = [line for line in documents if "Overdue" in line]
    assert (found["WaitingTooLong"], found["CriticalWaitingTooLong"]) == (1, 1)
    [runs] = [line for line in documents if "Runs" in line]
    assert (runs["Runs"], runs["FailedRuns"], runs["CostUsd"], runs["task_type"]) == (3, 1, 0.75, "jobs:sweep")
    units = {metric["Name"]: metric["Unit"] for metric in runs["_aws"]["CloudWatchMetrics"][0]["Metrics"]}
    assert units == {"Runs": "Count", "FailedRuns": "Count", "CostUsd": "None"}


def test_a_lease_is_stuck_ten_minutes_after_its_end_unless_its_task_is_paused(world: World) -> None:
    for id_, ended in (("fresh", -9 * MINUTE), ("stuck", -11 * MINUTE)):
        put(world, sample_one, id_, **active(ended))
    assert world.sweep().stuck == 1
    world.run("insert into joblane.pauses (scope, name) values ('queue', 'default')")
    assert world.sweep().stuck == 0


def test_a_lowered_limit_has_a_metric_and_a_line_without_its_key(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.deploy(discover().values())
    world.run("insert into joblane.limits (name, slots) values ('provider', 5), ('data:export/', 2)")
    world.run(
        "insert into joblane.limit_changes (name, slots, reason, changed_by)"
        " values ('provider', 0, 'r', 'ann'), ('data:export/secret', 1, 'r', 'ann')"
    )
    assert "LoweredLimits" not in sweeps(world, capsys)[0]
    for n, (column, limit) in enumerate((("shared_limit", "provider"), ("key_limit", "data:export/secret"))):
        waits: dict[str, Any] = {"waits_for": limit, column: limit, "total_limit": None, "due_at": In(-MINUTE)}
        put(world, sample_one, f"held-{n}", type="data:export", state="held", seq=n + 1, **waits)
    taken = active(600, type="data:export", key_limit="data:export/secret", passed="all", first_due_at=In(0), seq=9)
    put(world, sample_one, "runs", **taken)
    # a minute is within the target of the type, and nothing starts with a limit of 0
    assert sweeps(world, capsys)[0]["LoweredLimits"] == 1
    world.run("update joblane.tasks set due_at = due_at - interval '1 day' where state = 'held'")
    metrics, lines = sweeps(world, capsys)
    assert metrics["LoweredLimits"] == 2
    found = [line for line in lines if "that an operator has lowered" in line["message"]]
    assert {line["limit"] for line in found} == {"provider", "data:export"}
    assert "secret" not in str(found)


def test_an_old_snapshot_has_a_metric_and_a_line_that_names_its_session(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    # given a session whose snapshot is older than a sweep 40 minutes ago, and which has run a query since
    world.deploy(discover().values())
    swept(world, 50)
    with session(world.url) as dump:
        swept(world, 40)
        dump.run("select 'a later query'")
        [[user, database]] = dump.run("select current_user::text, current_database()::text")
        # when
        metrics, lines = sweeps(world, capsys)
        # then
        assert metrics["OldestSnapshotSeconds"] == pytest.approx(40 * MINUTE, abs=30)
        [directive] = metrics["_aws"]["CloudWatchMetrics"]
        assert {"Name": "OldestSnapshotSeconds", "Unit": "Seconds"} in directive["Metrics"]
        [line] = [line for line in lines if line["level"] == "ERROR"]
        assert line["message"].startswith("an old snapshot keeps dead rows")
        assert line["old_snapshot"] == {
            "seconds": metrics["OldestSnapshotSeconds"],
            "holder": "session",
            "name": "a dump",
            "pid": pid_of(dump),
            "user": user,
            "database": database,
            "state": "idle in transaction",
            "end": f"select pg_terminate_backend({pid_of(dump)})",
        }
        assert "query" not in str(line)
    assert "OldestSnapshotSeconds" not in sweeps(world, capsys)[0]


def test_a_sweep_that_may_not_read_attributes_sends_and_names_the_permission(
    world: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # given a due task without a message, one whose message may be missing, and a role without the permission
    def denied(*_: Any) -> Any:
        raise ClientError({"Error": {"Code": "AccessDenied", "Message": "no"}}, "GetQueueAttributes")

    world.deploy(discover().values())
    cleanup = discover()["tenant:cleanup"]
    put(world, cleanup, "unsent", queue="low", due_at=In(-1), sweep_at=In(-2))
    put(world, cleanup, "sent", queue="low", due_at=In(-2 * MINUTE), sweep_at=In(-1))
    # when
    with monkeypatch.context() as patch:
        patch.setattr(Sqs, "attributes", denied)
        metrics, lines = sweeps(world, capsys)
    # then both are sent, and each part of the sweep that needs the permission logs it
    assert metrics["Overdue"] == 2
    assert world.depth(world.lane(cleanup)) == 2
    warnings = [line for line in lines if line["level"] == "WARNING"]
    assert [line.get("queue") for line in warnings] == ["jobs-low-tenant-cleanup", None]
    assert all("sqs:GetQueueAttributes" in line["message"] for line in warnings)


# --- Dead letters that SQS moved -------------------------------------------------------------------------------------


def moved_by_sqs(world: World) -> dict[str, int]:
    return unmarked_dead_letters(world.database.get(), world.sqs, PREFIX, [LANE])


def receives_of(world: World) -> list[str]:
    """Return a list that gets an element for each receive from now on."""
    receives: list[str] = []
    world.sqs.client.meta.events.register(
        "provide-client-params.sqs.ReceiveMessage", lambda **_: receives.append("receive")
    )
    return receives


def test_dead_letters_without_the_attribute_were_moved_by_sqs(world: World) -> None:
    world.lane(sample_one)
    assert moved_by_sqs(world) == {}
    dead_letter(world, LANE, 1, marked=True)
    assert moved_by_sqs(world) == {}
    dead_letter(world, LANE, 2, marked=False)
    assert moved_by_sqs(world) == {LANE: 1}
    assert moved_by_sqs(world) == {LANE: 1}, "counting does not remove the dead letter"


def test_counting_hides_no_dead_letter_from_other_readers(world: World) -> None:
    world.lane(sample_one)
    for number in range(3):
        dead_letter(world, LANE, number, marked=False)
    assert moved_by_sqs(world) == {LANE: 3}
    assert len(world.received(dead_letter_name(LANE))) == 3


def test_the_number_of_receives_from_a_full_queue_is_limited(world: World) -> None:
    world.lane(sample_one)
    for number in range(40):
        dead_letter(world, LANE, number, marked=False)
    receives = receives_of(world)
    assert moved_by_sqs(world)[LANE] >= 10
    assert len(receives) <= MAX_RECEIVES


def test_a_queue_with_as_many_dead_letters_as_archived_rows_is_read_once(world: World) -> None:
    # given as many dead letters as archived rows; SQS moved one of them
    world.lane(sample_one)
    for number in range(12):
        put(world, sample_one, f"dead-{number}", state="archived", dead_sent_at=In(-1))
        dead_letter(world, LANE, number, marked=number > 0)
    receives = receives_of(world)
    moved_by_sqs(world)
    assert receives == ["receive"]


def test_the_sweep_counts_the_moved_dead_letters_and_names_their_queue(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.deploy(discover().values())
    dead_letter(world, "jobs-low", 1, marked=False)
    dead_letter(world, "jobs-default-data-export", 2, marked=False)
    metrics, lines = sweeps(world, capsys)
    assert metrics["DeadLettersMovedBySqs"] == 2
    named = {line["queue"] for line in lines if line["message"].startswith("SQS moved")}
    assert named == {"jobs-low", "jobs-default-data-export"}


def test_the_sweep_reads_each_dead_letter_queue_of_a_place_and_of_its_drains_once(
    world: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # given two types that share a lane, of which one had a lane of its own until now
    moved = replace(place_two, place=replace(PLACE, drains=("place:two",)))
    monkeypatch.setattr(sweep_handler, "discover", lambda: {task.type: task for task in (place_one, moved)})
    lanes = "jobs-default-place", "jobs-default-place-two"
    world.make("jobs-critical", "jobs-default", "jobs-low", *lanes)
    for number, lane in enumerate(lanes):
        dead_letter(world, lane, number, marked=False)
    # and a dead letter of each type that its row accounts for
    for task in (place_one, place_two):
        put(world, task, task.type, state="archived", dead_sent_at=In(-1))
        dead_letter(world, lanes[0], 7, marked=True)
    monkeypatch.setattr(sweep_handler, "Sqs", lambda: world.sqs)
    receives = receives_of(world)
    # when
    metrics, lines = sweeps(world, capsys)
    # then
    assert metrics["DeadLettersMovedBySqs"] == 2
    assert {line["queue"] for line in lines if line["message"].startswith("SQS moved")} == set(lanes)
    assert len(receives) == 2


def test_a_sweep_continues_if_the_dead_letter_queues_cannot_be_read(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    metrics, lines = sweeps(world, capsys)  # the queues do not exist
    assert metrics["Overdue"] == 0
    assert [line["message"].partition(",")[0] for line in lines if line["level"] == "WARNING"] == [
        "the dead-letter queues could not be read"
    ]


def test_a_sweep_with_little_time_left_does_not_read_the_dead_letter_queues(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.deploy(discover().values())
    dead_letter(world, "jobs-low", 1, marked=False)
    assert "DeadLettersMovedBySqs" not in sweeps(world, capsys, seconds=40)[0]
    assert sweeps(world, capsys)[0]["DeadLettersMovedBySqs"] == 1


# --- The runs --------------------------------------------------------------------------------------------------------


def test_every_outcome_of_a_run_is_a_line_that_cloudwatch_can_read(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.deliver(sample_one, Message("sample:one", "completing", {}).encode())
    world.deliver(sample_one, Message("sample:one", "failing", {"do": "breaks"}).encode())
    completed, retried = emf.documents(capsys.readouterr().out)
    dimensions = {"task_type": "sample:one", "queue": "default"}
    for line, end in ((completed, "Completed"), (retried, "Retried")):
        assert {name: line[name] for name in dimensions} == dimensions
        assert (line["Started"], line[end], len(line["WaitMs"]), len(line["DurationMs"])) == (1, 1, 1, 1)


def test_a_task_whose_last_run_was_killed_counts_as_archived(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    # given a run of the last attempt that ended without an outcome
    put(world, sample_one, "it", **active(-1, attempts=4))
    # when its message is delivered again
    with logs.lines() as lines:
        world.deliver(sample_one, Message("sample:one", "it", {}, rec=True).encode())
    # then one task has ended, and no run
    (line,) = emf.documents(capsys.readouterr().out)
    assert line["Archived"] == 1
    assert "Started" not in line
    (logged,) = (line for line in lines.fields if line["message"] == "task archived")
    assert (logged["task_id"], logged["reason"].split(":")[0]) == ("it", "lost")


def test_a_task_that_was_archived_before_is_not_counted_again(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    # given a task that an operator has archived, with a message in its lane
    put(world, sample_one, "it", **archived(dead_sent_at=None))
    # when
    world.deliver(sample_one, Message("sample:one", "it", {}, rec=True).encode())
    # then its dead letter is sent, and it is not counted
    assert emf.documents(capsys.readouterr().out) == []
    assert world.row("it")["dead_sent_at"] is not None
