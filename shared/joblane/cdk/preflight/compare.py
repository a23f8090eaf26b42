"""Rules that find what a deploy of this checkout would lose or break in a running stage, on plain data.

:mod:`joblane.cdk.preflight.read` reads the data. A part that it could not read is None, and rules that need the part
report nothing; the reader adds a finding for it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from joblane.cdk.preflight.concurrency import Account, Demand, concurrency
from joblane.cdk.preflight.findings import Finding, note, refused
from joblane.names import Queue, dead_letter_name, event_bus_name, own_lane_name
from joblane.tasks.place import PLACE_PATTERN, Lambda

HOW = "docs/how-to/change-safely.md describes how"
HOW_TO_MOVE = "docs/how-to/places.md describes how"

Place = tuple[str, str]
"""Stack and logical id."""
Names = tuple[str | None, ...]
"""The limits of a type, see :meth:`joblane.tasks.limit.Flow.names`."""
Key = tuple[str, ...]
"""The parts of the key of a type's limits, see :attr:`joblane.tasks.limit.Flow.key`."""


@dataclass(frozen=True)
class Declared:
    """The resources and settings that the checkout would deploy.

    ``lanes``: type or alias → the queues in which it has a lane. ``limits``: type or alias with limits → their names.
    ``keys``: type or alias with limits → their key. ``queues``: names of SQS queues, by stack and logical id.
    ``demand``: of concurrency. ``homes``: type or alias that runs on a place → the place. The other fields are settings
    of the stage.
    """

    stage: str
    prefix: str
    lanes: Mapping[str, Sequence[str]]
    limits: Mapping[str, Names]
    keys: Mapping[str, Key]
    queues: Mapping[Place, str]
    demand: Demand
    database_connections: int
    reserved_connections: int
    homes: Mapping[str, Lambda] = field(default_factory=dict)


@dataclass(frozen=True)
class DatabaseState:
    """The state of the stage's database.

    ``revision``: of the schema; None: there is no schema. ``pending``: revision → purpose of the pending migrations.
    ``newer``: newer code has migrated it. ``live``: (type, queue) → tasks in ``scheduled``, ``pending``, ``active`` or
    ``retry``. ``limited``: (type, names of their limits) → live tasks with a limit. ``keys``: type with limits → their
    key, as the deployed code declares it. ``types``: types that it declares. ``max_connections``: of the server.
    ``kept_connections``: those of them that are reserved for superusers and privileged roles. ``roles``: the findings
    on the role of the functions. ``changes``: the findings on what was changed by hand in the schema.
    """

    address: str
    revision: str | None
    pending: Mapping[str, str]
    newer: bool
    live: Mapping[tuple[str, str], int]
    limited: Mapping[tuple[str, Names], int]
    keys: Mapping[str, Key]
    types: Sequence[str]
    max_connections: int
    kept_connections: int
    roles: Sequence[Finding] = ()
    changes: Sequence[Finding] = ()


def examine(
    declared: Declared,
    *,
    stacks: Mapping[Place, str] | None,
    messages: Mapping[str, int] | None,
    account: Account | None,
    database: DatabaseState | None,
) -> list[Finding]:
    """Return the findings on a deploy of ``declared``.

    ``stacks``: queue names in the stage's deployed stacks, by place; empty before the first deploy. ``messages``: queue
    name → its messages, for all existing queues with a name of the stage.
    """
    return [
        *_left_behind(declared, messages or {}, database),
        *_moved_out(declared, stacks or {}, messages or {}, database),
        *_replaced(declared, stacks, messages),
        *(_other_limits(declared, database) if database else ()),
        *(concurrency(declared.demand, account) if account else ()),
        *(_database(declared, database, stacks) if database else ()),
    ]


# --- Tasks and messages --------------------------------------------------------------------------------------------


def _other_limits(declared: Declared, database: DatabaseState) -> Iterator[Finding]:
    """Find live tasks that new tasks of their type would not count: with another widest limit, whose lock they take,
    with limits of a former name of the type, or with a key that is made of another field."""
    for (type_, names), count in sorted(database.limited.items(), key=str):
        wanted = declared.limits.get(type_, names)
        before, after = _widest(names), _widest(wanted)
        which = "widest limit"
        if before == after:
            renamed = [(old, new) for old, new in zip(names, wanted, strict=True) if old and new and old != new]
            old_key, new_key = (",".join(keys.get(type_, ())) for keys in (database.keys, declared.keys))
            if renamed:
                which, (before, after) = "limit", renamed[0]
            elif names[0] and old_key and new_key and old_key != new_key:
                which, before, after = "key", old_key, new_key
            else:
                continue
        yield refused(
            f"task type {type_}, limits",
            f"its {which} becomes {after}, and it still has {_count(count, 'live task')} under {before}, so more tasks "
            "than a limit allows could run",
            "keep its name and limits as they are until these tasks have run: pause the producers, or give the changed "
            f"task a new type; {HOW}",
        )


