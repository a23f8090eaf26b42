"""The worker of a place: each message runs its own type, and the problem of one type stays with its own messages."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from joblane import Lambda, RetryAfter, Snooze, TaskContext, task
from joblane.errors import UnknownTypeError
from joblane.handler.context import TaskContext as Context
from joblane.names import encode_places
from joblane.record.driver.database import Database
from joblane.sqs.message import decode
from joblane.tasks.task import Task
from joblane.worker import group as group_module
from joblane.worker.group import NOT_ENDED, NOT_IMPORTED, Group
from joblane.worker.router import PATIENCE_SECONDS
from joblane.worker.worker import Worker
from tests.builders.events import deliveries, invocation, record
from tests.builders.handlers import write, written
from tests.builders.rows import put
from tests.logs import lines
from tests.samples import Sample, behaviour, behaviours, place_two, sample_one
from tests.world import PREFIX, World

TEAM = Lambda("team", batch_size=10)
LANE = "jobs-default-team"
SECONDS = 210.0
"""The function's timeout: that of ten runs of its longest type, and 10 s."""


@task("team:first", runs_on=TEAM, max_retry=3, timeout=timedelta(seconds=20), retry_delay=timedelta(seconds=40))
def team_first(payload: Sample, ctx: TaskContext) -> Any:
    return behaviours[payload.do](payload, ctx)


@task("team:second", runs_on=TEAM, max_retry=3, timeout=timedelta(seconds=1), aliases=["team:former"])
def team_second(payload: Sample, ctx: TaskContext) -> Any:
    return behaviours[payload.do](payload, ctx)


@task("team:async", runs_on=TEAM, max_retry=3, timeout=timedelta(seconds=1))
async def team_async(payload: Sample, ctx: TaskContext) -> Any:
    return await behaviours[payload.do](payload, ctx)


MEMBERS: dict[str, Task[Any, Any]] = {each.type: each for each in (team_first, team_second, team_async)}
ELSEWHERE: dict[str, Task[Any, Any]] = {each.type: each for each in (sample_one, place_two)}
ALIASES = {"team:former": "team:second", "place:former": "place:two"}


@behaviour
def group_writes(payload: Sample, ctx: TaskContext) -> None:
    write(ctx, f"{ctx.type} {payload.number}")


@behaviour
async def group_writes_async(payload: Sample, ctx: TaskContext) -> None:
    await asyncio.sleep(0)
    write(ctx, f"{ctx.type} {payload.number}")


@behaviour
def group_fails(payload: Sample, ctx: TaskContext) -> None:
    write(ctx, "rolled back")
    raise ValueError("as it should")


@behaviour
def group_retries(payload: Sample, ctx: TaskContext) -> None:
    raise RetryAfter(timedelta(seconds=11))


@behaviour
def group_snoozes(payload: Sample, ctx: TaskContext) -> None:
    raise Snooze(timedelta(seconds=12))


@behaviour
def group_hangs(payload: Sample, ctx: TaskContext) -> None:
    time.sleep(60)


@behaviour
async def group_hangs_async(payload: Sample, ctx: TaskContext) -> None:
    await asyncio.sleep(60)


@dataclass
class Imports:
    """The imports of handlers: those of ``broken`` types fail, and each takes ``seconds`` of the invocation."""

    broken: set[str] = field(default_factory=set)
    seconds: float = 0.0
    done: list[str] = field(default_factory=list)
    invocation: Any = None

    def __call__(self, type_: str) -> Task[Any, Any]:
        self.done.append(type_)
        self.invocation.ends -= self.seconds
        if type_ in self.broken:
            raise RuntimeError(f"no {type_} today")
        if (found := (MEMBERS | ELSEWHERE).get(type_)) is None:
            raise UnknownTypeError(f"there is no task {type_!r}")
        return found


