"""All that runs jobs: a loop over the tasks and functions that were found. None is named here but the sweep."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from itertools import product
from typing import Any, TypeVar

from aws_cdk import Aws, Stack
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_sqs as sqs
from constructs import Construct

from joblane.cdk.constructs.code import Shared, Tasks, Workload
from joblane.cdk.constructs.cron_schedule import CronGroup, CronSchedule
from joblane.cdk.constructs.granted_bucket import GrantedBucket, grant_objects, reading, removal, writing
from joblane.cdk.constructs.migration import Migration
from joblane.cdk.constructs.queue_pair import SENDING, QueuePair, sending
from joblane.cdk.constructs.router import VISIBILITY, WAITS, Router
from joblane.cdk.constructs.task_function import GIVEN, JobFunction, TaskFunction
from joblane.cdk.costs import METADATA, Extra
from joblane.cdk.database_access import DatabaseAccess
from joblane.cdk.errors import StageError, SynthError
from joblane.cdk.inspector_grants import grant_inspecting
from joblane.cdk.nag import acknowledge_wildcards
from joblane.cdk.settings.stage import Stage
from joblane.declaration import Task
from joblane.enqueue.wake import SWEEP
from joblane.function import Function
from joblane.limits import MAX_BATCH, MIN_CONCURRENCY, RECEIVE_HEADROOM, share_concurrency
from joblane.queues import Queue, front_door_name, lane_name, slug_of

SYSTEM = "system:"
"""Tasks of this category watch over the others: they may ask how the front doors are."""
EVERY_LANE = "*"
"""In ``Grants.enqueue``: all lanes and their DLQs."""

TAKING = (
    "sqs:ChangeMessageVisibility",
    "sqs:DeleteMessage",
    "sqs:GetQueueAttributes",
    "sqs:GetQueueUrl",
    "sqs:ReceiveMessage",
)
"""What it takes to look at a queue's messages, to give them back, and to delete them."""

T = TypeVar("T")


