"""The tables of ``docs/explanation/costs.md``: prices times the counts that the stage and the task declarations give.

``python -m tests.costs`` writes them into the page; ``tests/unit/cdk/test_costs.py`` holds them together.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from infra.health import COSTS
from joblane.cdk.costs import ASSUMED, HOURS, LEAST_AWAKE, Line, assumed, markdown, smallest
from joblane.discovery import discover
from joblane.prices import AS_OF, PRICES
from tests.pages import ROOT

PAGE = ROOT / "docs" / "explanation" / "costs.md"


def additions() -> list[Line]:
    """What a setting adds to the smallest stage each month."""
    return [
        Line("`network`: one NAT gateway", HOURS, "NAT gateway hour"),
        Line("`network`: its public address", HOURS, "Public IPv4 hour"),
        Line("`network`: an interface endpoint in two zones, for each service", 2 * HOURS, "Interface endpoint hour"),
        Line(f"`database`: Aurora at {LEAST_AWAKE} ACU, always awake", LEAST_AWAKE * HOURS, "Aurora ACU-hour"),
        Line(
            f"`database`: Aurora at {LEAST_AWAKE} ACU, asleep but for the hours assumed",
            LEAST_AWAKE * 30 * assumed("Hours a day that a sleeping cluster is awake"),
            "Aurora ACU-hour",
        ),
        Line("`database`: 10 GB in Aurora", 10, "Aurora GB-month"),
        Line("`database.migration_secret`, or any further secret", 1, "Secret"),
        Line("10 GB of exports", 10, "S3 GB-month"),
        Line("An alarm of one metric", 1, "Alarm"),
        Line("A dashboard", 1, "Dashboard"),
        Line("The key of the topic of alarms", 1, "Key"),
    ]


def million() -> list[Line]:
    """A million jobs, each enqueued by a call of its own straight to its lane, and delivered alone."""
    jobs = 1e6
    gb_seconds = jobs * assumed("Seconds of a job") * assumed("MB of a job's function") / 1024
    return [
        Line("Send, receive, delete", 3 * jobs, "SQS request"),
        Line("Invocations", jobs, "Lambda request"),
        Line("GB-seconds", gb_seconds, "Lambda GB-second"),
        Line("Log", jobs * assumed("KB of log of a run") / 1e6, "Log, taken in"),
        Line("Aurora: I/O", jobs * assumed("I/O requests of a job"), "Aurora I/O request"),
        Line(
            "Aurora: rows, for as long as ids are kept", jobs * assumed("KB of a job's rows") / 1e6, "Aurora GB-month"
        ),
    ]


def on_top() -> list[Line]:
    """What some of a million jobs have besides."""
    jobs = 1e6
    gb_seconds = jobs * assumed("Seconds of a job") * assumed("MB of a job's function") / 1024
    return [
        Line("Through a front door: send, receive, delete once more", 3 * jobs, "SQS request"),
        Line("With a `tenant`: fair queues", 3 * jobs, "SQS request of a fair queue, on top"),
        Line("With `architecture` x86_64, in place of the GB-seconds above", gb_seconds, "Lambda GB-second, x86_64"),
        Line("Asked for through the API", jobs, "HTTP API request"),
        Line("Behind a NAT gateway", jobs * assumed("KB of a job through the NAT") / 1e6, "NAT gateway GB"),
    ]


SECTIONS: Mapping[str, Callable[[], tuple[list[Line], bool]]] = {
    "idle": lambda: (smallest(discover(), COSTS), True),
    "additions": lambda: (additions(), False),
    "million": lambda: (million(), True),
    "on-top": lambda: (on_top(), False),
}
"""Name of the marker in the page → its lines, and whether they add up to something."""


def price_table() -> str:
    rows = [f"| {name} | {price} | {price.source} |" for name, price in PRICES.items()]
    told = f"First tiers each, looked up on {AS_OF}."
    return "\n".join(["| what | price | source |", "|---|---|---|", *rows, "", told])


def assumed_table() -> str:
    rows = [f"| {name} | {amount.number:g} {amount.unit} | {amount.why} |" for name, amount in ASSUMED.items()]
    return "\n".join(["| what | amount | why |", "|---|---|---|", *rows])


def rendered(text: str) -> str:
    """The page with its tables made anew."""
    tables = {name: markdown(lines, with_sum=total) for name, (lines, total) in ((n, s()) for n, s in SECTIONS.items())}
    for name, shown in {**tables, "prices": price_table(), "assumed": assumed_table()}.items():
        marked = re.compile(rf"(<!-- costs: {name} -->\n).*?(<!-- end -->)", re.S)
        text, count = marked.subn(lambda match, shown=shown: f"{match[1]}{shown}\n{match[2]}", text)  # type: ignore[misc]
        assert count == 1, f"{PAGE.name}: <!-- costs: {name} --> is there {count} times"
    return text


if __name__ == "__main__":
    PAGE.write_text(rendered(PAGE.read_text()))
