"""Roles in a tenant, and their ranks."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING
from uuid import UUID

from sqlalchemy import or_, select

from saas.tables import roles

if TYPE_CHECKING:
    from sqlalchemy.orm import Session


class Rank(IntEnum):
    """The rank of a role, in ascending order. ``GUEST``: signed in, without a role in a tenant."""

    GUEST = 0
    VIEWER = 1
    MEMBER = 2
    ADMIN = 3
    OWNER = 4


RANKS = {rank.name.lower(): rank for rank in Rank if rank is not Rank.GUEST}
"""Rank by name of a role, in the database or in a claim."""
WORD = re.compile(r"[a-z]+")


@dataclass(frozen=True, slots=True)
class Role:
    id: UUID
    name: str
    rank: Rank


def rank_of(*names: str) -> Rank | None:
    """Return the highest rank among ``names``, or None if none of them is the name of a rank."""
    return max((RANKS[name.lower()] for name in names if name.lower() in RANKS), default=None)


def load(session: Session, role_id: UUID, tenant_id: UUID) -> Role | None:
    """Return a role that can be granted in a tenant, which is the tenant's own or a system role.

    Its rank is the highest of its type, its name, and the words of its name, because a claim may be a list of names
    with spaces between them. A role without any of these counts as the highest rank, because it may mean anything.
    """
    row = session.execute(
        select(roles.c.name, roles.c.type).where(
            roles.c.id == role_id, or_(roles.c.tenant_id == tenant_id, roles.c.tenant_id.is_(None))
        )
    ).one_or_none()
    if row is None:
        return None
    rank = rank_of(row.type, row.name, *WORD.findall(row.name.lower())) if _is_plain(row.name) else None
    return Role(role_id, row.name, Rank.OWNER if rank is None else rank)


def _is_plain(name: str) -> bool:
    """Return true if JSON writes the name unchanged. Another name could contain any word in escaped form."""
    return json.dumps(name, ensure_ascii=False) == f'"{name}"'
