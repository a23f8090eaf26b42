"""What surrounds the code: the workflow, its pins, the one command that tests all, and what a newcomer reads."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from tests.browser.chromium import NAMES, chromium
from tests.pages import ROOT

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.y*ml"))
USES = re.compile(r"^\s*(?:- )?uses:(.*)$", re.M)
PINNED = re.compile(r" [\w.-]+(/[\w.-]+)+@[0-9a-f]{40} # v\d+\.\d+\.\d+")
TEST_COMMAND = "make test"


def read(path: Path) -> dict[Any, Any]:
    content = yaml.safe_load(path.read_text())
    assert isinstance(content, dict)
    return content


@pytest.fixture
def workflow() -> dict[Any, Any]:
    return read(ROOT / ".github" / "workflows" / "ci.yml")


def steps(job: dict[str, Any]) -> list[str]:
    """What its steps run or use, in order."""
    return [step.get("run") or step["uses"].partition("@")[0] for step in job["steps"]]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_every_action_is_pinned_by_a_commit_and_says_its_version(path: Path) -> None:
    used = USES.findall(path.read_text())
    assert used
    assert [one for one in used if not PINNED.fullmatch(one)] == []


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_an_action_is_pinned_to_one_commit_throughout(path: Path) -> None:
    commits: dict[str, set[str]] = {}
    for used in USES.findall(path.read_text()):
        name, _, commit = used.strip().partition("@")
        commits.setdefault(name, set()).add(commit)
    assert {name: found for name, found in commits.items() if len(found) > 1} == {}


@pytest.mark.parametrize("uses", [" actions/checkout@v6", f" actions/checkout@{'a' * 40}", " a/b@main # v1.0.0"])
def test_a_tag_a_branch_or_a_commit_without_a_version_would_be_found(uses: str) -> None:
    assert not PINNED.fullmatch(uses)


def test_tests_run_on_every_push_and_pull_request_with_no_more_than_reading(workflow: dict[Any, Any]) -> None:
    on = workflow[True]  # what YAML 1.1 makes of the word
    assert on["push"] == {"branches": ["main"]}
    assert "pull_request" in on
    assert "pull_request_target" not in on
    assert workflow["permissions"] == {"contents": "read"}
    assert workflow["concurrency"]["group"]
    job = workflow["jobs"]["test"]
    assert job["strategy"]["matrix"] == {"os": ["ubuntu-latest"], "python": ["3.13"]}
    assert steps(job) == ["actions/checkout", "actions/setup-python", "actions/cache", TEST_COMMAND]
    assert "permissions" not in job


def test_a_deploy_comes_after_the_tests_from_main_alone_and_to_prod_by_hand(workflow: dict[Any, Any]) -> None:
    job = workflow["jobs"]["deploy"]
    assert job["needs"] == "test"
    assert job["if"].startswith("github.ref == 'refs/heads/main' && github.event_name != 'pull_request' && ")
    chosen = "${{ inputs.stage || 'dev' }}"  # there is no input but by hand
    assert (job["environment"], job["env"]["STAGE"]) == (chosen, chosen)
    assert workflow[True]["workflow_dispatch"]["inputs"]["stage"]["options"] == ["dev", "prod"]
    assert job["permissions"] == {"contents": "read", "id-token": "write"}
    assert job["concurrency"] == {"group": f"deploy-{chosen}", "cancel-in-progress": False}


def test_a_deploy_writes_the_templates_before_it_has_a_role_and_asks_before_it_changes_anything(
    workflow: dict[Any, Any],
) -> None:
    ran = steps(workflow["jobs"]["deploy"])
    assert ran[2:5] == ["make synth", "aws-actions/configure-aws-credentials", 'make preflight STAGE="$STAGE"']
    assert re.search(r'cdk deploy --all -c stage="\$STAGE" --require-approval never$', ran[5].strip())
    assert len(ran) == 6


def test_no_key_and_no_expression_stands_in_a_script(workflow: dict[Any, Any]) -> None:
    text = (ROOT / ".github" / "workflows" / "ci.yml").read_text()
    assert "secrets." not in text
    for job in workflow["jobs"].values():
        assert [step["run"] for step in job["steps"] if "${{" in step.get("run", "")] == []


def test_the_readme_the_workflow_and_the_ci_machine_run_the_same_command(workflow: dict[Any, Any]) -> None:
    assert TEST_COMMAND in steps(workflow["jobs"]["test"])
    assert (ROOT / ".ci" / "run").read_text().splitlines()[-1] == f"exec {TEST_COMMAND}"
    for page in ("README.md", "CONTRIBUTING.md"):
        assert re.search(rf"^{TEST_COMMAND}\b", (ROOT / page).read_text(), re.M), page


def test_without_a_browser_a_laptop_goes_without_its_tests_and_a_ci_machine_fails(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="apt install chromium"):
        chromium()
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="apt install chromium"):
        chromium()


def test_the_ci_machine_looks_for_the_browsers_that_the_tests_look_for() -> None:
    script = (ROOT / ".ci" / "run").read_text()
    assert f"for name in {' '.join(NAMES)}; do" in script


def test_the_hook_of_pre_commit_is_what_make_test_begins_with() -> None:
    [repository] = read(ROOT / ".pre-commit-config.yaml")["repos"]
    [hook] = repository["hooks"]
    assert (repository["repo"], hook["entry"], hook["language"]) == ("local", "make check", "system")
    assert re.search(r"^test: check ", (ROOT / "Makefile").read_text(), re.M)


def test_dependabot_looks_where_the_lock_files_are() -> None:
    updates = {one["package-ecosystem"]: one for one in read(ROOT / ".github" / "dependabot.yml")["updates"]}
    assert set(updates) == {"github-actions", "npm", "pip"}
    assert (ROOT / "package-lock.json").exists()
    for directory in updates["pip"]["directories"]:
        assert sorted(ROOT.joinpath(directory.strip("/")).glob("*.txt"))
    assert updates["pip"]["open-pull-requests-limit"] == 0


def test_there_is_one_licence() -> None:
    text = (ROOT / "LICENSE").read_text()
    assert text.startswith("MIT License\n\nCopyright (c) 2026 The Joblane authors\n")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert (project["license"], project["license-files"]) == ("MIT", ["LICENSE"])
