"""A type that had another name, and whose end is told to another task."""

from joblane import Payload, Queue, task


class DataMove(Payload):
    """Nothing."""


@task("data:move", also=[Queue.LOW], aliases=["data:copy"], on_archived="ops:alert")
def data_move(payload: DataMove, ctx: object) -> None:
    """Nothing."""
