"""The stack that monitors the others. It refers to them by name only, so it depends on none of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, cast

from aws_cdk import ArnFormat, CfnParameter, Duration, NestedStack, Stack
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_cloudwatch_actions as actions
from aws_cdk import aws_logs as logs
from constructs import Construct

from joblane.cdk.constructs.alarm_topics import AlarmTopics
from joblane.cdk.constructs.budget import StageBudget
from joblane.cdk.constructs.code import Tasks
from joblane.cdk.constructs.event_bus import bus_name
from joblane.cdk.constructs.jobs import Jobs
from joblane.cdk.constructs.nested_stacks import part_of
from joblane.cdk.settings.apis import Monitoring
from joblane.cdk.watching import dashboard
from joblane.cdk.watching.alarms import Alarm, Links, Silence, Topic, in_use
from joblane.cdk.watching.database import alarms_of_database
from joblane.cdk.watching.queries import queries_of
from joblane.cdk.watching.table import alarms_of_part, alarms_of_stage
from joblane.names import PAGE_URL, function_name
from joblane.tasks.place import Lambda
from joblane.tasks.places import places_of
from joblane.tasks.task import Task

MISSING = {
    Silence.FINE: cloudwatch.TreatMissingData.NOT_BREACHING,
    Silence.FAULT: cloudwatch.TreatMissingData.BREACHING,
}
SHOWN = Duration.hours(6)


class MonitoringStack(Stack):
    """Alarms, dashboard and saved queries of a stage. The alarms of task types are in nested stacks, by their parts.

    ``more``: alarms of the application. ``page_url``: address of the stage's page, for texts and dashboard.
    """

    def __init__(
        self,
        scope: Construct,
        id_: str,
        *,
        jobs: Jobs,
        monitoring: Monitoring,
        more: Sequence[Alarm] = (),
        page_url: str | None = None,
    ) -> None:
        stage, functions = jobs.stage, jobs.function_names
        describes = f"Joblane, {stage.name}: alarms, dashboard, queries"
        super().__init__(scope, id_, description=describes)
        self._prefix = stage.prefix
        self._links = Links(stage.name, monitoring.runbook_url, page_url)
        topics = AlarmTopics(self, "Alarms", stage=stage, monitoring=monitoring).topics
        if monitoring.budget is not None:
            StageBudget(self, "Budget", stage=stage, dollars=monitoring.budget, topic=topics[Topic.LATER])
        self._actions = {kind: actions.SnsAction(topic) for kind, topic in topics.items()}
        of_tasks = {function_name(stage.prefix, task.type) for task in jobs.tasks.values()}
        others = [name for name in functions if name not in of_tasks]
        webhook_bus = bus_name(stage) if stage.events and stage.events.webhook else None
        of_stage = alarms_of_stage(
            monitoring, jobs.tasks, prefix=stage.prefix, functions=others, webhook_bus=webhook_bus
        )
        alarms = in_use([*of_stage, *alarms_of_database(monitoring, stage), *more])
        self._add_alarms(self, alarms, self._links)
        if not monitoring.is_stage:
            tasks, places = _by_part(jobs.tasks)
            for part in sorted({*tasks, *places}):
                of_part = alarms_of_part(part, tasks[part], monitoring, stage.prefix, places[part])
                page = {} if page_url is None else {PAGE_URL: page_url}
                nested = NestedStack(self, f"Part{part:02}", description=f"{describes}, part {part}", parameters=page)
                self._add_alarms(nested, of_part, self._links_in(nested))
                alarms += of_part
        cloudwatch.Dashboard(
            self,
            "Dashboard",
            dashboard_name=stage.prefix,
            default_interval=SHOWN,
            widgets=dashboard.rows(
                jobs.tasks,
                prefix=stage.prefix,
                functions=functions,
                shares=jobs.shares,
                links=self._links,
                alarms=[self._known(alarm) for alarm in alarms],
                most=dashboard.METRICS_OF_FREE if monitoring.is_stage else dashboard.METRICS_OF_DASHBOARD,
            ),
        )
        for name, query, groups in queries_of(functions):
            logs.CfnQueryDefinition(
                self,
                "".join(filter(str.isalnum, name.title())),
                name=f"{stage.prefix}/{name}",
                query_string=query,
                log_group_names=groups,
            )

    def _links_in(self, nested: NestedStack) -> Links:
        """Return the links with the address of the page as a parameter of ``nested``.

        The address may be a dynamic reference, and a template has at most 60 of them.
        Source: CloudFormation, *Get values stored in other services using dynamic references*.
        """
        if self._links.page is None:
            return self._links
        return replace(self._links, page=CfnParameter(nested, PAGE_URL).value_as_string)

    def _known(self, alarm: Alarm) -> cloudwatch.IAlarm:
        """Return the alarm by its name, for the dashboard: it may be in a nested stack."""
        name = f"{self._prefix}-{alarm.name}"
        arn = self.format_arn(
            service="cloudwatch", resource="alarm", resource_name=name, arn_format=ArnFormat.COLON_RESOURCE_NAME
        )
        return cloudwatch.Alarm.from_alarm_arn(self, f"Known-{alarm.name}", arn)

    def _add_alarms(self, stack: Stack, alarms: Iterable[Alarm], links: Links) -> None:
        for alarm in alarms:
            construct = cloudwatch.Alarm(
                stack,
                alarm.name.title().replace("-", ""),
                alarm_name=f"{self._prefix}-{alarm.name}",
                alarm_description=alarm.description(links),
                metric=_metric(alarm),
                threshold=cast(float, alarm.threshold),
                comparison_operator=cloudwatch.ComparisonOperator.LESS_THAN_THRESHOLD
                if alarm.below
                else cloudwatch.ComparisonOperator.GREATER_THAN_OR_EQUAL_TO_THRESHOLD,
                evaluation_periods=alarm.periods,
                datapoints_to_alarm=alarm.rings_after,
                treat_missing_data=MISSING[alarm.silence],
            )
            construct.add_alarm_action(self._actions[alarm.topic])
            if alarm.is_state:
                construct.add_ok_action(self._actions[alarm.topic])


def _by_part(
    tasks: Tasks,
) -> tuple[defaultdict[int, list[Task[Any, Any]]], defaultdict[int, dict[Lambda, list[Task[Any, Any]]]]]:
    """Return part → its types, and part → the places whose functions are there."""
    of_types, of_places = defaultdict[int, list[Task[Any, Any]]](list), defaultdict[int, dict[Any, Any]](dict)
    for type_, task in sorted(tasks.items()):
        of_types[part_of(type_)].append(task)
    for place, members in places_of(tasks.values()).items():
        of_places[part_of(place.name)][place] = members
    return of_types, of_places


def _metric(alarm: Alarm) -> cloudwatch.IMetric:
    if not alarm.expression:
        (metric,) = alarm.metrics.values()
        return metric
    return cloudwatch.MathExpression(
        expression=alarm.expression,
        using_metrics=dict(alarm.metrics),
        period=Duration.seconds(int(alarm.period.total_seconds())),
        label=alarm.name,
    )
