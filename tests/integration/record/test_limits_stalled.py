"""Slots that nobody uses: of a lane that stands still, of paused tasks, of lost runs. Others get them."""

from __future__ import annotations

import pytest

from joblane.names import Queue
from joblane.record.task.claim import Verdict, arrival, claim
from joblane.sqs.message import Message
from tests.builders.rows import TOKEN
from tests.integration.record.test_limits import HELD, LEASE, RUN, WAIT, ask, end, put, served, states
from tests.samples import place_shares, place_shares_too, sample_rated, sample_sharing, sample_single, sample_tree
from tests.stories import Story, expire_leases, play, row, sql, stories, sweep
from tests.world import World

ONE_SLOT = "update joblane.limits set slots = 1 where name in ('shared', 'sample:tree/')"
LATER = """
update joblane.tasks
   set due_at = due_at - interval '8 minutes', lease_until = lease_until - interval '8 minutes',
       sweep_at = sweep_at - interval '8 minutes'
"""
PAUSE = "insert into joblane.pauses (scope, name) values ('tenant', 'bad')"
STALLED = """
insert into joblane.tasks (id, type, queue, state, payload, payload_digest, max_attempts, retention_seconds,
                           shared_limit, first_due_at, seq, wait_kind, waits_for, place)
select 'stalled-' || n, 'sample:sharing', 'default', 'held', '{}', '', 1, 0, 'shared', now(), n, 'limit', 'shared', n
  from generate_series(1, 5000) as n
"""


@pytest.fixture(autouse=True)
def one_slot(limited: World) -> None:
    limited.run(ONE_SLOT)


SLOTS_OF_A_PAUSED_TENANT: dict[str, Story] = {
    "a lost run": [ask(sample_sharing, "a").gives([RUN]), expire_leases()],
    "a turn": [ask(sample_sharing, "x", "a").gives([RUN, HELD]), end("x").gives(["a"])],
    "its time": [
        sql("update joblane.limits set step = interval '1 hour', burst = 1 where name = 'shared'"),
        ask(sample_sharing, "x").gives([RUN]),
        end("x").gives([]),
        ask(sample_sharing, "a").gives([WAIT]),
        sql("update joblane.limits set step = null where name = 'shared'"),
    ],
}


@stories(
    {
        how: [
            put(sample_sharing, "x"),
            put(sample_sharing, "a", tenant="bad"),
            put(sample_tree, "b", tenant="good"),
            *slot,
            ask(sample_tree, "b").gives([HELD]),
            sql(PAUSE),
            sweep(served=1),
            ask(sample_tree, "b").gives([RUN]),
            sql("delete from joblane.pauses"),
            sql("update joblane.tasks set due_at = now() where id = 'a' and state = 'pending'"),
            *([ask(sample_sharing, "a").gives([Verdict.CLAIM_ALONE])] if how == "a lost run" else []),
            ask(sample_sharing, "a").gives([HELD]),
        ]
        for how, slot in SLOTS_OF_A_PAUSED_TENANT.items()
    }
)
def test_a_paused_tenant_keeps_no_slot(limited: World, story: Story) -> None:
    play(limited, story)


def test_a_claim_that_archives_serves_its_limits_if_its_answer_was_lost(limited: World) -> None:
    put(sample_single, "a", "b")(limited)
    assert ask(sample_single, "a", "b")(limited) == [RUN, HELD]
    limited.run("update joblane.tasks set max_attempts = 1 where id = 'a'")
    limited.expire_leases()
    arrivals = [arrival(sample_single, Message(sample_single.type, "a", rec=True), "a", Queue.DEFAULT)]
    claims = [claim(limited.database.get(), arrivals, LEASE, "request", TOKEN)["a"] for _ in range(2)]
    assert [(one.verdict, one.serve) for one in claims] == [(Verdict.ARCHIVED, True), (Verdict.SEND_DEAD_LETTER, True)]


# --- Stories ---------------------------------------------------------------------------------------------------------

