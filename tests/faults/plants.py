"""Planted bugs, each of which breaks one promise of the library, and the runs that must find them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch
from uuid import uuid4

from pg8000.exceptions import Error as PostgresError

from joblane.enqueue import insert
from joblane.enqueue.follow_up import FollowUp
from joblane.enqueue.producer import Producer
from joblane.enqueue.wake import _Waker
from joblane.errors import SendError
from joblane.functions.jobs_sweep import handler as sweep_handler
from joblane.handler.steps import Steps
from joblane.record import schedules
from joblane.record.driver.connection import Connection
from joblane.record.driver.database import Database
from joblane.record.flow import limit_changes
from joblane.record.row.conditions import BEFORE_IT, EARLY_SECONDS, ORDINARY, UNDER_WAY
from joblane.record.row.states import LIVE_SQL, WAITING_SQL
from joblane.record.row.transitions import DUE_SWEEP, RUN, RUN_WITH_SLOTS
from joblane.record.sql_functions import FUNCTIONS, VERSION, assigned
from joblane.record.task import checkpoints
from joblane.record.task import waits as record_waits
from joblane.record.task.claim import Verdict
from joblane.record.task.dead_letters import mark_dead_sent
from joblane.sqs.client import Entry, Sqs
from joblane.sweep import next_sweep, ticks, walk
from joblane.sweep.next_sweep import NextSweep, plan
from joblane.tasks import places as tasks_places
from joblane.tasks.task import Task
from joblane.worker import worker
from joblane.worker.sweep_worker import SweepWorker
from joblane.worker.worker import Batch
from tests.faults.limit_storm import Storm


@dataclass(frozen=True)
class Text:
    """Another text in a function of the schema, whose name is ``of``, or in the constant ``name`` of the module ``of``.
    ``times``: the number of its places."""

    of: Any
    old: str
    new: str
    name: str = ""
    times: int = 1

    def planted(self, text: str | None) -> str:
        text = text or (FUNCTIONS[self.of] if isinstance(self.of, str) else getattr(self.of, self.name))
        number = text.count(self.old)
        assert number == self.times, f"{self.old!r} is in {self.name or self.of} {number} times, not {self.times}"
        return text.replace(self.old, self.new)


@dataclass(frozen=True)
class Code:
    """Another function or constant ``name`` of a class or a module. By default a function that does nothing."""

    of: Any
    name: str
    new: Any = None

    def planted(self, _: object) -> Any:
        assert hasattr(self.of, self.name), f"{self.of} has no {self.name} any more"
        return self.new or _nothing


@dataclass(frozen=True)
class Sql:
    """A statement ``of``, which is not undone."""

    of: str
    name: str = ""

    def planted(self, _: object) -> str:
        return self.of


Change = Text | Code | Sql


def places(*bugs: str) -> dict[tuple[Any, str], Any]:
    """Return the place of each change, ``of`` and ``name``, and what is there with the bugs. Raises AssertionError if
    the code has changed, so that a bug has no place."""
    found: dict[tuple[Any, str], Any] = {}
    for change in [change for bug in bugs for change in PLANTS[bug][1:]]:
        found[change.of, change.name] = change.planted(found.get((change.of, change.name)))
    return found


@contextmanager
def planted(url: str, *bugs: str) -> Iterator[None]:
    """Plant bugs in a database and in this process during the block."""
    found = places(*bugs)
    with ExitStack() as patches, Database(url) as database:
        for (of, name), new in found.items():
            if isinstance(of, str):
                database.get().execute_simple(new)
            else:
                patches.enter_context(patch.object(of, name, new))
        database.drop()  # a template may have no connection
        yield
        for function in FUNCTIONS.keys() & {of for of, _ in found if isinstance(of, str)}:
            database.get().execute_simple(FUNCTIONS[function])


def _nothing(*_: object, **__: object) -> None:
    """Do nothing."""


def _sends_dead_letters(self: Any) -> None:
    runs, self._dead = self._dead, []
    worker = self._worker
    with suppress(PostgresError, OSError):
        mark_dead_sent(worker.database.get(), [(run.claim.id, run.claim.generation) for run in runs])
    worker.sqs.send_many([run.dead_letter((run.end or run.claim).reason or "archived") for run in runs])


def _sends_no_brief_ones(send_many: Any, self: Any, entries: Sequence[Entry], *, brief: bool = False) -> dict[int, str]:
    return dict.fromkeys(range(len(entries)), "a planted bug") if brief else send_many(self, entries)


def _stores_before(begin: Any, self: Any, name: str, function: Any) -> Any:
    if (stored := begin(self, name, function)) is None:
        self.loops.work.keep(partial(checkpoints.mark_step, name=name, value=f'"{self.loops.task_id} {name}"'))
    return stored


def _covers_for_long(cover: Any, waker: _Waker, sqs: Sqs, prefix: str) -> Any:
    is_accepted = cover(waker, sqs, prefix)
    if prefix in sqs.covered:
        monotonic, now = sqs.covered[prefix]
        sqs.covered[prefix] = monotonic + TOO_LONG_SECONDS, now + TOO_LONG_SECONDS
    return is_accepted


def _plans_before_send(
    connection: Connection, sqs: Sqs, prefix: str, found: NextSweep, *, anew: bool = False
) -> int | None:
    entries: list[Entry] = []

    def keep(given: Sequence[Entry]) -> dict[int, str]:
        entries.extend(given)
        return {}

    queues: Any = SimpleNamespace(now=sqs.now, send_many=keep)
    target = plan(connection, queues, prefix, found, anew=anew)
    for why in sqs.send_many(entries).values():
        raise SendError(why)
    return target


class _LaneOfType(str):
    """The name of a lane that differs from that of another type of the same place."""

    type_: str

    def __eq__(self, other: object) -> bool:
        return str(self) == str(other) and getattr(other, "type_", self.type_) == self.type_

    def __hash__(self) -> int:
        return hash((str(self), self.type_))


def _counts_by_type(lane_name: Any, prefix: str, queue: Any, type_: str) -> str:
    name = _LaneOfType(lane_name(prefix, queue, type_))
    name.type_ = type_
    return name


def _parks_nothing(claim: Any, connection: Connection, arrivals: Any, lease: Any, *rest: Any) -> Any:
    if lease is not None:
        return claim(connection, arrivals, lease, *rest)
    connection.execute_simple("begin")
    claims = claim(connection, arrivals, lease, *rest)
    connection.execute_simple("rollback")
    return claims


def _around(of: Any, name: str, new: Callable[..., Any]) -> Code:
    """``new`` gets the function that it replaces as its first argument."""
    old: Callable[..., Any] = getattr(of, name)

    def around(*arguments: Any, **named: Any) -> Any:
        return new(old, *arguments, **named)

    return Code(of, name, around)


TOO_LONG_SECONDS = 600
TOKEN = "t.state = 'active' and t.lease_token = x.token"
LOCK = f"perform joblane.lock_limits_{VERSION}("
OPEN = "(select true from joblane.task_parents e where e.child = t.id order by e.parent desc limit 1) is null"
FREES = "verdict in ('held', 'ended', 'archived', 'paused', 'send_dead_letter')"
IS_EARLY = f"(case when t.passed is null then interval '{EARLY_SECONDS} s' else '0' end)"
CHILDREN = "if exists (select from joblane.task_parents"
HAS_ROOM = f"joblane.has_room_{VERSION}(limit_name, level, l.slots)"
RATE_TIME = "greatest(r.next_at, clock_timestamp()) + l.step"
PAYLOAD = "payload = case when keeps then t.payload else x.payload end"
KEY = Text("claim", RUN["unique_key"], "t.unique_key", times=4)
PLANTS: Mapping[str, tuple[str, *tuple[Change, ...]]] = {
    # a run finishes without a check of the lease
    "fence": ("jobs", Text("finish", TOKEN, "true")),
    # a run finishes if the task is active, even if another run holds it
    "token": ("jobs", Text("finish", TOKEN, "t.state = 'active'")),
    # a message claims its task before it is due
    "due": ("jobs", Text("claim", f"t.due_at > clock + {IS_EARLY}", "false")),
    # a dead letter is marked as sent, and its message acknowledged, before it is sent
    "dead-letter-order": ("jobs", Code(Batch, "_send_dead_letters", _sends_dead_letters)),
    # a new row is never due for the sweep
    "outbox": ("jobs", Text("insert", DUE_SWEEP, "null")),
    # two live tasks can have the same unique key
    "unique-index": ("jobs", Sql("drop index joblane.tasks_unique")),
    # ticks of a schedule may overlap
    "overlap": (
        "jobs",
        _around(Task, "key_of_message", lambda key_of, task, queue, payload, _: key_of(task, queue, payload, None)),
    ),
    # the same in the short way
    "short-cancelled": ("jobs", Text("finish_one", "and t.cancel_requested_at is null", "")),
    # another run or a later one holds the task
    "short-token": ("jobs", Text("finish_one", "and t.lease_token = token and t.runs = 1", "")),
    # a run finishes although its task has a cancel request
    "cancelled": ("jobs", Text("finish", "and (t.cancel_requested_at is null or x.state = 'cancelled')", "")),
    # a client sends no message, so that the sweep sends all
    "unsent": ("jobs", _around(Sqs, "send_many", _sends_no_brief_ones)),
    # a step is stored before its call
    "step-before": ("jobs", _around(Steps, "_begin", _stores_before)),
    # each attempt of a step has another key
    "step-key": ("jobs", Code(Steps, "_key", lambda *_: str(uuid4()))),
    # the dead letter of an earlier generation revives its task
    "restored-generation": (
        "restored",
        Text("claim", "if t.generation is distinct from m.dead_generation then", "if m.dead_generation is null then"),
    ),
    # a message without an id gets another one in each delivery
    "restored-ids": (
        "restored",
        _around(
            worker,
            "with_id",
            lambda with_id, delivery, queue: with_id(replace(delivery, message_id=str(uuid4())), queue),
        ),
    ),
    "the claim takes no lock": ("tasks", Text("claim", f"{LOCK}locked_limits);", "null;")),
    "serving takes no lock": ("tasks", Text("serve_limits", LOCK, "perform cardinality(")),
    "only one task is served": (
        "tasks",
        Text("serve_limits", f"while {HAS_ROOM} loop", f"for once in 1 .. 1 loop exit when not {HAS_ROOM};"),
    ),
    "a run takes no slot": (
        "tasks",
        Text("claim", assigned(RUN_WITH_SLOTS), assigned(RUN_WITH_SLOTS | {"passed": "t.passed"})),
    ),
    "nobody looks who is first": ("tasks", Text("pass_limits", BEFORE_IT, "false")),
    "a claim that ends a task frees nothing": ("tasks", Text("claim", FREES, "verdict in ('held', 'paused')")),
    "a claim that parks a task frees nothing": (
        "tasks",
        Text("claim", FREES, "verdict in ('held', 'ended', 'archived', 'send_dead_letter')"),
    ),
    "a retry keeps its slots": (
        "tasks",
        Text(
            "finish",
            "when t.ordered and not f.is_end and t.passed is not null then 'key_slot'",
            "when not f.is_end then t.passed",
        ),
    ),
    "the end of a run serves nobody": ("tasks", Code(Batch, "_free")),
    "a cancel serves nobody": ("tasks", Code(Producer, "follow")),
    "a raised limit serves nobody": ("tasks", Code(Storm, "serve_pool")),
    "a rate gives each time twice": ("rated", Text("pass_limits", RATE_TIME, f"{RATE_TIME} / 2")),
    "a changed rate plans nobody anew": ("rated", Code(limit_changes, "_give_times")),
    "a place keeps what it parks": (
        "moves",
        _around(
            worker,
            "decide",
            lambda decide, run, fields: 30 if run.claim.verdict is Verdict.PAUSED else decide(run, fields),
        ),
    ),
    "a place acknowledges what it has not parked": (
        "moves",
        _around(worker, "claim", _parks_nothing),
    ),
    "a place drains no lane": (
        "moves",
        _around(
            tasks_places,
            "lanes_of",
            lambda lanes_of, prefix, task: lanes_of(prefix, task)[: len(task.lanes)],
        ),
    ),
    "the sweep counts the messages of a lane by type": ("moves", _around(walk, "lane_name", _counts_by_type)),
    "a push is cut to the present, not to the first ask": (
        "bursts",
        Text(insert, "w.created_at + pg_catalog.make_interval", "clock_timestamp() + pg_catalog.make_interval", "PUSH"),
    ),
    "a push does not move the time": (
        "bursts",
        Text(insert, "due_at = case when stays then t.due_at else d.due_at end", "due_at = t.due_at", "PUSH"),
    ),
    "a push forgets the payload": ("bursts", Text(insert, PAYLOAD, "payload = t.payload", "PUSH")),
    "a push overwrites the first payload": ("bursts", Text(insert, PAYLOAD, "payload = x.payload", "PUSH")),
    "a push is not counted": ("bursts", Text(insert, "asks = w.asks + x.asks", "asks = w.asks", "PUSH")),
    "each push sends a message": (
        "bursts",
        Text(insert, "w.has_message and w.due_at", "false and w.due_at", "PUSH"),
    ),
    "the key is kept until the task ends": ("bursts", KEY),
    "a push touches a task that has begun": (
        "bursts",
        KEY,
        Text(insert, WAITING_SQL, LIVE_SQL, "PUSH"),
        Text(insert, f"runs = 0 and not {UNDER_WAY}", "true", "PUSH"),
        Text(insert, f"{UNDER_WAY}, t.runs > 0", "false, false", "EXISTING"),
    ),
    "a child is released by its first parent": ("graphs", Text("release_children", OPEN, "true", times=3)),
    "a claim asks for no parent": ("graphs", Text("claim", "if t.wait_kind = 'parents' and", "if false and")),
    "a finish lets no child go": ("graphs", Text("finish", CHILDREN, CHILDREN.replace("if", "if false and", 1))),
    "a short claim asks for no parent": ("graphs", Text("claim_one", ORDINARY["no parents"], "true")),
    "a short finish lets no child go": (
        "graphs",
        Text("finish_one", CHILDREN, CHILDREN.replace("if", "if false and", 1)),
    ),
    "a dead parent lets its child go": (
        "graphs",
        Text("let_go", "when x.state = 'completed' then", "when x.state in ('completed', 'archived') then"),
    ),
    "the end of a run releases nobody": ("graphs", Code(Batch, "_note_finish")),
    "what follows a commit is forgotten": ("graphs", Code(FollowUp, "act")),
    "a stop does not look for a signal": ("waits", Text("suspend", "g.name = s.signal) then", "false) then")),
    "a stop trusts an old snapshot": ("waits", Text("suspend", "<> 'read committed'", "= ''")),
    "a stop restarts its time": (
        "waits",
        Text("suspend", "case when excluded.run = 1 then excluded.until else w.until end", "excluded.until"),
    ),
    "a wake-up takes no lock": ("waits", Text("wake", "r.id = task for no key update skip locked;", "r.id = task;")),
    "a wake-up hears the signal of a run": ("waits", Text("wake", "continue when t.state = 'active';", "")),
    "a task that stops again for children is held": (
        "waits",
        Text("suspend", "is_held := s.children is not null;", "is_held := true;"),
    ),
    "the results of children are read before they have ended": (
        "waits",
        Text(
            record_waits, "t.finished_at is null and t.id is not null as is_live", "false as is_live", "READ_CHILDREN"
        ),
        Text(record_waits, "else t.state end as state", "else 'completed' end as state", "READ_CHILDREN"),
    ),
    "a stop for children keeps its slots": (
        "waits",
        Text("suspend", "then 'key_slot' end", "then 'key_slot' else t.passed end", times=2),
    ),
    "a stop leaves its order": (
        "waits",
        Text("suspend", "passed = case when t.ordered and t.passed is not null then 'key_slot' end,", "", times=2),
        Text("suspend", "due_at = resumes,", "due_at = resumes, first_due_at = resumes, passed = null,", times=2),
    ),
    "a wake-up leaves what is paused": (
        "waits",
        Text(
            "wake",
            "if t.state = 'scheduled'",
            "if not exists (select from joblane.pauses p where p.name = t.type) and t.state = 'scheduled'",
        ),
    ),
    "a wake-up passes all limits": (
        "waits",
        Text("wake", "set state = 'pending',", "set passed = 'all', state = 'pending',"),
    ),
    "a poll ends at its second look": (
        "waits",
        Text(
            "suspend",
            "coalesce(s.at, clock + make_interval(secs => s.seconds))",
            "coalesce(s.at, clock + make_interval(secs => coalesce(s.again, s.seconds)))",
        ),
    ),
    # nobody wakes the sweep before a commit
    "no-wake": ("days", Code(_Waker, "cover", lambda *_: True)),
    # a wake-up counts for ten more minutes
    "long-cover": ("days", _around(_Waker, "cover", _covers_for_long)),
    # the time of the planned sweep is written before its message is sent
    "plan-before-send": ("days", Code(sweep_handler, "plan", _plans_before_send)),
    # the sweep does not look for open transactions
    "open-transactions": ("days", Code(next_sweep, "IS_ALONE", "select true, extract(epoch from now())::float8")),
    # the sweep does not plan for the tasks that will be due
    "next-due": ("days", Code(NextSweep, "add")),
    # a planned sweep whose time has not come is not sent again
    "no-hops": ("days", Code(SweepWorker, "_send_on")),
    # the sweep does not plan for the end of a pause
    "end-of-pause": (
        "days",
        _around(
            NextSweep, "collect", lambda collect, found, connection, **_: collect(found, connection, has_paused=False)
        ),
    ),
    # the sweep makes a missing tick without a look for its task
    "without-looking": (
        "days",
        Code(ticks, "WITHOUT_TASK", "select x.id from json_array_elements_text($1::json) as x(id)"),
    ),
    # a late delivery of a tick that the sweep has passed runs
    "late-ticks-run": ("days", Text("claim", "<= s.passed_until", "< '-infinity'")),
    # the sweep does not move ``passed_until``
    "nothing-passed": ("days", Text(ticks, "passed_until = coalesce(x.passed_until, s.passed_until),", "", "MOVE")),
    # each registration begins anew to look for the ticks of a schedule
    "looks-anew": ("days", Text(schedules, "then s.next_at", "then clock_timestamp()", "REGISTER")),
    # a finish does not look at the token of the lease
    "model-token": ("model", Text("finish", "and t.lease_token = x.token", "and true")),
    # a limit has one slot too many
    "model-room": ("model", Text("has_room", "return slots > case", "return slots >= case")),
    # a task does not wait for its parents
    "model-parents": ("model", Text("open_parents", "is_open := exists (", "is_open := false and exists (")),
    # no order is kept
    "model-order": ("model", Text("pass_limits", "(level = 1 and t.ordered and", "(level = 1 and false and")),
    # a claim does not look at pauses
    "model-pause": (
        "model",
        Text("claim", "elsif paused then                                    -- waiting", "elsif false then  --"),
    ),
    # a rate saves ten times as many starts
    "model-rate": ("model", Text("pass_limits", "- l.burst * l.step", "- 10 * l.burst * l.step")),
    # the same in the short way
    "model-short-pause": (
        "model",
        Text("claim_one", "if not exists (select from joblane.pauses) then", "if true then"),
    ),
    # a claim does not look at the lease of another run
    "model-lease": (
        "model",
        Text("claim", "elsif t.state = 'active' and t.lease_until > clock then", "elsif false then"),
    ),
    # a finish does not look for children
    "model-release": (
        "model",
        Text("let_go", "begin\n", "begin\n  return pg_catalog.json_build_object('finished', tasks);\n"),
    ),
}
"""Bug → the part of ``make faults`` that must find it, and what it changes."""
