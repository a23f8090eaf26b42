"""`redrive`: archived tasks and dead letters run again."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated

import typer

from joblane.cli import options, previews, target, terminal
from joblane.cli.exits import Exit
from joblane.cli.follow import follow
from joblane.inspector.filter import Filter
from joblane.inspector.sentences.counts import counted, plural

if TYPE_CHECKING:
    from joblane.inspector.views import Preview

FINGERPRINT = re.compile(r"(message:)?[0-9a-f]{16}")
"""The form of the fingerprints of archived tasks, and of messages without a row."""


@options.expanded
def redrive(
    context: typer.Context,
    which: Annotated[
        list[str] | None,
        typer.Argument(metavar="FINGERPRINT|ID", help="A fingerprint from `joblane errors`, or ids."),
    ] = None,
    *,
    type_: options.Types = None,
    tenant: options.Tenant = None,
    everything: Annotated[bool, typer.Option("--all", help="All archived tasks and dead letters.")] = False,
    all_causes: Annotated[
        bool, typer.Option("--all-causes", help="With --yes: even if the tasks have several causes.")
    ] = False,
    how: options.Bulk,
) -> None:
    """Run archived tasks again, with `--canary` a few of them first.

    Choose the tasks by fingerprint, ids, type or tenant, or --all. Dead letters without a row are sent back as well.
    The question lists the causes of the tasks, and what will keep them from starting.
    """
    if everything and (which or type_ or tenant):
        terminal.usage("give --all without a fingerprint, ids, --type or --tenant", "--all")
    if not (everything or which or type_ or tenant):
        terminal.usage("give a fingerprint from `joblane errors`, ids, --type, --tenant, or --all")
    inspector, command = target.inspector(context), target.command(context)
    chosen = _filter(which or [], tuple(type_ or ()), tenant)
    found = inspector.preview("redrive", chosen, canary=how.canary)
    number = found.number
    if everything and found.unreadable:
        stay = "stays" if found.unreadable == 1 else "stay"
        messages = plural(found.unreadable, "unreadable message")
        terminal.say(f"{messages} {stay}; redrive unreadable messages by fingerprint.")
    if not number and not found.removed:
        terminal.stop("no archived task or dead letter matches; `joblane dead` lists them", Exit.NOTHING)
    if how.dry_run:
        previews.dry_run(found, _would(found), how, command)
    yes = how.yes or bool(chosen.ids)
    if how.yes and found.number_of_causes > 1 and not (all_causes or chosen.ids or chosen.fingerprint):
        previews.show(found, command)
        previews.several_causes(found)
    question = f"Redrive {_tasks(found)}{how.first(number)}?" if number else f"Remove {_obsolete(found.removed)}?"
    previews.ask(found, question, how, command, yes=yes)
    started = inspector.redrive(chosen, canary=how.canary, rate=how.rate, reason=how.reason)
    raise typer.Exit(follow(inspector, started, command, as_json=how.as_json))


def _filter(which: list[str], types: tuple[str, ...], tenant: str | None) -> Filter:
    """A filter for one fingerprint, or for ids: an argument that is not a fingerprint is an id."""
    fingerprints = [text for text in which if FINGERPRINT.fullmatch(text)]
    if len(fingerprints) > 1 or (fingerprints and len(which) > 1):
        terminal.usage("give one fingerprint, or only ids", "FINGERPRINT|ID")
    if fingerprints:
        return Filter(fingerprint=fingerprints[0], types=types, tenant=tenant)
    return Filter(ids=tuple(dict.fromkeys(which)), types=types, tenant=tenant)


def _tasks(found: Preview) -> str:
    of = f" of {plural(found.number_of_causes, 'cause')}" if found.number_of_causes > 1 else ""
    return f"{counted(found)}{of}"


def _would(found: Preview) -> str:
    parts = [f"{_tasks(found)} would be redriven"] if found.number else []
    parts += [f"{_obsolete(found.removed)} would be removed"] if found.removed else []
    return "; ".join(parts) + "."


def _obsolete(number: int) -> str:
    return plural(number, "obsolete dead letter")
