"""A renamed type, with a task that runs when one of its tasks is archived."""

from joblane import Payload, Queue, task


class DataMove(Payload):
    """Nothing."""


@task("data:move", also=[Queue.LOW], aliases=["data:copy"], on_archived="ops:alert")
def data_move(payload: DataMove, ctx: object) -> None:
    """Nothing."""
