"""Each alarm's command runs, and its text has nothing that a task wrote."""

from __future__ import annotations

import re
import shlex
from typing import Any

from joblane.cdk.settings.apis import Monitoring
from joblane.cdk.settings.stage import Stage
from joblane.cdk.watching.alarms import RUNBOOK, Alarm, Links
from joblane.cdk.watching.database import alarms_of_database
from joblane.cdk.watching.table import alarms_of_part, alarms_of_stage
from joblane.inspector.views import Check, Grade
from joblane.tasks.discovery import discover
from tests.incidents.table import INCIDENTS
from tests.infra.conftest import SENDERS
from tests.inspector import FakeInspector
from tests.pages import ROOT, anchors
from tests.samples import sample_one
from tests.unit.cli import conftest

TYPE = r"\b[a-z_]+:[a-z_]+\b"
jobs, stub = conftest.jobs, conftest.stub


def every_alarm() -> list[Alarm]:
    tasks, found = discover(SENDERS, times={}), list[Alarm]()
    for detail in ("lanes", "stage"):
        monitoring = Monitoring.model_validate({"detail": detail})
        found += alarms_of_stage(monitoring, tasks, prefix="acme", functions=["acme-api"], webhook_bus="acme-events")
    found += alarms_of_part(0, [sample_one], Monitoring(), "acme")
    for kind in ("aurora", "rds"):
        given: Any = {"name": "dev", "prefix": "acme", "network": {"kind": "new"}, "database": {"kind": kind}}
        found += alarms_of_database(Monitoring(), Stage.model_validate(given))
    return found


def test_the_command_of_every_alarm_runs(jobs: conftest.Run, stub: FakeInspector) -> None:
    known, commands = anchors(ROOT / RUNBOOK), dict[str, str]()
    for alarm in every_alarm():
        assert alarm.heading in known, alarm.name
        commands[re.sub(TYPE, sample_one.type, alarm.run)] = alarm.name
    stub.answers["doctor"] = (Check(Grade.BAD, "connections", "all are in use", "close some"),)
    for command, name in commands.items():
        ran = jobs(*shlex.split(command))
        assert ran.code in (0, 1, 5), (name, command, ran.err)  # 2: there is no such command or option
        assert ran.out or ran.err, (name, command)


def test_the_command_of_an_alarm_is_that_which_names_the_cause_first_in_an_incident() -> None:
    """The incidents are replayed, and the first line of each command is compared with the cause."""
    commands = {re.sub(TYPE, "TYPE", alarm.run) for alarm in every_alarm()}
    assert {re.sub(TYPE, "TYPE", incident.alarm) for incident in INCIDENTS if incident.alarm} <= commands
    [lowered] = {alarm.run for alarm in every_alarm() if alarm.name == "lowered-limit"}
    assert [incident.alarm for incident in INCIDENTS if incident.metric == "LoweredLimits"] == [lowered]


def test_the_text_of_every_alarm_is_written_at_the_deploy() -> None:
    """CloudWatch fills in nothing: no error, payload or name of a tenant goes into a mail."""
    for alarm in every_alarm():
        assert not re.search(r"\$\{|PROP\(", alarm.description(Links("dev"))), alarm.name
