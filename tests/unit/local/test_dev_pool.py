"""The processes of `joblane dev`: what a save does with the messages of a place."""

from __future__ import annotations

import asyncio
from typing import Any

from joblane.local.dev.log import Log
from joblane.local.dev.pool import Pool, Worker
from joblane.local.dev.queues import DevQueues
from joblane.sqs.client import Entry

LANE = "jobs-default-web"
DECLARED = {
    "types": ["card:list"],
    "lanes": [LANE],
    "batch_size": 1,
    "max_concurrency": None,
    "visibility_seconds": 60,
    "max_receive_count": 100,
    "allows_loops": False,
}


async def never(*_: Any) -> Any:
    raise AssertionError


async def hidden_after_a_save(log: Log) -> list[bool]:
    """Return whether the messages of a place are hidden after a save: one that it has kept, one that runs, a
    delayed one."""
    queues = DevQueues("jobs", lambda _: None)
    queues.declare({"web": DECLARED})
    pool = Pool("web", DECLARED, queues=queues, log=log, start=never, end_leases=never, report_broken=lambda *_: None)
    for body, delay in (("kept", 0), ("runs", 0), ("delayed", 900)):
        queues.send(Entry(LANE, body, delay))
    kept, runs = queues.receive_some(LANE, 2)
    queues.set_visibility(LANE, {kept.receipt: 900})
    running = Worker(0)
    running.batch = [runs]
    pool._workers.append(running)
    pool.reload()
    pool._workers.remove(running)
    await pool.close(0)
    now = queues.seconds()
    return [message.visible_at > now for message in queues.queues[LANE].values()]


def test_a_save_shows_the_messages_that_a_place_hides_and_that_no_process_has(tmp_path: Any) -> None:
    log = Log(tmp_path / "dev.log", "jobs", raw=False)
    try:
        assert asyncio.run(hidden_after_a_save(log)) == [False, True, True]
    finally:
        log.close()
