"""The lines at which an application calls Celery, each with the form of that call in Joblane."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

from joblane.cli.moving.application import Application, CeleryTask, Source, elements, items, keywords_of, literal
from joblane.names import Queue

IN_ORDER = {"delay": True, "delay_on_commit": True, "s": True, "si": True}
"""Methods of a task or signature. True: they take the arguments of the function."""
IN_A_TUPLE = {"apply_async": False, "apply_async_on_commit": False, "signature": False, "subtask": False}
METHODS = IN_ORDER | IN_A_TUPLE
CANVAS = {f"celery.{part}{kind}": kind for kind in ("chain", "group", "chord") for part in ("", "canvas.")}
SELF = {
    "retry": "raise the error: Joblane retries it after retry_delay, or after another time",
    "request": "it is empty in a call by a handler, which has ctx.task_id, ctx.attempt and ctx.headers",
    "update_state": "there are no custom states, but ctx.progress(done, total, note) in a handler",
    "replace": "enqueue the other task by ctx.enqueue in the handler, and return",
}
USES: Mapping[str, tuple[str, str | None]] = {
    "celery.result.AsyncResult": ("the result is in the task's row", "jobs.get(id).state, jobs.wait(id, timeout=…)"),
    "celery.current_task": ("the context is the second argument of the handler", "ctx"),
    "celery.Task": ("there are no task classes: @resource holds a client, @around runs code around each run", None),
    "celery.exceptions.Ignore": ("Joblane would retry it; this cancels the task", 'raise RevokeTask("why")'),
    "celery.exceptions.Reject": ("Joblane would retry it; this archives the task", 'raise SkipRetry("why")'),
    "celery.exceptions.SoftTimeLimitExceeded": ("at its timeout a handler gets TaskTimeout", "except TaskTimeout:"),
}
SIGNALS = {
    "task_success": '@on("completed")',
    "task_failure": '@on("archived")  # at the end; @around sees each failed attempt',
    "task_revoked": '@on("cancelled")',
    **dict.fromkeys(("task_prerun", "task_postrun", "task_retry"), "@around"),
    "before_task_publish": "@enqueueing",
    **dict.fromkeys(("worker_init", "worker_process_init", "worker_process_shutdown"), "@resource"),
}
NOTES = {
    "link": "link: enqueue the second task with after=[…]",
    "link_error": "link_error: on_archived= in the declaration of the type names a task, for all its calls",
    "on_error": "on_error: on_archived= in the declaration of the type names a task, for all its calls",
    "priority": "priority: there is none inside a queue; choose a queue",
    "queue": f"queue: one of {', '.join(Queue)} that the type declares",
}


@dataclass(frozen=True)
class Call:
    """A call of a task. ``loop``: `` for x in xs`` around it."""

    task: CeleryTask
    args: Sequence[ast.expr] | None
    kwargs: Mapping[str, ast.expr]
    options: Mapping[str, ast.expr] = field(default_factory=dict)
    immutable: bool = False
    loop: str = ""

    def shown(self, result: str = "", more: str = "") -> str:
        """Return the task, its payload and its options. ``result``: what Celery passes as the first argument."""
        args = None if self.args is None else [*([ast.Name(result)] if result else []), *self.args]
        bound = None if args is None else self.task.bind(args, self.kwargs)
        fields = "…" if bound is None else ", ".join(f"{name}={ast.unparse(value)}" for name, value in bound.items())
        options = "".join(f", {text}" for name, value in self.options.items() if (text := _option(name, value)))
        return f"{self.task.folder}, {self.task.payload}({fields}){options}{more}"


@dataclass(frozen=True)
class Canvas:
    """A call, chain, group or chord; the callback is the last call. No calls: they are not written out."""

    kind: str
    calls: Sequence[Call]
    options: Mapping[str, ast.expr] = field(default_factory=dict)


def find_calls(app: Application) -> None:
    """Add the findings of all files, and the types that each task enqueues."""
    for source in app.sources.values():
        _Finder(app, source).visit(source.tree)


class _Finder(ast.NodeVisitor):
    def __init__(self, app: Application, source: Source) -> None:
        self.app, self.source = app, source
        self.task: CeleryTask | None = None
        self.tasks = {task.function: task for task in app.tasks.values()}

    def visit(self, node: ast.AST) -> None:
        """List the outermost calls of Celery."""
        before = self.task
        self.task = self.tasks.get(node, before) if isinstance(node, ast.FunctionDef) else before
        if isinstance(node, ast.FunctionDef):
            for decorator in node.decorator_list:
                self._use(decorator.func if isinstance(decorator, ast.Call) else decorator)
            for child in node.body:
                self.visit(child)
        elif not isinstance(node, (ast.Import, ast.ImportFrom)) and not self._is_listed(node):
            super().generic_visit(node)
        self.task = before

    def _is_listed(self, node: ast.AST) -> bool:
        if (canvas := self._canvas(node)) is None:
            return isinstance(node, ast.expr) and self._use(node)
        if not canvas.calls:
            self._add(node, "its tasks are not written out: enqueue them with after=, or as a batch")
            return True
        lines, notes = _form(canvas, inside=self.task is not None)
        given = dict.fromkeys([*canvas.options, *(name for call in canvas.calls for name in call.options)])
        notes += [NOTES[name] for name in given if name in NOTES]
        if self.task is not None:
            self.task.enqueues |= {call.task.type for call in canvas.calls} - {self.task.type}
            notes.append(f"move the body of {self.task.function.name} into its handler first")
        waits = "after=" in lines[-1] or "on_success=" in lines[0]
        for before, after in pairwise(canvas.calls) if waits else ():  # a parent sends the message of its child
            before.task.enqueues |= {(after if canvas.kind == "chain" else canvas.calls[-1]).task.type}
        self._add(node, "; ".join(notes), "\n".join(lines))
        return True

    def _use(self, node: ast.expr) -> bool:
        """List another use of Celery."""
        own, path = self.task.own if self.task else None, self.source.dotted(node)
        found: tuple[str, str | None] | None = USES.get(path)
        match node:
            case ast.Call(func=ast.Attribute(attr="add_periodic_task")):
                return True  # a schedule
            case ast.Call(func=ast.Attribute(attr="send_task")):
                found = "no task of this name was read", None
            case ast.Call(func=ast.Attribute(ast.Name(name), "retry")) if name == own:
                seconds = keywords_of(node).get("countdown")
                text = f"seconds={ast.unparse(seconds)}" if seconds else "…"
                found = SELF["retry"], f"raise RetryAfter(timedelta({text}))"
            case ast.Attribute(ast.Name(name), attr) if name == own and attr in SELF:
                found = SELF[attr], None
            case ast.Attribute(task, "map" | "starmap" | "chunks" as attr) if (
                self.app.resolve(self.source, task) in self.app.tasks
            ):
                found = (
                    f"{attr}: enqueue the members, or write a loop over ctx.each in one task",
                    "jobs.enqueue_many(…)",
                )
            case ast.Attribute(ast.Attribute(attr="control"), attr):
                found = f"control.{attr}: the command line does such work", "jobs.cancel(id)"
        if path.startswith("celery.signals.") and path.endswith(".connect"):
            name = path.split(".")[2]
            found = f"signal {name}" + ("" if name in SIGNALS else ": no equivalent"), SIGNALS.get(name)
        if found:
            self._add(node, *found)
        return found is not None

    def _add(self, node: ast.AST, says: str, joblane: str | None = None) -> None:
        self.source.add("by hand", node, says, joblane)

    def _canvas(self, node: ast.AST) -> Canvas | None:
        """Return the calls of an expression; None if it is none of Celery's."""
        found: Canvas | None = None
        match node:
            case ast.BinOp(left, ast.BitOr(), right):
                before, after = self._canvas(left), self._canvas(right)
                found = _joined(before, after) if before or after else None
            case ast.Call(func=ast.Attribute(target, method)) if method in METHODS or method in ("set", "on_error"):
                task = self.app.tasks.get(self.app.resolve(self.source, target))
                if task is not None and method in METHODS:
                    found = Canvas("task", [_call(task, node, method)])
                elif inner := self._canvas(target):
                    given = {"on_error": node} if method == "on_error" else keywords_of(node)
                    found = replace(inner, options={**inner.options, **given})
            case ast.Call(func=ast.Attribute(attr="send_task"), args=[name, *args]):
                if task := self.app.named(literal(name)):
                    found = Canvas("task", [_call(task, ast.Call(name, args, node.keywords), "apply_async")])
            case ast.Call(func=func, args=args) if kind := CANVAS.get(self.source.dotted(func)):
                found = self._combined(kind, args)
            case ast.Call(func=ast.Call(args=header) as inner_call, args=args):  # chord(header)(callback), chain(…)()
                found = self._canvas(inner_call)
                if found and found.kind == "chord" and args:
                    found = self._combined("chord", [*header, *args])
        return found

    def _combined(self, kind: str, args: Sequence[ast.expr]) -> Canvas:
        """Return a canvas of its arguments: calls, lists of them, or loops over one."""
        calls: list[Call] = []
        nodes = [node for arg in args for node in (elements(arg) or [arg])]
        for node in nodes:
            loop = ""
            if isinstance(node, (ast.ListComp, ast.GeneratorExp)):
                loop = "".join(f" {ast.unparse(each).strip()}" for each in node.generators)
            made = self._canvas(node.elt if isinstance(node, (ast.ListComp, ast.GeneratorExp)) else node)
            if made is None or not (made.kind == "task" or (kind == "chord" and made.kind == "group")):
                return Canvas(kind, [])
            calls += [
                replace(call, loop=loop or call.loop, options={**call.options, **made.options}) for call in made.calls
            ]
        return Canvas(kind, [] if kind == "chain" and any(call.loop for call in calls) else calls)


