"""Why a task is not running: what happened to it → the reason, the sentence with its times, and until when."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from joblane import Queue, Snooze, TaskContext
from joblane.inspector.durations import stamp
from joblane.inspector.views import Reason
from joblane.record.row.states import State
from joblane.tasks.limit import Rate
from tests.integration.inspector.scene import JOB, Scene, is_like
from tests.samples import (
    Sample,
    behaviour,
    sample_batch,
    sample_keyed,
    sample_one,
    sample_ordered,
    sample_rated,
    sample_sharing,
    sample_single,
    sample_tree,
)

HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)
LANE, DLQ = "jobs-default-sample-one", "jobs-default-sample-one-dlq"
SOME_TIME = "some time"
ALONE = "To run this task without waiting: `joblane run it`."
PUSHED: dict[str, Any] = {
    "unique_for": HOUR, "unique_until": "start", "unique_key": "k", "debounce": MINUTE, "longest": 5 * MINUTE,
}  # fmt: skip


@behaviour
def why_fails(_: Sample, ctx: TaskContext) -> None:
    raise ValueError("no room")


@behaviour
def why_snoozes(_: Sample, ctx: TaskContext) -> None:
    raise Snooze(timedelta(minutes=3))


def soon(**later: float) -> datetime:
    return datetime.now(UTC) + timedelta(**later)


def run_for_an_hour(on: Scene, id_: str) -> Scene:
    """Let a task that has its slots run."""
    return on.change(id_, "state = 'active', passed = 'all', lease_until = now() + interval '1 hour'")


def hold_behind_a_run(on: Scene, kind: Any, ids: str, **values: Any) -> Scene:
    """Hold tasks by a limit of 0, then let the first of them run."""
    on.limit(kind.type, **dict.fromkeys(values, 0)).send(*ids, "it", task=kind, number=7)
    return run_for_an_hour(on.limit(kind.type, **values), ids[0])


def of_a_batch(on: Scene, *ids: str) -> Scene:
    return on.enqueue(*ids, task=sample_batch)


@dataclass(frozen=True)
class Then:
    """``given``: what happens first. ``text``: the sentences, with "…" for any text and the times of ``Scene.times``.

    ``until``: a time in the same form, :data:`SOME_TIME`, or None.
    """

    given: Callable[[Scene], object]
    reason: Reason
    text: str
    until: str | None = None
    of: str = "it"


def paused(kind: str, name: str) -> tuple[Then, ...]:
    says = f"The {kind} {name} is paused by ann, until "
    return (
        Then(
            lambda on: on.enqueue("it", tenant="acme").pause(kind, name).deliver("it", group="acme"),
            Reason.PAUSED,
            f"{says}it is resumed: they asked.",
        ),
        Then(
            lambda on: on.pause(kind, name, "1 hour"),
            Reason.PAUSED,
            f"{says}{{pauses[{name}]}}: they asked.",
            f"{{pauses[{name}]}}",
        ),
    )


def past_its_deadline(due: timedelta) -> tuple[Then, ...]:
    reason = Reason.NOT_DUE if due else Reason.IN_LANE
    until = "{it.due_at}" if due else SOME_TIME
    return (
        Then(
            lambda on: on.enqueue("it", process_in=due, deadline=datetime.now(UTC) + due + MINUTE),
            reason,
            "It …: its message …." if not due else "It is due at {it.due_at}. …; the first sweep after … sends it.",
            until,
        ),
        Then(
            lambda on: on.change("it", "deadline = due_at - interval '1 s'"),
            reason,
            "…. It will not run: its deadline is {it.deadline}, and it is archived when its message arrives.",
            until,
        ),
    )


ENDS = {
    "completed": (Then(lambda on: on.enqueue("it").deliver("it"), Reason.ENDED, "It completed at {it.finished_at}."),),
    "cancelled": (
        Then(
            lambda on: on.enqueue("it").cancel("it"),
            Reason.ENDED,
            "It was cancelled at {it.finished_at}: cancelled before it ran.",
        ),
    ),
    "runs": (
        Then(
            lambda on: on.enqueue("it").claim("it"),
            Reason.RUNNING,
            "It is running: attempt 1 of 4, until {it.lease_until} at the latest.",
            "{it.lease_until}",
        ),
        Then(
            lambda on: on.cancel("it"),
            Reason.STOPPING,
            "Cancellation was requested at {it.cancel_requested_at}, while attempt 1 of 4 runs. The run stops at its"
            " next check, or when it returns, {it.lease_until} at the latest.",
            "{it.lease_until}",
        ),
    ),
    "archived, until its dead letter has expired": (
        Then(
            lambda on: on.enqueue("it", do="why_fails", max_retry=0).deliver("it"),
            Reason.ARCHIVED,
            "It was archived at {it.finished_at}: attempt 1 of 1 failed: ValueError: no room. Its dead letter was sent"
            f" to {DLQ} at {{it.dead_sent_at}}. To run it again, retry it.",
        ),
        Then(
            lambda on: on.change("it", "dead_sent_at = clock_timestamp() - interval '15 days'"),
            Reason.ARCHIVED,
            f"It was archived at …. Its dead letter in {DLQ} expired at {{it.expired}}; the row is kept.",
        ),
    ),
    "archived, and its dead letter is not sent": (
        Then(
            lambda on: on.put("it", state="archived"),
            Reason.ARCHIVED,
            f"It was archived at …. Its dead letter has not been sent to {DLQ} yet; the first sweep after"
            " {it.sweep_at} sends it.",
            "{it.sweep_at}",
        ),
    ),
}
LOST = {
    "its run was lost twice": (
        Then(
            lambda on: on.enqueue("it", max_retry=1).claim("it", lease=-20),
            Reason.LOST,
            "The run stopped without a result: the lease of attempt 1 of 2 ended at {it.lease_until}. The attempt is"
            " marked as lost when its message returns, or the next sweep sends another message. The task is then"
            " retried, as attempt 2 of 2.",
            "{it.sweep_at}",
        ),
        Then(
            lambda on: on.claim("it", lease=-1),
            Reason.LOST,
            "… or the first sweep after {it.sweep_at} sends another message. The task is then archived, as no attempt"
            " is left.",
            "{it.sweep_at}",
        ),
        Then(lambda on: on.deliver("it"), Reason.ARCHIVED, "…"),
    ),
    "its lost run was asked to stop": (
        Then(
            lambda on: on.enqueue("it").claim("it", lease=-1).cancel("it"),
            Reason.LOST,
            "… The task is then cancelled, as requested.",
            SOME_TIME,
        ),
        Then(lambda on: on.deliver("it"), Reason.ENDED, "…: cancelled while it ran."),
    ),
    "its run was lost after its deadline": (
        Then(
            lambda on: (
                on.enqueue("it", deadline=soon(minutes=1))
                .claim("it", lease=-1)
                .change("it", "deadline = clock_timestamp() - interval '1 s'")
            ),
            Reason.LOST,
            "… The task is then archived, as its deadline has passed.",
            SOME_TIME,
        ),
        Then(lambda on: on.deliver("it"), Reason.ARCHIVED, "…: DeadlinePassed: …"),
    ),
    "it was lost in a batch": (
        Then(
            lambda on: of_a_batch(on, "it", "b").claim("it", "b", task=sample_batch, lease=-1),
            Reason.LOST,
            "… The task then runs again, claimed alone: a loss in a batch does not count as an attempt.",
            SOME_TIME,
        ),
        Then(
            lambda on: on.claim("it", "b", task=sample_batch, verdict="claim_alone"),
            Reason.CLAIM_ALONE,
            "… so it is now claimed alone: its message should be in jobs-default-sample-batch. …",
            SOME_TIME,
        ),
    ),
}
PAUSED = {
    **{
        f"the {kind} is paused": paused(kind, name)
        for kind, name in (("queue", "default"), ("type", "sample:one"), ("tenant", "acme"))
    },
    "the pause of a queue excludes the library's own tasks": (
        Then(
            lambda on: on.enqueue("it").change("it", "type = 'jobs:bulk', queue = 'low'").pause("queue", "low"),
            Reason.IN_LANE,
            "…",
            SOME_TIME,
        ),
        Then(lambda on: on.pause("type", "jobs:bulk"), Reason.PAUSED, "The type jobs:bulk is paused …"),
    ),
    "of several pauses the longest counts": (
        Then(
            lambda on: (
                on.enqueue("it")
                .pause("queue", "default", "1 hour")
                .pause("type", "sample:one", "2 hours")
                .pause("type", "sample:batch")
            ),
            Reason.PAUSED,
            "The queue default is paused by ann, until {pauses[default]}: they asked."
            " The type sample:one is paused by ann, until {pauses[sample:one]}: they asked.",
            "{pauses[sample:one]}",
        ),
    ),
    "after a pause the sweep sends the message": (
        Then(
            lambda on: on.enqueue("it").pause("queue", "default", "1 hour").deliver("it"),
            Reason.PAUSED,
            "…",
            "{pauses[default]}",
        ),
        Then(lambda on: on.pause("queue", "default", "-1 s"), Reason.UNSENT, "…; the next sweep sends it.", SOME_TIME),
        Then(lambda on: on.sweep(), Reason.IN_LANE, "…", SOME_TIME),
    ),
    "an external message came during a pause": (
        Then(
            lambda on: on.pause("type", "sample:one", "1 hour").deliver(
                {"type": "sample:one", "id": "it", "payload": {}}
            ),
            Reason.PAUSED,
            "…",
            SOME_TIME,
        ),
        Then(lambda on: on.pause("type", "sample:one", "-1 s"), Reason.UNSENT, "…", SOME_TIME),
    ),
}
NOT_DUE = {
    "due in days": (
        Then(
            lambda on: on.enqueue("it", process_in=timedelta(days=3)),
            Reason.NOT_DUE,
            "It is due at {it.due_at}. SQS cannot delay a message for that long; the first sweep after {it.sweep_at}"
            " sends it.",
            "{it.due_at}",
        ),
        Then(
            lambda on: on.pause("queue", "default"),
            Reason.NOT_DUE,
            "… The queue default is paused by ann, until it is resumed: they asked.",
            "{it.due_at}",
        ),
    ),
    "due in minutes": (
        Then(
            lambda on: on.enqueue("it", process_in=timedelta(minutes=3)),
            Reason.NOT_DUE,
            "It is due at {it.due_at}. Its message should wait in SQS until then.",
            "{it.due_at}",
        ),
    ),
    "debounced": (
        Then(
            lambda on: on.enqueue("it", **PUSHED),
            Reason.NOT_DUE,
            "… wait in SQS until then. A further enqueue pushes it; it runs at {it.latest} at the latest.",
            "{it.due_at}",
        ),
        Then(
            lambda on: on.enqueue("a", **PUSHED),
            Reason.NOT_DUE,
            "… It was pushed 1 time since {it.created_at}; it runs at {it.latest} at the latest.",
            "{it.due_at}",
        ),
        Then(
            lambda on: on.enqueue(*"bcd", **PUSHED).later("it"),
            Reason.IN_LANE,
            "… It was pushed 4 times since {it.created_at}; it runs at {it.latest} at the latest.",
            SOME_TIME,
        ),
        Then(
            lambda on: on.claim("it").change(
                "it", "state = 'retry', error_type = 'ValueError', due_at = now() + interval '1 min'"
            ),
            Reason.NOT_DUE,
            "Attempt 1 of 4 failed (ValueError); the next is due at {it.due_at}. Its message should wait in SQS until"
            " then.",
            "{it.due_at}",
        ),
    ),
    "failed": (
        Then(
            lambda on: on.enqueue("it", do="why_fails").deliver("it"),
            Reason.NOT_DUE,
            "Attempt 1 of 4 failed (ValueError); the next is due at {it.due_at}. …",
            "{it.due_at}",
        ),
    ),
    "snoozed": (
        Then(
            lambda on: on.enqueue("it", do="why_snoozes").deliver("it"),
            Reason.NOT_DUE,
            "Its last run snoozed it: it is due at {it.due_at}. …",
            "{it.due_at}",
        ),
    ),
    "of a schema that the code does not know": (
        Then(
            lambda on: on.deliver({"type": "sample:one", "id": "it", "schema": "other", "payload": {"number": "x"}}),
            Reason.NOT_DUE,
            "Since {it.mismatch_since} its payload has a schema that the deployed code does not know; the next try is"
            " due at {it.due_at}. …",
            "{it.due_at}",
        ),
    ),
    "past its deadline, and due": past_its_deadline(timedelta(0)),
    "past its deadline, and due later": past_its_deadline(HOUR),
}
IN_LANE = {
    "its message is not sent": (
        Then(
            lambda on: on.enqueue("it", process_in=HOUR).change(
                "it", "due_at = now() - interval '1 s', sweep_at = now() - interval '15 min'"
            ),
            Reason.UNSENT,
            f"It is due, but its message to {LANE} has not been sent yet; the next sweep sends it.",
            "{it.sweep_at}",
        ),
        Then(lambda on: on.sweep(), Reason.IN_LANE, "…", SOME_TIME),
    ),
    "other tasks are ahead": (
        Then(
            lambda on: (
                of_a_batch(on, "other")
                .enqueue("before-0", "before-1", "before-2")
                .enqueue("far", process_in=HOUR)
                .enqueue("it", "after")
                .claim("before-0")
            ),
            Reason.IN_LANE,
            f"It waits in its lane: its message should be in {LANE}. Of the same type and queue, 2 waiting tasks were"
            " due earlier, and 1 are running. If the lane then holds fewer messages than tasks, the first sweep after"
            " {it.sweep_at} sends another one.",
            "{it.sweep_at}",
        ),
    ),
    "no worker received it": (
        Then(
            lambda on: on.enqueue("it").later("it"),
            Reason.IN_LANE,
            "… If the lane then holds fewer messages than tasks, the next sweep sends another one.",
            SOME_TIME,
        ),
    ),
    "no code declares its type": (
        Then(
            lambda on: on.enqueue("it").declare(),
            Reason.NO_LANE,
            "No code declares the type 'sample:one', so nothing can run it: deploy the type, or cancel the task.",
        ),
    ),
    "its type has left its queue": (
        Then(
            lambda on: on.enqueue("it").declare(replace(sample_one, queue=Queue.LOW)),
            Reason.NO_LANE,
            "'sample:one' no longer has a lane in default, only in low: replay the task, or cancel it.",
        ),
    ),
}
HELD = {
    "by the limit of its key": (
        Then(
            lambda on: hold_behind_a_run(on, sample_keyed, "ab", max_per_key=1),
            Reason.HELD,
            "It is held by the limit of sample:keyed for key 7: 1 of 1 slots are taken; task a runs, until"
            " {a.lease_until} at the latest. 1 task waits before it in its key. To see or change the limit: `joblane"
            " limits ls sample:keyed --key 7`.",
        ),
    ),
    "by a total": (
        Then(
            lambda on: hold_behind_a_run(on, sample_single, "a", max_total=1),
            Reason.HELD,
            "It is held by the total of sample:single: 1 of 1 slots are taken; task a runs, until {a.lease_until} at"
            " the latest. It is the next one. To see or change the limit: `joblane limits ls sample:single`.",
        ),
    ),
    "by a shared limit of several types": (
        Then(
            lambda on: run_for_an_hour(
                run_for_an_hour(
                    on.limit("shared", total=0)
                    .send("a", "b", task=sample_tree, number=7, tenant="acme")
                    .send("c", "it", task=sample_sharing, tenant="acme")
                    .limit("shared", total=2),
                    "a",
                ),
                "b",
            ),
            Reason.HELD,
            "It is held by the shared limit shared: 2 of 2 slots are taken; 2 tasks run, the first of them a, until"
            " {a.lease_until} at the latest. About 1 task waits before it; tenants are served in turn. To see or"
            " change the limit: `joblane limits ls shared`.",
        ),
    ),
    "by a limit that was set to 0 until a time": (
        Then(
            lambda on: on.limit(
                "sample:keyed", key="7", max_per_key=0, until=datetime(2099, 1, 1, tzinfo=UTC), reason="it moves"
            ).send("it", task=sample_keyed, number=7),
            Reason.HELD,
            "It is held by the limit of sample:keyed for key 7, which was set to 0 by op until 2099-01-01 00:00:00Z"
            " because: it moves. To start the tasks: `joblane limits reset sample:keyed --key 7`.",
            "2099-01-01 00:00:00Z",
        ),
    ),
    "by a limit that was set to 0 for each key": (
        Then(
            lambda on: on.limit("sample:keyed", max_per_key=0).send("it", task=sample_keyed),
            Reason.HELD,
            "… which was set to 0 for each key by op because: r. To start the tasks: `joblane limits reset"
            " sample:keyed`.",
        ),
    ),
    "by a limit that was set to 0 for each key, while its own has a rate": (
        Then(
            lambda on: (
                on.limit("sample:keyed", key="7", rate=Rate(5, timedelta(seconds=1)), reason="slow")
                .limit("sample:keyed", max_per_key=0, reason="stop")
                .send("it", task=sample_keyed, number=7)
            ),
            Reason.HELD,
            "… which was set to 0 for each key by op because: stop. To start the tasks: `joblane limits reset"
            " sample:keyed`.",
        ),
    ),
    "until its turn came": (
        Then(
            lambda on: (
                on.limit("sample:single", max_total=0)
                .send("it", task=sample_single)
                .act("reset_limit", "sample:single")
            ),
            Reason.TURN,
            "Its turn came at {it.due_at}: its message should be in jobs-default-sample-single. …",
            SOME_TIME,
        ),
    ),
    "until the time that its rate gives": (
        Then(
            lambda on: on.limit("sample:rated", rate=Rate(1, HOUR, burst=1)).send("a", "it", task=sample_rated),
            Reason.RATED,
            "The rate of the total of sample:rated, 1 an hour, gives it the time {it.due_at}. To see or change the"
            " rate: `joblane limits ls sample:rated`. SQS cannot delay a message for that long; …",
            "{it.due_at}",
        ),
    ),
    "behind a retry of its key": (
        Then(
            lambda on: on.send("a", task=sample_ordered, do="why_fails", tenant="acme", number=7).send(
                "b", "it", task=sample_ordered, tenant="acme", number=7
            ),
            Reason.IN_ORDER,
            "It is in line behind a, which waits for its 2nd attempt until {a.due_at}. 2 tasks are before it. To"
            " start that one now: `joblane run a`. To let the next one run first: `joblane limits pass sample:ordered"
            " 'acme 7'`.",
            "{a.due_at}",
        ),
    ),
    "behind a held and then a running task of its key": (
        Then(
            lambda on: on.limit("sample:ordered", max_per_key=0).send(
                "a", "it", task=sample_ordered, tenant="acme", number=7
            ),
            Reason.IN_ORDER,
            "It is in line behind a, which is held itself. To see why: `joblane show a`. …",
        ),
        Then(lambda on: None, Reason.HELD, "… which was set to 0 for each key by op …", of="a"),
        Then(
            lambda on: run_for_an_hour(on.act("reset_limit", "sample:ordered"), "a"),
            Reason.IN_ORDER,
            "It is in line behind a, which runs, until {a.lease_until} at the latest. To see all of them: `joblane"
            " limits line sample:ordered 'acme 7'`.",
            "{a.lease_until}",
        ),
    ),
    "though a slot is free, as if a process had died before it could serve the limit": (
        Then(
            lambda on: (
                on.limit("sample:single", max_total=0)
                .send("it", task=sample_single)
                .sql("delete from joblane.limit_changes")
            ),
            Reason.HELD,
            "It is held by the total of sample:single, which has a free slot: the next end of a task there, or the"
            " next sweep, starts it.",
        ),
    ),
    "and paused": (
        Then(
            lambda on: (
                on.limit("sample:single", max_total=0).send("it", task=sample_single).pause("type", "sample:single")
            ),
            Reason.HELD,
            "… set to 0 by op …. The type sample:single is paused by ann, until it is resumed: they asked.",
        ),
    ),
    "and pushed, with no latest time": (
        Then(
            lambda on: (
                on.limit("sample:single", max_total=0)
                .enqueue("it", task=sample_single, **PUSHED)
                .later("it")
                .deliver("it", task=sample_single)
            ),
            Reason.HELD,
            "… To start the tasks: `joblane limits reset sample:single`.",
        ),
        Then(
            lambda on: on.enqueue("a", "b", task=sample_single, **PUSHED),
            Reason.HELD,
            "… It was pushed 2 times since {it.created_at}.",
        ),
    ),
}
PARENTS = {
    "for archived parents first": (
        Then(
            lambda on: (
                on.enqueue("a", "b", "c", "d")
                .enqueue("it", after=list("abcd"))
                .deliver("it")
                .end("c", State.ARCHIVED)
                .end("d", State.ARCHIVED)
                .end("a")
            ),
            Reason.PARENTS,
            "It waits for task c, which is archived, and for 2 more, 1 of them archived. To run c again: `joblane"
            f" retry c`. {ALONE}",
        ),
    ),
    "for a parent in any state": (
        Then(
            lambda on: on.enqueue("a").enqueue("it", after=["a"]).deliver("it"),
            Reason.PARENTS,
            f"It waits for task a, which is pending. To see a: `joblane show a`. {ALONE}",
        ),
        Then(
            lambda on: on.claim("a"),
            Reason.PARENTS,
            "It waits for task a, which runs, until {a.lease_until} at the latest. To see a: `joblane show a`."
            f" {ALONE}",
            "{a.lease_until}",
        ),
        Then(
            lambda on: on.change("a", "state = 'retry', lease_until = null, lease_token = null"),
            Reason.PARENTS,
            f"It waits for task a, which waits for its 2nd attempt until {{a.due_at}}. … {ALONE}",
            "{a.due_at}",
        ),
        Then(
            lambda on: on.change("a", "state = 'scheduled', due_at = '2099-01-01Z'"),
            Reason.PARENTS,
            f"It waits for task a, which is scheduled for 2099-01-01 00:00:00Z. … {ALONE}",
            "{a.due_at}",
        ),
    ),
    "and for its time, and will not run": (
        Then(
            lambda on: (
                on.enqueue("a")
                .enqueue("it", after=["a"], process_in=HOUR)
                .change("it", "deadline = now()")
                .pause("type", "sample:one")
            ),
            Reason.PARENTS,
            "It waits for task a, … It is due at {it.due_at}. It will not run: … is paused …",
        ),
    ),
    "while its parents' worker has died": (
        Then(
            lambda on: on.enqueue("a").enqueue("it", after=["a"]).deliver("it").sql("delete from joblane.task_parents"),
            Reason.PARENTS,
            "… the next sweep starts it.",
        ),
        Then(
            lambda on: on.sql("insert into joblane.task_parents values ('it', 'gone', 'run')"),
            Reason.PARENTS,
            "… the next sweep starts it.",
        ),
    ),
    "for a parent that cannot complete": (
        Then(
            lambda on: (
                on.enqueue("a")
                .enqueue("it", after=["a"])
                .deliver("it")
                .change("a", "state = 'cancelled', finished_at = now(), expire_at = now(), reason = 'by hand'")
            ),
            Reason.PARENTS,
            "It waits for task a, which was cancelled: the next sweep cancels it.",
        ),
        Then(
            lambda on: on.sql("delete from joblane.tasks where id = 'a'"),
            Reason.PARENTS,
            "It waits for task a, which cannot complete any more: the next sweep cancels it.",
        ),
    ),
    "for no parent, as all ended before its message came": (
        Then(lambda on: on.enqueue("a").enqueue("it", after=["a"]).deliver("a"), Reason.IN_LANE, "…", SOME_TIME),
    ),
    "for the seal of its batch, and for its members": (
        Then(
            lambda on: on.batch("import-7", *"abc", seal=False, on_success=JOB),
            Reason.PARENTS,
            "It waits until the batch import-7 is sealed and for 3 members of it. If its creator cannot seal it any"
            " more: `joblane batch seal import-7`. To see the batch: `joblane batch show import-7`. To run this task"
            " without waiting: `joblane run import-7:on_success`.",
            of="import-7:on_success",
        ),
        Then(
            lambda on: on.act("seal_batch", "import-7").end("a", State.ARCHIVED).end("b"),
            Reason.PARENTS,
            "It waits for 2 members of batch import-7, 1 of them archived. To run the archived ones again: `joblane"
            " batch retry import-7`. To run this task without waiting: `joblane run import-7:on_success`.",
            of="import-7:on_success",
        ),
    ),
}
CASES = {
    f"{group}{name}": case
    for group, cases in (
        ("", ENDS), ("", LOST), ("", PAUSED), ("", NOT_DUE), ("", IN_LANE), ("held ", HELD), ("waits ", PARENTS),
    )
    for name, case in cases.items()
}  # fmt: skip


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_a_task_says_why_it_does_not_run(scene: Scene, case: tuple[Then, ...]) -> None:
    for then in case:
        # when
        then.given(scene)
        # then
        found = scene.inspector.task(then.of).why
        text, until = ((wanted or "").format_map(scene.times()) for wanted in (then.text, then.until))
        assert found.reason is then.reason, found.text
        assert is_like(found.text, text), (found.text, text)
        if until != SOME_TIME:
            assert (stamp(found.until) if found.until else "") == until
        else:
            assert found.until is not None
