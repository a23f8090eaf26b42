"""The first `joblane up` of a new project runs the job that `joblane init` wrote, and shows its row."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from joblane.cli import terminal
from joblane.cli.scaffold import FIRST_TYPE
from joblane.cli.target import program

if TYPE_CHECKING:
    from joblane.local.stack import LocalStack

PATIENCE = timedelta(minutes=2)
"""Time for the first start of a function, which unpacks the layer, on a busy machine."""


def run_first_job(stack: LocalStack) -> None:
    """Enqueue ``hello:world`` and wait for its end. Do nothing if there is no such job, or if it has run."""
    from joblane.cli import task_tables
    from joblane.cli.commands.tasks import await_end
    from joblane.cli.connect import connect
    from joblane.inspector.filter import Filter
    from joblane.local.tools import environment_of
    from joblane.tasks.discovery import discover

    if FIRST_TYPE not in discover(times={}):
        return
    with environment_of(stack.environment):
        inspector = connect(stage=None, profile=None, region=None)
        which = Filter(types=(FIRST_TYPE,))
        if inspector.tasks(which).tasks:
            return
        id_ = inspector.enqueue(FIRST_TYPE, {}).id
        await_end(inspector, program(), id_, PATIENCE, as_json=False)
        console = terminal.console()
        console.print(task_tables.tasks(inspector.tasks(which).tasks, datetime.now(UTC), console.width))
