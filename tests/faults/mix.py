"""The acts of a run, which depend only on the seed: enqueues, external messages, ticks and cancels."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

from joblane.names import Queue, front_door_name, lane_name
from joblane.sqs.message import Message
from joblane.sqs.tick import id_of, tick_entry
from tests.faults.samples import TASKS, child_id
from tests.faults.worker import PREFIX

Act = dict[str, Any]
KINDS = {
    "mix:batch": 20, "mix:row": 14, "mix:each": 6, "mix:steps": 10, "mix:long": 3, "mix:select": 3, "mix:pages": 3,
    "mix:parent": 6, "mix:only": 12, "mix:watched": 6,
}  # fmt: skip
LIMITED = KINDS | {"mix:watched": 12, "mix:ordered": 12, "mix:single": 5, "mix:after": 10}
"""The kinds of a run with limits, with an order, and with tasks that wait for other tasks."""
LONG = (15, 60)
ITEMS = {
    "mix:each": (3, 12), "mix:long": LONG, "mix:select": LONG, "mix:pages": LONG, "mix:parent": (1, 5),
    "mix:batch": (0, 1), "mix:steps": (1, 4), "mix:ordered": (0, 2),
}  # fmt: skip
MODES = {"session": 45, "rollback": 8, "savepoint": 8, "alone": 18, "many": 16, "direct": 5}
FIRST_TICK = datetime(2026, 1, 1, tzinfo=UTC)
GARBAGE = "{not json"


@dataclass
class Mix:
    """The mix. ``jobs``: task id → the job that a client enqueues. ``external``: nonce of an external message → True if
    it becomes a task. ``rolled_back``: ids that must never exist. ``ticks``: ids of ticks."""

    acts: list[Act] = field(default_factory=list)
    jobs: dict[str, Act] = field(default_factory=dict)
    external: dict[str, bool] = field(default_factory=dict)
    rolled_back: set[str] = field(default_factory=set)
    ticks: set[str] = field(default_factory=set)
    keys: set[str] = field(default_factory=set)


def make_mix(seed: int, jobs: int, kinds: Mapping[str, int] = KINDS) -> Mix:
    """Return the acts. ``kinds``: type → its share of the jobs."""
    return _Maker(seed, kinds).make(jobs)


SCRIPTS: dict[str, tuple[int, Callable[[random.Random, int], list[str]]]] = {
    "ok": (54, lambda dice, _: []),
    "fail": (13, lambda dice, _: ["fail"] * dice.randint(1, 3)),
    "dead": (4, lambda dice, _: ["fail"] * 40),
    "skip": (4, lambda dice, _: ["skip"]),
    "revoke": (2, lambda dice, _: ["revoke"]),
    "retry": (5, lambda dice, seconds: [f"retry:{seconds}", "fail"]),
    "snooze": (5, lambda dice, seconds: [f"snooze:{seconds}"] * dice.choice([1, 2, 2, 30 if seconds < 60 else 3])),
    "hang": (1, lambda dice, _: ["hang"]),
    "freeze": (10, lambda dice, _: [f"freeze:{dice.randint(500, 1400)}"] * dice.randint(1, 2)),
    # by another run, which is slow or not
    "outrun": (10, lambda dice, _: dice.choice([["outrun"], ["outrun", "freeze:600"]])),
    "die": (3, lambda dice, _: ["die"] * dice.randint(1, 3)),
}
"""Word → its share of the jobs, and the script. The number: the seconds of a wait."""


class _Maker:
    def __init__(self, seed: int, kinds: Mapping[str, int] = KINDS) -> None:
        self._random = random.Random(f"mix {seed}")
        self._kinds = kinds
        self._mix = Mix()
        self._numbers = iter(range(10**9))

    def make(self, jobs: int) -> Mix:
        mix = self._mix
        while len(mix.jobs) + len(mix.external) + len(mix.ticks) < jobs:
            kind = self._choose({"produce": 62, "external": 26, "tick": 4, "cancel": 6})
            mix.acts += getattr(self, f"_{kind}")()
        return mix

    def _choose(self, weights: Mapping[str, int]) -> str:
        return self._random.choices(list(weights), list(weights.values()))[0]

    # --- Clients ---------------------------------------------------------------------------------------------------

    def _produce(self) -> Iterator[Act]:
        mode = self._choose(MODES)
        jobs = [self._job(mode) for _ in range(self._random.randint(1, 8))]
        self._wait_for_others(mode, jobs)
        self._mix.jobs |= {job["id"]: job | {"mode": mode} for job in jobs}
        if mode == "rollback":
            self._mix.rolled_back |= {job["id"] for job in jobs}
        if mode == "savepoint":
            self._mix.rolled_back |= {job["id"] for job in jobs[1::2]}
        yield {"produce": mode, "jobs": jobs}

    def _wait_for_others(self, mode: str, jobs: list[Act]) -> None:
        """Let each ``mix:after`` wait for the task above it, unless that may be rolled back or refused."""
        for parent, child in pairwise(jobs):
            if child["type"] == "mix:after" and parent["type"] != "mix:only" and mode in ("session", "alone"):
                child["options"] |= {"after": [parent["id"]], "on_parent_dead": self._random.choice(["run", "cancel"])}

    def _job(self, mode: str) -> Act:
        type_ = self._choose(self._kinds)
        options: dict[str, Any] = {}
        if self._random.random() < 0.3:
            options["process_in"] = self._random.choice([2, 5, 30, 200, 899, 901, 1200, 7200, 3 * 86400])
        if mode == "direct":
            options = {name: min(value, 900) for name, value in options.items()}
            type_ = "mix:row" if type_ == "mix:only" else type_
        elif self._random.random() < 0.05:
            options["deadline_in"] = options.get("process_in", 0) + self._random.choice([1, 5, 60])
        if type_ == "mix:only":
            options |= self._unique()
        if type_ == "mix:row" and self._random.random() < 0.2:
            options["queue"] = "critical"
        if self._random.random() < 0.1:
            options["max_retry"] = self._random.randint(0, 1)
        if self._random.random() < 0.3:
            options["tenant"] = self._random.choice(["acme", "globex"])
        return {
            "id": self._name("job"),
            "type": type_,
            "payload": {"nonce": self._name("nonce"), "script": self._script(type_), "items": self._items(type_)},
            "options": options,
        }

    def _unique(self) -> dict[str, Any]:
        key = f"key-{self._random.randint(1, 6)}"
        self._mix.keys.add(key)
        return {
            "unique_key": key,
            "on_conflict": self._random.choice(["raise", "return", "replace"]),
            "unique_until": self._random.choice(["start", "finish"]),
        } | ({"unique_for": 20} if self._random.random() < 0.2 else {})

    def _items(self, type_: str) -> int:
        low, high = ITEMS.get(type_, (0, 0))
        return self._random.randint(low, high)

    def _script(self, type_: str) -> list[str]:
        seconds = self._random.choice([0, 3, 50, 1000, 8000])
        if type_ == "mix:watched" and self._random.random() < 0.6:
            return ["fail"] * 9
        if type_ == "mix:steps" and self._random.random() < 0.8:
            return self._random.choice([["outrun"], ["outrun"], ["outrun", "outrun"], ["die"]])
        word = self._choose({word: share for word, (share, _) in SCRIPTS.items()})
        return SCRIPTS[word][1](self._random, seconds)

    def _name(self, what: str) -> str:
        return f"{what}-{next(self._numbers):05}"

    # --- External producers, ticks and cancels ---------------------------------------------------------------------

    def _external(self) -> Iterator[Act]:
        """Yield an external message to a front door or a lane: with or without an id, sent twice, or unreadable."""
        type_ = self._choose({"mix:batch": 4, "mix:row": 4, "mix:only": 1})
        nonce = self._name("nonce")
        payload = {"nonce": nonce, "script": self._script(type_), "items": self._items(type_)}
        message = Message(type_, payload=payload)
        lane = lane_name(PREFIX, Queue.DEFAULT, type_)
        front_door = front_door_name(PREFIX, Queue.DEFAULT)
        queue = self._random.choice([lane, front_door])
        runs = True
        match self._choose({"anonymous": 12, "named": 5, "conflict": 1, "unreadable": 1, "garbage": 1, "stranger": 1}):
            case "named":
                message.id = self._name("external")
                yield {"send": queue, "body": message.encode()}
            case "conflict":  # two messages with the same id and different payloads
                message.id = self._name("external")
                yield {"send": lane, "body": message.encode()}
                other = self._name("nonce")
                self._mix.external[other] = True  # only the message that is claimed second is refused
                body = Message(type_, message.id, payload | {"nonce": other}).encode()
                yield {"send": lane, "body": body}
            case "unreadable":
                message.payload, runs = {"nonce": nonce, "items": "many"}, False
            case "garbage":
                yield {"send": queue, "body": f"{GARBAGE} {nonce}"}
                self._mix.external[nonce] = False
                return
            case "stranger":
                message.type, queue, runs = "mix:nobody", front_door, False
        self._mix.external[nonce] = runs
        yield {"send": queue, "body": message.encode()}

    def _tick(self) -> Iterator[Act]:
        """Yield two ticks that may overlap, each of them twice."""
        task = self._random.choice([TASKS["mix:tick"], TASKS["mix:overlap"]])
        schedule = task.schedules[0]
        for _ in range(2):
            moment = FIRST_TICK + timedelta(minutes=5 * len(self._mix.ticks))
            self._mix.ticks.add(id_of(task.type, str(schedule.name), moment))
            entry = tick_entry(PREFIX, task, schedule, moment)
            yield {"send": entry.queue, "body": entry.body}
            yield {"send": entry.queue, "body": entry.body}

    def _cancel(self) -> Iterator[Act]:
        if self._mix.jobs:
            latest = list(self._mix.jobs)[-12:]
            yield {"cancel": self._random.sample(latest, min(2, len(latest)))}


def children_of(id_: str, job: Act) -> list[str]:
    return [child_id(id_, number) for number in range(job["payload"]["items"])] if job["type"] == "mix:parent" else []


def key_probe(key: str) -> Act:
    """Return an enqueue that takes a unique key at the end of the run."""
    job = {
        "id": f"probe-{key}",
        "type": "mix:only",
        "payload": {"nonce": f"probe-{key}"},
        "options": {"unique_key": key},
    }
    return {"produce": "alone", "jobs": [job]}


def sweep_call(number: int) -> Act:
    from joblane.functions.jobs_sweep.handler import jobs_sweep

    body = Message(jobs_sweep.type, f"{jobs_sweep.type}:woken:{number}").encode()
    return {"send": lane_name(PREFIX, jobs_sweep.queue, jobs_sweep.type), "body": body}


assert set(KINDS) < set(LIMITED) < set(TASKS)
