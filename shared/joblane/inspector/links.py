"""Links into the AWS console. None without a region, and none if AWS is an emulator."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from urllib.parse import quote

from joblane.inspector.stage.aws import is_emulator

AROUND = timedelta(minutes=5)
"""Clocks differ, and a log line arrives after the event that it reports."""


def log_group_link(region: str, group: str) -> str | None:
    """A link to one log group in CloudWatch Logs. The name is encoded twice, with ``$`` for ``%``."""
    if (console := _console(region)) is None:
        return None
    name = quote(quote(group, safe=""), safe="").replace("%", "$")
    return f"{console}#logsV2:log-groups/log-group/{name}"


def dashboard_link(region: str, name: str) -> str | None:
    """A link to a dashboard of CloudWatch."""
    return (console := _console(region)) and f"{console}#dashboards/dashboard/{quote(name, safe='')}"


def logs_link(region: str, group: str, text: str, since: datetime, until: datetime | None) -> str | None:
    """A link to a CloudWatch Logs Insights query over one log group, for the lines with ``text``.

    ``until`` None: the time at which the link is made. The console reads the query in a notation of its own: objects
    are ``~(name~value~…)``; strings begin with ``'`` and have ``*`` for the ``%`` of a percent encoding; the whole is
    percent-encoded once, and once more with ``$`` for ``%``.
    """
    if (console := _console(region)) is None:
        return None
    quoted = text.replace("\\", "\\\\").replace('"', '\\"')
    query = f'fields @timestamp, @message\n| filter @message like "{quoted}"\n| sort @timestamp asc\n| limit 1000'
    start, end = (_text(_iso(at)) for at in (since - AROUND, (until or datetime.now(UTC)) + AROUND))
    detail = (
        f"~(end~{end}~start~{start}~timeType~{_text('ABSOLUTE')}~tz~{_text('UTC')}"
        f"~editorString~{_text(query)}~source~(~{_text(group)}))"
    )
    fragment = quote(f"?queryDetail={_percent(detail)}", safe="*").replace("%", "$")
    return f"{console}#logsV2:logs-insights{fragment}"


def _console(region: str) -> str | None:
    if not region or is_emulator():
        return None
    return f"https://{region}.console.aws.amazon.com/cloudwatch/home?region={region}"


def _text(value: str) -> str:
    return "'" + quote(value, safe="").replace("~", "%7E").replace("%", "*")


def _percent(value: str) -> str:
    """Percent-encode, including the tilde and excluding the asterisk."""
    return quote(value, safe="*").replace("~", "%7E")


def _iso(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
