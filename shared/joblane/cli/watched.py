"""`joblane deploy --watch`: alarms after a deploy, and the way back to the earlier templates if one of them fires."""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from joblane.cdk.preflight.moves import NO_STACK
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
from joblane.cdk.way_back.deployed import PERMISSIONS, Deployed, other_stacks, read_deployed
from joblane.cdk.way_back.folder import folder_of, regions_of, write_folder
from joblane.cdk.way_back.judgement import migration_of, reasons_to_stay
from joblane.cli import filters, terminal
from joblane.cli.exits import Exit, exit_of, message_of
from joblane.cli.rollout import Marks, Rollout, mark_of, marks, newest_event, operations_since, read_stack
from joblane.errors import JobError
from joblane.inspector.durations import written
from joblane.inspector.unavailable import DENIED
from joblane.local.errors import ForbiddenError, LocalError, UnavailableError
from joblane.local.git import deployer
from joblane.record.audit import user_of_process

if TYPE_CHECKING:
    from boto3.session import Session
    from mypy_boto3_cloudformation.type_defs import StackTypeDef

SHORTEST, LONGEST = timedelta(minutes=1), timedelta(hours=3)
POLL_SECONDS = 15.0
LINE_SECONDS = 300.0
"""Time between two lines of progress where there is no terminal."""
MOST = 5
"""Alarms in a line."""
STABLE = {
    "CREATE_COMPLETE",
    "IMPORT_COMPLETE",
    "IMPORT_ROLLBACK_COMPLETE",
    "UPDATE_COMPLETE",
    "UPDATE_ROLLBACK_COMPLETE",
}
"""Statuses of a stack whose last operation has ended. Source: CloudFormation, *Stack status codes*."""
NOT_DEPLOYED = "not deployed"
EARLIER, OF_ANOTHER = "earlier template", "template of another deploy"
CHANGED_SINCE = "another deploy has changed the stage since then, or its stacks cannot be read"
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
    if (folder := folder_of(rollout.assembly)).exists():
        raise LocalError(
            f"--watch: {folder} has the templates from before an earlier deploy, which was not watched to its end. "
            f"To return to them, unless that deploy named a reason against it: cdk deploy --all --app {folder}. After "
            "that, or to keep what is deployed, delete the folder. Nothing was deployed."
        )
    regions, here = regions_of(rollout.assembly), session.region_name
    elsewhere = {stack: found for stack in rollout.stacks if (found := regions.get(stack, here)) != here}
    own = {name: each for name, each in rollout.templates.items() if name.partition("/")[0] not in elsewhere}
    rollout = replace(rollout, templates=own)
    with _client(session, "cloudformation", PERMISSIONS) as client:
        before = marks(client, rollout.stacks)
        deployed = replace(read_deployed(client, own), elsewhere=elsewhere)
        events = {stack: newest_event(client, stack) for stack in deployed.statuses}
    for stack, status in deployed.statuses.items():
        if status not in STABLE:
            raise LocalError(
                f"--watch: the stack {stack} is {status}, so its earlier template is not known. Wait until it is "
                "UPDATE_COMPLETE, or bring it there; or deploy without --watch. Nothing was deployed."
            )
    if not deployed.templates:
        terminal.say("Watch: the stage is not deployed yet, so no alarm is watched and there is no way back.")
        return None
    with _client(session, "cloudwatch", PERMISSION) as client:
        states = read_states(client, deployed.alarms.values())
    counted = Counted.of(deployed, states, rollout.templates)
    if not counted.names:
        terminal.say(f"Watch: no alarm counts, so none is watched: {_list(counted.left_out)}")
        return None
    watch = WatchedDeploy(rollout, session, length, deployed, counted, before, events)
    many = "1 alarm counts" if len(counted.names) == 1 else f"{len(counted.names)} alarms count"
    terminal.say(f"Watch: {many}, for {written(length)} after the deploy.")
    if counted.left_out:
        terminal.say(f"Watch: these do not count: {_list(counted.left_out)}")
    for reason in watch.reasons:
        terminal.say(f"Watch: this deploy will not be reverted: {reason}.")
    watch.write("by hand")
    return watch


