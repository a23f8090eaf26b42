"""`jobs`: the command line."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shared.cli.errors import LocalError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from shared.cli.preflight import Finding
    from shared.cli.stack import LocalStack

app = typer.Typer(
    name="jobs",
    help="Background jobs on AWS without a server, and the same stack on this machine.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

AwsPort = Annotated[
    int, typer.Option(envvar="JOBLANE_AWS_PORT", min=1, max=65535, help="Port of the AWS emulator on 127.0.0.1.")
]
PostgresPort = Annotated[
    int, typer.Option(envvar="JOBLANE_POSTGRES_PORT", min=1, max=65535, help="Port of PostgreSQL on 127.0.0.1.")
]
Folder = Annotated[
    Path, typer.Option(envvar="JOBLANE_LOCAL", help="Folder that holds all of the local stack.", show_default=False)
]
DemoPort = Annotated[
    int, typer.Option(envvar="JOBLANE_DEMO_PORT", min=1, max=65535, help="Port of the demo's services on 127.0.0.1.")
]
DEFAULT_AWS_PORT = 4566
DEFAULT_POSTGRES_PORT = 15432
DEFAULT_DEMO_PORT = 4567
DEFAULT_FOLDER = Path(__file__).resolve().parents[2] / ".local"


def local_stack(
    folder: Path, aws_port: int, postgres_port: int, variables: Mapping[str, str] | None = None
) -> LocalStack:
    """Return the stack that the settings of the environment describe; its progress goes to the error output."""
    from rich.console import Console

    from shared import settings
    from shared.cli.stack import LocalStack

    return LocalStack(
        folder,
        aws_port=aws_port,
        postgres_port=postgres_port,
        prefix=settings.prefix(),
        settings=variables,
        external_endpoint=os.environ.get("JOBLANE_EXTERNAL_ENDPOINT") or None,
        console=Console(stderr=True),
    )


@app.command()
def up(
    folder: Folder = DEFAULT_FOLDER,
    aws_port: AwsPort = DEFAULT_AWS_PORT,
    postgres_port: PostgresPort = DEFAULT_POSTGRES_PORT,
) -> None:
    """Start the local stack, deploy the code as it is now, and leave it running."""
    stack = local_stack(folder, aws_port, postgres_port)
    try:
        stack.up()
    except LocalError as error:
        raise LocalError(f"{error}\nWhat did start still runs; `make down` stops it.") from error
    typer.echo(f"Up: AWS at {stack.endpoint}, PostgreSQL at 127.0.0.1:{stack.postgres.port}")
    typer.echo(f"Join in:  set -a; . {_shown(stack.env_file)}; set +a")
    typer.echo("Stop it:  make down")


@app.command()
def down(
    folder: Folder = DEFAULT_FOLDER,
    aws_port: AwsPort = DEFAULT_AWS_PORT,
    postgres_port: PostgresPort = DEFAULT_POSTGRES_PORT,
) -> None:
    """Stop the local stack; the database's content stays for the next time."""
    local_stack(folder, aws_port, postgres_port).down()
    typer.echo("Down.")


@app.command()
def status(
    folder: Folder = DEFAULT_FOLDER,
    aws_port: AwsPort = DEFAULT_AWS_PORT,
    postgres_port: PostgresPort = DEFAULT_POSTGRES_PORT,
) -> None:
    """Show what of the local stack runs; exit status 1 where not all of it does."""
    parts = local_stack(folder, aws_port, postgres_port).status()
    for name, (runs, where) in parts.items():
        typer.echo(f"{name:<14}{'runs' if runs else 'stopped':<9}{where}")
    if not all(runs for runs, _ in parts.values()):
        raise typer.Exit(1)


@app.command()
def demo(
    folder: Folder = DEFAULT_FOLDER,
    aws_port: AwsPort = DEFAULT_AWS_PORT,
    postgres_port: PostgresPort = DEFAULT_POSTGRES_PORT,
    port: DemoPort = DEFAULT_DEMO_PORT,
) -> None:
    """Run the platform's jobs on the local stack and show what became of each; exit status 1 where one did not end
    as announced."""
    from rich.console import Console

    from shared.cli.demo import run
    from shared.cli.demo_platform import Services

    services = Services(port)
    mail = folder.resolve() / "mail"
    stack = local_stack(folder, aws_port, postgres_port, services.settings | {"EMAIL_CONSOLE_DIR": str(mail)})
    ran_before = all(runs for runs, _ in stack.status().values())
    with services:
        stack.up()
        try:
            fine = run(stack, mail, Console(highlight=False))
        finally:
            if not ran_before:
                stack.down()
    if not fine:
        raise typer.Exit(1)


