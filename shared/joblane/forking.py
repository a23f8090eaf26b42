"""A fork of the process: the child makes its own connections, because a socket cannot serve two processes."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

T = TypeVar("T")
_objects: WeakKeyDictionary[Any, Callable[[Any], None]] = WeakKeyDictionary()


def follow_forks(item: T, renew: Callable[[T], None]) -> None:
    """Call ``renew(item)`` in each process that is forked from now on, as long as ``item`` exists.

    ``renew`` gives up the connections without a message to their servers, and makes new locks.
    """
    _objects[item] = renew


def _in_child() -> None:
    for item, renew in list(_objects.items()):
        renew(item)


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(after_in_child=_in_child)
