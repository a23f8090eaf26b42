"""Arguments that a call lacks, or that a function does not have: the name here of an option of another library."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from typing import Any, TypeVar

from joblane.errors import DeclarationError

C = TypeVar("C", bound=Callable[..., Any])

FIELDS = "fields of the payload are arguments of its class"
JOB = {
    "countdown": "process_in",
    "delay": "process_in",
    "eta": "process_at",
    "schedule_at": "process_at",
    "expires": "deadline",
    "retries": "max_retry",
    "max_retries": "max_retry",
    "time_limit": "timeout",
    "job_id": "task_id",
    "queue_name": "queue",
    "max_wait": "longest",
    "max_delay": "longest",
    "depends_on": "after",
    "parents": "after",
    "args": FIELDS,
    "kwargs": FIELDS,
}
"""Option of an enqueue in another library → the option here, or a sentence."""
OF_ENQUEUE = "it is an option of an enqueue, "
TASK = {
    "retries": "max_retry",
    "max_retries": "max_retry",
    "default_retry_delay": "retry_delay",
    "retry_backoff": "retry_delay",
    "retry_backoff_max": "give retry_delay a list of delays, or a function of attempt and error",
    "retry_jitter": "give retry_delay a function of attempt and error; the default has jitter",
    "autoretry_for": "each exception is retried; raise SkipRetry(…) for an error that is not",
    "retry_for": "each exception is retried; raise SkipRetry(…) for an error that is not",
    "throws": "raise SkipRetry(…) for an error that is not retried",
    "rate_limit": "write rate=Rate(10, per=timedelta(minutes=1))",
    "time_limit": "timeout",
    "soft_time_limit": "timeout",
    "acks_late": "leave it out: a message is always deleted after the commit",
    "bind": "leave it out: the function gets the context as its second parameter",
    "name": "the type is the first argument: @task('category:action')",
    "priority": "queue",
    "queue_name": "queue",
    "concurrency": "write max_total=… for tasks that run at a time, or max_concurrency=… for functions",
    "cron": "schedule",
    "crontab": "schedule",
    "every": "schedule",
    "memory": "memory_mb",
    "ignore_result": "return None, or set retention",
    "on_failure": "on_archived",
    "countdown": f"{OF_ENQUEUE}process_in",
    "eta": f"{OF_ENQUEUE}process_at",
    "expires": f"{OF_ENQUEUE}deadline",
}
"""Option of a declaration in another library → the option here, or a sentence."""
EVERY = {
    "seconds": "the shortest interval is a minute: write minutes=1",
    "days": "write hours=24, or cron('0 2 * * *')",
    "weeks": "write cron('0 2 * * 1')",
    "args": "write every(minutes=15)",
    "tz": "timezone",
}
MANY = {"args": "give one list of jobs: [Job(task, payload), …]"}
BATCH = {"id": "name the batch, as jobs.batch('import-7')"}
RATE = dict.fromkeys(
    ("per", "seconds", "minutes", "hours", "period", "interval", "args"), "write Rate(10, per=timedelta(seconds=1))"
)
ENQUEUE = "call jobs.enqueue(task, payload), with jobs = JobClient()"
METHODS = {
    **dict.fromkeys(("delay", "apply_async", "send", "send_with_options", "defer", "defer_async", "enqueue"), ENQUEUE),
    "schedule": ENQUEUE,
    **dict.fromkeys(
        ("s", "si", "signature", "subtask", "message"),
        "write Job(task, payload) for a list or a batch; for a chain, call jobs.enqueue(task, payload, after=[…])",
    ),
    **dict.fromkeys(("map", "starmap", "chunks"), "call jobs.enqueue_many([Job(task, payload), …])"),
    "retry": "raise the error: the task is retried after its retry_delay; or raise Snooze(…)",
}
"""Method of a task in another library → what to do here."""


def hint(name: str, names: Iterable[str], elsewhere: Mapping[str, str]) -> str:
    """Return what to write instead of the argument ``name`` of a call that takes ``names``."""
    names = [*names]
    there = elsewhere.get(name)
    if there is not None and there not in names:
        return there if " " in there else f"there are {', '.join(names)}"
    from difflib import get_close_matches

    near = [there] if there else get_close_matches(name, names)
    return f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(names)}"


def with_payload(function: C) -> C:
    """Decorate an enqueue, so that a call without a payload gets the message of a wrong payload, not Python's.

    A wrapper would cost time in each call.
    """
    function.__signature__ = inspect.signature(function)  # type: ignore[attr-defined]
    function.__defaults__ = (None,)
    return function


def advised(elsewhere: Mapping[str, str], refusal: Callable[[str, str], Exception] | None = None) -> Callable[[C], C]:
    """Decorate a function, so that a call with wrong arguments is refused with advice.

    ``elsewhere``: the advice for a name; ``args`` stands for arguments without a name. ``refusal``: makes the error
    of an argument's name and a problem. None: a :class:`DeclarationError`.
    """

    def decorate(function: C) -> C:
        @wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            try:
                return function(*args, **kwargs)
            except TypeError as error:
                if error.__traceback__ is None or error.__traceback__.tb_next is not None:
                    raise  # it was raised inside of the function
                name, problem = _problem(function, elsewhere, args, kwargs)
            raise refusal(name, problem) if refusal else _declaration(function, name, problem, args)

        return call  # type: ignore[return-value]

    return decorate


def _problem(
    function: Callable[..., Any], elsewhere: Mapping[str, str], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[str, str]:
    """Return the first wrong argument of a call that Python has refused, and what is wrong with it."""
    parameters = inspect.signature(function).parameters
    places = [each.name for each in parameters.values() if each.kind is not each.KEYWORD_ONLY]
    known = [name for name in parameters if name != "self"]
    for name in kwargs:
        if name not in parameters:
            return name, f"there is no such option; {hint(name, known, elsewhere)}"
    given = {*places[: len(args)], *kwargs}
    for name in known:
        if parameters[name].default is inspect.Parameter.empty and name not in given:
            return name, f"it is missing; {elsewhere.get(name, f'give {name} too')}"
    problem = "there are too many arguments without a name"
    return places[-1] if places else "arguments", f"{problem}; {elsewhere.get('args', 'name the others')}"


def _declaration(function: Callable[..., Any], name: str, problem: str, args: tuple[Any, ...]) -> DeclarationError:
    what = function.__qualname__.partition(".")[0].lower()
    of = f"{what} {args[0]!r}" if what == "task" and args else what
    return DeclarationError(f"{of}: {name}: {problem}")