class Team:
    """The function of a place. ``give`` invokes it, and returns the names of the messages that stay in its lane."""

    def __init__(self, world: World) -> None:
        world.make(LANE, "jobs-low-team")
        self.world, self.sqs, self.imports = world, world.watch(), Imports()
        self.start()

    def start(self) -> None:
        """Start a new process."""
        types = {name: each.type for each in MEMBERS.values() for name in each.types}
        database = self.world.database
        side = database.another()

        def worker(kind: type[Worker], task: Task[Any, Any]) -> Worker:
            return kind(task, database, self.sqs, PREFIX, side=side)

        self.group = Group(types, self.sqs, PREFIX, aliases=ALIASES, load=self.imports, worker=worker)

    def give(self, *names: str, seconds: float = SECONDS, lane: str = LANE, **how: Any) -> list[str]:
        """``names``: of messages, each ``TYPE ID DO`` of an external one, or another text."""
        records = [record(_body(name), lane, **how) for name in names]
        self.sqs.visibilities.clear()
        self.imports.invocation = made = invocation(seconds)
        kept = self.group.handle(deliveries(records), made).kept
        assert len(kept) == len(set(kept))
        return [name for name, each in zip(names, records, strict=True) if each["messageId"] in kept]

    def reasons(self, lane: str = LANE) -> list[str]:
        return [
            message["MessageAttributes"]["joblane-reason"]["StringValue"]
            for message in self.world.received(f"{lane}-dlq")
        ]

    def attempts(self) -> dict[str, int]:
        return dict(self.world.run("select id, attempts from joblane.tasks"))


def _body(name: str) -> str | dict[str, Any]:
    type_, *rest = name.split()
    if len(rest) != 2:
        return name
    id_, do = rest
    return {"type": type_, "id": id_, "payload": {"do": do, "number": 1}}


@pytest.fixture
def team(effects: World) -> Team:
    return Team(effects)


FIRST, SECOND, THIRD = (
    "team:first a group_writes",
    "team:second b group_writes",
    "team:async c group_writes_async",
)


# --- A handler that cannot be imported -------------------------------------------------------------------------------


def check_broken(team: Team) -> None:
    team.imports.broken = {"team:second"}
    with lines() as log:
        kept = team.give(SECOND, FIRST, THIRD, "team:second d group_writes", receives=3)
    assert kept == [SECOND, "team:second d group_writes"]
    assert team.sqs.visibilities == [pytest.approx(57, abs=3)] * 2  # 15 s, doubled with each receive
    errors = [line for line in log.fields if line["level"] == "ERROR"]
    assert [(line["message"], line["task_type"], line["messages"]) for line in errors] == [
        (NOT_IMPORTED, "team:second", 2)
    ]
    assert "no team:second today" in errors[0]["error"]
    assert (written(team.world), team.attempts()) == (["team:async 1", "team:first 1"], {"a": 1, "c": 1})
    # when it is repaired, it runs in the same process
    team.imports.broken = set()
    assert team.give(SECOND) == []
    assert team.attempts() == {"a": 1, "b": 1, "c": 1}


def test_a_handler_that_cannot_be_imported_keeps_its_own_messages_and_no_other(team: Team) -> None:
    check_broken(team)


@pytest.mark.parametrize("error", [ImportError("x"), SystemExit(2), SyntaxError("x"), UnknownTypeError("no folder")])
def test_whatever_the_module_raises_keeps_its_messages(
    team: Team, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(type_: str) -> Any:
        raise error

    monkeypatch.setattr(team.group, "_load", load)
    assert team.give(FIRST, sent_at=time.time() - PATIENCE_SECONDS - 1, receives=61) == [FIRST]
    assert (team.attempts(), team.reasons()) == ({}, [])


HANDLER = """
from joblane import Payload, TaskContext, task
from {package}.places import WEB

class Nothing(Payload):
    pass

{broken}
@task("{type}", runs_on=WEB)
def {function}(payload: Nothing, ctx: TaskContext) -> None:
    pass
"""


def test_a_handler_is_imported_with_its_first_message_and_after_its_repair(
    effects: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from joblane.worker.printed import Printed

    package = "grouped_functions"
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("JOBLANE_FUNCTIONS", package)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def put_handler(type_: str, broken: str = "") -> None:
        folder = tmp_path / package / type_.replace(":", "_")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "__init__.py").touch()
        (folder / "handler.py").write_text(
            HANDLER.format(package=package, type=type_, function=type_.replace(":", "_"), broken=broken)
        )

    put_handler("real:one")
    put_handler("real:two", broken="import no_such_module")
    (tmp_path / package / "__init__.py").touch()
    (tmp_path / package / "places.py").write_text('from joblane import Lambda\nWEB = Lambda("real", batch_size=2)\n')
    effects.make("jobs-default-real")
    types = ("real:one", "real:two")
    text = encode_places({"real": [[type_] for type_ in types]})
    group = group_module.group_of("real", text, effects.database, effects.sqs, PREFIX, printed=Printed(), bus=None)
    records = [
        record({"type": type_, "id": type_.replace(":", "-"), "payload": {}}, "jobs-default-real") for type_ in types
    ]
    try:
        assert f"{package}.real_one.handler" not in sys.modules
        assert group.handle(deliveries(records), invocation(130)).kept == [records[1]["messageId"]]
        assert f"{package}.real_one.handler" in sys.modules
        put_handler("real:two")
        assert group.handle(deliveries(records[1:]), invocation(130)).kept == []
        assert effects.row("real-two")["state"] == "completed"
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == package]:
            del sys.modules[name]


