"""Deployment: `deploy`, `preflight`, `costs`, `migrate`; and `schema`, for producers in other languages."""

from __future__ import annotations

import json
import os
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from joblane.cli import extras, filters, target, terminal
from joblane.cli.exits import Exit
from joblane.errors import DeclarationError, JobError, text_of
from joblane.local.errors import LocalError
from joblane.project import Project

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from joblane.cdk.costs import Line
    from joblane.cdk.preflight.findings import Finding
    from joblane.cli.rollout import Rollout
    from joblane.inspector.inspector import Inspector

Stage = Annotated[
    str | None, typer.Option(metavar="STAGE", help="Stage of cdk.json; without it, dev.", show_default=False)
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Assembly = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        help="Folder that has the stage's templates. Without it, the command writes them to the folder STAGE in the "
        "`output` folder of cdk.json, by default cdk.out.",
    ),
]
Leave = Annotated[
    str | None,
    typer.Option(
        "--leave",
        metavar="RESOURCE_ID",
        help="Confirm that the stage leaves the restored copy of its database that it uses now, with the tasks there.",
    ),
]

Images = Annotated[
    list[str] | None,
    typer.Option(
        "--image",
        metavar="NAME=ADDRESS",
        help="Address with a digest, which replaces the image NAME of the stage. Repeatable.",
    ),
]


def migrate(
    sql: Annotated[
        bool,
        typer.Option(
            "--sql",
            help="Print the SQL of the missing migrations of DATABASE_URL; without that variable, of all migrations.",
        ),
    ] = False,
) -> None:
    """Bring the database to the newest schema.

    This also registers the declared task types and runs the project's own migrations. The database is that of
    DATABASE_URL, or else that of the local stack. The first run writes the stage's prefix into the schema. After
    that, no other stage can use the schema. Functions and triggers that were changed by hand are restored. If another
    part is missing or changed, the command ends with status 1, changes nothing, and prints the statement for it.
    """
    from joblane import settings
    from joblane.cli.connect import ENVIRONMENT, load_settings

    if sql:
        url = os.environ.get("DATABASE_URL", "").strip() or None
        with _translated_errors(url, ENVIRONMENT, "compare"):
            typer.echo(_sql(url))
        return
    source = load_settings(profile=None, region=None)
    url = settings.database_url()
    with _translated_errors(url, source, "migrate"):
        from joblane.local.git import deployer, version_of
        from joblane.record.migrate import migrate as bring_up_to_date
        from joblane.record.migrations import newest

        root = Project.here().root
        done = bring_up_to_date(url, version=version_of(root), by=deployer(root))
    if done.newer:
        typer.echo(f"The schema is at {done.revision}, newer than this code ({newest()}): it was not changed.")
        typer.echo(f"{done.types} task types are registered.")
    else:
        typer.echo(f"The schema is up to date; {done.types} task types are registered.")
    for difference in done.differences:
        typer.echo(f"Changed by hand: {difference}.")


def _sql(url: str | None) -> str:
    from joblane import settings
    from joblane.record.migrate import migration_sql

    own = settings.migrations()
    note = f"-- This does not include the project's own migrations ({own}).\n\n" if own else ""
    return note + migration_sql(url)


@contextmanager
def _translated_errors(url: str | None, source: str, action: str) -> Iterator[None]:
    """Translate errors of a database into errors of the command line. ``action``: the verb for their message."""
    from pg8000.exceptions import Error as PostgresError
    from sqlalchemy.exc import DBAPIError

    from joblane.cli.connect import unavailable
    from joblane.record.driver.connection import is_unavailable

    try:
        yield
    except DeclarationError:  # an error of the project, not of the database
        raise
    except (PostgresError, DBAPIError, OSError, ValueError) as error:
        missing_file = getattr(error, "filename", None) is not None
        if url and is_unavailable(error) and not missing_file:
            raise unavailable(url, source, action, error) from error
        raise LocalError(f"Cannot {action} the database: {text_of(error)}") from error


def schema(
    type_: Annotated[str | None, typer.Argument(metavar="TYPE", help="One type; without it, all types.")] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Write a file for each type to this folder; without it, print the schemas."
        ),
    ] = None,
) -> None:
    """Print the JSON Schema of messages.

    For producers in other languages.
    """
    from joblane.sqs.message_schema import message_schema
    from joblane.tasks.discovery import discover, load_for_person

    for found in discover().values() if type_ is None else [load_for_person(filters.type_of(type_))]:
        text = json.dumps(message_schema(found), indent=2)
        if out is None:
            typer.echo(text)
        else:
            file = out / f"{found.slug}.schema.json"
            try:
                out.mkdir(parents=True, exist_ok=True)
                file.write_text(text + "\n", encoding="utf-8")
            except OSError as error:
                terminal.usage(f"{file} cannot be written: {error.strerror}", "--out")
            typer.echo(f"{found.type}: {file}")


