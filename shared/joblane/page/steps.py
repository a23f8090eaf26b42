"""Steps of every view: read the form, render a page, redirect to the next page, which shows a notice once."""

from __future__ import annotations

import secrets
from collections import OrderedDict
from typing import Any

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from joblane.page.filters import Form
from joblane.page.inspectors import Desk
from joblane.page.rendering import query, render

KEPT = 100
"""Notices that are kept until their page is requested."""


def desk(request: Request) -> Desk:
    """The inspectors for the request: of the person who is signed in, or of the page."""
    found: Desk = getattr(request.state, "desk", None) or request.app.state.desk
    return found


def form(request: Request) -> Form:
    """The form of an action, which :class:`~joblane.page.security.Guard` has read and checked."""
    return Form(request.state.form)


def page(request: Request, template: str, status: int = 200, **values: Any) -> Response:
    """A page, with the notice of the previous action."""
    notice = request.app.state.notices.pop(request.query_params.get("note"))
    return render(request, template, status, notice=notice, **values)


def redirect(request: Request, path: str, notice: str, **parameters: Any) -> Response:
    """Redirect to a page after an action, so that loading the page again does not repeat the action."""
    note = request.app.state.notices.put(notice)
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
