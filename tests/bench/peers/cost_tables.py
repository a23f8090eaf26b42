"""The tables of costs, rendered from the results. A cell is the median of the rounds, with the least and the most."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from statistics import median
from typing import Any

from tests.bench.peers.titles import TITLES

CALLS = {"one": "one by one", "many": "in bulk", "transaction": "in a transaction", "rows": "that transaction alone"}
"""Call of the producer → heading."""
BATCHES = {"joblane": (1, 10)}
CONCURRENCIES = (2, 10)
MICROSECONDS = 1e6

Measured = Mapping[str, Mapping[str, Sequence[float]]]
"""Measurement → meter → values of the rounds."""


def tables(results: Mapping[str, Any]) -> dict[str, str]:
    """Return the tables by the names of their marks."""
    systems = {name: results["systems"][name] for name in TITLES if name in results["systems"]}
    return {
        "setting": _setting(results),
        "life": _life(systems),
        "enqueue-client": _enqueue(systems, "client", "CPU of the client, µs"),
        "enqueue-server": _enqueue(systems, "server", "CPU of PostgreSQL, µs"),
        "run": _run(systems),
        "failed": reasons({name: system["failed"] for name, system in systems.items()}),
        "systems": _systems(systems),
    }


def table(headings: Sequence[str], rows: Iterable[Sequence[str]], *, texts: int = 1) -> str:
    """Return a Markdown table. The first ``texts`` columns are aligned to the left."""
    lines = [headings, ["---" if column < texts else "---:" for column in range(len(headings))], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cell(values: Sequence[float] | None, unit: float = 1, digits: int = 0) -> str:
    """Return the median of the values, with the least and the most if there are several. None: ``-``."""
    if not values:
        return "-"
    middle, least, most = (f"{value * unit:,.{digits}f}" for value in (median(values), min(values), max(values)))
    return middle if least == most else f"{middle} ({least}–{most})"


def reasons(failed: Mapping[str, Mapping[str, str]]) -> str:
    """Return a list of what could not be measured: system → measurement → reason."""
    lines = [
        f"- {TITLES[name]}, {what}: {' '.join(reason.replace('|', ' ').split())[:300]}"
        for name, reasons_ in failed.items()
        for what, reason in reasons_.items()
    ]
    return "\n".join(lines) or "Every measurement of every system was made."


def run_name(concurrency: int, batch: int | None) -> str:
    """Return the name of the measurement of a drain."""
    return f"run {concurrency}" + (f" batch {batch}" if batch else "")


def setting_line(results: Mapping[str, Any]) -> str:
    """Return a sentence on where and when a part was measured."""
    where = results["setting"]
    text = (
        f"Measured on {where['date']} on {where['cores']} cores with Python {where['python']} and PostgreSQL "
        f"{where['postgresql']}."
    )
    if where["quick"]:
        text += (
            " **This was a quick run with few jobs and other work on the machine. It shows the form of the tables; its "
            "figures compare nothing.**"
        )
    return text


def _setting(results: Mapping[str, Any]) -> str:
    numbers = results["numbers"]
    return (
        f"{setting_line(results)}\n\nRounds with all systems in turns: {numbers['rounds']}, after a first that is not "
        f"counted. Jobs in a round: {numbers['one']:,} one by one, as many in transactions, and {numbers['many']:,} in "
        f"bulk before each run."
    )


def _life(systems: Mapping[str, Any]) -> str:
    """The sum of one enqueue by itself and of a run at ten jobs at a time."""
    headings = ["system", "record", *(f"CPU of {part}, µs" for part in ("the client", "the workers", "PostgreSQL"))]
    headings += ["sum, µs", "WAL, bytes", "kept, bytes", "SQS requests"]
    rows = []
    for title, system, batch in _kinds(systems):
        one, run = system["measured"].get("one"), system["measured"].get(run_name(CONCURRENCIES[-1], batch))
        row = [title, {True: "yes", False: "no", None: "-"}[system.get("record")]]
        if one and run:
            cpu = [_middle(one, "client"), _middle(run, "worker"), _middle(one, "server") + _middle(run, "server")]
            row += [f"{seconds * MICROSECONDS:,.0f}" for seconds in (*cpu, sum(cpu))]
            row.append(f"{_middle(one, 'wal') + _middle(run, 'wal'):,.0f}")
            row.append(cell(system["measured"].get("kept", {}).get("size")))
            row.append(f"{_middle(one, 'requests') + _middle(run, 'requests'):.2f}")
        else:
            row += ["-"] * 7
        rows.append(row)
    return table(headings, rows, texts=2)


def _enqueue(systems: Mapping[str, Any], meter: str, what: str) -> str:
    rows = []
    for name, system in systems.items():
        measured = system["measured"]
        rows.append([TITLES[name], *(cell(measured.get(call, {}).get(meter), MICROSECONDS) for call in CALLS)])
        if "one_without_record" in measured:
            cells = (measured.get(f"{call}_without_record", {}).get(meter) for call in CALLS)
            rows.append([f"{TITLES[name]}, without a record", *(cell(values, MICROSECONDS) for values in cells)])
    return table([what, *CALLS.values()], rows)


def _run(systems: Mapping[str, Any]) -> str:
    headings = ["system"]
    for number in CONCURRENCIES:
        headings += [
            f"CPU of the workers at {number}, µs",
            f"of PostgreSQL at {number}, µs",
            f"jobs per second at {number}",
        ]
    headings += [f"WAL at {number}, bytes", f"SQS requests at {number}"]
    rows = []
    for title, system, batch in _kinds(systems):
        row, run = [title], {}
        for concurrency in CONCURRENCIES:
            run = system["measured"].get(run_name(concurrency, batch), {})
            row += [cell(run.get("worker"), MICROSECONDS), cell(run.get("server"), MICROSECONDS), cell(run.get("rate"))]
        rows.append([*row, cell(run.get("wal")), cell(run.get("requests"), digits=2)])
    return table(headings, rows)


def _systems(systems: Mapping[str, Any]) -> str:
    rows = []
    for name, system in systems.items():
        versions = ", ".join(f"{package} {version}" for package, version in system.get("versions", {}).items())
        settings = "; ".join(f"{setting} ({source})" for setting, source in system.get("settings", {}).items())
        notes = "; ".join(f"{CALLS[call]}: {note}" for call, note in system.get("notes", {}).items() if call in CALLS)
        rows.append([TITLES[name], versions or "this version", settings, notes])
    return table(["system", "versions", "settings (source)", "how it enqueues"], rows, texts=4)


def _kinds(systems: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any], int | None]]:
    """Yield title, system and batch size of each row of a run."""
    for name, system in systems.items():
        for batch in BATCHES.get(name, (None,)):
            yield TITLES[name] + (f", batch {batch}" if batch else ""), system, batch


def _middle(values: Mapping[str, Sequence[float]], meter: str) -> float:
    return median(values[meter])
