"""Roles in a tenant, and which of them is above which."""

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
    """What a role amounts to, in order. ``GUEST``: signed in, without a role in a tenant."""

    GUEST = 0
    VIEWER = 1
    MEMBER = 2
    ADMIN = 3
    OWNER = 4


RANKS = {rank.name.lower(): rank for rank in Rank if rank is not Rank.GUEST}
"""By the name that a role or a claim has."""
WORD = re.compile(r"[a-z]+")


@dataclass(frozen=True, slots=True)
class Role:
    id: UUID
    name: str
    rank: Rank


def rank_of(*names: str) -> Rank | None:
    """The highest rank among names; None where none of them is one."""
    return max((RANKS[name.lower()] for name in names if name.lower() in RANKS), default=None)


def load(session: Session, role_id: UUID, tenant_id: UUID) -> Role | None:
    """A role that can be given in a tenant: its own, or one of the system.

    Its rank is that of its type, its name, or a word of its name, whichever is highest: claims write a list of names
    with spaces between them. One that has none of these may stand for anything, so it counts as the highest.
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
    """Whether JSON writes the name as it is. Another could hold any word, escaped."""
    return json.dumps(name, ensure_ascii=False) == f'"{name}"'
