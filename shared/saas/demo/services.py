"""The data of the demo: two tenants with their users, and the services that initialise tenants."""

from __future__ import annotations

import json
import threading
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, ClassVar, Self
from uuid import UUID, uuid4

from joblane.local.errors import PortBusyError
from joblane.local.ports import HOST, port_is_free

if TYPE_CHECKING:
    from types import TracebackType

    from sqlalchemy.orm import Session

FAILURES = 2
"""Requests for Globex that the second service refuses."""


@dataclass(frozen=True)
class People:
    """Ids of the demo's tenants, user and invitation. ``nobody`` is a tenant that does not exist."""

    acme: UUID = field(default_factory=uuid4)
    globex: UUID = field(default_factory=uuid4)
    nobody: UUID = field(default_factory=uuid4)
    user: UUID = field(default_factory=uuid4)
    invitation: UUID = field(default_factory=uuid4)

    def sign_up(self, session: Session) -> None:
        """Insert both tenants, Acme's users and invitation, and an expired system user, without a commit."""
        from sqlalchemy import insert

        from saas.tables import roles, system_users, tenant_members, tenants, user_addresses, user_invitations

        mark, role, now = self.acme.hex[:8], uuid4(), datetime.now(UTC)
        owner = str(self.user)
        session.execute(
            insert(tenants),
            [
                {"id": self.acme, "name": "Acme Ltd", "slug": f"acme-{mark}", "created_by": owner},
                {"id": self.globex, "name": "Globex", "slug": f"globex-{mark}", "created_by": owner},
            ],
        )
        session.execute(insert(roles), {"id": role, "name": "member", "type": "tenant", "tenant_id": self.acme})
        session.execute(
            insert(tenant_members),
            [{"tenant_id": self.acme, "user_id": user, "role_id": role} for user in (owner, "ada", "grace", "edsger")],
        )
        session.execute(insert(user_addresses), {"user_id": owner, "email": "owner@acme.example"})
        session.execute(
            insert(user_invitations),
            {
                "id": self.invitation,
                "tenant_id": self.acme,
                "email": "new.user@acme.example",
                "invited_by": owner,
                "role_id": role,
                "token": f"demo-{mark}",
                "expires_at": now + timedelta(days=7),
            },
        )
        session.execute(
            insert(system_users),
            {
                "name": f"importer-{mark}",
                "application_name": "importer",
                "email": f"importer-{mark}@acme.example",
                "user_id": f"importer-{mark}",
                "service_type": "integration",
                "expires_at": now - timedelta(hours=1),
                "created_by": owner,
            },
        )


class Services:
    """Two HTTP services on this machine. The second answers the first two requests for Globex with 503."""

    def __init__(self, port: int) -> None:
        self._port = port

    @property
    def settings(self) -> dict[str, str]:
        """Settings with which the functions find the services."""
        return {"TENANT_INIT_SERVICES": f"http://{HOST}:{self._port}/billing,http://{HOST}:{self._port}/files"}

    def __enter__(self) -> Self:
        if not port_is_free(self._port):
            raise PortBusyError("The demo's services", self._port, "JOBLANE_DEMO_PORT")
        self._server = ThreadingHTTPServer((HOST, self._port), _Service)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Service(BaseHTTPRequestHandler):
    requests: ClassVar[Counter[str]] = Counter()

    def do_POST(self) -> None:
        tenant = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        status = 200
        if self.path.startswith("/files") and tenant["tenant_name"] == "Globex":
            self.requests[tenant["tenant_id"]] += 1
            status = 503 if self.requests[tenant["tenant_id"]] <= FAILURES else 200
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_line: Any) -> None:
        """Log nothing: the demo's table shows the results."""
