"""`.joblane/env`: values are read back unchanged, and a broken file is an error that says what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from joblane.local import env_file
from joblane.local.errors import LocalError


def test_any_value_is_read_back_unchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(env_file, "task_settings", lambda: {"KEY", "EMPTY"})
    pem = '-----BEGIN KEY-----\nit\'s = "a" # key\r\n-----END KEY-----\n'
    variables = {"DATABASE_URL": "postgresql://x@127.0.0.1/x", "KEY": pem, "EMPTY": "", "JOBLANE_FUNCTIONS": "jobs"}
    env_file.write(tmp_path / "env", variables)
    assert env_file.read(tmp_path / "env") == variables


def test_a_file_changed_by_hand_is_read_as_a_shell_reads_it(tmp_path: Path) -> None:
    env_file.write(tmp_path / "env", {})
    (tmp_path / "env").write_text("# it's mine\n\nexport JOBLANE_PREFIX=acme # and this\nAWS_REGION='us-east-1'\n")
    assert env_file.read(tmp_path / "env") == {"JOBLANE_PREFIX": "acme", "AWS_REGION": "us-east-1"}


@pytest.mark.parametrize("content", [b"JOBLANE_PREFIX='jobs\n", b"JOBLANE_PREFIX=\xff\n"])
def test_a_broken_file_is_an_error_that_says_what_to_do(tmp_path: Path, content: bytes) -> None:
    env_file.write(tmp_path / "env", {})
    (tmp_path / "env").write_bytes(content)
    with pytest.raises(LocalError, match=r"env is not read: .*Remove it; `joblane up` writes it again"):
        env_file.read(tmp_path / "env")
