"""Operators' requests to a stage whose database is asleep: they wait for it, and nothing is done twice."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from functions.data_export.handler import data_export
from joblane.cli.exits import Exit, exit_of
from joblane.errors import DatabaseUnavailableError
from joblane.functions.control import answering
from joblane.inspector import wire
from joblane.inspector.errors import DatabaseAsleepError
from joblane.inspector.remote import RemoteInspector
from joblane.local.errors import UnavailableError
from joblane.record.driver import database as database_module
from joblane.record.driver import waking
from joblane.record.driver.database import Database
from joblane.record.driver.login import LoginError
from joblane.record.driver.stage import check_stage
from joblane.record.driver.time_limits import TimeLimits
from tests.freezing import FreezingProxy
from tests.integration.inspector.gateway import REGION, Gateway, Headers, control_template, serving
from tests.integration.inspector.test_control import EXPORT
from tests.integration.inspector.test_remote import EDITOR, VIEWER
from tests.patience import PATIENCE_SECONDS
from tests.world import World

LIMITS = TimeLimits(connect=0.2, lock=1, statement=2, network=1)
PAYLOAD = EXPORT.model_dump(mode="json")


class Asleep:
    """A stage whose control API reaches its database through a proxy that can fall asleep."""

    def __init__(self, gateway: Gateway, url: str, proxy: FreezingProxy, world: World) -> None:
        self.gateway, self._url, self.proxy, self.world = gateway, url, proxy, world

    def editor(self, patience_seconds: float = PATIENCE_SECONDS) -> RemoteInspector:
        return RemoteInspector(
            self._url,
            stage="dev",
            prefix="jobs",
            region=REGION,
            credentials=EDITOR.credentials,
            patience_seconds=patience_seconds,
        )

    def wakes_at(self, request: int) -> None:
        """Wake up when the API gets its ``request``th request."""
        answer = self.gateway.answer

        def counting(method: str, url: str, headers: Headers, body: bytes) -> tuple[int, bytes]:
            if len(self.gateway.seen) == request - 1:
                self.proxy.thaw()
            return answer(method, url, headers, body)

        self.gateway.answer = counting  # type: ignore[method-assign]

    def enqueued(self) -> int:
        return len(self.world.run(f"select from joblane.tasks where type = '{data_export.type}'"))


@pytest.fixture
def stage(world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[Asleep]:
    monkeypatch.setattr("joblane.inspector.remote.PAUSES_SECONDS", (0.0, 0.01))
    monkeypatch.setattr(waking, "PAUSE_SECONDS", 0.05)
    monkeypatch.setattr(answering, "Database", partial(Database, limits=LIMITS))
    gateway = Gateway(control_template(), VIEWER, EDITOR)
    with FreezingProxy.before(world.url) as proxy, serving(gateway) as url:
        monkeypatch.setenv("DATABASE_URL", proxy.url)
        answering._scope.cache_clear()
        proxy.freeze()
        yield Asleep(gateway, url, proxy, world)
        answering._scope().database.drop()
        answering._scope.cache_clear()


def test_an_action_waits_in_the_control_function_and_is_done_once(stage: Asleep) -> None:
    # given a database that wakes up after the first tries to connect
    waits = threading.Event()
    connect = Database.get

    def counted(self: Database) -> object:
        try:
            return connect(self)
        except OSError:
            waits.set()
            raise

    def wake_up() -> None:
        waits.wait(PATIENCE_SECONDS)
        stage.proxy.thaw()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Database, "get", counted)
        waking_up = threading.Thread(target=wake_up)
        waking_up.start()
        # when
        stage.editor().enqueue(data_export.type, PAYLOAD, reason="by hand")
        waking_up.join()
    # then
    assert waits.is_set()
    assert (len(stage.gateway.seen), stage.enqueued()) == (1, 1)


def test_an_action_that_did_not_begin_is_repeated_until_the_database_is_awake(
    stage: Asleep, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answering, "WAKING_SECONDS", 0)
    stage.wakes_at(request=5)  # after more requests than there are pauses
    id_ = stage.editor().enqueue(data_export.type, PAYLOAD, reason="by hand").id
    assert (len(stage.gateway.seen), stage.enqueued()) == (5, 1)
    assert [(each.action, each.target) for each in stage.editor().audit()] == [("enqueue", id_)]


def test_a_query_is_repeated_until_the_database_is_awake(stage: Asleep) -> None:
    stage.wakes_at(request=5)
    assert stage.editor().pauses() == ()
    assert len(stage.gateway.seen) == 5


@pytest.mark.parametrize(
    ("call", "kind"),
    [
        (lambda editor: editor.enqueue(data_export.type, PAYLOAD), DatabaseAsleepError),
        (lambda editor: editor.pauses(), DatabaseUnavailableError),
    ],
)
def test_the_wait_for_a_database_that_stays_asleep_ends(
    call: Callable[[RemoteInspector], object],
    kind: type[DatabaseUnavailableError],
    stage: Asleep,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(answering, "WAKING_SECONDS", 0)
    monkeypatch.setattr("joblane.inspector.remote.RESUME_SECONDS", 1)
    with pytest.raises(DatabaseUnavailableError) as caught:
        call(stage.editor())
    assert type(caught.value) is kind
    assert exit_of(caught.value) is Exit.UNAVAILABLE
    assert ("Nothing was done" in str(caught.value)) is (kind is DatabaseAsleepError)
    assert stage.gateway.seen


def test_a_caller_without_patience_gets_the_answer_of_the_control_api(
    stage: Asleep, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answering, "WAKING_SECONDS", 0)
    with pytest.raises(DatabaseAsleepError, match=r"Nothing was done\. A database that was asleep takes 15 to 30 s"):
        stage.editor(patience_seconds=-1).enqueue(data_export.type, PAYLOAD)
    assert (len(stage.gateway.seen), stage.enqueued()) == (1, 0)


def test_an_action_finds_that_a_connection_is_dead_that_was_just_used(stage: Asleep) -> None:
    # given a connection that was used a moment ago, and is closed since
    stage.proxy.thaw()
    stage.editor().pauses()
    stage.proxy.thaw()
    # then
    stage.editor().enqueue(data_export.type, PAYLOAD)
    assert (len(stage.gateway.seen), stage.enqueued()) == (2, 1)


def test_an_action_whose_database_fails_after_it_began_is_not_repeated(
    stage: Asleep, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given a connection that hangs in the middle of the action
    connect_first = answering.connect_first

    def freezing(database: Database) -> None:
        connect_first(database)
        stage.proxy.freeze()

    monkeypatch.setattr(answering, "connect_first", freezing)
    stage.proxy.thaw()
    # then
    with pytest.raises(DatabaseUnavailableError, match="may have been carried out: check the audit") as caught:
        stage.editor().enqueue(data_export.type, PAYLOAD)
    assert type(caught.value) is DatabaseUnavailableError
    assert len(stage.gateway.seen) == 1


@pytest.mark.parametrize("refused_seconds", [0, 2])
def test_a_first_statement_that_hangs_ends_with_the_tries(
    refused_seconds: float, stage: Asleep, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given a server that refuses connections for a while, accepts a login, and then hangs
    started = time.monotonic()
    connect = database_module._connect

    def refusing(*given: Any, **named: Any) -> Any:
        if time.monotonic() < started + refused_seconds:
            raise ConnectionRefusedError
        stage.proxy.thaw()
        return connect(*given, **named)

    def hanging(*given: Any) -> None:
        stage.proxy.freeze()
        check_stage(*given)

    monkeypatch.setattr(database_module, "_connect", refusing)
    monkeypatch.setattr(database_module, "check_stage", hanging)
    monkeypatch.setattr(waking, "TRY_SECONDS", 0.5)
    monkeypatch.setattr(answering, "WAKING_SECONDS", 2.1)
    # then
    limits = TimeLimits(connect=5, lock=1, statement=20)
    with Database(stage.proxy.url, prefix="jobs", limits=limits) as database, pytest.raises(DatabaseAsleepError):
        answering.connect_first(database)
    assert time.monotonic() - started < 5


def test_a_name_that_cannot_be_resolved_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[int] = []
    with Database("postgresql://owner@no-such-host.invalid/jobs") as database, pytest.raises(socket.gaierror):
        waking.connect_patiently(database, PATIENCE_SECONDS, on_wait=lambda: waited.append(1))
    assert waited == []


def test_an_action_that_the_gateway_answers_with_503_is_not_repeated(stage: Asleep) -> None:
    stage.proxy.thaw()
    stage.gateway.fails = [503]
    with pytest.raises(UnavailableError, match="may have been carried out"):
        stage.editor().enqueue(data_export.type, PAYLOAD)
    assert stage.enqueued() == 0


def test_an_older_client_learns_that_the_database_is_unavailable() -> None:
    encoded = wire.encode_error(DatabaseAsleepError("Nothing was done"))
    of_older = {name: value for name, value in encoded.items() if name != "kind"}
    assert type(wire.decode_error(encoded)) is DatabaseAsleepError
    assert exit_of(wire.decode_error(of_older)) is Exit.UNAVAILABLE


def test_a_refused_login_is_reported_at_once(stage: Asleep, monkeypatch: pytest.MonkeyPatch) -> None:
    tries = []

    def refuse(*_: object, **__: object) -> None:
        tries.append(1)
        raise LoginError("the database at db refuses the login")

    monkeypatch.setattr(database_module, "connected", refuse)
    database = answering._scope().database
    with pytest.raises(DatabaseUnavailableError, match=r"refuses the login\. Nothing was done") as caught:
        answering.connect_first(database)
    assert (type(caught.value), len(tries)) == (DatabaseUnavailableError, 1)
