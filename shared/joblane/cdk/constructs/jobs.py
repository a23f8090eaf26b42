"""The queues, functions and permissions that run jobs, created in a loop over all discovered tasks and functions.

The only task that this module names is the sweep.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any, TypeVar, cast

from aws_cdk import Aws, CfnResource, Stack
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_sqs as sqs
from constructs import Construct

from joblane.cdk.constructs.code import Shared, Workload
from joblane.cdk.constructs.cron_schedule import CronGroup, add_schedules
from joblane.cdk.constructs.event_bus import EventBus, bus_name, check_events
from joblane.cdk.constructs.granted_bucket import GrantedBucket, grant_objects
from joblane.cdk.constructs.migration import Migration, digest_of_migrations
from joblane.cdk.constructs.nested_stacks import Parts
from joblane.cdk.constructs.queue_pair import RECEIVING, SENDING, QueuePair, add_mapping, queue_arn, send_statement
from joblane.cdk.constructs.router import Router
from joblane.cdk.constructs.shared_page import page_url, role_session
from joblane.cdk.constructs.stage_key import with_keys
from joblane.cdk.constructs.task_function import OWN_VARIABLES, JobFunction, TaskFunction
from joblane.cdk.database_access import DatabaseAccess
from joblane.cdk.errors import StageError, SynthError
from joblane.cdk.inspector_grants import grant_inspecting
from joblane.cdk.nag import acknowledge_wildcards
from joblane.cdk.settings.database import OwnDatabase
from joblane.cdk.shares import shares
from joblane.cdk.templates import COSTS, SETTINGS, Extra
from joblane.inspector.person import PAGE_ROLE
from joblane.names import (
    SWEEP,
    SYSTEM_TYPES,
    Queue,
    dead_letter_name,
    front_door_name,
    lane_name,
    own_lane_name,
    slug_of,
)
from joblane.quotas import FRONT_DOOR, MAX_BATCH, MIN_CONCURRENCY
from joblane.record.migrations import newest
from joblane.tasks.function import Function
from joblane.tasks.places import drained_lanes, numbers_of, places_of
from joblane.tasks.task import EVERY_LANE, Task

MEASURING = ["sqs:GetQueueAttributes", "sqs:GetQueueUrl"]
T = TypeVar("T")


class Jobs(Construct):
    """Front doors with their router; for each task a function, lanes, schedules, and only the permissions it declares.

    ``access``: to the database. ``buckets``: by the names in ``Grants.buckets``. The resources of a type are in one of
    the nested stacks of :mod:`joblane.cdk.constructs.nested_stacks`. A local stage has none, because its emulator does
    not know them.

    Attributes, each by name:

    - ``queues``: ``default`` is a front door, ``default-data-export`` a lane;
    - ``functions``: ``data:export`` runs a task, ``control`` is a function with its own handler;
    - ``producer_policies``: ``data:export`` sends that type to its lanes, ``default`` sends to that front door;
    - ``shares``: lane → ``MaximumConcurrency``.

    ``event_bus``: the bus that gets the events of tasks; None: no task declares events.
    ``page_url``: the address of the page, for other stacks; None: the stage has no page.
    ``function_names``: of all functions on AWS, including router and migration, sorted.
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
        self.page_url = page_url(self.stage)
        stage, tasks, functions = self.stage, self.tasks, workload.functions
        if stage.control is None:  # nobody could call the function, and it has many permissions
            functions = {name: function for name, function in functions.items() if not function.inspects}
        options = Stack.of(self).template_options
        self._shared = Shared(self, "Code", workload, access)
        options.metadata = {**(options.metadata or {}), **_metadata(self._shared, tasks, costs or {})}
        self.shares = shares(stage.prefix, stage.concurrency_budget, tasks.values())
        self.migration = Migration(self, "Migration", self._shared)
        if access.place and (role := self.migration.function.role):
            access.place.keep(role)
        self._router = Router(self, "Router", self._shared, tasks)
        self._front_doors = {queue: self._add_front_door(queue) for queue in Queue}
        self._cron = CronGroup(self, "Cron", stage=stage)
        self._parts = Parts(
            self, "Types", flat=stage.local, description=f"Joblane, {stage.name}: task types with their lanes"
        )
        sends = check_events(stage, tasks.values())
        self._events = EventBus(self, "Events", stage=stage, tasks=tasks.values()) if sends else None
        self.event_bus = self._events and self._events.bus
        self._lanes: dict[tuple[str, Queue], QueuePair] = {}
        self.producer_policies = {
            str(queue): self._add_producer_policy(self, str(queue), [front_door.name])
            for queue, front_door in self._front_doors.items()
        }
        places = places_of(tasks.values())
        for place in places:
            if place.name in functions:
                raise SynthError(f"{place.what}: name: it is the name of the function {place.name!r}; choose another")
        alone = ([task] for task in tasks.values() if task.place is None)
        task_functions = {
            task.type: function
            for members in (*alone, *places.values())
            for function in [self._add_tasks(members)]
            for task in members
        }
        own = {name: self._add_function(name, declared) for name, declared in functions.items()}
        self.functions: dict[str, lambda_.Function] = {
            name: function.function for name, function in {**task_functions, **own}.items()
        }
        self.queues: dict[str, sqs.Queue] = {
            pair.name.removeprefix(f"{stage.prefix}-"): pair.queue
            for pair in (*self._front_doors.values(), *self._lanes.values())
        }
        others = [self._router.name, self.migration.name]
        self.function_names = sorted({*others, *(function.name for function in {**task_functions, **own}.values())})

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
        """Allow ``grantee`` to send tasks of ``types`` to their lanes and to wake the sweep, and nothing else.

        Raises :class:`SynthError`.
        """
        known = {type_: task for task in self.tasks.values() for type_ in task.types}
        for type_ in types:
            lanes = self._lanes_of_producers(_look_up(known, type_, "grant_enqueue: no task"), type_)
            for statement in with_keys(self.stage, send_statement(lanes)):
                iam.Grant.add_to_principal(
                    grantee=grantee,
                    actions=statement.actions,
                    resource_arns=statement.resources,
                    conditions=statement.conditions,
                )

    def _add_front_door(self, queue: Queue) -> QueuePair:
        front_door = QueuePair(
            self,
            f"FrontDoor{queue.capitalize()}",
            stage=self.stage,
            name=front_door_name(self.stage.prefix, queue),
            visibility=FRONT_DOOR.visibility,
            max_receive_count=FRONT_DOOR.max_receive_count,
        )
        router = self._router.function.function_arn
        front_door.add_mapping(router, batch_size=MAX_BATCH, max_concurrency=MIN_CONCURRENCY)
        return front_door

    # --- Task types ------------------------------------------------------------------------------------------------

    def _add_tasks(self, tasks: Sequence[Task[Any, Any]]) -> TaskFunction:
        """Add the function of a task, or of all tasks of a place, with lanes, schedules and producers' policies.

        A renamed type keeps the lanes of its old name, read by the same function, and so do the types that a place
        drains. They stay in the old name's part and scope, so they are the same queues to CloudFormation.
        """
        place = tasks[0].place
        numbers = tasks[0].numbers if place is None else numbers_of(place, tasks)
        scopes = {type_: self._parts.new_scope(type_, slug_of(type_)) for task in tasks for type_ in task.types}
        home = scopes[tasks[0].type] if place is None else self._parts.new_scope(place.name, place.name)
        function = TaskFunction(home, "Function", self._shared, tasks, numbers)
        function.function.node.add_dependency(self.migration.run)
        lanes: dict[str, QueuePair] = {}
        for task in tasks:
            for type_ in task.types:
                for queue in task.lanes:
                    name = lane_name(self.stage.prefix, queue, type_)
                    if name not in lanes:
                        scope = scopes[type_] if place is None else home
                        lanes[name] = self._add_lane(scope, name, task, queue, function, in_home=scope is home)
                    self._lanes[type_, queue] = lanes[name]
                    if place is not None and type_ in place.drains:
                        own = own_lane_name(self.stage.prefix, queue, type_)
                        self._add_lane(scopes[type_], own, task, queue, function, in_home=False)
                self.producer_policies[type_] = self._add_producer_policy(
                    scopes[type_], slug_of(type_), self._lanes_of_producers(task, type_)
                )
            if task.schedules:
                lane = self._lanes[task.type, task.queue]
                arn = lane.queue.queue_arn if place is None else queue_arn(lane.name)
                add_schedules(scopes[task.type], group=self._cron, task=task, lane=arn, name=lane.name)
        self._grant(tasks, function)
        return function

    def _add_lane(
        self,
        scope: Construct,
        name: str,
        task: Task[Any, Any],
        queue: Queue,
        function: TaskFunction,
        *,
        in_home: bool,
    ) -> QueuePair:
        """Add the SQS queue ``name``, with ``function`` as its consumer. ``in_home``: both are in the same part."""
        id_ = f"Lane{queue.capitalize()}"
        lane = QueuePair(
            scope,
            id_,
            stage=self.stage,
            name=name,
            visibility=function.numbers.visibility,
            max_receive_count=function.numbers.max_receive_count,
            closed_to=None if task.front_door else self._router.role.role_arn,
        )
        of_mapping = {"batch_size": task.batch_size, "max_concurrency": self.shares.get(name, MIN_CONCURRENCY)}
        if in_home:
            lane.add_mapping(function.function.function_arn, **of_mapping)
        else:  # a former lane, which has no share
            self._add_mapping_of_former_lane(lane, function, f"{scope.node.id}{id_}", **of_mapping)
        function.allow(RECEIVING, [queue_arn(name)])
        # the function sends a message without an id again, with an id, and then deletes the first
        function.permit(send_statement([name, dead_letter_name(name)]))
        return lane

    def _add_mapping_of_former_lane(self, lane: QueuePair, function: TaskFunction, id_: str, **numbers: int) -> None:
        """Add the mapping of the lane of an alias, or of a type that its place drains, outside of the parts.

        Lane and function can be in two parts. In one of them the mapping would make it depend on the other, and two
        renamed types could make two parts depend on each other.

        The deploy that renames a type creates this mapping before it deletes the old function with its mapping:
        CloudFormation deletes nothing in a nested stack before all nested stacks are updated. Until then old and new
        code both receive from the lane, as in every deploy, and a message is delivered to one of them.
        Source: AWS re:Post, *Why is my CloudFormation stack stuck in … UPDATE_COMPLETE_CLEANUP_IN_PROGRESS*.
        """
        mapping = add_mapping(
            self._parts, f"Alias-{id_}", queue=queue_arn(lane.name), function=function.name, **numbers
        )
        for construct in (lane.queue, function.function):
            mapping.add_resource_dependency(cast(CfnResource, construct.node.default_child))

    def _add_producer_policy(self, scope: Construct, name: str, queues: Iterable[str]) -> iam.ManagedPolicy:
        """Add ``PREFIX-send-NAME-REGION`` for services that send jobs to ``queues``.

        ``name``: the queue of a front door, or the slug of a type. The slug has a hyphen in place of the type's colon,
        so it is never the name of a queue. The name includes the region, because policy names are unique in the account
        and a stage can be in several regions.

        The policy of a type is all that ``JobClient`` needs to enqueue it: it allows to wake the sweep, too. The policy
        of a front door is for senders without the database, which wake nothing.
        """
        return iam.ManagedPolicy(
            scope,
            f"Producer-{name}",
            managed_policy_name=f"{self.stage.prefix}-send-{name}-{Aws.REGION}",
            description=f"Joblane, {self.stage.name}: sends {name}",
            statements=[*with_keys(self.stage, send_statement(queues))],
        )

    def _grant(self, tasks: Sequence[Task[Any, Any]], function: TaskFunction) -> None:
        """Allow what the tasks of a function declare, and what Joblane's own tasks need."""
        buckets = [(name, task.type) for task in tasks for name in task.grants.buckets]
        for name, type_ in dict(reversed(buckets)).items():
            granted = _look_up(self._buckets, name, f"task {type_!r}: grants.buckets: no bucket")
            grant_objects(function, granted, reads=False)
        self._grant_enqueue(tasks, function)
        if any(task.type.startswith(SYSTEM_TYPES) for task in tasks):  # it shows and sends no message
            function.allow(MEASURING, [queue_arn(front_door.name) for front_door in self._front_doors.values()])
        if any(task.grants.dead_letters for task in tasks):
            self._grant_dead_letters(function, takes=True)
        sweeps = any(task.type == SWEEP for task in tasks)
        if self._events and (sweeps or any(task.events for task in tasks)):  # the sweep sends what others could not
            self._events.allow_sending(function)
        if sweeps:
            function.allow(MEASURING, self._every_lane())
            self._grant_dead_letters(function, takes=False)

    def _grant_enqueue(self, tasks: Sequence[Task[Any, Any]], function: TaskFunction) -> None:
        """Allow sending to the lanes of the types in ``Grants.enqueue``, ``Grants.run`` and ``on_archived``, of those
        that the end of a task can start or continue, and waking the sweep."""
        wanted: list[Task[Any, Any]] = []
        for task in tasks:
            named = (*task.grants.enqueue, *((task.follower,) if task.follower else ()))
            wanted += (self.tasks[type_] for type_ in named if type_ != EVERY_LANE)
            wanted += self._children_of(task)
            wanted += self._limited_with(task)
            wanted += (other for other in self.tasks.values() if task in self._children_of(other))
        if any(EVERY_LANE in task.grants.enqueue for task in tasks):
            # and their DLQs: by a name pattern that no front door matches
            function.allow(SENDING, self._every_lane())
            acknowledge_wildcards(
                function.role,
                self._every_lane(),
                "The database may hold tasks of types that are no longer deployed. A lane that was kept still accepts "
                "their messages, and without permission for a lane SQS does not say that the lane no longer exists.",
            )
            return
        self._grant_sending(function, list(dict.fromkeys(wanted)))

    def _children_of(self, task: Task[Any, Any]) -> list[Task[Any, Any]]:
        """Return the tasks for whose results this one waits."""
        return [self.tasks[type_] for type_ in task.grants.run]

    def _limited_with(self, task: Task[Any, Any]) -> Iterator[Task[Any, Any]]:
        """Yield the tasks that the end of this one can start: its own if it has limits, and others that share one."""
        for other in self.tasks.values() if task.flow else ():
            if other is task or (task.flow and task.flow.limit and other.flow and other.flow.limit == task.flow.limit):
                yield other

    def _grant_sending(self, function: JobFunction, targets: list[Task[Any, Any]]) -> None:
        """Allow sending to the lanes of ``targets``, and waking the sweep, as each function that writes has to."""
        lanes = self._with_sweep([lane for target in targets for lane in self._lanes_of(target, target.type)])
        function.permit(send_statement(lanes))

    def _with_sweep(self, lanes: Iterable[str]) -> list[str]:
        """Return ``lanes`` with that of the sweep: who writes to the database sends a wake there."""
        sweep = self.tasks[SWEEP]
        return list(dict.fromkeys([*lanes, *self._lanes_of(sweep, SWEEP)]))

    def _grant_dead_letters(self, function: TaskFunction, *, takes: bool) -> None:
        """Allow receiving dead letters, to detect those that SQS itself moved. It does not allow deleting them.

        ``takes``: allow taking messages from every dead-letter queue, and sending dead letters of front doors back to
        these.
        """
        front_doors = [front_door.name for front_door in self._front_doors.values()]
        lanes = [dead_letter_name(lanes) for lanes in self._every_lane()]
        others = [queue_arn(dead_letter_name(name)) for name in front_doors]
        if takes:
            function.allow(RECEIVING, [*lanes, *others, queue_arn(self._cron.dead_letters)])
            function.permit(send_statement(front_doors))
        else:
            function.allow([*MEASURING, "sqs:ReceiveMessage"], [*lanes, *others])
        acknowledge_wildcards(
            function.role,
            lanes,
            "Each lane has a dead-letter queue, and that of a type that is no longer deployed may still hold messages. "
            "A list of hundreds of queues would be longer than IAM allows.",
        )

    def _every_lane(self) -> list[str]:
        return [queue_arn(f"{self.stage.prefix}-{queue}-*") for queue in Queue]

    # --- Functions with their own handler --------------------------------------------------------------------------

    def _add_function(self, name: str, declared: Function) -> JobFunction:
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
            environment={
                **{key: settings[key] for key in declared.environment if key in settings},
                **({PAGE_ROLE: role_session(self.stage)} if declared.inspects and self.stage.page else {}),
            },
            login=self._shared.access.functions,
            reserved_concurrency=self.stage.reserved.get(name),
        )
        function.function.node.add_dependency(self.migration.run)
        for bucket in declared.reads:
            granted = _look_up(self._buckets, bucket, f"{where}: reads: no bucket")
            grant_objects(function, granted, reads=True)
        if declared.inspects:
            mails = any(task.grants.mail for task in self.tasks.values())
            bus = bus_name(self.stage) if self._events else None
            grant_inspecting(function, self.stage, self.stage.ses_sender if mails else None, bus)
        problem = f"{where}: enqueue: no task"
        self._grant_sending(function, [_look_up(self.tasks, type_, problem) for type_ in declared.enqueue])
        return function

    def _lanes_of(self, task: Task[Any, Any], type_: str) -> list[str]:
        """Return the names of the lanes of ``type_``, which is the task's own type or an alias."""
        return [lane_name(self.stage.prefix, queue, type_) for queue in task.lanes]

    def _lanes_of_producers(self, task: Task[Any, Any], type_: str) -> list[str]:
        """Return the lanes to which a producer of ``type_`` may send, also before its own deploy: the drained ones."""
        return self._with_sweep([*self._lanes_of(task, type_), *drained_lanes(self.stage.prefix, task, type_)])


