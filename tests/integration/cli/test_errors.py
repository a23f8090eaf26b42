"""An outage whose tasks retry, while others are archived with another error: each command names the outage first."""

from __future__ import annotations

import re
import shlex

import pytest

from joblane.inspector.inspector import Inspector
from joblane.inspector.stage.doctor import work
from joblane.inspector.stage.glance import glance
from tests.builders.rows import archived, put
from tests.bulks import Bulks
from tests.integration.cli.conftest import Jobs
from tests.integration.inspector.test_errors import fail, in_retry
from tests.samples import sample_one

OUTAGE, DECLINED = "0fa3c1d2e4b59687", "1fa3c1d2e4b59688"
COMMAND = re.compile(r"`joblane ([^`]*)`")


@pytest.fixture
def outage(bulks: Bulks) -> Bulks:
    """Twenty runs of an outage, and a task that was archived with another error later, as five were yesterday."""
    world = bulks.world
    for number in range(10):
        in_retry(world, f"retry{number}", OUTAGE, runs=2, attempts=2)
        for run in (1, 2):
            fail(world, f"retry{number}", OUTAGE, run=run, ago=60 * run, message="receipts did not answer")
    for number in range(6):
        put(world, sample_one, f"declined{number}", **archived(fingerprint=DECLINED, error_message="card_declined"))
        fail(world, f"declined{number}", DECLINED, ago=5 if number == 0 else 80_000, message="card_declined")
    return bulks


def first_row(out: str, type_: str = "sample:one") -> str:
    return next(line for line in out.splitlines() if type_ in line)


def test_errors_and_the_runs_of_the_type_begin_with_the_outage(outage: Bulks, jobs: Jobs) -> None:
    ran = jobs("errors")
    assert OUTAGE in first_row(ran.out)
    assert "receipts did not answer" in ran.out
    assert jobs("errors", "--json").json["causes"][0]["retry"] == 10
    lines = [line for line in jobs("runs", "sample:one").err.splitlines() if "failed" in line]
    assert lines[0].startswith("20 runs failed, 10 tasks in retry: [new] ConnectionError: receipts did not answer")


def test_the_command_of_doctor_begins_with_the_outage(outage: Bulks, inspector: Inspector, jobs: Jobs) -> None:
    checks = list(work.failures(glance(inspector._scope)))
    [command, *_] = COMMAND.findall(checks[0].do or "")
    assert OUTAGE in first_row(jobs(*shlex.split(command)).out)


def test_the_command_of_the_failing_alarm_begins_with_the_outage(outage: Bulks, jobs: Jobs) -> None:
    """``tests/infra/test_monitoring_stack.py`` compares the text of the alarm."""
    assert OUTAGE in first_row(jobs("errors", "--within", "1h", "--type", "sample:one").out)


def test_the_command_of_the_archived_alarm_begins_with_what_was_archived(outage: Bulks, jobs: Jobs) -> None:
    world = outage.world
    world.run("update joblane.tasks set finished_at = now() - interval '1 day' where fingerprint = $1", DECLINED)
    for number in range(2):
        put(world, sample_one, f"late{number}", **archived(fingerprint="2fa3c1d2e4b59689"))
    ran = jobs("dead", "--newer", "1h", "--type", "sample:one")
    assert "2fa3c1d2e4b59689" in first_row(ran.out)
    assert DECLINED not in ran.out


def test_an_error_is_marked_by_its_fingerprint(outage: Bulks, jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "240")  # in a narrower table the text continues in the next line
    assert jobs("errors", "known", OUTAGE, "--reason", "the provider knows").code == 0
    rows = [line for line in jobs("errors").out.splitlines() if "sample:one" in line]
    assert DECLINED in rows[0]
    assert "[known, op: the provider knows]" in jobs("errors", "--state", "known").out
    assert jobs("errors", "open", OUTAGE).err.startswith("1 error is now open.")
