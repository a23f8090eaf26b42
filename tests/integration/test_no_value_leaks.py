"""Values of redacted fields and headers are only in the task's row, in its messages, and in the handler.

Each way by which a value might get out is gone with a value of its own. Then all is searched that the library has
written, recorded, sent or answered.
"""

from __future__ import annotations

import base64
import json
import textwrap
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Annotated, Any
from urllib.parse import urlencode
from uuid import uuid4

import pytest
from pydantic import BaseModel, Field, TypeAdapter, ValidationError, field_validator
from sqlalchemy import text
from starlette.testclient import TestClient

from functions.api import storage
from functions.api.handler import handler
from joblane import (
    ArchivedTask,
    JobError,
    Payload,
    Redacted,
    RetryAfter,
    RevokeTask,
    SkipRetry,
    Snooze,
    TaskContext,
    every,
    task,
    telemetry,
)
from joblane.cli.main import main
from joblane.inspector.filter import Filter, PauseScope
from joblane.inspector.inspector import Inspector
from joblane.inspector.permission import Permission, permission_of
from joblane.inspector.scope import Scope
from joblane.page.app import PAGES, build
from joblane.page.inspectors import Desk
from joblane.page.security import Keys
from joblane.sweep.sweep import sweep
from joblane.sweep.ticks import make_ticks
from joblane.tasks import redaction, scrubbing
from joblane.tasks.event_kinds import Kind
from joblane.testing import enqueued
from tests.builders.events import LambdaContext
from tests.builders.http_events import claims, http_event
from tests.logs import lines
from tests.samples_events import Bus
from tests.world import PREFIX, World

KINDS: tuple[Kind, ...] = ("completed", "archived", "cancelled")
PLANTED, TAIL = "pl4nted", "t41l"
"""The start and the end of every value, in characters that no escape changes."""
HEADER = f"{PLANTED}-header-{TAIL}"


def needles(part: str) -> set[str]:
    """A part of a value as it is, and as it is in base64, in hexadecimal digits, and in UTF-16; in lower case.

    In base64 the characters at both ends of the part are left out, because its neighbours change them.
    """
    found = {part}
    for code in (part.encode(), part.encode("utf-16-le")):
        whole = [base64.b64encode(bytes(before) + code).decode() for before in range(3)]
        found |= {code.hex(), repr(code)[2:-1], code.decode("latin-1"), json.dumps(code.decode("latin-1"))[1:-1]}
        found |= {text[4 : len(text) - 4] for text in whole}
    return {part, *(text.lower() for text in found if len(text) > len(PLANTED))}  # shorter ones are in other texts


NEEDLES = needles(PLANTED) | needles(TAIL)
SOON = 3.2
"""Seconds of an invocation, of which the handler has a fifth."""


class Card(BaseModel):
    holder: str = "Ann"
    number: Annotated[str, Redacted]


class Login(Payload):
    how: str
    token: Annotated[str, Redacted, Field(max_length=100)] = f"{PLANTED}-default-{TAIL}"
    cards: list[Card] = Field(default_factory=list)

    @field_validator("token")
    @classmethod
    def _tells(cls, token: str) -> str:
        if "invalid" in token:
            raise ValueError(f"the token {token} is not one")
        return token


def value(how: str) -> str:
    return f"{PLANTED} '\"{how}\"\\' ü\n& {TAIL}"


def login(how: str, token: str | None = None) -> dict[str, Any]:
    token = value(how) if token is None else token
    return {"how": how, "token": token, "cards": [{"holder": "Ann", "number": token}]}


# --- Handlers that tell ----------------------------------------------------------------------------------------------

Way = Callable[[Login, TaskContext], Any]


