"""The version of a project's code and the person who deploys it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from joblane.local.git import CI_NAMES, deployer, version_of


def git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, check=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with one commit of ann's, without the configuration of this machine."""
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", "/dev/null")
    for name in CI_NAMES:
        monkeypatch.delenv(name, raising=False)
    git(tmp_path, "init", "-q")
    git(tmp_path, "config", "user.name", "Ann Lee")
    git(tmp_path, "config", "user.email", "ann@example.com")
    (tmp_path / "code.py").write_text("1")
    git(tmp_path, "add", "code.py")
    git(tmp_path, "commit", "-qm", "One")
    git(tmp_path, "tag", "v1")
    return tmp_path


def test_the_version_is_the_commit_and_says_whether_code_was_changed_since(repository: Path) -> None:
    commit = git(repository, "rev-parse", "--short=7", "HEAD")
    assert version_of(repository) == commit
    (repository / "code.py").write_text("2")
    assert version_of(repository) == f"{commit}-dirty"


def test_the_deployer_is_the_person_of_the_ci_run_else_of_git(repository: Path) -> None:
    assert deployer(repository, {}) == "Ann Lee"
    assert deployer(repository, {"GITHUB_ACTOR": "  bob "}) == "bob"
    assert deployer(repository, {"GITHUB_ACTOR": "a\x00b"}) == "Ann Lee"
    assert deployer(repository, {"BUILDKITE_BUILD_CREATOR": "{{resolve:ssm:/jobs/name}}"}) == "Ann Lee"
    assert len(deployer(repository, {"GITHUB_ACTOR": "b" * 1000}) or "") == 100


def test_a_folder_without_git_has_neither(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", "/dev/null")
    assert (version_of(tmp_path), deployer(tmp_path, {})) == (None, None)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert version_of(tmp_path) is None
