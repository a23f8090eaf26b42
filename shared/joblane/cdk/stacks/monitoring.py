"""The stack that monitors the others. It refers to them by name only, so it depends on none of them."""

from __future__ import annotations

from collections.abc import Sequence

from aws_cdk import Duration, Stack
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_cloudwatch_actions as actions
from aws_cdk import aws_logs as logs
from constructs import Construct

from joblane.cdk.constructs.alarm_topic import AlarmTopic
from joblane.cdk.constructs.jobs import Jobs
from joblane.cdk.settings.apis import Monitoring
from joblane.cdk.watching import dashboard
from joblane.cdk.watching.alarms import Alarm, Silence, alarms
from joblane.cdk.watching.queries import MAX_LOG_GROUPS, QUERIES
from joblane.queues import log_group_name

MISSING = {
    Silence.FINE: cloudwatch.TreatMissingData.NOT_BREACHING,
    Silence.FAULT: cloudwatch.TreatMissingData.BREACHING,
}
SHOWN = Duration.hours(6)


class MonitoringStack(Stack):
    """Alarms, dashboard and saved queries of a stage.

    ``alarms``: all alarms. ``metrics``: number of metrics that they read; each has its price. ``more``: alarms of the
    application.
    """

    def __init__(
        self, scope: Construct, id_: str, *, jobs: Jobs, monitoring: Monitoring, more: Sequence[Alarm] = ()
    ) -> None:
        stage, functions = jobs.stage, jobs.function_names
        super().__init__(scope, id_, description=f"Joblane, {stage.name}: alarms, dashboard, queries")
        self._prefix = stage.prefix
        self.alarms = [*alarms(monitoring, jobs.tasks, prefix=stage.prefix, functions=functions), *more]
        self.metrics = sum(len(alarm.metrics) for alarm in self.alarms)
        self._notify = actions.SnsAction(AlarmTopic(self, "Alarms", prefix=stage.prefix, email=monitoring.email).topic)
        alarm_constructs = [self._add_alarm(alarm) for alarm in self.alarms]
        cloudwatch.Dashboard(
            self,
            "Dashboard",
            dashboard_name=stage.prefix,
            default_interval=SHOWN,
            widgets=dashboard.rows(jobs.tasks, prefix=stage.prefix, functions=functions, alarms=alarm_constructs),
        )
        for name, query in QUERIES.items():
            logs.CfnQueryDefinition(
                self,
                name.title().replace(" ", ""),
                name=f"{stage.prefix}/{name}",
                query_string=query.strip(),
                log_group_names=[log_group_name(function) for function in functions[:MAX_LOG_GROUPS]],
            )

    def _add_alarm(self, alarm: Alarm) -> cloudwatch.Alarm:
        construct = cloudwatch.Alarm(
            self,
            alarm.name.title().replace("-", ""),
            alarm_name=f"{self._prefix}-{alarm.name}",
            alarm_description=alarm.description,
            metric=_metric(alarm),
            threshold=alarm.threshold,
            comparison_operator=cloudwatch.ComparisonOperator.LESS_THAN_THRESHOLD
            if alarm.below
            else cloudwatch.ComparisonOperator.GREATER_THAN_OR_EQUAL_TO_THRESHOLD,
            evaluation_periods=alarm.periods,
            datapoints_to_alarm=alarm.rings_after,
            treat_missing_data=MISSING[alarm.silence],
        )
        construct.add_alarm_action(self._notify)
        construct.add_ok_action(self._notify)
        return construct


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
