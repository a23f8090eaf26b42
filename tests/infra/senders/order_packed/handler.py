"""A task without events."""

from joblane import Payload, task


class OrderPacked(Payload):
    """Nothing."""


@task("order:packed")
def order_packed(payload: OrderPacked, ctx: object) -> None:
    """Nothing."""
