"""The lines that a synth prints: the share of each lane in the concurrency budget, and settings that may be missing."""

from __future__ import annotations

from joblane.cdk.constructs.jobs import Jobs
from joblane.names import WEIGHTS, lane_name
from joblane.quotas import MIN_CONCURRENCY
from joblane.settings import SHORT_MINUTES


def concurrency(jobs: Jobs) -> str:
    """Return a table with a line per lane, largest share first, the formula above it and the sum below.

    The last lines name settings that the stage does not set.
    """
    stage, tasks = jobs.stage, jobs.tasks
    lanes = [
        (lane_name(stage.prefix, queue, task.type), WEIGHTS[queue], task)
        for task in tasks.values()
        for queue in task.lanes
    ]
    budget, total = stage.concurrency_budget, sum(weight for _, weight, _ in lanes)
    width = max((len(name) for name, _, _ in lanes), default=0)
    formula = f"{budget} × weight / {total}, at least {MIN_CONCURRENCY}, at most the task's max_concurrency"
    lines = [f"stage {stage.name}: MaximumConcurrency = {formula}"]
    for name, weight, task in sorted(lanes, key=lambda lane: (-jobs.shares[lane[0]], lane[0])):
        declared = f"  (declared: {task.max_concurrency})" if task.max_concurrency else ""
        lines.append(f"  {name:{width}}  weight {weight}  {jobs.shares[name]:4}{declared}")
    lines.append(f"  {'sum':{width}}            {sum(jobs.shares.values()):4} of a budget of {budget}")
    if stage.sweep_minutes > SHORT_MINUTES and not stage.local:
        lines.append(
            f"  sweep: planned, and every {stage.sweep}; programs that enqueue by SQL alone cannot wake it and need "
            '"sweep": "5 minutes"'
        )
    unset = sorted({name for task in tasks.values() for name in task.environment} - {*stage.settings, *jobs.variables})
    if unset:
        lines.append(f"  settings that tasks declare and the stage does not set: {', '.join(unset)}")
    if stage.alarms_of_nobody:
        lines.append('  alarms: nobody is notified; set monitoring.email to an address, or "off" if that is intended')
    return "\n".join(lines)
