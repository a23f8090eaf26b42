"""pgqueuer's `enqueue`, one by one. Run in the peers' environment; see `oban_program.py` for the commands."""

from __future__ import annotations

import asyncio
import json
import sys

import asyncpg
from pgqueuer import AsyncpgDriver, Queries


async def main(url: str) -> None:
    queries = Queries(AsyncpgDriver(await asyncpg.connect(url)))
    await queries.install()
    print("ready", flush=True)
    while words := (await asyncio.to_thread(sys.stdin.readline)).split():
        for number in range(int(words[1])):
            await queries.enqueue("noop", json.dumps({"number": number}).encode())
        print("done", flush=True)


asyncio.run(main(sys.argv[1]))
