"""What is refused in a template, because messages would be lost, repeated or starved, or because it would not deploy.

On the finished templates and not on the constructs: so it holds for every stack and for every way to write one.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from joblane.cdk.errors import RefusedTemplateError
from joblane.cdk.settings.apis import HttpLimits
from joblane.cdk.settings.database import Aurora
from joblane.cdk.settings.stage import Stage
from joblane.cdk.templates import Properties, Template, of_type

CONNECTIONS_PER_SLOT = 2
"""One for the task, and one more briefly: after a commit a session can run no SQL."""
VISIBILITY_FACTOR = 6
"""Source: Lambda, *Configuring an Amazon SQS queue for use with Lambda*."""
MAX_ENVIRONMENT_BYTES = 4096
"""All variables of a function together. Source: Lambda quotas."""
DEFAULT_VISIBILITY, DEFAULT_RETENTION, DEFAULT_TIMEOUT = 30, 345_600, 3
"""Where a template says nothing. Source: CloudFormation, AWS::SQS::Queue and AWS::Lambda::Function."""


@dataclass(frozen=True)
class Mapped:
    """An event source mapping with its two ends, where they are in the templates."""

    properties: Properties
    source: str
    queue: Properties
    function_name: str
    function: Properties

    @property
    def max_concurrency(self) -> int | None:
        most: int | None = self.properties.get("ScalingConfig", {}).get("MaximumConcurrency")
        return most


def check(templates: Iterable[Template], stage: Stage) -> None:
    """Raise :class:`RefusedTemplateError` with all that is wrong in the templates of one stage."""
    if problems := problems_of(templates, stage):
        raise RefusedTemplateError(problems)


def problems_of(templates: Iterable[Template], stage: Stage) -> list[str]:
    """All that is wrong in the templates of one stage, a sentence each."""
    templates = list(templates)
    mappings = [mapped for template in templates for mapped in _mappings(template)]
    return [
        *(problem for mapped in mappings for problem in _mapping(mapped)),
        *_shared_queues(mappings),
        *_budgets(mappings, stage),
        *(problem for template in templates for problem in _queues(template)),
        *(problem for template in templates for problem in _environments(template)),
    ]


# --- One mapping ---------------------------------------------------------------------------------------------------


def _mapping(mapped: Mapped) -> Iterator[str]:
    queue, most = f"queue {mapped.source}", mapped.max_concurrency
    if "FilterCriteria" in mapped.properties:
        yield (
            f"{queue}: its mapping filters events, and SQS deletes what a filter does not match; "
            "make a queue per consumer instead"
        )
    if "ReportBatchItemFailures" not in mapped.properties.get("FunctionResponseTypes", []):
        yield f"{queue}: its mapping lacks ReportBatchItemFailures: one failure repeats the whole batch"
    if most is None:
        yield (
            f"{queue}: its mapping lacks MaximumConcurrency: throttled receives use up maxReceiveCount, "
            "and the database's connections have no bound"
        )
    reserved = mapped.function.get("ReservedConcurrentExecutions")
    if most is not None and reserved is not None and reserved < most:
        yield (
            f"function {mapped.function_name}: reserves a concurrency of {reserved} where the mapping of "
            f"{mapped.source} goes up to {most}: the rest is throttled, and uses up maxReceiveCount"
        )
    timeout = mapped.function.get("Timeout", DEFAULT_TIMEOUT)
    visibility = mapped.queue.get("VisibilityTimeout", DEFAULT_VISIBILITY)
    if mapped.queue and visibility < VISIBILITY_FACTOR * timeout:
        yield (
            f"{queue}: a visibility timeout of {visibility} s is less than {VISIBILITY_FACTOR} times the "
            f"{timeout} s of function {mapped.function_name}: messages come back while they are worked on"
        )
    if mapped.queue and "RedrivePolicy" not in mapped.queue:
        yield f"{queue}: has a consumer and no dead-letter queue: what always fails expires unseen"


# --- All mappings --------------------------------------------------------------------------------------------------


def _shared_queues(mappings: Iterable[Mapped]) -> Iterator[str]:
    consumers: dict[str, list[str]] = defaultdict(list)
    for mapped in mappings:
        consumers[mapped.source].append(mapped.function_name)
    for source, names in consumers.items():
        if len(names) > 1:
            yield f"queue {source}: has {len(names)} consumers ({', '.join(names)}): each takes what is the other's"


def _budgets(mappings: Iterable[Mapped], stage: Stage) -> Iterator[str]:
    all_slots = {True: 0, False: 0}
    for mapped in mappings:
        all_slots["DATABASE_URL" in _environment(mapped.function)] += mapped.max_concurrency or 0
    concurrency = sum(all_slots.values()) + sum(stage.reserved.values())
    if concurrency > stage.account_concurrency:
        also = "".join(f" with the {name}.max_concurrency of {most}" for name, most in stage.reserved.items())
        yield (
            f"stage {stage.name}: the mappings' concurrency adds up to {concurrency}{also}, above account_concurrency "
            f"{stage.account_concurrency}: lower concurrency_budget ({stage.concurrency_budget}), though each lane has "
            "2 at least; or ask for more (Service Quotas, Lambda, concurrent executions) and raise account_concurrency"
        )
    requests = {name: api.at_once for name, api in stage.apis.items()}
    connections = (all_slots[True] + sum(requests.values())) * CONNECTIONS_PER_SLOT + stage.reserved_connections
    if connections > stage.connections:
        also = "".join(f" and {at_once} requests to {name}" for name, at_once in requests.items())
        lower = "".join(_lower(name, api) for name, api in stage.apis.items())
        yield (
            f"stage {stage.name}: {all_slots[True]} concurrent tasks{also} × {CONNECTIONS_PER_SLOT} connections + "
            f"{stage.reserved_connections} reserved make {connections}, above database_connections "
            f"{stage.connections}: lower concurrency_budget ({stage.concurrency_budget})"
            f"{lower}{_raise_connections(stage, connections)}"
        )


def _lower(name: str, api: HttpLimits) -> str:
    if api.max_concurrency is None:
        return f" or set {name}.max_concurrency (now {api.at_once}, by {name}.rate_per_second)"
    return f" or {name}.max_concurrency ({api.max_concurrency})"


def _raise_connections(stage: Stage, connections: int) -> str:
    if not isinstance(stage.database, Aurora):
        return ", or raise database_connections together with the limit of the database"
    if connections <= stage.database.max_connections:
        return ", or leave database_connections out"
    enough = stage.database.enough_for(connections)
    return f", or {enough}" if enough else ", for no cluster takes so many"


# --- Queues and functions ------------------------------------------------------------------------------------------


def _queues(template: Template) -> Iterator[str]:
    seen: set[str] = set()
    for logical_id, queue in of_type(template, "AWS::SQS::Queue"):
        name = _name(queue, "QueueName", logical_id)
        if name in seen:
            yield f"queue {name}: two queues have this name; rename a task"
        seen.add(name)
        policy = queue.get("RedrivePolicy")
        if policy is None:
            continue
        dead_id = _logical_id(policy["deadLetterTargetArn"])
        dead = _properties(template, dead_id)
        kept, dead_kept = (item.get("MessageRetentionPeriod", DEFAULT_RETENTION) for item in (queue, dead))
        if dead and dead_kept <= kept:
            yield (
                f"queue {name}: its dead letters are kept {dead_kept} s and its messages {kept} s, on the same clock: "
                "keep dead letters longer, or they expire on arrival"
            )
        used_up = policy["maxReceiveCount"] * queue.get("VisibilityTimeout", DEFAULT_VISIBILITY)
        if used_up >= kept:
            yield (
                f"queue {name}: {policy['maxReceiveCount']} receives can take {used_up} s and messages are kept "
                f"{kept} s: they expire before they reach the dead letters"
            )


def _environments(template: Template) -> Iterator[str]:
    for logical_id, function in of_type(template, "AWS::Lambda::Function"):
        sizes = {
            name: len(name) + len((value if isinstance(value, str) else json.dumps(value)).encode())
            for name, value in _environment(function).items()
        }
        if sum(sizes.values()) > MAX_ENVIRONMENT_BYTES:
            what, largest = _name(function, "FunctionName", logical_id), max(sizes, key=lambda name: sizes[name])
            yield (
                f"function {what}: its environment has {sum(sizes.values())} bytes, Lambda takes "
                f"{MAX_ENVIRONMENT_BYTES}; the largest variable is {largest} with {sizes[largest]}"
            )


# --- Reading a template --------------------------------------------------------------------------------------------


def _mappings(template: Template) -> Iterator[Mapped]:
    for _, properties in of_type(template, "AWS::Lambda::EventSourceMapping"):
        queue_id, function_id = (_logical_id(properties.get(key)) for key in ("EventSourceArn", "FunctionName"))
        queue, function = _properties(template, queue_id), _properties(template, function_id)
        yield Mapped(
            properties=properties,
            source=_name(queue, "QueueName", queue_id),
            queue=queue,
            function_name=_name(function, "FunctionName", function_id),
            function=function,
        )


def _logical_id(value: Any) -> str:
    """Of what a reference points at; of anything else, an import say, its text: still the same for the same thing."""
    if isinstance(value, Mapping) and "Ref" in value:
        return str(value["Ref"])
    if isinstance(value, Mapping) and "Fn::GetAtt" in value:
        return str(value["Fn::GetAtt"][0])
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def _properties(template: Template, logical_id: str) -> Properties:
    found: Properties = template.get("Resources", {}).get(logical_id, {}).get("Properties", {})
    return found


def _name(resource: Properties, key: str, logical_id: str) -> str:
    name = resource.get(key, logical_id)
    return name if isinstance(name, str) else logical_id


def _environment(function: Properties) -> Mapping[str, Any]:
    found: Mapping[str, Any] = function.get("Environment", {}).get("Variables", {})
    return found