RAISED: dict[str, Callable[[Login], Exception]] = {
    "plain": lambda payload: ValueError(f"bad token {payload.token}, and card {payload.cards[0].number}"),
    "as_repr": KeyError,
    "as_json": lambda payload: RuntimeError(
        json.dumps(payload.model_dump()) + json.dumps({"body": payload.model_dump_json()})
    ),
    "many_lines": lambda payload: RuntimeError(f"first\n{payload.token}\nlast {payload.token}\n"),
    "encoded": lambda payload: RuntimeError(
        f"{base64.b64encode(payload.token.encode()).decode()} {payload.token.encode('utf-16-le').hex()}"
        f" https://x.example/?{urlencode({'token': payload.token})} {textwrap.fill(payload.token, 14)}"
    ),
    "long": lambda payload: RuntimeError("x" * 1_990 + payload.token + "y" * 9_000 + payload.token),
    "skipped": lambda payload: SkipRetry(f"nobody takes {payload.token}"),
    "revoked": lambda payload: RevokeTask(f"nobody wants {payload.token}"),
    "later": lambda payload: RetryAfter(timedelta(seconds=5), f"not now, {payload.token}"),
    "snoozed": lambda payload: Snooze(timedelta(seconds=5), f"not yet, {payload.token}"),
}
"""Errors of handlers. ``unit/tasks/test_redaction_scrub.py`` has every notation of a value."""


def raising(make: Callable[[Login], Exception]) -> Way:
    def raises(payload: Login, ctx: TaskContext) -> None:
        raise make(payload)

    return raises


WAYS: dict[str, Way] = {how: raising(make) for how, make in RAISED.items()}


def way(function: Way) -> Way:
    WAYS[function.__name__] = function
    return function


@way
def chained(payload: Login, ctx: TaskContext) -> None:
    try:
        raise LookupError(payload.token)
    except LookupError as error:
        error.add_note(f"while {payload.token} was looked at")
        raise ExceptionGroup("all failed", [ValueError(payload.token), error]) from error


@way
def shortened(payload: Login, ctx: TaskContext) -> None:
    TypeAdapter(int).validate_python(payload.token * 9)


@way
def noted(payload: Login, ctx: TaskContext) -> None:
    ctx.progress(1, 2, f"at {payload.token}")
    raise SkipRetry("noted")


@way
def constraint(payload: Login, ctx: TaskContext) -> None:
    for _ in range(2):
        ctx.session.execute(text("insert into logins values (:token)"), {"token": payload.token})


@way
def not_a_uuid(payload: Login, ctx: TaskContext) -> None:
    ctx.session.execute(text("select cast(:token as uuid)"), {"token": payload.token})


@way
def raised_by_sql(payload: Login, ctx: TaskContext) -> None:
    ctx.session.execute(text("select complain(:token)"), {"token": payload.token})


@way
def held(payload: Login, ctx: TaskContext) -> None:
    try:
        while True:
            pass
    except BaseException as error:
        raise ValueError(f"interrupted with {payload.token}") from error


@way
def returned(payload: Login, ctx: TaskContext) -> dict[str, str]:
    return {"token": payload.token, "said": f"it is {payload.token}"}


@way
def stepped(payload: Login, ctx: TaskContext) -> None:
    ctx.step(f"call {payload.token!r}", lambda _: {"token": payload.token, "said": f"it is {payload.token}"})
    ctx.step("call", lambda _: [payload.token, payload.model_dump()])
    raise SkipRetry("stepped")


@way
def stepped_badly(payload: Login, ctx: TaskContext) -> None:
    ctx.step(f"call {payload.token!r}", lambda _: {payload.token: payload.token + "\0"})


@way
def stepped_by_a_bad_name(payload: Login, ctx: TaskContext) -> None:
    ctx.step(payload.token, lambda _: None)


@way
def in_a_header(payload: Login, ctx: TaskContext) -> None:
    raise ValueError(f"bad header {ctx.headers['key']}")


@task("leak:alert")
def leak_alert(payload: ArchivedTask, ctx: TaskContext) -> None: ...


@task("leak:one", max_retry=1, retry_delay=timedelta(seconds=5), on_archived=leak_alert, events=KINDS)
def leak_one(payload: Login, ctx: TaskContext) -> Any:
    return WAYS[payload.how](payload, ctx)


@task("leak:batch", max_retry=1, batch_size=10, retry_delay=timedelta(seconds=5), events=KINDS)
def leak_batch(payload: Login, ctx: TaskContext) -> Any:
    return WAYS[payload.how](payload, ctx)


