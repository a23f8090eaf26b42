"""Processes that are killed between two steps, and the recovery by the next process."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from joblane.handler.steps import key_of
from joblane.tasks.task import Task
from tests.builders.events import record
from tests.builders.rows import put
from tests.kills import KILLED, Workers, killable_workers
from tests.samples import Sample, place_one, place_two, sample_async, sample_batch, sample_forgotten, sample_one
from tests.samples_events import Bus, sample_heard
from tests.samples_long import HANDLED
from tests.world import World


@pytest.fixture(scope="module")
def pool() -> Iterator[Workers]:
    with killable_workers() as made:
        yield made


@pytest.fixture
def workers(world: World, pool: Workers) -> Iterator[Workers]:
    """Processes that may be killed, over this test's world."""
    world.run("create table effects (task_id text, what text)")
    with pool.over(world):
        yield pool


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file in which the handlers of steps note their calls."""
    monkeypatch.setenv(HANDLED, str(tmp_path / "calls"))
    return tmp_path / "calls"


def sent(world: World, do: str, number: int = 0, task: Task[Any, Any] = sample_one, id_: str = "it") -> dict[str, Any]:
    """A task with a row, and its message as a record."""
    put(world, task, id_, {"do": do, "number": number}, retention_seconds=int(task.retention.total_seconds()))
    return record({"type": task.type, "id": id_, "rec": True}, world.lane(task))


def kill(
    workers: Workers,
    message: dict[str, Any] | Sequence[dict[str, Any]],
    dies: str = "",
    type_: str = "sample:one",
) -> None:
    """Deliver messages to a process that is killed: at this point, or by its handler."""
    assert workers.handle(type_, *([message] if isinstance(message, dict) else message), dies=dies) is None
    assert workers.status == KILLED


def effects(world: World) -> list[Any]:
    return [row[0] for row in world.run("select task_id from effects order by 1")]


def dead_letters(world: World, task: Task[Any, Any] = sample_one) -> list[tuple[str, str]]:
    return [
        (dead_letter["Body"], dead_letter["MessageAttributes"]["joblane-dead"]["StringValue"])
        for dead_letter in world.dead_letters(task)
    ]


def test_a_process_killed_after_the_claim_counts_as_one_run_and_the_task_is_retried(
    world: World, workers: Workers
) -> None:
    message = sent(world, "write_effect")

    kill(workers, message, "after the claim")
    row = world.row("it")
    assert (row["state"], row["attempts"], row["runs"]) == ("active", 1, 1)
    assert workers.handle("sample:one", message) == [message["messageId"]]  # its lease is live
    world.expire_leases()
    assert workers.handle("sample:one", message) == []

    row = world.row("it")
    assert (row["state"], row["attempts"], row["runs"]) == ("completed", 2, 2)
    assert (world.outcomes("it"), effects(world)) == (["lost", "completed"], ["it"])


def test_a_coroutine_killed_after_any_of_its_statements_has_each_effect_once(world: World, workers: Workers) -> None:
    for number in itertools.count(1):
        id_ = f"it-{number}"
        message = sent(world, "write_effects_by_item", task=sample_async, id_=id_)
        workers.handle("sample:async", message, dies=f"after statement {number}")
        if was_killed := workers.status == KILLED:
            world.expire_leases()
            assert workers.handle("sample:async", message) == []
        assert world.row(id_)["state"] == "completed"
        written = world.run("select what from effects where task_id = $1 order by what", id_)
        assert written == [["a"], ["b"], ["end"]], number
        if not was_killed:
            break
    assert number > 8  # a claim, a read, two commits with their marks and checks, and the last with the finish


@pytest.mark.parametrize(
    ("task", "do"), [(sample_one, "do_steps"), (sample_async, "do_steps_async")], ids=["plain", "async"]
)
def test_a_killed_step_is_called_again_with_its_key_unless_it_was_committed(
    world: World, calls: Path, workers: Workers, task: Task[Any, Any], do: str
) -> None:
    repeated: set[str] = set()
    for number in itertools.count(1):
        calls.write_text("")
        id_ = f"it-{number}"
        message = sent(world, do, task=task, id_=id_)
        workers.handle(task.type, message, dies=f"after statement {number}")
        if was_killed := workers.status == KILLED:
            stored = {row[0] for row in world.run("select name from joblane.task_steps where task_id = $1", id_)}
            again = {line.split()[0] for line in calls.read_text().splitlines()} - stored
            repeated |= again
            world.expire_leases()
            assert workers.handle(task.type, message) == []

        assert world.row(id_)["result"] == [{"of": "a"}, {"of": "b"}]
        made = [line.split() for line in calls.read_text().splitlines()]
        assert sorted(name for name, _ in made) == sorted(["a", "b", *(again if was_killed else [])]), number
        assert {key for _, key in made} == {key_of(id_, "a"), key_of(id_, "b")}, number
        assert world.run("select what from effects where task_id = $1", id_) == [["a"]], number
        if not was_killed:
            break
    assert "a" in repeated  # killed between its call and its commit
    assert number > 6


@pytest.mark.parametrize(("dying", "first"), [(place_one, (1, 0)), (place_two, (1, 1))], ids=["first", "second"])
def test_a_kill_in_a_batch_of_two_types_counts_for_the_type_that_ran(
    world: World, workers: Workers, dying: Task[Any, Any], first: tuple[int, int]
) -> None:
    tasks = (place_one, place_two)
    messages = [
        sent(world, "die_at_first", int(task is dying), task=task, id_=f"it-{number}")
        for number, task in enumerate(tasks)
    ]

    kill(workers, messages, type_="place")
    assert tuple(world.row(f"it-{number}")["attempts"] for number in (0, 1)) == first
    assert effects(world) == (["it-0"] if dying is place_two else [])
    world.expire_leases()
    assert workers.handle("place", *messages) == []

    assert effects(world) == ["it-0", "it-1"]
    counted = [len(world.outcomes(f"it-{number}")) for number in (0, 1)]
    assert counted == ([2, 1] if dying is place_one else [1, 2])


def test_a_process_killed_in_its_handler_leaves_no_effect_and_the_task_is_sent_again(
    world: World, workers: Workers
) -> None:
    message = sent(world, "die_at_first", 1)

    assert workers.handle("sample:one", message) is None
    assert effects(world) == []
    world.expire_leases()
    assert world.sweep().sent == 1
    (copy,) = world.receive(world.lane(sample_one))
    assert workers.handle("sample:one", copy) == []
    assert workers.handle("sample:one", message) == []  # the first message comes back at last

    assert world.outcomes("it") == ["lost", "completed"]
    assert effects(world) == ["it"]
    assert world.row("it")["attempts"] == 2


def test_with_three_retries_four_killed_runs_make_one_dead_letter(world: World, workers: Workers) -> None:
    message = sent(world, "die_at_first", 99)

    for _ in range(4):
        assert workers.handle("sample:one", message) is None
        world.expire_leases()
    assert workers.handle("sample:one", message) == []

    row = world.row("it")
    assert (row["state"], row["attempts"], row["runs"], row["error_type"]) == ("archived", 4, 4, "Lost")
    assert world.outcomes("it") == ["lost"] * 4
    assert effects(world) == []
    ((body, generation),) = dead_letters(world)
    assert '"id":"it"' in body
    assert generation == "0"


@pytest.mark.parametrize("task", [sample_one, sample_forgotten], ids=["kept a day", "retention zero"])
@pytest.mark.parametrize(
    ("do", "dies", "result", "is_external"),
    [
        ("write_effect", "after the commit", "written", False),
        ("write_effect", "after the commit", "written", True),
        ("return_only", "after the finish", "returned", False),
    ],
    ids=["with its session", "an external task", "without"],
)
def test_a_process_killed_between_commit_and_answer_has_done_its_work_once(
    world: World, workers: Workers, task: Task[Any, Any], do: str, dies: str, result: str, is_external: bool
) -> None:
    external = {"type": task.type, "id": "it", "payload": {"do": do}}
    message = record(external, world.lane(task)) if is_external else sent(world, do, task=task)

    kill(workers, message, dies, task.type)
    before = world.row("it")
    assert workers.handle(task.type, message) == []  # not answered, so it comes again

    assert world.row("it") == before
    assert (before["state"], before["runs"]) == ("completed", 1)
    assert before["result"] == (result if task is sample_one else None)
    assert effects(world) == (["it"] if do == "write_effect" else [])
    assert dead_letters(world, task) == []


@pytest.mark.parametrize("by", ["the next delivery", "the sweep"])
@pytest.mark.parametrize(("dies", "before"), [("before the send", 0), ("after the send", 1)])
def test_the_dead_letter_of_a_killed_process_is_sent_and_marked_later(
    world: World, workers: Workers, dies: str, before: int, by: str
) -> None:
    message = sent(world, "archive_now")

    kill(workers, message, dies)
    assert (world.row("it")["state"], world.row("it")["dead_sent_at"]) == ("archived", None)
    assert len(dead_letters(world)) == before
    if by == "the sweep":
        world.run("update joblane.tasks set sweep_at = clock_timestamp()")
        assert world.sweep().dead_letters == 1
    assert workers.handle("sample:one", message) == []

    found = dead_letters(world)
    assert found == [found[0]] * (before + 1), "it is sent again unchanged"
    assert '"id":"it"' in found[0][0]
    assert found[0][1] == "0"
    assert (world.row("it")["dead_sent_at"] is not None, world.row("it")["runs"]) == (True, 1)
    assert world.sweep().dead_letters == 0


@pytest.mark.parametrize(
    ("driver", "dies", "in_lane"),
    [
        (None, "before the send", 0),
        ("asyncpg", "before the send", 0),
        ("psycopg", "before the send", 0),
        (None, "after the send", 1),
    ],
)
def test_a_task_whose_producer_was_killed_around_the_send_runs_once(
    world: World, workers: Workers, driver: str | None, dies: str, in_lane: int
) -> None:
    lane = world.lane(sample_one)

    workers.enqueue("it", dies=dies, driver=driver)
    assert workers.status == KILLED
    assert (world.row("it")["state"], world.depth(lane)) == ("pending", in_lane)
    assert world.sweep().sent == 0  # its own message may be under way
    assert world.run("select extract(epoch from sweep_at - due_at) < 61 from joblane.tasks") == [[True]]
    world.run("update joblane.tasks set sweep_at = clock_timestamp()")
    assert world.sweep().sent == 1 - in_lane

    (message,) = world.receive(lane)
    assert workers.handle("sample:one", message) == []
    assert (world.row("it")["state"], world.row("it")["runs"]) == ("completed", 1)


# --- In a batch ---------------------------------------------------------------------------------------------------


def work_off(world: World, workers: Workers, rounds: int) -> int:
    """Deliver the messages of the batch task's lane until it is empty. Return the number of killed processes."""
    lane = world.lane(sample_batch)
    died = 0
    for _ in range(rounds):
        messages = world.receive(lane, visibility=0)
        if not messages:
            return died
        messages.sort(key=lambda message: message["body"])  # the killer first: the worst order
        kept = workers.handle("sample:batch", *messages)
        if kept is None:
            died += 1
            world.expire_leases()
        else:
            world.acknowledge(lane, messages, kept)
    raise AssertionError(f"the lane is not empty after {rounds} deliveries")


