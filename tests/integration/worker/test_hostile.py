"""A thousand hostile bodies into a front door and a lane, with good jobs in the same batches and warm processes.

Each bad one ends in a dead-letter queue with a reason, or with the reason in the log where the message has no room for
one; each good one completes; and the answer to Lambda is always well-formed.
"""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import pytest

from joblane import Payload, RetryAfter, Snooze, TaskContext, task
from joblane.quotas import MAX_MESSAGE_BYTES
from joblane.record.task.claim import EARLY_TICK
from joblane.sqs.message import decode
from joblane.worker.invocation import Handle, lambda_handler
from joblane.worker.router import Router
from tests.builders.events import LambdaContext, event, invoke, record
from tests.logs import lines
from tests.samples import Sample, behaviour, sample_one
from tests.sends import REFUSED, Sends
from tests.world import PREFIX, World

SECRET = "hunter2"
T = TypeVar("T")
COUNT = 1000
FRONT_DOOR, LANE = "jobs-default", "jobs-default-order-ship"
REASON, DEAD = "joblane-reason", "joblane-dead"


class Order(Payload):
    number: int
    note: str = ""


@task("order:ship", batch_size=10, max_retry=0)
def order_ship(payload: Order, ctx: TaskContext) -> int:
    return payload.number


# --- Bodies --------------------------------------------------------------------------------------------------------


def envelope(payload: Any = None, **fields: Any) -> dict[str, Any]:
    return {"type": "order:ship", "payload": {"number": 1} if payload is None else payload} | fields