def test_messages_that_come_back_together_run_in_another_order(team: Team) -> None:
    """If a run of one type kills the process, the other types of its batch run the next time."""

    @behaviour
    def group_ends(payload: Sample, ctx: TaskContext) -> None:
        raise KeyboardInterrupt  # nothing catches it

    names = ["team:first a group_ends", SECOND, THIRD]
    with pytest.raises(KeyboardInterrupt):
        team.give(*names)
    team.world.run("update joblane.tasks set lease_until = clock_timestamp()")
    team.start()
    with pytest.raises(KeyboardInterrupt):
        team.give(*names, receives=2)
    assert written(team.world) == ["team:async 1", "team:second 1"]


# --- An import that takes long ---------------------------------------------------------------------------------------


def check_slow_import(team: Team) -> None:
    """The second type's import leaves the time of two of its three runs."""
    team.imports.seconds = 12
    names = [f"team:first {id_} group_writes" for id_ in "xyz"]
    assert team.give(*names, seconds=70) == names
    assert team.sqs.visibilities == [1, 1, 1]
    assert team.attempts() == {}
    team.imports.seconds = 0
    assert team.give(*names, seconds=70) == []
    assert team.attempts() == {"x": 1, "y": 1, "z": 1}
    assert team.imports.done == ["team:first"]


def test_an_import_that_takes_the_time_of_a_run_leaves_it_to_the_next_one(team: Team) -> None:
    check_slow_import(team)


def test_an_import_takes_no_time_from_the_runs_of_another_type(team: Team) -> None:
    assert team.give(FIRST) == []
    team.imports.seconds = 12
    assert team.give(SECOND, "team:first d group_writes", seconds=30) == []  # 18 s would be left for a run of 20 s
    assert team.attempts() == {"a": 1, "b": 1, "d": 1}


