"""oban as its documentation uses it: `enqueue`, and an instance that drains a queue. Run in the peers' environment.

Reads commands from the standard input and writes a line when one has ended: `enqueue N`, `drain LIMIT N`. A drain
writes `warm` after :data:`WARM` jobs and waits for a line, so that its costs can be read without those of its start.
"""

from __future__ import annotations

import asyncio
import sys

from oban import Oban, job
from oban.schema import install

WARM = 200
ran = asyncio.Event()
left = {"before": 0, "after": 0}


@job(queue="default")  # type: ignore[untyped-decorator]
async def noop(number: int) -> None:
    if left["before"]:
        left["before"] -= 1
        if not left["before"]:
            print("warm", flush=True)
            sys.stdin.readline()
    else:
        left["after"] -= 1
        if not left["after"]:
            ran.set()


async def main(url: str) -> None:
    pool = await Oban.create_pool(url)
    await install(pool)
    print("ready", flush=True)
    while words := (await asyncio.to_thread(sys.stdin.readline)).split():
        if words[0] == "enqueue":
            client = Oban(pool=pool)
            for number in range(int(words[1])):
                await client.enqueue(noop.new({"number": number}))
        else:
            left.update(before=WARM, after=int(words[2]))
            ran.clear()
            async with Oban(pool=pool, queues={"default": int(words[1])}):
                await ran.wait()
                await asyncio.sleep(0.5)  # it records the ends of jobs in batches
                print("done", flush=True)
                sys.stdin.readline()
        print("done", flush=True)
    await pool.close()


asyncio.run(main(sys.argv[1]))
