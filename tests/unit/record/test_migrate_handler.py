"""The migration as CloudFormation calls it: which requests need the database, and what each is answered."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from contextlib import nullcontext
from datetime import timedelta
from typing import Any
from unittest.mock import Mock, call

import pytest

from joblane.errors import ForeignSchemaError
from joblane.functions.migrate.handler import handler
from joblane.record.migrate import Migrated
from tests.builders.events import LambdaContext
from tests.stories import Story, play, step, stories

IDS = {"StackId": "arn:aws:cloudformation:eu-central-1:111122223333:stack/jobs/1", "LogicalResourceId": "MigrationRun"}


class Deploys:
    """CloudFormation's side of the resource. Each request's code and database are its properties.

    ``down``: the database cannot be reached. ``migrated``: the code that has migrated the database, each time.
    """

    def __init__(self) -> None:
        self.down, self.id_, self.properties = False, "", {"Code": "", "Database": ""}
        self.migrated: list[str] = []
        self.answers: list[dict[str, Any]] = []
        self.sizes: list[int] = []
        self._under_way = ""

    def create(self, code: str) -> str:
        return self._request("Create", code, "db")

    def update(self, code: str, database: str = "db", *, old_id: str | None = None) -> str:
        return self._request("Update", code, database, id_=old_id or self.id_)

    def roll_back(self, code: str, *, id_: str | None = None) -> str:
        """Send the update to the old properties, which CloudFormation sends after a failure, with either id."""
        return self._request("Update", code, "db", id_=id_ or self.id_)

    def delete(self, id_: str) -> str:
        return self._request("Delete", self.properties["Code"], "db", id_=id_)

    def _request(self, kind: str, code: str, database: str, id_: str = "") -> str:
        properties = {"ServiceToken": f"arn:{len(self.answers)}", "Code": code, "Database": database}
        event = {"RequestType": kind, "RequestId": "r", "ResponseURL": "https://s3/x", "ResourceProperties": properties}
        if kind != "Create":
            event["PhysicalResourceId"] = id_
        if kind == "Update":
            event["OldResourceProperties"] = self.properties
        self._under_way = code
        handler({**IDS, **event}, LambdaContext())
        answer = self.answers[-1]
        if answer["Status"] == "SUCCESS" and kind != "Delete":
            self.id_, self.properties = answer["PhysicalResourceId"], properties
        return str(answer["Status"])

    def migrate(self, *_: Any, **__: Any) -> Migrated:
        if self.down:
            raise OSError("connection refused")
        self.migrated.append(self._under_way)
        return Migrated(1, "0001", newer=False)

    def answer(self, request: urllib.request.Request, timeout: float) -> nullcontext[None]:
        assert request.get_header("Content-type") == ""
        assert isinstance(request.data, bytes)
        self.answers.append(json.loads(request.data))
        self.sizes.append(len(request.data))
        return nullcontext()


@pytest.fixture
def deploys(monkeypatch: pytest.MonkeyPatch) -> Deploys:
    """A deploy of code ``1`` that succeeded."""
    deploys = Deploys()
    monkeypatch.setenv("DATABASE_URL", "postgresql://jobs@127.0.0.1:1/jobs")
    monkeypatch.setattr("joblane.record.migrate.migrate", deploys.migrate)
    monkeypatch.setattr("joblane.functions.migrate.handler._wake", lambda: None)
    monkeypatch.setattr(urllib.request, "urlopen", deploys.answer)
    assert deploys.create("1") == "SUCCESS"
    return deploys


@step
def down(deploys: Deploys, is_down: bool = True) -> None:
    """Make the database unreachable."""
    deploys.down = is_down


@step
def migrated(deploys: Deploys) -> list[str]:
    return deploys.migrated


@step
def reason(deploys: Deploys) -> str:
    return str(deploys.answers[-1]["Reason"]).partition(" (")[0]


update, roll_back = step(Deploys.update), step(Deploys.roll_back)
STORIES: dict[str, Story] = {
    "an update to new code migrates": [
        update("2").gives("SUCCESS"),
        migrated().gives(["1", "2"]),
    ],
    "a failed migration is rolled back while the database is down": [
        down(),
        update("2").gives("FAILED"),
        roll_back("1").gives("SUCCESS"),
        reason().gives("migrated by an earlier deploy; the database was not needed"),
    ],
    "a rollback after failed deploys knows the code that runs": [
        # The last success is that of a deploy that was rolled back.
        *(one for code in "23" for one in (down(False), update(code).gives("SUCCESS"), down(), roll_back("1"))),
        # and after a migration that fails itself
        update("4").gives("FAILED"),
        roll_back("1").gives("SUCCESS"),
    ],
    "the deploy after a fix migrates": [
        down(),
        update("2").gives("FAILED"),
        roll_back("1"),
        down(False),
        update("2").gives("SUCCESS"),
        migrated().gives(["1", "2"]),
    ],
    "a rollback registers the old code's types after its answer": [
        update("2"),
        roll_back("1"),
        migrated().gives(["1", "2", "1"]),
    ],
    "another database is migrated and the way back needs none": [
        update("1", database="other").gives("SUCCESS"),
        migrated().gives(["1", "1"]),
        down(),
        update("1", database="third").gives("FAILED"),
        update("1", database="db").gives("SUCCESS"),
    ],
    "an older success than the last two is migrated again": [
        update("2"),
        update("3"),
        down(),
        update("1").gives("FAILED"),
        update("2").gives("SUCCESS"),
    ],
    "an id of another form holds no success": [
        down(),
        update("1", old_id="MigrationRun").gives("FAILED"),
        update("1", old_id="migrated-0123456789abcdef-0123456789abcde").gives("FAILED"),
    ],
}


@stories(STORIES)
def test_requests(deploys: Deploys, story: Story) -> None:
    play(deploys, story)


@pytest.mark.parametrize(
    ("wanted", "status", "reason"),
    [
        (
            {},
            "SUCCESS",
            "migrated by an earlier deploy; the database is unavailable: when it answers, pause its queues",
        ),
        ({"Move": "2026-12-01T09:30:00+00:00"}, "FAILED", "connection refused"),
    ],
    ids=["rollback", "wanted"],
)
def test_only_a_rollback_returns_to_a_database_that_does_not_answer(
    deploys: Deploys, monkeypatch: pytest.MonkeyPatch, wanted: dict[str, str], status: str, reason: str
) -> None:
    # given a stage that moves to a copy because its own database is lost
    monkeypatch.setattr("joblane.functions.migrate.handler.PATIENCE", timedelta(0))
    own = deploys.properties
    event = {"RequestType": "Update", "RequestId": "r", "ResponseURL": "https://s3/x", **IDS}
    copy = {**own, "Database": "copy", "Restored": "cluster-COPY"}
    handler(
        {**event, "ResourceProperties": copy, "OldResourceProperties": own, "PhysicalResourceId": deploys.id_},
        LambdaContext(),
    )
    moved = deploys.answers[-1]
    assert moved["Status"] == "SUCCESS"
    # when a function fails in this deploy
    deploys.down = True
    handler(
        {
            **event,
            "ResourceProperties": own | wanted,
            "OldResourceProperties": copy,
            "PhysicalResourceId": moved["PhysicalResourceId"],
        },
        LambdaContext(),
    )
    assert deploys.answers[-1]["Status"] == status
    assert deploys.answers[-1]["Reason"].startswith(reason)


@pytest.mark.parametrize("down", [False, True])
def test_a_deploy_that_is_taken_back_does_not_wait_for_the_database(
    deploys: Deploys, monkeypatch: pytest.MonkeyPatch, down: bool
) -> None:
    # given a deploy of newer code, and the audit
    old = deploys.properties
    deploys.update("2")
    audit = Mock(side_effect=OSError("connection refused") if down else None)
    monkeypatch.setattr("joblane.functions.migrate.handler._write_audit", audit)
    deploys.down = down
    # when the earlier template is deployed again, with the person and the reason
    facts = {"from": "v2", "why": "acme-errors fired"}
    event = {"RequestType": "Update", "RequestId": "r", "ResponseURL": "https://s3/x", **IDS}
    taken_back = {**old, "By": "eva", "TakenBack": json.dumps(facts)}
    before = len(deploys.answers)
    handler(
        {
            **event,
            "ResourceProperties": taken_back,
            "OldResourceProperties": deploys.properties,
            "PhysicalResourceId": deploys.id_,
        },
        LambdaContext(),
    )
    # then CloudFormation has one answer, and the audit is written if the database answers
    (answer,) = deploys.answers[before:]
    assert (answer["Status"], answer["PhysicalResourceId"]) == ("SUCCESS", deploys.id_)
    assert audit.call_args_list == ([] if down else [call(facts, {"version": None, "by": "eva"})])


def test_a_failed_migration_fails_the_deploy_and_keeps_the_id(deploys: Deploys) -> None:
    before, deploys.down = deploys.id_, True
    assert deploys.update("2") == "FAILED"
    assert deploys.answers[-1]["PhysicalResourceId"] == before
    assert deploys.answers[-1]["Reason"] == "connection refused (log stream stream)"


@pytest.mark.parametrize("id_is_new", [True, False])
def test_a_later_failure_is_rolled_back_while_the_database_is_down(deploys: Deploys, id_is_new: bool) -> None:
    # given a deploy whose migration succeeds, before another resource fails
    first = deploys.id_
    deploys.update("2")
    second = deploys.id_
    assert first != second
    # when
    deploys.down = True
    assert deploys.roll_back("1", id_=second if id_is_new else first) == "SUCCESS"
    assert deploys.delete(first if id_is_new else second) == "SUCCESS"
    # then the next deploy, which needs the database, fails and is rolled back, too
    assert deploys.update("3") == "FAILED"
    assert deploys.roll_back("1") == "SUCCESS"


def test_a_create_that_failed_is_deleted_without_the_database(deploys: Deploys) -> None:
    deploys.down = True
    assert deploys.create("2") == "FAILED"
    failed = deploys.answers[-1]["PhysicalResourceId"]
    assert failed == "MigrationRun"
    assert deploys.delete(failed) == "SUCCESS"
    assert deploys.answers[-1]["PhysicalResourceId"] == failed


@pytest.mark.parametrize(
    "error", [SystemExit(3), ForeignSchemaError("another project's", "Use another"), SyntaxError("x")]
)
def test_whatever_the_migration_raises_is_answered(
    deploys: Deploys, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("joblane.record.migrate.migrate", Mock(side_effect=error))
    assert deploys.update("2") == "FAILED"
    assert deploys.roll_back("1") == "SUCCESS"


@pytest.mark.parametrize("character", ["x", '"', "\x1b", "ж", "語", "🚀", "\udcff"], ids=ascii)
@pytest.mark.parametrize("count", [1, 1_000, 100_000])
def test_an_answer_has_as_much_of_the_reason_as_cloudformation_takes(
    deploys: Deploys, character: str, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given a package without the function that shortens and cleans the text
    monkeypatch.setitem(sys.modules, "joblane.errors", None)
    monkeypatch.setattr("joblane.functions.migrate.handler._logger", Mock())  # pytest-xdist cannot send half a pair
    monkeypatch.setattr("joblane.record.migrate.migrate", Mock(side_effect=OSError(character * count)))
    # when
    assert deploys.update("2") == "FAILED"
    # then
    reason, found, rest = deploys.answers[-1]["Reason"].partition(" (log stream stream)")
    shown = reason.removeprefix("OSError: ")
    assert (set(shown), bool(found), rest) == ({character.replace("\udcff", "?")}, True, "")
    size = deploys.sizes[-1]
    assert len(shown) == count or size > 4096 - 6
    assert size <= 4096


BROKEN_PACKAGE = """
import json, sys, urllib.request
from contextlib import nullcontext

