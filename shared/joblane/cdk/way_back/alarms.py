"""The alarms that count for a deploy, and the decision that one of them fires."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from joblane.cdk.templates import of_type, strings
from joblane.cdk.way_back.deployed import ALARMS, Deployed

if TYPE_CHECKING:
    from joblane.cdk.templates import Template

PERMISSION = "cloudwatch:DescribeAlarms"
OK, ALARM = "OK", "ALARM"
AT_ONCE = 100
"""Names in a request. Source: DescribeAlarms, CloudWatch API reference."""
CONFIRMATION = timedelta(minutes=1)
"""Time in total for which an alarm must fire: a single short alarm is no reason for a second deploy."""
NOT_WATCHED = {"AlarmDescription", "AlarmActions", "OKActions", "InsufficientDataActions", "ActionsEnabled", "Tags"}
"""Properties that do not change when an alarm fires."""
REPAIR = ":automate:"
"""In the ARN of an action on an EC2 instance. Source: PutMetricAlarm, CloudWatch API reference."""


@dataclass(frozen=True)
class AlarmState:
    """The state of an alarm: OK, ALARM or INSUFFICIENT_DATA, with CloudWatch's reason."""

    name: str
    state: str
    reason: str = ""


def read_states(client: Any, names: Iterable[str]) -> dict[str, AlarmState]:
    """Return the states of the alarms that exist. Raises botocore's errors."""
    names, found = sorted(names), {}
    for start in range(0, len(names), AT_ONCE):
        pages = client.get_paginator("describe_alarms").paginate(
            AlarmNames=names[start : start + AT_ONCE], AlarmTypes=["MetricAlarm", "CompositeAlarm"]
        )
        for page in pages:
            for each in (*page["MetricAlarms"], *page["CompositeAlarms"]):
                name = each["AlarmName"]
                found[name] = AlarmState(name, each["StateValue"], each.get("StateReason", ""))
    return found


@dataclass(frozen=True)
class Counted:
    """``names``: of the alarms that count. ``left_out``: name of each other alarm, and why it does not count."""

    names: frozenset[str]
    left_out: Mapping[str, str]

    @classmethod
    def of(cls, deployed: Deployed, states: Mapping[str, AlarmState], after: Mapping[str, Template]) -> Counted:
        """Return the alarms that were OK and whose definition the deploy of ``after`` does not change.

        CloudWatch keeps the state of an alarm whose definition changes. Source: PutMetricAlarm, API reference.
        """
        old, new, repairs = _definitions(deployed.templates), _definitions(after), _repairs(after)
        names, left_out = set(), {}
        for place, name in deployed.alarms.items():
            if name not in states:
                left_out[name] = "does not exist"
            elif states[name].state != OK:
                left_out[name] = f"was {states[name].state} when the deploy began"
            elif place not in new:
                left_out[name] = "is removed by this deploy"
            elif place in repairs:
                left_out[name] = "repairs an instance"
            elif old[place] != new[place]:
                left_out[name] = "gets another definition in this deploy"
            else:
                names.add(name)
        for place in new.keys() - deployed.alarms.keys():
            given = new[place].get("AlarmName")
            left_out[given if isinstance(given, str) else "/".join(place)] = "is new in this deploy"
        return cls(frozenset(names), dict(sorted(left_out.items())))


def has_alarms(templates: Mapping[str, Template]) -> bool:
    return bool(_definitions(templates).keys() - _repairs(templates))


def _repairs(templates: Mapping[str, Template]) -> set[tuple[str, str]]:
    """Return the alarms that recover or restart an EC2 instance, as the NAT instance has them."""
    return {
        (stack, logical_id)
        for stack, template in templates.items()
        for kind in ALARMS
        for logical_id, properties in of_type(template, kind)
        if any(REPAIR in text for _, text in strings(properties.get("AlarmActions", [])))
    }


def _definitions(templates: Mapping[str, Template]) -> dict[tuple[str, str], dict[str, Any]]:
    return {
        (stack, logical_id): {key: each for key, each in resource["Properties"].items() if key not in NOT_WATCHED}
        for stack, template in templates.items()
        for logical_id, resource in template.get("Resources", {}).items()
        if resource["Type"] in ALARMS
    }


@dataclass
class Firing:
    """The alarms that fire now, and the seconds for which each has fired in total."""

    seconds: dict[str, float] = field(default_factory=dict)
    _since: dict[str, float] = field(default_factory=dict)

    def confirmed(self, states: Iterable[AlarmState], now: float) -> list[AlarmState]:
        """Return the alarms that fire, and have fired for :data:`CONFIRMATION` in total, with breaks or without.

        ``now``: seconds of a monotonic clock.
        """
        fires = {each.name: each for each in states if each.state == ALARM}
        for name in fires:
            self.seconds[name] = self.seconds.get(name, 0) + now - self._since.get(name, now)
        self._since = dict.fromkeys(fires, now)
        least = CONFIRMATION.total_seconds()
        return [each for name, each in sorted(fires.items()) if self.seconds[name] >= least]

    @property
    def names(self) -> list[str]:
        """The alarms that fire now, confirmed or not."""
        return sorted(self._since)
