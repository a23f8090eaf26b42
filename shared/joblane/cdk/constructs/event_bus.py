"""The bus that gets the events of tasks, and the webhook of a stage, which EventBridge calls."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import timedelta
from typing import Any

from aws_cdk import Aws, SecretValue, Stack
from aws_cdk import aws_events as events
from aws_cdk import aws_iam as iam
from constructs import Construct

from joblane.cdk.constructs.queue_pair import dead_letter_queue, queue_arn
from joblane.cdk.constructs.task_function import JobFunction
from joblane.cdk.errors import StageError
from joblane.cdk.nag import acknowledge
from joblane.cdk.settings.events import Webhook
from joblane.cdk.settings.stage import Stage
from joblane.names import DEFAULT_BUS, dead_letter_name, event_bus_name, webhook_name
from joblane.settings import EVENT_BUS
from joblane.tasks.events import source
from joblane.tasks.task import Task

MAX_AGE, MAX_RETRIES = timedelta(hours=24), 185
"""EventBridge's defaults, which are its largest values. Source: RetryPolicy, EventBridge API reference."""
SERVICE = "events.amazonaws.com"


def check_events(stage: Stage, tasks: Collection[Task[Any, Any]]) -> bool:
    """Return true if a task declares events. Raises :class:`StageError` for settings of events that nobody declares."""
    declared = [task for task in tasks if task.events]
    settings, where = stage.events, f"stage {stage.name!r}: events"
    if settings is None:
        return bool(declared)
    if not declared:
        raise StageError(f'{where}: no task declares events; leave it out, or declare @task(…, events=("archived",))')
    if settings.webhook is None:
        return True
    types = {type_ for task in declared for type_ in task.types}
    for type_ in settings.webhook.types or ():
        if type_ not in types:
            raise StageError(
                f"{where}.webhook.types: no task {type_!r} declares events=; these do: {', '.join(sorted(types))}"
            )
    wanted = settings.webhook.types or types
    kinds = {kind for task in declared if {*task.types} & {*wanted} for kind in task.events}
    for kind in settings.webhook.kinds or ():
        if kind not in kinds:
            raise StageError(
                f"{where}.webhook.kinds: no task declares {kind!r} in events=; declared are {', '.join(sorted(kinds))}"
            )
    return True


def bus_name(stage: Stage) -> str:
    """Return the name of the bus of the stage, which is its own or an existing one."""
    return (stage.events and stage.events.bus) or event_bus_name(stage.prefix)


