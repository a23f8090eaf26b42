"""A whole CDK app: the stacks of one stage, from a project's functions and the settings in ``cdk.json``.

Context: ``stage`` (name of the stage, default ``dev``), ``stages`` (the settings of each stage), ``quiet`` (true: no
table of concurrency at the end), ``deploys`` (true: names of the examples in the settings are refused; false: they are
only named, so that `cdk synth` and `cdk diff` work. Without it: true if the CDK CLI has credentials, because an app
cannot know that it runs for `cdk deploy`), ``image.NAME`` (an address that replaces the image NAME of the stage).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

from aws_cdk import (
    App,
    CfnResource,
    CliCredentialsStackSynthesizer,
    DefaultStackSynthesizer,
    Stack,
    Tags,
)
from aws_cdk.cx_api import CloudAssembly

from joblane.cdk.checks import check, throttling
from joblane.cdk.constructs.budget import ACTIVATE_TAG
from joblane.cdk.constructs.code import Tasks, Workload
from joblane.cdk.constructs.granted_bucket import GrantedBucket
from joblane.cdk.constructs.jobs import Jobs
from joblane.cdk.constructs.shared_page import NAME as PAGE
from joblane.cdk.errors import RefusedTemplateError, StageError, SynthError
from joblane.cdk.nag import refuse_findings
from joblane.cdk.packaging import Packages, build_packages
from joblane.cdk.settings.images import CONTEXT
from joblane.cdk.settings.load import load_stage, placeholders, refuse_placeholders, sentence, with_schedules_of
from joblane.cdk.settings.stage import STAGE_TAG, Stage
from joblane.cdk.shares import sharing_lanes
from joblane.cdk.stacks.control import FUNCTION as CONTROL
from joblane.cdk.stacks.control import ControlStack
from joblane.cdk.stacks.data import DataStack
from joblane.cdk.stacks.monitoring import MonitoringStack
from joblane.cdk.templates import Extra, Template, read_assembly, stacks_of, whole
from joblane.cdk.watching.alarms import Alarm, listed
from joblane.errors import JobError
from joblane.names import WEIGHTS, function_name
from joblane.project import Project
from joblane.quotas import MIN_CONCURRENCY
from joblane.settings import SHORT_MINUTES
from joblane.tasks.discovery import discover, discover_functions
from joblane.tasks.function import Function
from joblane.tasks.places import places_of
from joblane.tasks.task import EVERY_LANE, Task

DEFAULT_STAGE = "dev"
FEATURE_FLAGS: Mapping[str, Any] = {
    **json.loads((Path(__file__).parent / "feature_flags.json").read_text(encoding="utf-8")),
    "@aws-cdk/core:defaultCrossStackReferences": "strong",  # CloudFormation then refuses to remove a used export
}
"""The feature flags of the CDK that it recommends, so that each project gets the templates that the tests have checked.
``context`` of a project's ``cdk.json`` takes precedence. Source: recommended-feature-flags.json of aws-cdk-lib."""
S = TypeVar("S", bound=Stage)
Build = Callable[[Stage, Project], Packages]


@dataclass(frozen=True)
class Synthesised:
    """The stage, its jobs, and the content of ``directory``: assets, and templates by the names of the stacks.

    The name of a nested stack is ``STACK/LOGICAL_ID``.
    """

    stage: Stage
    jobs: Jobs
    directory: Path
    templates: Mapping[str, Template]

    def whole(self, stack: str) -> Template:
        """Return the template of ``stack`` with the resources of its nested stacks."""
        return self._wholes[stack]

    @cached_property
    def _wholes(self) -> Mapping[str, Template]:
        return {stack: whole(self.templates, stack) for stack in stacks_of(self.templates)}


