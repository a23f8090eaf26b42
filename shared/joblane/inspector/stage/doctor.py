"""The checks of a deployment: all required parts exist and are enabled, and the work goes well.

A part that cannot be checked is reported as unknown, and the other parts are still checked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from pg8000.exceptions import Error as PostgresError

from joblane.errors import NOT_IN_DEV, sqlstate, text_of
from joblane.inspector.scope import Scope
from joblane.inspector.stage import doctor_aws, doctor_database, doctor_work
from joblane.inspector.stage.aws import is_emulator
from joblane.inspector.unavailable import DENIED, MISSING
from joblane.inspector.views import Check, Grade
from joblane.record.driver.connection import INSUFFICIENT_PRIVILEGE, LOCK_NOT_AVAILABLE

ORDER = (Grade.BAD, Grade.WARNING, Grade.UNKNOWN, Grade.GOOD)
UNREACHABLE = "check that the local stack (`joblane status`) or the cluster runs, and that the network allows access"
RIGHTS = "if the functions log in with this role, deploy again, which grants its rights; otherwise use their role"

Part = Callable[["Scope"], Iterable[Check]]


def checks(scope: Scope) -> tuple[Check, ...]:
    """All checks, worst first."""
    found = [*checks_of_database(scope)]
    for what, permission, part in doctor_aws.PARTS:
        found += _aws(scope, what, permission, part)
    return tuple(sorted(found, key=lambda check: ORDER.index(check.grade)))


def checks_of_database(scope: Scope) -> Iterator[Check]:
    """All checks of the database. If it is unavailable, that is the only finding; missing tables are not reported in
    addition to missing migrations, and what is missing in the schema is reported once."""
    is_broken = False
    for what, part in (*doctor_database.PARTS, *doctor_work.PARTS):
        try:
            found = list(part(scope))
            yield from found
            is_broken = is_broken or (part is doctor_database.schema and any(each.grade is Grade.BAD for each in found))
        except (PostgresError, OSError) as error:
            scope.database.drop()
            if sqlstate(error) in MISSING:
                if not is_broken:
                    lacks = f"the database lacks a table, column or function of its migrations: {text_of(error)}"
                    yield Check(Grade.BAD, what, lacks, "was it removed by hand? Restore it from a backup")
                return
            if sqlstate(error) == INSUFFICIENT_PRIVILEGE:
                yield Check(Grade.UNKNOWN, what, f"this role may not check it: {text_of(error)}", RIGHTS)
                if part is doctor_database.schema:
                    return
                continue
            if sqlstate(error) == LOCK_NOT_AVAILABLE:
                do = "end the transaction that holds the lock: pg_blocking_pids() finds it"
                yield Check(Grade.BAD, what, f"a table is locked: {text_of(error)}", do)
                return
            problem = f"the database cannot be reached: {text_of(error)}"
            yield Check(Grade.BAD, what, problem, doctor_database.advice(error) or UNREACHABLE)
            return


def _aws(scope: Scope, what: str, permission: str, part: Part) -> list[Check]:
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        found = list(part(scope))
        return [check for check in found if check.grade is not Grade.GOOD] or found
    except ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", ""))
        if code == NOT_IN_DEV:
            return [Check(Grade.GOOD, what, "`joblane dev` has none of it", "")]
        do = f"allow {permission}" if code in DENIED else "run this again"
        return [Check(Grade.UNKNOWN, what, f"AWS answers {error.operation_name} with {code}", do)]
    except BotoCoreError as error:
        do = "check credentials and region, and that the network allows access to AWS"
        if is_emulator():
            do = "check that the local stack runs: `joblane status` shows it, `joblane up` starts it"
        return [Check(Grade.UNKNOWN, what, f"AWS cannot be reached: {str(error).rstrip('.')}", do)]
