"""A handler without a declaration, which the discovery skips."""


def handler(event: object, context: object) -> None:
    """Nothing."""