@app.command()
def migrate() -> None:
    """Bring the database of DATABASE_URL to the newest schema, and tell it of the declared types."""
    from pg8000.exceptions import Error as PostgresError
    from sqlalchemy.exc import DBAPIError

    from shared import settings
    from shared.jobs.failure import text_of
    from shared.migrating import migrate as bring_up_to_date

    try:
        types = bring_up_to_date(settings.database_url())
    except (PostgresError, DBAPIError, OSError, ValueError) as error:
        raise LocalError(f"The database cannot be brought up to date: {text_of(error)}") from error
    typer.echo(f"The schema is up to date; {types} task types are known.")


@app.command()
def tick(
    type_: Annotated[str, typer.Argument(metavar="TYPE", help="Type of the task, for example tenant:cleanup.")],
    schedule: Annotated[str | None, typer.Option(help="Name of the schedule, where the task has several.")] = None,
) -> None:
    """Send a tick of a periodic task now, as its schedule would, also where the stage has it off."""
    from datetime import UTC, datetime

    from shared import settings
    from shared.jobs.discovery import load
    from shared.jobs.sqs import Sqs
    from shared.jobs.tick import id_of, tick_entry

    found = load(type_, times={})
    chosen = [item for item in found.schedules if schedule in (None, item.name)]
    if len(chosen) != 1:
        names = ", ".join(str(item.name) for item in found.schedules) or "none: it is no periodic task"
        raise LocalError(f"--schedule: name one of {type_}'s schedules ({names})")
    now = datetime.now(UTC)
    Sqs().send(tick_entry(settings.prefix(), found, chosen[0], now))
    typer.echo(f"Sent: {id_of(found.type, chosen[0].name, now)}")


@app.command()
def schema(
    type_: Annotated[str | None, typer.Argument(metavar="[TYPE]", help="One type; without it, all.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for a file per type; without it, to the output.")] = None,
) -> None:
    """JSON Schema of the messages of the declared types, for producers in other languages."""
    import json

    from shared.jobs.discovery import discover, load
    from shared.jobs.schemas import message_schema

    for found in [load(type_)] if type_ else discover().values():
        text = json.dumps(message_schema(found), indent=2)
        if out is None:
            typer.echo(text)
        else:
            out.mkdir(parents=True, exist_ok=True)
            target = out / f"{found.slug}.schema.json"
            target.write_text(text + "\n")
            typer.echo(f"{found.type}: {target}")


@app.command()
def preflight(
    stage: Annotated[str, typer.Option(help="Stage of cdk.json that is to be deployed.")] = "dev",
    strict: Annotated[bool, typer.Option("--strict", help="Refuse what could not be looked at, too.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
    assembly: Annotated[
        Path | None, typer.Option(help="Folder with its templates; without it, they are written to cdk.out/STAGE.")
    ] = None,
) -> None:
    """Compare this checkout with what is deployed; exit status 1 where a deploy would lose tasks or break something.

    The database is that of DATABASE_URL; where it cannot be reached from here, leave that unset.
    """
    import json

    from shared.cli import stages
    from shared.cli.preflight import stops
    from shared.cli.tools import ROOT

    if assembly is None:
        assembly = ROOT / "cdk.out" / stage
        stages.synthesise(stage, assembly)
    findings = stages.look(stage, assembly)
    if as_json:
        lines = [vars(one) for one in findings]
        typer.echo(json.dumps({"stage": stage, "ok": not stops(findings, strict=strict), "findings": lines}, indent=2))
    else:
        _show_findings(stage, findings)
    if stops(findings, strict=strict):
        raise typer.Exit(1)


@app.command(hidden=True)
def ticker() -> None:
    """Send the ticks of all declared schedules at their times, until stopped."""
    from shared.cli.ticker import Ticker

    Ticker.from_environment().run()


def _show_findings(stage: str, findings: Sequence[Finding]) -> None:
    from rich.console import Console
    from rich.table import Table

    if not findings:
        typer.echo(f"Stage {stage}: nothing is in the way of a deploy.")
        return
    table = Table(box=None, pad_edge=False, padding=(0, 2, 1, 0))
    for title in ("", "What", "Why", "What to do"):
        table.add_column(title, overflow="fold")
    for one in findings:
        table.add_row(one.kind, one.what, one.why, one.do)
    Console(highlight=False, markup=False).print(table)


def main() -> None:
    """Run the command line; what the reader can mend is told without a traceback."""
    from shared.jobs.errors import JobError
    from shared.settings import MissingSettingError

    try:
        app(prog_name="jobs")
    except (JobError, LocalError, MissingSettingError) as error:
        typer.echo(f"jobs: {error}", err=True)
        sys.exit(1)


def _shown(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


if __name__ == "__main__":
    main()
