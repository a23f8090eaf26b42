"""A day without work, with the schedules of the stage ``dev``: it counts how often something wakes the database."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from infra.settings import PlatformStage
from joblane.cdk.settings.load import load_stage, with_schedules_of
from joblane.handler.context import TaskContext
from joblane.tasks.discovery import discover
from joblane.tasks.task import Task
from tests.faults.days.day import CHECK_SECONDS, HOUR, Day, each
from tests.pages import ROOT


def tasks_of_dev() -> dict[str, Task[Any, Any]]:
    """Return the tasks with the schedules of ``dev``. Their functions do nothing, except that of the sweep."""
    declared = discover()
    stages = json.loads((ROOT / "cdk.json").read_text())["context"]["stages"]
    names = {name for task in declared.values() for name in task.environment}
    stage = load_stage("dev", stages, kind=PlatformStage, declared=names, environ={})
    tasks = with_schedules_of(stage, declared)
    return {type_: task if type_ == "jobs:sweep" else replace(task, function=_nothing) for type_, task in tasks.items()}


def _nothing(payload: Any, ctx: TaskContext) -> None:
    """Run without work."""


class IdleDay(Day):
    """A day in which only schedules send messages."""

    hours = 24.0

    def __init__(self, url: str, seed: int) -> None:
        super().__init__(url, seed, faults=0.0, tasks=tasks_of_dev())

    def plan(self) -> None:
        begins, ends = (datetime.fromtimestamp(self.begins + hours * HOUR, UTC) for hours in (0, self.hours))
        for task in self.tasks.values():
            for schedule in task.schedules:
                for moment in schedule.after(begins):
                    if moment >= ends:
                        break
                    self.result.counts[f"ticks of {task.type}"] += 1
                    self.tick(task, schedule, moment)
        each(CHECK_SECONDS, self.loop, self.check)

    def _run(self) -> None:
        ends = self.begins + self.hours * HOUR
        while (at := self.loop.next_at()) is not None and at < ends:
            self.loop.step()
