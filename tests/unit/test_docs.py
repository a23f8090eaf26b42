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

MARKS = ("", "stack", "emulator", "account")

RUN = {
    "make demo": ("tests/e2e/test_demo.py", '"saas.demo"'),
    "make test": (".ci/run", "exec make test"),
    "make check": ("Makefile", "--jobs 2 check modules"),
    "make up": ("tests/e2e/test_stack.py", "stack.up()"),
    "make down": ("tests/e2e/test_stack.py", "stack.down()"),
    "make docs": ("tests/unit/test_site.py", '"sphinx"'),
    "make synth": ("tests/infra/test_app.py", "main(["),
    "make wheel": ("tests/wheel.py", '"wheel")'),
    "joblane schema --out schemas/": ("tests/unit/cli/test_deploy.py", 'jobs("schema", "--out"'),
    "pip install joblane-0.1.0-py3-none-any.whl[local,test]": (
        "tests/e2e/adopter/test_adopter.py",
        "wheel.environment(",
    ),
    "joblane init": ("tests/e2e/adopter/test_adopter.py", '"2. Make the folder a project"'),
    "joblane dev": ("tests/integration/local/test_dev.py", '"joblane.cli", "dev"'),
    "joblane up": ("tests/e2e/adopter/test_adopter.py", '"6. Start the local stack"'),
    "joblane new invoice:remind": ("tests/integration/cli/test_scaffold.py", '"order:pay": {}'),
    "joblane down": ("tests/e2e/adopter/test_adopter.py", '"joblane", "down"'),
    "joblane migrate": ("tests/e2e/conftest.py", "stack.up()"),
    **{
        f".venv/bin/python -m tests.mutants {options}": ("tests/unit/test_mutants.py", 'mutants.main(["--again"')
        for options in (
            "--seed 1 --number 10 tests/integration/record --of shared/joblane/record --json faults.json",
            "tests/integration/record --again faults.json",
        )
    },
}
"""Commands of blocks without a mark → the file that runs them, and a text in it that shows this."""

BUILT_IN = {
    *("psql", "curl", "git", "cp", "cd", "alias", "set", ".", "export", "unset"),
    *("uv", "python", "python3", "pip", "pipx", "uvx"),
}
"""Programs whose arguments are not checked."""
OF_THE_CLI = {"query", "output", "region", "profile", "cli-binary-format", "max-items", "no-cli-pager"}
"""Options that every command of the AWS CLI accepts. Source: AWS CLI, *Command line options*."""
S3 = {"ls": {"recursive", "summarize"}, "rm": {"recursive"}}
"""Commands of ``aws s3`` that are not operations of the service. Source: AWS CLI command reference, *s3*."""
TOKEN = ("rds", "generate-db-auth-token", {"hostname", "port", "username"})
"""A command without a call to AWS. Source: AWS CLI command reference, *rds*."""
CDK = {
    "bootstrap": {"qualifier", "toolkit-stack-name", "cloudformation-execution-policies"},
    "deploy": {"all", "context", "require-approval"},
    "destroy": {"all", "context"},
    "rollback": {"context", "orphan"},
}
"""Checked against the program itself by ``tests/infra/test_docs.py``."""


@cache
def shell() -> list[Block]:
    """Blocks of commands."""
    return blocks("sh")


def test_every_block_says_what_it_needs() -> None:
    assert shell()
    assert [str(block) for block in shell() if block.mark not in MARKS] == []
    for language in ("bash", "shell", "console"):  # one name for one thing: only `sh` is looked at
        assert blocks(language) == []


