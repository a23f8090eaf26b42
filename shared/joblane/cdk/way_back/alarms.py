"""The alarms that count for a deploy, and the decision that one of them fires."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from joblane.cdk.way_back.deployed import ALARMS, Deployed

if TYPE_CHECKING:
    from joblane.cdk.templates import Template

PERMISSION = "cloudwatch:DescribeAlarms"
OK, ALARM = "OK", "ALARM"
AT_ONCE = 100
"""Names in a request. Source: DescribeAlarms, CloudWatch API reference."""
CONFIRMATION = timedelta(minutes=1)
"""Time for which an alarm must fire: one that ends within a minute is no reason for a second deploy."""
NOT_WATCHED = {"AlarmDescription", "AlarmActions", "OKActions", "InsufficientDataActions", "ActionsEnabled", "Tags"}
"""Properties that do not change when an alarm fires."""


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
        old, new = _definitions(deployed.templates), _definitions(after)
        names, left_out = set(), {}
        for place, name in deployed.alarms.items():
            if name not in states:
                left_out[name] = "does not exist"
            elif states[name].state != OK:
                left_out[name] = f"was {states[name].state} when the deploy began"
            elif place not in new:
                left_out[name] = "is removed by this deploy"
            elif old[place] != new[place]:
                left_out[name] = "gets another definition in this deploy"
            else:
                names.add(name)
        for place in new.keys() - deployed.alarms.keys():
            given = new[place].get("AlarmName")
            left_out[given if isinstance(given, str) else "/".join(place)] = "is new in this deploy"
        return cls(frozenset(names), dict(sorted(left_out.items())))


def has_alarms(templates: Mapping[str, Template]) -> bool:
    return bool(_definitions(templates))


def _definitions(templates: Mapping[str, Template]) -> dict[tuple[str, str], dict[str, Any]]:
    return {
        (stack, logical_id): {key: each for key, each in resource["Properties"].items() if key not in NOT_WATCHED}
        for stack, template in templates.items()
        for logical_id, resource in template.get("Resources", {}).items()
        if resource["Type"] in ALARMS
    }


@dataclass
class Firing:
    """The alarms that fire now, and since when."""

    _since: dict[str, float] = field(default_factory=dict)

    def confirmed(self, states: Iterable[AlarmState], now: float) -> list[AlarmState]:
        """Return the alarms that have fired for :data:`CONFIRMATION`. ``now``: seconds of a monotonic clock."""
        fires = {each.name: each for each in states if each.state == ALARM}
        self._since = {name: self._since.get(name, now) for name in fires}
        least = CONFIRMATION.total_seconds()
        return [fires[name] for name, since in sorted(self._since.items()) if now - since >= least]

    @property
    def names(self) -> list[str]:
        """The alarms that fire, confirmed or not."""
        return sorted(self._since)
