"""A task in the image of a web application."""

from joblane import Payload, task
from tests.infra.imaged import WEB


class ShopIndex(Payload):
    pass


@task("shop:index", runs_on=WEB)
def shop_index(payload: ShopIndex, ctx: object) -> None:
    """Nothing."""
