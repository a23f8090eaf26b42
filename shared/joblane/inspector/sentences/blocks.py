"""Words for what keeps tasks from starting, and the commands that help: in previews, refusals and waiting canaries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from joblane.inspector.durations import stamp
from joblane.inspector.sentences.counts import because, by, plural
from joblane.inspector.sentences.limits import limit_name, values_line
from joblane.inspector.sentences.pauses import pause_line
from joblane.inspector.shell import argument

if TYPE_CHECKING:
    from joblane.inspector.views import Block, BulkView


def block_reason(block: Block) -> str:
    """A clause on what keeps tasks from starting: ``type mail:send is paused by ann until it is resumed``."""
    if block.pause is not None:
        return pause_line(block.pause, "until it is resumed")
    if block.limit is not None:
        limit, change = block.limit, block.limit.change
        until = f" until {stamp(change.until) if change.until else 'it is reset'}" if change else ""
        set_by = f", set{by(change.by)}{until}{because(change.reason)}" if change else ", as it is declared"
        return f"limit {limit_name(limit)} is {values_line(limit.in_force)}{set_by}"
    if block.key is not None:
        text = order_text(block.later, block.key, block.type)
        return text + (f", and so have later ones of {plural(block.keys - 1, 'other key')}" if block.keys > 1 else "")
    return f"no code declares the type {block.type}"


def order_text(later: int, key: str, type_: str | None) -> str:
    """``4 later tasks of key 42 of account:sync have completed``."""
    have = "task of key {key} of {type} has" if later == 1 else "tasks of key {key} of {type} have"
    return f"{later:,} later {have.format(key=key, type=type_)} completed"


def block_line(block: Block) -> str:
    """The same with the number of tasks, as a sentence about what would happen."""
    if block.key is not None:
        run = "it would run after them" if block.tasks == 1 else f"{plural(block.tasks)} would run after them"
        return f"{block_reason(block)}; {run}."
    would = "would wait" if block.stops else "would start slowly"
    if block.pause is None and block.limit is None:
        would = "cannot run"
    return f"{plural(block.tasks)} {would}: {block_reason(block)}."


def cure_of(block: Block) -> str | None:
    """The command that ends what keeps tasks from starting, without ``joblane``; None if there is none.

    A command that takes a value ends with ``…``.
    """
    if block.pause is not None:
        return f"resume {block.pause.scope} {argument(block.pause.name)}"
    if block.limit is not None:
        key = f" --key {argument(block.limit.key)}" if block.limit.key else ""
        name = f"{argument(block.limit.name)}{key}"
        return f"limits reset {name}" if block.limit.change else f"limits set {name} …"
    return None


def blocks_text(blocks: Sequence[Block]) -> str:
    """The clauses on what keeps tasks from starting."""
    return "; ".join(block_reason(block) for block in blocks)


def canary_stopped_line(blocks: Sequence[Block]) -> str:
    """Why an action cannot start with a canary, and the commands that help."""
    cures = ", ".join(f"`joblane {cure}`" for block in blocks if (cure := cure_of(block)))
    helps = f"run {cures} first, or start without a canary" if cures else "start without a canary"
    return f"it cannot run: {blocks_text(blocks)}; {helps}"


def canary_waits_line(view: BulkView) -> str | None:
    """A sentence on what the canary of an action waits for; None if nothing keeps it from starting."""
    cures = ", ".join(f"`joblane {cure}`" for block in view.blocks if (cure := cure_of(block)))
    helps = f" To end that: {cures}." if cures else ""
    return f"The canary waits: {blocks_text(view.blocks)}.{helps}" if view.blocks else None
