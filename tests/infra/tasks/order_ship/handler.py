"""A task that enqueues another task."""

from datetime import timedelta

from joblane import Grants, Payload, task
from joblane.names import Queue


class OrderShip(Payload):
    order: int


@task(
    "order:ship",
    queue=Queue.CRITICAL,
    timeout=timedelta(minutes=10),
    max_depth=100,
    grants=Grants(enqueue=("report:build",)),
)
def order_ship(payload: OrderShip, ctx: object) -> None:
    """Nothing."""
