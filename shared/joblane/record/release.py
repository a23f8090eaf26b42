"""The release of tasks whose parents have ended, see ``release_children.sql``."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

from joblane.limits import MAX_DELAY_SECONDS
from joblane.record.functions import VERSION
from joblane.record.serve import PAUSES_SECONDS, Turn

if TYPE_CHECKING:
    from joblane.record.connection import Connection

RELEASE = f"select joblane.release_children_{VERSION}($1::text[], $2::text[])"
MOST = 500
"""The most tasks of one call."""


def release(connection: Connection, ended: Iterable[str], children: Iterable[str] = ()) -> list[Turn]:
    """Release the children of ended tasks, each step in a transaction of its own, after the commit of the ends.

    ``ended``: tasks whose children have to be looked for, or cancelled. ``children``: tasks that a committed finish has
    let go. Returns the tasks whose messages are to be sent; the sweep sends those of a caller that dies before.
    """
    parents, waiting = list(dict.fromkeys(ended)), list(dict.fromkeys(children))
    locked_parents: list[str] = []
    locked: list[str] = []
    turns: list[Turn] = []
    pauses = iter(PAUSES_SECONDS)
    while parents or waiting or locked_parents or locked:
        if not parents and not waiting:
            if (pause := next(pauses, None)) is None:
                break
            time.sleep(pause)
            parents, waiting, locked_parents, locked = locked_parents, locked, [], []
        ((answer,),) = connection.run(RELEASE, parents[:MOST], waiting[:MOST])
        turns += [Turn(**turn) for turn in answer["turns"]]
        parents, waiting = [*parents[MOST:], *answer["ended"]], [*waiting[MOST:], *answer["children"]]
        locked += answer["later"]
        is_progress = answer["ended"] or answer["children"]
        (parents if is_progress else locked_parents).extend(answer["remaining"])
    return [turn for turn in turns if turn.delay <= MAX_DELAY_SECONDS]
