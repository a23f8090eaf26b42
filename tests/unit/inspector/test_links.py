"""Links into the AWS console, decoded as the console decodes them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from urllib.parse import unquote

import pytest

from joblane.inspector.links import AROUND, log_group_link, logs_link

AT = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)


@pytest.fixture(autouse=True)
def on_aws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)


def parts(link: str) -> dict[str, str]:
    """The fields of the query; its notation separates names and values by ``~``."""
    fragment = link.partition("#logsV2:logs-insights")[2]
    detail = unquote(unquote(fragment.replace("$", "%"))).removeprefix("?queryDetail=")
    assert detail.startswith("~(")
    assert detail.endswith("~source~(~'" + detail.rpartition("~'")[2])
    words = detail[2:].split("~")
    pairs = dict(zip(words[0:10:2], words[1:10:2], strict=True))
    return {name: unquote(value.removeprefix("'").replace("*", "%")) for name, value in pairs.items()} | {
        "source": unquote(words[-1].removeprefix("'").removesuffix("))").replace("*", "%"))
    }


def test_a_link_searches_the_lines_of_one_task_around_its_time() -> None:
    link = logs_link("eu-central-1", "/aws/lambda/jobs-data-export", "a~b*(c)'\"d\\", AT, AT + timedelta(hours=1))
    assert link is not None
    found = parts(link)
    assert found["source"] == "/aws/lambda/jobs-data-export"
    assert found["start"] == "2026-03-01T11:55:00.000Z"
    assert found["end"] == "2026-03-01T13:05:00.000Z"
    assert found["editorString"] == (
        'fields @timestamp, @message\n| filter @message like "a~b*(c)\'\\"d\\\\"\n| sort @timestamp asc\n| limit 1000'
    )
    assert (found["timeType"], found["tz"]) == ("ABSOLUTE", "UTC")
    assert set(link.partition("#")[2]) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789$*-._:")


def test_a_link_without_an_end_goes_up_to_now() -> None:
    link = logs_link("eu-central-1", "/g", "it", AT, None)
    assert link is not None
    assert datetime.fromisoformat(parts(link)["end"]) > datetime.now(UTC) + AROUND / 2


def test_without_a_region_there_is_no_console() -> None:
    assert logs_link("", "/g", "it", AT, None) is None
    assert log_group_link("", "/g") is None


def test_with_an_emulator_there_is_no_console(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:4566")
    assert logs_link("eu-central-1", "/g", "it", AT, None) is None
    assert log_group_link("eu-central-1", "/g") is None