def test_a_slow_database_takes_no_time_from_the_runs_of_another_type(
    team: Team, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each type of a batch has a claim and a finish of its own, and the function's timeout has time for one of each."""
    names = [SECOND, "team:first d group_writes"]
    assert team.give(SECOND.replace(" b ", " x "), names[1].replace(" d ", " y ")) == []
    real = Worker.handle

    def slow(self: Worker, deliveries: Any, invocation: Any) -> Any:
        invocation.ends -= 12
        return real(self, deliveries, invocation)

    monkeypatch.setattr(Worker, "handle", slow)
    assert team.give(*names, seconds=30) == names[1:]  # 18 s are left for a run of 20 s
    assert team.sqs.visibilities == [1]
    assert team.attempts() == {"x": 1, "y": 1, "b": 1}
    assert team.give(*names[1:], seconds=30) == []  # the first type of an invocation always runs
    assert team.give(SECOND.replace(" b ", " e "), names[1].replace(" d ", " f "), seconds=30, receives=21) != []
    assert team.sqs.visibilities == [900]  # the receives of a day's outage do not end


def check_hanging_import(team: Team) -> None:
    real = team.imports.__call__

    def load(type_: str) -> Task[Any, Any]:
        if type_ == "team:second":
            time.sleep(4)
        return real(type_)

    team.group._load = load
    started = time.monotonic()
    with lines() as log:
        assert team.give(SECOND, FIRST, seconds=3.5) == [SECOND, FIRST]
    assert time.monotonic() - started < 3  # before Lambda kills the process
    assert team.sqs.visibilities == [pytest.approx(15, abs=2), 1]
    assert [line["error"] for line in log.fields if line["message"] == NOT_IMPORTED] == [NOT_ENDED]
    assert team.give(FIRST, SECOND.replace("second", "async").replace("writes", "writes_async")) == []


def test_an_import_that_hangs_keeps_its_own_messages_and_no_other(team: Team) -> None:
    check_hanging_import(team)


def test_a_short_import_in_a_short_invocation_keeps_nothing(team: Team) -> None:
    """An invocation of the kit may be shorter than its function's timeout; then no later one would be longer."""
    team.imports.seconds = 1
    assert team.give(FIRST, seconds=9) == []


# --- Unknown types, and messages that cannot be read -----------------------------------------------------------------


def test_an_unknown_type_waits_an_hour_and_is_then_a_dead_letter(team: Team) -> None:
    stranger = "team:stranger s group_writes"
    with lines() as log:
        assert team.give(stranger, FIRST) == [stranger]
    assert team.sqs.visibilities == [60]
    [warning] = [line["message"] for line in log.fields if line["level"] == "WARNING"]
    assert warning.startswith("no task 'team:stranger' is declared; the message waits an hour for a deploy")
    assert team.give(stranger, sent_at=time.time() - PATIENCE_SECONDS + 20, receives=60) == [stranger]
    assert team.give(stranger, sent_at=time.time() - PATIENCE_SECONDS - 1, receives=61) == []
    assert team.reasons() == ["UnknownType: no task 'team:stranger' is declared"]
    assert team.attempts() == {"a": 1}


@pytest.mark.parametrize("body", ["not-json", '{"type":5}', "[]"])
def test_an_unreadable_message_is_a_dead_letter_and_the_others_run(team: Team, body: str) -> None:
    assert team.give(FIRST, body, SECOND) == []
    [reason] = team.reasons()
    assert reason.startswith("MessageError: ")
    assert team.attempts() == {"a": 1, "b": 1}


def test_a_task_of_the_library_never_starts_from_a_place(team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its lane would be open to every sender of the place."""
    monkeypatch.setattr(team.group, "_load", pytest.fail)
    for type_ in ("jobs:bulk", "jobs:sweep", "system:health_check"):
        name = f"{type_} x group_writes"
        assert team.give(name, sent_at=time.time() - PATIENCE_SECONDS - 1) == []
        assert team.attempts() == {}
    assert len(team.reasons()) == 3


# --- A batch of several types ----------------------------------------------------------------------------------------


def test_each_message_of_a_batch_has_the_end_of_its_own_run(team: Team) -> None:
    names = [
        FIRST,
        "team:first failed group_fails",
        "team:second retried group_retries",
        "team:second snoozed group_snoozes",
        THIRD,
        "team:former renamed group_writes",
        SECOND,
    ]
    assert team.give(*names) == names[1:4]
    assert sorted(team.sqs.visibilities) == [11, 12, pytest.approx(40, abs=5)]
    assert written(team.world) == ["team:async 1", "team:first 1", "team:second 1", "team:second 1"]
    assert team.attempts() == {"a": 1, "failed": 1, "retried": 1, "snoozed": 0, "c": 1, "renamed": 1, "b": 1}
    states = {id_: team.world.row(id_)["state"] for id_ in ("failed", "retried", "snoozed", "renamed")}
    assert states == {"failed": "retry", "retried": "retry", "snoozed": "pending", "renamed": "completed"}


def test_each_type_has_its_own_time_limit(team: Team) -> None:
    names = [
        "team:second slow group_hangs",
        "team:async slow-async group_hangs_async",
        FIRST,
        "team:async fine group_writes_async",
    ]
    started = time.monotonic()
    assert team.give(*names) == names[:2]
    assert time.monotonic() - started < 15
    assert team.attempts() == {"slow": 1, "slow-async": 1, "a": 1, "fine": 1}
    errors = {id_: team.world.attempts(id_)[0]["error_type"] for id_ in ("slow", "slow-async")}
    assert set(errors.values()) == {"TaskTimeout"}, errors


def test_a_process_has_two_connections_for_all_its_types(team: Team) -> None:
    @behaviour
    def group_steps(payload: Sample, ctx: Context) -> None:
        ctx.step("one", lambda _: 1)
        write(ctx, "step")

    assert team.give("team:first a group_steps", "team:second b group_steps", THIRD) == []
    with Database(team.world.url) as other:
        [[number]] = other.get().run(
            "select count(*)::int from pg_stat_activity where datname = current_database() and backend_type = 'client"
            " backend' and pid <> pg_backend_pid()"
        )
    assert number - 1 == 2  # without the observer's


@pytest.mark.parametrize(("names", "keeps"), [([FIRST], True), ([FIRST, SECOND], False), ([FIRST, FIRST], False)])
def test_only_a_message_alone_keeps_the_chain_of_its_invocation(
    team: Team, names: list[str], keeps: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[bool] = []

    @behaviour
    def group_notes_chain(payload: Sample, ctx: Context) -> None:
        found.append(ctx._producer.keeps_chain)

    team.give(*(name.replace("group_writes", "group_notes_chain") for name in names))
    assert set(found) == {keeps}
    found.clear()
    team.give("team:first later group_notes_chain")
    assert found == [True], "the next invocation has one message"


# --- Types that have moved away --------------------------------------------------------------------------------------


def test_a_type_that_runs_elsewhere_is_parked_and_its_batch_runs(team: Team) -> None:
    moved = "sample:one moved group_writes"
    put(team.world, sample_one, "recorded", {"do": "group_writes", "number": 2})
    body = json.dumps({"type": "sample:one", "id": "recorded", "rec": True})
    assert team.give(moved, FIRST, body, "place:former renamed group_writes") == []
    assert team.attempts() == {"moved": 0, "recorded": 0, "renamed": 0, "a": 1}
    assert written(team.world) == ["team:first 1"]
    lanes = team.world.lane(sample_one), team.world.lane(place_two)
    team.world.sweep()
    assert [{decode(message["Body"]).id for message in team.world.received(lane)} for lane in lanes] == [
        {"moved", "recorded"},
        {"renamed"},
    ]


def test_a_type_that_runs_elsewhere_needs_no_time_of_a_run(team: Team) -> None:
    team.imports.seconds = 12
    assert team.give("sample:one e group_writes", seconds=16) == []
    assert team.world.row("e")["state"] == "pending"


def test_a_task_of_a_lane_whose_queue_its_type_does_not_use_is_in_its_home_queue(team: Team) -> None:
    """Else its lane would be missing when the type moves."""
    assert team.give("team:first a group_fails", lane="jobs-low-team") == ["team:first a group_fails"]
    assert team.world.row("a")["queue"] == "default"


# --- Planted faults --------------------------------------------------------------------------------------------------


def raises_import_errors(team: Team, patch: pytest.MonkeyPatch) -> None:
    real = team.group._worker_of

    def worker_of(type_: str, *rest: Any) -> Any:
        if type_ in team.imports.broken:
            raise RuntimeError(type_)
        return real(type_, *rest)

    patch.setattr(team.group, "_worker_of", worker_of)


def acknowledges_broken(team: Team, patch: pytest.MonkeyPatch) -> None:
    patch.setattr("joblane.worker.invocation.BatchResponse.keep", lambda *_: None)


def runs_after_a_slow_import(team: Team, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(group_module, "has_time", lambda *_: True)


def imports_without_end(team: Team, patch: pytest.MonkeyPatch) -> None:
    patch.setattr("signal.setitimer", lambda *_: None)


@pytest.mark.parametrize(
    ("plant", "check"),
    [
        (raises_import_errors, check_broken),
        (acknowledges_broken, check_broken),
        (runs_after_a_slow_import, check_slow_import),
        (imports_without_end, check_hanging_import),
    ],
)
def test_a_fault_of_a_group_is_found(
    team: Team, monkeypatch: pytest.MonkeyPatch, plant: Callable[..., None], check: Callable[[Team], None]
) -> None:
    plant(team, monkeypatch)
    with pytest.raises((AssertionError, RuntimeError)):
        check(team)
