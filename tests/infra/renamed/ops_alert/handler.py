"""The task that runs when another task is archived."""

from joblane import ArchivedTask, task
from joblane.tasks.limit import Limit


@task("ops:alert", front_door=False, limit=Limit("mover", total=1))
def ops_alert(payload: ArchivedTask, ctx: object) -> None:
    """Nothing."""
