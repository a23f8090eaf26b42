"""The model of one seed, and of several."""

from __future__ import annotations

import time
import traceback
import warnings
from collections.abc import Iterable
from contextlib import nullcontext
from functools import partial
from typing import Any

from sqlalchemy.exc import SAWarning

from joblane.record import task_types
from joblane.record.driver.database import Database
from joblane.tasks.task import Task
from tests.faults.days.days import Days
from tests.faults.model.acts import acts_of
from tests.faults.model.checks import check, check_end, waiting_without_reason
from tests.faults.model.patches import patched
from tests.faults.model.samples import LEDGER
from tests.faults.model.world import NET_SECONDS, SWEEP, World
from tests.faults.plants import planted
from tests.faults.result import Result
from tests.ways import Ways

STEPS = 1000
CHECKED_STEPS, ALONE_STEPS = 150, 50
"""The steps between two checks of what must always hold, and in a calm seed between two sweeps that run alone."""
MOST_ACTORS, MANY_ACTORS = 25, 14
"""With more than the first number of actors no act starts. With more than the second, an actor moves if it can."""
QUIET_SECONDS, LONGEST_SECONDS, MOST_ROUNDS = 600, 40 * 86_400, 2000
REPORTED = 10
"""Progress is printed after this many seeds."""
EVENTS = "select id from joblane.events"
HELD = "Every promise was kept."
REPEAT = "make faults ONLY=model MODEL=1"
CALM = (
    "delete from joblane.pauses",
    "delete from joblane.limit_changes",
    "update joblane.rates set delayed_until = null",
    "delete from joblane.schedules",
    "update joblane.batches set sealed_at = now() where sealed_at is null",
    """delete from joblane.task_parents e
        where e.parent = '' and exists (select from joblane.batches b where b.id = e.parent_batch)""",
)
"""Statements that end everything that makes tasks wait forever."""


class Model:
    """A seed: random acts, and then the time until all is quiet."""

    def __init__(self, url: str, seed: int, days: Days, steps: int = STEPS) -> None:
        self._steps = steps
        self._world = World(url, seed, days.server)
        self._acts = acts_of(self._world)
        self._ways = Ways.mixed(seed)

    def go(self) -> Result:
        world, started = self._world, time.monotonic()
        with patched(world), self._ways.switched():
            world.clock.sync()
            with Database(world.url) as database:
                task_types.register(database.get(), world.tasks)
            try:
                self._go()
            except Exception:
                world.wrong("the model has failed", traceback.format_exc())
            world.faults.on = False
            for actor in world.actors.all():
                actor.process.kill()
            world.actors.settle()
            world.observer.drop()
        world.counts += self._ways.counts
        return Result(world.seed, HELD, time.monotonic() - started, world.counts, world.problems)

    def _go(self) -> None:
        world = self._world
        for step in range(1, self._steps + 1):
            self._step()
            if step % CHECKED_STEPS == 0:
                check(world)
            if step % ALONE_STEPS == 0 and world.faults.is_calm:
                self._sweep_alone()
            if world.problems:
                return
        self._become_quiet()
        if not world.problems:
            check_end(world)

    def _step(self) -> None:
        world, number = self._world, len(self._world.actors.all())
        if (world.dice.random() < 0.6 or number > MANY_ACTORS) and world.actors.step():
            return
        if number <= MOST_ACTORS:
            world.dice.choices([act for act, _ in self._acts], [weight for _, weight in self._acts])[0]()

    def _become_quiet(self) -> None:
        """Let nothing fail any more, and let time pass until no task waits."""
        world = self._world
        world.faults.on = False
        self._sweep_alone()
        for statement in CALM:
            world.observer.run(statement)
        world.is_helped = True
        began = world.now
        for _ in range(MOST_ROUNDS):
            if world.problems or world.now > began + LONGEST_SECONDS:
                break
            self._deliver(*world.tasks.values())
            if world.now > began + QUIET_SECONDS and self._is_quiet():
                world.counts["virtual hours until all was quiet"] += round((world.now - began) / 3600)
                return
            at = world.next_visible() or world.now + 3600
            world.forward(min(max(0.5, at - world.now), NET_SECONDS))
        left = [[lane, *queue] for lane, queue in world.queues.queues.items() if queue and lane != world.sweep_lane]
        world.wrong("not quiet in the end", waiting_without_reason(world), left, world.observer.run(EVENTS))

    def _sweep_alone(self) -> None:
        """Run all actors to their end, and then the sweep, which does what they have left."""
        self._world.actors.settle()
        self._world.tick()
        self._deliver(SWEEP)

    def _deliver(self, *tasks: Task[Any, Any]) -> None:
        """Deliver all visible messages of types, one after the other."""
        for task, lane in self._world.lanes:
            while task in tasks and self._world.deliver(task, lane):
                self._world.actors.settle()

    def _is_quiet(self) -> bool:
        world = self._world
        busy = any(world.queues.queues[lane] for task, lane in world.lanes if task is not SWEEP)
        return not busy and not waiting_without_reason(world) and not world.observer.run(EVENTS)


def run(seeds: Iterable[int], plant: str | None = None) -> list[Result]:
    """Run seeds, and print a line for each that violates a rule. With a plant, the first of these is the last."""
    results: list[Result] = []
    with Days.on_own_server() as days, warnings.catch_warnings():
        warnings.simplefilter("ignore", SAWarning)  # processes that die leave connections
        with Database(days.template) as database:
            database.get().execute_simple(LEDGER)
        with planted(days.template, plant) if plant else nullcontext():
            for seed in seeds:
                results.append(days.live(partial(_model, days, seed)))
                if results[-1].wrong:
                    again = f"{REPEAT} SEED={seed}" + (f" PLANT={plant}" if plant else "")
                    print(f"{results[-1].wrong[0]}\n    {again}", flush=True)
                    if plant:
                        break
                if len(results) % REPORTED == 0:
                    print(f"{len(results)} seeds, {sum(result.seconds for result in results):.0f} s", flush=True)
    return results


def _model(days: Days, seed: int, url: str) -> Model:
    return Model(url, seed, days)
