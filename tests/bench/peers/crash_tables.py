"""The tables of crashes, rendered from the results."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tests.bench.peers.cost_tables import setting_line, table
from tests.bench.peers.titles import TITLES

Cell = Callable[[Mapping[str, Any]], str]


def tables(results: Mapping[str, Any]) -> dict[str, str]:
    """Return the tables by the names of their marks."""
    return {
        "crash-setting": _setting(results),
        "crash-kills": _table(results["kills"], KILLS),
        "crash-long": _table(results["long"], LONG),
        "crash-outage": _table(results["outage"], OUTAGE),
        "crash-failed": _failed(results),
    }


def seconds(value: float | None) -> str:
    """Return a time in seconds. None: ``-``."""
    return "-" if value is None else f"{value:,.0f}" if value >= 10 else f"{value:.1f}"


def _per_ten_thousand(name: str) -> Cell:
    return lambda result: f"{result[name] * 10_000 / result['jobs']:,.0f}"


def _number(name: str) -> Cell:
    return lambda result: f"{result[name]:,}"


def _rerun(result: Mapping[str, Any]) -> str:
    rerun = result["rerun_seconds"]
    return f"{seconds(rerun['median'])} ({seconds(rerun['min'])}–{seconds(rerun['max'])})" if rerun["n"] else "-"


def _running(result: Mapping[str, Any]) -> str:
    return f"{result['runs'] / result['jobs']:,.1f}"


KILLS: Mapping[str, Cell] = {
    "effects lost, of 10,000": _per_ten_thousand("lost"),
    "effects doubled, of 10,000": _per_ten_thousand("doubled"),
    "kills": _number("killed"),
    "runs besides the first": lambda result: f"{result['runs'] - result['jobs']:,}",
    "from a kill to the effect of the next run, s": _rerun,
    "not ended at the deadline": _number("unfinished"),
    "all jobs, s": lambda result: seconds(result["seconds"]),
}
LONG: Mapping[str, Cell] = {
    "runs of a job": _running,
    "jobs": _number("jobs"),
    "effects lost": _number("lost"),
    "effects doubled": _number("doubled"),
    "not ended at the deadline": _number("unfinished"),
}
OUTAGE: Mapping[str, Cell] = {
    "jobs": _number("jobs"),
    "running at the stop": _number("running"),
    "effects lost": _number("lost"),
    "effects doubled": _number("doubled"),
    "enqueues accepted": _number("accepted"),
    "refused": _number("refused"),
    "longest call, s": lambda result: seconds(result["longest_enqueue_seconds"]),
    "restarts of workers": _number("restarts"),
    "first effect after the start, s": lambda result: seconds(result["first_effect_seconds"]),
    "last effect, s": lambda result: seconds(result["last_effect_seconds"]),
    "not ended at the deadline": _number("unfinished"),
}


def _table(results: Mapping[str, Mapping[str, Any]], cells: Mapping[str, Cell]) -> str:
    rows = [
        [_title(name), *("-" if "failed" in result else render(result) for render in cells.values())]
        for name, result in results.items()
    ]
    return table(["system", *cells], rows)


def _title(name: str) -> str:
    """Return the title of a system, or of its variant: its name and a comma come first."""
    system, comma, variant = name.partition(",")
    return TITLES[system] + comma + variant


def _setting(results: Mapping[str, Any]) -> str:
    size = results["size"]
    return (
        f"{setting_line(results)}\n\nSeed {results['seed']}, {size['jobs']:,} jobs and {size['kills']} kills for each "
        f"system, {results['processes']} worker processes with {results['slots']} jobs at a time each (Joblane: as "
        f"many messages). All jobs may take {size['deadline_seconds']} s. A system gives the job of a lost worker to "
        f"another worker after {results['rescue_seconds']} s, where that can be set. PostgreSQL was stopped for "
        f"{size['outage_seconds']} s."
    )


def _failed(results: Mapping[str, Any]) -> str:
    parts = {"kills": "killed workers", "long": "long job", "outage": "outage"}
    lines = [
        f"- {_title(name)}, {what}: {' '.join(result['failed'].replace('|', ' ').split())[:300]}"
        for part, what in parts.items()
        for name, result in results[part].items()
        if "failed" in result
    ]
    return "\n".join(lines) or "Every system went through every crash."
