"""A fork of the process: the child makes its own connections, because a socket cannot serve two processes."""

from __future__ import annotations

import os
from typing import Protocol
from weakref import WeakSet


class Forked(Protocol):
    """An object with connections or locks of the process."""

    def after_fork(self) -> None:
        """Give up the connections without a message to their servers, and make new locks. Called in the child."""


_objects: WeakSet[Forked] = WeakSet()


def follow_forks(item: Forked) -> None:
    """Call ``item.after_fork()`` in each process that is forked from now on."""
    _objects.add(item)


def _in_child() -> None:
    for item in list(_objects):
        item.after_fork()


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(after_in_child=_in_child)
