"""A child: another task waits for its result."""

from joblane import Payload, task


class DaySum(Payload):
    """Nothing."""


@task("day:sum", front_door=False)
def day_sum(payload: DaySum, ctx: object) -> None:
    """Nothing."""
