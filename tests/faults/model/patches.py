"""The library in the model: its time, queues, processes and random numbers are those of a world."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import joblane.functions.jobs_sweep.handler as sweep_handler
from joblane import settings
from joblane.enqueue import follow_up, wake
from joblane.sqs.client import Sqs
from joblane.sweep import sweep
from tests.faults.days.clock import virtual
from tests.faults.days.samples import PREFIX
from tests.faults.model.actors import Actor
from tests.faults.model.samples import Here
from tests.faults.model.surroundings import Bus
from tests.faults.model.world import NET_SECONDS, World

LATER = (
    "client.batch", "client.limits", "client.schedules", "enqueue.check_schedule", "enqueue.schedule_changes",
    "handler.steps", "record.driver.async_database", "record.driver.handler_session", "record.flow.batches",
    "worker.async_call",
)  # fmt: skip
"""The modules that the library imports on first use. Virtual time is for the modules that are there."""
for _module in LATER:
    import_module(f"joblane.{_module}")

TURNS = "the end of another task"
"""The role of a worker that serves limits and releases children."""


@contextmanager
def patched(world: World) -> Iterator[None]:
    """Give the library a world: its time, queues and processes."""
    environment = {
        "JOBLANE_PREFIX": PREFIX,
        "POWERTOOLS_METRICS_DISABLED": "true",
        "DATABASE_URL": world.url,
        settings.SWEEP_MINUTES: str(NET_SECONDS // 60),
    }
    random.seed(world.seed)  # of the library, which spreads the times of messages
    with (
        patch.dict(os.environ, environment),
        patch.object(os, "urandom", random.Random(world.seed).randbytes),
        patch.object(Here, "world", world, create=True),
        patch.object(wake, "_waker", SimpleNamespace(cover=partial(_cover, world))),
        patch.object(follow_up, "send_turns", _as_turns(world, follow_up.send_turns)),
        patch.object(sweep_handler, "Sqs", lambda: _current(world).process.sqs),
        patch.object(sweep_handler, "discover", lambda: world.tasks),
        patch.object(sweep_handler, "bus_of_environment", lambda **_: Bus(world)),
        patch.object(sweep_handler, "unmarked_dead_letters", lambda *_, **__: {}),
        patch.object(sweep_handler, "sweep", _counted(world, sweep.sweep)),
        virtual(lambda: world.now, lambda _: _current(world).process.point()),
    ):
        yield


def _current(world: World) -> Actor:
    actor = world.actors.current
    assert actor is not None
    return actor


def _cover(world: World, sqs: Sqs, prefix: str) -> bool:
    """Wake the sweep by what this process knows."""
    return _current(world).process.waker.cover(sqs, prefix)


def _as_turns(world: World, send_turns: Callable[..., bool]) -> Callable[..., bool]:
    """Count the tasks that the end of another one lets start, and note who sends their messages."""

    def send(sqs: Any, prefix: str, started: Sequence[Any], *, brief: bool) -> bool:
        actor = _current(world)
        if brief or actor.role != "a run":  # a client or an operator
            return send_turns(sqs, prefix, started, brief=brief)
        role, actor.role = actor.role, TURNS
        world.counts[f"tasks let start by {TURNS}"] += len(started)
        are_sent = send_turns(sqs, prefix, started, brief=brief)
        actor.role = role
        return are_sent

    return send


def _counted(world: World, sweeping: Callable[..., sweep.Swept]) -> Callable[..., sweep.Swept]:
    """Count what the sweep does. Where nothing fails it must not release children."""

    def counting(*arguments: Any, **options: Any) -> sweep.Swept:
        is_alone = len(world.actors.all()) == 1  # no worker stands still between its finish and its release
        swept = sweeping(*arguments, **options)
        world.counts["sweeps"] += 1
        world.counts["tasks let start by the sweep: their parents have ended"] += swept.released
        world.counts["tasks let start by the sweep: a limit has room"] += swept.served
        world.counts["messages sent by the sweep for due tasks"] += swept.sent
        if swept.released and is_alone and world.faults.is_calm and not world.is_helped:
            world.wrong("the sweep has released children although nothing has failed", swept.released)
        return swept

    return counting