class Hostile:
    """Bodies from a fixed seed: each kind in turn, filled at random."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._kinds = (
            self.noise,
            self.cut,
            self.wrong_shape,
            self.wrong_field,
            self.wrong_payload,
            self.deep,
            self.odd_text,
            self.odd_number,
            self.huge_name,
        )

    def bodies(self, count: int) -> Iterator[str]:
        for number in range(count):
            yield self._kinds[number % len(self._kinds)]()

    def pick(self, *values: T) -> T:
        return self._random.choice(values)

    def text(self, longest: int = 40) -> str:
        """Return characters of every plane that SQS accepts."""
        ranges = ((0x20, 0x7E), (0xA0, 0x2FF), (0x600, 0x6FF), (0x2000, 0x206F), (0xE000, 0xFFFD), (0x1F300, 0x1FFFF))
        return "".join(
            chr(self._random.randint(*self._random.choice(ranges))) for _ in range(self._random.randint(1, longest))
        )

    def noise(self) -> str:
        return self.pick(SECRET, self.text(200), " ", "\ufeff{}", "<xml/>", "type=order:ship", "{" + self.text(), "'")

    def cut(self) -> str:
        whole = json.dumps(envelope({"number": 1, "note": SECRET + self.text()}), ensure_ascii=self.pick(True, False))
        return whole[: self._random.randint(1, len(whole) - 1)]

    def wrong_shape(self) -> str:
        return json.dumps(self.pick(None, True, 7, "x", SECRET, [], [envelope()], {}, {"payload": {}}, [[[]]]))

    def wrong_field(self) -> str:
        wrong: dict[str, Any] = {
            "v": self.pick(2, "1", True, None, [SECRET]),
            "type": self.pick(
                None, 1, SECRET, "order", "Order:ship", "order:ship:x", "other:type" * 30, ["order:ship"]
            ),
            "id": self.pick(1, "", "a b", SECRET + "é", "x" * 201, [SECRET], True, "a\n"),
            "payload": self.pick("x", SECRET, [SECRET], 1, True),
            "rec": self.pick(1, "true", [], {}),
            "schema": self.pick(1, SECRET * 30, []),
            "enqueued_at": self.pick("now", True, -1, 10**20, [], {}),
            "headers": self.pick([SECRET], "x", {"a": 1}, {"a": None}, {"a": SECRET * 300}, {"x" * 101: ""}),
            "tick": self.pick("x", {}, {"schedule": 1, "at": ""}, {"schedule": SECRET + "!", "at": ""}, [1]),
        }
        name = self._random.choice(list(wrong))
        return json.dumps(envelope(**{name: wrong[name]}), ensure_ascii=self.pick(True, False))

    def wrong_payload(self) -> str:
        """The message is valid and its payload is not, so the task gets a row."""
        payload = self.pick(
            {},
            {"number": SECRET},
            {"number": None},
            {"number": 1.5},
            {"number": [1]},
            {"number": 1, "note": {"x": SECRET}},
            {"number": 1, "more": SECRET},
            {"number": 1, self.text(): SECRET},
            {"number": 1, "note": None},
        )
        return json.dumps(envelope(payload), ensure_ascii=self.pick(True, False))

    def deep(self) -> str:
        levels = self.pick(65, 100, 900, 5_000, 100_000)
        opening, closing = self.pick(("[", "]"), ('{"a":', "}"))
        inner = opening * levels + "1" + closing * levels
        return self.pick(inner, '{"type":"order:ship","payload":{"number":' + inner + "}}", opening * levels)

    def odd_text(self) -> str:
        odd = self.pick("\\u0000", "\\ud800", "\\udfff", "\\ud800x\\udc00", "\\ud83d\\ud83d", "a\\u0000b" + SECRET)
        return self.pick(
            f'{{"type":"order:ship","payload":{{"number":1,"note":"{odd}"}}}}',
            f'{{"type":"order:ship","payload":{{"number":1,"{odd}":1}}}}',
            f'{{"type":"order:ship","headers":{{"{odd}":""}},"payload":{{"number":1}}}}',
            f'{{"type":"order:ship","headers":{{"a":"{odd}"}},"payload":{{"number":1}}}}',
            f'{{"type":"order:ship","id":"{odd}","payload":{{"number":1}}}}',
            f'{{"type":"order:ship{odd}"}}',
            f'{{"type":"order:ship","payload":{{"number":1}},"unknown":["{odd}"]}}',
        )

    def odd_number(self) -> str:
        odd = self.pick("NaN", "Infinity", "-Infinity", "1e999", "-1e999", "9" * 5000, "01", "0x1", "1.", ".5", "+1")
        return f'{{"type":"order:ship","payload":{{"number":{odd}}}}}'

    def huge_name(self) -> str:
        return self.pick(
            json.dumps({"type": "order:" + "x" * 5000}),
            json.dumps(envelope({"number": 1, "x" * 5000: 1})),
            json.dumps(envelope(headers={str(number): "" for number in range(100)})),
            json.dumps({"x" * 5000: 1, "type": "order"}),
        )


def full(kind: int) -> str:
    """Return the largest body that SQS accepts, to the byte."""
    frames = (
        ("", "y", ""),
        ('{"type":"order:ship","payload":{"number":1,"note":"', "x", '"}}'),
        ('{"type":"order:ship","payload":{"number":"', "x", '"}}'),
        ("[" * 10, "[", ""),
        ('{"type":"order:ship","id":"' + f"full-{kind}" + '","payload":{"number":1,"more":"', "x", '"}}'),
        ('{"type":"', "x", '"}'),
    )
    start, filler, end = frames[kind % len(frames)]
    return start + filler * (MAX_MESSAGE_BYTES - len(start) - len(end)) + end


def attributes(numbers: random.Random) -> dict[str, Any]:
    """Return up to ten attributes with odd types, in Lambda's form."""
    kinds = ("String", "Number", "String.x-y.z", "Number.custom", "Binary", "Binary.gif")
    found: dict[str, Any] = {}
    for number in range(numbers.choice((0, 0, 1, 9, 10, 10))):
        kind = numbers.choice(kinds)
        value = {"dataType": kind, "stringListValues": [], "binaryListValues": []}
        if kind.startswith("Binary"):
            value["binaryValue"] = base64.b64encode(numbers.randbytes(numbers.randint(1, 300))).decode()
        else:
            value["stringValue"] = (
                "1" if kind.startswith("Number") else numbers.choice(("x", "é" * 100, "\t\n", SECRET))
            )
        name = numbers.choice((f"a{number}", f"a.b-{number}", f"_{number}"))
        found[name] = value
    for name in (DEAD, REASON):
        if found and numbers.random() < 0.2:
            found.popitem()
            kind = numbers.choice(("String", "Number"))
            found[name] = {"dataType": kind, "stringValue": numbers.choice(("0", "7", "99999999", "-1", "1e3"))}
    return found