class EventBus(Construct):
    """The stage's own bus, or the existing bus of its settings, with the webhook of the stage if it has one.

    ``bus``: for rules of the application. A stack whose rule refers to it is deployed after this one.
    """

    def __init__(self, scope: Construct, id_: str, *, stage: Stage, tasks: Collection[Task[Any, Any]]) -> None:
        super().__init__(scope, id_)
        settings = stage.events
        self._name = bus_name(stage)
        # by name: a reference in each nested stack would be an output and a parameter
        self._arn = Stack.of(self).format_arn(service="events", resource="event-bus", resource_name=self._name)
        self.bus: events.IEventBus
        if settings and settings.bus:
            self.bus = events.EventBus.from_event_bus_name(self, "Bus", settings.bus)
        else:
            describes = f"Joblane, {stage.name}: events of tasks"
            self.bus = events.EventBus(self, "Bus", event_bus_name=self._name, description=describes)
        if settings and settings.webhook:
            self._add_webhook(stage, settings.webhook, tasks)

    def allow_sending(self, function: JobFunction) -> None:
        """Allow ``function`` to send events to the bus, and give it the name of the bus.

        The function is deployed after the bus: EventBridge accepts events for a missing bus, and drops them.
        Source: github.com/aws/aws-cli, issue 9186.
        """
        function.function.node.add_dependency(self.bus)
        function.allow(["events:PutEvents"], [self._arn])
        function.function.add_environment(EVENT_BUS, self._name)

    def _add_webhook(self, stage: Stage, webhook: Webhook, tasks: Iterable[Task[Any, Any]]) -> None:
        """Add the rule, its target and the queue for events that the target refuses, in the scope ``Webhook``."""
        scope, name = Construct(self, "Webhook"), webhook_name(stage.prefix)
        # the ARN of a rule on the default bus has no name of a bus. Source: EventBridge, *Resources*
        rule_name = name if self._name == DEFAULT_BUS else f"{self._name}/{name}"
        rule_arn = Stack.of(self).format_arn(service="events", resource="rule", resource_name=rule_name)
        refused = dead_letter_name(event_bus_name(stage.prefix))
        queue = dead_letter_queue(
            scope,
            "DeadLetters",
            stage=stage,
            name=refused,
            accepts=[
                {
                    "Principal": {"Service": SERVICE},
                    "Action": "sqs:SendMessage",
                    "Condition": {"ArnEquals": {"aws:SourceArn": rule_arn}},
                }
            ],
        )
        acknowledge(queue, "SQS3", "It is itself the dead-letter queue of a rule, which the check does not read.")
        destination = _destination(scope, name, webhook)
        # a trust policy for this rule only. Source: EventBridge, *Cross-service confused deputy prevention*
        role = iam.Role(
            scope,
            "Role",
            assumed_by=iam.ServicePrincipal(
                SERVICE, conditions={"StringEquals": {"aws:SourceAccount": Aws.ACCOUNT_ID, "aws:SourceArn": rule_arn}}
            ),
            inline_policies={
                "Send": iam.PolicyDocument(
                    statements=[
                        iam.PolicyStatement(actions=["events:InvokeApiDestination"], resources=[destination.attr_arn])
                    ]
                )
            },
        )
        rule = events.CfnRule(
            scope,
            "Rule",
            name=name,
            description=f"Joblane, {stage.name}: events of tasks to {webhook.url}"[:512],
            event_bus_name=self.bus.event_bus_name,
            event_pattern=_pattern(stage, webhook, tasks),
            targets=[
                events.CfnRule.TargetProperty(
                    id="webhook",
                    arn=destination.attr_arn,
                    role_arn=role.role_arn,
                    retry_policy=events.CfnRule.RetryPolicyProperty(
                        maximum_event_age_in_seconds=int(MAX_AGE.total_seconds()), maximum_retry_attempts=MAX_RETRIES
                    ),
                    dead_letter_config=events.CfnRule.DeadLetterConfigProperty(arn=queue_arn(refused)),
                )
            ],
        )
        rule.node.add_dependency(queue)  # the rule names it, and has no reference to it


def _pattern(stage: Stage, webhook: Webhook, tasks: Iterable[Task[Any, Any]]) -> dict[str, Any]:
    """Return the pattern of the events that the webhook gets. Tasks of an alias have the alias as their type.

    Source: EventBridge, *Creating event patterns*: an event matches a list if its value is in it.
    """
    detail: dict[str, list[str]] = {}
    if webhook.kinds:
        detail["kind"] = sorted(webhook.kinds)
    if webhook.types:
        detail["type"] = sorted({type_ for task in tasks if {*task.types} & {*webhook.types} for type_ in task.types})
    return {"source": [source(stage.prefix)], **({"detail": detail} if detail else {})}


def _destination(scope: Construct, name: str, webhook: Webhook) -> events.CfnApiDestination:
    """Add the address, with a connection that has the secret.

    The template has a dynamic reference, which CloudFormation resolves when it creates or changes the connection.
    Source: CloudFormation, *Get values stored in other services using dynamic references*.
    """
    value = SecretValue.secrets_manager(webhook.secret.secret, json_field=webhook.secret.field)
    connection = events.CfnConnection(
        scope,
        "Connection",
        name=name,
        authorization_type="API_KEY",
        auth_parameters=events.CfnConnection.AuthParametersProperty(
            api_key_auth_parameters=events.CfnConnection.ApiKeyAuthParametersProperty(
                api_key_name=webhook.header, api_key_value=value.unsafe_unwrap()
            )
        ),
    )
    return events.CfnApiDestination(
        scope,
        "Destination",
        name=name,
        connection_arn=connection.attr_arn,
        http_method="POST",
        invocation_endpoint=webhook.url,
        invocation_rate_limit_per_second=webhook.rate_per_second,
    )
