"""Reads a stage from the context of ``cdk.json``, and refuses wrong settings by name.

A setting that still holds a name of the examples, such as ``example.com``, is wrong: under this name nothing answers.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from joblane.cdk.errors import StageError
from joblane.cdk.services import budget_problem, dual_stack_problem
from joblane.cdk.settings import apis, events
from joblane.cdk.settings.database import GivenDatabase, OwnDatabase
from joblane.cdk.settings.stage import VERSION, Architecture, Stage
from joblane.cdk.templates import strings
from joblane.errors import DeclarationError
from joblane.tasks import schedule_overrides as schedules
from joblane.tasks.task import Task

MACHINES: Mapping[str, Architecture] = {"amd64": "x86_64", "x86_64": "x86_64", "aarch64": "arm64", "arm64": "arm64"}
"""Names of processor architectures in operating systems → in Lambda."""
RIGHT: Mapping[str, str] = {
    **apis.MEANINGS,
    **events.MEANINGS,
    VERSION: "1 to 64 ASCII characters without spaces are required",
}
"""Pattern of a setting → the value that is right."""
RESERVED = re.compile(r"(^|[@/.])(example\.(com|net|org)|[a-z0-9-]+\.(example|invalid))($|[^a-z0-9.-])", re.IGNORECASE)
"""Names that nobody can own. Source: RFC 2606."""
SECRETS = {"secret", "migration_secret"}
"""Fields with the name or ARN of a secret, which is no address."""
S = TypeVar("S", bound=Stage)


def load_stage(
    name: str,
    stages: object,
    *,
    kind: type[S],
    declared: Iterable[str],
    environ: Mapping[str, str],
    images: Mapping[str, object] | None = None,
) -> S:
    """Return the settings of stage ``name``, as ``kind`` has them.

    ``stages``: the object of ``cdk.json``. ``declared``: the names that tasks declare in ``environment``. A local stage
    takes their values from ``environ`` first. ``images``: they replace images of ``stages``, by their names.
    Raises :class:`StageError`.
    """
    if not isinstance(stages, Mapping) or not stages:
        raise StageError("cdk.json: context.stages: an object with one entry per stage is required")
    if name not in stages:
        raise StageError(f"no stage {name!r} in cdk.json; there are {', '.join(sorted(stages))} (cdk … -c stage=NAME)")
    given = stages[name]
    if not isinstance(given, Mapping):
        raise StageError(f"cdk.json: stage {name!r}: an object of settings is required")
    where, declared = f"cdk.json: stage {name!r}", set(declared)
    if given.get("local") is True:
        given = _of_this_machine(name, given, declared, environ)
    if images:
        of_file = given.get("images", {})
        given = {**given, "images": {**(of_file if isinstance(of_file, Mapping) else {}), **images}}
    stage = make_stage(kind, where, {**given, "name": name}, declared)
    if isinstance(stage.database, GivenDatabase):
        raise StageError(f"{where}: database: kind aurora, rds or existing is required")
    _check_prefix(stage, stages)
    if region := environ.get("CDK_DEFAULT_REGION"):  # the CDK CLI passes that of the credentials
        _check_region(stage, region)
    return stage


def make_stage(kind: type[S], where: str, given: Mapping[str, Any], declared: Iterable[str]) -> S:
    """Return the stage of these settings. ``where``: their origin, for the text of :class:`StageError`."""
    try:
        stage = kind.model_validate(given)
    except ValidationError as error:
        raise StageError(f"{where}: {_describe(error, given)}") from None
    declared = set(declared)
    if unknown := sorted(set(stage.settings) - declared):
        raise StageError(
            f"{where}: settings: no task declares {', '.join(unknown)} in environment=; "
            f"declared are {', '.join(sorted(declared)) or 'none'}"
        )
    return stage


def _check_prefix(stage: Stage, stages: Mapping[str, Any]) -> None:
    """Refuse prefixes by which two stages of one account would share a name or a permission.

    Permissions name queues by ``PREFIX-*``, so no prefix may be the start of another. A local stage is in no account.
    """
    own = f"{stage.prefix}-"
    for name, given in stages.items():
        if stage.local or name == stage.name or not isinstance(given, Mapping) or given.get("local") is True:
            continue
        other = f"{given.get('prefix', Stage.model_fields['prefix'].default)}-"
        if own.startswith(other) or other.startswith(own):
            raise StageError(
                f"cdk.json: stage {stage.name!r}: prefix: {stage.prefix!r} and {other[:-1]!r} of stage {name!r} "
                f"overlap: both would have names {max(own, other, key=len)}…; jobs-{stage.name}, for example, is right"
            )


def _check_region(stage: Stage, region: str) -> None:
    """Refuse zones, keys, images and restored copies outside of the region of the credentials, ``ipv6`` where it is not
    known to work, and a budget that CloudFormation does not know."""
    for wrong in stage.wrong_regions(region):
        raise StageError(f"cdk.json: stage {stage.name!r}: {wrong}")
    if stage.monitoring and stage.monitoring.budget and (problem := budget_problem(region)):
        raise StageError(f"cdk.json: stage {stage.name!r}: monitoring.budget: {problem}")
    if stage.network is None:
        return
    copy = stage.database.restored if isinstance(stage.database, OwnDatabase) else None
    if copy is not None and copy.region != region:
        raise StageError(
            f"cdk.json: stage {stage.name!r}: database.restored.host: it is in {copy.region}, and {region} is the "
            "region of your credentials; restore the copy there"
        )
    for zone in stage.network.availability_zones or ():
        if zone[:-1] != region:
            raise StageError(
                f"cdk.json: stage {stage.name!r}: network.availability_zones: {zone} is not in {region}, the region of "
                f"your credentials; {region}a, for example, is"
            )
    if stage.network.ipv6 and (problem := dual_stack_problem(region)):
        raise StageError(f"cdk.json: stage {stage.name!r}: network.egress: {problem}; set egress to nat")


def _of_this_machine(
    name: str, given: Mapping[str, Any], declared: set[str], environ: Mapping[str, str]
) -> dict[str, Any]:
    url = environ.get("DATABASE_URL")
    if not url:
        raise StageError(
            f"stage {name!r}: DATABASE_URL is not set in the environment; a local stage reads the address of its "
            "database there, for example DATABASE_URL=postgresql://jobs:jobs@127.0.0.1:5432/jobs"
        )
    settings = given.get("settings", {})
    if isinstance(settings, Mapping):  # other types are refused with the other settings
        settings = {**settings, **{key: environ[key] for key in declared if key in environ}}
    return {
        **given,
        "database": {"kind": "local", "url": url},
        "settings": settings,
        "architecture": host_architecture(),
    }


def with_schedules_of(stage: Stage, tasks: Mapping[str, Task[Any, Any]]) -> dict[str, Task[Any, Any]]:
    """Return the tasks with the times that they have in ``stage``. Raises :class:`StageError`."""
    try:
        return schedules.apply_all(tasks, schedules.with_sweep(stage.schedules, stage.sweep_minutes))
    except DeclarationError as error:
        raise StageError(f"cdk.json: stage {stage.name!r}: schedules: {error}") from None


def placeholders(stage: Stage) -> list[str]:
    """Return the settings with such a name, for example ``api.authorizer.issuer``. A local stage has none."""
    given = {} if stage.local else stage.model_dump(mode="json", exclude={"name", "tags"})
    return [
        ".".join(map(str, path)) for path, text in strings(given) if RESERVED.search(text) and not SECRETS & {*path}
    ]


def refuse_placeholders(stage: Stage) -> None:
    """Raise :class:`StageError` with a sentence for each setting with such a name."""
    if found := placeholders(stage):
        raise StageError(
            f"cdk.json: stage {stage.name!r}: {'; '.join(map(sentence, found))}. "
            "For `cdk synth`, `diff` or `ls`, add -c deploys=false"
        )


def sentence(setting: str) -> str:
    return f"{setting}: it still has a name of the examples, under which nothing answers; write your own"


def host_architecture() -> Architecture:
    """Return the architecture of this machine, which also runs the emulator."""
    machine = platform.machine().lower()
    if machine not in MACHINES:
        raise StageError(f"Lambda has no architecture {machine!r}")
    return MACHINES[machine]


def _describe(error: ValidationError, given: Mapping[str, Any]) -> str:
    """Return ``setting: problem`` for each setting, by its path in ``cdk.json``, without values."""
    problems: dict[tuple[str, ...], str] = {}
    for item in error.errors(include_input=False, include_url=False):
        where, value = _path(item, given)
        if item["type"] == "string_type" and isinstance(value, Mapping):
            continue  # a text or an object is allowed, and the object has a problem of its own
        if item["type"] != "model_type" or where not in problems:  # the same with a text
            problems[where] = ", or ".join(filter(None, [problems.get(where), _problem(item)]))
    # a wrong part explains a whole that is incomplete without it
    wholes = {where[:length] for where in problems for length in range(1, len(where))}
    return "; ".join(
        ": ".join(filter(None, [".".join(where), text])) for where, text in problems.items() if where not in wholes
    )


def _path(item: ErrorDetails, given: Any) -> tuple[tuple[str, ...], Any]:
    """Return the place of an error in ``given``, without the names of union members, and the value there."""
    where: list[str] = []
    for part in item["loc"]:
        match given:
            case Mapping() if part in given:
                given = given[part]
            case list() | tuple() if isinstance(part, int) and part < len(given):
                given = given[part]
            case _ if item["type"] != "missing" or part != item["loc"][-1]:
                continue
        where.append(str(part))
    return tuple(where), given


PROBLEMS = {
    "missing": "it is required",
    "extra_forbidden": "there is no such setting here; leave it out",
    "model_type": "an object is required",
    "model_attributes_type": "an object is required",
    "dict_type": "an object is required",
    "tuple_type": "a list is required",
    "too_short": "{min_length} at least are required",
    "too_long": "{max_length} at most are possible",
}
"""Type of an error of pydantic → its sentence, with the values of its context."""


def _problem(item: ErrorDetails) -> str:
    known = item.get("ctx", {})
    kind = str(known.get("discriminator")).strip("'")
    match item["type"]:
        case "union_tag_invalid":
            return f"{kind}: one of {known['expected_tags']} is required"
        case "union_tag_not_found":
            return f"{kind}: it is required"
        case type_ if type_ in PROBLEMS:
            return PROBLEMS[type_].format(**known)
    text = item["msg"].removeprefix("Value error, ").replace("Input should be", "it must be")
    return RIGHT.get(known.get("pattern", ""), text)
