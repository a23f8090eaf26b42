"""The control process of `joblane dev`: ticks continue over a save, and a changed migration is noticed."""

from __future__ import annotations

import json
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TextIO

import pytest

from joblane import Payload, TaskContext, cron, task
from joblane.local.dev import forked
from joblane.local.dev.channel import Channel


class OrderCount(Payload):
    """Empty."""


@task("order:count", schedule=cron("* * * * *"))
def order_count(payload: OrderCount, ctx: TaskContext) -> None: ...


@pytest.fixture
def command() -> Iterator[tuple[TextIO, socket.socket]]:
    """The command's end of a channel, and the process's end."""
    ours, theirs = socket.socketpair()
    with ours, theirs, ours.makefile("r") as lines:
        ours.settimeout(10)
        yield lines, theirs
        ours.shutdown(socket.SHUT_RDWR)


def ticking(theirs: socket.socket, since: datetime) -> None:
    def tick() -> None:
        with suppress(SystemExit, ValueError, OSError):  # the test closes the socket
            forked._tick(Channel(theirs), {"order:count": order_count}, since)

    threading.Thread(target=tick, daemon=True).start()


def test_the_ticks_of_a_save_are_sent_by_the_next_process(command: tuple[TextIO, socket.socket]) -> None:
    lines, theirs = command
    now = datetime.now(UTC)
    ticking(theirs, now - timedelta(minutes=2))
    sent = [json.loads(lines.readline()) for _ in range(2)]
    assert [(each["kind"], each["entry"][0]) for each in sent] == [("send", "jobs-default-order-count")] * 2
    ticked = json.loads(lines.readline())
    assert datetime.fromisoformat(ticked["until"]) >= now


def test_a_changed_file_next_to_the_migrations_changes_their_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "shop_of_this_test" / "migrations"
    package.mkdir(parents=True)
    for folder in (package.parent, package):
        (folder / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    digests: list[Any] = [forked._digest("shop_of_this_test.migrations:upgrade")]
    (package / "0001_orders.sql").write_text("create table orders (id int)")
    digests.append(forked._digest("shop_of_this_test.migrations:upgrade"))
    (package.parent / "models.py").touch()  # not next to them
    digests.append(forked._digest("shop_of_this_test.migrations:upgrade"))
    assert digests[0] != digests[1] == digests[2]
    assert forked._digest(None) == forked._digest(None)
    for name in [name for name in sys.modules if name.startswith("shop_of_this_test")]:
        del sys.modules[name]