@dataclass(frozen=True)
class JoblaneApp(Generic[S]):
    """A whole CDK app: the stacks of one stage, and the stacks of the application."""

    functions: str | None = None
    """Package of the handlers. None: ``functions`` of ``[tool.joblane]``."""
    stage: type[S] = Stage  # type: ignore[assignment] # S is Stage by default
    """Class of the stages in ``cdk.json``. A subclass of :class:`Stage` adds settings of the application."""
    buckets: Callable[[DataStack, S], Mapping[str, GrantedBucket]] = lambda data, stage: {}
    """Function that creates the application's buckets in the data stack and returns them by the names that tasks
    declare in ``Grants.buckets``. The stack's ``network`` has the VPC, for further endpoints or routes."""
    stacks: Sequence[Callable[[App, Jobs, S], object]] = ()
    """Functions that each create a stack of the application. They get the CDK app, the jobs and the stage. The app
    has the stack of the control API already."""
    alarms: Callable[[S, Tasks], Sequence[Alarm]] = lambda stage, tasks: ()
    """Function that returns further alarms, for a stage with ``monitoring``."""
    costs: Mapping[str, Extra] | None = None
    """Type → additional costs of each run of a periodic task, for ``joblane costs``. None: no additional costs."""

    @property
    def project(self) -> Project:
        """The project of the working folder."""
        project = Project.here()
        return project if self.functions is None else replace(project, functions=self.functions)

    def main(self, arguments: Sequence[str] | None = None, build: Build = build_packages) -> int:
        """Synthesise the stage that ``-c stage=NAME`` names. Return the exit status: 0, or 1 after a refusal."""
        options = _parse(arguments)
        given = dict(option.partition("=")[::2] for option in options.context)
        try:
            project = self.project
            project.add_to_path()
            context, own = context_of_file(project) | given, cdk_json(project).get("output", "cdk.out")
            output = Path(options.output or os.environ.get("CDK_OUTDIR") or project.root / own)
            done = self.synthesise(context, output=output, environ=os.environ, build=build)
        except JobError as error:
            print(f"joblane: {error}", file=sys.stderr)  # noqa: T201
            return 1
        if not _is_set(done.jobs.node.try_get_context("quiet")):
            print(concurrency(done.jobs), file=sys.stderr)  # noqa: T201
            if line := throttling(
                done.templates, done.stage, sharing_lanes(done.stage.prefix, done.jobs.tasks.values())
            ):
                print(line, file=sys.stderr)  # noqa: T201
            for setting in placeholders(done.stage):
                print(f"before a deploy: {sentence(setting)}", file=sys.stderr)  # noqa: T201
        return 0

    def synthesise(
        self,
        context: Mapping[str, Any],
        *,
        output: Path,
        environ: Mapping[str, str],
        build: Build = build_packages,
        findings: bool = True,
    ) -> Synthesised:
        """Create the stacks of one stage and check them.

        Args:
            context: The context, as in ``cdk.json``. The context that the CDK CLI passes takes precedence.
            output: Folder for templates and assets.
            environ: The environment variables.
            build: Function that builds the functions' packages.
            findings: True: findings of cdk-nag are refused, on a stage for AWS.

        Raises:
            JobError: a declaration, a setting or a template is refused.
        """
        project = self.project
        tasks, functions = discover(project.functions, times={}), discover_functions(project.functions)
        # values from the CDK CLI take precedence, as in every CDK app
        known = {**context, **json.loads(environ.get("CDK_CONTEXT_JSON") or "{}")}
        stage = load_stage(
            known.get("stage") or DEFAULT_STAGE,
            known.get("stages"),
            kind=self.stage,
            declared=declared_settings(tasks, functions),
            environ=environ,
            images={key.removeprefix(CONTEXT): value for key, value in known.items() if key.startswith(CONTEXT)},
        )
        if _is_set(known.get("deploys", bool(environ.get("CDK_DEFAULT_ACCOUNT")))):
            refuse_placeholders(stage)
        app = App(
            context={**FEATURE_FLAGS, **context},
            outdir=str(output),
            analytics_reporting=False,
            auto_synth=False,
            # an emulator does not need the roles of a bootstrap, and if it checks permissions they cannot be assumed
            default_stack_synthesizer=CliCredentialsStackSynthesizer() if stage.local else DefaultStackSynthesizer(),
        )
        workload = Workload(stage, project, with_schedules_of(stage, tasks), functions, build(stage, project))
        jobs = self._add_stacks(app, stage, workload)
        if findings and not stage.local:
            refuse_findings(app)
        directory = Path(_assemble(app, output).directory)
        templates = read_assembly(directory)
        check(templates, stage, sharing_lanes(stage.prefix, workload.tasks.values()))
        return Synthesised(stage, jobs, directory, templates)

    def _add_stacks(self, app: App, stage: S, workload: Workload) -> Jobs:
        """Create the stacks of a stage: data, jobs, and, if the stage has them, control API and monitoring."""
        data = DataStack(app, f"{stage.prefix}-data", workload)
        buckets, describes = self.buckets(data, stage), f"Joblane, {stage.name}: queues, functions and schedules"
        stack = Stack(app, f"{stage.prefix}-jobs", description=describes)
        jobs = Jobs(stack, "Jobs", workload, access=data.access_from(stack), buckets=buckets, costs=self.costs)
        jobs.migration.add_output(stack)
        control = None
        if stage.page is not None and PAGE in workload.functions:
            raise StageError(f"stage {stage.name!r}: page: the folder {PAGE} has a function of that name; rename it")
        if stage.control is not None:
            control = ControlStack(
                app,
                f"{stage.prefix}-{CONTROL}",
                stage=stage,
                control=stage.control,
                function=jobs.function_of_api(CONTROL),
                page=workload.packages.page,
            )
        for add in self.stacks:
            add(app, jobs, stage)
        if stage.monitoring is not None:
            monitoring = MonitoringStack(
                app,
                f"{stage.prefix}-monitoring",
                jobs=jobs,
                monitoring=stage.monitoring,
                more=self.alarms(stage, workload.tasks),
                page_url=jobs.page_url,
            )
            if control is not None and jobs.page_url is not None:
                monitoring.add_stack_dependency(control, "its texts have the page's address")
        if not any(map(CfnResource.is_cfn_resource, data.node.find_all())):
            app.node.try_remove_child(data.node.id)  # CloudFormation accepts no template without resources
        for key, value in {**stage.tags, STAGE_TAG: stage.name}.items():
            Tags.of(app).add(key, value)  # of the resources only, by the feature flag explicitStackTags
            for each in filter(Stack.is_stack, app.node.children):
                cast(Stack, each).add_stack_tag(key, value)
        return jobs


