"""The queues, functions and permissions that run jobs, created in a loop over all discovered tasks and functions.

The only task that this module names is the sweep.
"""

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

from joblane.cdk.constructs.code import Shared, Workload
from joblane.cdk.constructs.cron_schedule import CronGroup, CronSchedule
from joblane.cdk.constructs.granted_bucket import (
    GrantedBucket,
    grant_objects,
    read_statements,
    remove_statements,
    write_statements,
)
from joblane.cdk.constructs.migration import Migration
from joblane.cdk.constructs.queue_pair import SENDING, QueuePair, send_statement
from joblane.cdk.constructs.router import VISIBILITY, WAITS, Router
from joblane.cdk.constructs.task_function import OWN_VARIABLES, JobFunction, TaskFunction
from joblane.cdk.costs import METADATA, Extra
from joblane.cdk.database_access import DatabaseAccess
from joblane.cdk.errors import StageError, SynthError
from joblane.cdk.inspector_grants import grant_inspecting
from joblane.cdk.nag import acknowledge_wildcards
from joblane.cdk.settings.stage import Stage
from joblane.cdk.shares import shares
from joblane.declaration import Task
from joblane.enqueue.wake import SWEEP
from joblane.function import Function
from joblane.limits import MAX_BATCH, MIN_CONCURRENCY, RECEIVE_HEADROOM
from joblane.queues import Queue, front_door_name, lane_name, slug_of

SYSTEM = "system:"
"""Category of tasks that monitor the others: they may read the attributes of the front doors."""
EVERY_LANE = "*"
"""In ``Grants.enqueue``: all lanes and their DLQs."""

RECEIVING = (
    "sqs:ChangeMessageVisibility",
    "sqs:DeleteMessage",
    "sqs:GetQueueAttributes",
    "sqs:GetQueueUrl",
    "sqs:ReceiveMessage",
)
"""Actions to receive a queue's messages, to return them, and to delete them."""

T = TypeVar("T")


