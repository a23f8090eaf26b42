"""Checks of the events that tasks send: the bus exists, and accepts them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from joblane.inspector.durations import lasting
from joblane.inspector.scope import Scope
from joblane.inspector.stage.aws import client
from joblane.inspector.views import Check, Grade
from joblane.names import SWEEP, function_name
from joblane.settings import EVENT_BUS
from joblane.sweep.events import KEPT

MOST = 10_000
"""Waiting events are counted up to here."""
LATE = timedelta(minutes=15)
"""A sweep sends what a worker has left, within five minutes."""
WAITING = f"""
select count(*), extract(epoch from clock_timestamp() - min(created_at))::float8
  from (select created_at from joblane.events order by created_at, id limit {MOST + 1}) as e
"""
REFUSAL = f"""
select result ->> 'events_refusal' from joblane.tasks
 where type = '{SWEEP}' and finished_at is not null and state = 'completed' order by created_at desc, id desc limit 1
"""
NO_BUS = "`aws events create-event-bus --name {}`: a deploy does not create it anew; or correct the setting events.bus"


def waiting(scope: Scope) -> Iterator[Check]:
    """Events do not wait for the bus. No check if no task declares events and none waits."""
    [[number, seconds]] = scope.connection.run(WAITING)
    if not number:
        if any(task.events for task in scope.tasks.values()):
            yield Check(Grade.GOOD, "events", "no event waits for the bus")
        return
    shown = f"{number:,}" if number <= MOST else f"more than {MOST:,}"
    age = timedelta(seconds=max(0.0, seconds))
    refusal = next((text for (text,) in scope.connection.run(REFUSAL)), None)
    found = f"{shown} event{'s wait' if number != 1 else ' waits'} for the bus, the oldest for {lasting(age)}"
    if refusal is None and age < LATE:
        yield Check(Grade.GOOD, "events", found)
        return
    do = "does the sweep run, and has its function JOBLANE_EVENT_BUS? It sends them" if refusal is None else ""
    do = do or f"they are sent as soon as the bus accepts them, and dropped after {KEPT.days} days"
    yield Check(Grade.BAD, "events", f"{found}: {refusal}" if refusal else found, do)


def bus(scope: Scope) -> Iterator[Check]:
    """The bus exists. EventBridge accepts events for a bus that does not exist, and drops them.

    Source: github.com/aws/aws-cli, issue 9186.
    """
    if (name := _bus_of(scope)) is None:
        return
    with client("events", scope.region) as aws:
        try:
            aws.describe_event_bus(Name=name)
        except aws.exceptions.ResourceNotFoundException:
            found = "it does not exist: EventBridge drops the events, and reports no error"
            yield Check(Grade.BAD, f"bus {name}", found, NO_BUS.format(name))
            return
    yield Check(Grade.GOOD, f"bus {name}", "it exists")


def _bus_of(scope: Scope) -> str | None:
    """Return the bus of the deployed functions that send events, from the configuration of one. None: none sends."""
    if not any(task.events for task in scope.tasks.values()):
        return None
    with client("lambda", scope.region) as aws:
        try:
            deployed = aws.get_function_configuration(FunctionName=function_name(scope.prefix, SWEEP))
        except aws.exceptions.ResourceNotFoundException:  # a finding of `functions`
            return None
    name: str | None = deployed.get("Environment", {}).get("Variables", {}).get(EVENT_BUS)
    return name