def concurrency(jobs: Jobs) -> str:
    """Return a table with a line per lane, largest share first, the formula above it and the sum below.

    Then comes a line for each place, with its permissions. The last lines name settings that the stage does not set.
    """
    stage, tasks = jobs.stage, jobs.tasks
    lanes = [(name, WEIGHTS[queue], declared) for name, queue, declared in sharing_lanes(stage.prefix, tasks.values())]
    budget, total = stage.concurrency_budget, sum(weight for _, weight, _ in lanes)
    width = max((len(name) for name, _, _ in lanes), default=0)
    formula = f"{budget} × weight / {total}, at least {MIN_CONCURRENCY}, at most the task's max_concurrency"
    lines = [f"stage {stage.name}: MaximumConcurrency = {formula}"]
    for name, weight, most in sorted(lanes, key=lambda lane: (-jobs.shares[lane[0]], lane[0])):
        declared = f"  (declared: {most})" if most else ""
        lines.append(f"  {name:{width}}  weight {weight}  {jobs.shares[name]:4}{declared}")
    lines.append(f"  {'sum':{width}}            {sum(jobs.shares.values()):4} of a budget of {budget}")
    lines += [_permissions(stage, members) for members in places_of(tasks.values()).values()]
    if stage.sweep_minutes > SHORT_MINUTES and not stage.local:
        lines.append(
            f"  sweep: planned, and every {stage.sweep}; programs that enqueue by SQL alone cannot wake it and need "
            '"sweep": "5 minutes"'
        )
    unset = sorted({name for task in tasks.values() for name in task.environment} - {*stage.settings, *jobs.variables})
    if unset:
        lines.append(f"  settings that tasks declare and the stage does not set: {', '.join(unset)}")
    if stage.monitoring is not None and stage.monitoring.budget is not None:
        lines.append(f"  budget: it counts nothing until the tag is active for costs, a day later: {ACTIVATE_TAG}")
    if stage.alarms_of_nobody:
        lines.append('  alarms: nobody is notified; set monitoring.email to an address, or "off" if that is intended')
    return "\n".join(lines)


