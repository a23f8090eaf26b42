"""A task that waits for the results of children."""

from joblane import Grants, Payload, task


class MonthSum(Payload):
    """Nothing."""


@task("month:sum", front_door=False, grants=Grants(run=("day:sum",)))
def month_sum(payload: MonthSum, ctx: object) -> None:
    """Nothing."""
