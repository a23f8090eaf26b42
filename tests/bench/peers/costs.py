"""The costs of a job: processor time of client, workers and PostgreSQL, WAL, stored bytes and requests to SQS.

The jobs that are enqueued one by one and in transactions wait until the bulk call has added those of the drain. A drain
is measured while the jobs of the bulk call run, except for the first of them, and until all of them are recorded.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from tests.bench.peers.cost_tables import CONCURRENCIES, run_name
from tests.bench.peers.peer import Bench, Peer
from tests.bench.peers.systems import open_peer

ANSWER_SECONDS = 180.0


@dataclass(frozen=True)
class Numbers:
    """Rounds, and jobs in each round: of a call that enqueues one by one, of a bulk call, and of those not measured."""

    rounds: int
    one: int
    many: int
    warm: int


FULL = Numbers(rounds=3, one=300, many=1_500, warm=300)
QUICK = Numbers(rounds=1, one=100, many=300, warm=100)

Values = Mapping[str, float]
"""Meter → value, per job. Seconds, bytes or requests; ``rate``: jobs per second."""


def run(bench: Bench, names: Sequence[str], *, quick: bool, report: Callable[[str, float], None]) -> dict[str, Any]:
    """Measure systems in turns. ``report`` is called with the name of each measurement, and the share that is done.

    Returns for each system its description and versions, measurement → meter → values of the rounds, and ``failed``:
    measurement → reason.
    """
    numbers = QUICK if quick else FULL
    systems: dict[str, Any] = {name: {"measured": {}, "failed": {}} for name in names}
    with ExitStack() as stack:
        peers = {}
        for name in names:
            report(f"starting {name}", 0)
            try:
                peers[name] = open_peer(name, bench)
                stack.callback(_close, peers[name], systems[name]["failed"])
                peers[name].answer_seconds = ANSWER_SECONDS
                systems[name] |= peers[name].described()
            except Exception as error:  # the other systems are measured all the same
                systems[name]["failed"]["start"] = _reason(error)
        for round_ in range(numbers.rounds + 1):  # the first warms up, and is not counted
            for turn, (name, peer) in enumerate(peers.items()):
                share = (round_ + turn / len(peers)) / (numbers.rounds + 1)
                measured, failed = systems[name]["measured"], systems[name]["failed"]
                for what, measure in _turn(peer, numbers if round_ else QUICK):
                    if what in failed:
                        continue
                    report(f"round {round_} of {numbers.rounds}, {name}, {what}", share)
                    try:
                        values = measure()
                    except Exception as error:
                        failed[what] = _reason(error)
                        continue
                    for meter, value in values.items() if round_ else ():
                        measured.setdefault(what, {}).setdefault(meter, []).append(value)
    return {"numbers": asdict(numbers), "systems": systems}


def _close(peer: Peer, failed: dict[str, str]) -> None:
    try:
        peer.close()
    except Exception as error:  # the results are not lost
        failed["end"] = _reason(error)


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _turn(peer: Peer, numbers: Numbers) -> Iterator[tuple[str, Callable[[], Values]]]:
    """Yield the measurements of a round: name, and the function that measures."""
    before: list[tuple[int, int]] = []
    yield "begin", partial(_begin, peer, before)
    for call in peer.description.calls:
        if call != "many":
            yield call, partial(enqueue, peer, call, numbers.one)
    for batch in peer.batches:
        for concurrency in CONCURRENCIES:
            yield "many", partial(enqueue, peer, "many", numbers.many)
            yield run_name(concurrency, batch), partial(drain, peer, concurrency, numbers.many - numbers.warm, batch)
    yield "kept", partial(_kept, peer, before)


def _begin(peer: Peer, before: list[tuple[int, int]]) -> Values:
    """Vacuum and analyse, as autovacuum does, but at the same time for all systems. Note the size and the jobs."""
    peer.administrator.run("vacuum analyze")
    before.append((peer.usage().size, peer.enqueued))
    return {}


def _kept(peer: Peer, before: list[tuple[int, int]]) -> Values:
    size, enqueued = before[0]
    return {"size": (peer.usage().size - size) / (peer.enqueued - enqueued)}


def enqueue(peer: Peer, call: str, count: int) -> Values:
    """Enqueue jobs by a call of the producer."""
    before = peer.usage()
    produced = peer.produce(call, "noop", peer.enqueued, count)
    used = peer.usage().per_job(before, count)
    del used["worker"]  # there is none
    return {**used, "client": produced.cpu / count, "rate": count / produced.seconds}


def drain(peer: Peer, concurrency: int, count: int, batch: int | None = None) -> Values:
    """Run all jobs that wait, and measure the last ``count`` of them."""
    expected = peer.enqueued
    try:
        peer.work(concurrency, batch)
        peer.await_(lambda: peer.ran() >= expected - count, "the first jobs have run")
        before = peer.usage()
        started, first = time.perf_counter(), peer.ran()
        peer.await_(lambda: peer.ran() >= expected, "all jobs have run")
        rate = (expected - first) / (time.perf_counter() - started)
        peer.await_(lambda: not peer.unfinished(), "all jobs have ended", pause=0.05)
        return {**peer.usage().per_job(before), "rate": rate}
    finally:
        peer.stop_work()
