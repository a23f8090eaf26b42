"""The router, which forwards messages from the front doors to the lanes. Any SQS client can send to a front door."""

from __future__ import annotations

from aws_cdk import aws_iam as iam
from constructs import Construct

from joblane.cdk.constructs.code import Shared, Tasks
from joblane.cdk.constructs.queue_pair import RECEIVING, SENDING, queue_arn
from joblane.cdk.constructs.task_function import JobFunction
from joblane.cdk.nag import acknowledge_wildcards
from joblane.names import Queue, dead_letter_name, front_door_name
from joblane.quotas import FRONT_DOOR
from joblane.worker.routes import encode, routes_of

HANDLER = "joblane.functions.router.handler.handler"
MEMORY_MB = 256


class Router(JobFunction):
    """The only consumer of the three front doors.

    It may send to every lane by a name pattern, because a list of all lanes can be longer than IAM allows. The policies
    of the lanes that are closed to front doors deny it to this role. ``JOBLANE_ROUTES`` has the types that the front
    doors accept.
    """

    def __init__(self, scope: Construct, id_: str, shared: Shared, tasks: Tasks) -> None:
        prefix = shared.stage.prefix
        super().__init__(
            scope,
            id_,
            shared,
            name=f"{prefix}-router",
            description="Passes messages from the front doors to the lanes",
            handler=HANDLER,
            timeout=FRONT_DOOR.function_timeout,
            memory_mb=MEMORY_MB,
            environment={"JOBLANE_ROUTES": encode(routes_of(tasks))},
        )
        front_doors = [front_door_name(prefix, queue) for queue in Queue]
        lanes = [queue_arn(f"{name}-*") for name in front_doors]
        self.allow(RECEIVING, [queue_arn(name) for name in front_doors])
        self.allow(SENDING, [*lanes, *(queue_arn(dead_letter_name(name)) for name in front_doors)])
        self.permit(
            iam.PolicyStatement(
                effect=iam.Effect.DENY,
                actions=SENDING,
                resources=[queue_arn(dead_letter_name(f"{name}-*")) for name in front_doors],
            )
        )
        acknowledge_wildcards(
            self.role,
            lanes,
            "A list of hundreds of lanes is longer than IAM allows. The policy denies the lanes' dead-letter queues, "
            "and the policies of closed lanes deny this role.",
        )