TASKS = (leak_one, leak_batch, leak_alert)
LOGGED = ("plain", "chained", "constraint", "skipped", "noted", "snoozed", "returned", "stepped", "in_a_header")
"""Ways whose tasks are looked at one by one."""


# --- Going all ways, and gathering -----------------------------------------------------------------------------------


@dataclass
class Gathered:
    """Place → texts that were written there."""

    world: World
    texts: dict[str, list[str]] = field(default_factory=dict)

    def add(self, where: str, *what: object) -> None:
        self.texts.setdefault(where, []).extend(one if isinstance(one, str) else repr(one) for one in what)

    def refused(self, where: str, call: Callable[[], object]) -> None:
        with pytest.raises((JobError, ValidationError, AssertionError)) as caught:
            call()
        self.add(where, str(caught.value), repr(caught.value))

    @property
    def leaks(self) -> dict[str, list[str]]:
        found = {
            where: [what for what in texts if any(needle in what.lower() for needle in NEEDLES)]
            for where, texts in self.texts.items()
        }
        return {where: texts for where, texts in found.items() if texts}


def go_all_ways(world: World, gathered: Gathered) -> None:
    """Deliver everything twice, so that tasks are retried and then archived."""
    world.run("create table logins (token text primary key check (length(token) < 90))")
    world.run(
        "create function complain(token text) returns void language plpgsql"
        " as $$ begin raise exception 'bad token %', token; end $$"
    )
    world.lane(leak_alert)
    headers = {"key": HEADER, "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}

    def message(how: str, type_: str) -> dict[str, Any]:
        return {"type": type_, "id": f"{type_}-{how}", "payload": login(how), "headers": headers}

    for last in (False, True):
        for how in WAYS:
            world.deliver(leak_one, message(how, "leak:one"), seconds=SOON if how == "held" else 60)
            world.run("update joblane.tasks set due_at = clock_timestamp() where state in ('retry', 'pending')")
        fast = [message(how, "leak:batch") for how in WAYS if how != "held"]
        for start in range(0, len(fast), 10):
            world.deliver(leak_batch, *fast[start : start + 10])
        # what does not fit, from our own schema and from another; and another payload under an id that is known
        for name, schema in (("own", {}), ("other", {"schema": "0123456789ab"})):
            wrong = login("plain", value("invalid")) | {"unknown": 1}
            world.deliver(leak_one, {"type": "leak:one", "id": f"wrong-{name}", "payload": wrong, **schema})
        world.deliver(leak_one, message("plain", "leak:one") | {"payload": login("plain", value(f"other {last}"))})
        world.deliver(leak_one, {"type": "leak:other", "payload": login("plain")}, json.dumps(login("plain"))[:-1])
    bus = Bus()
    bus.refusal = "refused"  # so that the events stay in their table, whose columns are searched like all others
    sweep(world.database.get(), world.sqs, PREFIX, bus=bus)
    assert {kind for (kind,) in world.run("select detail ->> 'kind' from joblane.events")} == {*KINDS}


def enqueue_badly(world: World, gathered: Gathered) -> None:
    good = Login(**login("plain"))
    for options in (
        {"deadline": 7},
        {"queue": "critical"},
        {"headers": {"key": HEADER * 100}},
        {"tags": [HEADER * 100]},
        {"unique_key": "a\nb"},
    ):
        gathered.refused("enqueue", lambda options=options: world.client.enqueue(leak_one, good, **options))  # type: ignore[misc]
    wrong = good.model_copy(update={"cards": value("copied"), "how": [value("copied")]})
    gathered.refused("enqueue", lambda: world.client.enqueue(leak_one, wrong))
    gathered.refused("enqueue", lambda: Login(how="x", token=value("long") * 9))
    nul = Login(how="x", token=f"{value('nul')}\0")
    gathered.refused("enqueue", lambda: world.client.enqueue(leak_one, nul))
    world.client.enqueue(leak_one, good, task_id="known", owner="ann", unique_for=timedelta(hours=1))
    gathered.refused("enqueue", lambda: world.client.enqueue(leak_one, good, task_id="known"))
    gathered.refused("enqueue", lambda: world.client.enqueue(leak_one, good, unique_for=timedelta(hours=1)))
    gathered.add("enqueue", world.client.get("known"))
    # as an operator's edit is read
    for payload in (
        login("plain", value("invalid")),
        login("x", value("x") * 9),
        login("x") | {value("key"): 1},
        {"token": {"a": value("x")}},
        value("x"),
    ):
        gathered.refused("edit", lambda payload=payload: leak_one.read(payload, None))  # type: ignore[misc]


def schedule_badly(world: World, gathered: Gathered) -> None:
    """Put schedules whose payload is refused, or does not fit any more when the sweep makes the task of a tick."""
    schedules, good, often = world.client.schedules, Login(**login("plain")), every(minutes=5)
    nul = Login(how="x", token=f"{value('nul')}\0")
    gathered.refused("schedule", lambda: schedules.put("s", leak_one, nul, often))
    gathered.refused("schedule", lambda: schedules.put("s", leak_one, good, often, headers={"key": HEADER * 100}))
    for name in ("good", "old"):
        gathered.add("schedule", schedules.put(name, leak_one, good, often, headers={"key": HEADER}))
        gathered.add("schedule", schedules.get(name), schedules.list(tenant=None))
    at_once = "update joblane.schedules set next_at = clock_timestamp()"
    world.run(f"{at_once}, payload = $1::jsonb where name = 'old'", json.dumps(login("x", value("invalid"))))
    by_type = {one.type: one for one in TASKS}
    make_ticks(world.database.get(), by_type.get, PREFIX)
    gathered.refused("schedule", lambda: schedules.run_now("old", task=leak_one))
    assert [problem is None for (problem,) in world.run("select problem from joblane.schedules order by name")] == [
        True, False,
    ]  # fmt: skip


def fail_an_assertion(world: World, gathered: Gathered) -> None:
    def look() -> list[enqueued.EnqueuedTask]:
        return enqueued.read(world._observer.get(), [], PREFIX)

    captured = enqueued.Captured(list, lambda type_: leak_one)
    captured._read_all = look
    other = Login(**login("another", value("another")))
    gathered.refused("kit", lambda: captured.assert_enqueued(leak_one, other))
    gathered.refused("kit", lambda: captured.assert_enqueued("leak:one", {"token": value("wanted")}, count=77))
    gathered.refused("kit", lambda: captured.assert_enqueued(leak_one, how="another", cards=[{"number": value("x")}]))


def look_everywhere(world: World, gathered: Gathered, logged: list[str], out: tuple[str, str]) -> None:
    gathered.add("log", *logged)
    gathered.add("output", *out)
    kept = {("tasks", name) for name in ("payload", "headers", "result")} | {("api_requests", "body")}
    kept |= {("task_steps", "name"), ("task_steps", "value"), ("schedules", "payload"), ("schedules", "options")}
    columns = world.run(
        "select table_schema, table_name, column_name from information_schema.columns"
        " where table_schema in ('joblane', 'saas', 'public')"
    )
    for schema, table, column in columns:
        if (table, column) not in kept and table != "logins":
            rows = world.run(f'select "{column}"::text from {schema}."{table}"')
            gathered.add(f"{table}.{column}", *(row[0] or "" for row in rows))
    successors = world.run("select payload::text from joblane.tasks where type = 'leak:alert'")
    assert successors
    gathered.add("payload of what follows", *(row[0] for row in successors))
    for one in TASKS:
        while dead_letters := world.received(f"{world.lane(one)}-dlq", visibility=600):
            gathered.add(
                "dead letters' attributes", *(dead_letter.get("MessageAttributes") for dead_letter in dead_letters)
            )
    for id_ in ("known", "leak:one-plain", "leak:one-noted"):
        world.run("update joblane.tasks set owner = 'ann' where id = $1", id_)
        answer = handler(http_event("GET", f"/tasks/{id_}", who=claims("ann")), LambdaContext())
        assert answer["statusCode"] == 200
        gathered.add("API", answer["body"])
    ask(world, gathered)


def ask(world: World, gathered: Gathered) -> None:
    """Read everything that the Inspector shows, in its JSON form."""
    scope = Scope(world.database, world.sqs, PREFIX, {one.type: one for one in TASKS}, "ann")
    inspector = Inspector(scope)
    ids = ["known", "wrong-own", "wrong-other", *(f"leak:one-{how}" for how in LOGGED)]
    arguments: Mapping[str, list[tuple[Any, ...]]] = {
        "task": [(id_,) for id_ in ids],
        "graph": [(id_,) for id_ in ids],
        "logs": [(id_,) for id_ in ids],
        "type_logs": [("leak:one",)],
        "tasks": [(), (Filter(error="bad"),)],
        "find": [(PLANTED,), ("leak:one",), ("bad token",)],
        "preview": [(action, Filter(types=("leak:one",))) for action in ("retry", "redrive")],
        "bulk_view": [],
        "line": [],
        "batch": [("all",)],
        "why_slow": [("leak:one",)],
        "schedule": [("good",), ("old",)],
        "tenant": [("",)],
        "marks": [(PauseScope.TYPE, ("leak:one",)), (PauseScope.TENANT, ("acme",))],
        "performance": [(PauseScope.TYPE, "leak:one"), (PauseScope.TENANT, "")],
    }
    world.run("insert into joblane.batches (id) values ('all') on conflict do nothing")
    world.run("update joblane.tasks set tags = array['batch:all']")
    asked = [name for name in vars(Inspector) if permission_of(Inspector, name) is Permission.VIEW]
    for name in asked:
        for given in arguments.get(name, [()]):
            found = getattr(inspector, name)(*given)
            gathered.add(f"inspector.{name}", TypeAdapter(Any).dump_json(found).decode(), found)
    for payload in (login("plain", value("invalid")), {"token": value("x") * 9}):
        for edit in (inspector.edit, inspector.replay_with):
            gathered.refused("edit", lambda edit=edit, payload=payload: edit("known", payload))  # type: ignore[misc]
    gathered.refused("run now", lambda: inspector.run_schedule("old"))
    gathered.add("run now", inspector.run_schedule("good"), inspector.audit())


def use_the_command_line(world: World, gathered: Gathered, capfd: pytest.CaptureFixture[str]) -> None:
    inspector = Inspector(Scope(world.database, world.sqs, PREFIX, {one.type: one for one in TASKS}, "ann"))
    wrong = json.dumps(login("plain", value("invalid")))
    commands = [
        *(["ls", *more] for more in ([], ["--json"], ["--error", "bad"])),
        *(["show", f"leak:one-{how}"] for how in LOGGED),
        *([name, "leak:one-chained", "--json"] for name in ("show", "logs")),
        *([name, *more] for name in ("queues", "runs", "types", "dead", "audit") for more in ([], ["--json"])),
        *(["schedules", *more] for more in ([], ["--json"], ["show", "good"], ["show", "old", "--json"])),
        *(["find", text, *more] for text in (PLANTED, "bad token", "leak:one") for more in ([], ["--json"])),
        ["edit", "known", "--json", wrong],
        ["replay", "known", "--json", wrong],
        ["enqueue", "leak:one", "--json", wrong],
        *(
            ["invoke", "leak:one", "--json", json.dumps(login(how))]
            for how in ("plain", "chained", "noted", "constraint")
        ),
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("joblane.cli.connect.connect", lambda **_: inspector)
        patch.setattr("joblane.cli.invoke.load_for_person", lambda type_: leak_one)
        for command in commands:
            capfd.readouterr()
            with suppress(SystemExit):
                main(command)
            written = capfd.readouterr()
            gathered.add(f"jobs {command[0]}", written.out, written.err)


def browse(world: World, gathered: Gathered) -> None:
    """Read the page as a browser does."""
    inspector = Inspector(Scope(world.database, world.sqs, PREFIX, {one.type: one for one in TASKS}, "ann"))
    keys = Keys(token="the-token", session="the-session", form="the-form-token", base="")
    app = build(Desk(lambda: inspector, 1), port=8700, keys=keys)
    addresses = [
        *(f"{path}?type=leak:one&id=leak:one-plain&action=retry" for path in PAGES),
        *("/tasks?error=bad", "/find?text=bad", "/schedules/show?name=good", "/schedules/show?name=old"),
        *(f"{path}?id=leak:one-{how}" for path in ("/task", "/task/logs") for how in LOGGED),
    ]
    browser = TestClient(app, base_url="http://127.0.0.1:8700", cookies={"joblane-8700": keys.session})
    for address in addresses:
        gathered.add(f"page {address.partition('?')[0]}", browser.get(address).text)
    for token in ("", "invalid "):  # refused by the form, and by the payload class
        cards = json.dumps(login("x")["cards"]) + ("" if token else ",")
        values = {"payload:how": "x", "payload:token": value(f"{token}form"), "payload:cards": cards}
        given = {"csrf": keys.form, "type": "leak:one", "form": str(uuid4()), **values}
        answer = browser.post("/enqueue/start", data=given, headers={"sec-fetch-site": "same-origin"})
        assert answer.status_code == 422
        gathered.add("page /enqueue/start", answer.text)


@pytest.fixture(scope="module", autouse=True)
def logger() -> None:
    """Make the process's logger before a test captures the output: it would keep the stream of that test."""
    telemetry.logger()


@pytest.fixture
def api() -> Iterator[None]:
    for made in (storage.jobs, storage.database):
        made.cache_clear()
    yield
    storage.database().drop()


def gather(world: World, capfd: pytest.CaptureFixture[str]) -> Gathered:
    gathered = Gathered(world)
    capfd.readouterr()
    with lines() as logged:
        go_all_ways(world, gathered)
        enqueue_badly(world, gathered)
        schedule_badly(world, gathered)
        fail_an_assertion(world, gathered)
    out = capfd.readouterr()
    use_the_command_line(world, gathered, capfd)
    browse(world, gathered)
    look_everywhere(world, gathered, logged.texts, out)
    return gathered


@pytest.mark.usefixtures("standing_clock")
def test_no_value_is_anywhere_but_in_the_payload(world: World, api: None, capfd: pytest.CaptureFixture[str]) -> None:
    gathered = gather(world, capfd)
    assert gathered.leaks == {}
    # and it was there to be found: the ways were gone, and all of them left something
    ended = dict(world.run("select id, reason from joblane.tasks where type = 'leak:one'"))
    assert {f"leak:one-{how}" for how in WAYS} <= ended.keys()
    assert "[redacted]" in ended["leak:one-skipped"]
    for where in ("log", "output", "tasks.reason", "task_attempts.traceback", "dead letters' attributes", "API", "kit"):
        assert any(gathered.texts[where]), where
    assert world.run("select count(*) from joblane.tasks where payload::text like $1", f"%{PLANTED}%")[0][0] > len(WAYS)
    for column in ("name", "value"):
        assert PLANTED in world.run(f"select string_agg({column}::text, '') from joblane.task_steps")[0][0]
    assert any('call "[redacted]"' in text or "call '[redacted]'" in text for text in gathered.texts["inspector.task"])


def test_values_that_are_not_taken_out_would_be_found(
    world: World, api: None, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # given code that takes no field for a redacted one, and no header for a secret
    for module in (redaction, scrubbing):
        monkeypatch.setattr(module, "redacted_names", lambda model: frozenset())
    monkeypatch.setattr(scrubbing, "MIN_HEADER", 10_000)
    leaks = gather(world, capfd).leaks
    for where in (
        "log",
        "API",
        "kit",
        "edit",
        "schedule",
        "inspector.tasks",
        "inspector.schedule",
        "jobs show",
        "jobs schedules",
        "jobs invoke",
        "page /task",
        "page /schedules/show",
        "dead letters' attributes",
    ):
        assert where in leaks
    for column in ("tasks.reason", "tasks.error_message", "task_attempts.error_message", "task_attempts.traceback"):
        assert column in leaks
    assert "task_progress.note" in leaks
    assert any(HEADER in text for text in leaks["task_attempts.traceback"])
