"""All details of a task, and what the rows of its runs have."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from joblane import SkipRetry, TaskContext
from joblane.errors import UnknownTaskError
from joblane.handler.steps import key_of
from joblane.inspector.inspector import Inspector
from joblane.inspector.tasks.detail import ATTEMPTS_SHOWN
from joblane.record.row.states import State
from joblane.tasks.redaction import MASK
from tests.integration.inspector.scene import Scene
from tests.samples import Sample, behaviour, sample_batch, sample_one, sample_only
from tests.world import World

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
REQUEST = "11111111-2222-4333-8444-555555555555"
"""The request of an invocation in tests."""


@behaviour
def detailed_failure(_: Sample, ctx: TaskContext) -> None:
    raise ValueError("no room")


@behaviour
def detailed_progress(_: Sample, ctx: TaskContext) -> Any:
    for _item in ctx.each(["a", "b"], key=str):
        pass
    ctx.progress(2, 4, "half")
    return {"rows": 7}


@behaviour
def detailed_steps(_: Sample, ctx: TaskContext) -> None:
    ctx.step("charge", lambda _step: {"id": "ch_1"})
    ctx.step("mail", lambda _step: None)
    raise SkipRetry("after two")


def test_a_task_is_shown_with_its_runs_its_progress_and_its_result(scene: Scene, operator: Inspector) -> None:
    headers = {"traceparent": PARENT, "k": "v"}
    scene.enqueue("it", do="detailed_progress", tenant="acme", tags=["x"], owner="ann", headers=headers)
    scene.enqueue("again").change("again", "replay_of = 'it'").deliver("it")
    scene.sql(
        "insert into joblane.audit (who, action, target, reason, details) values ('ann', 'run', 'it', 'soon', '{}'),"
        " ('b', 'run', 'x', '', '{}'), ('ann', 'replay', 'it', null, '{\"new_id\": \"again\"}')"
    )
    view = operator.task("it")
    assert view.row == replace(operator.tasks().tasks[-1], took_ms=None, version=None)  # of a list alone
    assert (view.row.state, view.owner, view.runs, view.generation) == (State.COMPLETED, "ann", 1, 0)
    assert (view.payload, view.result) == ({"do": "detailed_progress", "number": 0}, {"rows": 7})
    assert view.headers == {"traceparent": PARENT, "k": MASK}
    assert view.progress is not None
    assert (view.progress.done, view.progress.total, view.progress.note, view.items_done) == (2, 4, "half", 2)
    assert (view.replays, operator.task("again").replay_of) == (("again",), "it")
    entry, [attempt] = view.audit[-1], view.attempts
    assert (entry.who, entry.action, entry.target, entry.reason, entry.details) == ("ann", "run", "it", "soon", {})
    assert (attempt.run, attempt.attempt, attempt.outcome, attempt.error_type) == (1, 1, "completed", None)
    assert attempt.request_id == REQUEST
    assert attempt.finished_at is not None
    assert attempt.finished_at >= attempt.started_at


def test_a_task_is_shown_with_its_steps_and_their_keys_without_their_values(scene: Scene, operator: Inspector) -> None:
    view = scene.enqueue("it", do="detailed_steps").deliver("it").inspector.task("it")
    charge, mail = view.steps
    assert [(one.name, one.key, one.bytes) for one in view.steps] == [
        ("charge", key_of("it", "charge"), len('{"id":"ch_1"}')),
        ("mail", key_of("it", "mail"), len("null")),
    ]
    assert charge.done_at <= mail.done_at
    assert "ch_1" not in repr(view)


def test_values_that_nothing_declares_as_public_are_masked(scene: Scene) -> None:
    scene.enqueue("it", headers={"traceparent": "Bearer secret"})
    assert scene.inspector.task("it").headers == {"traceparent": MASK}
    # and without a declaration all fields are masked
    assert scene.declare().inspector.task("it").payload == MASK


def test_only_the_last_runs_are_shown(scene: Scene, operator: Inspector) -> None:
    scene.enqueue("it").sql(
        "insert into joblane.task_attempts (task_id, run, attempt, generation) select 'it', n, 1, 0"
        " from generate_series(1, 600) n"
    )
    assert [attempt.run for attempt in operator.task("it").attempts] == [*range(601 - ATTEMPTS_SHOWN, 601)]


@pytest.mark.parametrize("id_", ["nobody", "", "a b", "a\0b", "x" * 300, None, 7])
def test_an_unknown_id_is_an_error(inspector: Inspector, id_: Any) -> None:
    with pytest.raises(UnknownTaskError, match="there is no task"):
        inspector.task(id_)


def test_the_log_link_leads_to_the_log_group_of_its_function(scene: Scene) -> None:
    scene.enqueue("it", "unrun").deliver("it")
    there = scene.in_region("eu-central-1")
    link = there.task("it").log_link
    assert link is not None
    assert link.startswith("https://eu-central-1.console.aws.amazon.com/cloudwatch/home?region=eu-central-1#logsV2:")
    assert "*2Faws*2Flambda*2Fjobs-sample-one" in link
    assert (scene.inspector.task("it").log_link, there.task("unrun").log_link) == (None, None)


def test_the_actions_follow_the_state(scene: Scene, operator: Inspector) -> None:
    def actions(id_: str) -> set[str]:
        return set(operator.task(id_).actions)

    scene.enqueue("it", do="detailed_failure", max_retry=0).enqueue("runs", "done").claim("runs").deliver("done")
    assert actions("it") == {"run", "archive", "delete", "cancel", "edit"}
    assert actions("runs") == {"cancel"}
    assert actions("done") == {"delete", "replay", "replay_with"}
    scene.cancel("runs").deliver("it").change("done", "payload = null, cleared = true")
    assert actions("runs") == set()
    assert actions("it") == {"retry", "delete", "replay", "edit", "replay_with"}
    assert actions("done") == set()


# --- Records of runs for statistics --------------------------------------------------------------------------------


def test_a_run_records_its_type_queue_tenant_and_wait(scene: Scene) -> None:
    scene.enqueue("it", tenant="acme").change("it", "due_at = due_at - interval '5 s'").deliver("it")
    [attempt] = scene.world.attempts("it")
    assert (attempt["type"], attempt["queue"], attempt["tenant"]) == ("sample:one", "default", "acme")
    assert 5_000 <= attempt["wait_ms"] < 60_000


def test_the_end_of_a_completed_run_changes_no_index_of_the_runs(world: World) -> None:
    """Otherwise each end would write all index entries again. Source: PostgreSQL, *Heap-Only Tuples*."""
    rows = world.run(
        "select a.attname from pg_index i join pg_attribute a on a.attrelid = i.indrelid and a.attnum = any(i.indkey)"
        " where i.indrelid = 'joblane.task_attempts'::regclass"
    )
    written_by_failures = {"fingerprint"}
    assert {row[0] for row in rows} == {"task_id", "run", "started_at", "type", "tenant"} | written_by_failures


def test_a_task_has_the_fingerprint_of_its_error_while_it_has_one(scene: Scene) -> None:
    scene.enqueue("it", do="detailed_failure").deliver("it")
    fingerprint = scene.world.row("it")["fingerprint"]
    assert fingerprint == scene.world.attempts("it")[0]["fingerprint"] is not None
    scene.change("it", "payload = jsonb_set(payload, '{do}', '\"nothing\"')").later("it").deliver("it")
    assert (scene.world.row("it")["state"], scene.world.row("it")["fingerprint"]) == ("completed", None)


def test_a_replaced_task_starts_without_an_error(scene: Scene) -> None:
    scene.enqueue("it", task=sample_only, do="detailed_failure", unique_key="k").deliver("it", task=sample_only)
    assert scene.world.row("it")["fingerprint"] is not None
    scene.enqueue("other", task=sample_only, unique_key="k", on_conflict="replace")
    assert (scene.world.row("it")["error_type"], scene.world.row("it")["fingerprint"]) == (None, None)


def test_tasks_archived_without_a_run_have_one_fingerprint_per_type(scene: Scene) -> None:
    # given lost tasks of two types, and tasks past their deadlines
    past = (datetime.now(UTC) - timedelta(hours=1)).isoformat()
    for id_, task in (("lost-1", sample_one), ("lost-2", sample_one), ("lost-3", sample_batch)):
        scene.enqueue(id_, task=task, max_retry=0).claim(id_, task=task, lease=-1).deliver(id_, task=task)
    scene.enqueue("late", deadline=datetime.now(UTC) + timedelta(minutes=1))
    scene.change("late", "deadline = clock_timestamp()").deliver(
        "late", {"type": "sample:one", "id": "external", "payload": {}, "options": {"deadline": past}}
    )
    # then
    rows = scene.world.run("select id, state, error_type, fingerprint from joblane.tasks order by id")
    assert {(row[1], row[2]) for row in rows} == {("archived", "Lost"), ("archived", "DeadlinePassed")}
    prints = {row[0]: row[3] for row in rows}
    assert prints["lost-1"] == prints["lost-2"] != prints["lost-3"]
    assert prints["late"] == prints["external"]
    assert {len(fingerprint) for fingerprint in prints.values()} == {16}
    assert len(set(prints.values())) == 3