def deploy(
    context: typer.Context,
    stage: Stage = None,
    *,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Do not ask, as with --require-approval never of the CDK.")
    ] = False,
    leave: Leave = None,
    watch: Annotated[
        str | None,
        typer.Option(
            metavar="DURATION",
            help="Watch the stage's alarms after the deploy, from 1m to 3h, for example 15m. If an alarm that was OK "
            "when the deploy began fires, deploy the earlier templates again.",
        ),
    ] = None,
    image: Images = None,
) -> None:
    """Deploy a stage: preflight, `cdk deploy`, and a first job.

    The first job is a run of the sweep, by the control API. The first deploy of a stage with a new database takes about
    half an hour. With --watch, exit status 8 if an alarm fired and the deploy was reverted, 9 if it was not.
    """
    extras.need("cdk")
    from rich.console import Console

    from joblane.cdk import costs as prices
    from joblane.cdk.preflight.findings import blocks_deploy
    from joblane.cdk.preflight.moves import is_move
    from joblane.cdk.preflight.read import check_deploy, read_metadata, read_templates
    from joblane.cli import watched
    from joblane.cli.connect import account_of, aws_session, connect, prefix_of, use_for_programs
    from joblane.cli.rollout import Rollout
    from joblane.local.tools import Checklist, Tools
    from joblane.tasks.discovery import discover

    given, project, steps = target.of(context), Project.here(), Checklist(Console(stderr=True))
    length, stage = watched.length_of(watch), _stage(context, stage)
    prefix_of(stage)  # raises for a stage that is not on AWS
    if not yes and not terminal.is_terminal():
        terminal.stop(
            "There is no terminal for the questions of the CDK: give --yes to deploy without them.", Exit.USAGE
        )
    session = aws_session(given.profile, given.region)
    terminal.say(f"Stage {stage}: account {account_of(session)}, region {session.region_name}")
    use_for_programs(session, given.profile)
    Tools(project).fetch(steps, emulator=False)
    with steps.step("CDK synth"):
        assembly, printed = _synthesised(stage, image=image)
        templates = read_templates(assembly)
    terminal.say(printed)
    if length is not None:
        watched.need_alarms(templates)
    with steps.step("Preflight"):
        findings = check_deploy(stage, assembly, leaves=leave)
    _show_findings(stage, findings)
    if blocks_deploy(findings):
        terminal.stop("nothing was deployed: the preflight refuses.", Exit.FAILED)
    if leave or is_move(findings):  # the migration must not take this for a rollback
        with steps.step("CDK synth of the move"):
            assembly, _ = _synthesised(stage, image=image, move=datetime.now(UTC).isoformat())
            templates = read_templates(assembly)
    lines = prices.of_stage(templates.values(), discover(times={}))
    terminal.say(
        f"When idle, the stage costs about ${prices.total(lines):,.2f} a month (joblane costs --stage {stage})."
    )
    rollout = Rollout(
        project=project,
        prefix=str(read_metadata(templates)["prefix"]),
        assembly=assembly,
        templates=templates,
        command=target.command_for(replace(given, stage=stage)),
    )
    watching = None if length is None else watched.start(rollout, session, length)
    first_job = partial(_first_job, rollout, partial(connect, stage=stage, profile=given.profile, region=given.region))
    if watching is None:
        rollout.deploy(session, approved=yes)
        status = first_job()
    else:
        status = watching.run(partial(rollout.deploy, session, approved=yes), first_job)
    if watching is None or watching.is_new:
        rollout.show_next(session.region_name)
    raise typer.Exit(status)


def _first_job(rollout: Rollout, connected: Callable[[], Inspector]) -> Exit:
    """Run the first job of a deployed stage. ``connected``: reads the address of its control API."""
    if not rollout.has_control:
        terminal.say("There is no first job: the stage has no control API (the setting `control`).")
        return Exit.DONE
    try:
        return rollout.run_first_job(connected())
    except JobError:
        terminal.say("The stage is deployed. The first job could not be run:")
        raise


def preflight(
    context: typer.Context,
    stage: Stage = None,
    *,
    strict: Annotated[bool, typer.Option("--strict", help="Also fail if a part cannot be compared.")] = False,
    as_json: AsJson = False,
    assembly: Assembly = None,
    leave: Leave = None,
    image: Images = None,
) -> None:
    """Compare this checkout with the deployed stage.

    Exit status 1 if a deploy would lose tasks or break the stage. The database is that of DATABASE_URL; leave the
    variable unset if it cannot be reached from here.
    """
    extras.need("cdk")
    from joblane.cdk.preflight.findings import blocks_deploy
    from joblane.cdk.preflight.read import check_deploy
    from joblane.cli.connect import aws_session, use_for_programs

    given, stage = target.of(context), _stage(context, stage)
    if assembly and image:
        terminal.usage("the templates of --assembly have their images already", "--image")
    if given.profile or given.region:
        use_for_programs(aws_session(given.profile, given.region), given.profile)
    findings = check_deploy(stage, assembly or _synthesised(stage, image=image)[0], leaves=leave)
    is_blocked = blocks_deploy(findings, strict=strict)
    if as_json:
        lines = [vars(finding) for finding in findings]
        typer.echo(json.dumps({"stage": stage, "ok": not is_blocked, "findings": lines}, indent=2))
    else:
        _show_findings(stage, findings)
    if is_blocked:
        raise typer.Exit(1)


