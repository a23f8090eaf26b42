"""Slots that one call cannot give: the tasks that would be next are locked, or too many of them are paused."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast
from unittest.mock import Mock

import pytest

from joblane.client.client import client_within
from joblane.record.driver.database import Database
from joblane.record.flow.free_slots import serve
from joblane.record.row.states import State
from joblane.record.task.finish import Finish, finish
from joblane.record.task_types import LIMITS, declared_limits
from joblane.tasks.job import Job
from tests.integration.record.test_limits import HELD, RUN, TASKS, ask, end, put
from tests.samples import Sample, sample_keyed, sample_ordered, sample_tree
from tests.world import PREFIX, World

if TYPE_CHECKING:
    from joblane.record.driver.connection import Connection


@pytest.fixture
def limited(world: World) -> World:
    """A world with the limits of the samples."""
    world.run(LIMITS, json.dumps(declared_limits(TASKS)))
    return world


@contextmanager
def locked_until_asked_again(world: World, monkeypatch: pytest.MonkeyPatch, id_: str) -> Iterator[list[float]]:
    """Lock the row of a task until the limit is asked again. Yield the pauses before that."""
    pauses: list[float] = []
    with Database(world.url) as other:
        other.get().execute_simple("begin")
        other.get().run("select from joblane.tasks where id = $1 for update", id_)

        def release(seconds: float) -> None:
            pauses.append(seconds)
            if not other.get().idle:
                other.get().commit()

        monkeypatch.setattr("joblane.record.flow.free_slots.time.sleep", release)
        yield pauses


def test_a_limit_whose_waiting_task_is_locked_is_asked_again(limited: World, monkeypatch: pytest.MonkeyPatch) -> None:
    put(limited, sample_keyed, "a", "b")
    assert ask(limited, sample_keyed, "a", "b") == [RUN, HELD]
    with locked_until_asked_again(limited, monkeypatch, "b") as pauses:
        assert end(limited, "a") == ["b"]
    assert len(pauses) == 1


def test_a_key_with_an_order_whose_first_task_is_locked_is_asked_again(
    limited: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(limited, sample_ordered, "a", "b", "c")
    assert ask(limited, sample_ordered, "a", "b", "c") == [RUN, HELD, HELD]
    with locked_until_asked_again(limited, monkeypatch, "b") as pauses:
        assert end(limited, "a") == ["b"]
    assert len(pauses) == 1


def test_more_paused_tasks_than_one_call_moves_do_not_hide_the_next_one(limited: World) -> None:
    client = client_within(limited.database, Mock(send_many=lambda *_, **__: {}, covered={}, now=time.time), PREFIX)
    client.enqueue_many([Job(sample_keyed, Sample(), task_id=f"p{number:03}", tenant="x") for number in range(450)])
    put(limited, sample_keyed, "a", "z")
    assert ask(limited, sample_keyed, "a", "z") == [RUN, HELD]
    limited.run("update joblane.tasks set state = 'held', wait_kind = 'limit', waits_for = key_limit, place = -1,"
                " sweep_at = null where tenant = 'x'")  # fmt: skip
    limited.run("insert into joblane.pauses (scope, name) values ('tenant', 'x')")
    assert end(limited, "a") == ["z"]
    assert limited.run("select count(*) from joblane.tasks where tenant = 'x' and state = 'pending'") == [[450]]


def test_a_task_that_moves_to_its_total_is_served_if_a_slot_is_freed_meanwhile(limited: World) -> None:
    put(limited, sample_tree, "a", "b", number=1)
    put(limited, sample_tree, "c", number=2)
    limited.run("update joblane.limits set slots = 1 where name = 'sample:tree/'")
    assert ask(limited, sample_tree, "a", "c", "b") == [RUN, RUN, HELD]
    limited.run("update joblane.limits set slots = 1 where name = 'sample:tree'")

    class Slow:
        """Commits the first statement only after another task has ended, whose worker finds nobody waiting."""

        def run(self, statement: str, *parameters: Any) -> Any:
            connection = other.get()
            if row["finished_at"] is not None:
                return connection.run(statement, *parameters)
            connection.execute_simple("begin")
            rows = connection.run(statement, *parameters)
            assert end(limited, "c") == []
            row["finished_at"] = "now"
            connection.commit()
            return rows

    row = limited.row("a")
    ended = Finish("a", row["lease_token"], row["runs"], "completed", State.COMPLETED)
    assert finish(limited.database.get(), [ended]) == {"a"}
    with Database(limited.url) as other:
        turns = serve(cast("Connection", Slow()), [[row["key_limit"], row["total_limit"], row["shared_limit"]]])
    assert [turn.id for turn in turns] == ["b"]
