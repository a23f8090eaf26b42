"""Rules on the roles of an existing database: the migration of a deploy must be able to give the functions their role.

The migration may log in as another role than ``DATABASE_URL`` here. Its name is known only if it is in the template.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from joblane.cdk.preflight.findings import Finding, note, refused
from joblane.cdk.templates import Template, of_type, variables

# From PostgreSQL 16 a role with CREATEROLE grants only roles that it has with ADMIN OPTION. On RDS rds_superuser may
# grant rds_iam. Source: PostgreSQL, *CREATE ROLE*; RDS, *Creating a database account using IAM authentication*.
READ = """
select r.rolname, to_regrole(quote_ident($1::text)) is not null, to_regrole('rds_iam') is not null,
       coalesce(pg_has_role(to_regrole(quote_ident($1::text)), to_regrole('rds_iam'), 'member'), false),
       r.rolsuper or coalesce(pg_has_role(r.oid, to_regrole('rds_superuser'), 'member'), false), r.rolcreaterole,
       exists (select from pg_auth_members m
                where m.roleid = to_regrole('rds_iam') and m.member = r.oid and m.admin_option),
       has_database_privilege(r.oid, current_database(), 'CREATE') or to_regnamespace('joblane') is not null
  from pg_roles r where r.rolname = coalesce($2::name, current_user)
"""


@dataclass(frozen=True)
class Wanted:
    """The ``user`` of the functions, by IAM or by password, and the ``role`` that grants its rights; None: unknown."""

    user: str
    by_iam: bool
    role: str | None

    @classmethod
    def of(cls, templates: Mapping[str, Template]) -> Wanted | None:
        """Return what the migration of these templates does; None if it grants nothing."""
        for template in templates.values():
            for _, function in of_type(template, "AWS::Lambda::Function"):
                given = variables(function)
                if user := given.get("DATABASE_USER"):
                    url = given["DATABASE_URL"]
                    role = urlsplit(url).username if isinstance(url, str) else None
                    return cls(user, given.get("DATABASE_USER_LOGIN") == "iam", role)
        return None


@dataclass(frozen=True)
class Roles:
    """The migrating ``role``, or that of ``DATABASE_URL`` if its name is unknown, and the state of the wanted user.

    ``has_iam``: the server has the role rds_iam. ``all_rights``: ``role`` is a superuser, also of RDS.
    """

    role: str
    exists: bool
    has_iam: bool
    is_member: bool
    all_rights: bool
    may_create: bool
    may_grant: bool
    may_own: bool


def roles(wanted: Wanted, found: Roles | None) -> Iterator[Finding]:
    """Find what the migration cannot do. ``found`` None: the server has no role ``wanted.role``."""
    if found is None:
        yield refused("database role", f"the migration logs in as {wanted.role}, which does not exist", "create it")
        return
    known = wanted.role is not None
    find = refused if known else note
    who = found.role if known else f"{found.role}, the role of DATABASE_URL,"
    otherwise = "" if known else "; if the migration logs in as another role, check that one"
    if not found.may_own:
        yield find(
            "database role",
            f"{who} may not create the schema joblane",
            f"grant create on database, or let the owner of the database migrate{otherwise}",
        )
    if not wanted.by_iam:
        if not found.exists:
            yield refused(
                f"database role {wanted.user}",
                "the deploy grants it rights, and it does not exist",
                "create it with the password in its secret",
            )
        return
    creates, grants = not found.exists, found.has_iam and not found.is_member
    if found.all_rights or ((not creates or found.may_create) and (not grants or found.may_grant)):
        return
    iam = f" grant rds_iam to {wanted.user};" if grants else ""
    create = f" create role {wanted.user} login;" if creates else ""
    lacks = "create it" if creates and not found.may_create else "grant it rds_iam"
    yield find(
        f"database role {wanted.user}",
        f"{who} may not {lacks}, and the deploy would fail in the migration",
        f"let an administrator run:{create}{iam}{otherwise}",
    )
