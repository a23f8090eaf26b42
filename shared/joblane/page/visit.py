"""What every view does: read the form, show a page, go on to the next."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from joblane.page.desk import Desk
from joblane.page.filters import Form
from joblane.page.rendering import query, render


def desk(request: Request) -> Desk:
    return request.app.state.desk  # type: ignore[no-any-return]


def form(request: Request) -> Form:
    """Of an action; :class:`~joblane.page.security.Guard` has read and checked it."""
    return Form(request.state.form)


def page(request: Request, template: str, status: int = 200, **values: Any) -> Response:
    """With what the action before has left to be told."""
    notice = request.app.state.notices.take(request.query_params.get("note"))
    return render(request, template, status, notice=notice, **values)


def go(request: Request, path: str, notice: str, **parameters: Any) -> Response:
    """After an action: on to a page, which loading again does not repeat."""
    note = request.app.state.notices.leave(notice)
    return RedirectResponse(f"{path}?{query(parameters, note=note)}", status_code=303)
