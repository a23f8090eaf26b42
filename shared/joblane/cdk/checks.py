"""Checks of a stage's templates: no message may be lost, repeated or starved, and CloudFormation must accept them.

The checks read finished templates, not constructs, so they apply to every stack, however it was written.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from joblane.cdk.errors import RefusedTemplateError
from joblane.cdk.preflight.concurrency import request
from joblane.cdk.settings.apis import HttpLimits
from joblane.cdk.settings.database import OwnDatabase
from joblane.cdk.settings.stage import Stage
from joblane.cdk.shares import Lanes, fitting_budget
from joblane.cdk.sizes import problems_of_size
from joblane.cdk.templates import Properties, Template, name_of, of_type, stacks_of, variables, whole
from joblane.names import Queue, dead_letter_name, front_door_name
from joblane.quotas import LEASE_MARGIN, MIN_CONCURRENCY, THROTTLED_TIME, VISIBILITY_MARGIN

CONNECTIONS_PER_SLOT = 2
"""The connection of the task, and for a short time a second one: after its commit a session can run no SQL."""
AFTER_TIMEOUT = round((LEASE_MARGIN + VISIBILITY_MARGIN).total_seconds())
"""Seconds from the timeout of a function to the least visibility timeout of its queue."""
DEFAULT_VISIBILITY, DEFAULT_RETENTION, DEFAULT_TIMEOUT = 30, 345_600, 3
"""Seconds that apply if a template has no value.