def _permissions(stage: Stage, tasks: Sequence[Task[Any, Any]]) -> str:
    """Return a line with what the function of a place may do: IAM does not know which type runs."""
    enqueued = {type_ for task in tasks for type_ in (*task.grants.enqueue, *task.grants.run, task.follower) if type_}
    buckets = {name for task in tasks for name in task.grants.buckets}
    read = {name for task in tasks for name in task.environment} & {*stage.settings}
    mails = stage.ses_sender if any(task.grants.mail for task in tasks) else None
    allowed = [
        *([f"enqueue {'all types' if EVERY_LANE in enqueued else _sorted(enqueued)}"] if enqueued else []),
        *([f"use the buckets {_sorted(buckets)}"] if buckets else []),
        *([f"send mail as {mails}"] if mails else []),
        *(["take dead letters"] if any(task.grants.dead_letters for task in tasks) else []),
        *([f"read {_sorted(read)}"] if read else []),
    ]
    types = f"{len(tasks)} type{'s' * (len(tasks) > 1)}: {listed(sorted(task.type for task in tasks))}"
    each = f"; each of them may {', '.join(allowed)}" if allowed else ""
    return f"  function {function_name(stage.prefix, tasks[0].type)}: {types}{each}"


def _sorted(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))


def declared_settings(tasks: Tasks, functions: Mapping[str, Function]) -> list[str]:
    """Return the names of all settings that tasks and functions declare."""
    declared = [task.environment for task in tasks.values()] + [each.environment for each in functions.values()]
    return [name for names in declared for name in names]


def context_of_file(project: Project) -> dict[str, Any]:
    """Return the context of the project's ``cdk.json``, which the CDK CLI would pass. Raises :class:`SynthError`."""
    context: dict[str, Any] = cdk_json(project)["context"]
    return context


def cdk_json(project: Project) -> dict[str, Any]:
    """Return the project's ``cdk.json``, which has a ``context``. Raises :class:`SynthError`."""
    file = project.root / "cdk.json"
    try:
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        dict(found["context"])
    except FileNotFoundError:
        raise SynthError(f"{file}: no such file; `joblane init` writes it, with the stages") from None
    except OSError as error:
        raise SynthError(f"{file} cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise SynthError(f"{file}: an object with a context is required ({error})") from None
    return found


def _assemble(app: App, output: Path) -> CloudAssembly:
    """Write templates and assets. Findings of the CDK's own validation are refused, if ``cdk.json`` turns it on."""
    try:
        return app.synth()
    except RuntimeError as error:  # jsii raises it for every error in Node.js
        report_file = output / "validation-report.json"
        if "ValidationFailed" not in str(error) or not report_file.exists():
            raise
        raise RefusedTemplateError(
            f"{place['constructPath']}: {found['ruleName']}: {found['description']}"
            for plugin in json.loads(report_file.read_text(encoding="utf-8"))["pluginReports"]
            for found in plugin["violations"]
            for place in found["violatingConstructs"]
        ) from None


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Synthesise the stacks of one stage.")
    parser.add_argument("-c", "--context", action="append", default=[], metavar="NAME=VALUE", help="as of the CDK CLI")
    parser.add_argument(
        "-o", "--output", metavar="DIRECTORY", help="default: CDK_OUTDIR, or `output` of cdk.json, or cdk.out"
    )
    return parser.parse_args(arguments)


def _is_set(value: object) -> bool:
    return str(value).lower() in ("1", "true", "yes")
