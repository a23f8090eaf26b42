"""A person that the stage's page acts for, on its way to the control API.

The page has verified the person. The control API believes it only from the role of the page's function.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass

from joblane.inspector.errors import RoleError
from joblane.inspector.permission import Permission

HEADER = "X-Joblane-Person"
PAGE_ROLE = "JOBLANE_PAGE_ROLE"
"""Variable with the beginning of the ARN of the page's role in a session. It is not set without a page."""
MAX_NAME = 500


@dataclass(frozen=True, slots=True)
class Person:
    """``name``: for the audit. ``role``: what the person may do; each role includes those before it."""

    name: str
    role: Permission

    def may(self, permission: Permission) -> bool:
        roles = list(Permission)
        return roles.index(permission) <= roles.index(self.role)

    def check(self, operation: str, permission: Permission) -> None:
        """Raise :class:`RoleError` if the role of the person does not include ``permission``."""
        if not self.may(permission):
            raise RoleError(operation, self.role, permission)

    def header(self) -> str:
        """The value of :data:`HEADER`."""
        text = json.dumps({"name": self.name, "role": self.role}, ensure_ascii=False)
        return base64.urlsafe_b64encode(text.encode()).decode()

    @classmethod
    def of_header(cls, text: str) -> Person:
        """Read a header. Raises ValueError."""
        try:
            found = json.loads(base64.b64decode(text, altchars=b"-_", validate=True))
            name, role = found["name"], Permission(found["role"])
        except (LookupError, TypeError) as error:
            raise ValueError("a name and a role are required") from error
        if not isinstance(name, str) or not name.isprintable() or not 0 < len(name) <= MAX_NAME:
            raise ValueError(f"a name of 1 to {MAX_NAME} printable characters is required")
        return cls(name, role)
