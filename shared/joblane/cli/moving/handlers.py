"""The handler of a Celery task: its payload class, its declaration, and a call of the application's function."""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterator
from fnmatch import fnmatch
from typing import Any

from joblane.cli.moving.application import MODULES, PLAIN, UNSET, Application, CeleryTask, elements, field_of, literal
from joblane.names import Queue

IMPORTED = ("datetime.datetime", "datetime.date", "datetime.timedelta", "decimal.Decimal", "uuid.UUID")
TYPING = tuple(f"typing.{name}" for name in ("Any", "Optional", "Union", "List", "Dict", "Tuple", "Literal"))
MOST_SECONDS, MOST_RETRIES = 890, 100
MOVED = (
    *("name", "bind", "max_retries", "autoretry_for", "dont_autoretry_for", "retry_backoff", "retry_backoff_max"),
    *("retry_jitter", "retry_kwargs", "default_retry_delay", "rate_limit", "time_limit", "soft_time_limit", "queue"),
    *("ignore_result", "acks_late", "track_started", "reject_on_worker_lost", "typing", "trail", "send_events"),
)
SAYS = {
    "priority": "there is none inside a queue; the queues critical, default and low have weights 6, 3 and 1",
    "base": "there are no task classes: @resource holds a client, @around runs code around each run",
    "expires": "pass deadline= at each enqueue",
    "throws": "raise RevokeTask or SkipRetry from the error: the state differs, not the level of a log line",
    "serializer": "payloads and results are JSON",
}


