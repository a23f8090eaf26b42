"""The ends of `joblane watch` that no key asks for: SIGTERM, and the loss of its terminal."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import threading
from collections.abc import Callable

TERMINATED = 128 + signal.SIGTERM
HUNG_UP = 128 + signal.SIGHUP


def await_ends(file: int, leave: Callable[[], None]) -> None:
    """Call ``leave`` on SIGTERM, so that the terminal is restored, and end once the terminal of ``file`` is gone.

    The kernel sends SIGHUP only if it is the controlling terminal. Without a signal, Textual reads the end of its input
    again and again, with a whole processor. To be called in the thread of the event loop.
    """
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, leave)
    terminal = select.poll()
    terminal.register(file, 0)  # that is, only for its loss

    def run() -> None:
        if any(event & select.POLLHUP for _, event in terminal.poll()):
            os._exit(HUNG_UP)  # there is no terminal to restore, and the thread that writes to it may be blocked

    threading.Thread(target=run, name="joblane-watch-terminal", daemon=True).start()
