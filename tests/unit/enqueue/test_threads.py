"""The threads of asynchronous callers."""

from __future__ import annotations

import asyncio
import threading
from contextvars import ContextVar

import pytest

from joblane.enqueue.threads import Threads
from joblane.sqs.client import CONNECTIONS
from tests.patience import PATIENCE_SECONDS


def join_threads() -> None:
    for thread in threading.enumerate():
        if thread.name.startswith("joblane_"):  # of the pool; those of other parts may stay
            thread.join(PATIENCE_SECONDS)


number: ContextVar[int] = ContextVar("number")


def test_a_call_has_the_callers_context_and_raises_its_error_to_it() -> None:
    async def main() -> None:
        threads = Threads()
        number.set(7)
        assert await threads.call(number.get) == 7
        with pytest.raises(ZeroDivisionError):
            await threads.call(lambda: 1 // 0)

    asyncio.run(main())


@pytest.mark.parametrize("always", [False, True])
def test_a_cancelled_call_that_has_not_begun_runs_only_if_it_always_has_to(always: bool) -> None:
    opens, ran = threading.Event(), list[str]()

    async def main() -> None:
        threads = Threads()
        running = [asyncio.create_task(threads.call(opens.wait)) for _ in range(CONNECTIONS)]
        waiting = asyncio.create_task(threads.call(lambda: ran.append("it"), always=always))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        opens.set()
        await asyncio.gather(*running)

    asyncio.run(main())
    join_threads()
    assert ran == (["it"] if always else [])


def test_no_thread_is_left_when_no_call_is() -> None:
    before = threading.active_count()
    threads = Threads()

    async def main(calls: int) -> int:
        return sum(await asyncio.gather(*(threads.call(lambda: 1) for _ in range(calls))))

    assert [asyncio.run(main(calls)) for calls in (1, 100, 3)] == [1, 100, 3]
    join_threads()
    assert threading.active_count() == before


def test_a_call_that_finds_no_thread_raises_and_does_not_run_later(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    threads, ran = Threads(), list[str]()

    async def main() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            with pytest.raises(RuntimeError, match="can't start new thread"):
                await threads.call(lambda: ran.append("refused"))
        await threads.call(lambda: ran.append("next"))

    asyncio.run(main())
    join_threads()
    assert ran == ["next"]