PYTHON = {
    "docs/how-to/network.md": ("tests/infra/test_network.py", "network.md"),
    "README.md": ("tests/unit/test_readme.py", "README.md"),
    "docs/tutorial.md": ("tests/e2e/adopter/tutorial.py", "tutorial.md"),
    "docs/llms.txt": ("tests/integration/test_docs_moving.py", "llms.txt"),
    "docs/how-to/fastapi.md": ("tests/integration/test_docs_produce.py", "fastapi.md"),
    "docs/how-to/django.md": ("tests/e2e/test_django.py", '"django.md"'),
    "docs/how-to/produce": ("tests/integration/test_docs_produce.py", '.glob("produce*.md")'),
    "docs/how-to/test": ("tests/integration/testing/test_pytest_plugin.py", '.glob("test*.md")'),
    "docs/how-to/share-payloads.md": ("tests/integration/testing/test_share_payloads.py", "share-payloads.md"),
    "docs/how-to/permissions.md": ("tests/infra/test_docs_permissions.py", "permissions.md"),
    "docs/how-to/event-targets.md": ("tests/infra/test_docs_events.py", "event-targets.md"),
    "docs/how-to/own-cdk-app.md": ("tests/infra/test_construct.py", "own-cdk-app.md"),
    "docs/how-to/limit-": ("tests/integration/test_docs_limits.py", "docs_page(name)"),
    **{
        f"docs/how-to/{name}.md": ("tests/integration/test_docs_after.py", f'docs_page("{name}")')
        for name in ("after", "batches")
    },
    "docs/how-to/debounce.md": ("tests/integration/test_docs_debounce.py", 'docs_page("debounce")'),
    "docs/how-to/existing-database.md": ("tests/integration/record/test_own_alembic.py", "existing-database.md"),
    **{
        f"docs/moving/{name}.md": ("tests/integration/test_docs_moving.py", f"{name}.md")
        for name in ("asynq", "celery", "dramatiq", "sidekiq")
    },
    **{
        f"docs/how-to/{name}.md": ("tests/integration/test_docs_tasks.py", f'"{name}"')
        for name in (
            *("async", "cancel", "change-payload", "change-safely", "enqueue", "long-work", "redact", "retry"),
            *("events", "schedule", "steps", "trace", "unique", "write"),
        )
    },
}
"""Start of a page's path → the test that runs the page's blocks of Python, and the text that names the page there."""
FOLLOWED = {"docs/tutorial.md": "tests/e2e/adopter/tutorial.py"}
"""A page whose commands are read and run by a test, one by one → that test."""


def test_a_test_runs_each_block_without_a_mark() -> None:
    for page, test in FOLLOWED.items():
        assert f'"{Path(page).name}"' in (ROOT / test).read_text()
    plain = [block for block in shell() if not block.mark and str(block.page.relative_to(ROOT)) not in FOLLOWED]
    found = {" ".join(words): block for block in plain for words in commands(block.text)}
    assert {str(block): command for command, block in found.items() if command not in RUN} == {}, "name a test in RUN"
    gone = [command for command in found if RUN[command][1] not in (ROOT / RUN[command][0]).read_text()]
    assert gone == [], "the files in RUN do not run them any more"


def test_a_block_of_python_is_on_a_page_that_a_test_runs() -> None:
    for page in {str(block.page.relative_to(ROOT)) for block in blocks("python")}:
        runs = [test for start, test in PYTHON.items() if page.startswith(start)]
        assert runs, f"name the test that runs the Python of {page} in PYTHON"
        assert [file for file, evidence in runs if evidence not in (ROOT / file).read_text()] == [], page


def test_a_block_of_toml_has_keys_that_a_project_takes() -> None:
    for block in blocks("toml"):
        assert tomllib.loads(block.text)["tool"]["joblane"].keys() <= set(KEYS), block


def test_every_command_exists_with_its_options() -> None:
    found = [
        (str(block), problem) for block in shell() for words in commands(block.text) for problem in problems(words)
    ]
    assert found == []


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
    return set(re.findall(r"^([a-z]+):.*?## ", (ROOT / "Makefile").read_text(), re.M))


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
    if (service, operation, given) == TOKEN:
        return
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


INLINE = re.compile(r"`((?:\.venv/bin/)?joblane [^`]+)`")
PLACEHOLDERS = re.compile(r"COMMAND|…")


def test_every_command_in_a_sentence_exists_with_its_options() -> None:
    found = {command: page for page in PAGES for command in INLINE.findall(FENCE.sub("", page.read_text()))}
    for command, page in found.items():
        if not PLACEHOLDERS.search(command):
            assert list(problems(shlex.split(command))) == [], (page, command)


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


def test_every_link_leads_somewhere() -> None:
    known = cache(anchors)
    for page in PAGES:
        for target in links(page):
            path, _, anchor = target.partition("#")
            other = (page.parent / path).resolve() if path else page
            exists = target.startswith("https://") or (other.exists() and (not anchor or anchor in known(other)))
            assert exists, f"{page}: {target}"


def test_the_index_of_a_folder_links_each_of_its_pages() -> None:
    for index in (ROOT / "docs").rglob("index.md"):
        linked = {(index.parent / target.partition("#")[0]).resolve() for target in links(index)}
        assert set(index.parent.glob("*.md")) - linked - {index} == set()


def test_a_link_shows_a_title_and_no_file_name() -> None:
    assert [page for page in PAGES if re.search(r"\[[\w./-]+\.md\]\(", page.read_text())] == []


def test_every_target_of_make_in_the_text_exists() -> None:
    named = {name for page in PAGES for name in re.findall(r"`make ([a-z]+)", page.read_text())}
    assert named - targets() == set()


def test_a_block_within_a_list_is_found_and_read_without_its_indent(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("1. Do:\n\n   ```sh account\n   make up\n   ```\n\n2. Done.\n\n```sh\nmake down\n```\n")
    found = [(block.line, block.mark, block.text) for block in blocks("sh", page)]
    assert found == [(3, "account", "make up\n"), (9, "", "make down\n")]
