"""Naming the place of an import that does not end: a loop, a breakpoint, or a server that does not answer."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Timer, get_ident

SECONDS = 5.0


@contextmanager
def named_if_slow(root: Path) -> Iterator[None]:
    """Print file and line of the import in the block if it takes longer than :data:`SECONDS`.

    ``root``: the folder of the project, whose lines are named rather than those of packages.
    """
    timer = Timer(SECONDS, _name, (get_ident(), root.resolve()))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _name(thread: int, root: Path) -> None:
    frame = sys._current_frames().get(thread)
    places = []
    while frame is not None:
        places.append((Path(frame.f_code.co_filename), frame.f_lineno))
        frame = frame.f_back
    own = [each for each in places if each[0].is_relative_to(root) and "site-packages" not in each[0].parts]
    path, line = [*own, *places][0]
    shown = path.relative_to(root) if path.is_relative_to(root) else path
    print(f"{shown}, line {line}: this import has not ended after {SECONDS:.0f} s.", flush=True)  # noqa: T201
