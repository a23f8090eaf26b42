"""Faults in the scripts of the page, each of which a test of the page must find."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Error
from starlette.responses import Response
from starlette.staticfiles import StaticFiles

from tests.browser import test_page as tests
from tests.browser.conftest import Visitor
from tests.pages import ROOT

STATIC = ROOT / "shared" / "joblane" / "page" / "static"
PATIENCE_MS = 3_000
Test = Callable[[Callable[..., Visitor]], None]

PLANTS: dict[str, tuple[str, str, str, Test]] = {
    "a refresh while the reader types": (
        "page.js", "(part.contains(document.activeElement) && typing(document.activeElement))", "false",
        tests.test_a_part_with_selected_rows_or_a_field_in_use_is_not_refreshed,
    ),
    "a refresh with selected rows": (
        "page.js", ", td.select input:checked", "",
        tests.test_a_part_with_selected_rows_or_a_field_in_use_is_not_refreshed,
    ),
    "an answer that comes after the first selected row": (
        "page.js", "if (busy(event.target)) event.detail.shouldSwap = false;", "",
        tests.test_a_part_with_selected_rows_or_a_field_in_use_is_not_refreshed,
    ),
    "no box that selects all after a refresh": (
        "page.js", "    show();\n    const announcement", "    const announcement",
        tests.test_a_part_with_selected_rows_or_a_field_in_use_is_not_refreshed,
    ),
    "no word that the refresh waits": (
        "page.js", '? ", waits for your form" : ""', '? "" : ""',
        tests.test_a_part_with_selected_rows_or_a_field_in_use_is_not_refreshed,
    ),
    "a refresh of a hidden page": (
        "page.js", "    document.hidden ||\n", "", tests.test_a_hidden_page_is_refreshed_only_when_it_is_shown,
    ),
    "no refresh of a page that is shown again": (
        "page.js", '"visibilitychange"', '"never"', tests.test_a_hidden_page_is_refreshed_only_when_it_is_shown,
    ),
    "a sign of life that stands still": (
        "page.js", "  setInterval(() => {\n    showLife();", "  setInterval(() => {",
        tests.test_the_refresh_is_chosen_for_every_page_of_the_browser,
    ),
    "a timer that the choice does not stop": (
        "page.js", "(isTimer && choice?.value)", "false",
        tests.test_the_refresh_is_chosen_for_every_page_of_the_browser,
    ),
    "a refresh of a page without a part": (
        "page.js", "if (seconds && part() && ", "if (seconds && ",
        tests.test_the_refresh_is_chosen_for_every_page_of_the_browser,
    ),
    "an age by the browser's clock": (
        "page.js", "(performance.now() - updatedAt)", "(Date.now() - Date.parse(serverNow))",
        tests.test_a_page_left_open_over_a_sign_out_a_wrong_answer_and_a_deploy_is_never_blank,
    ),
    "a stale page by the browser's clock": (
        "page.js", "${serverNow.slice(11, 19)}Z: ${problem}", "${new Date().toISOString().slice(11, 19)}Z: ${problem}",
        tests.test_a_page_left_open_over_a_sign_out_a_wrong_answer_and_a_deploy_is_never_blank,
    ),
    "a stale page with a sign of life": (
        "page.js", 'life.classList.toggle("stale", !document.getElementById("stale").hidden);', "",
        tests.test_a_page_left_open_over_a_sign_out_a_wrong_answer_and_a_deploy_is_never_blank,
    ),
    "a sign-in in place of the page": (
        "page.js", """!/ id="live"/.test(text)""", "false",
        tests.test_a_page_left_open_over_a_sign_out_a_wrong_answer_and_a_deploy_is_never_blank,
    ),
    "no word of a session that has ended": (
        "page.js", "status === 401", "status === 418",
        tests.test_a_page_left_open_over_a_sign_out_a_wrong_answer_and_a_deploy_is_never_blank,
    ),
    "the old script over the page of a deploy": (
        "page.js", "filesOf(text) !== FILES", "false",
        tests.test_a_page_left_open_over_a_sign_out_a_wrong_answer_and_a_deploy_is_never_blank,
    ),
    "stale for ever": (
        "page.js", 'document.getElementById("stale").hidden = true;', "",
        tests.test_a_stale_page_says_so_until_it_is_refreshed,
    ),
    "saved filters of another version stop the script": (
        "saved.js", "return [];", "throw new Error();", tests.test_a_filter_is_saved_by_a_name_and_forgotten,
    ),
    "the name of a saved filter is HTML": (
        "saved.js", "{ textContent: one.name }", "{ innerHTML: one.name }",
        tests.test_a_filter_is_saved_by_a_name_and_forgotten,
    ),
    "a saved filter is saved again": (
        "saved.js", "!query || kept.some((one) => one.query === query)", "!query",
        tests.test_a_filter_is_saved_by_a_name_and_forgotten,
    ),
    "a forgotten filter stays": (
        "saved.js", "write(read().filter((other) => other.name !== one.name))", "draw()",
        tests.test_a_filter_is_saved_by_a_name_and_forgotten,
    ),
    "a scroll takes the cursor from the keys": (
        "charts.js", "(keyed ? show(keyed, shown, tip.textContent) : hide())", "hide()",
        tests.test_one_cursor_moves_through_all_charts_by_pointer_and_keys,
    ),
    "followed logs do not end": (
        "page.js", 'document.querySelector("#live[hx-get]")', 'document.querySelector("#live")',
        tests.test_the_refresh_is_chosen_for_every_page_of_the_browser,
    ),
}  # fmt: skip
"""Fault → the script, a part of it and the fault in its place, and the test that finds it. None changes the stage."""


@pytest.mark.plants
@pytest.mark.parametrize("plant", PLANTS)
def test_a_planted_fault_is_found(visit: Callable[..., Visitor], monkeypatch: pytest.MonkeyPatch, plant: str) -> None:
    name, part, fault, finds = PLANTS[plant]
    script, visitors, serve = (STATIC / name).read_text(), list[Visitor](), StaticFiles.get_response
    assert script.count(part) == 1

    async def planted(files: StaticFiles, path: str, scope: Any) -> Response:
        if path != name:
            return await serve(files, path, scope)
        return Response(script.replace(part, fault), media_type="text/javascript")

    def impatient(*given: Any, **options: Any) -> Visitor:
        visitors.append(visitor := visit(*given, **options))
        visitor.context.set_default_timeout(PATIENCE_MS)
        return visitor

    monkeypatch.setattr(StaticFiles, "get_response", planted)
    with pytest.raises((AssertionError, Error)):
        _run(finds, impatient, visitors)
    for visitor in visitors:
        visitor.troubles.clear()


def _run(test: Test, visit: Callable[..., Visitor], visitors: list[Visitor]) -> None:
    test(visit)
    assert [visitor.troubles for visitor in visitors if visitor.troubles] == []
