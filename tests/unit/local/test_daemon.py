"""Processes that end, and files that name them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from unittest.mock import Mock

import psutil
import pytest

from joblane.local.daemon import Daemon, is_alive


@pytest.mark.parametrize(
    ("status", "threads", "alive"),
    [
        (psutil.STATUS_SLEEPING, 1, True),
        (psutil.STATUS_ZOMBIE, 2, True),  # its main thread has ended, and its port is still taken
        (psutil.STATUS_ZOMBIE, 1, False),
    ],
)
def test_a_zombie_runs_until_its_last_thread_has_ended(status: str, threads: int, alive: bool) -> None:
    assert is_alive(Mock(**{"status.return_value": status, "num_threads.return_value": threads})) is alive


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")
def test_a_process_that_another_user_names_is_not_stopped(tmp_path: Path) -> None:
    daemon = Daemon("ministack", tmp_path)
    daemon.launch(["sleep", "300"], {"PATH": os.defpath}, tmp_path, {"port": "4566"})
    pid = daemon.pid
    assert pid is not None
    shutil.chown(tmp_path / "ministack.json", 65534)
    # when
    other = Daemon("ministack", tmp_path)
    assert (other.pid, other.started_with) == (None, {})
    other.stop()
    # then
    assert psutil.pid_exists(pid)
    psutil.Process(pid).kill()
