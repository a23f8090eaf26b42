"""`joblane page` as a process."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from http.cookiejar import CookieJar
from pathlib import Path

import pytest

from tests.patience import PATIENCE_SECONDS

ROOT = Path(__file__).parents[3]
PROGRAM = (sys.executable, "-m", "joblane.cli.main", "page", "--port")


@pytest.fixture
def environment(database_url: str) -> Mapping[str, str]:
    nowhere = "http://127.0.0.1:1"
    keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
    return {**os.environ, **keys, "AWS_ENDPOINT_URL": nowhere, "DATABASE_URL": database_url, "PYTHONUNBUFFERED": "1"}


@pytest.fixture
def running(environment: Mapping[str, str]) -> Iterator[subprocess.Popen[str]]:
    command = [*PROGRAM, "0", "--read-only"]
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as program:
        yield program
        program.kill()


def test_it_prints_the_address_of_the_page_and_ends_quietly_by_ctrl_c(
    running: subprocess.Popen[str],
) -> None:
    # given
    assert running.stdout is not None
    assert running.stderr is not None
    first, address = running.stdout.readline(), running.stdout.readline().strip()
    assert first.startswith("Read-only.")
    assert address.startswith("http://127.0.0.1:")
    # when
    browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar()))
    with browser.open(address.replace("/?", "/?minutes=5&"), timeout=PATIENCE_SECONDS) as first:
        base, _, landed = first.geturl().rpartition("/")
    with browser.open(f"{base}/tasks", timeout=PATIENCE_SECONDS) as tasks:
        text = tasks.read().decode()
    # then
    assert landed == "?minutes=5"
    assert "No task has been enqueued yet." in text
    with (
        pytest.raises(urllib.error.HTTPError, match="401"),
        urllib.request.urlopen(f"{base}/tasks", timeout=PATIENCE_SECONDS),
    ):
        pass
    # and
    running.send_signal(signal.SIGINT)
    assert running.wait(PATIENCE_SECONDS) in (0, 130)
    assert "Traceback" not in running.stderr.read()


def test_a_port_in_use_is_reported_with_the_remedy(environment: Mapping[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = subprocess.run(
            [*PROGRAM, port],
            cwd=ROOT,
            env=environment,
            text=True,
            capture_output=True,
            timeout=PATIENCE_SECONDS,
            check=False,
        )
    assert done.returncode == 1
    assert f"The page cannot listen on 127.0.0.1:{port}" in done.stderr
    assert "--port" in done.stderr


def test_an_unavailable_database_is_reported_before_the_page_listens(environment: Mapping[str, str]) -> None:
    away = {**environment, "DATABASE_URL": "postgresql://jobs@127.0.0.1:1/jobs"}
    done = subprocess.run(
        [*PROGRAM, "0"], cwd=ROOT, env=away, text=True, capture_output=True, timeout=PATIENCE_SECONDS, check=False
    )
    assert done.returncode != 0
    assert "127.0.0.1:1" in done.stderr
    assert "Cannot connect to the database" in done.stderr
    assert "token" not in done.stdout
