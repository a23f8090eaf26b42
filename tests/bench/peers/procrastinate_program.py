"""procrastinate's `defer_async`, one by one. Run in the peers' environment; see `oban_program.py` for the commands."""

from __future__ import annotations

import asyncio
import sys

from procrastinate import App, PsycopgConnector

app = App(connector=PsycopgConnector(conninfo=sys.argv[1]))


@app.task  # type: ignore[untyped-decorator]
async def noop(number: int) -> None:
    pass


async def main() -> None:
    async with app.open_async():
        await app.schema_manager.apply_schema_async()
        print("ready", flush=True)
        while words := (await asyncio.to_thread(sys.stdin.readline)).split():
            for number in range(int(words[1])):
                await noop.defer_async(number=number)
            print("done", flush=True)


asyncio.run(main())
