"""The page ``tests/bench/peers/report.md`` shows the results of ``make bench-peers``."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.bench.peers import cost_tables, emulator, page, program
from tests.bench.peers.titles import TITLES


@pytest.fixture
def results() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(page.RESULTS.read_text())
    return loaded


def test_the_page_shows_the_tables_of_the_results(results: dict[str, Any]) -> None:
    text = page.PAGE.read_text()
    assert text == page.rendered(text, results), "`make bench-peers WRITE=1` writes both"


def test_other_results_are_another_page(results: dict[str, Any]) -> None:
    text = page.PAGE.read_text()
    results["costs"]["systems"]["joblane"]["measured"]["one"]["client"] = [0.123456]
    assert "123,456" in page.rendered(text, results)


def test_every_system_is_measured_or_has_a_reason(results: dict[str, Any]) -> None:
    systems = results["costs"]["systems"]
    assert list(systems) == list(TITLES)
    for name, system in systems.items():
        for what in ("one", *(cost_tables.run_name(10, batch) for batch in cost_tables.BATCHES.get(name, (None,)))):
            assert what in system["measured"] or what in system["failed"] or "start" in system["failed"]


def test_a_system_that_fails_keeps_its_row_and_shows_the_reason(results: dict[str, Any]) -> None:
    results["costs"]["systems"]["celery"] = {"measured": {}, "failed": {"start": "no | such\npackage"}}
    tables = cost_tables.tables(results["costs"])
    assert "| Celery | - | - | - | - |" in tables["enqueue-client"]
    assert "| Celery | - | - | - | - | - | - | - | - |" in tables["life"]
    assert tables["failed"] == "- Celery, start: no such package"


def test_a_cell_is_the_median_with_the_least_and_the_most() -> None:
    assert cost_tables.cell([3e-6, 1e-6, 2_000e-6], 1e6) == "3 (1–2,000)"
    assert cost_tables.cell([0.118], digits=2) == "0.12"
    assert cost_tables.cell(None) == "-"


def test_a_producer_answers_each_command_and_survives_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "bench_producer.py").write_text(
        "class Producer:\n"
        "    async def one(self, job, first, count):\n"
        "        assert count == 1\n"
        "        if first == 2:\n"
        "            raise ValueError('two\\nlines')\n"
        "    def many(self, job, first, count):\n"
        "        assert (job, first, count) == ('noop', 5, 2)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("sys.argv", ["program", "produce"])
    monkeypatch.setattr("sys.stdin", iter(["one noop 0 2\n", "one noop 1 2\n", "many noop 5 2\n"]))
    program.main("bench_producer")
    answers = capsys.readouterr().out.splitlines()
    assert [answer.split()[0] for answer in answers] == ["ready", "done", "error", "done"]
    assert answers[2] == "error ValueError: two lines"


def test_parts_of_two_runs_that_differ_are_reported(results: dict[str, Any]) -> None:
    other = json.loads(json.dumps(results["costs"]))
    assert page.differences({"costs": results["costs"], "crashes": other}) == []
    other["setting"]["quick"] = "other"
    other["systems"]["oban"]["versions"] = {"oban": "0.0"}
    assert [line.split(":")[0] for line in page.differences({"costs": results["costs"], "crashes": other})] == [
        "quick",
        "versions of oban",
    ]


async def _call(app: Any, headers: dict[str, str], messages: list[dict[str, Any]]) -> None:
    scope = {"type": "http", "path": "/", "headers": [(key.encode(), value.encode()) for key, value in headers.items()]}
    left = iter(messages)

    async def receive() -> dict[str, Any]:
        if (message := next(left, None)) is None:
            await asyncio.Event().wait()
        return message or {}

    async def send(_message: Any) -> None:
        pass

    await app(scope, receive, send)


def test_the_emulator_counts_requests_of_both_protocols(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(emulator, "requests", Counter())
    seen = []

    async def app(scope: Any, receive: Any, _send: Any) -> None:
        seen.append((dict(scope["headers"]).get(b"user-agent"), (await receive())["body"]))

    counted = emulator.counting(app)
    form = {"content-type": "application/x-www-form-urlencoded", "user-agent": "Mozilla/5.0 (compatible; pycurl)"}
    parts: list[dict[str, Any]] = [{"body": b"Action=Receive", "more_body": True}, {"body": b"Message&Version=1"}]
    asyncio.run(_call(counted, {"x-amz-target": "AmazonSQS.SendMessage"}, [{"body": b"{}"}]))
    asyncio.run(_call(counted, form, parts))
    assert emulator.requests == {"SendMessage": 1, "ReceiveMessage": 1}
    assert seen == [(None, b"{}"), (None, b"Action=ReceiveMessage&Version=1")]


def test_a_long_poll_whose_connection_is_closed_receives_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(emulator, "requests", Counter())
    received, arrives = [], asyncio.Event()

    async def app(_scope: Any, _receive: Any, _send: Any) -> None:
        await arrives.wait()
        received.append("a message")

    async def call() -> None:
        headers = {"x-amz-target": "AmazonSQS.ReceiveMessage"}
        with suppress(asyncio.CancelledError):
            closed = _call(emulator.counting(app), headers, [{"body": b"{}"}, {"type": "http.disconnect"}])
            await asyncio.wait_for(closed, 5)
        arrives.set()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            await task

    asyncio.run(call())
    assert received == []