def _widest(names: Names) -> str | None:
    return next((name for name in reversed(names) if name), None)


def _left_behind(declared: Declared, messages: Mapping[str, int], database: DatabaseState | None) -> Iterator[Finding]:
    """Find live tasks and messages of types and lanes that are no longer declared."""
    waiting: dict[tuple[str, str], list[str]] = defaultdict(list)
    live = database.live if database else {}
    for (type_, queue), count in sorted(live.items()):
        if queue not in declared.lanes.get(type_, ()):
            waiting[type_, queue].append(f"{_count(count, 'live task')} in queue {queue}")
    types = {type_ for type_, _ in live} | {*declared.homes} | set(database.types if database else ())
    lanes = _lanes_by_name(declared.prefix, types)
    known = {*declared.queues.values()}
    unknown: dict[str, int] = {}
    moved: dict[Lambda, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for name, count in sorted(messages.items()):
        if count and name not in known:
            type_, queue = lanes.get(name, ("", ""))
            text = f"{_count(count, 'message')} in {name}"
            if not type_:
                unknown[name] = count
            elif type_ in declared.homes and queue in declared.lanes[type_]:
                moved[declared.homes[type_]][type_].append(text)
            else:
                waiting[type_, queue].append(text)
    yield from (_moved_in(place, by_lane) for place, by_lane in moved.items())
    by_type: dict[str, list[str]] = defaultdict(list)
    for (type_, queue), found in waiting.items():
        if type_ not in declared.lanes:
            by_type[type_] += found
            continue
        yield refused(
            f"task type {type_}, queue {queue}",
            f"it no longer has a lane there, and still has {', '.join(found)}",
            f"keep also=[Queue.{queue.upper()}] until they have run; {HOW}",
        )
    for type_, found in by_type.items():
        yield refused(
            f"task type {type_}",
            f"no task declares it, and it still has {', '.join(found)}",
            f'keep it until they have run; if it has a new name, declare aliases=["{type_}"] there; {HOW}',
        )
    yield from _full_queues(declared.prefix, unknown)


def _full_queues(prefix: str, unknown: dict[str, int]) -> Iterator[Finding]:
    """Find messages in queues that are neither declared nor of a known type. ``unknown``: queue → its messages."""
    refused_events = dead_letter_name(event_bus_name(prefix))
    if count := unknown.pop(refused_events, 0):
        yield refused(
            f"queue {refused_events}",
            f"the stage has no webhook any more, and it holds {_count(count, 'event')} that the webhook refused",
            "send them again, or purge the queue; docs/how-to/events.md describes how",
        )
    of_places: dict[tuple[str, str], list[str]] = defaultdict(list)
    for name, count in unknown.items():
        if lane := _lane_of_place(prefix, name):
            of_places[lane].append(f"{_count(count, 'message')} in {name}")
            continue
        yield refused(
            f"queue {name}",
            f"no task declares it, and it holds {_count(count, 'message')}",
            f"keep its task until they have run, or move them to another queue; {HOW}",
        )
    for (home, queue), found in of_places.items():
        yield refused(
            f'Lambda("{home}"), queue {queue}',
            f"no task runs on it in this queue any more, and its lane still has {', '.join(found)}",
            f"keep a task of queue {queue} on it until they are gone: it leaves other tasks in their rows, and "
            f"the sweep sends them to their lanes; `joblane redrive` empties the dead-letter queue; {HOW_TO_MOVE}",
        )


def _moved_in(place: Lambda, found: Mapping[str, Sequence[str]]) -> Finding:
    """Refuse to delete the former lanes of types that move into a place. ``found``: type → messages of its lanes."""
    drains = [f'"{type_}"' for type_ in dict.fromkeys([*place.drains, *found])]
    it_runs, has = (
        ("it runs", "its former lane still has") if len(found) == 1 else ("they run", "their lanes still have")
    )
    return refused(
        f"task type{'s' * (len(found) > 1)} {', '.join(found)}",
        f'{it_runs} on Lambda("{place.name}") now, and {has} '
        f"{', '.join(each for lane in found.values() for each in lane)}",
        f'declare Lambda("{place.name}", drains=({", ".join(drains)}{"," * (len(drains) == 1)})) until they are gone: '
        f"its function then receives them; {HOW_TO_MOVE}",
    )


def _moved_out(
    declared: Declared,
    stacks: Mapping[Place, str],
    messages: Mapping[str, int],
    database: DatabaseState | None,
) -> Iterator[Finding]:
    """Find types that get lanes of their own, while the lanes of places have messages."""
    places = {name for name in stacks.values() if _lane_of_place(declared.prefix, name)} & {*declared.queues.values()}
    full = sorted(name for name in places if messages.get(name) and not name.endswith(dead_letter_name("")))
    deployed = {*stacks.values()}
    types = sorted(
        type_
        for type_ in (database.types if database else ())
        if type_ in declared.lanes and type_ not in declared.homes
        if deployed.isdisjoint(own_lane_name(declared.prefix, queue, type_) for queue in Queue)
    )
    if full and types:
        yield note(
            f"task type{'s' * (len(types) > 1)} {', '.join(types)}",
            f"its tasks get a lane of their own, and messages in {', '.join(full)} may be for them",
            "nothing: the place leaves these tasks in their rows, and the sweep sends them to the new lane within five "
            "minutes",
        )


def _lane_of_place(prefix: str, name: str) -> tuple[str, str] | None:
    """Return the place and the queue if ``name`` is its lane or DLQ. The lane of a type has a hyphen more."""
    queue, _, home = name.removeprefix(f"{prefix}-").removesuffix(dead_letter_name("")).partition("-")
    return (home, queue) if queue in [*Queue] and PLACE_PATTERN.fullmatch(home) else None


def _lanes_by_name(prefix: str, types: set[str]) -> dict[str, tuple[str, str]]:
    """Return name of a type's own lane or its DLQ → type and queue."""
    found = {}
    for type_ in types:
        for queue in Queue:
            name = own_lane_name(prefix, queue, type_)
            found[name] = found[dead_letter_name(name)] = (type_, str(queue))
    return found


# --- Queues --------------------------------------------------------------------------------------------------------


def _replaced(
    declared: Declared, stacks: Mapping[Place, str] | None, messages: Mapping[str, int] | None
) -> Iterator[Finding]:
    """Find queues that CloudFormation would replace, or cannot create.

    A change of ``QueueName`` replaces a queue, and a new logical id is a new queue.
    Source: CloudFormation, AWS::SQS::Queue.
    """
    if stacks is None:
        return
    places, existing = {name: place for place, name in stacks.items()}, messages or {}
    for place, name in sorted(declared.queues.items()):
        old = stacks.get(place)
        if old is not None and old != name:
            yield refused(
                f"queue {old}",
                f"it would be replaced by {name}, and its messages would have no consumer",
                f"give it its name back (logical id {place[1]}); {HOW}",
            )
        elif name in places and places[name] != place:
            yield refused(
                f"queue {name}",
                f"it would be another resource: {'/'.join(place)} in place of {'/'.join(places[name])}, and its name "
                "is in use until the old queue is deleted",
                f"keep the path of its construct; {HOW}",
            )
        elif name not in places and name in existing:
            yield refused(
                f"queue {name}",
                f"it exists, with {_count(existing[name], 'message')}, and belongs to no stack of this "
                "stage: CloudFormation cannot create it",
                f"it may be left from an earlier deploy: drain it, delete it and wait a minute; {HOW}",
            )
    for name in sorted({*existing} - {*declared.queues.values()} - {*places}):
        if not existing[name]:
            yield note(
                f"queue {name}",
                "it is empty, and neither declared nor in a stack: left from an earlier deploy",
                f"count its messages again: URL=$(aws sqs get-queue-url --queue-name {name} --output text); "
                "aws sqs get-queue-attributes --queue-url $URL --attribute-names All; if there is none: "
                "aws sqs delete-queue --queue-url $URL",
            )


# --- Limits --------------------------------------------------------------------------------------------------------


def _database(declared: Declared, database: DatabaseState, stacks: Mapping[Place, str] | None) -> Iterator[Finding]:
    if declared.database_connections > database.max_connections:
        yield refused(
            "database_connections",
            f"the stage assumes {declared.database_connections}, and {database.address} has max_connections "
            f"{database.max_connections}",
            f'write "database_connections": {database.max_connections} in cdk.json, or raise max_connections',
        )
    if declared.reserved_connections < database.kept_connections:
        yield refused(
            "reserved_connections",
            f"the stage reserves {declared.reserved_connections} of the connections, and {database.address} keeps "
            f"{database.kept_connections} for superusers",
            f'write "reserved_connections": {database.kept_connections} or more in cdk.json',
        )
    yield from database.roles
    if database.revision is None and stacks:
        yield refused(
            "DATABASE_URL",
            f"{database.address} has no task table, but the stage is deployed: is it the database of another stage?",
            f"give the address of the database of stage {declared.stage}; if the stage gets a new database, run "
            "`joblane migrate` there first",
        )
        return
    if database.newer:
        yield note(
            "schema",
            f"{database.address} is at {database.revision}, to which newer code has migrated it",
            "a deploy of older code is fine: the schema stays as it is",
        )
    for revision, purpose in database.pending.items():
        yield note(f"migration {revision}", purpose, "the deploy runs it before it deploys the new code")
    yield from database.changes


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")