class Broken:
    allowed = ("joblane", "joblane.lazy", "joblane.functions", "joblane.functions.migrate")
    def find_spec(self, name, *_):
        if name.partition(".")[0] not in sys.stdlib_module_names and not name.startswith("joblane.functions.migrate."):
            if name not in self.allowed:
                raise ImportError(f"{name} is broken")

sys.meta_path.insert(0, Broken())
sys.path.insert(0, "shared")
from joblane.functions.migrate.handler import handler

urllib.request.urlopen = lambda request, timeout: print(request.data.decode()) or nullcontext()
class Context:
    log_stream_name = "stream"
for event in json.loads(sys.argv[1]):
    handler(event, Context())
"""


def test_a_package_that_cannot_be_imported_is_rolled_back_and_deleted(deploys: Deploys) -> None:
    # given
    common = {**IDS, "ResponseURL": "https://s3/x", "RequestId": "r", "PhysicalResourceId": deploys.id_}
    broken, working = {"Code": "2", "Database": "db"}, deploys.properties
    events = [
        {**common, "RequestType": "Update", "ResourceProperties": broken, "OldResourceProperties": working},
        {**common, "RequestType": "Update", "ResourceProperties": working, "OldResourceProperties": broken},
        {**common, "RequestType": "Delete", "ResourceProperties": working},
    ]
    # when
    done = subprocess.run(
        [sys.executable, "-c", BROKEN_PACKAGE, json.dumps(events)], capture_output=True, text=True, check=True
    )
    # then
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [answer["Status"] for answer in answers] == ["FAILED", "SUCCESS", "SUCCESS"]
    assert "is broken" in answers[0]["Reason"]
