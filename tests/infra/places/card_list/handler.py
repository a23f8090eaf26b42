"""A slower task in two queues, with a schedule and permissions of its own."""

from datetime import timedelta

from joblane import Grants, Payload, Queue, task
from tests.infra.places import WEB


class CardList(Payload):
    """Nothing."""


@task(
    "card:list",
    runs_on=WEB,
    also=[Queue.LOW],
    max_retry=8,
    timeout=timedelta(seconds=60),
    schedule="@daily",
    grants=Grants(enqueue=("card:print",)),
)
def card_list(payload: CardList, ctx: object) -> None:
    """Nothing."""
