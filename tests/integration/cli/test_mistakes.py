"""Wrong input to `joblane`: the exit status, and a sentence that says what would be right."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from typing import Any

import pytest

from joblane.cli.main import app
from joblane.inspector.inspector import Inspector
from tests.builders.rows import archived, put
from tests.integration.cli.conftest import Jobs
from tests.patience import PATIENCE_SECONDS
from tests.samples import sample_one
from tests.world import World

MEANT = "there is no task type 'sample:oen'. Did you mean 'sample:one'"
MISTAKES: dict[str, tuple[int, str]] = {
    # nothing of this name
    "ls --type sample:oen": (3, MEANT),
    "dead --type sample:oen": (3, MEANT),
    "runs sample:oen": (3, MEANT),
    "redrive --type sample:oen --yes": (3, MEANT),
    "retry --type sample:oen --yes": (3, MEANT),
    "pause type sample:oen": (3, MEANT),
    "enqueue sample:oen --json {}": (3, MEANT),
    "pause queue defualt": (3, "there is no queue 'defualt'. Did you mean 'default'? Known: critical, default, low"),
    "schedules pause sample:tikc:0": (3, "there is no schedule 'sample:tikc:0'"),
    "resume tenant acme": (3, "tenant 'acme' is not paused; current pauses: none"),
    "show nope": (3, "there is no task 'nope'"),
    "logs nope": (3, "there is no task 'nope'"),
    "wait nope": (3, "there is no task 'nope'"),
    "retry nope": (3, "there is no task 'nope'"),
    "batch show nope": (3, "there is no batch 'nope' in this stage; `joblane batch ls` lists the latest"),
    "bulk show nope": (3, "there is no bulk action 'nope' in this stage; `joblane bulk ls` lists the latest"),
    "bulk abort nope": (3, "there is no bulk action 'nope' in this stage; `joblane bulk ls` lists the latest"),
    "redrive 0123456789abcdef --yes": (3, "no archived task or dead letter matches; `joblane dead` lists them"),
    "errors known 0123456789abcdef --reason x": (3, "no failure has the fingerprint 0123456789abcdef"),
    "ack 0123456789abcdef --reason x": (2, "Use `joblane errors known FINGERPRINT --reason …`"),
    "errors --state nwe": (2, "--state: 'nwe' is not valid. Did you mean 'new'? Valid: new, open, known"),
    "errors --within 1m": (2, "--within: 5m to 30d is required, not 1m"),
    "errors resolve 0123456789abcdef": (2, "Missing option '--reason'"),
    # wrong values
    "ls --state archve": (2, "--state: 'archve' is not valid. Did you mean 'archived'"),
    "ls --state held,pending": (
        2,
        "--state: 'held,pending' is not valid. Repeat --state for each value. Valid: scheduled",
    ),
    "why 019318f2-7f3a-7cc4-9d3e-1f6b2a4c5d6e": (
        2,
        "TYPE: a type is required; `",
    ),
    "enqueue sample:one --in 5000d": (2, "--in: 0 seconds to 3650 days is required, not 5000 days"),
    "enqueue sample:one --timeout 90m": (
        2,
        "--timeout: 1 second to 20 seconds, which 'sample:one' declares, is required, not 90 minutes",
    ),
    "ls --queue lwo": (2, "--queue: 'lwo' is not valid. Did you mean 'low'? Valid: critical, default, low"),
    "pause typ sample:one": (2, "SCOPE: 'typ' is not valid. Did you mean 'type'? Valid: queue, type"),
    "dead --sort lats": (2, "--sort: 'lats' is not valid. Did you mean 'last'? Valid: count, last"),
    "ls -n 0": (2, "--limit: 1 to 500, not 0"),
    "ls -n 501": (2, "--limit: 1 to 500, not 501"),
    "ls -n x": (2, "--limit: a whole number, not 'x'"),
    "bulk ls -n 501": (2, "--limit: 1 to 500, not 501"),
    "redrive --all --canary 101": (2, "--canary: 0 to 100, not 101"),
    "runs --within 90d": (2, "--within: 1m to 30d is required, not 90d"),
    "runs --within 0s": (2, "--within: 1m to 30d is required, not 0s"),
    "runs sample:one --within 90d": (2, "--within: 5m to 30d is required, not 90d"),
    "ls --newer banana": (2, "--newer: 'banana' is neither a duration, such as 90s"),
    "ls --newer 1h --older 2h": (2, "--older and --newer: nothing is older than 2h and newer than 1h"),
    "pause tenant acme --for 0s": (2, "a time in the future is required"),
    "runs sample:one --tenant acme": (2, "Give a type or --tenant, and not both"),
    f"signal waits approval {'[' * 100_000}": (2, "VALUE is not JSON: "),
    "signal waits approval NaN": (2, "value: a value that JSON can hold is required: a string, a finite number"),
    "signal waits aprobación": (2, "signal: 1 to 100 printable ASCII characters are required"),
    "retry": (2, "Give ids, or options that choose tasks"),
    "redrive": (2, "Give a fingerprint from `joblane errors`, ids, --type, --tenant, or --all"),
    "show": (2, "Missing argument 'ID'"),
    "lss": (2, "No such command 'lss'. Did you mean 'ls'?"),
    "retry --state active --yes": (2, "retry is for tasks that are archived or cancelled"),
    # the state does not allow it
    "run dead": (4, "task 'dead' is archived"),
    "retry waits": (4, "task 'waits' is pending"),
}
OTHERS_WORDS = re.compile(
    r"\b\d+:\d\d:\d\d\b(?!Z)|Input should|Value error|datetime\.|timedelta|^joblane: \w+_\w+:|<\w+|\[\[|\{\w+\}"
)
"""Words of Python and of its libraries, names of fields, and brackets around names."""


def test_a_mistake_has_its_status_and_says_what_would_be_right(
    deployed: World, jobs: Jobs, subtests: pytest.Subtests
) -> None:
    put(deployed, sample_one, "dead", **archived())
    put(deployed, sample_one, "waits")
    before = deployed.run("select id, state from joblane.tasks order by id")
    for line, (code, sentence) in MISTAKES.items():
        with subtests.test(line):
            ran = jobs(*shlex.split(line))
            assert (ran.code, ran.out) == (code, "")
            assert sentence in ran.err
            assert not OTHERS_WORDS.search(ran.err)
    # and nothing was done
    assert deployed.run("select id, state from joblane.tasks order by id") == before
    assert deployed.run("select count(*) from joblane.pauses") == [[0]]


def test_the_help_of_no_command_has_brackets_around_names_or_types_of_python(
    jobs: Jobs, subtests: pytest.Subtests
) -> None:
    import typer.main

    group: Any = typer.main.get_command(app)
    names = [
        [name, *more] for name, found in group.commands.items() for more in ([], *([sub] for sub in _below(found)))
    ]
    assert ["limits", "set"] in names
    for name in names:
        with subtests.test(" ".join(name)):
            help_ = jobs(*name, "--help").out
            assert not re.search(r"<\w|\{\w|\[\[|<=x|x>=|<=", help_)
    assert jobs("retry", "--help").out.startswith("Usage: joblane retry [OPTIONS] [ID...]\n")
    assert jobs("enqueue", "--help").out.startswith("Usage: joblane enqueue [OPTIONS] TYPE\n")
    assert jobs("redrive", "--help").out.startswith("Usage: joblane redrive [OPTIONS] [FINGERPRINT|ID...]\n")


def _below(command: object) -> list[str]:
    return list(getattr(command, "commands", ()))


READING = ("ls", "show it", "dead", "queues", "queues --by tenant", "runs", "runs sample:one", "audit", "pause")


def test_no_reading_command_imports_sqlalchemy(world: World, inspector: Inspector) -> None:
    """To import it takes longer than most commands."""
    # given
    put(world, sample_one, "it", **archived())
    program = (
        "import json, sys\n"
        "from joblane.cli import connect\n"
        "from joblane.cli.main import main\n"
        "seen = {}\n"
        "for line in json.loads(sys.argv[1]):\n"
        "    try: main(line.split())\n"
        "    except SystemExit as ended: seen[line] = [ended.code or 0, 'sqlalchemy' in sys.modules]\n"
        "sys.stderr.write('\\n' + json.dumps(seen))\n"
    )
    keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
    nowhere = {"AWS_ENDPOINT_URL": "http://127.0.0.1:1", "AWS_MAX_ATTEMPTS": "1", "DATABASE_URL": world.url}
    # when
    ran = subprocess.run(
        [sys.executable, "-c", program, json.dumps(READING)],
        env={**os.environ, **keys, **nowhere},
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE_SECONDS,
    )
    # then
    seen = json.loads(ran.stderr.rpartition("\n")[2])
    assert {line: found[1] for line, found in seen.items()} == dict.fromkeys(READING, False)
    assert [seen[line][0] for line in ("ls", "show it", "runs", "audit", "pause")] == [0] * 5
