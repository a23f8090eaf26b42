"""HTML from answers: the templates, the functions that they call, the page for errors, and the way to the next page."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from joblane.inspector.durations import stamp
from joblane.inspector.sentences.actions import details_of
from joblane.inspector.sentences.blocks import block_line, blocks_text, cure_of
from joblane.inspector.sentences.failures import obsolete_line, unread_line
from joblane.inspector.sentences.pauses import pause_line
from joblane.inspector.sentences.schedules import a_day, in_words
from joblane.inspector.sentences.stage import earlier_line, live_line, runs_on
from joblane.inspector.shell import argument
from joblane.names import Queue
from joblane.page import navigation, sparkline, timeline
from joblane.page.cells import NOTHING, coded, number, red, short, span, state, table, time_tag, usd
from joblane.record.flow.limit_status import LimitValues
from joblane.record.row.states import State
from joblane.tasks.limit import rate_text, values_text

FOLDER = Path(__file__).parent
STATIC_PATH = "/static/"
ADDRESSES = re.compile(r'(?<=\s)(href|src|action|formaction|hx-get)="/')
"""Addresses in HTML. No escaped value contains a quotation mark."""
UNDO = "\x1f"
"""Stands before the number of the audit entry in a notice whose action can be undone."""
KEPT = 100
"""Notices that are kept until their page is requested."""


def render(request: Request, template: str, status: int = 200, **values: Any) -> Response:
    """A page from a template. ``common`` of the state of the application, and of the request: values that all pages
    show.

    Templates and views name addresses without the page's base, which is added here.
    """
    parameters = [(name, value) for name, value in request.query_params.multi_items() if name != "note"]
    path, areas = request.url.path, request.app.state.common["areas"]
    area, tab = navigation.place(areas, path, request.query_params)
    common = {
        "now": datetime.now(UTC),
        "area": area,
        "tab": tab,
        "here": f"{path}?{query(parameters)}",
        "notice": None,
        "undo": None,
    }
    own = getattr(request.state, "common", {})
    text = TEMPLATES.get_template(template).render({**common, **request.app.state.common, **own, **values})
    return HTMLResponse(ADDRESSES.sub(rf'\1="{base_of(request)}/', text), status_code=status)


def base_of(request: Request) -> str:
    """The base with which the address of the request began."""
    return str(getattr(request.state, "base", ""))


def problem(
    request: Request,
    status: int,
    title: str,
    text: str,
    *,
    back: tuple[str, str] | None = None,
    stranger: bool = False,
) -> Response:
    """A page that says what is wrong and what to do. ``back``: an address and the text of its link.

    ``stranger``: the browser is not signed in, so the page has no navigation.
    """
    return render(request, "problem.html", status, title=title, text=text, back=back, stranger=stranger)


def page(request: Request, template: str, status: int = 200, **values: Any) -> Response:
    """A page, with the notice of the previous action."""
    text = request.app.state.notices.pop(request.query_params.get("note"))
    notice, _, undo = (text or "").partition(UNDO)
    return render(request, template, status, notice=notice, undo=undo, **values)


def redirect(request: Request, path: str, notice: str, *, undo: int | None = None, **parameters: Any) -> Response:
    """Redirect to a page after an action, so that loading the page again does not repeat the action.

    ``undo``: the number of the action's audit entry, if the page offers to undo it.
    """
    note = request.app.state.notices.put(notice if undo is None else f"{notice}{UNDO}{undo}")
    return RedirectResponse(f"{path}?{query(parameters, note=note)}", status_code=303)


class Notices:
    """The notices for pages that are not requested yet, by their keys."""

    def __init__(self) -> None:
        self._texts: OrderedDict[str, str] = OrderedDict()

    def put(self, text: str) -> str:
        """Keep a notice. Returns the key for the next page."""
        key = secrets.token_urlsafe(8)
        self._texts[key] = text
        while len(self._texts) > KEPT:
            self._texts.popitem(last=False)
        return key

    def pop(self, key: str | None) -> str | None:
        return self._texts.pop(key, None) if key else None


# --- Functions for templates ---------------------------------------------------------------------------------------


@cache
def static(name: str) -> str:
    """The address of a static file, with a hash of its content, so that a browser may keep the file."""
    digest = hashlib.sha256((FOLDER / "static" / name).read_bytes()).hexdigest()
    return f"{STATIC_PATH}{name}?v={digest[:12]}"


def values(given: LimitValues) -> str:
    return values_text(given.at_a_time, given.rate)


def share_of(value: float) -> str:
    """A share in percent, never 0 % or 100 % for a part."""
    if 0 < value < 0.001:
        return "< 0.1 %"
    if 0.999 < value < 1:
        return "> 99.9 %"
    return f"{100 * value:.1f} %" if 0 < value < 0.1 else f"{100 * value:.0f} %"


def rate_of(a_minute: float) -> str:
    """A number of runs a minute, with two digits."""
    return f"{a_minute:,.0f}" if a_minute >= 10 or not a_minute else f"{a_minute:.1f}" if a_minute >= 0.1 else "< 0.1"


def as_json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, default=str)


def query(values: Mapping[str, Any] | Sequence[tuple[str, Any]] = (), **more: Any) -> str:
    """The query string of an address, without empty values."""
    pairs = [*(values.items() if isinstance(values, Mapping) else values), *more.items()]
    return urlencode([(name, str(value)) for name, value in pairs if value not in (None, "", ())])


def _environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(FOLDER / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "span": span,
        "stamp": stamp,
        "number": number,
        "usd": usd,
        "as_json": as_json,
        "rate": rate_text,
        "values": values,
        "argument": argument,
        "coded": coded,
        "a_day": a_day,
    }
    made.globals |= {
        "time_tag": time_tag,
        "mark": state,
        "red": red,
        "short": short,
        "nothing": NOTHING,
        "table": table,
        "query": query,
        "static": static,
        "bars": sparkline.bars,
        "heights": sparkline.heights,
        "line_of": sparkline.line,
        "target": sparkline.target,
        "share_of": share_of,
        "rate_of": rate_of,
        "pause_line": pause_line,
        "strip": sparkline.strip,
        "timeline": timeline.of_task,
        "in_words": in_words,
        "block_line": block_line,
        "cure_of": cure_of,
        "blocks_text": blocks_text,
        "live_line": live_line,
        "earlier_line": earlier_line,
        "details_of": details_of,
        "runs_on": runs_on,
        "obsolete_line": obsolete_line,
        "unread_line": unread_line,
        "STATES": tuple(State),
        "QUEUES": tuple(Queue),
    }
    return made


TEMPLATES = _environment()
