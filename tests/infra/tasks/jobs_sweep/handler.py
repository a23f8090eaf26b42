"""Closed to strangers, and may send to every lane."""

from joblane import Grants, Payload, task
from joblane.queues import Queue
from joblane.schedule import every


class JobsSweep(Payload):
    """Nothing to say."""


@task("jobs:sweep", queue=Queue.LOW, max_retry=0, schedule=every(minutes=5), grants=Grants(enqueue=("*",)))
def jobs_sweep(payload: JobsSweep, ctx: object) -> None:
    """Nothing."""