class Jobs(Construct):
    """Front doors with their router; for each task a function, lanes, schedules, and only the permissions it declares.

    ``access``: to the database. ``buckets``: by the names in ``Grants.buckets``.

    Attributes, each by name:

    - ``queues``: ``default`` is a front door, ``default-data-export`` a lane;
    - ``functions``: ``data:export`` runs a task, ``control`` is a function with its own handler;
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
        if stage.control is None:  # nobody could call the function, and it has many permissions
            functions = {name: function for name, function in functions.items() if not function.inspects}
        options = Stack.of(self).template_options
        options.metadata = {**(options.metadata or {}), **_metadata(stage, costs or {})}
        self._shared = Shared(self, "Code", workload, access)
        self.shares = shares(stage.prefix, stage.concurrency_budget, tasks.values())
        self.migration = Migration(self, "Migration", self._shared)
        self._lanes: dict[tuple[str, Queue], QueuePair] = {}
        self._front_doors: dict[Queue, QueuePair] = {}
        task_functions = {task.type: self._add_task(task) for task in tasks.values()}
        self._add_front_doors()
        cron = self._add_schedules()
        for task in tasks.values():  # all lanes exist now
            function = task_functions[task.type]
            self._grant_enqueue(task, function)
            if task.type.startswith(SYSTEM):
                self._grant_front_door_attributes(function)
            if task.grants.dead_letters:
                self._grant_dead_letters(function, cron)
            if task.type == SWEEP:
                self._grant_receiving_dead_letters(function)
        self.producer_policies = self._add_producer_policies()
        self.functions: dict[str, lambda_.Function] = {
            **{type_: function.function for type_, function in task_functions.items()},
            **{name: self._add_function(name, declared) for name, declared in functions.items()},
        }
        self.queues: dict[str, sqs.Queue] = {
            **{str(queue): front_door.queue for queue, front_door in self._front_doors.items()},
            **{lane.name.removeprefix(f"{stage.prefix}-"): lane.queue for lane in self._lanes.values()},
        }

    @property
    def function_names(self) -> list[str]:
        """Names of all functions on AWS, including router and migration, sorted."""
        return sorted(found.name for found in self.node.find_all() if isinstance(found, JobFunction))

    @property
    def variables(self) -> frozenset[str]:
        """Environment variables that this construct sets: a task may declare them, and a setting must not."""
        return frozenset({*OWN_VARIABLES, *(granted.variable for granted in self._buckets.values())})

    def function_of_api(self, name: str) -> lambda_.Function:
        """Return the function that answers the HTTP API ``name``. Raises :class:`StageError`."""
        if name not in self.functions:
            raise StageError(
                f"stage {self.stage.name!r}: {name}: there is no function {name!r} to answer it; leave it out"
            )
        return self.functions[name]

    def grant_enqueue(self, grantee: iam.IGrantable, *types: str) -> None:
        """Allow ``grantee`` to send tasks of ``types`` to their lanes, and nothing else. Raises :class:`SynthError`."""
        known = {type_: task for task in self.tasks.values() for type_ in task.types}
        for type_ in types:
            lanes = self._lanes_of(_look_up(known, type_, "grant_enqueue: no task"), type_)
            iam.Grant.add_to_principal(
                grantee=grantee, actions=SENDING, resource_arns=[lane.queue_arn for lane in lanes]
            )

    def _add_task(self, task: Task[Any, Any]) -> TaskFunction:
        """Add the task's function and lanes. A lane is the SQS queue of one type in one of the three queues.

        A renamed type keeps the lanes of its old name, read by the same function.
        """
        # the lane's logical id comes from its own type, so it stays the same queue when the type becomes an alias
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
                max_concurrency=self.shares.get(name, MIN_CONCURRENCY),  # an alias has no share
            )
            # the function sends a message without an id again, with an id, and then deletes the first
            function.function.add_to_role_policy(send_statement([self._lanes[type_, queue].queue]))
        for name in task.grants.buckets:
            granted = _look_up(self._buckets, name, f"task {task.type!r}: grants.buckets: no bucket")
            grant_objects(
                function, granted, remove_statements(granted) if granted.removes else write_statements(granted)
            )
        return function

    def _add_function(self, name: str, declared: Function) -> lambda_.Function:
        """Add a function that a ``handler.py`` declares. ``name``: of its folder, with hyphens."""
        where = f"function {name!r}"
        settings = self.stage.settings
        function = JobFunction(
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
        function.function.node.add_dependency(self.migration)
        for bucket in declared.reads:
            granted = _look_up(self._buckets, bucket, f"{where}: reads: no bucket")
            grant_objects(function, granted, read_statements(granted))
        if declared.inspects:
            grant_inspecting(function, self.stage)
        problem = f"{where}: enqueue: no task"
        self._grant_sending(function.function, [_look_up(self.tasks, type_, problem) for type_ in declared.enqueue])
        return function.function

    def _add_front_doors(self) -> None:
        router = Router(self, "Router", self._shared, self.tasks).function
        for queue in Queue:
            self._front_doors[queue] = QueuePair(
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
            router.add_to_role_policy(send_statement(lanes))

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
        """Allow sending to the lanes of the types in ``Grants.enqueue`` and ``on_archived``, and waking the sweep."""
        follows = (task.follower,) if task.follower else ()
        if EVERY_LANE in task.grants.enqueue:
            self._grant_every_lane(function)
            return
        problem = f"task {task.type!r}: grants.enqueue: no task"
        wanted = [_look_up(self.tasks, type_, problem) for type_ in (*task.grants.enqueue, *follows)]
        self._grant_sending(function.function, wanted)

    def _grant_sending(self, function: lambda_.Function, targets: list[Task[Any, Any]]) -> None:
        """Allow sending to the lanes of ``targets``, and waking the sweep for more messages than one call sends."""
        if targets and SWEEP in self.tasks:
            targets = [*targets, self.tasks[SWEEP]]
        if lanes := [lane for target in targets for lane in self._lanes_of(target, target.type)]:
            function.add_to_role_policy(send_statement(lanes))

    def _grant_every_lane(self, function: TaskFunction) -> None:
        """Allow sending to all lanes and their DLQs by a name pattern that no front door matches."""
        stack = Stack.of(self)
        patterns = [stack.format_arn(service="sqs", resource=f"{self.stage.prefix}-{queue}-*") for queue in Queue]
        function.allow(SENDING, patterns)
        acknowledge_wildcards(
            function.role,
            patterns,
            "The database may hold tasks of types that are no longer deployed. A lane that was kept still accepts "
            "their messages, and without permission for a lane SQS does not say that the lane no longer exists.",
        )

    def _grant_front_door_attributes(self, function: TaskFunction) -> None:
        """Allow reading the attributes of the front doors. It shows and sends no message."""
        front_doors = [front_door.queue.queue_arn for front_door in self._front_doors.values()]
        function.allow(["sqs:GetQueueAttributes", "sqs:GetQueueUrl"], front_doors)

    def _grant_dead_letters(self, function: TaskFunction, cron: CronGroup) -> None:
        """Allow taking messages from every dead-letter queue, and sending dead letters of front doors back to these."""
        front_doors, stack = self._front_doors.values(), Stack.of(self)
        lanes = [stack.format_arn(service="sqs", resource=f"{self.stage.prefix}-{queue}-*-dlq") for queue in Queue]
        dead_letters = [*(front_door.dead_letters for front_door in front_doors), cron.dead_letters]
        function.allow(RECEIVING, [*lanes, *(queue.queue_arn for queue in dead_letters)])
        acknowledge_wildcards(
            function.role,
            lanes,
            "Each lane has a dead-letter queue, and that of a type that is no longer deployed may still hold messages.",
        )
        function.function.add_to_role_policy(send_statement(front_door.queue for front_door in front_doors))

    def _grant_receiving_dead_letters(self, function: TaskFunction) -> None:
        """Allow receiving dead letters, to detect those that SQS itself moved. It does not allow deleting them."""
        dead_letters = [pair.dead_letters.queue_arn for pair in (*self._front_doors.values(), *self._lanes.values())]
        function.allow(["sqs:GetQueueAttributes", "sqs:GetQueueUrl", "sqs:ReceiveMessage"], dead_letters)

    def _add_producer_policies(self) -> dict[str, iam.ManagedPolicy]:
        """Add ``PREFIX-send-NAME-REGION`` for services that send jobs: a policy per front door and a policy per type.

        ``NAME``: the queue of the front door, or the slug of the type. The slug has a hyphen in place of the type's
        colon, so it is never the name of a queue. The name includes the region, because policy names are unique in the
        account and a stage can be in several regions. The policies are in their own scope, so that a renamed type keeps
        the policy of its old name.

        The policy of a type is all that ``JobClient`` needs to send it. After a commit of more than a hundred jobs
        the client also wakes the sweep; without the policy of ``jobs:sweep`` they wait for the sweep's next run.
        """
        scope, stage = Construct(self, "Producers"), self.stage

        def policy(name: str, queues: Iterable[sqs.IQueue]) -> iam.ManagedPolicy:
            return iam.ManagedPolicy(
                scope,
                name,
                managed_policy_name=f"{stage.prefix}-send-{name}-{Aws.REGION}",
                description=f"Joblane, {stage.name}: sends {name}",
                statements=[send_statement(queues)],
            )

        front_doors = {str(queue): policy(queue, [pair.queue]) for queue, pair in self._front_doors.items()}
        types = {
            type_: policy(slug_of(type_), self._lanes_of(task, type_))
            for task in self.tasks.values()
            for type_ in task.types
        }
        return {**front_doors, **types}

    def _lanes_of(self, task: Task[Any, Any], type_: str) -> list[sqs.Queue]:
        """Return the lanes of ``type_``, which is the task's own type or an alias."""
        return [self._lanes[type_, queue].queue for queue in task.lanes]


def _metadata(stage: Stage, costs: Mapping[str, Extra]) -> dict[str, Any]:
    """Return the settings that ``joblane preflight`` and ``joblane costs`` read from the template."""
    return {
        "Joblane": {
            "stage": stage.name,
            "prefix": stage.prefix,
            "concurrency_budget": stage.concurrency_budget,
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


def _look_up(things: Mapping[str, T], name: str, problem: str) -> T:
    if name not in things:
        raise SynthError(f"{problem} {name!r}; there are {', '.join(things) or 'none'}")
    return things[name]
