"""A task in an image that the deploy builds."""

from joblane import Payload, task
from tests.infra.imaged import TRAIN


class ShopPrice(Payload):
    pass


@task("shop:price", runs_on=TRAIN)
def shop_price(payload: ShopPrice, ctx: object) -> None:
    """Nothing."""
