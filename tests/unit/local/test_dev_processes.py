"""The output of a process of `joblane dev`, line by line."""

from __future__ import annotations

import asyncio
import os
import threading

from joblane.local.dev import processes
from joblane.local.dev.processes import MAX_LINE


def test_a_line_without_end_is_several_lines_and_the_next_ones_arrive() -> None:
    reading, writing = os.pipe()
    lines: list[str] = []

    def write() -> None:
        with os.fdopen(writing, "wb") as output:
            output.write(b"first\r\n" + b"x" * (3 * MAX_LINE) + b"\nnext\n\xff without an end")

    writer = threading.Thread(target=write)
    writer.start()
    asyncio.run(processes._read_lines(reading, lines.append))
    writer.join()
    assert (lines[0], lines[-2:]) == ("first", ["next", "\N{REPLACEMENT CHARACTER} without an end"])
    assert "".join(lines[1:-2]) == "x" * (3 * MAX_LINE)
    assert max(map(len, lines)) < 2 * MAX_LINE
