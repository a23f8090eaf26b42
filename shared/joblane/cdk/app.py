"""The CDK app: ``cdk deploy --all -c stage=dev``, or ``python -m joblane.cdk.app -c stage=dev`` to synthesise alone.

Context: ``stage`` (default ``dev``), ``stages`` (their settings, from ``cdk.json``), ``quiet`` (no tables at the end).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aws_cdk import App, CliCredentialsStackSynthesizer, DefaultStackSynthesizer, Tags
from aws_cdk.cx_api import CloudAssembly

from infra.api import FUNCTION as API
from infra.api import ApiStack
from joblane.cdk.checks import check
from joblane.cdk.errors import RefusedTemplateError, StageError
from joblane.cdk.nag import refuse_findings
from joblane.cdk.packaging import ROOT, Packages, build_packages
from joblane.cdk.settings.stage import Stage, load_stage, with_schedules_of
from joblane.cdk.stacks.control import FUNCTION as CONTROL
from joblane.cdk.stacks.control import ControlStack
from joblane.cdk.stacks.data import EXPORTS, REPORTS, DataStack
from joblane.cdk.stacks.jobs import GrantedBucket, JobsStack, Tasks
from joblane.cdk.stacks.monitoring import MonitoringStack
from joblane.cdk.summary import report
from joblane.discovery import discover, discover_functions
from joblane.errors import JobError
from joblane.function import Function

DEFAULT_STAGE = "dev"


@dataclass(frozen=True)
class Synthesised:
    """The stage, its stacks, and what is in ``directory``: templates and assets, by the stacks' names."""

    stage: Stage
    jobs: JobsStack
    directory: Path
    templates: Mapping[str, Mapping[str, Any]]


def main(arguments: Sequence[str] | None = None, build: Callable[[Stage], Packages] = build_packages) -> int:
    """What ``cdk`` runs. The exit status is 1 where something is refused."""
    options = _parse(arguments)
    given = dict(option.partition("=")[::2] for option in options.context)
    output = options.output or os.environ.get("CDK_OUTDIR") or "cdk.out"
    try:
        done = synthesise(context_of_file() | given, output=Path(output), environ=os.environ, build=build)
    except JobError as error:
        print(f"infra: {error}", file=sys.stderr)  # noqa: T201
        return 1
    if not _is_set(done.jobs.node.try_get_context("quiet")):
        print(report(done.jobs, done.templates.values()), file=sys.stderr)  # noqa: T201
    return 0


def synthesise(
    context: Mapping[str, Any],
    *,
    output: Path,
    environ: Mapping[str, str],
    package: str = "functions",
    build: Callable[[Stage], Packages] = build_packages,
    findings: bool = True,
) -> Synthesised:
    """Make the stacks of one stage and check them. ``context`` gives way to what the CDK CLI passes.

    ``package``: where tasks are found. ``findings``: refuse what cdk-nag finds, on a stage for AWS.
    Raises :class:`~joblane.errors.JobError`.
    """
    app = App(context=dict(context), outdir=str(output), analytics_reporting=False, auto_synth=False)
    tasks, functions = discover(package, times={}), discover_functions(package)
    stage = load_stage(
        app.node.try_get_context("stage") or DEFAULT_STAGE,
        app.node.try_get_context("stages"),
        declared=_environment_of(tasks, functions),
        environ=environ,
    )
    jobs = add_stacks(app, stage, with_schedules_of(stage, tasks), functions, build(stage))
    if findings and not stage.local:
        refuse_findings(app)
    assembly = _assemble(app, output)
    templates = {stack.stack_name: json.loads(Path(stack.template_full_path).read_text()) for stack in assembly.stacks}
    check(templates.values(), stage)
    return Synthesised(stage, jobs, Path(assembly.directory), templates)