def batches(seed: int) -> Iterator[list[tuple[dict[str, Any], int | None]]]:
    """Yield batches of up to ten records, valid and invalid; each with the number of a valid job, or None."""
    numbers = random.Random(seed)
    bodies = Hostile(seed)
    bad = [record(body, "") for body in bodies.bodies(COUNT)] + [record(full(kind), "") for kind in range(12)]
    for one in bad:
        one["messageAttributes"] = attributes(numbers) if len(one["body"]) < MAX_MESSAGE_BYTES else {}
        assert not REFUSED.search(one["body"]), "SQS would not have taken it"
    numbers.shuffle(bad)
    given: list[tuple[dict[str, Any], int | None]] = [(one, None) for one in bad]
    for number in range(COUNT // 5):
        body = envelope({"number": number, "note": "é\ufffd"}) | ({"id": f"good-{number}"} if number % 2 else {})
        given.insert(numbers.randint(0, len(given)), (record(body, "", message_id=f"sqs-{number}"), number))
    while given:
        size = numbers.randint(1, 10)
        yield given[:size]
        del given[:size]


@pytest.fixture
def sends(world: World) -> Sends:
    world.make(FRONT_DOOR, LANE)
    return Sends.of(world.sqs)


def kept(handle: Handle, records: list[dict[str, Any]]) -> set[str]:
    """Invoke a function, check the form of its response, and return the ids of the messages that stay in the queue."""
    answer = lambda_handler(handle)(event(*records), LambdaContext())
    assert list(answer) == ["batchItemFailures"]
    assert isinstance(answer["batchItemFailures"], list)
    ids = [item["itemIdentifier"] for item in answer["batchItemFailures"]]
    assert all(list(item) == ["itemIdentifier"] for item in answer["batchItemFailures"])
    assert len(ids) == len(set(ids))
    assert set(ids) <= {one["messageId"] for one in records}
    json.dumps(answer)
    return set(ids)


def reasons(sends: Sends, queue: str) -> list[tuple[str, str | None]]:
    """Body and reason of each dead letter."""
    return [
        (entry["MessageBody"], entry.get("MessageAttributes", {}).get(REASON, {}).get("StringValue"))
        for entry in sends.to(queue + "-dlq")
    ]


def check_dead_letters(dead_letters: list[tuple[str, str | None]], logged: list[str]) -> None:
    """Check that each dead letter has a reason, in it or in the log, and that no reason shows a value."""
    for body, reason in dead_letters:
        assert reason or len(body.encode()) > MAX_MESSAGE_BYTES - 2000
        assert SECRET not in (reason or "")
    assert all(SECRET not in line for line in logged)
    assert max(len(line) for line in logged) < 20_000


# --- The front door ------------------------------------------------------------------------------------------------


def test_the_front_door_forwards_valid_messages_and_refuses_the_others(world: World, sends: Sends) -> None:
    router = Router({"order:ship": ["default"]}, world.sqs, PREFIX)
    came: dict[str, int] = {}
    with lines() as logged:
        for batch in batches(1):
            records = [one for one, _ in batch]
            for one in records:
                one["eventSourceARN"] += FRONT_DOOR
                came[one["body"]] = came.get(one["body"], 0) + 1
            assert kept(router.handle, records) == set()
    on = [decode(entry["MessageBody"]) for entry in sends.to(LANE)]
    dead_letters = reasons(sends, FRONT_DOOR)
    assert len(on) + len(dead_letters) == sum(came.values()), "each goes to one place, and once"
    assert all(message.id for message in on)
    good = {message.id for message in on}
    for number in range(COUNT // 5):
        assert (f"good-{number}" if number % 2 else f"sqs-{number}") in good
    assert len(dead_letters) > 700
    assert all(body in came for body, _ in dead_letters), "as it came"
    check_dead_letters(dead_letters, logged.texts)
    refused = [line for line in logged.fields if line["message"].startswith("message refused")]
    assert len(refused) == len(dead_letters)
    assert all(line["reason"] and line["message_id"] for line in refused)


# --- The lane ------------------------------------------------------------------------------------------------------


def test_a_lane_completes_valid_messages_and_refuses_the_others(world: World, sends: Sends) -> None:
    worker = world.worker(order_ship)
    given = 0
    with lines() as logged:
        for batch in batches(2):
            records = [one for one, _ in batch]
            given += len(records)
            for one in records:
                one["eventSourceARN"] += LANE
            assert kept(worker.handle, records) == set()
        again = sends.to(LANE)
        for number, entry in enumerate(again):  # those that came without an id
            copy = record(entry["MessageBody"], LANE, message_id=f"copy-{number}")
            assert kept(worker.handle, [copy]) == set()
    assert len(again) == len(sends.to(LANE)), "no message goes round"
    completed = {row[0]: row[1] for row in world.run("select id, result from joblane.tasks where state = 'completed'")}
    for number in range(COUNT // 5):
        assert completed.pop(f"good-{number}" if number % 2 else f"sqs-{number}") == number
    left = world.run(
        "select count(*) from joblane.tasks where state not in ('completed', 'archived') or lease_token is not null"
    )
    assert left == [[0]]
    assert world.run("select count(*) from joblane.tasks where state = 'archived' and dead_sent_at is null") == [[0]]
    archived = world.run("select count(*) from joblane.tasks where state = 'archived'")[0][0]
    dead_letters = reasons(sends, LANE)
    refused = sum(line["message"].startswith("message refused") for line in logged.fields)
    assert len(dead_letters) == archived + refused
    assert len(dead_letters) + len(completed) + COUNT // 5 == given, "each ends in one place, and once"
    check_dead_letters(dead_letters, logged.texts)
    assert world.run(f"select count(*) from joblane.tasks where reason ~ '{SECRET}' or error_message ~ '{SECRET}'") == [
        [0]
    ]
    assert world.run(f"select count(*) from joblane.runs where traceback ~ '{SECRET}'") == [[0]]


def test_redriven_dead_letters_of_a_lane_end_there_again_and_nothing_runs_twice(world: World, sends: Sends) -> None:
    worker = world.worker(order_ship)
    bodies = list(Hostile(3).bodies(90))
    records = [record(body, LANE, message_id=f"first-{number}") for number, body in enumerate(bodies)]
    for start in range(0, 90, 10):
        invoke(worker.handle, *records[start : start + 10])
    for life in range(3):
        dead_letters = sends.to(LANE + "-dlq") + sends.to(LANE)
        sends.clear()
        for number, entry in enumerate(dead_letters):
            again = record(entry["MessageBody"], LANE, message_id=f"{life}-{number}")
            again["messageAttributes"] = {
                name: {"dataType": value["DataType"], "stringValue": value["StringValue"]}
                for name, value in entry.get("MessageAttributes", {}).items()
            }
            assert kept(worker.handle, [again]) == set()
        assert len(sends.to(LANE + "-dlq")) == len(
            [entry for entry in dead_letters if not is_good(entry["MessageBody"])]
        )


def is_good(body: str) -> bool:
    """True if the body is a valid order."""
    try:
        message = decode(body)
        return message.type == "order:ship" and bool(Order.model_validate(message.payload))
    except ValueError:
        return False


# --- On the edge ---------------------------------------------------------------------------------------------------


def test_a_tick_from_an_external_producer_gets_only_an_id(world: World, sends: Sends) -> None:
    worker = world.worker(order_ship)
    for number, at in enumerate(("", "x" * 5000, "٢٠٢٦-٠٣-٠١T٠٢:٠٠", "<aws.scheduler.scheduled-time>")):
        body = envelope(tick={"schedule": f"s{number}", "at": at})
        records = [record(body, LANE)]
        assert kept(worker.handle, records) == set()
    assert world.run(
        "select count(*) from joblane.tasks where state = 'completed' and schedule like type || ':s_'"
    ) == [[4]]


def test_a_sender_cannot_use_up_a_later_tick(world: World, sends: Sends) -> None:
    """The scheduler's own message at that time would be found completed, and the schedule would be silent for years."""
    worker = world.worker(order_ship)
    for schedule in ("nightly", "unknown"):
        for seconds in (30, 86_400 * 365 * 9):
            at = f"{datetime.now(UTC) + timedelta(seconds=seconds):%Y-%m-%dT%H:%M:%SZ}"
            delivery = record(envelope(tick={"schedule": schedule, "at": at}), LANE)
            assert kept(worker.handle, [delivery]) == set()
    assert world.run("select id from joblane.tasks") == []
    reasons = [entry["MessageAttributes"]["joblane-reason"]["StringValue"] for entry in sends.to(f"{LANE}-dlq")]
    assert reasons == [EARLY_TICK] * 4


def test_numbers_at_the_edge_of_what_the_record_holds_go_through(world: World, sends: Sends) -> None:
    worker = world.worker(order_ship)
    for number, text in enumerate(("1e308", "-1.7976931348623157e308", "5e-324", "1e-400", "-0.0", "9" * 4300)):
        body = f'{{"type":"order:ship","id":"edge-{number}","payload":{{"number":1}},"extra":{text}}}'
        records = [record(body, LANE)]
        assert kept(worker.handle, records) == set()
        body = f'{{"type":"order:ship","id":"inside-{number}","payload":{{"number":{text}}}}}'
        records = [record(body, LANE)]
        assert kept(worker.handle, records) == set()
    assert world.run("select count(*) from joblane.tasks where id like 'edge-%' and state = 'completed'") == [[6]]
    assert world.run("select count(*) from joblane.tasks where state not in ('completed', 'archived')") == [[0]]


def test_a_batch_runs_only_the_first_of_two_payloads_with_the_same_id(world: World, sends: Sends) -> None:
    worker = world.worker(order_ship)
    records = [record(envelope({"number": number}, id="same"), LANE) for number in (1, 2)]
    left = kept(worker.handle, records)
    assert left == {records[1]["messageId"]}
    assert kept(worker.handle, records[1:]) == set()
    assert world.row("same")["result"] == 1
    ((body, reason),) = reasons(sends, LANE)
    assert (body, reason) == (records[1]["body"], "IdConflict: 'same' is the id of another task, or of another payload")


def test_a_handler_that_asks_for_more_than_time_has_waits_a_year(world: World, sends: Sends) -> None:
    for number, error in enumerate((RetryAfter(timedelta.max), Snooze(timedelta.max))):

        @behaviour
        def far(payload: Sample, ctx: TaskContext, error: Exception = error) -> None:
            raise error

        world.deliver(sample_one, {"type": "sample:one", "id": f"far-{number}", "payload": {"do": "far"}})
    waits = (
        "select (due_at - now()) between interval '364 d' and interval '366 d', sweep_at < due_at from joblane.tasks"
    )
    assert world.run(waits) == [[True, True]] * 2
