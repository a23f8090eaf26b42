"""What hears of tasks that were given up."""

from joblane import ArchivedTask, task


@task("ops:alert", front_door=False)
def ops_alert(payload: ArchivedTask, ctx: object) -> None:
    """Nothing."""
