"""The preview of an action on many tasks: their number, their causes, and what will keep them from starting."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from joblane.inspector.views.limits import LimitStatus
from joblane.inspector.views.stage import Pause


class BlockKind(StrEnum):
    """The obstacles of a task. An ``order`` does not stop it, but later tasks of its key have completed."""

    PAUSE = "pause"
    """A pause of its type, queue or tenant."""
    LIMIT = "limit"
    """A limit of 0, or one that an operator has lowered."""
    ORDER = "order"
    """Later tasks of its ordered key have completed."""
    UNDECLARED = "undeclared"
    """No code declares its type."""


@dataclass(frozen=True, slots=True)
class Block:
    """A thing that keeps tasks from starting. ``tasks``: how many. ``stops``: none of them starts while it lasts.

    ``pause``, ``limit``: of these kinds. ``type``: of an order or an undeclared type. ``key``, ``later``: of an order,
    the key with the most completed later tasks, and their number. ``keys``: the number of keys with such tasks.
    """

    kind: BlockKind
    tasks: int
    stops: bool
    pause: Pause | None = None
    limit: LimitStatus | None = None
    type: str | None = None
    key: str | None = None
    later: int = 0
    keys: int = 0


@dataclass(frozen=True, slots=True)
class PreviewCause:
    """Tasks of an action with the same error. ``fingerprint`` empty: they have none.

    ``type`` empty: messages that cannot be read. ``error``: its class and normalised message; empty without an error.
    """

    fingerprint: str
    type: str
    error: str
    number: int


@dataclass(frozen=True, slots=True)
class Preview:
    """The effect that an action on many tasks would have now. ``number``: of tasks that it would change, up to 10,000.

    ``exact`` False: there are more. ``causes``: the largest first, 50 at most; ``more_causes``: the number of others.
    ``blocks``: only of actions that send tasks, those that stop tasks first. ``canary_stopped``: the blocks that
    keep the canary from running; the action is refused with this canary unless it is empty. ``removed``: obsolete dead
    letters that a redrive would remove. ``unreadable``: messages that only a redrive of their fingerprint sends back.
    """

    action: str
    number: int
    exact: bool
    causes: tuple[PreviewCause, ...] = ()
    more_causes: int = 0
    blocks: tuple[Block, ...] = ()
    canary_stopped: tuple[Block, ...] = ()
    removed: int = 0
    unreadable: int = 0

    @property
    def number_of_causes(self) -> int:
        """The number of listed causes and of the others."""
        return len(self.causes) + self.more_causes
