"""A botocore of Lambda's runtime that the tests do not run with is logged, once, and only there."""

from __future__ import annotations

import re
import threading
import tomllib
from typing import Any

import pytest

from joblane import telemetry
from joblane.sqs import boto3_sender
from joblane.sqs.boto3_sender import TESTED
from joblane.sqs.client import Sqs
from tests.fake_sqs import FakeSqs
from tests.pages import ROOT
from tests.unit.sqs.conftest import arguments_of

RUNTIME = "AWS_Lambda_python3.13"


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []
    monkeypatch.setattr(boto3_sender, "_compared", threading.Lock())
    monkeypatch.setattr(telemetry.logger(), "warning", lambda _text, extra: lines.append(extra))
    return lines


@pytest.mark.parametrize("version", ["1.39.17", "1.45.0", "2.0.0", "1.dev", "2"])
def test_a_botocore_that_is_not_tested_is_logged_once_and_sends(
    version: str, lines: list[dict[str, Any]], server: FakeSqs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_EXECUTION_ENV", RUNTIME)
    monkeypatch.setattr(boto3_sender, "botocore_version", version)
    for _ in range(2):
        Sqs().sender.send("SendMessage", arguments_of("SendMessage"))
    assert server.accepted["one"] == 2
    assert lines == [{"botocore": version, "tested": "1.40 to 1.44"}]


@pytest.mark.parametrize(
    ("version", "environment"), [("1.40.0", RUNTIME), ("1.44.99", RUNTIME), ("1.45.0", ""), ("1.45.0", "CloudShell")]
)
def test_a_tested_botocore_and_that_of_another_program_are_not_logged(
    version: str, environment: str, lines: list[dict[str, Any]], server: FakeSqs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_EXECUTION_ENV", environment)
    monkeypatch.setattr(boto3_sender, "botocore_version", version)
    Sqs().sender.send("SendMessage", arguments_of("SendMessage"))
    assert lines == []


def test_the_tested_range_is_from_the_lowest_version_to_that_of_the_lock() -> None:
    # `make versions` runs the tests with the first, and `make test` with the second
    needed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    texts = "\n".join(needed), (ROOT / "requirements" / "dev.txt").read_text()
    found = [re.search(r"^botocore(?:>=|==)(\d+)\.(\d+)", text, re.M) for text in texts]
    assert [tuple(map(int, each.groups())) for each in found if each] == [*TESTED]
