"""A test runs each command of the documentation, or the block says what it needs. Each command exists."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer
from botocore import xform_name
from botocore.exceptions import UnknownServiceError
from botocore.session import Session

from joblane.cli.main import app
from joblane.cli.usage import Listing
from joblane.project import KEYS
from tests.pages import FENCE, PAGES, ROOT, Block, anchors, blocks, commands, links

SHELL = blocks("sh")
MARKS = ("", "stack", "emulator", "account")

MUTANTS = ".venv/bin/python -m tests.mutants"
RUN = {
    "make demo": ("tests/e2e/test_demo.py", '"saas.demo"'),
    "make test": (".ci/run", "exec make test"),
    "make tools": ("Makefile", "modules: tools"),
    "make check": ("Makefile", "--jobs 2 check modules"),
    "make up": ("tests/e2e/test_stack.py", "stack.up()"),
    "make down": ("tests/e2e/test_stack.py", "stack.down()"),
    "make docs": ("tests/unit/test_site.py", '"sphinx"'),
    "make synth": ("tests/infra/test_app.py", "main(["),
    "make wheel": ("tests/wheel.py", '"wheel")'),
    **dict.fromkeys(
        (
            f"{MUTANTS} --seed 1 --number 10 tests/integration/record --of shared/joblane/record --json faults.json",
            f"{MUTANTS} tests/integration/record --again faults.json",
        ),
        ("tests/unit/test_mutants.py", "mutants.main("),
    ),
    "joblane schema --out schemas/": ("tests/unit/cli/test_deploy.py", 'jobs("schema", "--out"'),
    "pip install joblane-0.1.0-py3-none-any.whl[local,test]": (
        "tests/e2e/adopter/test_adopter.py",
        "wheel.environment(",
    ),
    "joblane init": ("tests/e2e/adopter/test_adopter.py", '"2. Make the folder a project"'),
    "joblane dev": ("tests/integration/local/test_dev.py", '"joblane.cli", "dev"'),
    "joblane up": ("tests/e2e/adopter/test_adopter.py", '"6. Start the local stack"'),
    "joblane new invoice:remind": ("tests/integration/cli/test_scaffold.py", '"order:pay": {}'),
    "joblane new mail:send --on web": ("tests/integration/cli/test_scaffold.py", '"order:print": {"on": "web"}'),
    "joblane down": ("tests/e2e/adopter/test_adopter.py", '"joblane", "down"'),
    "joblane move celery shop": ("tests/integration/cli/test_move.py", '"move", "celery"'),
    "joblane move celery shop --dry-run": ("tests/integration/cli/test_move.py", '"--dry-run"'),
    "joblane migrate": ("tests/e2e/conftest.py", "stack.up()"),
    ".venv/bin/python -m tests.mutants --seed 1 --number 10 tests/integration/record --of shared/joblane/record"
    " --json faults.json": ("tests/unit/test_mutants.py", 'mutants.main(["--number"'),
    ".venv/bin/python -m tests.mutants tests/integration/record --again faults.json": (
        "tests/unit/test_mutants.py",
        'mutants.main(["--again"',
    ),
}
"""Commands of blocks without a mark → the file that runs them, and a text in it that shows this."""

BUILT_IN = {
    "psql",
    "alias",
    "set",
    ".",
    "export",
    "unset",
    "cd",
    "git",
    "cp",
    "uv",
    "python",
    "python3",
    "pip",
    "pipx",
    "uvx",
    "curl",
    "docker",
}
"""Programs whose arguments are not checked."""
OF_THE_CLI = {"query", "output", "region", "profile", "cli-binary-format", "max-items", "no-cli-pager"}
"""Options that every command of the AWS CLI accepts. Source: AWS CLI, *Command line options*."""
S3 = {"ls": {"recursive", "summarize"}, "rm": {"recursive"}}
"""Commands of ``aws s3`` that are not operations of the service. Source: AWS CLI command reference, *s3*."""
TOKENS = [
    ("rds", "generate-db-auth-token", {"hostname", "port", "username"}),
    ("ecr", "get-login-password", set[str]()),
]
"""Commands that are not operations of the service. Source: AWS CLI command reference, *rds* and *ecr*."""
CDK = {
    "bootstrap": {
        "qualifier",
        "toolkit-stack-name",
        "cloudformation-execution-policies",
        "custom-permissions-boundary",
    },
    "deploy": {"all", "context", "require-approval"},
    "destroy": {"all", "context"},
    "rollback": {"context", "orphan"},
}
"""Checked against the program itself by ``tests/infra/test_docs.py``."""


def test_every_block_says_what_it_needs() -> None:
    assert SHELL
    assert [str(block) for block in SHELL if block.mark not in MARKS] == []
    for language in ("bash", "shell", "console"):  # one name for one thing: only `sh` is looked at
        assert blocks(language) == []


PYTHON = {
    "docs/how-to/network.md": ("tests/infra/test_network.py", "network.md"),
    "README.md": ("tests/unit/test_readme.py", "README.md"),
    "docs/tutorial.md": ("tests/e2e/adopter/tutorial.py", "tutorial.md"),
    "docs/llms.txt": ("tests/integration/test_docs_moving.py", "llms.txt"),
    "docs/how-to/fastapi.md": ("tests/integration/test_docs_produce.py", "fastapi.md"),
    "docs/how-to/cancel": ("tests/browser/test_page.py", "cancel.md"),
    "docs/how-to/django.md": ("tests/e2e/test_django.py", '"django.md"'),
    "docs/how-to/produce": ("tests/integration/test_docs_produce.py", '.glob("produce*.md")'),
    "docs/how-to/test": ("tests/integration/testing/test_pytest_plugin.py", '.glob("test*.md")'),
    "docs/how-to/places.md": ("tests/integration/testing/test_places.py", '"places.md"'),
    "docs/how-to/produce-without": (
        "tests/integration/testing/test_share_payloads.py",
        "produce-without-the-client.md",
    ),
    "docs/how-to/permissions.md": ("tests/infra/test_docs_permissions.py", "permissions.md"),
    "docs/how-to/event": ("tests/infra/test_docs_events.py", "events.md"),
    "docs/how-to/own-cdk-app.md": ("tests/infra/test_construct.py", "own-cdk-app.md"),
    "docs/how-to/python-packages.md": ("tests/infra/test_images.py", "python-packages.md"),
    "docs/how-to/own-domain.md": ("tests/infra/test_docs_domain.py", "own-domain.md"),
    "docs/how-to/limit": ("tests/integration/test_docs_limits.py", "docs_page("),
    **{
        f"docs/how-to/{name}.md": ("tests/integration/test_docs_after.py", f'docs_page("{name}")')
        for name in ("after", "batches")
    },
    "docs/how-to/unique": ("tests/integration/test_docs_debounce.py", 'docs_page("unique")'),
    "docs/how-to/existing-database.md": ("tests/integration/record/test_own_alembic.py", "existing-database.md"),
    **{
        f"docs/moving/{name}.md": ("tests/integration/test_docs_moving.py", f"{name}.md")
        for name in ("celery", "dramatiq", "redis-queues")
    },
    **{
        f"docs/how-to/{name}.md": ("tests/integration/test_docs_tasks.py", f'"{name}"')
        for name in (
            *("async", "cancel", "change-payload", "enqueue", "long-work", "retry"),
            *("events", "hooks", "schedule", "trace", "unique", "waits", "write"),
        )
    },
}
"""Start of a page's path → the test that runs the page's blocks of Python, and the text that names the page there."""
FOLLOWED = {"docs/tutorial.md": "tests/e2e/adopter/tutorial.py"}
"""A page whose commands are read and run by a test, one by one → that test."""


@pytest.mark.parametrize("block", [block for block in SHELL if not block.mark], ids=str)
def test_a_test_runs_each_block_without_a_mark(block: Block) -> None:
    if test := FOLLOWED.get(str(block.page.relative_to(ROOT))):
        assert f'"{block.page.name}"' in (ROOT / test).read_text()
        return
    for words in commands(block.text):
        command = " ".join(words)
        assert command in RUN, f"{block}: no test runs `{command}`; name one in RUN, or mark the block"
        file, evidence = RUN[command]
        assert evidence in (ROOT / file).read_text(), f"{file} does not run it any more"


@pytest.mark.parametrize("block", blocks("python"), ids=str)
def test_a_block_of_python_is_on_a_page_that_a_test_runs(block: Block) -> None:
    page = str(block.page.relative_to(ROOT))
    runs = [test for start, test in PYTHON.items() if page.startswith(start)]
    assert runs, f"{block}: name the test that runs the Python of {page} in PYTHON"
    for file, evidence in runs:
        assert evidence in (ROOT / file).read_text(), f"{file} runs it no more"


@pytest.mark.parametrize("block", blocks("toml"), ids=str)
def test_a_block_of_toml_has_keys_that_a_project_takes(block: Block) -> None:
    found = tomllib.loads(block.text)
    assert found["tool"]["joblane"].keys() <= set(KEYS)


@pytest.mark.parametrize("block", SHELL, ids=str)
def test_every_command_exists_with_its_options(block: Block) -> None:
    for words in commands(block.text):
        assert list(problems(words)) == [], f"{block}: {' '.join(words)}"


def problems(words: list[str]) -> Iterator[str]:
    program, *rest = words
    match program.rpartition("/")[2]:
        case "make":
            yield from (f"make has no target {word}" for word in rest if "=" not in word and word not in targets())
        case "jobs" | "joblane":
            yield from _problems_of_jobs(rest)
        case "aws":
            yield from _problems_of_aws(rest)
        case "cdk":
            known = CDK.get(rest[0], set())
            given = {{"-c": "context"}.get(word, word.removeprefix("--")) for word in rest if word.startswith("-")}
            yield from [] if rest[0] in CDK else [f"cdk {rest[0]}: name it in CDK"]
            yield from (f"cdk {rest[0]} --{option}: name it in CDK" for option in given - known)
        case name if name not in BUILT_IN:
            yield f"{name}: a program that is not known here"


def targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):.*?## ", (ROOT / "Makefile").read_text(), re.M))


@cache
def _joblane() -> Any:
    return typer.main.get_command(app)


def _problems_of_jobs(words: list[str]) -> Iterator[str]:
    command = _joblane()
    name, left = "joblane", list(words)
    while left:
        if isinstance(command, Listing) and left[0] not in {*command.commands, "--help"}:
            left.insert(0, "ls")
        options = {option: parameter for parameter in command.params for option in parameter.opts}
        word = left.pop(0)
        if word.startswith("-") and word != "-":
            if word not in options and word not in ("--help", "--install-completion"):
                yield f"{name} has no {word}"
                return  # it is unknown if the next word is its value
            if word in options and not options[word].is_flag:
                left = left[1:]
        elif hasattr(command, "commands"):
            if word not in command.commands:
                yield f"{name} has no command {word}"
                return
            command, name = command.commands[word], f"{name} {word}"


def _problems_of_aws(words: list[str]) -> Iterator[str]:
    service, operation, *rest = words
    given = {word.removeprefix("--").partition("=")[0] for word in rest if word.startswith("--")} - OF_THE_CLI
    if service == "s3":
        yield from [] if operation in S3 else [f"aws s3 {operation}: name it in S3"]
        yield from (f"aws s3 {operation} has no --{name}" for name in given - S3.get(operation, set()))
        return
    if (service, operation, given) in TOKENS:
        return
    if operation == "wait":
        waiter = rest[0] if rest else ""
        if waiter not in (waits := _waiters(service)):
            yield f"aws {service} wait has no {waiter}"
            return
        operation = waits[waiter]
    operations = _operations(service)
    if operation not in operations:
        yield f"aws {service} has no operation {operation}"
        return
    model = operations[operation]
    members = model.input_shape.members if model.input_shape else {}
    known = {xform_name(name, "-") for name in members}
    known |= {f"no-{xform_name(name, '-')}" for name, member in members.items() if member.type_name == "boolean"}
    yield from (f"aws {service} {operation} has no --{name}" for name in sorted(given - known))
    required = {xform_name(name, "-") for name in (model.input_shape.required_members if model.input_shape else ())}
    missing = {name for name in required if name not in given and f"no-{name}" not in given}
    yield from (f"aws {service} {operation} requires --{name}" for name in sorted(missing))


@cache
def _operations(service: str) -> dict[str, Any]:
    """By the names that the AWS CLI gives them; none where there is no such service."""
    try:
        model = Session().get_service_model(service)
    except UnknownServiceError:
        return {}
    return {xform_name(name, "-"): model.operation_model(name) for name in model.operation_names}


@cache
def _waiters(service: str) -> dict[str, str]:
    """By the names that ``aws SERVICE wait`` gives them: the operation that each repeats."""
    model = Session().get_waiter_model(service)
    return {xform_name(name, "-"): xform_name(model.get_waiter(name).operation, "-") for name in model.waiter_names}


INLINE = re.compile(r"`((?:\.venv/bin/)?joblane [^`]+)`")
PLACEHOLDERS = re.compile(r"COMMAND|…")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_in_a_sentence_exists_with_its_options(page: Path) -> None:
    prose = FENCE.sub("", page.read_text())
    for command in INLINE.findall(prose):
        if not PLACEHOLDERS.search(command):
            assert list(problems(shlex.split(command))) == [], command


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        ("make nothing", "make has no target nothing"),
        ("joblane drop", "joblane has no command drop"),
        ("joblane retry x --plan y", "joblane retry has no --plan"),
        ("joblane --stage dev bulk halt x", "joblane bulk has no command halt"),
        ("joblane --stadium dev ls", "joblane has no --stadium"),
        ("joblane bulk abort x --force", "joblane bulk abort has no --force"),
        ("aws sqs send-mesage --queue-url x", "aws sqs has no operation send-mesage"),
        ("aws sqs send-message --queue-url x --message-body y --group z", "aws sqs send-message has no --group"),
        ("aws sqs send-message --queue-url x", "aws sqs send-message requires --message-body"),
        ("aws rds wait db-cluster-ready", "aws rds wait has no db-cluster-ready"),
        (
            "aws rds wait db-cluster-available --db-instance-identifier x",
            "aws rds describe-db-clusters has no --db-instance-identifier",
        ),
        ("aws s3 rm x --all", "aws s3 rm has no --all"),
        ("aws sqss send-message", "aws sqss has no operation send-message"),
        ("cdk deploy --hotswap", "cdk deploy --hotswap: name it in CDK"),
        ("echo x", "echo: a program that is not known here"),
        ('cd x && export Y="$(make nothing)"', "make has no target nothing"),
    ],
)
def test_a_command_that_does_not_exist_is_found(command: str, problem: str) -> None:
    assert [found for words in commands(command) for found in problems(words)] == [problem]


def test_commands_are_read_across_lines_quotes_and_comments() -> None:
    text = "make up  # and wait\nA=1 aws sqs \\\n  list-queues --query 'a\nb'; make down | cat\n# make no\n"
    assert list(commands(text)) == [
        ["make", "up"],
        ["aws", "sqs", "list-queues", "--query", "a\nb"],
        ["make", "down"],
        ["cat"],
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in links(page):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        other = (page.parent / path).resolve() if path else page
        assert other.exists(), f"{page.name}: {target}"
        assert not anchor or anchor in anchors(other), f"{page.name}: {target}: there is no such heading"


GENERATED = re.compile(r"<!-- (?:generated|costs|facts)\b.*?<!-- end -->", re.S)


def test_the_pages_stay_few_and_short() -> None:
    assert len([*(ROOT / "docs" / "how-to").glob("*.md")]) - 1 <= 50
    written = [GENERATED.sub("", page.read_text()) for page in (ROOT / "docs").rglob("*.md")]
    assert sum(len(text.split()) for text in written) <= 90_000


@pytest.mark.parametrize("index", sorted((ROOT / "docs").rglob("index.md")), ids=lambda page: page.parent.name)
def test_the_index_of_a_folder_links_each_of_its_pages(index: Path) -> None:
    linked = {(index.parent / target.partition("#")[0]).resolve() for target in links(index)}
    assert set(index.parent.glob("*.md")) - linked - {index} == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_link_shows_a_title_and_no_file_name(page: Path) -> None:
    assert re.findall(r"\[[\w./-]+\.md\]\(", page.read_text()) == []


NAMED = {name for page in PAGES for name in re.findall(r"`make ([a-z-]+)", page.read_text())}


@pytest.mark.parametrize("name", sorted(NAMED))
def test_every_target_of_make_in_the_text_exists(name: str) -> None:
    assert name in targets()


def test_a_block_within_a_list_is_found_and_read_without_its_indent(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("1. Do:\n\n   ```sh account\n   make up\n   ```\n\n2. Done.\n\n```sh\nmake down\n```\n")
    found = [(block.line, block.mark, block.text) for block in blocks("sh", page)]
    assert found == [(3, "account", "make up\n"), (9, "", "make down\n")]
