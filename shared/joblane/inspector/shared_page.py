"""The configuration of the function, which the CDK writes into a variable of its environment. It has no secret."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass

from joblane.inspector.permission import Permission

VARIABLE = "JOBLANE_PAGE"
KEY_LENGTH = 64
"""Letters and digits of the key of sessions: more than 256 bits."""


@dataclass(frozen=True, slots=True)
class Configuration:
    """``url``: of the page. ``control_url``: of the control API. ``key_secret``: ARN of the secret with the key of
    sessions. ``client_secret``: ARN of a secret or a parameter; None: the client is public. ``groups``: role → the
    values of ``roles_claim`` that give it."""

    stage: str
    prefix: str
    url: str
    control_url: str
    key_secret: str
    issuer: str
    client_id: str
    client_secret: str | None
    scopes: tuple[str, ...]
    name_claim: str
    roles_claim: str
    groups: Mapping[Permission, tuple[str, ...]]
    session_hours: int

    def to_text(self) -> str:
        """The value of :data:`VARIABLE`."""
        fields = {name: getattr(self, name) for name in self.__slots__}
        return json.dumps(fields, sort_keys=True)

    @classmethod
    def of_text(cls, text: str) -> Configuration:
        fields = json.loads(text)
        groups = {Permission(role): tuple(names) for role, names in fields.pop("groups").items()}
        return cls(**{**fields, "scopes": tuple(fields["scopes"]), "groups": groups})

    @classmethod
    def of_environment(cls) -> Configuration:
        return cls.of_text(os.environ[VARIABLE])

    def role_of(self, claims: Mapping[str, object]) -> Permission | None:
        """The highest role that the groups of a verified token give; None: no role."""
        given = claims.get(self.roles_claim)
        names = (
            {given}
            if isinstance(given, str)
            else {each for each in given if isinstance(each, str)}
            if isinstance(given, list)
            else set()
        )
        return next((role for role in reversed(Permission) if names & {*self.groups.get(role, ())}), None)

    def name_of(self, claims: Mapping[str, object]) -> str:
        """The name of a verified person in the audit. It ends with the subject, which the issuer gives to one person
        only."""
        subject, name = str(claims["sub"]), claims.get(self.name_claim)
        unverified = self.name_claim == "email" and claims.get("email_verified") in (False, "false")
        if not isinstance(name, str) or not name.isprintable() or not 0 < len(name) <= MAX_NAME or unverified:
            return subject
        return subject if name == subject else f"{name} ({subject})"


MAX_NAME = 200