def _joined(before: Canvas | None, after: Canvas | None) -> Canvas:
    """Return ``before | after``."""
    if before is None or after is None or not before.calls or after.kind != "task" or before.kind == "chord":
        return Canvas("chain", [])
    calls = [replace(call, options={**call.options, **part.options}) for part in (before, after) for call in part.calls]
    return Canvas("chord" if before.kind == "group" else "chain", calls)


def _call(task: CeleryTask, node: ast.Call, method: str) -> Call:
    options = keywords_of(node)
    if METHODS[method]:
        return Call(task, node.args, options, immutable=method == "si")
    args, kwargs = [*node.args, None, None][:2]
    args, kwargs = args or options.pop("args", None), kwargs or options.pop("kwargs", None)
    immutable, named = literal(options.pop("immutable", None)) is True, items(kwargs)
    return Call(task, None if named is None else elements(args), named or {}, options, immutable)


def _option(name: str, value: ast.expr) -> str | None:
    """Return an option of Celery in Joblane's form; None if it has none."""
    text = ast.unparse(value)
    match name:
        case "countdown":
            return f"process_in=timedelta(seconds={text})"
        case "eta":
            return f"process_at={text}"
        case "expires":
            seconds = isinstance(literal(value), (int, float))
            return f"deadline=datetime.now(UTC) + timedelta(seconds={text})" if seconds else f"deadline={text}"
        case "task_id" | "headers":
            return f"{name}={text}"
        case "queue" if literal(value) in list(Queue):
            return f"queue={text}"
    return None


