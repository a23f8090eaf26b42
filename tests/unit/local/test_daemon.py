"""Processes that end."""

from __future__ import annotations

from unittest.mock import Mock

import psutil
import pytest

from joblane.local.daemon import is_alive


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
