"""The wording of the sentences that command line, `joblane watch` and page share. Other tests compare data."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from joblane.inspector.filter import PauseScope
from joblane.inspector.sentences import actions, batching, counts, failures, pauses, stage
from joblane.inspector.sentences.blocks import cure_of
from joblane.inspector.views import (
    ActionResult,
    AuditEntry,
    BlockKind,
    BulkOutcome,
    Count,
    Obstacle,
    Pause,
    Paused,
    Percentiles,
    RunCounts,
)
from joblane.record.row.states import State
from tests.builders import views

AT = datetime(2026, 1, 2, 15, 4, 5, tzinfo=UTC)
STAMP = "2026-01-02 15:04:05Z"
RETRIED = ActionResult("a", "retry", State.ARCHIVED, State.PENDING, note="queue low is paused.")
PAUSE = Pause(PauseScope.QUEUE, "low", "it moves", "ann", AT, None)
EFFECT = "running tasks continue, nothing new starts. Tasks wait without spending attempts."
OUTCOME = BulkOutcome(900, 30, 2, 1, 4, exact=False)
ROW = views.schedule_row(next_at=AT)

TABLE = {
    "retried": (actions.result_of(RETRIED), "was archived, is pending"),
    "unchanged": (actions.result_of(replace(RETRIED, before=State.PENDING)), "is pending"),
    "enqueued": (actions.result_of(replace(RETRIED, before=None)), "is pending"),
    "deleted": (
        actions.result_of(replace(RETRIED, action="delete", after=State.CANCELLED)),
        "is cancelled; its payload, result and error are cleared",
    ),
    "stopping": (
        actions.result_of(replace(RETRIED, action="cancel", after=State.ACTIVE)),
        "is asked to stop: it is cancelled at its next ctx.check(), ctx.progress() or step, or when it returns",
    ),
    "new attempts": (actions.effect_of(RETRIED), "It has new attempts. Queue low is paused."),
    "soon": (
        actions.effect_of(replace(RETRIED, note=None)),
        "It has new attempts, and runs as soon as its lane has capacity.",
    ),
    "later": (
        actions.effect_of(replace(RETRIED, action="run", after=State.HELD, note=None)),
        "It waits for a limit.",
    ),
    "note": (actions.note_of(RETRIED), "Queue low is paused."),
    "no note": (actions.note_of(replace(RETRIED, note=None)), ""),
    "one task": (counts.counted(Count(1, exact=True)), "1 task"),
    "many tasks": (counts.counted(Count(10_000, exact=False)), "at least 10,000 tasks"),
    "all": (actions.report(views.bulk(action="redrive", done=940, skipped=0)), "Redrive: all 940 tasks sent again."),
    "skipped": (
        actions.report(views.bulk(action="run")),
        "Run: 930 of 940 tasks sent, 10 skipped (changed in the meantime, or waiting for a limit or at a wait).",
    ),
    "stopped": (
        actions.report(views.bulk(action="redrive", done=0, skipped=0, failed=5, stopped="the canary failed")),
        "Redrive: 0 of 940 tasks sent again, 5 failed again. Stopped: the canary failed",
    ),
    "outcome": (
        actions.outcome_line(OUTCOME),
        "Now 900 completed, 30 wait, 2 run, 1 archived again, 4 cancelled, of the first 20,000.",
    ),
    "paused": (pauses.paused_line(PAUSE), f"Paused queue low until it is resumed: {EFFECT}"),
    "paused until": (pauses.paused_line(replace(PAUSE, until=AT)), f"Paused queue low until {STAMP}: {EFFECT}"),
    "replaced": (
        pauses.paused_line(replace(PAUSE, replaced=True, replaced_by="bob")),
        (
            f"Paused queue low until it is resumed: {EFFECT} It was already paused by bob, since {STAMP}; your reason "
            "and end replace the earlier ones."
        ),
    ),
    "waiting": (pauses.waiting_line(Paused(PAUSE, 1)), "queue low is paused by ann: it moves (1 due task waits)"),
    "resumed": (pauses.resumed_line(PAUSE), f"Resumed queue low; it was paused by ann since {STAMP}."),
    "no ticks": (pauses.paused_schedule_line(ROW), "Paused acme-nightly: it has no ticks until it is resumed."),
    "ticks": (pauses.resumed_schedule_line(ROW), f"Resumed acme-nightly: its next tick is at {STAMP}."),
    "gone": (pauses.deleted_schedule_line(ROW), "Deleted acme-nightly: it has no ticks any more."),
    "one obsolete": (
        failures.obsolete_line({"a:b": 1}),
        "1 dead letter is obsolete: its task was retried or deleted.",
    ),
    "obsolete": (
        failures.obsolete_line({"a:b": 1, "c:d": 2}),
        "3 dead letters are obsolete: their tasks were retried or deleted.",
    ),
    "batch": (
        batching.batching_line(views.batching()),
        (
            "batch_size=10 would save about $2.64 a month: $0.88 and up to 78 s of PostgreSQL's processor per million "
            "jobs, 42% of the cost of their runs. From the waits of the last 7 days, an invocation would have 8.5 "
            "messages; a job would start 38 ms later on average, and the last job of a full batch up to 90 ms later."
        ),
    ),
    "no batch": (
        batching.batching_line(views.batching(advised=None, obstacle=Obstacle.ALONE)),
        "batch_size=1 stays: few of its messages wait at the same time, so a batch would rarely have more than one.",
    ),
    "small saving": (
        batching.batching_line(views.batching(advised=None, obstacle=Obstacle.LITTLE, share=0.021)),
        "batch_size=1 stays: a larger batch would save only 2.1% of the cost of its runs.",
    ),
    "unread": (
        failures.unread_line(replace(views.dead(), unread=1)),
        (
            "1 more dead letter of any type or tenant was not read: only a part of each queue is read, and SQS's "
            "counts are approximate."
        ),
    ),
}


@pytest.mark.parametrize("name", TABLE)
def test_each_sentence_has_its_wording(name: str) -> None:
    sentence, expected = TABLE[name]
    assert sentence == expected


def test_each_obstacle_of_a_larger_batch_has_its_words() -> None:
    assert {*batching.NO_BATCH} == {*Obstacle} - {Obstacle.LITTLE}


def test_the_command_for_a_limit_resets_what_was_set_or_names_the_value() -> None:
    block = views.block(kind=BlockKind.LIMIT, pause=None, limit=views.limit())
    assert cure_of(block) == "limits reset openai"
    assert cure_of(replace(block, limit=views.limit("a:b", "7", change=None))) == "limits set a:b --key 7 …"


# --- The audit, and yesterday ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("details", "words"),
    [
        ({"set": {"stripe": {"at_a_time": 0}}, "until": None, "replaced": False}, [("set", "stripe 0 at a time")]),
        ({"until": "2026-01-02T03:04:05.678+01:00"}, [("until", "2026-01-02 02:04:05Z")]),
        ({"replaced": True}, [("replaced", "yes")]),
        ({"new_id": "0001", "total": 1200}, [("new id", "0001"), ("total", "1,200")]),
        ({"filter": {"states": ["retry", "held"], "tenant": None, "tags": []}}, [("filter", "states retry, held")]),
        ({"rate": 50, "canary": 0}, [("rate", "50 a second")]),
        ({"until": "2026-99-99T00:00:00Z", "empty": {}}, [("until", "2026-99-99T00:00:00Z")]),
    ],
)  # fmt: skip
def test_the_details_of_the_audit_are_words(details: dict[str, Any], words: list[tuple[str, str]]) -> None:
    assert actions.details_of(AuditEntry(1, AT, "ann", "set_limit", "limit:stripe", None, details=details)) == words


def test_the_runs_of_a_day_earlier_are_a_sentence() -> None:
    counts = RunCounts(1_150, 40, 8, 2, 0, 0.1, Percentiles(1, 1_400, 2), Percentiles(1, 87, 2))
    assert stage.earlier_line(counts) == "A day earlier: 1,200 runs, 4.2 % failed, wait p95 1.4 s, duration p95 87 ms."
    assert stage.earlier_line(RunCounts(0, 0, 0, 0, 0, 0.0, None, None)) == "A day earlier: no run."