def _form(made: Canvas, *, inside: bool) -> tuple[list[str], list[str]]:
    """Return the lines in Joblane, and remarks. ``inside``: the call is in a task."""
    start, session = ("ctx", "") if inside else ("jobs", ", session=session")
    first, *others = made.calls
    if made.kind in ("task", "chain") and all(call.immutable for call in others):
        first = replace(first, options={**first.options, **made.options})
        lines = [f"{start}.enqueue({first.shown()}{session})"]
        for number, call in enumerate(others, 1):
            lines[-1] = f"step_{number} = {lines[-1]}"
            lines.append(f"{start}.enqueue({call.shown(more=f', after=[step_{number}]')}{session})")
        notes = ["each task waits for the one before it" if others else "the task commits with the data of its caller"]
        return lines, notes + (["expires: give each one its deadline="] if others and "expires" in made.options else [])
    last, types = made.calls[-1].task.type, tuple(dict.fromkeys(call.task.type for call in made.calls))
    results = "results are arguments: write a task that does this, with grants=Grants(run={}{})"
    late = ["give the options of this call to its enqueue"] if made.options else []
    if made.kind == "chain":
        passed = [f"step_{number}" if number and not call.immutable else "" for number, call in enumerate(made.calls)]
        shown = [call.shown(result) for call, result in zip(made.calls, passed, strict=True)]
        lines = [f'step_{number} = ctx.run("step_{number}", {text})' for number, text in enumerate(shown, 1)]
        return lines, [results.format(types, ""), *late]
    members = made.calls if made.kind == "group" else made.calls[:-1]
    parts = [replace(call, options={**made.options, **call.options}) for call in members]
    jobs = ", ".join(f"*[Job({call.shown()}){call.loop}]" if call.loop else f"Job({call.shown()})" for call in parts)
    jobs = jobs[1:] if len(parts) == 1 and parts[0].loop else f"[{jobs}]"
    if made.kind == "group":
        return [f"{start}.enqueue_many({jobs}{session})"], ["all commit with the data of their caller"]
    if made.calls[-1].immutable:
        batch = f"{start}.{'new_batch' if inside else 'batch'}"
        lines = [f"with {batch}(batch_id, on_success=Job({made.calls[-1].shown()}){session}) as batch:"]
        lines.append(f"    batch.enqueue_many({jobs})")
        return lines, ["each batch has an id of its own"]
    lines = [f'results = ctx.gather("results", {jobs})', f"ctx.enqueue({made.calls[-1].shown('results')})"]
    return lines, [results.format(types[:-1], f', enqueue=("{last}",)'), *late]
