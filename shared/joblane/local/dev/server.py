"""The command `joblane dev`: PostgreSQL, queues, processes for the tasks, ticks, and reload on save."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any

from joblane import telemetry
from joblane.local import env_file
from joblane.local.deployment import local_stage
from joblane.local.dev import lock
from joblane.local.dev.control import Control, DevPage, PageProcess
from joblane.local.dev.endpoint import Endpoint, Server, config, listen
from joblane.local.dev.log import GREEN, RED, YELLOW, Log, LogStream, short
from joblane.local.dev.pool import GRACE_SECONDS, Pool
from joblane.local.dev.processes import LOST, Process, Zygote
from joblane.local.dev.queues import DevQueues
from joblane.local.dev.watching import code_of, forget_compiled, names_of, saves
from joblane.local.emulator import guarded
from joblane.local.errors import LocalError
from joblane.local.ports import HOST
from joblane.local.postgres import Postgres
from joblane.local.stack import REGION
from joblane.local.tools import clean_environment
from joblane.names import OWN_TYPES, PLACES, event_bus_name, folder_of, use_places
from joblane.project import Project
from joblane.settings import EVENT_BUS
from joblane.telemetry import METRICS_DISABLED
from joblane.worker.router import Router

END_SECONDS = 0.8
"""Time for running tasks to end after Ctrl-C."""
POSTGRES_CHECK_SECONDS = 0.5
ROUTED = 10
"""Messages that the router takes at once, as on AWS."""


class Dev:
    """`joblane dev` in one folder.

    ``open_page``: makes the operator's page, which listens on its port; None: without it. ``raw``: logs as their
    processes write them.
    """

    def __init__(
        self,
        project: Project,
        folder: Path,
        *,
        aws_port: int,
        postgres_port: int,
        prefix: str,
        open_page: Callable[[], DevPage] | None,
        raw: bool,
    ) -> None:
        self._project, self._folder, self._prefix = project, folder, prefix
        self._aws_port = aws_port
        self._postgres = Postgres(folder / "postgres", postgres_port)
        self._open_page = open_page
        self._page: DevPage | None = None
        self._raw = raw
        self._env_file = folder / "env"

    def run(self) -> None:
        """Run until Ctrl-C, SIGTERM, or the end of the terminal. Raises :class:`LocalError` if it cannot start."""
        _own_stage(self._project)
        with lock.held(self._folder):
            self._env_file.unlink(missing_ok=True)  # that of a command that was killed
            listening = listen(self._aws_port)
            self._page = self._open_page() if self._open_page else None
            self._zygote = Zygote(lambda: self._fail(LocalError(LOST)))
            self._zygote.start(self._project.root, self._folder, clean_environment(self._project))
            self._log = Log(self._folder / "dev.log", self._prefix, raw=self._raw)
            telemetry.stream = LogStream(self._log)
            try:
                asyncio.run(self._main(listening))
            finally:
                self._env_file.unlink(missing_ok=True)
                self._zygote.close()
                self._postgres.stop()
                self._log.close()

    async def _main(self, listening: socket.socket) -> None:
        self._stop = asyncio.Event()
        self._problem: str | None = None
        self._pools: dict[str, Pool] = {}
        self._reported: set[tuple[str, frozenset[tuple[str, int]]]] = set()
        self._routes: dict[str, Sequence[str]] = {}
        self._queues = DevQueues(self._prefix, self._changed)
        self._router = Router({}, self._queues, self._prefix)
        self._endpoint = Endpoint(self._queues, self._aws_port, self._log.search, self._log.show_event)
        self._zygote.listen()
        self._control = Control(
            self._log,
            self._spawn_control,
            on_declared=self._declare,
            on_ready=self._start,
            on_entry=lambda entry: self._queues.send_many([entry]),
        )
        self._page_process = PageProcess(self._page, self._start_page) if self._page else None
        self._jobs: set[asyncio.Task[Any]] = set()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._on_signal)
        server = Server(config(guarded(self._endpoint, self._aws_port)))
        self._postgres_started = asyncio.create_task(asyncio.to_thread(self._postgres.start))
        serving = asyncio.create_task(server.serve([listening]))
        self._keep(self._follow_saves())
        self._keep(self._follow_postgres())
        self._keep(self._control.run())
        try:
            await self._stop.wait()
        finally:
            await self._end()
            server.should_exit = server.force_exit = True
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(serving, 1)
        if self._problem is not None:
            raise LocalError(self._problem)

    def _keep(self, job: Any) -> None:
        """Run in the background; an error of the job ends the command."""
        task = asyncio.ensure_future(job)
        self._jobs.add(task)

        def done(task: asyncio.Task[Any]) -> None:
            self._jobs.discard(task)
            if not task.cancelled() and (error := task.exception()) is not None and not self._stop.is_set():
                self._fail(error)

        task.add_done_callback(done)

    def _fail(self, error: BaseException) -> None:
        if isinstance(error, LocalError):
            self._problem = str(error)
        else:
            asyncio.get_running_loop().call_exception_handler({"message": "joblane dev ends", "exception": error})
            self._problem = f"`joblane dev` ended by an error of its own: {type(error).__name__}: {error}"
        self._stop.set()

    # --- Signals and the end ---------------------------------------------------------------------------------------

    def _on_signal(self) -> None:
        if self._stop.is_set():  # the second one
            self._env_file.unlink(missing_ok=True)
            self._postgres.kill()
            os._exit(130)  # the zygote kills the other processes
        self._log.say("Stopping.")
        self._stop.set()

    async def _end(self) -> None:
        self._env_file.unlink(missing_ok=True)
        self._postgres_started.add_done_callback(lambda task: task.cancelled() or task.exception())
        closed = await asyncio.gather(*(pool.close(END_SECONDS) for pool in self._pools.values()))
        if left := [id_ for ids in closed for id_ in ids]:
            self._log.say(f"Still running, and started again by the next `joblane dev`: {', '.join(map(short, left))}")
        for task in list(self._jobs):
            task.cancel()
        await asyncio.wait([self._postgres_started])

    # --- The declarations ------------------------------------------------------------------------------------------

    def _environment(self) -> dict[str, str]:
        """Return the environment of the project's processes: this one's, with the settings of the stage `local`."""
        stage = _own_stage(self._project)
        return {
            **{name: str(value) for name, value in stage.get("settings", {}).items()},
            **clean_environment(self._project),
            **env_file.other_endpoints(),
            **self._addresses(stage),
            "JOBLANE_STAGE": "local",
            EVENT_BUS: event_bus_name(self._prefix),  # the log shows what is sent to it
            METRICS_DISABLED: "true",
            PLACES: os.environ.get(PLACES, ""),
        }

    def _addresses(self, stage: Mapping[str, Any]) -> dict[str, str]:
        url = self._postgres.url if self._postgres_started.done() else "postgresql://nobody@127.0.0.1/not-started"
        return env_file.addresses(
            f"http://{HOST}:{self._aws_port}",
            region=REGION,
            database_url=url,
            project=self._project,
            prefix=self._prefix,
            stage=stage,
        )

    async def _spawn_control(self, since: str | None) -> Process:
        arguments = {"since": since, "stamp": str(self._folder / "postgres" / "migrated")}
        target = "joblane.local.dev.forked:serve_control"
        return await self._zygote.spawn(
            target, arguments, self._environment(), lambda line: self._log.add("control", line, None, ())
        )

    async def _declare(self, declared: Mapping[str, Any]) -> str:
        """Make the queues, and return the address of the database, once it has started."""
        self._queues.declare(declared["functions"])
        if declared["places"] != os.environ.get(PLACES, ""):
            use_places(declared["places"])  # for the router and the workers
            for pool in self._pools.values():  # a process that has started since the save has the places before it
                pool.reload()
        kept = {type_: queues for type_, queues in self._routes.items() if folder_of(type_) in declared["broken"]}
        self._routes = {**kept, **declared["routes"]}
        self._router = Router(self._routes, self._queues, self._prefix)
        for folder, text in declared["broken"].items():
            self._report_broken(folder, text)
        await self._postgres_started
        return self._postgres.url

    def _start(self, declared: Mapping[str, Any], recovered: int) -> None:
        """Serve the declared types: the database is ready."""
        functions = declared["functions"]
        for type_, pool in list(self._pools.items()):
            if type_ not in functions and folder_of(type_) not in declared["broken"]:
                del self._pools[type_]
                self._keep(pool.close(GRACE_SECONDS))
                place = next((name for name, each in functions.items() if type_ in each["types"]), None)
                if place is None:
                    what = f"{type_} is not declared any more; its messages stay in the queue."
                else:
                    what = f"{type_} runs on {place} now; the sweep sends the messages of its waiting tasks there."
                self._log.say(what, YELLOW)
        for type_, each in functions.items():
            if (known := self._pools.get(type_)) is not None:
                known.declared = each
                continue
            if self._endpoint.ready.is_set():
                self._log.say(f"{type_} is new.", GREEN)
            self._pools[type_] = Pool(
                type_,
                each,
                queues=self._queues,
                log=self._log,
                start=self._start_worker,
                end_leases=self._end_leases,
                report_broken=self._report_broken,
            )
        if not self._endpoint.ready.is_set():
            given = {name: value for name, value in declared["settings"].items() if name not in env_file.VARIABLES}
            given |= {PLACES: declared["places"]} if declared["places"] else {}
            env_file.write(self._env_file, {**given, **self._addresses(_own_stage(self._project))})
            self._banner(declared, recovered)
            self._endpoint.ready.set()
            if self._page_process is not None:
                self._keep(self._page_process.run())
        for name in self._queues.front_doors:  # may have messages of a type that is declared now
            self._queues.give_back([message for message in self._queues.queues[name].values() if message.receives], 0)
            self._route(name)
        for pool in self._pools.values():
            pool.serve()

    def _banner(self, declared: Mapping[str, Any], recovered: int) -> None:
        found = (type_ for each in declared["functions"].values() for type_ in each["types"])
        types = [type_ for type_ in found if not type_.startswith(OWN_TYPES)]
        database, kind = f"{HOST}:{self._postgres.port}", "task type" if len(types) == 1 else "task types"
        self._log.say(f"SQS on http://{HOST}:{self._aws_port}, PostgreSQL on {database}, {len(types)} {kind}")
        self._log.say(f"Your programs:  set -a; . {env_file.shown(self._env_file)}; set +a")
        if self._page is not None:
            self._log.say(f"Page:           {self._page.address}")
        if recovered:
            self._log.say(f"Tasks of the last time whose messages are sent again: {recovered}.")
        if missing := declared["missing"]:
            self._log.say(
                f"Settings without a value: {', '.join(missing)}. Set them in the environment, or in `settings` of the "
                "stage `local` in cdk.json.",
                YELLOW,
            )
        self._log.say("Ready. A save reloads; Ctrl-C stops.", GREEN)

    def _report_broken(self, folder: str, text: str) -> None:
        """Print an error of a handler, once for each state of the code. Its messages stay in the queue."""
        for type_, pool in self._pools.items():
            if type_ == folder or folder_of(type_) == folder:
                pool.broken = True
        # One save can come as two, and the first reload can import what the second one announces.
        if (key := (folder, code_of(self._project))) not in self._reported:
            self._reported.add(key)
            self._log.say(f"{text}\nIts messages wait. The other tasks run.", RED)

    async def _follow_postgres(self) -> None:
        """Start the server again each time it was killed. An error of the start ends the command."""
        await self._postgres_started
        while True:
            await self._await_end_of_postgres()
            self._postgres_started = asyncio.create_task(asyncio.to_thread(self._postgres.start))
            await self._postgres_started
            self._log.say("PostgreSQL runs again.", GREEN)
            self._keep(self._control.run())

    async def _await_end_of_postgres(self) -> None:
        """Return when the running server has ended by itself, and say so, as of a server that a signal has stopped."""
        was_stopped = False
        while self._postgres.running:
            if (stopped := self._postgres.stopped) != was_stopped:
                was_stopped = stopped
                wait = f"PostgreSQL is stopped by a signal: tasks wait until `kill -CONT {self._postgres.pid}`."
                self._log.say(wait if stopped else "PostgreSQL runs again.", RED if stopped else GREEN)
            await asyncio.sleep(POSTGRES_CHECK_SECONDS)
        self._log.say(
            f"PostgreSQL was killed, and starts again. Its log is {self._postgres.log}. A run that it has interrupted "
            "counts as an attempt.",
            RED,
        )

    # --- Messages --------------------------------------------------------------------------------------------------

    def _changed(self, queue: str) -> None:
        loop = asyncio.get_running_loop()
        self._endpoint.changed(queue)
        if queue in self._queues.front_doors:
            loop.call_soon(self._route, queue)
            return
        for pool in self._pools.values():
            if queue in pool.declared["lanes"]:
                loop.call_soon(pool.serve)

    def _route(self, front_door: str) -> None:
        """Forward the visible messages of a front door, as its router does on AWS."""
        if not self._endpoint.ready.is_set():
            return
        while batch := self._queues.receive_some(front_door, ROUTED):
            response = self._router.handle([message.received() for message in batch])
            for message in self._queues.delete_handled(batch, response.kept):
                if message.receives == 1:
                    self._log.say(
                        f"A message in {front_door} is of no declared type that takes messages from a front door. It "
                        f"waits an hour for one: {sorted(self._router.types)}",
                        YELLOW,
                    )
        at = self._queues.next_visible_at(front_door)
        if at is not None:
            asyncio.get_running_loop().call_later(max(0.05, at - self._queues.seconds()), self._route, front_door)

    # --- Processes -------------------------------------------------------------------------------------------------

    async def _start_worker(self, function: str, on_line: Any) -> Process:
        return await self._zygote.spawn(
            "joblane.local.dev.forked:serve_worker", {"function": function}, self._environment(), on_line
        )

    async def _start_page(self, page: DevPage) -> Process:
        return await self._zygote.spawn(
            page.target,
            page.arguments,
            self._environment(),
            lambda line: self._log.add("page", line, None, ()),
            [page.listening.fileno()],
        )

    async def _end_leases(self, request_id: str) -> Sequence[str]:
        """End the leases of an invocation whose process has ended. Return the ids of its tasks that had not ended."""
        from joblane.local.dev.forked import end_leases
        from joblane.record.driver.database import DATABASE_ERRORS, Database

        def end() -> Sequence[str]:
            with suppress(*DATABASE_ERRORS), Database(self._postgres.url, prefix=self._prefix) as database:
                return database.call(end_leases, request_id)
            return ()

        return await asyncio.to_thread(end)

    # --- Reload ----------------------------------------------------------------------------------------------------

    async def _follow_saves(self) -> None:
        while True:
            known = code_of(self._project)
            async with aclosing(saves(self._project)) as found:
                async for saved in found:
                    paths = saved or [Path(name) for name, _ in code_of(self._project) ^ known]
                    if paths:
                        self._reload(paths)
                    if any(path.parent == self._project.root.resolve() for path in paths):
                        break  # the folders of the code may be others

    def _reload(self, paths: Sequence[Path]) -> None:
        forget_compiled(paths)
        shown = names_of(self._project.root.resolve(), paths)
        try:
            self._project = Project.at(self._project.root)
            _own_stage(self._project)
        except (LocalError, Exception) as error:
            self._log.say(f"{shown} saved: {error}", RED)
            return
        running = [id_ for pool in self._pools.values() for id_ in pool.reload()]
        more = f" Still on the old code: {', '.join(map(short, running))}." if running else ""
        self._log.say(f"{shown} saved: reloaded.{more}")
        if self._page_process is not None:
            self._page_process.restart()
        self._keep(self._control.run())


def _own_stage(project: Project) -> dict[str, Any]:
    """Return the stage `local` of cdk.json; empty if there is no such file. Raises :class:`LocalError`."""
    return local_stage(project, {}) if (project.root / "cdk.json").exists() else {}
