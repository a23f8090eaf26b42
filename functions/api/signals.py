"""The route of the addresses of signals. The token in the address takes the place of a caller."""

from __future__ import annotations

import base64
from typing import Any

from aws_lambda_powertools.event_handler import Response
from aws_lambda_powertools.event_handler.api_gateway import Router

from functions.api.storage import jobs
from joblane.client.signal_route import answer

router = Router()


@router.route("/signals/<token>", method=["GET", "HEAD", "POST"], include_in_schema=False)
def signal(token: str) -> Response[Any]:
    event = router.current_event
    text = event.body or ""
    body = base64.b64decode(text) if event.is_base64_encoded else text.encode("utf-8", "surrogatepass")
    done = answer(jobs(), event.http_method, token, body, event.headers.get("accept"))
    return Response(done.status, body=done.body, headers=dict(done.headers))
