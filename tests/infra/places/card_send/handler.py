"""A renamed task that had a function of its own until now."""

from datetime import timedelta

from joblane import Grants, Payload, task
from tests.infra.places import WEB


class CardSend(Payload):
    """Nothing."""


@task(
    "card:send",
    runs_on=WEB,
    aliases=["card:post"],
    timeout=timedelta(seconds=30),
    grants=Grants(mail=True, dead_letters=True),
    environment=["EMAIL_FROM_ADDRESS"],
)
def card_send(payload: CardSend, ctx: object) -> None:
    """Nothing."""
