"""`joblane deploy --watch`: alarms after a deploy, and the way back to the earlier templates if one of them fires."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from joblane.cdk.way_back.alarms import (
    CONFIRMATION,
    OK,
    PERMISSION,
    AlarmState,
    Counted,
    Firing,
    has_alarms,
    read_states,
)
from joblane.cdk.way_back.deployed import PERMISSIONS, Deployed, read_deployed
from joblane.cdk.way_back.folder import write_folder
from joblane.cdk.way_back.judgement import migration_of, reasons_to_stay
from joblane.cli import filters, terminal
from joblane.cli.exits import Exit, exit_of, message_of
from joblane.cli.rollout import Marks, Rollout, marks, statuses
from joblane.errors import JobError
from joblane.inspector.durations import written
from joblane.inspector.unavailable import DENIED
from joblane.local.errors import ForbiddenError, LocalError, UnavailableError
from joblane.local.git import deployer
from joblane.record.audit import user_of_process

if TYPE_CHECKING:
    from boto3.session import Session

SHORTEST, LONGEST = timedelta(minutes=1), timedelta(hours=3)
POLL_SECONDS = 15.0
LINE_SECONDS = 300.0
"""Time between two lines of progress where there is no terminal."""
MOST = 5
"""Alarms in a line."""
GO_BACK = 'docs/how-to/change-safely.md, "Go back"'


def length_of(watch: str | None) -> timedelta | None:
    """Return the value of --watch. A wrong one ends the command."""
    length = filters.duration_of(watch, "--watch")
    if length is not None and not SHORTEST <= length <= LONGEST:
        terminal.usage(f"{watch!r} is not between {written(SHORTEST)} and {written(LONGEST)}", "--watch")
    return length


def need_alarms(templates: Mapping[str, Mapping[str, Any]]) -> None:
    """End the command if the stage has no alarms."""
    if not has_alarms(templates):
        terminal.usage("the stage has no alarms: add `monitoring` to it in cdk.json, or leave --watch out", "--watch")


def start(rollout: Rollout, session: Session, length: timedelta) -> WatchedDeploy | None:
    """Read what the deploy will replace. None, with a message: there is nothing to watch.

    Raises :class:`ForbiddenError` and :class:`UnavailableError`; nothing is deployed then.
    """
    with _client(session, "cloudformation", PERMISSIONS) as client:
        deployed = read_deployed(client, rollout.templates)
        before = marks(client, rollout.stacks)
    if not deployed.templates:
        terminal.say("Watch: the stage is not deployed yet, so no alarm is watched and there is no way back.")
        return None
    with _client(session, "cloudwatch", PERMISSION) as client:
        states = read_states(client, deployed.alarms.values())
    counted = Counted.of(deployed, states, rollout.templates)
    if not counted.names:
        terminal.say(f"Watch: no alarm counts, so none is watched: {_list(counted.left_out)}")
        return None
    watch = WatchedDeploy(rollout, session, length, deployed, counted, before)
    many = "1 alarm counts" if len(counted.names) == 1 else f"{len(counted.names)} alarms count"
    terminal.say(f"Watch: {many}, for {written(length)} after the deploy.")
    if counted.left_out:
        terminal.say(f"Watch: these do not count: {_list(counted.left_out)}")
    for reason in watch.reasons:
        terminal.say(f"Watch: this deploy will not be taken back: {reason}.")
    watch.write("by hand")
    return watch


@dataclass
class WatchedDeploy:
    """A deploy whose alarms are watched for ``length``. ``before``: the marks of the stacks when it began."""

    rollout: Rollout
    session: Session
    length: timedelta
    deployed: Deployed
    counted: Counted
    before: Marks
    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    reasons: list[str] = field(init=False)
    is_new: bool = field(default=False, init=False)
    """True after a deploy for which no alarm has fired."""
    _after: Marks | None = None
    """The marks after the deploy; None: it has not ended."""
    _folder: Path | None = None

    def __post_init__(self) -> None:
        self.reasons = reasons_to_stay(self.deployed, self.rollout.templates)

    @property
    def version(self) -> str:
        """The version that is deployed."""
        return str(migration_of(self.rollout.templates).get("Version") or "this checkout")

    def write(self, why: str) -> Path:
        """Write the earlier templates into a folder for `cdk deploy --app`. ``why``: for the audit."""
        by = deployer(self.rollout.project.root) or user_of_process()
        self._folder = write_folder(self.deployed, self.rollout.assembly, by=by, version=self.version, why=why)
        return self._folder

    def run(self, deploy: Callable[[], bool], first_job: Callable[[], Exit]) -> Exit:
        """Deploy, run the first job, watch, and return the exit status. ``deploy``: True if a stack changed."""
        try:
            with _terminable():
                changed = deploy()
                self._after = self._marks()
                try:
                    status = first_job()
                except JobError as error:
                    terminal.say(f"joblane: {message_of(error)}")
                    status = exit_of(error) or Exit.FAILED
                if status is Exit.INTERRUPTED:
                    raise KeyboardInterrupt
                if not changed:
                    terminal.say("Watch: no stack changed, so nothing is watched.")
                outcome = self._watch() if changed else Exit.DONE
                self.is_new = outcome is Exit.DONE
        except KeyboardInterrupt:
            terminal.say("\nStopped.")
            self._say_deployed()
            return Exit.INTERRUPTED
        return status if outcome is Exit.DONE else outcome

    # --- Alarms -------------------------------------------------------------------------------------------------------

    def _watch(self) -> Exit:
        started, firing, console = self.now(), Firing(), terminal.messages()
        line, states = started, None
        with closing(self.session.client("cloudwatch")) as client, console.status("") as shown:
            while True:
                states = self._states(client)
                now = self.now()
                fired = [] if states is None else firing.confirmed(states.values(), now)
                if fired:
                    break
                left = started + self.length.total_seconds() - now
                if left <= 0 and (states is None or not firing.names):
                    break
                text = self._progress(left, states, firing)
                shown.update(text)
                if not console.is_terminal and now >= line:
                    terminal.say(text)
                    line = now + LINE_SECONDS
                self.sleep(POLL_SECONDS)
        if fired:
            return self._answer(fired, now - started)
        if states is None:
            raise UnavailableError(
                f"Watch: the stage is deployed, but its alarms could not be read at the end of {written(self.length)}. "
                f"Check them, and the credentials; the caller needs {PERMISSION}. {self._by_hand()}"
            )
        silent = sorted(name for name in self.counted.names if name not in states or states[name].state != OK)
        terminal.say(f"Watch: no alarm fired within {written(self.length)}.")
        if silent:
            terminal.say(f"Watch: without data at the end: {', '.join(silent)}")
        return Exit.DONE

    def _states(self, client: Any) -> dict[str, AlarmState] | None:
        """Return the states of the alarms that count; None: they cannot be read now."""
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            return read_states(client, self.counted.names)
        except (BotoCoreError, ClientError):
            return None

    def _progress(self, left: float, states: Mapping[str, AlarmState] | None, firing: Firing) -> str:
        if states is None:
            found = "the alarms cannot be read now"
        elif firing.names:
            found = f"{', '.join(firing.names)} fires, which must last for {written(CONFIRMATION)}"
        else:
            found = f"{sum(each.state == OK for each in states.values())} of {len(self.counted.names)} OK"
        return f"Watch: {terminal.short(max(left, 0))} left; {found}"

    # --- The way back -------------------------------------------------------------------------------------------------

    def _answer(self, fired: list[AlarmState], after_seconds: float) -> Exit:
        for alarm in fired:
            terminal.say(f"Alarm {alarm.name} fired {terminal.short(after_seconds)} after the deploy: {alarm.reason}")
        if self._marks() != self._after:
            self.reasons.append("another deploy has changed the stage since then, or its stacks cannot be read")
        if self.reasons:
            terminal.say("The deploy was not taken back:")
            for reason in self.reasons:
                terminal.say(f"  {reason}")
            terminal.say(f"{self.version} runs. Pause the types that fail, and fix the code, or see {GO_BACK}.")
            return Exit.ALARM
        names = ", ".join(alarm.name for alarm in fired)
        why = f"{names} fired {terminal.short(after_seconds)} after the deploy"
        folder = self.write(why.replace("{{", "{ {"))  # CloudFormation replaces {{…}}
        terminal.say(f"The deploy of {self.version} is taken back, with the earlier templates in {folder}.")
        earlier = replace(self.rollout, assembly=folder, templates=self.deployed.templates)
        try:
            earlier.deploy(self.session, approved=True)
        except LocalError as error:
            terminal.say(str(error))
            self._say_deployed()
            return Exit.ALARM
        terminal.say(
            f"The deploy of {self.version} was taken back: the stage has its earlier templates. The database keeps its "
            "schema. This checkout still has the change: fix it before the next deploy."
        )
        return Exit.TAKEN_BACK

    def _say_deployed(self) -> None:
        """Print the state of each stack, and the command for the way back."""
        from botocore.exceptions import BotoCoreError

        base = self.before if self._after is None else self._after
        try:
            with closing(self.session.client("cloudformation")) as client:
                found, now = statuses(client, self.rollout.stacks), marks(client, self.rollout.stacks)
        except BotoCoreError as error:
            terminal.say(f"The stacks cannot be read: {error}")
            found, now = {}, {}
        for stack in self.rollout.stacks if found else ():
            terminal.say(f"  {stack}: {self._state(found.get(stack), is_same=now.get(stack) == base.get(stack))}")
        terminal.say(self._by_hand())

    def _state(self, status: str | None, *, is_same: bool) -> str:
        was, becomes = ("earlier", "new") if self._after is None else ("new", "earlier")
        if status is None:
            return "not deployed"
        if status.endswith("_IN_PROGRESS"):
            return f"{status}: CloudFormation continues"
        if is_same or "ROLLBACK" in status:
            return f"{status}, {was} template"
        return f"{status}, {becomes} template"

    def _by_hand(self) -> str:
        if self.reasons:
            return f"The way back is not safe: {'; '.join(self.reasons)}. See {GO_BACK}."
        return f"The way back by hand, when no stack is in progress: cdk deploy --all --app {self._folder}"

    def _marks(self) -> Marks:
        """Return the marks of the stacks; empty: AWS cannot be reached."""
        from botocore.exceptions import BotoCoreError

        try:
            with closing(self.session.client("cloudformation")) as client:
                return marks(client, self.rollout.stacks)
        except BotoCoreError:
            return {}


def _list(left_out: Mapping[str, str]) -> str:
    shown = [f"{name} {why}" for name, why in list(left_out.items())[:MOST]]
    more = f"; and {len(left_out) - MOST} more" if len(left_out) > MOST else ""
    return "; ".join(shown) + more + "." if shown else "the deployed stacks have none."


@contextmanager
def _client(session: Session, service: Any, permission: str) -> Iterator[Any]:
    """A client before the deploy, whose errors end the command."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        with closing(session.client(service)) as client:
            yield client
    except ClientError as error:
        if error.response.get("Error", {}).get("Code") in DENIED:
            raise ForbiddenError(f"--watch: {error}. Allow {permission}. Nothing was deployed.") from error
        raise UnavailableError(f"--watch: {error}. Nothing was deployed.") from error
    except BotoCoreError as error:
        raise UnavailableError(f"--watch: {str(error).rstrip('.')}. Nothing was deployed.") from error


@contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM, by which CI systems stop a command, be the same as Ctrl-C."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
