"""The start page: its first line, the rows of types, the filter by queue, the tab, the wall, and the kept answer."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Event

import pytest
from starlette.testclient import TestClient

from joblane.inspector.filter import PauseScope
from joblane.inspector.views import Check, Grade, Now, Trouble
from joblane.names import Queue
from joblane.page.rendering import rate_of, share_of
from joblane.page.views.now import Latest
from tests.builders import views
from tests.inspector import FakeInspector
from tests.unit.page.conftest import Post

PLANTED = "<script>alert(1)</script>"


def shown(browser: TestClient, path: str = "/") -> str:
    answer = browser.get(path)
    assert answer.status_code == 200
    return answer.text


def test_the_first_line_is_followed_by_causes_commands_and_pages(browser: TestClient) -> None:
    found = shown(browser)
    line, first = found.index("3 things need you, and 1 is urgent."), found.index("limit stripe")
    assert line < first < found.index("queue low") < found.index("invoice:charge")
    assert 'href="/limits/show?name=stripe"' in found
    assert "<code>joblane limits reset stripe</code> returns to the declared values" in found
    # and the runs of each type say how many of them failed, also in words
    assert 'aria-label="invoice:charge: 174 runs in 60 minutes, 3 failed, up to 2 a minute"' in found


@pytest.mark.parametrize(
    ("grade", "number", "title", "icon"),
    [
        (Grade.BAD, 2, "(2) Now · local · Joblane", "icon-bad.svg"),
        (Grade.WARNING, 1, "(1) Now · local · Joblane", "icon-warning.svg"),
        (Grade.UNKNOWN, 1, "(1) Now · local · Joblane", "icon-warning.svg"),
        (Grade.GOOD, 0, "Now · local · Joblane", "icon.svg"),
    ],
)
@pytest.mark.parametrize("path", ["/", "/?wall=1"])
def test_the_tab_has_the_number_and_the_worst_grade(
    browser: TestClient, stub: FakeInspector, grade: Grade, number: int, title: str, icon: str, path: str
) -> None:
    stub.given(now=replace(views.now(), trouble=Trouble(views.NOW, (Check(grade, "it", "found"),) * number)))
    found = shown(browser, path)
    assert f"<title>{title}</title>" in found
    assert f'data-title="{title}"' in found
    assert f'<link rel="icon" href="/static/{icon}?' in found
    assert f'data-icon="static/{icon}?' in found
    assert ("All is well" in found) is (number == 0)


def test_a_queue_is_a_filter_with_its_charts_and_the_marks_that_concern_it(
    browser: TestClient, stub: FakeInspector
) -> None:
    stub.given(marked=[views.mark(kind="limit", text="limit stripe set", target="limit:stripe")])
    assert "invoice:charge" not in (found := shown(browser, "/?queue=default"))
    assert "data:export" in found
    assert "limit stripe set" in found
    assert stub.called("marks")[0][0] == (PauseScope.QUEUE, (Queue.DEFAULT,))
    assert "limit stripe set" not in shown(browser)
    assert browser.get("/?queue=other").status_code == 400
    assert browser.get("/?minutes=241").status_code == 400


def test_the_wall_has_no_menu_and_only_the_types_in_trouble(browser: TestClient) -> None:
    found = shown(browser, "/?wall=1")
    assert '<html lang="en" class="wall">' in found
    assert "<nav" not in found
    assert "<form" not in found
    assert "mail:send" not in found  # paused, and neither failing nor late
    assert "data:export" in found
    assert "/?wall=1" in found  # it refreshes itself


def test_strings_from_outside_are_escaped(browser: TestClient, stub: FakeInspector) -> None:
    need = Check(Grade.BAD, PLANTED, PLANTED, f"`{PLANTED}`", "/limits")
    row = views.type_now(type=PLANTED, pauses=(replace(views.overview().paused[0].pause, reason=PLANTED),), due=1)
    stub.given(now=replace(views.now(), trouble=Trouble(views.NOW, (need,) * 20, 9_980), types=(row,)))
    for path in ("/", "/?wall=1"):
        found = shown(browser, path)
        assert PLANTED not in found
        assert "10,000 things need you" in found


def test_an_answer_serves_several_tabs_for_two_seconds_and_an_action_is_seen_at_once(
    browser: TestClient, stub: FakeInspector, post: Post
) -> None:
    shown(browser)
    shown(browser, "/?queue=default")
    assert len(stub.called("now")) == 1
    answer = post("/pause", scope="queue", name="critical")
    shown(browser, answer.headers["location"])
    assert len(stub.called("now")) == 2


def test_a_kept_answer_is_that_of_the_person_and_ends() -> None:
    now, asked = [0.0], list[str]()
    latest, answer = Latest(lambda: now[0]), views.now()

    def ask(who: str) -> None:
        def call() -> Now:
            asked.append(who)
            return answer

        latest.get((who, 60), call, fresh=False)

    for who, seconds in (("ann", 0.0), ("ann", 1.9), ("bob", 0.0), ("ann", 0.2)):
        now[0] += seconds
        ask(who)
    assert asked == ["ann", "bob", "ann"]
    for number in range(200):
        ask(str(number))
    assert len(latest._found) == 50


def test_a_slow_answer_for_a_person_keeps_no_other_person_waiting() -> None:
    latest, has_asked, may_end = Latest(), Event(), Event()

    def slow() -> Now:
        has_asked.set()
        assert may_end.wait(30)
        return views.now()

    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(latest.get, ("ann", 60), slow, fresh=False)
        assert has_asked.wait(30)
        assert latest.get(("bob", 60), views.now, fresh=False)
        assert not first.done()
        may_end.set()
        assert first.result(30)


@pytest.mark.parametrize(
    ("share", "text"),
    [(0.0, "0 %"), (0.0004, "< 0.1 %"), (0.034, "3.4 %"), (0.5, "50 %"), (0.9999, "> 99.9 %"), (1.0, "100 %")],
)
def test_a_part_is_never_shown_as_nothing_or_all(share: float, text: str) -> None:
    assert share_of(share) == text


def test_rates_and_commands_are_readable() -> None:
    assert [rate_of(each) for each in (0.0, 0.01, 0.25, 12.4, 1234.5)] == ["0", "< 0.1", "0.2", "12", "1,234"]
