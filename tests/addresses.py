"""The rules of the route of signals, for each web framework that has it: scans, answers, and their status."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from joblane import Payload, TaskContext, task
from joblane.enqueue.signals import MAX_SIGNAL_BYTES
from joblane.testing import JobTester

TABLES = ("tasks", "task_signals", "task_waits", "task_attempts", "audit")
SAFE = {
    "cache-control": "no-store",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "x-robots-tag": "noindex",
}
SIGNAL, VALUE = 'approval & "<b>"', {"yes": True, "note": "</code><script>"}
WITH_A_STATUS: list[tuple[bytes, int]] = [
    (b"", 400),
    (b"{", 400),
    (b"{} {}", 400),
    (b"NaN", 400),
    (b"\xff\xfe1\x00", 400),  # UTF-16
    (b'"\xe9"', 400),  # Latin-1
    (b"\xef\xbb\xbf1", 400),  # a byte order mark
    (b"yes=true&button=", 400),  # a form
    (b"[" * 60_000, 400),
    (b"[" * 65 + b"]" * 65, 422),
    (b'"\\u0000"', 422),
    (b'"\\ud800"', 422),
    (b"1e999", 422),
    (b"1e5," * 9_000, 400),
    (b"[" + b"1e5," * 9_000 + b"1]", 422),  # as it would be stored, it is longer
    (b'"' + b"x" * (MAX_SIGNAL_BYTES - 1) + b'"', 413),
    (b"x" * 1_000_000, 413),
]
"""Bodies that change nothing → the status of the answer."""
FULL = b'"' + b"x" * (MAX_SIGNAL_BYTES - 2) + b'"'


@dataclass
class Response:
    status: int
    text: str
    headers: Mapping[str, str] = field(default_factory=dict)


Send = Callable[..., Response]
"""Send a request: method, address, and optionally ``body`` and ``accept``."""
given: dict[str, tuple[str, str]] = {}
"""Id of a task → its two addresses: with the value, and for any value."""


@task("url:ask", environment=["JOBLANE_SIGNAL_KEYS", "JOBLANE_SIGNAL_BASE_URL"], max_retry=0)
def url_ask(payload: Payload, ctx: TaskContext) -> Any:
    given[ctx.task_id] = ctx.signal_url(SIGNAL, value=VALUE), ctx.signal_url(SIGNAL)
    return ctx.wait(SIGNAL, timeout=timedelta(days=7))


def asked(jobs: JobTester, id_: str) -> tuple[str, str]:
    """Start a task that waits, and return its addresses."""
    jobs.enqueue(url_ask, Payload(), task_id=id_)
    jobs.drain()
    jobs.assert_waiting(url_ask, signal=SIGNAL)
    return given[id_]


def rows(jobs: JobTester) -> list[Any]:
    sql = " union all ".join(f"select '{name}', to_json(t)::text from joblane.{name} t" for name in TABLES)
    return sorted(jobs._database.get().run(sql))


def check_scans(jobs: JobTester, send: Send) -> None:
    """A scanner opens addresses by each method but POST, and changes nothing."""
    button, open_ = asked(jobs, "scanned")
    before = rows(jobs)
    for url in (button, open_):
        for method in ("GET", "HEAD", "GET"):
            answer = send(method, url)
            assert answer.status == 200
            assert {name: answer.headers[name] for name in SAFE} == SAFE
            assert "default-src 'none'" in answer.headers["content-security-policy"]
            assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
            assert answer.headers["content-type"] == "text/html; charset=utf-8"
            assert (
                not answer.text if method == "HEAD" else "<h1>approval &amp; &quot;&lt;b&gt;&quot;</h1>" in answer.text
            )
            assert not any(part in answer.text for part in ("<b>", "<script", "http:", "https:", "src=", "href="))
        assert ("<form" in send("GET", url).text) == ("<button" in send("GET", url).text) == (url == button)
    assert "{&quot;note&quot;:&quot;&lt;/code&gt;&lt;script&gt;&quot;" in send("GET", button).text
    assert rows(jobs) == before


def check_other_methods(jobs: JobTester, send: Send) -> None:
    button, _ = asked(jobs, "methods")
    before = rows(jobs)
    for method in ("OPTIONS", "PUT", "PATCH", "DELETE"):
        answer = send(method, button)
        assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD, POST")
    assert rows(jobs) == before


def check_forged(jobs: JobTester, send: Send) -> None:
    """Each wrong address has the same answer."""
    button, open_ = asked(jobs, "forged")
    before = rows(jobs)
    strange = send("POST", open_[:-1], b"1")
    for url in (f"{button}A", button[:-9], button.replace("v1.", "v2."), f"{button}/", f"{button}/{button[-40:]}"):
        for method in ("GET", "HEAD", "POST"):
            assert send(method, url, b"1").status == 404
        assert send("POST", url, b"1") == strange
    assert (strange.status, strange.text) == (404, "This address is not valid.\n")
    assert rows(jobs) == before


def check_answers(jobs: JobTester, send: Send) -> None:
    button, open_ = asked(jobs, "t")
    before = rows(jobs)
    for body, status in WITH_A_STATUS:
        assert (send("POST", open_, body).status, body[:40]) == (status, body[:40])
    assert rows(jobs) == before

    # a button sends an empty form; its token says the value, and no body does
    assert (
        send("POST", button, b"anything", accept="text/html,*/*").text.count("<h1>The answer was received.</h1>") == 1
    )
    accepted = rows(jobs)
    assert send("POST", button, b"").status == 200
    same = json.dumps({"note": VALUE["note"], "yes": True}, indent=3).encode()
    assert (send("POST", open_, same).status, send("POST", open_, b'{"yes":1}').status) == (200, 409)
    assert rows(jobs) == accepted
    jobs.drain()
    assert jobs.task("t").result == VALUE
    assert (send("POST", button).status, send("POST", open_, b"1").status) == (200, 409)
    [[sent_by]] = jobs._database.get().run("select sent_by from joblane.task_signals where task_id = 't'")
    assert sent_by == "url"


def check_ends(jobs: JobTester, send: Send) -> None:
    button, open_ = asked(jobs, "ended")
    jobs.client.cancel("ended")
    _, exact = asked(jobs, "full")
    assert (send("POST", button).status, send("POST", open_, b"1").status) == (410, 410)
    jobs._database.get().run("delete from joblane.tasks where id = 'ended'")
    assert send("POST", button).status == 410
    assert (send("POST", exact, FULL).status, send("POST", exact, FULL).status) == (200, 200)
    jobs.drain()
    assert jobs.task("full").result == json.loads(FULL)


CHECKS = (check_scans, check_other_methods, check_forged, check_answers, check_ends)