def enqueue_batch(world: World, killers: int, number: int = 99) -> list[str]:
    """Ten tasks with messages, killers first by id."""
    lane = world.lane(sample_batch)
    ids = [f"it-{position}" for position in range(10)]
    for position, id_ in enumerate(ids):
        do = "die_at_first" if position < killers else "write_effect"
        put(world, sample_batch, id_, {"do": do, "number": number})
        body = f'{{"type":"sample:batch","id":"{id_}","rec":true}}'
        world.sqs.client.send_message(QueueUrl=world.sqs.url(lane), MessageBody=body)
    return ids


@pytest.mark.parametrize("killers", [1, 2])
def test_a_task_that_kills_its_batch_costs_the_others_no_attempt_and_is_archived(
    world: World, workers: Workers, killers: int
) -> None:
    ids = enqueue_batch(world, killers)

    # Four runs of each killer count, one death in a batch does not.
    assert work_off(world, workers, rounds=30) <= 4 * killers + 1

    for id_ in ids[killers:]:
        row = world.row(id_)
        assert (row["state"], row["attempts"]) == ("completed", 1), id_
    assert effects(world) == ids[killers:]
    for id_ in ids[:killers]:
        row = world.row(id_)
        assert (row["state"], row["attempts"], row["error_type"]) == ("archived", 4, "Lost"), id_
    assert sorted(body.split('"id":"')[1][:4] for body, _ in dead_letters(world, sample_batch)) == ids[:killers]


