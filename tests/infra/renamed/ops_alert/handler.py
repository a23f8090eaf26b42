"""The task that runs when another task is archived."""

from joblane import ArchivedTask, task


@task("ops:alert", front_door=False)
def ops_alert(payload: ArchivedTask, ctx: object) -> None:
    """Nothing."""
