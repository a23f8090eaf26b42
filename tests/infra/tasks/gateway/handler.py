"""A function with its own handler that sends tasks and reads a bucket, like the API."""

from datetime import timedelta

from joblane.tasks.function import Function

FUNCTION = Function(
    description="Answers",
    timeout=timedelta(seconds=29),
    memory_mb=512,
    enqueue=("order:ship",),
    reads=("exports",),
    environment=("EMAIL_FROM_ADDRESS",),
)


def handler(event: object, context: object) -> None:
    """Nothing."""