def test_a_task_that_was_lost_alone_is_never_claimed_with_others(world: World, workers: Workers) -> None:
    # given a task that killed a process when it was alone
    enqueue_batch(world, 0)
    put(world, sample_batch, "a-killer", {"do": "die_at_first", "number": 99})
    killer = record({"type": "sample:batch", "id": "a-killer", "rec": True}, world.lane(sample_batch))
    assert workers.handle("sample:batch", killer) is None
    assert (world.row("a-killer")["attempts"], world.row("a-killer")["batch_size"]) == (1, 1)
    world.expire_leases()

    # when it comes again together with nine others
    fresh = world.receive(world.lane(sample_batch), visibility=0)[:9]
    assert workers.handle("sample:batch", killer, *fresh) is None

    # then they are done before it kills the process again
    states = [world.row(f"it-{n}")["state"] for n in range(10)]
    assert states.count("completed") == 9
    assert world.row("a-killer")["attempts"] == 2


def test_a_batch_that_kills_once_runs_again_one_by_one_and_all_complete(world: World, workers: Workers) -> None:
    ids = enqueue_batch(world, 1, number=1)

    work_off(world, workers, rounds=10)

    assert effects(world) == ids
    assert {world.row(id_)["state"] for id_ in ids} == {"completed"}
    assert {world.row(id_)["attempts"] for id_ in ids[1:]} == {1}
    assert not any(world.row(id_)["claim_alone"] for id_ in ids)


@pytest.mark.parametrize("dies", ["after the finish", "before the event"])
def test_a_process_killed_before_it_sends_its_event_leaves_it_to_the_sweep(
    world: World, workers: Workers, dies: str
) -> None:
    world.client.enqueue(sample_heard, Sample(), task_id="it")
    message = record({"type": "sample:heard", "id": "it", "rec": True}, world.lane(sample_heard))

    kill(workers, message, dies, "sample:heard")
    assert world.row("it")["state"] == "completed"
    assert world.run("select id from joblane.events") == [["it:0:completed"]]
    world.run("update joblane.events set created_at = created_at - interval '1 minute'")
    bus = Bus()
    swept = world.sweep(bus)
    assert (swept.events, bus.ids) == (1, ["it:0:completed"])
    assert world.run("select id from joblane.events") == []
