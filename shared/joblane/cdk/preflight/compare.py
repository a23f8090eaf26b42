"""What a deploy of this checkout would lose or break in a stage that runs: a comparison of plain data.

Nothing is asked for here, see :mod:`joblane.cdk.preflight.read`. A part that could not be asked for is None,
and the rules that
need it say nothing; who could not ask says so by a finding of its own.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial

from joblane.queues import Queue, dead_letter_name, lane_name

LEAST_UNRESERVED = 100
"""What an account keeps for functions without a reservation. Source: PutFunctionConcurrency, Lambda API reference."""
HOW = "docs/how-to/change-safely.md says how"

Place = tuple[str, str]
"""Stack and logical id."""


class Kind(StrEnum):
    """``REFUSED``: no deploy before it is mended. ``UNCHECKED``: nobody looked. ``NOTE``: for information."""

    REFUSED = "refused"
    UNCHECKED = "unchecked"
    NOTE = "note"


@dataclass(frozen=True)
class Finding:
    """``what`` it is about, ``why`` it matters, and what to ``do``."""

    kind: Kind
    what: str
    why: str
    do: str = ""


refused, note = partial(Finding, Kind.REFUSED), partial(Finding, Kind.NOTE)


@dataclass(frozen=True)
class Declared:
    """What the checkout would deploy.

    ``lanes``: type, or a name it had before → the queues in which it has a lane. ``queues``: of SQS, by place.
    ``slots``: sum of ``MaximumConcurrency`` over the mappings of functions without a reservation; ``reserved``: sum of
    the reservations. The rest are settings of the stage.
    """

    stage: str
    prefix: str
    lanes: Mapping[str, Sequence[str]]
    queues: Mapping[Place, str]
    slots: int
    reserved: int
    account_concurrency: int
    database_connections: int
    reserved_connections: int


@dataclass(frozen=True)
class Account:
    """Lambda in account and region. ``limit``: concurrent executions, of which ``reserved_by_others`` belong to
    functions that are not of the stage; ``other_stages``: prefix → sum of its ``MaximumConcurrency``."""

    limit: int
    reserved_by_others: int
    other_stages: Mapping[str, int]


@dataclass(frozen=True)
class Record:
    """The stage's database.

    ``revision``: of the schema, None without one; ``pending``: revision → purpose, of the migrations to come;
    ``newer``: newer code has migrated it. ``live``: (type, queue) → tasks in ``scheduled``, ``pending``, ``active`` or
    ``retry``. ``types``: that the deployed code declares. ``max_connections`` of the server, of which
    ``kept_connections`` are open to superusers and the like alone.
    """

    address: str
    revision: str | None
    pending: Mapping[str, str]
    newer: bool
    live: Mapping[tuple[str, str], int]
    types: Sequence[str]
    max_connections: int
    kept_connections: int


def examine(
    declared: Declared,
    *,
    stacks: Mapping[Place, str] | None,
    messages: Mapping[str, int] | None,
    account: Account | None,
    record: Record | None,
) -> list[Finding]:
    """All that is in the way, and what is good to know.

    ``stacks``: queue names in the stage's deployed stacks, by place; empty before the first deploy. ``messages``: queue
    name → messages in it, of all queues that are there with a name of the stage.
    """
    return [
        *_left_behind(declared, messages or {}, record),
        *_replaced(declared, stacks, messages),
        *(_concurrency(declared, account) if account else ()),
        *(_database(declared, record, stacks) if record else ()),
    ]


def stops(findings: Sequence[Finding], *, strict: bool = False) -> bool:
    """Whether there must be no deploy. ``strict``: nor where something was not looked at."""
    kinds = {Kind.REFUSED, Kind.UNCHECKED} if strict else {Kind.REFUSED}
    return any(finding.kind in kinds for finding in findings)


# --- Tasks and messages --------------------------------------------------------------------------------------------


def _left_behind(declared: Declared, messages: Mapping[str, int], record: Record | None) -> Iterator[Finding]:
    """Live tasks and messages of types and lanes that nothing declares any more."""
    waiting: dict[tuple[str, str], list[str]] = defaultdict(list)
    live = record.live if record else {}
    for (type_, queue), count in sorted(live.items()):
        if queue not in declared.lanes.get(type_, ()):
            waiting[type_, queue].append(f"{_count(count, 'live task')} in queue {queue}")
    lanes = _lanes_by_name(declared.prefix, {type_ for type_, _ in live} | set(record.types if record else ()))
    known = {*declared.queues.values()}
    strangers: dict[str, int] = {}
    for name, count in sorted(messages.items()):
        if count and name not in known:
            if name in lanes:
                waiting[lanes[name]].append(f"{_count(count, 'message')} in {name}")
            else:
                strangers[name] = count
    by_type: dict[str, list[str]] = defaultdict(list)
    for (type_, queue), found in waiting.items():
        if type_ not in declared.lanes:
            by_type[type_] += found
            continue
        yield refused(
            f"task type {type_}, queue {queue}",
            f"it has no lane there any more, and still {', '.join(found)}",
            f"keep also=[Queue.{queue.upper()}] until they have run; {HOW}",
        )
    for type_, found in by_type.items():
        yield refused(
            f"task type {type_}",
            f"no task declares it, and it still has {', '.join(found)}",
            f'keep it until they have run; if it has a new name, declare aliases=["{type_}"] there; {HOW}',
        )
    for name, count in strangers.items():
        yield refused(
            f"queue {name}",
            f"nothing declares it, and it holds {_count(count, 'message')}",
            f"keep the task it belongs to until they have run, or move them on; {HOW}",
        )


def _lanes_by_name(prefix: str, types: set[str]) -> dict[str, tuple[str, str]]:
    """Name of a lane or of its DLQ → type and queue, for the types that the database knows."""
    found = {}
    for type_ in types:
        for queue in Queue:
            name = lane_name(prefix, queue, type_)
            found[name] = found[dead_letter_name(name)] = (type_, str(queue))
    return found


# --- Queues --------------------------------------------------------------------------------------------------------


def _replaced(
    declared: Declared, stacks: Mapping[Place, str] | None, messages: Mapping[str, int] | None
) -> Iterator[Finding]:
    """Queues that CloudFormation would make anew, or cannot make.

    A change of ``QueueName`` replaces a queue, and another logical id is another queue.
    Source: CloudFormation, AWS::SQS::Queue.
    """
    if stacks is None:
        return
    places, held = {name: place for place, name in stacks.items()}, messages or {}
    for place, name in sorted(declared.queues.items()):
        old = stacks.get(place)
        if old is not None and old != name:
            yield refused(
                f"queue {old}",
                f"it would be replaced by {name}, and what it holds has no consumer then",
                f"give it its name back (logical id {place[1]}); {HOW}",
            )
        elif name in places and places[name] != place:
            yield refused(
                f"queue {name}",
                f"its logical id would change from {places[name][1]} to {place[1]}, and its name is taken until the "
                "old one is gone",
                f"keep the path of its construct; {HOW}",
            )
        elif name not in places and name in held:
            yield refused(
                f"queue {name}",
                f"it is there, with {_count(held[name], 'message')}, and belongs to no stack of this "
                "stage: CloudFormation cannot make it",
                f"it may be left from an earlier deploy: drain it, delete it and wait a minute; {HOW}",
            )
    for name in sorted({*held} - {*declared.queues.values()} - {*places}):
        if not held[name]:
            yield note(
                f"queue {name}",
                "it is empty, and neither declared nor in a stack: left from an earlier deploy",
                f"count its messages again: URL=$(aws sqs get-queue-url --queue-name {name} --output text); "
                "aws sqs get-queue-attributes --queue-url $URL --attribute-names All; if there is none: "
                "aws sqs delete-queue --queue-url $URL",
            )


# --- Limits --------------------------------------------------------------------------------------------------------


def _concurrency(declared: Declared, account: Account) -> Iterator[Finding]:
    others = sum(account.other_stages.values())
    need = declared.slots + declared.reserved
    if need + others + account.reserved_by_others > account.limit:
        parts = [f"{declared.slots} for queues", f"{declared.reserved} reserved"]
        parts += [f"{slots} for the queues of {prefix}" for prefix, slots in account.other_stages.items()]
        parts += [f"{account.reserved_by_others} reserved by others"]
        yield refused(
            "Lambda concurrency",
            f"the account has {account.limit} concurrent executions, and this takes "
            + " + ".join(part for part in parts if not part.startswith("0 ")),
            "lower concurrency_budget of a stage, or ask for more (Service Quotas, Lambda, concurrent executions)",
        )
    unreserved = account.limit - account.reserved_by_others - declared.reserved
    if declared.reserved and unreserved < LEAST_UNRESERVED:
        yield refused(
            "reserved concurrency",
            f"{declared.reserved} reserved here leave {unreserved} of {account.limit} concurrent executions to "
            f"functions without a reservation; Lambda keeps {LEAST_UNRESERVED} for them",
            "take the reservation back (api.max_concurrency), or ask for more (Service Quotas, Lambda)",
        )
    if declared.account_concurrency > account.limit:
        yield note(
            "account_concurrency",
            f"the stage says {declared.account_concurrency}, and the account has {account.limit}",
            f'write "account_concurrency": {account.limit} in cdk.json, for the synth to know',
        )


def _database(declared: Declared, record: Record, stacks: Mapping[Place, str] | None) -> Iterator[Finding]:
    if declared.database_connections > record.max_connections:
        yield refused(
            "database_connections",
            f"the stage counts on {declared.database_connections}, and {record.address} has max_connections "
            f"{record.max_connections}",
            f'write "database_connections": {record.max_connections} in cdk.json, or raise max_connections',
        )
    if declared.reserved_connections < record.kept_connections:
        yield refused(
            "reserved_connections",
            f"the stage keeps {declared.reserved_connections} of the connections back, and {record.address} lets "
            f"nobody but superusers have {record.kept_connections}",
            f'write "reserved_connections": {record.kept_connections} or more in cdk.json',
        )
    if record.revision is None and stacks:
        yield refused(
            "DATABASE_URL",
            f"{record.address} has no record of tasks, while the stage is deployed: is it the database of another?",
            f"give the address of the database of stage {declared.stage}; if it is a new one for a stage that ran with "
            "another, run `joblane migrate` there first",
        )
        return
    if record.newer:
        yield note(
            "schema",
            f"{record.address} is at {record.revision}, which newer code has made",
            "going back is fine: the schema stays as it is",
        )
    for revision, purpose in record.pending.items():
        yield note(f"migration {revision}", purpose, "the deploy runs it, before new code takes over")


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")