class Handler:
    """Writes the handler of a task. Differences from Celery are added to the findings of its file."""

    def __init__(self, app: Application, task: CeleryTask) -> None:
        self.app, self.task = app, task
        self.names, self.imports = {"Payload", "TaskContext", "task"}, {"from datetime import timedelta"}
        self.calls_retry = any(getattr(node, "attr", "") == "retry" for node in ast.walk(task.function))

    def words(self) -> dict[str, Any]:
        """Return the words of the template."""
        task, fields, options = self.task, list(self._fields()), list(self._options())
        for name, node in task.options.items():
            if name not in MOVED:
                task.source.add("by hand", node, f"{name}: {SAYS.get(name, 'has no equivalent')}")
        if task.schedules:
            self.names |= {schedule.partition("(")[0] for schedule in task.schedules}
        if task.enqueues:
            self.names.add("Grants")
        body = self._body()
        if not self._is_silent() or any("Any" in line for line in fields):
            self.imports.add("from typing import Any")
        imports = sorted(self.imports, key=lambda line: (line.startswith("from"), line))
        names = ", ".join(sorted(self.names, key=lambda name: (name.islower(), name)))
        more: dict[str, Any] = {
            "silent": self._is_silent(),
            "django": self.app.django,
            "enqueues": (*sorted(task.enqueues),),
        }
        more |= {"imports": imports, "names": names, "body": body}
        return {"task": task, "fields": fields, "options": options, **more}

    def _differs(self, option: str, says: str, kind: str = "differs") -> None:
        self.task.source.add(kind, self.task.options.get(option, self.task.function), says)

    def _option(self, name: str, default: Any = None, setting: str | None = None) -> Any:
        """Return the literal value of an option, or of a setting of the application; else the default."""
        value = literal(self.task.options[name]) if name in self.task.options else setting and self.app.setting(setting)
        if value is UNSET:
            self._differs(name, f"{name if name in self.task.options else setting} is not a literal", "not read")
        return default if value is None or value is UNSET else value

    def _fields(self) -> Iterator[str]:
        for arg in self.task.parameters:
            annotation, default = self._annotation(arg), self.task.defaults.get(arg.arg)
            value = literal(default)
            if value is UNSET:
                self.task.source.add("differs", arg, f"{arg.arg}: its default is not a literal, so it is required")
            if default is not None and value is None and annotation != "Any" and "None" not in annotation:
                annotation += " | None"
            shown = "" if default is None or value is UNSET else f" = {value!r}"
            yield f"{field_of(arg.arg)}: {annotation}{shown}"
        more, named = self.task.function.args.vararg, self.task.function.args.kwarg
        yield from [f"{field_of(more.arg)}: list[Any] = []"] if more else []
        yield from [f"{field_of(named.arg)}: dict[str, Any] = {{}}"] if named else []

    def _annotation(self, arg: ast.arg) -> str:
        """Return the annotation if JSON has its values, else Any."""
        if arg.annotation is None:
            self.task.source.add("differs", arg, f"{arg.arg}: it has no annotation, so every JSON value is accepted")
            return "Any"
        text = literal(arg.annotation)
        node = ast.parse(text, mode="eval").body if isinstance(text, str) else arg.annotation
        imports = set()
        for each in ast.walk(node):
            path = self.task.source.dotted(each)
            if path in IMPORTED or path in TYPING:
                module, _, name = path.partition(".")
                imports.add(f"import {module}" if isinstance(each, ast.Attribute) else f"from {module} import {name}")
            elif path and path not in (*PLAIN, *MODULES):
                says = f"{arg.arg}: {path} is no type of JSON; pass its key. The field is Any"
                self.task.source.add("by hand", arg, says)
                return "Any"
        self.imports |= imports
        return ast.unparse(node)

    def _options(self) -> Iterator[str]:
        yield from self._queue()
        yield from self._retries()
        seconds = self._option("soft_time_limit", setting="task_soft_time_limit")
        seconds = seconds or self._option("time_limit", setting="task_time_limit") or MOST_SECONDS + 1
        if seconds > MOST_SECONDS:
            limit = "soft_time_limit" if "soft_time_limit" in self.task.options else "time_limit"
            self._differs(limit, f"an attempt has {MOST_SECONDS} seconds, the longest timeout; a shorter one is better")
        yield f"timeout=timedelta(seconds={min(seconds, MOST_SECONDS)})"
        yield from self._rate()
        if self._option("ignore_result", setting="task_ignore_result"):
            yield "retention=timedelta(0)"

    def _queue(self) -> Iterator[str]:
        queue, routes = self._option("queue"), self.app.setting("task_routes")
        if queue is None and isinstance(routes, dict):
            found = [route for pattern, route in routes.items() if fnmatch(self.task.name, str(pattern))]
            queue = next((route.get("queue") if isinstance(route, dict) else route for route in found), None)
        if routes is UNSET:
            self._differs("queue", "task_routes is not a literal", "not read")
        if queue in ("critical", "low"):
            self.names.add("Queue")
            yield f"queue=Queue.{queue.upper()}"
        elif queue not in (None, "default", "celery"):
            self._differs("queue", f"queue {queue!r}: there are {', '.join(Queue)}; the handler has default")

    def _retries(self) -> Iterator[str]:
        given, extra, calls = self.task.options, self._option("retry_kwargs", {}), self.calls_retry
        if "autoretry_for" not in given:
            says = (
                "Joblane retries every error, not only at retry()"
                if calls
                else "Celery never retries it: max_retry is 0"
            )
            self._differs("max_retries", says)
        if "autoretry_for" not in given and not calls:
            yield "max_retry=0"
            return
        most = extra.get("max_retries", self._option("max_retries", 3))
        if most > MOST_RETRIES or ("max_retries" in given and literal(given["max_retries"]) is None):
            most = MOST_RETRIES
            self._differs("max_retries", f"max_retry is {MOST_RETRIES} at most")
        yield f"max_retry={most}"
        factor = self._option("retry_backoff", 0) if "autoretry_for" in given else 0
        if not factor:
            seconds = extra.get("countdown", self._option("default_retry_delay", 180))
            yield f"retry_delay=timedelta(seconds={seconds})"
            return
        power = f"{'' if factor == 1 else f'{factor} * '}2 ** (attempt - 1)"
        wait = f"min({self._option('retry_backoff_max', 600)}, {power})"
        if self._option("retry_jitter", True):
            self.imports.add("from random import randint")
            wait = f"randint(0, {wait})"
        yield f"retry_delay=lambda attempt, error: timedelta(seconds={wait})"

    def _rate(self) -> Iterator[str]:
        limit = self._option("rate_limit", setting="task_default_rate_limit")
        number, _, short = str(limit or "").partition("/")
        unit = {"": "seconds", "s": "seconds", "m": "minutes", "h": "hours"}.get(short)
        if number.isdecimal() and int(number) and unit:
            self._differs("rate_limit", "Celery's limit is for each worker; this one counts all runs of the type")
            self.names.add("Rate")
            yield f"rate=Rate({int(number)}, per=timedelta({unit}=1))"
        elif limit:
            self._differs("rate_limit", f"rate_limit {limit!r}: whole numbers per s, m or h can be read", "not read")

    def _is_silent(self) -> bool:
        returns = self.task.function.returns
        ignored = literal(self.task.options.get("ignore_result")) or self.app.setting("task_ignore_result")
        return ignored is True or (isinstance(returns, ast.Constant) and returns.value is None)

    def _body(self) -> list[str]:
        call = f"{'' if self._is_silent() else 'return '}{self.task.path}({self._arguments()})"
        retried, refused = self._errors("autoretry_for"), self._errors("dont_autoretry_for")
        skip = 'raise SkipRetry(f"Celery does not retry {type(error).__name__}") from error'
        lines = [f"except {refused} as error:", f"    {skip}"] if refused and retried else []
        if retried and retried != "Exception" and not self.calls_retry:
            lines += [f"except {retried}:", "    raise", "except Exception as error:", f"    {skip}"]
            self._differs(
                "autoretry_for", "Joblane retries every error; the handler archives those that Celery does not"
            )
        if not lines:
            return [call]
        self.names.add("SkipRetry")
        return ["try:", f"    {call}", *lines]

    def _errors(self, option: str) -> str:
        """Return exceptions as an ``except`` clause names them; empty if there are none."""
        node = self.task.options.get(option)
        names = [ast.unparse(each) for each in elements(node) or [] if self.task.source.dotted(each)]
        if node is not None and len(names) != len(elements(node) or [node]):
            self._differs(option, f"{option} is not written out as names: every error is retried", "not read")
            return ""
        names = [name if hasattr(builtins, name) else f"{self.task.source.module}.{name}" for name in names]
        return names[0] if len(names) == 1 else f"({', '.join(names)})" if names else ""

    def _arguments(self) -> str:
        given = self.task.function.args
        unnamed = self.task.named if given.vararg else [arg for arg in given.posonlyargs if arg.arg != self.task.own]
        parts = [f"payload.{field_of(arg.arg)}" for arg in unnamed]
        parts += [f"*payload.{field_of(given.vararg.arg)}"] if given.vararg else []
        parts += [f"{arg.arg}=payload.{field_of(arg.arg)}" for arg in self.task.parameters if arg not in unnamed]
        parts += [f"**payload.{field_of(given.kwarg.arg)}"] if given.kwarg else []
        return ", ".join(parts)
