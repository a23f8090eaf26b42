"""A renamed type, with a task that runs when one of its tasks is archived."""

from joblane import Payload, Queue, task
from joblane.tasks.limit import Limit


class DataMove(Payload):
    """Nothing."""


@task("data:move", also=[Queue.LOW], aliases=["data:copy"], on_archived="ops:alert", limit=Limit("mover", total=1))
def data_move(payload: DataMove, ctx: object) -> None:
    """Nothing."""
