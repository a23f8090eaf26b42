"""A task with a function of its own."""

from joblane import Grants, Payload, task


class CardPrint(Payload):
    """Nothing."""


@task("card:print", grants=Grants(enqueue=("card:send", "card:list")))
def card_print(payload: CardPrint, ctx: object) -> None:
    """Nothing."""
