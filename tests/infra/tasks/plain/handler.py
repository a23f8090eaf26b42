"""A Lambda that is no task, as the router is; passed over."""


def handler(event: object, context: object) -> None:
    """Nothing."""