STORIES: dict[str, Story] = {
    "a turn that no function claims is given to another type": [
        put(sample_sharing, "x", "a", "more", "still-more"),
        put(sample_tree, "b"),
        ask(sample_sharing, "x", "a", "more", "still-more").gives([RUN, HELD, HELD, HELD]),
        ask(sample_tree, "b").gives([HELD]),
        end("x").gives(["a"]),
        sweep(served=0),
        sql(LATER),
        sweep(served=1),
        states("a", "more", "b").gives(["pending", "held", "pending"]),
        # the others of its lane are served after those of other lanes
        ask(sample_tree, "b").gives([RUN]),
        end("b").gives(["more"]),
        # and it asks again
        ask(sample_sharing, "a").gives([HELD]),
    ],
    "the other types of a lane that stands still are served last": [
        put(sample_sharing, "x"),
        put(place_shares, "a"),
        put(place_shares_too, "more"),
        put(sample_tree, "b"),
        ask(sample_sharing, "x").gives([RUN]),
        ask(place_shares, "a").gives([HELD]),
        ask(place_shares_too, "more").gives([HELD]),
        ask(sample_tree, "b").gives([HELD]),
        end("x").gives(["a"]),
        sql(LATER),
        sweep(served=1),
        states("a", "more", "b").gives(["pending", "held", "pending"]),
    ],
    "a lost run of a function that does not start keeps no shared slot": [
        put(sample_sharing, "a"),
        put(sample_tree, "b"),
        ask(sample_sharing, "a").gives([RUN]),
        ask(sample_tree, "b").gives([HELD]),
        expire_leases(),
        sql(LATER),
        sweep(),
        ask(sample_tree, "b").gives([RUN]),
        # its function starts again: the run was lost, and the next one asks for a slot
        ask(sample_sharing, "a").gives([Verdict.CLAIM_ALONE]),
        ask(sample_sharing, "a").gives([HELD]),
        end("b").gives(["a"]),
        ask(sample_sharing, "a").gives([RUN]),
        row("a", attempts=2, runs=2),
    ],
    "the claim of a lost run that is paused gives its slot back": [
        put(sample_sharing, "a", tenant="bad"),
        ask(sample_sharing, "a").gives([RUN]),
        expire_leases(),
        sql(PAUSE),
        ask(sample_sharing, "a").gives([Verdict.PAUSED]),
        row("a", state="pending", passed=None, attempts=1, runs=1),
    ],
    "a paused task that waits for a wider limit keeps no slot of its key": [
        put(sample_sharing, "x", tenant="good"),
        put(sample_tree, "a", tenant="bad"),
        put(sample_tree, "b", tenant="good"),
        ask(sample_sharing, "x").gives([RUN]),
        ask(sample_tree, "a", "b").gives([HELD, HELD]),
        row("a", waits_for="shared"),
        row("b", waits_for="sample:tree/0"),
        sql(PAUSE),
        sweep(),
        row("a", waits_for=None),
        row("b", waits_for="shared"),
    ],
    "any number of paused tasks in front delays nobody": [
        sql(STALLED),
        put(sample_tree, "b", tenant=None),
        ask(sample_tree, "b").gives([HELD]),
        sql("update joblane.tasks set place = 6000 where id = 'b'"),
        sql("insert into joblane.pauses (scope, name) values ('type', 'sample:sharing')"),
        served("b").gives(["b"]),
    ],
    "a task whose time comes after its deadline ends at its deadline": [
        sql("update joblane.limits set step = interval '10 hours', burst = 1 where name = 'sample:single'"),
        put(sample_single, "a", "b", "c"),
        ask(sample_single, "a").gives([RUN]),
        end("a").gives([]),
        sql("update joblane.tasks set deadline = now() + interval '1 hour' where id = 'b'"),
        ask(sample_single, "b", "c").gives([WAIT, HELD]),
        sql("update joblane.tasks set deadline = now(), sweep_at = sweep_at - interval '1 hour' where id = 'b'"),
        sweep(),
        ask(sample_single, "b").gives([Verdict.ARCHIVED]),
    ],
    "a rate that is no longer declared delays nobody": [
        sql("update joblane.limits set step = interval '1 hour', burst = 1 where name = 'sample:rated'"),
        put(sample_rated, "a", "b", "c"),
        ask(sample_rated, "a", "b").gives([RUN, WAIT]),
        sql("delete from joblane.limits where name = 'sample:rated'"),
        ask(sample_rated, "c").gives([RUN]),
    ],
}


@stories(STORIES)
def test_story(limited: World, story: Story) -> None:
    play(limited, story)
