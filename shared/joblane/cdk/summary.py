"""What a synth tells people of a stage: how the concurrency budget was split, and what it costs to be
there."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from joblane.cdk import costs
from joblane.cdk.constructs.task_function import GIVEN
from joblane.cdk.stacks.jobs import JobsStack
from joblane.limits import MIN_CONCURRENCY
from joblane.queues import WEIGHTS, lane_name


def report(jobs: JobsStack, templates: Collection[Mapping[str, Any]]) -> str:
    """``templates``: of all stacks of the stage. An emulator costs nothing."""
    shares = concurrency(jobs)
    if jobs.stage.local:
        return shares
    idle = costs.report(jobs.stage.name, costs.idle(jobs.tasks, templates, jobs.stage.architecture))
    return f"{shares}\n{idle}"


def concurrency(jobs: JobsStack) -> str:
    """One line per lane, largest share first, with the formula above and the sum below."""
    stage, tasks = jobs.stage, jobs.tasks
    lanes = [
        (lane_name(stage.prefix, queue, task.type), WEIGHTS[queue], task)
        for task in tasks.values()
        for queue in task.lanes
    ]
    budget, total = stage.concurrency_budget, sum(weight for _, weight, _ in lanes)
    width = max((len(name) for name, _, _ in lanes), default=0)
    formula = f"{budget} × weight / {total}, at least {MIN_CONCURRENCY}, at most what the task declares"
    lines = [f"stage {stage.name}: MaximumConcurrency = {formula}"]
    for name, weight, task in sorted(lanes, key=lambda lane: (-jobs.shares[lane[0]], lane[0])):
        declared = f"  (declared: {task.max_concurrency})" if task.max_concurrency else ""
        lines.append(f"  {name:{width}}  weight {weight}  {jobs.shares[name]:4}{declared}")
    lines.append(f"  {'sum':{width}}            {sum(jobs.shares.values()):4} of a budget of {budget}")
    unset = sorted({name for task in tasks.values() for name in task.environment} - {*stage.settings, *GIVEN})
    if unset:
        lines.append(f"  declared by tasks and not set: {', '.join(unset)}")
    return "\n".join(lines)