class Jobs(Construct):
    """Front doors with their router; per task a function, lanes, schedules, and just the permissions it declares.

    ``access``: to the database. ``buckets``: by the names that ``Grants.buckets`` has.

    It has, by name:

    - ``queues``: ``default`` is a front door, ``default-data-export`` a lane;
    - ``functions``: ``data:export`` runs a task, ``control`` is a Lambda with a handler of its own;
    - ``producer_policies``: ``data:export`` sends that type to its lanes, ``default`` sends to that front door;
    - ``shares``: lane → ``MaximumConcurrency``.
    """

    def __init__(
        self,
        scope: Construct,
        id_: str,
        workload: Workload,
        *,
        access: DatabaseAccess,
        buckets: Mapping[str, GrantedBucket],
        costs: Mapping[str, Extra] | None = None,
    ) -> None:
        super().__init__(scope, id_)
        self.stage, self.tasks, self._buckets = workload.stage, workload.tasks, buckets
        stage, tasks, functions = self.stage, self.tasks, workload.functions
        if stage.control is None:  # the function may do much, and nobody could ask it
            functions = {name: function for name, function in functions.items() if not function.inspects}
        options = Stack.of(self).template_options
        options.metadata = {**(options.metadata or {}), **_metadata(stage, costs or {})}
        self._shared = Shared(self, "Code", workload, access)
        self.shares = shares(stage, tasks)
        self.migration = Migration(self, "Migration", self._shared)
        self._lanes: dict[tuple[str, Queue], QueuePair] = {}
        self._doors: dict[Queue, QueuePair] = {}
        made = {task.type: self._add_task(task) for task in tasks.values()}
        self._add_front_doors()
        cron = self._add_schedules()
        for task in tasks.values():  # when all lanes exist
            self._grant_enqueue(task, made[task.type])
            if task.type.startswith(SYSTEM):
                self._grant_looking(made[task.type])
            if task.grants.dead_letters:
                self._grant_dead_letters(made[task.type], cron)
            if task.type == SWEEP:
                self._grant_looking_at_dead_letters(made[SWEEP])
        self.producer_policies = self._add_producer_policies()
        self.functions: dict[str, lambda_.Function] = {
            **{type_: function.function for type_, function in made.items()},
            **{name: self._add_function(name, declared) for name, declared in functions.items()},
        }
        self.queues: dict[str, sqs.Queue] = {
            **{str(queue): door.queue for queue, door in self._doors.items()},
            **{lane.name.removeprefix(f"{stage.prefix}-"): lane.queue for lane in self._lanes.values()},
        }

    @property
    def function_names(self) -> list[str]:
        """All functions on AWS, those of router and migration included, in order."""
        return sorted(found.name for found in self.node.find_all() if isinstance(found, JobFunction))

    @property
    def variables(self) -> frozenset[str]:
        """Environment variables of functions that come from here: a task may declare them, and no setting sets them."""
        return frozenset({*GIVEN, *(granted.variable for granted in self._buckets.values())})

    def function_of_api(self, name: str) -> lambda_.Function:
        """The function that answers the HTTP API ``name``. Raises :class:`StageError`."""
        if name not in self.functions:
            raise StageError(
                f"stage {self.stage.name!r}: {name}: there is no function {name!r} that would answer; leave it out"
            )
        return self.functions[name]

    def grant_enqueue(self, grantee: iam.IGrantable, *types: str) -> None:
        """Let ``grantee`` send tasks of ``types`` to their lanes, and nothing else. Raises :class:`SynthError`."""
        known = {type_: task for task in self.tasks.values() for type_ in task.types}
        for type_ in types:
            lanes = self._lanes_of(_known(known, type_, "grant_enqueue: no task"), type_)
            iam.Grant.add_to_principal(
                grantee=grantee, actions=SENDING, resource_arns=[lane.queue_arn for lane in lanes]
            )

    def _add_task(self, task: Task[Any, Any]) -> TaskFunction:
        """The function, and its lanes: the SQS queue of one type in one of the three queues.

        A type that was renamed keeps the lanes of its old name: their messages go to the same function.
        """
        # a lane's identity is its own type's: it stays the same queue when that becomes the alias of another
        scopes = {type_: Construct(self, slug_of(type_)) for type_ in task.types}
        function = TaskFunction(scopes[task.type], "Function", self._shared, task)
        function.function.node.add_dependency(self.migration)
        for type_, queue in product(task.types, task.lanes):
            name = lane_name(self.stage.prefix, queue, type_)
            self._lanes[type_, queue] = QueuePair(
                scopes[type_],
                f"Lane{queue.capitalize()}",
                stage=self.stage,
                name=name,
                visibility=task.numbers.visibility,
                max_receive_count=task.numbers.max_receive_count,
                consumer=function.function,
                batch_size=task.batch_size,
                max_concurrency=self.shares.get(name, MIN_CONCURRENCY),  # an alias has the least
            )
            # a message without an id is sent again with one, and then acknowledged
            function.function.add_to_role_policy(sending([self._lanes[type_, queue].queue]))
        for name in task.grants.buckets:
            granted = _known(self._buckets, name, f"task {task.type!r}: grants.buckets: no bucket")
            grant_objects(function, granted, removal(granted) if granted.removes else writing(granted))
        return function

    def _add_function(self, name: str, declared: Function) -> lambda_.Function:
        """The Lambda of a ``handler.py`` that declares its own. ``name``: of its folder, with hyphens."""
        what = f"function {name!r}"
        settings = self.stage.settings
        made = JobFunction(
            Construct(self, name),
            "Function",
            self._shared,
            name=f"{self.stage.prefix}-{name}",
            description=declared.description,
            handler=declared.handler,
            timeout=declared.timeout,
            memory_mb=declared.memory_mb,
            environment={key: settings[key] for key in declared.environment if key in settings},
            login=self._shared.access.functions,
            reserved_concurrency=self.stage.reserved.get(name),
        )
        made.function.node.add_dependency(self.migration)
        for bucket in declared.reads:
            granted = _known(self._buckets, bucket, f"{what}: reads: no bucket")
            grant_objects(made, granted, reading(granted))
        if declared.inspects:
            grant_inspecting(made, self.stage)
        problem = f"{what}: enqueue: no task"
        self._grant_sending(made.function, [_known(self.tasks, type_, problem) for type_ in declared.enqueue])
        return made.function

    def _add_front_doors(self) -> None:
        router = Router(self, "Router", self._shared, self.tasks).function
        for queue in Queue:
            self._doors[queue] = QueuePair(
                self,
                f"FrontDoor{queue.capitalize()}",
                stage=self.stage,
                name=front_door_name(self.stage.prefix, queue),
                visibility=VISIBILITY,
                max_receive_count=WAITS + RECEIVE_HEADROOM,
                consumer=router,
                batch_size=MAX_BATCH,
                max_concurrency=MIN_CONCURRENCY,
            )
        open_types = [(task, type_) for task in self.tasks.values() if task.front_door for type_ in task.types]
        if lanes := [lane for task, type_ in open_types for lane in self._lanes_of(task, type_)]:
            router.add_to_role_policy(sending(lanes))

    def _add_schedules(self) -> CronGroup:
        group = CronGroup(self, "Cron", stage=self.stage)
        for task in self.tasks.values():
            for schedule in task.schedules:
                CronSchedule(
                    self,
                    f"Cron-{task.slug}.{schedule.name}",
                    group=group,
                    task=task,
                    schedule=schedule,
                    lane=self._lanes[task.type, task.queue].queue,
                )
        return group

    def _grant_enqueue(self, task: Task[Any, Any], function: TaskFunction) -> None:
        """Sending to the lanes of the types in ``Grants.enqueue`` and of ``on_archived``, and waking the sweep."""
        follows = (task.follower,) if task.follower else ()
        if EVERY_LANE in task.grants.enqueue:
            self._grant_every_lane(function)
            return
        problem = f"task {task.type!r}: grants.enqueue: no task"
        wanted = [_known(self.tasks, type_, problem) for type_ in (*task.grants.enqueue, *follows)]
        self._grant_sending(function.function, wanted)

    def _grant_sending(self, function: lambda_.Function, targets: list[Task[Any, Any]]) -> None:
        """Sending to the lanes of these tasks; and waking the sweep, where there are too many to send at once."""
        if targets and SWEEP in self.tasks:
            targets = [*targets, self.tasks[SWEEP]]
        if lanes := [lane for target in targets for lane in self._lanes_of(target, target.type)]:
            function.add_to_role_policy(sending(lanes))

    def _grant_every_lane(self, function: TaskFunction) -> None:
        """Sending to all lanes and their DLQs by the pattern of their names, which no front door has."""
        stack = Stack.of(self)
        patterns = [stack.format_arn(service="sqs", resource=f"{self.stage.prefix}-{queue}-*") for queue in Queue]
        function.allow(SENDING, patterns)
        acknowledge_wildcards(
            function.role,
            patterns,
            "The record may hold tasks of types that are deployed no more: of a lane that it may not ask for, SQS does "
            "not say that it is gone, and a lane that was kept takes its messages still.",
        )

    def _grant_looking(self, function: TaskFunction) -> None:
        """Asking the front doors how they are; no message can be read or sent by that."""
        doors = [door.queue.queue_arn for door in self._doors.values()]
        function.allow(["sqs:GetQueueAttributes", "sqs:GetQueueUrl"], doors)

    def _grant_dead_letters(self, function: TaskFunction, cron: CronGroup) -> None:
        """Taking messages from every dead-letter queue, and sending through the front doors what came from there."""
        doors, stack = self._doors.values(), Stack.of(self)
        lanes = [stack.format_arn(service="sqs", resource=f"{self.stage.prefix}-{queue}-*-dlq") for queue in Queue]
        others = [queue.queue_arn for queue in (*(door.dead_letters for door in doors), cron.dead_letters)]
        function.allow(TAKING, [*lanes, *others])
        acknowledge_wildcards(
            function.role,
            lanes,
            "Each lane has a dead-letter queue; one of a type that is deployed no more may hold messages still.",
        )
        function.function.add_to_role_policy(sending(door.queue for door in doors))

    def _grant_looking_at_dead_letters(self, function: TaskFunction) -> None:
        """Receiving dead letters, to tell whether SQS moved them; not deleting any."""
        dead = [pair.dead_letters.queue_arn for pair in (*self._doors.values(), *self._lanes.values())]
        function.allow(["sqs:GetQueueAttributes", "sqs:GetQueueUrl", "sqs:ReceiveMessage"], dead)

    def _add_producer_policies(self) -> dict[str, iam.ManagedPolicy]:
        """``PREFIX-send-NAME-REGION``: for a service that sends jobs, one per front door and one per type.

        ``NAME``: of the front door's queue, or the type's slug, which has a hyphen in the place of the type's colon and
        so never is a queue's name. With the region, because the names of policies are the account's, and a stage may be
        in several regions. In a scope of their own, so that a type which is renamed keeps the policy of its old name.

        A type's policy is all that ``JobClient`` needs to send it. For more than a hundred jobs in one commit it wakes
        the sweep as well; a sender without the policy of ``jobs:sweep`` leaves them to the sweep's next round.
        """
        scope, stage = Construct(self, "Producers"), self.stage

        def policy(name: str, queues: Iterable[sqs.IQueue]) -> iam.ManagedPolicy:
            return iam.ManagedPolicy(
                scope,
                name,
                managed_policy_name=f"{stage.prefix}-send-{name}-{Aws.REGION}",
                description=f"Joblane, {stage.name}: sends {name}",
                statements=[sending(queues)],
            )

        doors = {str(queue): policy(queue, [door.queue]) for queue, door in self._doors.items()}
        types = {
            type_: policy(slug_of(type_), self._lanes_of(task, type_))
            for task in self.tasks.values()
            for type_ in task.types
        }
        return {**doors, **types}

    def _lanes_of(self, task: Task[Any, Any], type_: str) -> list[sqs.Queue]:
        """The lanes of one of the task's types: its own, or an alias."""
        return [self._lanes[type_, queue].queue for queue in task.lanes]


def _metadata(stage: Stage, costs: Mapping[str, Extra]) -> dict[str, Any]:
    """What ``joblane preflight`` compares with account and database, and what ``joblane costs`` computes with."""
    return {
        "Joblane": {
            "stage": stage.name,
            "prefix": stage.prefix,
            "account_concurrency": stage.account_concurrency,
            "database_connections": stage.connections,
            "reserved_connections": stage.reserved_connections,
        },
        METADATA: {
            "architecture": stage.architecture,
            "schedules": dict(stage.schedules),
            "extras": {type_: asdict(extra) for type_, extra in costs.items()},
        },
    }


def shares(stage: Stage, tasks: Tasks) -> dict[str, int]:
    """Lane → ``MaximumConcurrency``, by :func:`~joblane.queues.share_concurrency`."""
    lanes = [
        (lane_name(stage.prefix, queue, task.type), queue, task.max_concurrency)
        for task in tasks.values()
        for queue in task.lanes
    ]
    return share_concurrency(lanes, stage.concurrency_budget)


def _known(things: Mapping[str, T], name: str, problem: str) -> T:
    if name not in things:
        raise SynthError(f"{problem} {name!r}; there are {', '.join(things) or 'none'}")
    return things[name]