def costs(
    context: typer.Context,
    stage: Stage = None,
    batches: Annotated[
        bool,
        typer.Option(
            "--batches", help="Also say what a larger batch_size would save, from the runs of the last 7 days."
        ),
    ] = False,
    as_json: AsJson = False,
    assembly: Assembly = None,
) -> None:
    """Estimate the monthly cost of an idle stage.

    From the templates and the declared schedules, at list prices of us-east-1, without storage and traffic; and what a
    million jobs add. --batches
    reads the runs of the stage; without --stage, the runs in the environment's database.
    """
    extras.need("cdk")
    from joblane.cdk import costs as prices
    from joblane.cdk.million import million, row
    from joblane.cdk.preflight.read import read_templates
    from joblane.cli.connect import connect
    from joblane.inspector.sentences.batching import batching_line
    from joblane.prices import AS_OF
    from joblane.tasks.discovery import discover

    given = target.of(context)
    batching = connect(**vars(replace(given, stage=stage or given.stage))).batching() if batches else ()
    stage = _stage(context, stage)
    templates = read_templates(assembly or _synthesised(stage, deploys=False)[0])
    tasks = discover(times={})
    lines, jobs = prices.of_stage(templates.values(), tasks), million(templates.values(), tasks)
    total, left = prices.total(lines), prices.after_allowances(lines)
    if as_json:
        found = {"stage": stage, "prices_as_of": str(AS_OF), "usd": total, "usd_after_allowances": left}
        found |= {"lines": _as_json(lines), "million_jobs": {"usd": prices.total(jobs), "lines": _as_json(jobs)}}
        typer.echo(json.dumps(found | ({"batches": [*map(asdict, batching)]} if batches else {}), indent=2))
    else:
        typer.echo(
            f"Stage {stage}: about ${total:,.2f} a month if nobody uses it, estimated by prices of {AS_OF} in "
            "us-east-1, without storage and traffic"
        )
        width = max(len(line.what) for line in lines)
        for line in lines:
            typer.echo(f"  {line.what:{width}}  ${line.dollars:8,.2f}  {line.use}")
        typer.echo(f"An account that has this stage alone pays about ${left:,.2f}: AWS gives each account allowances.")
        typer.echo(row(jobs))
        if (pausing := prices.pausing(templates.values(), tasks)) is not None:
            why, do = prices.sentences(*pausing)
            typer.echo(f"The database: {why}. {do[0].upper()}{do[1:]}.")
        for each in batching:
            typer.echo(f"{each.type}: {batching_line(each)}")
        if batches and not batching:
            typer.echo("No task ran in the last 7 days, so nothing is known about batches.")


def _as_json(lines: Iterable[Line]) -> list[dict[str, Any]]:
    return [
        {"what": line.what, "for": line.use, "amount": line.amount, "price": line.price, "usd": line.dollars}
        for line in lines
    ]


def _stage(context: typer.Context, stage: str | None) -> str:
    """The stage of the option after the command, or of the one before it."""
    return stage or target.of(context).stage or "dev"


def _synthesised(
    stage: str, *, deploys: bool = True, image: Sequence[str] | None = None, move: str | None = None
) -> tuple[Path, str]:
    """The folder to which the templates of ``stage`` are written, and the text that the app printed.

    ``image``: the values of the option. ``move``: the time of a deploy that moves the stage to another database.
    """
    from joblane.cdk.preflight.read import synthesise
    from joblane.local.deployment import cdk_json

    project = Project.here()
    given = cdk_json(project)
    if stage not in (known := given["context"]["stages"]):
        terminal.usage(f"cdk.json has no stage {stage!r}; its stages: {', '.join(known)}", "--stage")
    assembly = project.root / str(given.get("output", "cdk.out")) / stage
    images = dict(value.partition("=")[::2] for value in image or ())
    if wrong := [name for name, address in images.items() if not (name and address)]:
        terminal.usage(f"NAME=ADDRESS is required, not {wrong[0]!r}", "--image")
    return assembly, synthesise(stage, assembly, deploys=deploys, move=move, images=images)


def _show_findings(stage: str, findings: Sequence[Finding]) -> None:
    from rich.console import Console
    from rich.table import Table

    if not findings:
        typer.echo(f"Stage {stage}: ready to deploy.")
        return
    table = Table(box=None, pad_edge=False, padding=(0, 2, 1, 0))
    for title in ("", "What", "Why", "What to do"):
        table.add_column(title, overflow="fold")
    for finding in findings:
        table.add_row(finding.kind, finding.what, finding.why, finding.do)
    Console(highlight=False, markup=False).print(table)
