"""Looking a deployment over: is all there that has to be, and on?

One part after the other, and what cannot be asked is told in its place: no part keeps another from being looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from pg8000.exceptions import Error as PostgresError

from joblane.errors import sqlstate, text_of
from joblane.inspector.scope import Scope
from joblane.inspector.stage import doctor_aws, doctor_record
from joblane.inspector.stage.aws import is_emulator
from joblane.inspector.unavailable import DENIED, MISSING
from joblane.inspector.views import Check, Grade

ORDER = (Grade.BAD, Grade.WARNING, Grade.UNKNOWN, Grade.GOOD)

Part = Callable[["Scope"], Iterable[Check]]


def checks(scope: Scope) -> tuple[Check, ...]:
    """Worst first."""
    found = [*_record(scope)]
    for what, permission, part in doctor_aws.PARTS:
        found += _asked(scope, what, permission, part)
    return tuple(sorted(found, key=lambda one: ORDER.index(one.grade)))


def _record(scope: Scope) -> Iterator[Check]:
    """All parts of the record; where it is away, that alone. What migrations that are missing would make is not missed
    once more."""
    unmigrated = False
    for what, part in doctor_record.PARTS:
        try:
            found = list(part(scope))
            unmigrated = unmigrated or any(one.do == doctor_record.MIGRATE for one in found)
            yield from found
        except (PostgresError, OSError) as error:
            scope.database.drop()
            if sqlstate(error) in MISSING:
                if not unmigrated:
                    lacks = f"the database lacks what its migrations have made: {text_of(error)}"
                    yield Check(Grade.BAD, what, lacks, "was it removed by hand? Bring it back from a backup")
                return
            where = "is the local stack up (`make status`), is the cluster, does the network let this in?"
            yield Check(Grade.BAD, what, f"the database cannot be asked: {text_of(error)}", where)
            return


def _asked(scope: Scope, what: str, permission: str, part: Part) -> list[Check]:
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        found = list(part(scope))
        return [one for one in found if one.grade is not Grade.GOOD] or found
    except ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", ""))
        do = f"allow {permission}" if code in DENIED else "ask again"
        return [Check(Grade.UNKNOWN, what, f"AWS answers {error.operation_name} with {code}", do)]
    except BotoCoreError as error:
        do = "check credentials, region, and that the network lets AWS's addresses be reached"
        if is_emulator():
            do = "is the local stack up? `make status` says, `make up` starts it"
        return [Check(Grade.UNKNOWN, what, f"AWS cannot be asked: {str(error).rstrip('.')}", do)]