@dataclass
class WatchedDeploy:
    """A deploy whose alarms are watched for ``length``.

    ``before``, ``events``: the mark and the newest event of each stack when it began.
    """

    rollout: Rollout
    session: Session
    length: timedelta
    deployed: Deployed
    counted: Counted
    before: Marks
    events: Mapping[str, str]
    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    reasons: list[str] = field(init=False)
    is_new: bool = field(default=False, init=False)
    """True after a deploy for which no alarm has fired."""
    _after: Marks | None = None
    """The marks after the deploy; None: it has not ended."""
    _returns: bool = False
    """True if the way back has started."""
    _folder: Path | None = None
    """Exists until the watch has ended, and while it is the way back by hand."""

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
                if self._marks() != self.before:
                    self._discard()
                    raise LocalError(
                        "--watch: another deploy has changed the stage since its templates were read, or its stacks "
                        "cannot be read. Nothing was deployed: repeat the command."
                    )
                changed = self._deploy(deploy)
                try:
                    status = first_job()
                except JobError as error:
                    terminal.say(f"joblane: {message_of(error)}")
                    status = exit_of(error) or Exit.FAILED
                if status is Exit.INTERRUPTED:
                    raise KeyboardInterrupt
                if not changed:
                    terminal.say(f"Watch: no stack in {self.session.region_name} changed, so nothing is watched.")
                outcome = self._watch() if changed else Exit.DONE
                self.is_new = outcome is Exit.DONE
        except KeyboardInterrupt:
            terminal.say("\nStopped.")
            self._say_deployed()
            return Exit.INTERRUPTED
        if outcome is Exit.DONE:
            self._discard()
        return status if outcome is Exit.DONE else outcome

    def _deploy(self, deploy: Callable[[], bool]) -> bool:
        try:
            changed = deploy()
        except LocalError:
            self._say_deployed(has_ended=True)
            raise
        self._after = self._marks()
        if changed and (reason := self._meanwhile()):
            self.reasons.append(reason)
            terminal.say(f"Watch: this deploy will not be reverted: {reason}.")
        return changed

    def _discard(self) -> None:
        shutil.rmtree(folder_of(self.rollout.assembly), ignore_errors=True)

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
        if not firing.seconds:
            terminal.say(f"Watch: no alarm fired within {written(self.length)}.")
        for name, seconds in sorted(firing.seconds.items()):
            terminal.say(
                f"Watch: {name} fired, for {terminal.short(seconds)} in total: less than {written(CONFIRMATION)}, so "
                "the deploy stays."
            )
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
            found = f"{', '.join(firing.names)} fires, which must last for {written(CONFIRMATION)} in total"
        else:
            found = f"{sum(each.state == OK for each in states.values())} of {len(self.counted.names)} OK"
        return f"Watch: {terminal.short(max(left, 0))} left; {found}"

    # --- The way back -------------------------------------------------------------------------------------------------

    def _answer(self, fired: list[AlarmState], after_seconds: float) -> Exit:
        for alarm in fired:
            terminal.say(f"Alarm {alarm.name} fired {terminal.short(after_seconds)} after the deploy: {alarm.reason}")
        if self._marks() != self._after:
            self.reasons.append(CHANGED_SINCE)
        if self.reasons:
            terminal.say("The deploy was not reverted:")
            for reason in self.reasons:
                terminal.say(f"  {reason}")
            terminal.say(f"{self.version} runs. Pause the types that fail, and fix the code, or see {GO_BACK}.")
            self._discard()
            return Exit.ALARM
        names = ", ".join(alarm.name for alarm in fired)
        why = f"{names} fired {terminal.short(after_seconds)} after the deploy"
        folder = self.write(why.replace("{{", "{ {"))  # CloudFormation replaces {{…}}
        terminal.say(f"The deploy of {self.version} will be reverted to the earlier templates in {folder}.")
        self._returns = True
        earlier = replace(self.rollout, assembly=folder, templates=self.deployed.templates)
        try:
            earlier.deploy(self.session, approved=True)
        except LocalError as error:
            terminal.say(str(error))
            self._say_deployed()
            return Exit.ALARM
        terminal.say(
            f"The deploy of {self.version} was reverted: the stage has its earlier templates. The database keeps its "
            "schema. This checkout still has the change: fix it before the next deploy."
        )
        self._discard()
        return Exit.TAKEN_BACK

    def _say_deployed(self, *, has_ended: bool = False) -> None:
        """Print the state of each stack, and the command for the way back. ``has_ended``: the deploy has failed."""
        from botocore.exceptions import BotoCoreError

        states = []
        try:
            with closing(self.session.client("cloudformation")) as client:
                states = [self._state(stack, read_stack(client, stack)) for stack in self.rollout.stacks]
        except BotoCoreError as error:
            terminal.say(f"The stacks cannot be read: {error}")
        for stack, state in zip(self.rollout.stacks, states, strict=False):
            terminal.say(f"  {stack}: {state}")
        if self._after is None:
            if has_ended and states and all(state.endswith((EARLIER, NOT_DEPLOYED)) for state in states):
                self._discard()
                return
            if reason := self._meanwhile():
                self.reasons.append(reason)
        elif any(state.endswith(OF_ANOTHER) for state in states):
            self.reasons.append(CHANGED_SINCE)
        terminal.say(self._by_hand())

    def _state(self, stack: str, found: StackTypeDef | str | None) -> str:
        if found is None:
            return NOT_DEPLOYED
        if isinstance(found, str):
            return f"cannot be read: {found}"
        status = found["StackStatus"]
        if status.endswith("_IN_PROGRESS"):
            return f"{status}: CloudFormation continues"
        return f"{status}, {self._template(stack, status, mark_of(found))}"

    def _template(self, stack: str, status: str, mark: tuple[str, object]) -> str:
        if status in NO_STACK:
            return NOT_DEPLOYED
        if status.endswith("_FAILED"):
            return "parts of both templates"
        if self._after is not None and stack not in self._after:
            return "template unknown: it could not be read after the deploy"
        is_same = "ROLLBACK" in status or mark == (self.before if self._after is None else self._after).get(stack)
        if not is_same and self._after is not None and not self._returns:
            return OF_ANOTHER
        return EARLIER if is_same is (self._after is None) else "new template"

    def _meanwhile(self) -> str | None:
        """Return a reason to stay if another deploy has changed a stack since its template was read.

        A deploy starts one operation on each stack that it changes. Afterwards the stack has the template of this
        checkout.
        """
        from botocore.exceptions import BotoCoreError, ClientError

        after, stacks = self._after or {}, self.rollout.stacks
        changed = {stack for stack in stacks if after.get(stack) != self.before.get(stack)}
        try:
            with closing(self.session.client("cloudformation")) as client:
                many = {stack for stack, event in self.events.items() if operations_since(client, stack, event) > 1}
                if self._after is not None:
                    many |= changed & other_stacks(
                        read_deployed(client, self.rollout.templates), self.rollout.templates
                    )
        except (BotoCoreError, ClientError) as error:
            return f"it is not known whether another deploy has changed the stage meanwhile: {error}"
        if not many:
            return None
        return f"another deploy has changed the stage meanwhile ({', '.join(sorted(many))})"

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