def _metadata(shared: Shared, tasks: Mapping[str, Task[Any, Any]], costs: Mapping[str, Extra]) -> dict[str, Any]:
    """Return what ``joblane preflight``, ``joblane costs`` and ``joblane deploy --watch`` read from the template."""
    stage = shared.stage
    return {
        SETTINGS: {
            "stage": stage.name,
            "prefix": stage.prefix,
            "concurrency_budget": stage.concurrency_budget,
            "account_concurrency": stage.account_concurrency,
            "database_connections": stage.connections,
            "reserved_connections": stage.reserved_connections,
            "database": stage.database.kind,
            "restored": stage.database.restored.resource_id
            if isinstance(stage.database, OwnDatabase) and stage.database.restored
            else None,
            "schema": {"revision": newest(), "own": digest_of_migrations(shared.project) or shared.hash},
            "limits": {
                type_: "|".join(name or "" for name in (*task.flow.names(task.type), *task.flow.key))
                for task in tasks.values()
                if task.flow
                for type_ in task.types
            },
            "keys": dict(stage.keys),
            **({"images": images} if (images := {name: vars(each) for name, each in stage.ecr_images.items()}) else {}),
        },
        COSTS: {
            "architecture": stage.architecture,
            "schedules": dict(stage.schedules),
            "sweep_minutes": stage.sweep_minutes,
            "extras": {type_: asdict(extra) for type_, extra in costs.items()},
        },
    }


def _look_up(things: Mapping[str, T], name: str, problem: str) -> T:
    if name not in things:
        raise SynthError(f"{problem} {name!r}; there are {', '.join(things) or 'none'}")
    return things[name]
