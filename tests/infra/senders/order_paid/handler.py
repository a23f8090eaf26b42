"""A renamed task that sends events."""

from joblane import Payload, task


class OrderPaid(Payload):
    """Nothing."""


@task("order:paid", aliases=["order:bought"], events=("completed", "archived"))
def order_paid(payload: OrderPaid, ctx: object) -> None:
    """Nothing."""
