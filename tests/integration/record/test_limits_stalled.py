"""Slots that nobody uses: of a lane that stands still, of paused tasks, of lost runs. Others get them."""

from __future__ import annotations

import pytest

from joblane.names import Queue
from joblane.record.flow.free_slots import serve
from joblane.record.task.claim import Verdict, arrival, claim
from joblane.sqs.message import Message
from tests.builders.rows import TOKEN
from tests.integration.record.test_limits import HELD, LEASE, RUN, WAIT, ask, end, put, states
from tests.samples import sample_rated, sample_sharing, sample_single, sample_tree
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


def test_a_turn_that_no_function_claims_is_given_to_another_type(limited: World) -> None:
    put(limited, sample_sharing, "x", "a", "more", "still-more")
    put(limited, sample_tree, "b")
    assert ask(limited, sample_sharing, "x", "a", "more", "still-more") == [RUN, HELD, HELD, HELD]
    assert ask(limited, sample_tree, "b") == [HELD]
    assert end(limited, "x") == ["a"]
    assert limited.sweep().served == 0
    limited.run(LATER)

    assert limited.sweep().served == 1
    assert states(limited, "a", "more", "b") == ["pending", "held", "pending"]
    # the others of its lane are served after those of other lanes
    assert ask(limited, sample_tree, "b") == [RUN]
    assert end(limited, "b") == ["more"]
    # and it asks again
    assert ask(limited, sample_sharing, "a") == [HELD]


def test_a_lost_run_of_a_function_that_does_not_start_keeps_no_shared_slot(limited: World) -> None:
    put(limited, sample_sharing, "a")
    put(limited, sample_tree, "b")
    assert ask(limited, sample_sharing, "a") == [RUN]
    assert ask(limited, sample_tree, "b") == [HELD]
    limited.expire_leases()
    limited.run(LATER)

    limited.sweep()
    assert ask(limited, sample_tree, "b") == [RUN]

    # its function starts again: the run was lost, and the next one asks for a slot
    assert ask(limited, sample_sharing, "a") == [Verdict.CLAIM_ALONE]
    assert ask(limited, sample_sharing, "a") == [HELD]
    assert end(limited, "b") == ["a"]
    assert ask(limited, sample_sharing, "a") == [RUN]
    row = limited.row("a")
    assert (row["attempts"], row["runs"]) == (2, 2)


@pytest.mark.parametrize("how", ["lost run", "turn", "its time"])
def test_a_paused_tenant_keeps_no_slot(limited: World, how: str) -> None:
    put(limited, sample_sharing, "x")
    put(limited, sample_sharing, "a", tenant="bad")
    put(limited, sample_tree, "b", tenant="good")
    if how == "lost run":
        assert ask(limited, sample_sharing, "a") == [RUN]
        limited.expire_leases()
    elif how == "turn":
        assert ask(limited, sample_sharing, "x", "a") == [RUN, HELD]
        assert end(limited, "x") == ["a"]
    else:
        limited.run("update joblane.limits set step = interval '1 hour', burst = 1 where name = 'shared'")
        assert ask(limited, sample_sharing, "x") == [RUN]
        assert end(limited, "x") == []
        assert ask(limited, sample_sharing, "a") == [WAIT]
        limited.run("update joblane.limits set step = null where name = 'shared'")
    assert ask(limited, sample_tree, "b") == [HELD]
    limited.run(PAUSE)

    assert limited.sweep().served == 1

    assert ask(limited, sample_tree, "b") == [RUN]
    limited.run("delete from joblane.pauses")
    limited.run("update joblane.tasks set due_at = now() where id = 'a' and state = 'pending'")
    asked = ask(limited, sample_sharing, "a")
    assert (asked if how != "lost run" else ask(limited, sample_sharing, "a")) == [HELD]


def test_the_claim_of_a_lost_run_that_is_paused_gives_its_slot_back(limited: World) -> None:
    put(limited, sample_sharing, "a", tenant="bad")
    assert ask(limited, sample_sharing, "a") == [RUN]
    limited.expire_leases()
    limited.run(PAUSE)
    assert ask(limited, sample_sharing, "a") == [Verdict.PAUSED]
    assert limited.row("a") | {"state": "pending", "passed": None, "attempts": 1, "runs": 1} == limited.row("a")


def test_a_paused_task_that_waits_for_a_wider_limit_keeps_no_slot_of_its_key(limited: World) -> None:
    put(limited, sample_sharing, "x", tenant="good")
    put(limited, sample_tree, "a", tenant="bad")
    put(limited, sample_tree, "b", tenant="good")
    assert ask(limited, sample_sharing, "x") == [RUN]
    assert ask(limited, sample_tree, "a", "b") == [HELD, HELD]
    assert [limited.row(id_)["waits_for"] for id_ in ("a", "b")] == ["shared", "sample:tree/0"]
    limited.run(PAUSE)
    limited.sweep()
    assert [limited.row(id_)["waits_for"] for id_ in ("a", "b")] == [None, "shared"]


def test_any_number_of_paused_tasks_in_front_delays_nobody(limited: World) -> None:
    limited.run(STALLED)
    put(limited, sample_tree, "b", tenant=None)
    assert ask(limited, sample_tree, "b") == [HELD]
    limited.run("update joblane.tasks set place = 6000 where id = 'b'")
    limited.run("insert into joblane.pauses (scope, name) values ('type', 'sample:sharing')")
    assert [turn.id for turn in serve(limited.database.get(), [[None, None, "shared"]])] == ["b"]


def test_a_task_whose_time_comes_after_its_deadline_ends_at_its_deadline(limited: World) -> None:
    limited.run("update joblane.limits set step = interval '10 hours', burst = 1 where name = 'sample:single'")
    put(limited, sample_single, "a", "b", "c")
    assert ask(limited, sample_single, "a") == [RUN]
    assert end(limited, "a") == []
    limited.run("update joblane.tasks set deadline = now() + interval '1 hour' where id = 'b'")
    assert ask(limited, sample_single, "b", "c") == [WAIT, HELD]
    limited.run("update joblane.tasks set deadline = now(), sweep_at = sweep_at - interval '1 hour' where id = 'b'")
    limited.sweep()
    assert ask(limited, sample_single, "b") == [Verdict.ARCHIVED]


def test_a_claim_that_archives_serves_its_limits_if_its_answer_was_lost(limited: World) -> None:
    put(limited, sample_single, "a", "b")
    assert ask(limited, sample_single, "a", "b") == [RUN, HELD]
    limited.run("update joblane.tasks set max_attempts = 1 where id = 'a'")
    limited.expire_leases()
    arrivals = [arrival(sample_single, Message(sample_single.type, "a", rec=True), "a", Queue.DEFAULT)]
    claims = [claim(limited.database.get(), arrivals, LEASE, "request", TOKEN)["a"] for _ in range(2)]
    assert [(one.verdict, one.serve) for one in claims] == [(Verdict.ARCHIVED, True), (Verdict.SEND_DEAD_LETTER, True)]


def test_a_rate_that_is_no_longer_declared_delays_nobody(limited: World) -> None:
    limited.run("update joblane.limits set step = interval '1 hour', burst = 1 where name = 'sample:rated'")
    put(limited, sample_rated, "a", "b", "c")
    assert ask(limited, sample_rated, "a", "b") == [RUN, WAIT]
    limited.run("delete from joblane.limits where name = 'sample:rated'")
    assert ask(limited, sample_rated, "c") == [RUN]