def _assemble(app: App, output: Path) -> CloudAssembly:
    """Write templates and assets; what CDK's own validation finds is refused, where ``cdk.json`` has it on."""
    try:
        return app.synth()
    except RuntimeError as error:  # of jsii, for whatever goes wrong on its side
        report_file = output / "validation-report.json"
        if "ValidationFailed" not in str(error) or not report_file.exists():
            raise
        raise RefusedTemplateError(
            f"{place['constructPath']}: {found['ruleName']}: {found['description']}"
            for plugin in json.loads(report_file.read_text())["pluginReports"]
            for found in plugin["violations"]
            for place in found["violatingConstructs"]
        ) from None


def _environment_of(tasks: Tasks, functions: Mapping[str, Function]) -> list[str]:
    """The names of all settings that anything declares."""
    declared = [task.environment for task in tasks.values()] + [one.environment for one in functions.values()]
    return [name for names in declared for name in names]


def add_stacks(
    app: App, stage: Stage, tasks: Tasks, functions: Mapping[str, Function], packages: Packages
) -> JobsStack:
    """The stacks of a stage: what is kept, what runs, and, where the stage has them, the ways in from the internet and
    what watches over it all."""
    if stage.control is None:  # it may do much, and nobody would ask it
        functions = {name: function for name, function in functions.items() if not function.inspects}
    # an emulator has no use for the roles of a bootstrap, and where it checks permissions, no way to take them
    synthesizer = CliCredentialsStackSynthesizer if stage.local else DefaultStackSynthesizer
    data = DataStack(
        app,
        f"{stage.prefix}-data",
        stage=stage,
        mail=any(task.grants.mail for task in tasks.values()),
        synthesizer=synthesizer(),
    )
    jobs = JobsStack(
        app,
        f"{stage.prefix}-jobs",
        stage=stage,
        tasks=tasks,
        functions=functions,
        packages=packages,
        access=data.access,
        synthesizer=synthesizer(),
        reserved={
            name: section.max_concurrency
            for name, section in ((API, stage.api), (CONTROL, stage.control))
            if section and section.max_concurrency
        },
        buckets={
            "exports": GrantedBucket(data.exports, "EXPORT_BUCKET", (EXPORTS,)),
            "reports": GrantedBucket(data.exports, "EXPORT_BUCKET", (REPORTS,)),
            "old-exports": GrantedBucket(data.exports, "EXPORT_BUCKET", (EXPORTS, REPORTS), removes=True),
        },
    )
    if stage.api is not None:
        if API not in jobs.functions:
            raise StageError(f"stage {stage.name!r}: api: there is no function {API!r} that would answer; leave it out")
        id_ = f"{stage.prefix}-api"
        ApiStack(app, id_, stage=stage, api=stage.api, function=jobs.functions[API], synthesizer=synthesizer())
    if stage.control is not None:
        if CONTROL not in jobs.functions:
            raise StageError(
                f"stage {stage.name!r}: control: there is no function {CONTROL!r} that would answer; leave it out"
            )
        ControlStack(
            app,
            f"{stage.prefix}-control",
            stage=stage,
            control=stage.control,
            function=jobs.functions[CONTROL],
            synthesizer=synthesizer(),
        )
    if stage.monitoring is not None:
        MonitoringStack(
            app, f"{stage.prefix}-monitoring", jobs=jobs, monitoring=stage.monitoring, synthesizer=synthesizer()
        )
    for key, value in {**stage.tags, "joblane:stage": stage.name}.items():
        Tags.of(app).add(key, value)
    return jobs


def context_of_file() -> dict[str, Any]:
    """The context of ``cdk.json``, which the CDK CLI would pass."""
    context: dict[str, Any] = json.loads((ROOT / "cdk.json").read_text())["context"]
    return context


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m joblane.cdk.app", description="Synthesise the stacks of one stage."
    )
    parser.add_argument("-c", "--context", action="append", default=[], metavar="NAME=VALUE", help="as of the CDK CLI")
    parser.add_argument("-o", "--output", metavar="DIRECTORY", help="default: CDK_OUTDIR, or cdk.out")
    return parser.parse_args(arguments)


def _is_set(value: object) -> bool:
    return str(value).lower() in ("1", "true", "yes")


if __name__ == "__main__":
    sys.exit(main())