Source: CloudFormation, AWS::SQS::Queue and AWS::Lambda::Function."""


@dataclass(frozen=True)
class Mapped:
    """An event source mapping. ``queue`` and ``function`` are empty if the templates do not contain them.

    ``reserved``: the reserved concurrency of the function; None: it has none.
    """

    properties: Properties
    source: str
    queue: Properties
    function_name: str
    function: Properties
    max_concurrency: int | None
    reserved: int | None


def check(templates: Mapping[str, Template], stage: Stage, lanes: Lanes) -> None:
    """Raise :class:`RefusedTemplateError` with all problems in the templates of one stage, by the names of the stacks.

    The name of a nested stack is ``STACK/LOGICAL_ID``, as :func:`~joblane.cdk.templates.read_assembly` returns it.
    """
    if problems := problems_of(templates, stage, lanes):
        raise RefusedTemplateError(problems)


def problems_of(templates: Mapping[str, Template], stage: Stage, lanes: Lanes) -> list[str]:
    """Return all problems in the templates of one stage, one sentence each. ``lanes``: those that share its budget."""
    merged = [whole(templates, stack) for stack in stacks_of(templates)]
    mappings = [mapped for template in merged for mapped in mappings_of(template)]
    return [
        *problems_of_size(templates, merged),
        *(problem for mapped in mappings for problem in _mapping(mapped, stage)),
        *_shared_queues(mappings),
        *_budgets(mappings, stage, lanes),
        *(problem for template in merged for problem in _queues(template)),
        *(problem for template in merged for problem in _environments(template)),
    ]


def throttling(templates: Mapping[str, Template], stage: Stage, lanes: Lanes) -> str | None:
    """Return a sentence if the slots exceed ``account_concurrency`` with every ``concurrency_budget``. AWS accepts it.

    :mod:`joblane.cdk.preflight.concurrency` decides the same for the account itself.
    """
    mappings = [mapped for stack in stacks_of(templates) for mapped in mappings_of(whole(templates, stack))]
    excess = _excess(mappings, stage)
    if excess is None or _fitting_budget(mappings, stage, lanes) is not None:
        return None
    enough = sum(_slots(mappings).values()) + sum(stage.reserved.values())
    return (
        f"{excess}; no concurrency_budget fits, because each lane gets {MIN_CONCURRENCY}. The deploy works. When many "
        f"tasks are due at once, Lambda throttles some. Request a higher quota: {request(enough)}"
    )


# --- One mapping ---------------------------------------------------------------------------------------------------


def _mapping(mapped: Mapped, stage: Stage) -> Iterator[str]:
    queue, maximum = f"queue {mapped.source}", mapped.max_concurrency
    if "FilterCriteria" in mapped.properties:
        yield (
            f"{queue}: its mapping filters events, and messages that the filter does not match are deleted; "
            "create a queue for each consumer instead"
        )
    if "ReportBatchItemFailures" not in mapped.properties.get("FunctionResponseTypes", []):
        yield f"{queue}: its mapping lacks ReportBatchItemFailures: one failure repeats the whole batch"
    if maximum is None:
        yield (
            f"{queue}: its mapping lacks MaximumConcurrency: throttled receives count towards maxReceiveCount, "
            "and the number of database connections has no limit"
        )
    reserved = mapped.reserved
    if maximum is not None and reserved is not None and reserved < maximum:
        yield (
            f"function {mapped.function_name}: its reserved concurrency of {reserved} is below the "
            f"{maximum} of the mapping of {mapped.source}: throttled receives count towards maxReceiveCount"
        )
    timeout = mapped.function.get("Timeout", DEFAULT_TIMEOUT)
    visibility = mapped.queue.get("VisibilityTimeout", DEFAULT_VISIBILITY)
    if mapped.queue and visibility < timeout + AFTER_TIMEOUT:
        yield (
            f"{queue}: a visibility timeout of {visibility} s is not {AFTER_TIMEOUT} s longer than the "
            f"{timeout} s timeout of function {mapped.function_name}: messages become visible again during their run"
        )
    receives = mapped.queue.get("RedrivePolicy", {}).get("maxReceiveCount")
    is_own = any(f"{mapped.source}-".startswith(f"{front_door_name(stage.prefix, queue)}-") for queue in Queue)
    if is_own and receives is not None and receives * visibility < THROTTLED_TIME.total_seconds():
        yield (
            f"{queue}: {receives} receives last {receives * visibility} s, and messages that Lambda throttles for "
            f"{THROTTLED_TIME} must not become dead letters"
        )
    if mapped.queue and "RedrivePolicy" not in mapped.queue:
        yield f"{queue}: has a consumer and no dead-letter queue: a message that always fails expires unnoticed"


# --- All mappings --------------------------------------------------------------------------------------------------


def _shared_queues(mappings: Iterable[Mapped]) -> Iterator[str]:
    consumers: dict[str, list[str]] = defaultdict(list)
    for mapped in mappings:
        consumers[mapped.source].append(mapped.function_name)
    for source, names in consumers.items():
        if len(names) > 1:
            yield f"queue {source}: has {len(names)} consumers ({', '.join(names)}): each takes messages of the others"


def _budgets(mappings: Sequence[Mapped], stage: Stage, lanes: Lanes) -> Iterator[str]:
    all_slots = _slots(mappings)
    if (excess := _excess(mappings, stage)) and (budget := _fitting_budget(mappings, stage, lanes)) is not None:
        yield (
            f"{excess}: lower concurrency_budget ({stage.concurrency_budget}) to {budget}, or raise "
            "account_concurrency if the account has more concurrent executions"
        )
    requests = {name: api.at_once for name, api in stage.apis.items()}
    connections = (all_slots[True] + sum(requests.values())) * CONNECTIONS_PER_SLOT + stage.reserved_connections
    if connections > stage.connections:
        also = "".join(f" and {at_once} requests to {name}" for name, at_once in requests.items())
        api_settings = "".join(_lower(name, api) for name, api in stage.apis.items())
        yield (
            f"stage {stage.name}: {all_slots[True]} concurrent tasks{also} × {CONNECTIONS_PER_SLOT} connections + "
            f"{stage.reserved_connections} reserved make {connections}, above database_connections "
            f"{stage.connections}: lower concurrency_budget ({stage.concurrency_budget})"
            f"{api_settings}{_raise_connections(stage, connections)}"
        )


def _slots(mappings: Iterable[Mapped]) -> dict[bool, int]:
    """Return the sums of ``MaximumConcurrency``: of functions with a database (True), and of the others."""
    found = {True: 0, False: 0}
    for mapped in mappings:
        found["DATABASE_URL" in variables(mapped.function)] += mapped.max_concurrency or 0
    return found


def _excess(mappings: Iterable[Mapped], stage: Stage) -> str | None:
    slots, reserved = sum(_slots(mappings).values()), stage.reserved
    if slots + sum(reserved.values()) <= stage.account_concurrency:
        return None
    also = "".join(f" with {name}.max_concurrency {maximum}" for name, maximum in reserved.items())
    return (
        f"stage {stage.name}: the mappings' concurrency adds up to {slots + sum(reserved.values())}{also}, above "
        f"account_concurrency {stage.account_concurrency}"
    )


def _fitting_budget(mappings: Iterable[Mapped], stage: Stage, lanes: Lanes) -> int | None:
    free = stage.account_concurrency - sum(stage.reserved.values())
    return fitting_budget(lanes, sum(_slots(mappings).values()), stage.concurrency_budget, free)


def _lower(name: str, api: HttpLimits) -> str:
    if api.max_concurrency is None:
        return f" or set {name}.max_concurrency (now {api.at_once}, from {name}.rate_per_second)"
    return f" or {name}.max_concurrency ({api.max_concurrency})"


def _raise_connections(stage: Stage, connections: int) -> str:
    if not isinstance(stage.database, OwnDatabase):
        return ", or raise max_connections of the database and database_connections with it"
    if connections <= stage.database.max_connections:
        return ", or leave database_connections out"
    enough = stage.database.enough_for(connections)
    return f", or {enough}" if enough else f"; no {stage.database.LARGEST} accepts that many"


# --- Queues and functions ------------------------------------------------------------------------------------------


def _queues(template: Template) -> Iterator[str]:
    seen: set[str] = set()
    for logical_id, queue in of_type(template, "AWS::SQS::Queue"):
        name = name_of(queue, "QueueName", logical_id)
        if name in seen:
            yield f"queue {name}: two queues have this name; rename a task"
        seen.add(name)
        policy = queue.get("RedrivePolicy")
        if policy is None:
            continue
        if name.endswith(dead_letter_name("")):
            yield f"queue {name}: its name ends as that of a dead-letter queue does; rename the task"
        dead_id = _logical_id(policy["deadLetterTargetArn"], {})
        dead = _properties(template, dead_id)
        kept, dead_kept = (item.get("MessageRetentionPeriod", DEFAULT_RETENTION) for item in (queue, dead))
        if dead and dead_kept <= kept:
            yield (
                f"queue {name}: its dead letters are kept {dead_kept} s and its messages {kept} s, and both times "
                "start when the message is sent: keep dead letters longer, or they expire on arrival"
            )
        used_up = policy["maxReceiveCount"] * queue.get("VisibilityTimeout", DEFAULT_VISIBILITY)
        if used_up >= kept:
            yield (
                f"queue {name}: {policy['maxReceiveCount']} receives can take {used_up} s and messages are kept "
                f"{kept} s: they expire before they reach the dead-letter queue"
            )


def _environments(template: Template) -> Iterator[str]:
    for logical_id, function in of_type(template, "AWS::Lambda::Function"):
        called = name_of(function, "FunctionName", logical_id)
        for name in (name for name, value in variables(function).items() if "{{resolve:" in json.dumps(value)):
            yield (
                f"function {called}: its variable {name} is a dynamic reference, and everyone who may read the "
                "configuration of the function would read the secret; refer to it in the stage's settings by "
                '{"secret": "NAME"}, or read it in the function'
            )


# --- Reading a template --------------------------------------------------------------------------------------------


def mappings_of(template: Template) -> Iterator[Mapped]:
    """Return the event source mappings of a template, see :func:`~joblane.cdk.templates.whole`."""
    names = {
        found.get(key): logical_id
        for kind, key in (("AWS::SQS::Queue", "QueueName"), ("AWS::Lambda::Function", "FunctionName"))
        for logical_id, found in of_type(template, kind)
        if isinstance(found.get(key), str)
    }
    for _, properties in of_type(template, "AWS::Lambda::EventSourceMapping"):
        queue_id, function_id = (_logical_id(properties.get(key), names) for key in ("EventSourceArn", "FunctionName"))
        queue, function = _properties(template, queue_id), _properties(template, function_id)
        yield Mapped(
            properties=properties,
            source=name_of(queue, "QueueName", queue_id),
            queue=queue,
            function_name=name_of(function, "FunctionName", function_id),
            function=function,
            max_concurrency=properties.get("ScalingConfig", {}).get("MaximumConcurrency"),
            reserved=function.get("ReservedConcurrentExecutions"),
        )


def _logical_id(value: Any, names: Mapping[Any, str]) -> str:
    """Return the logical id that a reference, a name or an ARN that ends in a name stands for. ``names``: of resources.

    For any other value, such as an import, return its text: it is the same for the same resource.
    """
    match value:
        case {"Ref": str(logical_id)} | {"Fn::GetAtt": [str(logical_id), *_]}:
            return logical_id
        case {"Fn::Join": ["", [*_, str(end)]]} if (name := end.rpartition(":")[2]) in names:
            return names[name]
        case str():
            return names.get(value.rpartition(":")[2], value)
    return json.dumps(value, sort_keys=True)


def _properties(template: Template, logical_id: str) -> Properties:
    found: Properties = template.get("Resources", {}).get(logical_id, {}).get("Properties", {})
    return found
